package broker_test

import (
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/farebeat/farebeat/broker"
	"github.com/farebeat/farebeat/topics"
)

func TestMain(m *testing.M) {
	if os.Getenv(envStore) != "" { // this is the child of TestKill
		if err := serveUntilKilled(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// inBubble runs a test on virtual time with a broker that is closed at the end.
func inBubble(t *testing.T, o broker.Options, test func(t *testing.T, b *broker.Broker)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := start(t, o)
		defer closeBroker(t, b)
		test(t, b)
	})
}

func TestTapSeesHeartbeatsAndSessions(t *testing.T) {
	var tap notes
	inBubble(t, broker.Options{Tap: &tap}, func(t *testing.T, b *broker.Broker) {
		beat := pub{topic: root + "machine/m1/heartbeat", payload: "{}"}
		m := dial(t, b, machineID("m1"), connect{id: "x"})
		m.mustPublish(beat)
		m.bye() // no loss
		m = dial(t, b, machineID("m1"), connect{id: "x"})
		m.net.Close()
		synctest.Wait()
		dial(t, b, machineID("m1"), connect{id: "x", keepAlive: 10})
		time.Sleep(16 * time.Second) // one and a half keep-alives
		synctest.Wait()
		tap.want(t, "up m1", "beat m1 {}", "up m1", "down m1: the connection was closed without a goodbye",
			"up m1", "down m1: nothing came within one and a half keep-alives")
		if s := b.Stats(); s.Heartbeats != 1 || s.Clients != 0 {
			t.Errorf("stats: %+v", s)
		}
	})
}

// A machine that connects again before its old line is noticed to be dead is up in the end, whether it
// keeps its session, its client id, or neither.
func TestTakeoverEndsUp(t *testing.T) {
	for name, second := range map[string]connect{
		"clean": {id: "x"}, "kept": {id: "x", keep: true}, "other id": {id: "y"},
	} {
		t.Run(name, func(t *testing.T) {
			var tap notes
			inBubble(t, broker.Options{Tap: &tap}, func(t *testing.T, b *broker.Broker) {
				old := dial(t, b, machineID("m1"), connect{id: "x", keep: second.keep})
				dial(t, b, machineID("m1"), second)
				synctest.Wait()
				old.net.Close()
				synctest.Wait()
				if second.id == "x" {
					tap.want(t, "up m1", "down m1: another connection took its place", "up m1")
				} else {
					tap.want(t, "up m1", "up m1")
				}
			})
		})
	}
}

// The will of a connection that is pushed out comes before anything of the one that pushed.
func TestTakeoverKeepsWillBeforeBirth(t *testing.T) {
	inBubble(t, broker.Options{}, func(t *testing.T, b *broker.Broker) {
		const gateway = root + "vehicle/v1/gateway"
		reader := dial(t, b, viewerID, connect{id: "r"})
		reader.subscribe(1, gateway)
		for range 5 {
			g := dial(t, b, gatewayID("v1"), connect{id: "g", will: &will{gateway, "dead", 1, true}})
			g.mustPublish(pub{gateway, "alive", 1, true})
		}
		reader.expect("vehicle/v1/gateway=alive")
		for range 4 {
			reader.expect("vehicle/v1/gateway=dead", "vehicle/v1/gateway=alive")
		}
	})
}

// The queue of a client that is away is not given to a stranger who says its client id.
func TestClientIDsAreTheirOwners(t *testing.T) {
	inBubble(t, broker.Options{}, func(t *testing.T, b *broker.Broker) {
		fault := pub{root + "vehicle/v1/fault/m1", "open", 1, true}
		owner := dial(t, b, gatewayID("v1"), connect{id: "same", keep: true})
		owner.subscribe(1, root+"vehicle/v1/fault/#")
		owner.bye()
		fleet := dial(t, b, fleetID, connect{id: "fleet"})
		fleet.mustPublish(fault)
		for _, id := range []topics.Identity{gatewayID("v2"), viewerID, {Role: topics.RoleViewer, Name: "v1"}, {Role: topics.RoleViewer, Name: "gateway/v1"}} {
			stranger := dial(t, b, id, connect{id: "same", keep: true})
			if got := stranger.ping(); len(got) != 0 {
				t.Errorf("%v was given %s", id, text(got[0]))
			}
		}
		owner = dial(t, b, gatewayID("v1"), connect{id: "same", keep: true})
		owner.expect("vehicle/v1/fault/m1=open")
		if s := b.Stats(); s.Clients != 6 {
			t.Errorf("%d clients, want 6: nobody pushed another out", s.Clients)
		}
	})
}

func TestRefusedPublishes(t *testing.T) {
	kinds := map[string]func(broker.Stats) uint64{
		"write": func(s broker.Stats) uint64 { return s.RefusedWrite }, "form": func(s broker.Stats) uint64 { return s.RefusedForm },
	}
	operator := topics.Identity{Role: topics.RoleOperator, Name: "o"}
	third := topics.Identity{Role: topics.RoleThirdParty, Name: "t"}
	for _, c := range []struct {
		name, kind string
		id         topics.Identity
		pub        pub
	}{
		{"another machine's heartbeat", "write", machineID("m1"), pub{topic: root + "machine/m2/heartbeat", payload: "{}"}},
		{"a machine's state by the machine", "write", machineID("m1"), pub{root + "machine/m1/state", "{}", 1, true}},
		{"another vehicle's gateway", "write", gatewayID("v1"), pub{root + "vehicle/v2/gateway", "{}", 1, true}},
		{"a heartbeat by a gateway", "write", gatewayID("v1"), pub{topic: root + "machine/v1/heartbeat", payload: "{}"}},
		{"a viewer writes", "write", viewerID, pub{root + "report/x", "{}", 1, false}},
		{"a third party writes", "write", third, pub{root + "event/major/x", "{}", 1, false}},
		{"an operator writes a fault", "write", operator, pub{root + "vehicle/v1/fault/m1", "{}", 1, true}},
		{"an admin writes a fault", "write", topics.Identity{Role: topics.RoleAdmin, Name: "a"}, pub{root + "vehicle/v1/fault/m1", "{}", 1, true}},
		{"another operator's tree", "write", fleetID, pub{"farebeat/v1/chicago/fleet", "{}", 1, true}},
		{"not in the tree", "write", fleetID, pub{root + "something/else", "{}", 1, true}},
		{"an id that is encoded otherwise", "write", fleetID, pub{root + "machine/%6D1/state", "{}", 1, true}},
		{"QoS 0 where 1 is asked", "form", fleetID, pub{root + "fleet", "{}", 0, true}},
		{"QoS 2", "form", fleetID, pub{root + "fleet", "{}", 2, true}},
		{"not retained", "form", fleetID, pub{root + "fleet", "{}", 1, false}},
		{"retained", "form", operator, pub{root + "report/x", "{}", 1, true}},
		{"too large", "form", fleetID, pub{root + "fleet", strings.Repeat("x", 1025), 1, true}},
		{"empty", "form", operator, pub{root + "report/x", "", 1, false}},
		{"a heartbeat too large", "form", machineID("m1"), pub{topic: root + "machine/m1/heartbeat", payload: strings.Repeat("x", 1025)}},
		{"a heartbeat retained", "form", machineID("m1"), pub{root + "machine/m1/heartbeat", "{}", 0, true}},
	} {
		for _, version := range []byte{4, 5} {
			t.Run(fmt.Sprintf("%s v%d", c.name, version), func(t *testing.T) {
				var tap notes
				inBubble(t, broker.Options{Tap: &tap}, func(t *testing.T, b *broker.Broker) {
					reader := dial(t, b, viewerID, connect{id: "r"})
					reader.subscribe(1, root+"#")
					w := dial(t, b, c.id, connect{id: "w", version: version})
					if err := w.publish(c.pub); err != nil {
						t.Fatal(err)
					}
					pk, err := packets.Packet{}, error(nil)
					if c.pub.qos > 0 { // it learns of it: reason code, or the end of the connection
						pk, err = w.read()
						if err == nil && pk.FixedHeader.Type == packets.Puback && pk.ReasonCode < 0x80 {
							t.Errorf("it was acknowledged")
						}
					} else {
						w.ping()
					}
					synctest.Wait()
					if got := reader.ping(); len(got) != 0 {
						t.Errorf("%s was delivered", text(got[0]))
					}
					s := b.Stats()
					if n := kinds[c.kind](s); n != 1 || s.RefusedWrite+s.RefusedForm != 1 || s.RefusedRead+s.RefusedConnect != 0 {
						t.Errorf("counted %+v, want one %s", s, c.kind)
					}
					if s.Retained != 0 || s.Heartbeats != 0 {
						t.Errorf("it is kept or taken: %+v", s)
					}
				})
			})
		}
	}
}

// A QoS-1 publish that is refused ends the connection of a 3.1.1 client, and that is no goodbye.
func TestWillAfterRefusedPublish(t *testing.T) {
	inBubble(t, broker.Options{}, func(t *testing.T, b *broker.Broker) {
		reader := dial(t, b, viewerID, connect{id: "r"})
		reader.subscribe(1, root+"vehicle/#")
		for i, bad := range []pub{
			{root + "vehicle/v1/gateway", "x", 1, false},
			{root + "vehicle/v2/gateway", "x", 1, true},
			{root + "vehicle/v1/gateway", "x", 2, true},
		} {
			w := dial(t, b, gatewayID("v1"), connect{id: "g", will: &will{root + "vehicle/v1/gateway", fmt.Sprint("dead ", i), 1, true}})
			if err := w.publish(bad); err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, w.in)
			reader.expect(fmt.Sprint("vehicle/v1/gateway=dead ", i))
		}
	})
}

