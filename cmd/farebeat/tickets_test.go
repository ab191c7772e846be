package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/farebeat/farebeat/configs"
	"github.com/farebeat/farebeat/fleet"
	"github.com/farebeat/farebeat/fleet/expect"
	"github.com/farebeat/farebeat/fleet/keys"
	"github.com/farebeat/farebeat/fleet/orders"
	"github.com/farebeat/farebeat/fleet/rules"
	"github.com/farebeat/farebeat/fleet/store"
	"github.com/farebeat/farebeat/fleet/tickets"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
	"github.com/farebeat/farebeat/topics/session"
)

// ticketWatch is what the gateways of some vehicles see on their ticket topics.
type ticketWatch struct {
	mu      sync.Mutex
	seen    map[string][]byte // by vehicle; the watched vehicles have one machine each
	secrets [][]byte          // all that were seen
	bad     error
}

// Watch listens as the gateway of a vehicle does.
func (w *ticketWatch) Watch(vehicle string) action {
	return func(d *day) error {
		so, _ := d.connect(topics.Identity{Role: topics.RoleGateway, Name: vehicle})
		so.CleanSession, so.ClientID, so.Backoff = true, so.ClientID+"-watch", session.Backoff{Min: time.Second, Max: time.Second}
		filter, err := d.tree.Filter(topics.Address{Kind: topics.Ticket, Vehicle: vehicle})
		if err != nil {
			return err
		}
		h, err := startSession(d.ctx, so, func(s *session.Session) {
			s.Handle(filter, 1, func(_ context.Context, m *session.Delivery) error { w.take(d, vehicle, m.Payload); return nil })
		})
		if err == nil {
			d.hands["watch/"+vehicle] = h
		}
		return err
	}
}

func (w *ticketWatch) take(d *day, vehicle string, payload []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.seen[vehicle] = payload; len(payload) == 0 {
		return
	}
	var k schemas.Ticket
	if err := schemas.Decode(payload, schemas.NameTicket, &k); err != nil {
		w.bad = errors.Join(w.bad, err)
		return
	}
	sealed, err := base64.RawURLEncoding.DecodeString(k.Sealed)
	if err != nil {
		w.bad = errors.Join(w.bad, err)
	}
	g, err := d.keys.OpenTicket(d.ctx, k.Machine, sealed)
	if err != nil || base64.RawURLEncoding.EncodeToString(g.Secret[:]) != k.Secret || g.Vehicle != vehicle {
		w.bad = errors.Join(w.bad, fmt.Errorf("%v, %v", &k, err))
	}
	w.secrets = append(w.secrets, g.Secret[:], []byte(k.Secret), fmt.Appendf(nil, "%x", g.Secret), fmt.Appendf(nil, "%v", g.Secret))
}

// stands wants a ticket, or none, and none of them for anybody else.
func (w *ticketWatch) stands(vehicle string, yes bool) want {
	return want{fmt.Sprintf("stands(%s, %t)", vehicle, yes), func(d *day) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(w.seen[vehicle]) > 0 != yes {
			return fmt.Errorf("%d bytes stand", len(w.seen[vehicle]))
		}
		if others := d.sees.standing(d, func(a topics.Address) bool { return a.Kind == topics.Ticket }); len(others) > 0 {
			return fmt.Errorf("a viewer sees %v", others)
		}
		return w.bad
	}}
}

// same wants what stood at the last call.
func (w *ticketWatch) same(vehicle string, before *[]byte) want {
	return want{"same(" + vehicle + ")", func(*day) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if *before != nil && !bytes.Equal(*before, w.seen[vehicle]) {
			return errors.New("it is another ticket")
		}
		*before = slices.Clone(w.seen[vehicle])
		return nil
	}}
}

// Order is what `farebeat tickets revoke` and `restore` do while the service runs.
func (d *day) Order(a tickets.Action, vehicle string) action {
	return func(d *day) error {
		_, err := orders.Leave(ordersPath(d.dir), tickets.Order{ID: randomID(), Action: a, Vehicle: vehicle, At: time.Now(), By: "anna", Reason: "stolen"})
		return err
	}
}

// Collect sends a collect command to a vehicle.
func (d *day) Collect(vehicle, machine string, patience time.Duration) action {
	return func(d *day) error {
		h, err := d.hand(topics.Identity{Role: topics.RoleOperator, Name: "anna"})
		if err != nil {
			return err
		}
		now := milli(time.Now())
		c := schemas.Command{ID: "c-" + vehicle, At: now, By: "anna", Verb: schemas.VerbCollect, Machine: machine, ExpiresAt: now.Add(patience)}
		topic, err := d.tree.Build(topics.Address{Kind: topics.Command, Vehicle: vehicle, Command: c.ID})
		if err != nil {
			return err
		}
		payload, err := schemas.Encode(&c)
		if err != nil {
			return err
		}
		return h.session.Publish(d.ctx, session.Message{Topic: topic, QoS: 1, Payload: payload})
	}
}

