package broker_test

import (
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/farebeat/farebeat/broker"
)

// rejoin dials a session again and returns whether it was present.
func rejoin(t *testing.T, b *broker.Broker, o connect) (*raw, bool) {
	t.Helper()
	c, err := b.Dial(t.Context(), gatewayID("v1"))
	if err != nil {
		t.Fatal(err)
	}
	r, present, code := connectRaw(t, c, o)
	if code != 0 {
		t.Fatalf("refused with %d", code)
	}
	return r, present
}

// Sessions outlive the broker: subscriptions with their options, what waited, what was not acknowledged, and a replay that
// was not over. What was acknowledged does not come again, and clean sessions leave nothing.
func TestSessionsOutliveTheBroker(t *testing.T) {
	file := filepath.Join(t.TempDir(), "broker.db")
	command := func(i int) pub { return pub{root + "command/v1/c" + strconv.Itoa(i), "{}", 1, false} }
	fault := func(i int) pub { return pub{root + "vehicle/v1/fault/m" + strconv.Itoa(i), "open", 1, true} }
	kept := connect{id: "g", keep: true}
	synctest.Test(t, func(t *testing.T) {
		withStore(t, file, broker.Options{}, func(b *broker.Broker, _ *disk) {
			f := dial(t, b, fleetID, connect{id: "fleet"})
			for i := range 3 {
				f.mustPublish(fault(i))
			}
			g, present := rejoin(t, b, kept)
			if present {
				t.Error("a session of nobody")
			}
			g.subscribe(1, root+"command/v1/+", root+"vehicle/v1/fault/#")
			clean := dial(t, b, gatewayID("v1"), connect{id: "clean"})
			clean.subscribe(1, root+"command/v1/+")
			for i := range 3 {
				f.mustPublish(command(i))
			}
			synctest.Wait()
			for range 6 { // of which one is acknowledged
				pk, err := g.read()
				if err != nil {
					t.Fatal(err)
				}
				if pk.TopicName == command(0).topic {
					g.acknowledge(pk)
				}
			}
			g.ping()
			g.net.Close()
			synctest.Wait()
			f.mustPublish(command(3))
			time.Sleep(2 * time.Second)
		})
		withStore(t, file, broker.Options{}, func(b *broker.Broker, _ *disk) {
			g, present := rejoin(t, b, kept)
			if !present {
				t.Error("the session is gone")
			}
			got := map[string]int{}
			for _, pk := range g.all() {
				got[strings.TrimPrefix(pk.TopicName, root)]++
				g.acknowledge(pk)
			}
			for _, p := range []pub{command(1), command(2), command(3), fault(0), fault(1), fault(2)} {
				if n := got[strings.TrimPrefix(p.topic, root)]; n != 1 {
					t.Errorf("%s came %d times", p.topic, n)
				}
			}
			if len(got) != 6 {
				t.Errorf("came: %v", got)
			}
			f := dial(t, b, fleetID, connect{id: "fleet"})
			f.mustPublish(command(4))
			g.expect("command/v1/c4={}") // by a subscription that was not renewed
			if _, present := rejoin(t, b, connect{id: "clean", keep: true}); present {
				t.Error("a clean session outlived the broker")
			}
			synctest.Wait()
			time.Sleep(2 * time.Second)
		})
		withStore(t, file, broker.Options{}, func(b *broker.Broker, _ *disk) {
			g, present := rejoin(t, b, kept)
			if got := g.all(); !present || len(got) != 0 {
				t.Errorf("present %t, %d messages that were acknowledged", present, len(got))
			}
			f := dial(t, b, fleetID, connect{id: "fleet"})
			g.unsubscribe(root + "command/v1/+")
			f.mustPublish(command(5))
			g.bye()
			synctest.Wait()
			dial(t, b, gatewayID("v1"), connect{id: "other", keep: true}).bye()
			if _, present = rejoin(t, b, connect{id: "other"}); present { // clean: it is forgotten
				t.Error("a clean start found a session")
			}
		})
		withStore(t, file, broker.Options{}, func(b *broker.Broker, _ *disk) {
			f := dial(t, b, fleetID, connect{id: "fleet"})
			f.mustPublish(command(6))
			g, present := rejoin(t, b, kept)
			if got := g.all(); !present || len(got) != 0 {
				t.Errorf("present %t, %d messages of a subscription that was ended", present, len(got))
			}
			if _, present := rejoin(t, b, connect{id: "other", keep: true}); present {
				t.Error("a session that was ended is there")
			}
			g.bye()
		})
		time.Sleep(8 * 24 * time.Hour)
		withStore(t, file, broker.Options{}, func(b *broker.Broker, _ *disk) {
			if _, present := rejoin(t, b, kept); present {
				t.Error("the session did not expire")
			}
		})
	})
}

// all reads until nothing comes any more.
func (r *raw) all() []packets.Packet {
	r.t.Helper()
	var got []packets.Packet
	for {
		synctest.Wait()
		some := r.ping()
		if len(some) == 0 {
			return got
		}
		got = append(got, some...)
	}
}

