package api_test

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/farebeat/farebeat/broker"
	"github.com/farebeat/farebeat/fleet"
	"github.com/farebeat/farebeat/fleet/console"
	"github.com/farebeat/farebeat/fleet/console/access"
	"github.com/farebeat/farebeat/fleet/console/act"
	"github.com/farebeat/farebeat/fleet/console/api"
	"github.com/farebeat/farebeat/fleet/console/draft"
	"github.com/farebeat/farebeat/fleet/console/explore"
	"github.com/farebeat/farebeat/fleet/console/view"
	"github.com/farebeat/farebeat/fleet/expect"
	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/ledger"
	"github.com/farebeat/farebeat/fleet/ledger/ledgertest"
	"github.com/farebeat/farebeat/fleet/rules"
	"github.com/farebeat/farebeat/fleet/store"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
	"github.com/farebeat/farebeat/topics/session"
)

// evil is a machine whose name is markup and, in a spreadsheet, a formula.
const evil = `=1-cmd|'x'!A<script>alert(1)<b>`

// people are the users of the rig, each with the password "NAME's password".
type people map[string]access.Role

func (p people) Check(name string, password []byte) (access.Role, error) {
	if role, ok := p[name]; ok && string(password) == name+"'s password" {
		return role, nil
	}
	return "", access.ErrBadPassword
}

func (p people) Role(name string) (access.Role, bool) { role, ok := p[name]; return role, ok }

// rig is the real console over a real store, fleet and broker in one process. Its clock stands still but for pass.
type rig struct {
	t       testing.TB
	store   *store.Store
	fleet   *fleet.Fleet
	gate    *access.Gate
	console http.Handler
	tokens  map[access.Role]string

	mu     sync.Mutex
	cond   *sync.Cond
	now    time.Time
	rounds int
	seq    uint64
}

// options change what a rig is made of.
type options struct {
	open  *access.Identity
	tides func(context.Context, io.Writer, ledger.Filter) error
	wall  func() time.Time
}