func TestRefusedWills(t *testing.T) {
	const mine = root + "vehicle/v1/gateway"
	for name, c := range map[string]connect{
		"another's topic": {will: &will{root + "vehicle/v2/gateway", "x", 1, true}},
		"QoS 0":           {will: &will{mine, "x", 0, true}},
		"QoS 2":           {will: &will{mine, "x", 2, true}},
		"not retained":    {will: &will{mine, "x", 1, false}},
		"too large":       {will: &will{root + "fleet", strings.Repeat("x", 1025), 1, true}},
		"not in the tree": {will: &will{"x", "x", 1, true}},
		"delayed":         {will: &will{mine, "x", 1, true}, willDelay: 5, version: 5},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, broker.Options{}, func(t *testing.T, b *broker.Broker) {
				c.id = "g"
				id := gatewayID("v1")
				if c.will.topic == root+"fleet" {
					id = fleetID
				}
				conn, err := b.Dial(t.Context(), id)
				if err != nil {
					t.Fatal(err)
				}
				if _, code := join(t, conn, c); code == 0 {
					t.Error("admitted")
				}
				if s := b.Stats(); name != "QoS 2" && s.RefusedConnect != 1 {
					t.Errorf("counted %d", s.RefusedConnect)
				}
			})
		})
	}
}

