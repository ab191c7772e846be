package session_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
	"go.uber.org/goleak"

	"github.com/farebeat/farebeat/broker"
	"github.com/farebeat/farebeat/topics"
	"github.com/farebeat/farebeat/topics/session"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const root = "farebeat/v1/tampa/"

// house is a real broker and the connections that a test may cut.
type house struct {
	t      *testing.T
	broker *broker.Broker
	ctx    context.Context
	end    context.CancelFunc
	wg     sync.WaitGroup
}

func newHouse(t *testing.T) *house {
	t.Helper()
	tree, err := topics.New("tampa")
	if err != nil {
		t.Fatal(err)
	}
	b, err := broker.New(broker.Options{Tree: tree, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	h := &house{t: t, broker: b}
	h.ctx, h.end = context.WithCancel(context.Background())
	return h
}

// close ends every session, then the broker.
func (h *house) close() {
	h.end()
	h.wg.Wait()
	if err := h.broker.Close(); err != nil {
		h.t.Error(err)
	}
	time.Sleep(time.Minute) // virtual: lets paho's timers run out
}

// dialer dials as an identity and remembers the last connection for cutting.
type dialer struct {
	h    *house
	id   topics.Identity
	last atomic.Pointer[net.Conn]
	down atomic.Bool
}

func (d *dialer) dial(ctx context.Context) (net.Conn, error) {
	if d.down.Load() {
		return nil, errors.New("no route to host")
	}
	c, err := d.h.broker.Dial(ctx, d.id)
	if err == nil {
		d.last.Store(&c)
	}
	return c, err
}

func (d *dialer) cut() { (*d.last.Load()).Close() }

func (h *house) run(s *session.Session) {
	h.wg.Go(func() {
		if err := s.Run(h.ctx); err != nil {
			h.t.Error(err)
		}
	})
}

func mustNew(t *testing.T, o session.Options) *session.Session {
	t.Helper()
	s, err := session.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func fixed(topic, payload string) session.Announcer {
	return func(context.Context) (session.Message, error) {
		return session.Message{Topic: topic, QoS: 1, Retain: true, Payload: []byte(payload)}, nil
	}
}

var (
	fleetID   = topics.Identity{Role: topics.RoleFleet, Name: "fleet"}
	gatewayID = topics.Identity{Role: topics.RoleGateway, Name: "01216"}
)

// notes collects what handlers saw.
type notes struct {
	mu    sync.Mutex
	lines []string
}

func (n *notes) add(s string) { n.mu.Lock(); n.lines = append(n.lines, s); n.mu.Unlock() }
func (n *notes) all() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.lines)
}

func (n *notes) handler(_ context.Context, d *session.Delivery) error {
	n.add(strings.TrimPrefix(d.Topic, root) + "=" + string(d.Payload))
	return nil
}

// The will after a cut, the birth of each connection, the farewell of the last one: in that order.
func TestBirthWillFarewell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		var seen notes
		watcher := mustNew(t, session.Options{ClientID: "fleet", Dial: (&dialer{h: h, id: fleetID}).dial})
		watcher.Handle(root+"vehicle/+/gateway", 1, seen.handler)
		h.run(watcher)
		synctest.Wait()

		d := &dialer{h: h, id: gatewayID}
		var number atomic.Int32
		var updown notes
		s := mustNew(t, session.Options{
			ClientID: "gateway", Dial: d.dial,
			Will: func(ctx context.Context) (session.Message, error) {
				return fixed(root+"vehicle/01216/gateway", fmt.Sprintf("broken %d", number.Add(1)))(ctx)
			},
			Birth: func(ctx context.Context) (session.Message, error) {
				return fixed(root+"vehicle/01216/gateway", fmt.Sprintf("online %d", number.Load()))(ctx)
			},
			Farewell: fixed(root+"vehicle/01216/gateway", "offline"),
			Up:       func() { updown.add("up") },
			Down:     func(error) { updown.add("down") },
		})
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		synctest.Wait()
		if !s.Connected() {
			t.Fatal("not connected to a broker that is there")
		}
		d.cut()
		time.Sleep(10 * time.Second)
		stop()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		want := []string{"online 1", "broken 1", "online 2", "offline"}
		for i := range want {
			want[i] = "vehicle/01216/gateway=" + want[i]
		}
		if got := seen.all(); !slices.Equal(got, want) {
			t.Errorf("the fleet saw %q, want %q", got, want)
		}
		if got := updown.all(); !slices.Equal(got, []string{"up", "down", "up", "down"}) {
			t.Errorf("hooks: %q", got)
		}
		h.close()
	})
}