// A broker that ends breaks connections; their wills are published by the next one, before anything new, and a goodbye
// still counts.
func TestWillsOutliveTheBroker(t *testing.T) {
	file := filepath.Join(t.TempDir(), "broker.db")
	gateway := func(v string) string { return root + "vehicle/" + v + "/gateway" }
	synctest.Test(t, func(t *testing.T) {
		withStore(t, file, broker.Options{}, func(b *broker.Broker, _ *disk) {
			for _, v := range []string{"v1", "v2", "v3"} {
				g := dial(t, b, gatewayID(v), connect{id: "g", will: &will{gateway(v), "dead", 1, true}})
				g.mustPublish(pub{gateway(v), "alive", 1, true})
				if v == "v2" {
					g.mustPublish(pub{gateway(v), "off", 1, true})
					g.bye()
				}
			}
		})
		for range 2 {
			withStore(t, file, broker.Options{}, func(b *broker.Broker, _ *disk) {
				synctest.Wait()
				r := dial(t, b, viewerID, connect{id: "r"})
				r.subscribe(1, root+"vehicle/#")
				got := map[string]string{}
				for _, pk := range r.all() {
					got[pk.TopicName] = string(pk.Payload)
				}
				if got[gateway("v1")] != "dead" || got[gateway("v2")] != "off" || got[gateway("v3")] == "alive" {
					t.Errorf("got %v", got)
				}
				g := dial(t, b, gatewayID("v3"), connect{id: "g", will: &will{gateway("v3"), "dead", 1, true}})
				g.mustPublish(pub{gateway("v3"), "back", 1, true})
				g.bye()
			})
		}
	})
}

// MQTT 5: properties and subscription identifiers outlive the broker, and so does an expiry.
func TestVersion5OutlivesTheBroker(t *testing.T) {
	file := filepath.Join(t.TempDir(), "broker.db")
	v5 := connect{id: "g", keep: true, version: 5} // kept for an hour
	synctest.Test(t, func(t *testing.T) {
		withStore(t, file, broker.Options{}, func(b *broker.Broker, _ *disk) {
			g, _ := rejoin(t, b, v5)
			pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, PacketID: 9, Properties: packets.Properties{SubscriptionIdentifier: []int{7}}}
			pk.Filters = packets.Subscriptions{{Filter: root + "vehicle/v1/fault/#", Qos: 1, RetainAsPublished: true, Identifier: 7}}
			g.send(pk)
			if _, err := g.read(); err != nil {
				t.Fatal(err)
			}
			g.bye()
			f := dial(t, b, fleetID, connect{id: "f", version: 5})
			f.send(packets.Packet{
				FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: 1, Retain: true}, TopicName: root + "vehicle/v1/fault/m1", PacketID: 1, Payload: []byte("open"),
				Properties: packets.Properties{ContentType: "application/json", User: []packets.UserProperty{{Key: "a", Val: "b"}}, CorrelationData: []byte{1, 0, 2}},
			})
			if ack, err := f.read(); err != nil || ack.FixedHeader.Type != packets.Puback || ack.ReasonCode != 0 {
				t.Fatalf("%v %v", ack, err)
			}
		})
		time.Sleep(30 * time.Minute)
		withStore(t, file, broker.Options{}, func(b *broker.Broker, _ *disk) {
			r := dial(t, b, viewerID, connect{id: "r", version: 5})
			r.subscribe(1, root+"vehicle/#")
			g, present := rejoin(t, b, v5)
			for who, pk := range map[string]packets.Packet{"newcomer": r.next(), "session": g.next()} {
				p := pk.Properties
				if text(pk) != "vehicle/v1/fault/m1=open" || p.ContentType != "application/json" || len(p.User) != 1 || len(p.CorrelationData) != 3 || !pk.FixedHeader.Retain {
					t.Errorf("%s: %s %+v", who, text(pk), p)
				}
				if subs := p.SubscriptionIdentifier; who == "session" && (!present || len(subs) != 1 || subs[0] != 7) {
					t.Errorf("%s: present %t, identifiers %v", who, present, subs)
				}
			}
			g.bye()
			synctest.Wait()
			time.Sleep(2 * time.Second)
		})
		time.Sleep(50 * time.Minute)
		withStore(t, file, broker.Options{}, func(b *broker.Broker, _ *disk) { time.Sleep(time.Minute) }) // does not begin the hour anew
		time.Sleep(10 * time.Minute)
		withStore(t, file, broker.Options{}, func(b *broker.Broker, _ *disk) {
			if _, present := rejoin(t, b, v5); present {
				t.Error("the session did not expire")
			}
		})
	})
}

// onDisk gives every broker of start a store.
var onDisk bool

// What holds for a broker in memory holds for one with a store.
func TestAgainOnDisk(t *testing.T) {
	onDisk = true
	defer func() { onDisk = false }()
	for name, test := range map[string]func(*testing.T){
		"tap": TestTapSeesHeartbeatsAndSessions, "takeover": TestTakeoverEndsUp, "wills": TestTakeoverKeepsWillBeforeBirth, "ids": TestClientIDsAreTheirOwners,
		"refused": TestRefusedPublishes, "will after refused": TestWillAfterRefusedPublish, "newcomer": TestNewcomerGetsEveryRetainedMessage,
		"stuck": TestStuckNewcomerDelaysNobody, "slow": TestSlowReadersAreBounded, "fleet": TestFleetLosesNothing, "again": TestUnacknowledgedComesAgain,
		"receive maximum": TestReceiveMaximum, "expiry": TestRetainedDoNotExpire, "clear": TestClear,
		"rights": TestTheWholeTableOverTheNetwork, "operators": TestNothingLeaksBetweenOperators,
	} {
		if name != "slow" || !underRace { // 33,000 messages, one by one
			t.Run(name, test)
		}
	}
}

func FuzzProperties(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0})
	f.Add([]byte{2, 11, 7})
	f.Add([]byte{2, 11, 0})
	f.Add([]byte{5, 3, 0, 2, 'a', 'b'})
	f.Add([]byte{3, 11, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, props []byte) {
		once, subs, err := broker.StoredAndBack(props)
		if err != nil {
			return
		}
		twice, again, err := broker.StoredAndBack(once)
		if err != nil || string(once) != string(twice) || len(subs) != len(again) {
			t.Errorf("%x became %x %v, then %x %v: %v", props, once, subs, twice, again, err)
		}
	})
}
