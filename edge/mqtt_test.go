package edge

import (
	"context"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/farebeat/farebeat/broker" //nolint:depguard // the real broker, in a test
	"github.com/farebeat/farebeat/edge/outbox"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
	"github.com/farebeat/farebeat/topics/session"
)

// realBroker is a broker with the hub as its fleet, over real MQTT sessions.
type realBroker struct {
	t      *testing.T
	hub    *hub
	broker *broker.Broker
	conns  []net.Conn // of the gateway
	end    func()
}

func newRealBroker(t *testing.T, h *hub) *realBroker {
	b, err := broker.New(broker.Options{Tree: h.tree})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	if err := b.Start(ctx); err != nil {
		t.Fatal(err)
	}
	rb := &realBroker{t: t, hub: h, broker: b}
	h.relay = make(chan Message, 1000)
	up := make(chan struct{})
	fleet, err := session.New(session.Options{
		ClientID: "fleet", Up: func() { close(up) },
		Dial: func(ctx context.Context) (net.Conn, error) {
			return b.Dial(ctx, topics.Identity{Role: topics.RoleFleet, Name: "fleet"})
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	fleet.Handle(root+"vehicle/#", 1, func(_ context.Context, d *session.Delivery) error {
		to, err := h.tree.Parse(d.Topic)
		if err != nil || slices.Contains([]topics.Kind{topics.VehicleFault, topics.Receipt, topics.Ticket}, to.Kind) {
			return err // its own
		}
		h.do(func() { h.take(Message{Topic: d.Topic, QoS: 1, Retain: true, Payload: slices.Clone(d.Payload)}) })
		return nil
	})
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := fleet.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	wg.Go(func() {
		<-up
		for m := range h.relay {
			if err := fleet.Publish(ctx, session.Message(m)); err != nil {
				t.Error(err)
			}
		}
	})
	rb.end = func() {
		close(h.relay)
		cancel()
		wg.Wait()
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
	return rb
}

// connect is OverMQTT to the real broker.
func (rb *realBroker) connect(hooks BusHooks) (Bus, error) {
	return OverMQTT("bus-1", session.Options{Dial: func(ctx context.Context) (net.Conn, error) {
		c, err := rb.broker.Dial(ctx, topics.Identity{Role: topics.RoleGateway, Name: "bus-1"})
		if err == nil {
			rb.hub.do(func() { rb.conns = append(rb.conns, c) })
		}
		return c, err
	}})(hooks)
}

// The agent against the real broker and real sessions, through a lost connection.
func TestOverMQTT(t *testing.T) {
	m := newMachine("m-1")
	m.tap(t, 3, 450)
	dir := quickDir(t)
	synctest.Test(t, func(t *testing.T) {
		defer synctest.Wait()
		h := newHub(t, map[string][]byte{"m-1": m.key})
		rb := newRealBroker(t, h)
		r := &rig{t: t, hub: h, air: newTestAir(), path: filepath.Join(dir, "outbox.db"), tune: func(o *Options) { o.Connect = rb.connect }}
		defer r.air.close([]*machine{m})
		r.air.put(m)
		h.fleet(true, 1)
		h.fault(fault("m-1", 450, 0))
		r.start()
		defer func() { r.stop(); rb.end() }() // also when the test gave up
		r.wait(time.Minute, "the gateway's birth", func() bool { return h.gateway().Status == schemas.Online })
		first := h.gateway().Session
		h.do(func() {
			for _, c := range rb.conns {
				if err := c.Close(); err != nil {
					t.Error(err)
				}
			}
		})
		r.wait(time.Minute, "another birth", func() bool { g := h.gateway(); return g.Status == schemas.Online && g.Session > first })
		r.home(m, 450, time.Minute)
		r.wait(time.Minute, "the word on it", func() bool { return h.recovery("m-1").State == schemas.RecoveryComplete })
		r.stop()
		r.wait(time.Minute, "the farewell", func() bool { return h.gateway().Status == schemas.Offline })
		h.check()
	})
}

func TestOverMQTTWithoutAServer(t *testing.T) {
	h := newHub(t, nil)
	box, err := outbox.Open(t.Context(), filepath.Join(t.TempDir(), "outbox.db"), outbox.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer box.Close()
	_, err = New(Options{Vehicle: "bus-1", Tree: h.tree, Connect: OverMQTT("bus-1", session.Options{}), Radio: newTestAir().radio(), Outbox: box})
	if err == nil || !strings.Contains(err.Error(), "make the MQTT session") {
		t.Fatalf("error %v", err)
	}
}