// A handler's failure keeps the message: it is called again while connected, and the broker sends the
// message again after a cut.
func TestFailedHandlerKeepsTheMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		d := &dialer{h: h, id: fleetID}
		var calls, duplicates atomic.Int32
		var broken atomic.Bool
		broken.Store(true)
		s := mustNew(t, session.Options{ClientID: "fleet", Dial: d.dial})
		s.Handle(root+"vehicle/+/recovery/+", 1, func(_ context.Context, del *session.Delivery) error {
			calls.Add(1)
			if broken.Load() {
				return errors.New("disk full")
			}
			if del.Duplicate {
				duplicates.Add(1)
			}
			return nil
		})
		h.run(s)
		g := mustNew(t, session.Options{ClientID: "g", Dial: (&dialer{h: h, id: gatewayID}).dial})
		h.run(g)
		synctest.Wait()
		err := g.Publish(t.Context(), session.Message{Topic: root + "vehicle/01216/recovery/7", QoS: 1, Retain: true, Payload: []byte("x")})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		if n := calls.Load(); n < 3 {
			t.Errorf("the failing handler was called %d times in 5 s, want it tried again", n)
		}
		d.cut()
		broken.Store(false)
		time.Sleep(30 * time.Second)
		if s.Stats().Handled == 0 || duplicates.Load() == 0 {
			t.Errorf("after the cut: handled %d, of them sent again by the broker %d; want both", s.Stats().Handled, duplicates.Load())
		}
		h.close()
	})
}

// A handler may publish and wait, also while more comes in than may wait.
func TestHandlerPublishesUnderFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		const n = 500
		s := mustNew(t, session.Options{ClientID: "fleet", Dial: (&dialer{h: h, id: fleetID}).dial, MaxWaiting: 1})
		s.Handle(root+"vehicle/+/recovery/+", 1, func(ctx context.Context, d *session.Delivery) error {
			machine := d.Topic[strings.LastIndexByte(d.Topic, '/')+1:]
			return s.Publish(ctx, session.Message{Topic: root + "machine/" + machine + "/state", QoS: 1, Retain: true, Payload: d.Payload})
		})
		h.run(s)
		g := mustNew(t, session.Options{ClientID: "g", Dial: (&dialer{h: h, id: gatewayID}).dial})
		h.run(g)
		synctest.Wait()
		began := time.Now()
		for i := range n {
			topic := fmt.Sprintf("%svehicle/01216/recovery/%d", root, i)
			if err := g.Publish(t.Context(), session.Message{Topic: topic, QoS: 1, Retain: true, Payload: []byte("x")}); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if got := s.Stats(); got.Handled != n || got.Failed != 0 || got.Connects != 1 || time.Since(began) > 0 {
			t.Errorf("%d messages: %+v after %s; want all handled at once, on one connection", n, got, time.Since(began))
		}
		h.close()
	})
}

// While the broker is away Publish fails at once, and the session comes back by itself.
func TestPublishWhileDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		d := &dialer{h: h, id: gatewayID}
		d.down.Store(true)
		s := mustNew(t, session.Options{ClientID: "g", Dial: d.dial})
		h.run(s)
		time.Sleep(10 * time.Minute)
		began := time.Now()
		err := s.Publish(t.Context(), session.Message{Topic: root + "vehicle/01216/gateway", QoS: 1, Retain: true, Payload: []byte("x")})
		if !errors.Is(err, session.ErrNotConnected) || time.Since(began) > 0 {
			t.Errorf("got %v after %s, want ErrNotConnected at once", err, time.Since(began))
		}
		if n := s.Stats().Refused; n < 10 || n > 40 {
			t.Errorf("%d attempts in ten minutes, want one every half a minute or so", n)
		}
		d.down.Store(false)
		time.Sleep(time.Minute)
		if !s.Connected() {
			t.Error("not back a minute after the broker was")
		}
		h.close()
	})
}

// paho reports no error for a refused filter: we must, and must not call ourselves connected.
func TestRefusedSubscription(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		s := mustNew(t, session.Options{ClientID: "g", Dial: (&dialer{h: h, id: gatewayID}).dial})
		s.Handle(root+"vehicle/01216/fault/+", 1, new(notes).handler)
		s.Handle(root+"vehicle/99999/fault/+", 1, new(notes).handler) // another vehicle's
		h.run(s)
		time.Sleep(time.Minute)
		if s.Connected() || s.Stats().Connects != 0 || s.Stats().Refused == 0 {
			t.Errorf("connected %t, %+v; want attempts that all fail", s.Connected(), s.Stats())
		}
		h.close()
	})
}

// scripted serves one connection after another with packets by hand: for brokers that misbehave, which a real one
// cannot be asked to.
func scripted(t *testing.T, serve func(net.Conn)) func(context.Context) (net.Conn, error) {
	t.Helper()
	return func(context.Context) (net.Conn, error) {
		client, server := net.Pipe()
		go func() { defer server.Close(); serve(server) }()
		return client, nil
	}
}

func accept(c net.Conn) bool {
	if _, err := packets.ReadPacket(c); err != nil {
		return false
	}
	return packets.NewControlPacket(packets.Connack).Write(c) == nil
}

// grant answers a SUBSCRIBE of one filter.
func grant(c net.Conn) {
	p, err := packets.ReadPacket(c)
	if sub, ok := p.(*packets.SubscribePacket); err == nil && ok {
		ack := packets.NewControlPacket(packets.Suback).(*packets.SubackPacket)
		ack.MessageID, ack.ReturnCodes = sub.MessageID, []byte{1}
		_ = ack.Write(c)
	}
}