func TestReadTable(t *testing.T) {
	third := topics.Identity{Role: topics.RoleThirdParty, Name: "t", Grants: []string{"vehicle/v1/recovery/#"}}
	for _, c := range []struct {
		id     topics.Identity
		yes    []string
		no     []string
		common bool // reads the whole tree
	}{
		{fleetID, []string{"#", "machine/+/state"}, nil, true},
		{topics.Identity{Role: topics.RoleOperator, Name: "o"}, []string{"#"}, nil, true},
		{topics.Identity{Role: topics.RoleAdmin, Name: "a"}, []string{"#"}, nil, true},
		{viewerID, []string{"#", "vehicle/+/transactions/#"}, nil, true},
		{machineID("m1"), []string{"fleet"}, []string{"#", "+", "machine/m1/heartbeat", "machine/m1/#", "route/#", "vehicle/#"}, false},
		{
			gatewayID("v1"),
			[]string{"vehicle/v1/fault/#", "vehicle/v1/receipt/m1", "command/v1/+", "fleet"},
			[]string{"#", "vehicle/v2/fault/#", "vehicle/+/fault/+", "vehicle/v1/#", "command/+/+", "machine/+/heartbeat"},
			false,
		},
		{
			third,
			[]string{"route/#", "vehicle/+/fault/+", "event/#", "fleet", "vehicle/v1/recovery/#", "vehicle/v1/recovery/m1"},
			[]string{"#", "machine/+/heartbeat", "vehicle/v2/recovery/m1", "vehicle/+/recovery/#", "vehicle/#", "report/#"},
			false,
		},
		{topics.Identity{Role: topics.RoleSimulator, Name: "s"}, []string{"vehicle/+/fault/+", "fleet"}, []string{"#", "vehicle/+/transactions/#"}, false},
	} {
		t.Run(string(c.id.Role), func(t *testing.T) {
			inBubble(t, broker.Options{}, func(t *testing.T, b *broker.Broker) {
				r := dial(t, b, c.id, connect{id: "r"})
				for _, f := range c.yes {
					if code, _ := r.subscribe(1, root+f); code[0] != 1 {
						t.Errorf("%s: %#x, want it granted", f, code[0])
					}
				}
				refused := []string{"#", "+/#", "$SYS/#", "$SYS/broker/uptime", "$share/g/" + root + "fleet", "farebeat/v1/chicago/#", "farebeat/v1/+/fleet", "farebeat/#"}
				for _, f := range c.no {
					refused = append(refused, root+f)
				}
				for _, f := range refused {
					if code, _ := r.subscribe(1, f); code[0] != 0x80 {
						t.Errorf("%s: %#x, want it refused", f, code[0])
					}
				}
				if n := b.Stats().RefusedRead; n != uint64(len(refused)) {
					t.Errorf("%d refusals counted, want %d", n, len(refused))
				}
				if code, _ := r.subscribe(2, root+"fleet"); code[0] != 1 {
					t.Errorf("QoS 2 granted as %d, want 1", code[0])
				}
			})
		})
	}
}

