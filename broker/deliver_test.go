package broker_test

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/farebeat/farebeat/broker"
	"github.com/farebeat/farebeat/topics/session"
)

// retain publishes the state of n machines, as fast as they are acknowledged.
func retain(t testing.TB, b *broker.Broker, n int, value string) {
	t.Helper()
	f := dial(t, b, fleetID, connect{id: "filler"})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range n {
			if _, err := f.read(); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	for i := range n {
		if err := f.publish(pub{root + "machine/m" + strconv.Itoa(i) + "/state", value, 1, true}); err != nil {
			t.Fatal(err)
		}
	}
	<-done
	f.bye()
}

// A newcomer gets every retained message, however many: over a plain client and over our own session, by one filter or
// by two that overlap; and while the state changes nothing older follows something newer.
func TestNewcomerGetsEveryRetainedMessage(t *testing.T) {
	const n = 5_000
	inBubble(t, broker.Options{}, func(t *testing.T, b *broker.Broker) {
		retain(t, b, n, "1")
		var changes sync.WaitGroup
		stop := make(chan struct{})
		changes.Go(func() {
			f := dial(t, b, fleetID, connect{id: "changer"})
			for v := 2; v < 1000; v++ {
				select {
				case <-stop:
					return
				default:
					f.mustPublish(pub{root + "machine/m" + strconv.Itoa(v%7) + "/state", strconv.Itoa(v), 1, true})
				}
			}
		})
		r := dial(t, b, viewerID, connect{id: "r"})
		_, early := r.subscribe(1, root+"machine/+/state")
		seen := map[string]int{}
		note := func(pk packets.Packet) {
			v, err := strconv.Atoi(string(pk.Payload))
			if err != nil || v < seen[pk.TopicName] {
				t.Fatalf("%s after %d", text(pk), seen[pk.TopicName])
			}
			seen[pk.TopicName] = v
		}
		for _, pk := range early {
			note(pk)
			r.acknowledge(pk)
		}
		for len(seen) < n {
			note(r.next())
		}
		close(stop)
		changes.Wait()

		var got sync.Map
		var count atomic.Int64
		s, err := session.New(session.Options{ClientID: "s", CleanSession: true, Dial: dialer(b)})
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range []string{"machine/+/state", "#"} {
			s.Handle(root+f, 1, func(_ context.Context, d *session.Delivery) error {
				if _, twice := got.LoadOrStore(d.Topic, true); !twice {
					count.Add(1)
				}
				return nil
			})
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		time.Sleep(time.Minute)
		if count.Load() != n {
			t.Errorf("the session got %d of %d", count.Load(), n)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		r.net.Close()
		time.Sleep(time.Minute) // lets paho's timers run out
		if s := b.Stats(); s.PublishDropped+s.QosDropped+s.InflightFull != 0 || s.Retained != n {
			t.Errorf("dropped: %+v", s)
		}
	})
}

// A newcomer that reads nothing delays nobody else.
func TestStuckNewcomerDelaysNobody(t *testing.T) {
	inBubble(t, broker.Options{}, func(t *testing.T, b *broker.Broker) {
		retain(t, b, 500, "1")
		stuck := dial(t, b, viewerID, connect{id: "stuck"})
		stuck.subscribe(1, root+"#") // and reads no more
		r := dial(t, b, viewerID, connect{id: "r"})
		r.subscribe(1, root+"event/#")
		f := dial(t, b, fleetID, connect{id: "f"})
		for i := range 30 {
			f.mustPublish(pub{root + "event/major/x", fmt.Sprint(i), 1, false})
			r.expect(fmt.Sprint("event/major/x=", i))
		}
	})
}

// What waits for a client that reads nothing is bounded and what is beyond is counted; the same for one that is away.
func TestSlowReadersAreBounded(t *testing.T) {
	const bound, more = 16_384, 100
	for _, away := range []bool{false, true} {
		t.Run(fmt.Sprint("away=", away), func(t *testing.T) {
			inBubble(t, broker.Options{}, func(t *testing.T, b *broker.Broker) {
				r := dial(t, b, viewerID, connect{id: "r", keep: true})
				r.subscribe(1, root+"machine/#")
				if away {
					r.bye()
				}
				retain(t, b, bound+more, "1")
				s := b.Stats()
				if got := s.PublishDropped + s.InflightFull; got > more || got < more-2 || away != (s.InflightFull > 0) {
					t.Errorf("dropped %+v, want %d or, if one is on its way, one less", s, more)
				}
			})
		})
	}
}

// The fleet in the process loses nothing: its publishers wait.
func TestFleetLosesNothing(t *testing.T) {
	const n = 11_000
	inBubble(t, broker.Options{}, func(t *testing.T, b *broker.Broker) {
		f := dial(t, b, fleetID, connect{id: "fleet"})
		f.subscribe(1, root+"vehicle/+/recovery/+")
		var sent atomic.Int64
		var gateways sync.WaitGroup
		for v := range 10 {
			gateways.Go(func() {
				id := "v" + strconv.Itoa(v)
				g := dial(t, b, gatewayID(id), connect{id: "g"})
				for i := range n / 10 {
					g.mustPublish(pub{root + "vehicle/" + id + "/recovery/m1", strconv.Itoa(i), 1, true})
					sent.Add(1)
				}
			})
		}
		synctest.Wait()
		if s := sent.Load(); s > 9_000 {
			t.Errorf("%d acknowledged while the fleet reads nothing", s)
		}
		last := map[string]int{}
		for range n {
			pk := f.next()
			v, _ := strconv.Atoi(string(pk.Payload))
			if want := last[pk.TopicName]; v != want {
				t.Fatalf("%s, want %d", text(pk), want)
			}
			last[pk.TopicName]++
		}
		gateways.Wait()
		if s := b.Stats(); s.PublishDropped+s.QosDropped+s.InflightFull != 0 {
			t.Errorf("dropped: %+v", s)
		}
	})
}

// What was not acknowledged comes again, first and in order, marked as a duplicate; the client's own packet identifiers
// have nothing to do with it.
func TestUnacknowledgedComesAgain(t *testing.T) {
	inBubble(t, broker.Options{}, func(t *testing.T, b *broker.Broker) {
		g := dial(t, b, gatewayID("v1"), connect{id: "g", keep: true})
		g.subscribe(1, root+"command/v1/+")
		f := dial(t, b, fleetID, connect{id: "f"})
		command := func(i int) pub { return pub{root + "command/v1/c" + strconv.Itoa(i), "{}", 1, false} }
		for i := range 5 {
			f.mustPublish(command(i))
			if _, err := g.read(); err != nil { // not acknowledged
				t.Fatal(err)
			}
		}
		for range 5 {
			g.mustPublish(pub{root + "vehicle/v1/gateway", "{}", 1, true})
		}
		g.net.Close()
		synctest.Wait()
		f.mustPublish(command(5))
		for range 2 { // twice, for nothing is acknowledged the first time either
			g = dial(t, b, gatewayID("v1"), connect{id: "g", keep: true})
			for i := range 6 {
				pk, err := g.read()
				if err != nil || pk.TopicName != command(i).topic || i < 5 && !pk.FixedHeader.Dup {
					t.Fatalf("%s dup=%t %v, want command %d", text(pk), pk.FixedHeader.Dup, err, i)
				}
			}
			if got := g.ping(); len(got) != 0 {
				t.Errorf("also %s", text(got[0]))
			}
			if code, _ := g.subscribe(1, root+"fleet"); code[0] != 1 {
				t.Errorf("subscribe: %#x", code[0])
			}
			g.net.Close()
			synctest.Wait()
		}
	})
}

// MQTT 5: a client that takes two messages at a time gets all, two at a time.
func TestReceiveMaximum(t *testing.T) {
	inBubble(t, broker.Options{}, func(t *testing.T, b *broker.Broker) {
		retain(t, b, 50, "1")
		r := dial(t, b, viewerID, connect{id: "r", version: 5, receiveMaximum: 2})
		_, open := r.subscribe(1, root+"#")
		for got := 0; got < 50; {
			synctest.Wait()
			open = append(open, r.ping()...)
			if len(open) == 0 || len(open) > 2 {
				t.Fatalf("%d unacknowledged after %d", len(open), got)
			}
			for _, pk := range open {
				r.acknowledge(pk)
			}
			got += len(open)
			open = nil
		}
	})
}

// MQTT 5: retained messages stay, whatever their writer says.
func TestRetainedDoNotExpire(t *testing.T) {
	inBubble(t, broker.Options{}, func(t *testing.T, b *broker.Broker) {
		g := dial(t, b, gatewayID("v1"), connect{id: "g", version: 5})
		pk := packets.Packet{
			FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: 1, Retain: true}, TopicName: root + "vehicle/v1/gateway", PacketID: 1, Payload: []byte("{}"),
			Properties: packets.Properties{MessageExpiryInterval: 1, ContentType: "application/json"},
		}
		g.send(pk)
		if ack, err := g.read(); err != nil || ack.ReasonCode != 0 {
			t.Fatalf("%v %v", ack, err)
		}
		time.Sleep(10 * time.Second) // Mochi looks every second
		r := dial(t, b, viewerID, connect{id: "r", version: 5})
		r.subscribe(1, root+"vehicle/#")
		got := r.next()
		if text(got) != "vehicle/v1/gateway={}" || got.Properties.MessageExpiryInterval != 0 || got.Properties.ContentType != "application/json" || !got.FixedHeader.Retain {
			t.Errorf("got %s with %+v", text(got), got.Properties)
		}
	})
}

// Clearing a topic forgets it, and tells those who are there.
func TestClear(t *testing.T) {
	inBubble(t, broker.Options{}, func(t *testing.T, b *broker.Broker) {
		g := dial(t, b, gatewayID("v1"), connect{id: "g"})
		r := dial(t, b, viewerID, connect{id: "r"})
		r.subscribe(1, root+"vehicle/#")
		r.ping()
		topic := root + "vehicle/v1/transactions/m1/1-1-2"
		g.mustPublish(pub{topic, "{}", 1, true})
		g.mustPublish(pub{topic, "", 1, true})
		r.expect("vehicle/v1/transactions/m1/1-1-2={}", "vehicle/v1/transactions/m1/1-1-2=")
		late := dial(t, b, viewerID, connect{id: "late"})
		late.subscribe(1, root+"#")
		synctest.Wait()
		if got := late.ping(); len(got) != 0 || b.Stats().Retained != 0 {
			t.Errorf("kept: %v", got)
		}
	})
}

// A machine's connection costs little memory.
func TestMemoryOfAConnection(t *testing.T) {
	inBubble(t, broker.Options{}, func(t *testing.T, b *broker.Broker) {
		const n = 500
		dial(t, b, machineID("first"), connect{id: "m"})
		before := heap()
		for i := range n {
			dial(t, b, machineID(strconv.Itoa(i)), connect{id: "m"})
		}
		synctest.Wait()
		if each := (heap() - before) / n; each > 64<<10 {
			t.Errorf("%d bytes each, client included", each)
		} else {
			t.Logf("%d bytes each, client included", each)
		}
	})
}