func drain(c net.Conn) {
	for {
		if _, err := packets.ReadPacket(c); err != nil {
			return
		}
	}
}

// Whatever becomes of the connection, a message that was not acknowledged is never called sent.
func TestNoAcknowledgementIsNoSuccess(t *testing.T) {
	message := session.Message{Topic: "a", QoS: 1, Payload: []byte("x")}
	for _, tc := range []struct {
		name  string
		clean bool
		serve func(net.Conn)
	}{
		{"cut after the publish, clean session", true, func(c net.Conn) { accept(c); _, _ = packets.ReadPacket(c) }},
		{"cut after the publish, kept session", false, func(c net.Conn) { accept(c); grant(c); _, _ = packets.ReadPacket(c) }},
		{"silent for ever", true, func(c net.Conn) { accept(c); drain(c) }},
		{"another packet's acknowledgement", true, func(c net.Conn) {
			accept(c)
			_, _ = packets.ReadPacket(c)
			ack := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
			ack.MessageID = 4711
			_ = ack.Write(c)
			drain(c)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := mustNew(t, session.Options{ClientID: "c", CleanSession: tc.clean, Dial: scripted(t, tc.serve)})
				if !tc.clean {
					s.Handle("b", 1, new(notes).handler) // without a handler nothing is kept
				}
				ctx, stop := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- s.Run(ctx) }()
				synctest.Wait()
				pctx, cancel := context.WithTimeout(ctx, 5*time.Second)
				defer cancel()
				began := time.Now()
				if err := s.Publish(pctx, message); !errors.Is(err, session.ErrUnconfirmed) {
					t.Errorf("got %v, want ErrUnconfirmed", err)
				}
				// paho never completes the token of a kept session whose connection is cut.
				if cut := strings.HasPrefix(tc.name, "cut"); cut && time.Since(began) > 0 {
					t.Errorf("the cut was told after %s, want at once", time.Since(began))
				}
				stop()
				if err := <-done; err != nil {
					t.Error(err)
				}
				time.Sleep(time.Minute)
			})
		})
	}
}

// A line that died without a word is noticed by the keep-alive.
func TestSilentBrokerIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Int64
		began := time.Now()
		s := mustNew(t, session.Options{
			ClientID: "c", CleanSession: true, KeepAlive: 30 * time.Second,
			Dial: scripted(t, func(c net.Conn) { accept(c); drain(c) }),
			Down: func(error) { down.CompareAndSwap(0, int64(time.Since(began))) },
		})
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		time.Sleep(2 * time.Minute)
		if d := time.Duration(down.Load()); d < 30*time.Second || d > 50*time.Second {
			t.Errorf("noticed after %s, want 30 to 50 s", d)
		}
		stop()
		<-done
		time.Sleep(time.Minute)
	})
}

// Run ends soon after its context, wherever it stands.
func TestRunEndsInEveryState(t *testing.T) {
	for _, tc := range []struct {
		name  string
		serve func(net.Conn)
	}{
		{"server never answers", drain},
		{"server refuses at once", func(net.Conn) {}},
		{"subscription is never answered", func(c net.Conn) { accept(c); drain(c) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := mustNew(t, session.Options{ClientID: "c", Dial: scripted(t, tc.serve)})
				s.Handle("a", 1, new(notes).handler)
				ctx, stop := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- s.Run(ctx) }()
				time.Sleep(3 * time.Second)
				began := time.Now()
				stop()
				if err := <-done; err != nil {
					t.Error(err)
				}
				if d := time.Since(began); d > 3*time.Second {
					t.Errorf("ended after %s", d)
				}
				time.Sleep(time.Minute)
			})
		})
	}
}

func TestBadOptions(t *testing.T) {
	for _, tc := range []struct {
		o    session.Options
		want string
	}{
		{session.Options{ClientID: "c"}, "no server; give Servers"},
		{session.Options{Servers: []string{"tcp://h:1"}}, "needs a ClientID"},
		{session.Options{ClientID: "c", Servers: []string{"http://h:1"}}, `scheme "http"; want tcp`},
		{session.Options{ClientID: "c", Servers: []string{"tcp://u:secret@h:1"}}, "go into Username and Password"},
		{session.Options{ClientID: "c", Servers: []string{"tcp://"}}, "no host"},
		{session.Options{ClientID: "c", Servers: []string{"tcp://h:1"}, KeepAlive: 1500 * time.Millisecond}, "whole seconds"},
	} {
		_, err := session.New(tc.o)
		if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%+v: got %v, want %q and no secret", tc.o, err, tc.want)
		}
	}
	s := mustNew(t, session.Options{ClientID: "c", Servers: []string{"tcp://localhost:1"}})
	s.Handle("a/#/b", 1, new(notes).handler)
	if err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "stand alone") {
		t.Errorf("Run with a bad filter: %v", err)
	}
	for _, m := range []session.Message{{}, {Topic: "a/+"}, {Topic: "a", QoS: 2}} {
		if err := s.Publish(t.Context(), m); err == nil || errors.Is(err, session.ErrNotConnected) {
			t.Errorf("publish %+v: %v, want it refused for itself", m, err)
		}
	}
}