// A healthy run drops and refuses nothing, and says so on the registry.
func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	inBubble(t, broker.Options{Registry: reg}, func(t *testing.T, b *broker.Broker) {
		r := dial(t, b, viewerID, connect{id: "r"})
		r.subscribe(1, root+"#")
		f := dial(t, b, fleetID, connect{id: "fleet"})
		f.mustPublish(pub{root + "fleet", "{}", 1, true})
		dial(t, b, machineID("m1"), connect{id: "m"}).mustPublish(pub{topic: root + "machine/m1/heartbeat", payload: "{}"})
		r.expect("fleet={}", "machine/m1/heartbeat={}")
		want := map[string]float64{"clients": 3, "retained_messages": 1, "published_total": 2, "heartbeats_total": 1}
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]int{}
		for _, fam := range families {
			name := strings.TrimPrefix(fam.GetName(), "farebeat_broker_")
			for _, m := range fam.GetMetric() {
				seen[name]++
				if got := m.GetGauge().GetValue() + m.GetCounter().GetValue(); got != want[name] {
					t.Errorf("%s %v is %v, want %v", name, m.GetLabel(), got, want[name])
				}
			}
		}
		if len(seen) != 7 || seen["limited_total"] != len(b.Limited()) || seen["dropped_total"] != 3 || seen["refused_total"] != 4 {
			t.Errorf("metrics: %v", seen)
		}
	})
	if _, err := broker.New(broker.Options{Tree: tampa(t), Registry: reg}); err == nil {
		t.Error("a second broker on one registry")
	}
}

func TestLifeCycle(t *testing.T) {
	b, err := broker.New(broker.Options{Tree: tampa(t)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Dial(t.Context(), fleetID); err == nil || err.Error() != "dial broker: the broker is not running" {
		t.Errorf("dial before start: %v", err)
	}
	for range 2 {
		closeBroker(t, b)
	}
	if err := b.Start(t.Context()); err == nil {
		t.Error("started after Close")
	}
	if _, err := broker.New(broker.Options{}); err == nil {
		t.Error("a broker without a tree")
	}
}
