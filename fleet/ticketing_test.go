package fleet

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/farebeat/farebeat/fleet/expect"
	"github.com/farebeat/farebeat/fleet/keys"
	"github.com/farebeat/farebeat/fleet/ledger/ledgertest"
	"github.com/farebeat/farebeat/fleet/orders"
	"github.com/farebeat/farebeat/fleet/rules"
	"github.com/farebeat/farebeat/fleet/store"
	"github.com/farebeat/farebeat/fleet/tickets"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
	"github.com/farebeat/farebeat/topics/session"
)

// depot is a fleet with its store, its folder of orders and what a broker retains of it.
type depot struct {
	*alone
	dir      string
	keys     keys.Keys
	store    *store.Store
	retained map[string][]byte
	log      bytes.Buffer
}

func newDepot(t *testing.T) *depot { return newDepotIn(t, t.TempDir()) }

func newDepotIn(t testing.TB, dir string) *depot {
	t.Helper()
	d := &depot{dir: dir, keys: ledgertest.Keys(t), retained: map[string][]byte{}}
	d.alone = &alone{t: t, now: time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)}
	d.begin()
	t.Cleanup(func() { _ = d.store.Close() })
	return d
}

func (d *depot) options() Options {
	tree, err := topics.New("tampa")
	if err != nil {
		d.t.Fatal(err)
	}
	return Options{
		Tree: tree, Store: d.store, Keys: d.keys, Tick: time.Second, Now: func() time.Time { return d.now }, Orders: d.orders(),
		Logger:  slog.New(slog.NewTextHandler(&d.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Session: session.Options{ClientID: "fleet", Dial: func(context.Context) (net.Conn, error) { return nil, errors.New("no broker") }},
		Engine: EngineConfig{
			Location: time.UTC, Interval: 15 * time.Second, Expect: expect.NewByHand(nil, time.UTC), Rules: rules.Default(time.UTC),
		},
	}
}

func (d *depot) orders() string { return filepath.Join(d.dir, "orders") }

// begin starts a fleet from what is on disk and connects it.
func (d *depot) begin() {
	d.t.Helper()
	d.store = openStore(d.t, filepath.Join(d.dir, "farebeat.db"))
	var err error
	if d.Fleet, err = New(d.t.Context(), d.options()); err != nil {
		d.t.Fatal(err)
	}
	var mu sync.Mutex // messages go out side by side
	d.out.publish = func(_ context.Context, m session.Message) error {
		mu.Lock()
		defer mu.Unlock()
		if m.Retain && len(m.Payload) > 0 {
			d.retained[m.Topic] = m.Payload
		} else if m.Retain {
			delete(d.retained, m.Topic)
		}
		return nil
	}
	d.connect()
}

// connect tells the fleet what stands at the broker, as a new session does.
func (d *depot) connect() {
	d.up()
	for topic, payload := range maps.Clone(d.retained) {
		a, err := d.o.Tree.Parse(topic)
		if err != nil {
			d.t.Fatal(err)
		}
		switch a.Kind {
		case topics.Ticket:
			_ = d.onTicket(d.t.Context(), a, payload)
		case topics.VehicleFault, topics.RouteFault:
			_ = d.onStanding(d.t.Context(), a, payload)
		}
	}
	d.settle()
}

// settle lets tickets and messages go out.
func (d *depot) settle() {
	d.tickets.pass(d.t.Context())
	for d.out.sendSome(d.t.Context()) {
	}
}

func (d *depot) restart() {
	d.t.Helper()
	if err := errors.Join(d.remember(d.t.Context(), d.now), d.store.Close()); err != nil {
		d.t.Fatal(err)
	}
	d.begin()
}

// live lets time go by with what comes after each round.
func (d *depot) live(by time.Duration, who ...string) {
	for end := d.now.Add(by); d.now.Before(end); {
		d.pass(5*time.Second, who...)
		d.settle()
	}
}

func ticketTopic(vehicle, machine string) string {
	return "farebeat/v1/tampa/vehicle/" + vehicle + "/ticket/" + machine
}

// ticket is what stands for a pair, with what its machine reads in it; nil for none.
func (d *depot) ticket(vehicle, machine string) (*schemas.Ticket, schemas.TicketGrant) {
	d.t.Helper()
	payload := d.retained[ticketTopic(vehicle, machine)]
	if payload == nil {
		return nil, schemas.TicketGrant{}
	}
	var m schemas.Ticket
	if err := schemas.Decode(payload, schemas.NameTicket, &m); err != nil {
		d.t.Fatal(err)
	}
	sealed, err := base64.RawURLEncoding.DecodeString(m.Sealed)
	if err != nil {
		d.t.Fatal(err)
	}
	g, err := ledgertest.Keys(d.t).OpenTicket(d.t.Context(), machine, sealed)
	if err != nil {
		d.t.Fatal(err)
	}
	if base64.RawURLEncoding.EncodeToString(g.Secret[:]) != m.Secret || g.Secret == [schemas.TicketKeySize]byte{} {
		d.t.Fatal("the gateway and the machine have different secrets")
	}
	if g.Vehicle != vehicle || g.Machine != machine || m.Vehicle != vehicle || m.Machine != machine || !m.AsOf.Equal(g.IssuedAt) || !m.ExpiresAt.Equal(g.ExpiresAt) {
		d.t.Fatalf("%v and %v", &m, g)
	}
	return &m, g
}

func (d *depot) mustHave(vehicle, machine string) schemas.TicketGrant {
	d.t.Helper()
	m, g := d.ticket(vehicle, machine)
	if m == nil {
		d.t.Fatalf("no ticket of vehicle %s for machine %s stands", vehicle, machine)
	}
	return g
}

// A fault's ticket is the same to the byte over rounds, over a restart, and for a broker that lost its memory.
func TestATicketIsIssuedOnce(t *testing.T) {
	d := newDepot(t)
	d.live(time.Minute, "m1", "m2")
	d.live(3*time.Minute, "m1")
	if d.retained["farebeat/v1/tampa/vehicle/vm2/fault/m2"] == nil {
		t.Fatal("m2 has no fault")
	}
	g := d.mustHave("vm2", "m2")
	if !strings.HasPrefix(g.Reason, "M-") || g.ExpiresAt.Sub(g.IssuedAt) != 24*time.Hour {
		t.Errorf("%v", g)
	}
	first := d.retained[ticketTopic("vm2", "m2")]
	d.live(time.Hour, "m1")
	d.restart()
	d.live(time.Minute, "m1")
	clear(d.retained)
	d.connect()
	if got := d.retained[ticketTopic("vm2", "m2")]; !bytes.Equal(got, first) {
		t.Errorf("%s stands, %s was issued", got, first)
	}
	if len(d.retained) == 1 {
		t.Error("the broker was not told of the rest")
	}
	d.now = d.now.Add(12 * time.Hour)
	d.live(5*time.Second, "m1")
	if again := d.mustHave("vm2", "m2"); again.Counter <= g.Counter || again.Secret == g.Secret {
		t.Errorf("%v was to be renewed, %v stands", g, again)
	}
	if s := d.Stats(); s.TicketsRenewed.Load() != 1 || s.TicketsFailed.Load() != 0 {
		t.Errorf("%d renewed, %d failed", s.TicketsRenewed.Load(), s.TicketsFailed.Load())
	}
	d.mustNotTell(g.Secret)
}

// mustNotTell looks for a secret on the fleet's disk and in its log, which a backup and a support case take along.
func (d *depot) mustNotTell(secret [schemas.TicketKeySize]byte) {
	d.t.Helper()
	forms := [][]byte{secret[:], []byte(base64.RawURLEncoding.EncodeToString(secret[:])), fmt.Appendf(nil, "%x", secret), fmt.Append(nil, secret)}
	places := map[string][]byte{"the log": d.log.Bytes()}
	files, err := filepath.Glob(filepath.Join(d.dir, "farebeat.db*"))
	if err != nil || len(files) == 0 {
		d.t.Fatal(files, err)
	}
	for _, name := range files {
		if places[name], err = os.ReadFile(name); err != nil {
			d.t.Fatal(err)
		}
	}
	for place, content := range places {
		for _, form := range forms {
			if bytes.Contains(content, form) {
				d.t.Errorf("a secret is in %s", place)
			}
		}
	}
}

func TestATicketStaysForTheFarewell(t *testing.T) {
	d := newDepot(t)
	d.live(time.Minute, "m1", "m2")
	d.live(3*time.Minute, "m1")
	d.mustHave("vm2", "m2")
	for range 60 {
		d.live(time.Minute, "m1", "m2")
		if d.retained["farebeat/v1/tampa/vehicle/vm2/fault/m2"] == nil {
			break
		}
	}
	if d.retained["farebeat/v1/tampa/vehicle/vm2/fault/m2"] != nil {
		t.Fatal("the fault stands")
	}
	d.live(58*time.Minute, "m1", "m2")
	d.mustHave("vm2", "m2")
	d.live(3*time.Minute, "m1", "m2")
	if m, _ := d.ticket("vm2", "m2"); m != nil {
		t.Errorf("%v stands", m)
	}
}

// What stood at the broker before, of a store that was lost, is cleared; and so is everything that is written there since.
func TestTicketsThatShouldNotStandAreCleared(t *testing.T) {
	d := newDepot(t)
	d.retained[ticketTopic("v9", "m9")] = []byte("{}")
	d.retained[ticketTopic("v9", "m8")] = []byte("no ticket at all")
	d.connect()
	if len(d.retained[ticketTopic("v9", "m9")])+len(d.retained[ticketTopic("v9", "m8")]) > 0 {
		t.Errorf("%q", slices.Collect(maps.Keys(d.retained)))
	}
}

func (d *depot) command(vehicle, machine, id string, until time.Time) {
	d.t.Helper()
	payload, err := schemas.Encode(&schemas.Command{ID: id, At: milli(d.now), By: "anna", Verb: schemas.VerbCollect, Machine: machine, ExpiresAt: milli(until)})
	if err != nil {
		d.t.Fatal(err)
	}
	a := topics.Address{Kind: topics.Command, Vehicle: vehicle, Command: id}
	if err := d.onCommand(d.t.Context(), a, payload); err != nil {
		d.t.Fatal(err)
	}
}

func TestACommandHasItsTicketUntilItExpires(t *testing.T) {
	d := newDepot(t)
	d.command("v1", "m1", "c1", d.now.Add(5*time.Minute))
	d.settle()
	if g := d.mustHave("v1", "m1"); g.Reason != "command c1" {
		t.Errorf("%v", g)
	}
	first := d.retained[ticketTopic("v1", "m1")]
	d.restart()
	d.live(4 * time.Minute)
	if !bytes.Equal(first, d.retained[ticketTopic("v1", "m1")]) {
		t.Error("it is another after a restart")
	}
	d.live(time.Minute)
	if m, _ := d.ticket("v1", "m1"); m != nil {
		t.Errorf("%v stands", m)
	}
}

func TestCommandsThatAreRefused(t *testing.T) {
	d := newDepot(t)
	expires := milli(d.now.Add(time.Hour)).Format("2006-01-02T15:04:05.000Z")
	for id, payload := range map[string]string{
		"a": `{`, "b": `{"id":"other","at":"2026-11-20T12:00:00.000Z","by":"x","verb":"collect","machine":"m","expires_at":"` + expires + `"}`,
		"c": `{"id":"c","at":"2026-11-20T12:00:00.000Z","by":"x","verb":"collect","machine":"","expires_at":"` + expires + `"}`,
		"d": `{"id":"d","at":"2026-11-20T10:00:00.000Z","by":"x","verb":"collect","machine":"m","expires_at":"2026-11-20T11:00:00.000Z"}`,
	} {
		a := topics.Address{Kind: topics.Command, Vehicle: "v", Command: id}
		if err := d.onCommand(t.Context(), a, []byte(payload)); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.onCommand(t.Context(), topics.Address{Kind: topics.Command, Vehicle: "v", Command: "e"}, nil); err != nil {
		t.Fatal(err)
	}
	d.settle()
	if n := d.Stats().CommandsRefused.Load(); n != 4 || len(d.tickets.book.Standing()) > 0 {
		t.Errorf("%d refused, %v", n, d.tickets.book.Standing())
	}
	for i := range maxWishes + 1 {
		d.command("v", "m", fmt.Sprint("c", i), d.now.Add(time.Minute))
	}
	if n := d.Stats().CommandsRefused.Load(); n != 5 {
		t.Errorf("%d refused", n)
	}
}

func (d *depot) order(action tickets.Action, vehicle string) string {
	d.t.Helper()
	path, err := orders.Leave(d.orders(), tickets.Order{
		ID: strings.ToLower(fmt.Sprintf("%x", d.seq)), Action: action, Vehicle: vehicle, At: d.now.Add(time.Duration(d.seq)), By: "anna", Reason: "stolen",
	})
	if err != nil {
		d.t.Fatal(err)
	}
	d.seq++
	return path
}

func TestRevocationOfAStolenGatewaysTickets(t *testing.T) {
	d := newDepot(t)
	d.live(time.Minute, "m1", "m2")
	d.live(3*time.Minute, "m1")
	stolen := d.mustHave("vm2", "m2")
	path := d.order(tickets.Revoke, "vm2")
	d.live(5*time.Second, "m1")
	if m, _ := d.ticket("vm2", "m2"); m != nil {
		t.Errorf("%v stands", m)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the order is there still: %v", err)
	}
	orders, err := d.store.Tickets().Orders(t.Context())
	if err != nil || len(orders) != 1 || orders[0].By != "anna" || orders[0].Reason != "stolen" {
		t.Errorf("%v, %v", orders, err)
	}
	d.command("vm2", "m2", "c1", d.now.Add(time.Hour))
	d.restart()
	d.live(time.Minute, "m1")
	if m, _ := d.ticket("vm2", "m2"); m != nil {
		t.Errorf("%v stands after a restart", m)
	}
	d.command("v3", "m2", "c2", d.now.Add(time.Minute))
	d.settle()
	if next := d.mustHave("v3", "m2"); next.Counter <= stolen.Counter {
		t.Errorf("%v does not supersede %v", next, stolen)
	}
	d.order(tickets.Restore, "vm2")
	d.live(5*time.Second, "m1")
	if next := d.mustHave("vm2", "m2"); next.Counter <= stolen.Counter {
		t.Errorf("%v after %v", next, stolen)
	}
	if !strings.Contains(d.log.String(), "action=revoke by=anna") {
		t.Error("the log does not say who revoked")
	}
}

// An order that cannot be saved holds nevertheless, and is saved later. Nothing is issued meanwhile.
func TestDiskThatFailsUnderTickets(t *testing.T) {
	d := newDepot(t)
	d.live(time.Minute, "m1", "m2", "m3")
	d.live(3*time.Minute, "m1", "m3")
	d.mustHave("vm2", "m2")
	if err := d.store.Close(); err != nil {
		t.Fatal(err)
	}
	path := d.order(tickets.Revoke, "vm2")
	d.command("v1", "m1", "c1", d.now.Add(time.Hour))
	d.settle()
	if m, _ := d.ticket("vm2", "m2"); m != nil {
		t.Errorf("%v stands", m)
	}
	if m, _ := d.ticket("v1", "m1"); m != nil {
		t.Errorf("%v is not on disk", m)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatal(err)
	}
	d.store = openStore(t, filepath.Join(d.dir, "farebeat.db"))
	d.o.Store, d.tickets.o.Store = d.store, d.store
	d.settle()
	d.mustHave("v1", "m1")
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the order is there still: %v", err)
	}
}

// A file that somebody spoilt is set aside and does no harm.
func TestAnOrderThatIsNone(t *testing.T) {
	d := newDepot(t)
	path := d.order(tickets.Revoke, "v")
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	d.settle()
	if _, err := os.Stat(orders.Refused(path)); err != nil || d.tickets.book.IsRevoked("v") {
		t.Error(err)
	}
}

// slowKeys do not answer until they are released.
type slowKeys struct {
	keys.Keys
	answer chan struct{}
}

func (k slowKeys) SealTicket(ctx context.Context, g schemas.TicketGrant) ([]byte, error) {
	select {
	case <-k.answer:
		return k.Keys.SealTicket(ctx, g)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (k slowKeys) OpenTicket(ctx context.Context, machine string, sealed []byte) (schemas.TicketGrant, error) {
	select {
	case <-k.answer:
		return k.Keys.OpenTicket(ctx, machine, sealed)
	case <-ctx.Done():
		return schemas.TicketGrant{}, ctx.Err()
	}
}

// Where the keys do not answer, rounds go on and the fault is told all the same.
func TestKeysThatDoNotAnswerHoldUpNoRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &depot{dir: t.TempDir(), alone: &alone{t: t}, retained: map[string][]byte{}}
		d.store = openStore(t, filepath.Join(d.dir, "farebeat.db"))
		slow := slowKeys{ledgertest.Keys(t), make(chan struct{})}
		d.keys = slow
		o := d.options()
		var rounds atomic.Int64
		o.Now, o.Watch = time.Now, func(Round) { rounds.Add(1) }
		f, err := New(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		d.Fleet = f
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- f.Run(ctx) }()
		beat := func(seq uint64) {
			f.Heartbeat("m1", schemas.AppendHeartbeat(nil, &schemas.Heartbeat{Seq: seq, Boot: "b", At: time.Now(), Vehicle: "v1", Route: "36", State: schemas.Running}))
		}
		beat(1)
		time.Sleep(5*time.Minute + 500*time.Millisecond)
		synctest.Wait()
		if !f.out.wants("farebeat/v1/tampa/vehicle/v1/fault/m1") || f.out.wants(ticketTopic("v1", "m1")) {
			t.Error("want the fault without a ticket")
		}
		if n := rounds.Load(); n != 300 {
			t.Errorf("%d rounds in 300 s", n)
		}
		if f.Stats().TicketsFailed.Load() == 0 {
			t.Error("it is not counted")
		}
		close(slow.answer)
		time.Sleep(retryTicket)
		synctest.Wait()
		if !f.out.wants(ticketTopic("v1", "m1")) {
			t.Error("no ticket after the keys answer again")
		}
		cancel()
		if err := errors.Join(<-done, d.store.Close()); err != nil {
			t.Error(err)
		}
	})
}

// retryTicket is more than the time after which a ticket is tried again.
const retryTicket = time.Minute

// At a start the tickets of the last run stay at the broker while the keys do not answer.
func TestKeysThatDoNotAnswerAtAStart(t *testing.T) {
	d := newDepot(t)
	d.command("v1", "m1", "c1", d.now.Add(time.Hour))
	d.settle()
	first := d.retained[ticketTopic("v1", "m1")]
	good := d.keys
	slow := slowKeys{good, make(chan struct{})}
	d.keys = slow
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.store.Close(); err != nil {
		t.Fatal(err)
	}
	d.store = openStore(t, filepath.Join(d.dir, "farebeat.db"))
	f, err := New(t.Context(), d.options())
	if err != nil {
		t.Fatal(err)
	}
	publish := d.out.publish
	d.Fleet = f
	d.out.publish = publish
	d.tickets.read(canceled) // it gives up
	a, err := d.o.Tree.Parse(ticketTopic("v1", "m1"))
	if err != nil {
		t.Fatal(err)
	}
	_ = d.onTicket(t.Context(), a, first)
	for d.out.sendSome(t.Context()) {
	}
	if !bytes.Equal(first, d.retained[ticketTopic("v1", "m1")]) {
		t.Fatal("it was cleared or changed")
	}
	close(slow.answer)
	clear(d.retained)
	d.connect()
	if !bytes.Equal(first, d.retained[ticketTopic("v1", "m1")]) {
		t.Error("it does not stand again")
	}
}

// A ticket that was sealed for another key is of no use to anybody.
func TestTicketsOfAnotherKeyAreIssuedAnew(t *testing.T) {
	d := newDepot(t)
	other, err := keys.NewMaster(bytes.Repeat([]byte{7}, keys.Size))
	if err != nil {
		t.Fatal(err)
	}
	d.tickets.o.Keys = other
	d.command("v1", "m1", "c1", d.now.Add(time.Hour))
	d.settle()
	d.restart()
	d.settle()
	d.mustHave("v1", "m1") // opens it with the machine's key
}