// A day with tickets: they stand from the fault to an hour after it, over a restart to the byte, for the gateway only, until
// somebody revokes them; and nobody reads a secret in what is logged or kept of that day, at the most talkative level.
func TestDayTickets(t *testing.T) {
	var log lockedBuffer
	w := &ticketWatch{seen: map[string][]byte{}}
	one, two, three := vehicleOf("A1-01"), vehicleOf("A1-02"), vehicleOf("A1-03")
	var before []byte
	day := newDay(t, "2026-10-27", "Europe/Berlin")
	day.log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	day.Route("A1", expected("07-09", 4))
	day.At("07:10", w.Watch(one))
	day.At("07:10", w.Watch(two))
	day.At("07:10", w.Watch(three))
	day.Want("07:19", w.stands(one, false))
	day.At("07:20", day.Cut("A1", 1))
	day.At("07:21", day.Tap("A1-01", 30))
	day.Want("07:23", w.stands(one, true))
	day.Want("07:23", w.same(one, &before))
	day.Want("07:25", recovered("A1-01", 30))
	day.At("07:26", day.Restart())
	day.Want("07:27", w.same(one, &before))
	day.At("07:28", day.Collect(two, "A1-02", 5*time.Minute))
	day.Want("07:28:06", w.stands(two, true))
	day.Want("07:33:10", w.stands(two, false))
	day.At("07:34", day.Order(tickets.Revoke, one))
	day.Want("07:34:06", w.stands(one, false))
	day.At("07:35", day.Restart())
	day.Want("07:36", w.stands(one, false))
	day.At("07:37", day.Collect(one, "A1-01", 5*time.Minute))
	day.Want("07:37:06", w.stands(one, false))
	day.At("07:38", day.Order(tickets.Restore, one))
	day.Want("07:38:06", w.stands(one, true))
	day.At("07:40", day.Return())
	day.Want("07:43", machineFault("A1-01", schemas.Closed))
	day.Want("08:39", w.stands(one, true))
	day.Want("08:45", w.stands(one, false))
	day.Want("08:45", w.stands(three, false))
	day.Run()
	if w.bad != nil || len(w.secrets) < 3*4 {
		t.Fatalf("%d secrets, %v", len(w.secrets)/4, w.bad)
	}
	kept := map[string][]byte{"the log": log.bytes()}
	for _, name := range []string{"farebeat.db", "farebeat.db-wal"} {
		content, err := os.ReadFile(filepath.Join(day.dir, name))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		kept[name] = content
	}
	for place, content := range kept {
		for _, secret := range w.secrets {
			if bytes.Contains(content, secret) {
				t.Errorf("a secret is in %s", place)
			}
		}
	}
	if !bytes.Contains(log.bytes(), []byte("level=DEBUG")) {
		t.Error("the log is not at its most talkative")
	}
}

// While the service runs it alone writes the store: the command line leaves the order to it, and says so where it does not come.
func TestRevokeWhileTheServiceRuns(t *testing.T) {
	dir := t.TempDir()
	db, err := store.Open(t.Context(), storePath(dir), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	revoke := func(more ...string) (code int, out, errOut string) {
		var o, e bytes.Buffer
		code = run(t.Context(), append([]string{"tickets", "revoke", "--vehicle", "1216", "--reason", "stolen", "--data", dir}, more...), nil, &o, &e)
		return code, o.String(), e.String()
	}
	if code, out, errOut := revoke("--timeout", "1ms"); code != exitFailed || out != "" || !strings.Contains(errOut, "did not take the order within 1ms; it will when it can") {
		t.Errorf("nobody is there: %d, %q, %q", code, out, errOut)
	}
	tree, err := topics.New("local")
	if err != nil {
		t.Fatal(err)
	}
	master, err := keys.NewMaster([]byte(strings.Repeat("k", 32)))
	if err != nil {
		t.Fatal(err)
	}
	c := configs.Default()
	c.Broker.Listeners, c.Broker.MetricsAddress, c.Console.Address = nil, "", ""
	ctx, cancel := context.WithCancel(t.Context())
	s, err := newServer(ctx, serverOptions{
		tree: tree, config: c, store: db, keys: master, tick: time.Minute, now: time.Now, orders: ordersPath(dir), logger: slog.New(slog.DiscardHandler),
		engine: fleet.EngineConfig{Location: time.UTC, Expect: expect.NewByHand(nil, time.UTC), Rules: rules.Default(time.UTC)},
	})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.run(ctx, func() {}) }()
	if code, out, errOut := revoke(); code != exitOK || out != "vehicle 1216: revoke, done\n" {
		t.Errorf("%d, %q, %q", code, out, errOut)
	}
	orders, err := db.Tickets().Orders(t.Context())
	if err != nil || len(orders) != 2 {
		t.Errorf("%v, %v: want the one that was left before the start, too", orders, err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// lockedBuffer is a log that many write.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) bytes() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Clone(l.b.Bytes())
}