func newRig(t testing.TB, o options) *rig {
	t.Helper()
	r := &rig{t: t, now: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC), tokens: map[access.Role]string{}}
	r.cond = sync.NewCond(&r.mu)
	ctx, cancel := context.WithCancel(context.Background())
	dir := t.TempDir()
	var err error
	r.store, err = store.Open(ctx, filepath.Join(dir, "farebeat.db"), store.Options{})
	must(t, err)
	tree, err := topics.New("tampa")
	must(t, err)
	b, err := broker.New(broker.Options{Tree: tree})
	must(t, err)
	must(t, b.Start(ctx))
	dial := func(id topics.Identity) func(context.Context) (net.Conn, error) {
		return func(ctx context.Context) (net.Conn, error) { return b.Dial(ctx, id) }
	}
	rows := []expect.RouteHour{{Route: "A", Hour: 12, Vehicles: 2}, {Route: evil, Hour: 12, Vehicles: 1}}
	hand, set := expect.Chain{expect.NewByHand(rows, time.UTC)}, rules.Default(time.UTC)
	orders := filepath.Join(dir, "orders")
	v := view.New(view.Options{
		Fleet: func() *fleet.Fleet { return r.fleet }, Store: r.store, Expect: hand, Rules: func() *rules.Set { return set }, Zone: time.UTC, Now: r.clock,
		Wall: r.clock, Tick: time.Minute, Sinks: []string{"grafana"}, Broker: func() view.Broker {
			s := b.Stats()
			return view.Broker{Clients: int(s.Clients), Published: view.Rate{Total: s.Published}, Counters: []view.Counter{{Name: "refused", Total: s.RefusedRead}}, Listeners: []view.Listener{}}
		},
	})
	r.fleet, err = fleet.New(ctx, fleet.Options{
		Tree: tree, Store: r.store, Keys: ledgertest.Keys(t), Tick: 2 * time.Millisecond, Now: r.clock, Orders: orders,
		Session: session.Options{ClientID: "fleet", Dial: dial(topics.Identity{Role: topics.RoleFleet, Name: "fleet"})},
		Engine:  fleet.EngineConfig{Location: time.UTC, Interval: 15 * time.Second, Expect: hand, Rules: set},
		Watch: func(round fleet.Round) {
			v.Observe(round)
			r.mu.Lock()
			defer r.mu.Unlock()
			r.rounds++
			r.cond.Broadcast()
		},
		FaultsSaved: v.FaultsSaved,
	})
	must(t, err)
	r.gate, err = access.New(access.Options{
		Passes: r.store.Passes(), Audit: r.store.AuditLog(), Open: o.open, Now: r.clock, Users: people{"vera": access.Viewer, "otto": access.Operator, "anna": access.Admin},
	})
	must(t, err)
	file := filepath.Join(dir, "rules.yaml")
	text, err := set.YAML()
	must(t, err)
	must(t, os.WriteFile(file, text, 0o600))
	inForce, err := rules.OpenLive(file, time.UTC, r.now)
	must(t, err)
	desk := draft.New(draft.Options{
		Live: inForce, File: file, Zone: time.UTC, Frames: r.store.Counts(), Faults: r.store.Faults(), Routes: v.KnownRoutes, Expect: hand, Deadline: time.Minute, Now: r.clock,
	})
	explorer, err := explore.New(explore.Options{Tree: tree, Now: r.clock, Session: session.Options{Dial: dial(topics.Identity{Role: topics.RoleViewer, Name: "explorer"})}})
	must(t, err)
	a, err := act.New(act.Options{
		Rules:  desk,
		Orders: orders, Store: r.store.Faults(), Ledger: r.fleet.Ledger, Audit: r.store.AuditLog(), Tree: tree, Now: r.clock, Patience: 5 * time.Minute,
		Session: session.Options{ClientID: "console", Dial: dial(topics.Identity{Role: topics.RoleOperator, Name: "console"})},
	})
	must(t, err)
	calls, err := api.New(api.Options{Rules: desk, Explore: explorer, View: v, Act: a, Gate: r.gate, Audit: r.store.AuditLog(), Status: console.Status, TIDES: o.tides, Wall: o.wall})
	must(t, err)
	r.console, err = console.New(console.Options{Operator: "tampa", View: v, Act: a, Gate: r.gate, Audit: r.store.AuditLog(), API: calls})
	must(t, err)
	var running sync.WaitGroup
	running.Go(func() { check(t, r.fleet.Run(ctx)) })
	running.Go(func() { check(t, a.Run(ctx)) })
	running.Go(func() { desk.Run(ctx) })
	running.Go(func() { check(t, explorer.Run(ctx)) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
		check(t, b.Close())
		check(t, r.store.Close())
	})
	r.wait()
	r.until("both clients of the broker", func() bool {
		standing := 0
		for _, c := range b.Clients() { // a client that subscribes publishes, too
			if c.Subscriptions > 0 {
				standing++
			}
		}
		return r.fleet.Link().Up && standing == 2
	})
	for name, role := range (people{"vera": access.Viewer, "otto": access.Operator, "anna": access.Admin}) {
		r.tokens[role] = r.token(name, role)
	}
	return r
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

func (r *rig) clock() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now
}

// wait waits for a whole round that begins from now on.
func (r *rig) wait() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for end := r.rounds + 2; r.rounds < end; {
		r.cond.Wait()
	}
}

// until waits for a round after which something holds.
func (r *rig) until(what string, holds func() bool) {
	r.t.Helper()
	for range 2000 {
		if holds() {
			return
		}
		r.wait()
	}
	open, err := r.store.Faults().Open(context.Background())
	r.t.Fatalf("%s did not come: %v %v", what, open, err)
}

// signIn gives a session's identity and its cookie.
func (r *rig) signIn(name string) (access.Identity, *http.Cookie) {
	r.t.Helper()
	secret, id, err := r.gate.SignIn(context.Background(), name, name+"'s password", "127.0.0.1")
	must(r.t, err)
	w := httptest.NewRecorder()
	r.gate.SetCookie(w, httptest.NewRequest(http.MethodGet, "/", nil), secret)
	return id, w.Result().Cookies()[0]
}

func (r *rig) token(name string, role access.Role) string {
	r.t.Helper()
	id, _ := r.signIn(name)
	secret, _, err := r.gate.NewToken(context.Background(), id, "127.0.0.1", access.TokenRequest{Label: "test", Role: role, ExpiresAt: r.clock().Add(24 * time.Hour)})
	must(r.t, err)
	return secret
}

// beat has machines report.
func (r *rig) beat(route string, machines ...string) {
	now := r.clock()
	for _, m := range machines {
		r.seq++
		r.fleet.Heartbeat(m, schemas.AppendHeartbeat(nil, &schemas.Heartbeat{
			Seq: r.seq, Boot: "b", At: now, Vehicle: "bus-" + m, Route: route, State: schemas.Running, Epoch: 1, LastSeq: 12, Pending: 2, PendingMinor: 450, Currency: "USD",
		}))
	}
}

// pass lets time go by while machines of route A report.
func (r *rig) pass(d time.Duration, machines ...string) {
	for end := r.clock().Add(d); r.clock().Before(end); {
		r.mu.Lock()
		r.now = r.now.Add(5 * time.Second)
		r.mu.Unlock()
		r.beat("A", machines...)
		r.wait()
	}
}

// live is a rig after a morning: m1 works, m2 and the evil machine fell silent with records inside, and the ledger has some of m1's, a gap in
// those of m2, and evidence against m2.
func live(t testing.TB, o options) *rig {
	r := newRig(t, o)
	r.beat(evil, evil)
	r.pass(30*time.Second, "m1", "m2")
	r.pass(4*time.Minute, "m1")
	m1, m2 := ledgertest.New(t, "m1", "bus-m1", 1).Mint(12), ledgertest.New(t, "m2", "bus-m2", 1).Mint(12)
	forged := ledgertest.New(t, "m2", "bus-m2", 1)
	forged.Key[0] ^= 1
	for _, b := range []struct {
		m           *ledgertest.Machine
		first, last uint32
	}{{m1, 1, 12}, {m2, 1, 3}, {m2, 6, 8}, {forged.Mint(4), 4, 4}} {
		slot, payload := b.m.Batch(b.first, b.last)
		_, err := r.fleet.Ledger().Ingest(context.Background(), slot, payload)
		must(t, err)
	}
	r.pass(time.Minute, "m1")
	r.until("the faults", func() bool {
		open, err := r.store.Faults().Open(context.Background())
		must(t, err)
		silent := 0
		for _, f := range open {
			if f.Kind == faults.MachineSilent {
				silent++
			}
		}
		return silent == 2
	})
	return r
}

// request is one call.
type request struct {
	method, path, body, token string
	header                    http.Header
	cookie                    *http.Cookie
}

// do sends a request to the console.
func (r *rig) do(q request) *httptest.ResponseRecorder {
	r.t.Helper()
	var body io.Reader = http.NoBody
	if q.body != "" {
		body = strings.NewReader(q.body)
	}
	if q.method == "" {
		q.method = http.MethodGet
	}
	req := httptest.NewRequest(q.method, q.path, body)
	req.RemoteAddr = "127.0.0.1:4711"
	for k, v := range q.header {
		req.Header[k] = v
	}
	if q.body != "" && req.Header.Get("Content-Type") == "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if q.token != "" {
		req.Header.Set("Authorization", "Bearer "+q.token)
	}
	if q.cookie != nil {
		req.AddCookie(q.cookie)
	}
	w := httptest.NewRecorder()
	r.console.ServeHTTP(w, req)
	return w
}

// get reads what a path answers to an admin.
func get[T any](r *rig, path string) T {
	r.t.Helper()
	w := r.do(request{path: path, token: r.tokens[access.Admin]})
	if w.Code != http.StatusOK {
		r.t.Fatalf("GET %s: %d %s", path, w.Code, w.Body)
	}
	return decode[T](r.t, w)
}

func decode[T any](t testing.TB, w *httptest.ResponseRecorder) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
		t.Fatalf("%v: %s", err, w.Body)
	}
	return v
}

// faults are the open faults.
func (r *rig) faults() []view.FaultRow {
	r.t.Helper()
	return get[view.FaultList](r, "/api/v1/faults?show=all_open").Faults
}

// fault is the open fault of a machine.
func (r *rig) fault(machine string) string {
	r.t.Helper()
	for _, f := range r.faults() {
		if f.Subject.Machine == machine {
			return f.ID
		}
	}
	r.t.Fatalf("machine %s has no fault", machine)
	return ""
}
