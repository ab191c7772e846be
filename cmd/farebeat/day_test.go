package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/farebeat/farebeat/broker"
	brokerstore "github.com/farebeat/farebeat/broker/store"
	"github.com/farebeat/farebeat/configs"
	"github.com/farebeat/farebeat/edge/machine"
	"github.com/farebeat/farebeat/edge/machine/city"
	"github.com/farebeat/farebeat/edge/machine/journal"
	"github.com/farebeat/farebeat/fleet"
	"github.com/farebeat/farebeat/fleet/counts"
	"github.com/farebeat/farebeat/fleet/expect"
	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/keys"
	"github.com/farebeat/farebeat/fleet/presence"
	"github.com/farebeat/farebeat/fleet/rules"
	"github.com/farebeat/farebeat/fleet/store"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
	"github.com/farebeat/farebeat/topics/session"
)

// day is a virtual day: the real broker, sessions, store, fleet, machines and gateways, on the clock of
// testing/synctest. A test says what happens and what must be seen, each at its time; Run lets it be.
type day struct {
	t      *testing.T
	date   string
	zone   *time.Location
	dir    string
	rules  string // a rules file; the default rules without it
	expect expect.Source
	listen bool // heartbeats come to the fleet by a session of its own, which Deafen cuts
	// bare leaves the gateways at home: for long days that bring nothing home. Hours of their radios in one bubble
	// were seen to end the race detector of Go 1.26.8 itself (SIGSEGV in its StackDepot), with no race reported.
	bare   bool
	duties []city.Duty
	rows   []expect.RouteHour
	steps  []step

	// While it runs.
	ctx   context.Context
	log   *slog.Logger
	tree  topics.Tree
	keys  *keys.Master
	store *store.Store
	city  *simulatedCity
	// brokerStore is nil with listen: then the broker forgets.
	brokerStore *brokerstore.Store
	stop        func() // the server
	sees        *viewer
	hands       map[string]*hand
	mu          sync.Mutex
	broker      *broker.Broker
	fleet       *fleet.Fleet
	ear         *cuttable // the fleet's own connection, with listen
	deaf        bool
}

// step is one line of a day's story.
type step struct {
	at   time.Time
	want bool
	name string
	do   func(*day) error
}

// action is what happens; want is what must be seen.
type (
	action func(*day) error
	want   struct {
		name  string
		check func(*day) error
	}
)

func newDay(t *testing.T, date, zone string) *day {
	t.Helper()
	loc, err := time.LoadLocation(zone)
	if err != nil {
		t.Fatal(err)
	}
	return &day{t: t, date: date, zone: loc, dir: t.TempDir(), hands: map[string]*hand{}}
}

// clock reads a local time such as 07:20, 25:10:30 of the service day, or "02:30 CET" where the clock shows it twice.
func (d *day) clock(s string) time.Time {
	d.t.Helper()
	text, abbreviation, _ := strings.Cut(s, " ")
	var h, m, sec int
	if n, err := fmt.Sscanf(text+":00", "%d:%d:%d", &h, &m, &sec); n != 3 {
		d.t.Fatalf("time %q: %v", s, err)
	}
	midnight, err := time.ParseInLocation(time.DateOnly, d.date, d.zone)
	if err != nil {
		d.t.Fatal(err)
	}
	at := time.Date(midnight.Year(), midnight.Month(), midnight.Day(), h, m, sec, 0, d.zone)
	if abbreviation == "" {
		return at
	}
	for _, by := range []time.Duration{0, time.Hour, -time.Hour} {
		other := at.Add(by)
		if name, _ := other.Zone(); name == abbreviation && other.Format("15:04:05") == at.Format("15:04:05") {
			return other
		}
	}
	d.t.Fatalf("time %q: there is none", s)
	return at
}

// hours is a number of machines over hours of the local clock, as "07-09".
type hours struct {
	from, to int
	n        int
}

func expected(text string, n int) hours {
	h := hours{n: n}
	if k, err := fmt.Sscanf(text, "%02d-%02d", &h.from, &h.to); k != 2 {
		panic(fmt.Sprintf("hours %q: %v", text, err))
	}
	return h
}

func vehicleOf(machine string) string { return "bus-" + machine }

func nth(route string, i int) string { return fmt.Sprintf("%s-%02d", route, i) }

// Route has machines R-01 to R-n on duty in these hours, and a person expects as many.
func (d *day) Route(route string, list ...hours) {
	for _, h := range list {
		for i := 1; i <= h.n; i++ {
			d.duties = append(d.duties, city.Duty{
				Vehicle: vehicleOf(nth(route, i)), Route: route, Trip: fmt.Sprintf("%s/%d/%d", route, h.from, i),
				From: d.clock(fmt.Sprintf("%d:00", h.from)), To: d.clock(fmt.Sprintf("%d:00", h.to)),
			})
		}
		d.Expect(route, h)
	}
}

// Expect is what a person expects, whoever drives.
func (d *day) Expect(route string, h hours) {
	for k := h.from; k < h.to; k++ {
		d.rows = append(d.rows, expect.RouteHour{Route: route, Hour: k % 24, Vehicles: h.n})
	}
}

// At lets something happen.
func (d *day) At(at string, a action) {
	d.t.Helper()
	d.steps = append(d.steps, step{at: d.clock(at), name: at, do: a})
}

// Want is checked at its time, when all that happened before has settled.
func (d *day) Want(at string, w want) {
	d.t.Helper()
	d.steps = append(d.steps, step{at: d.clock(at), want: true, name: at + " " + w.name, do: w.check})
}

// Always is checked every interval, from and to included.
func (d *day) Always(from, to string, every time.Duration, w want) {
	d.t.Helper()
	for at := d.clock(from); !at.After(d.clock(to)); at = at.Add(every) {
		d.steps = append(d.steps, step{at: at, want: true, name: at.In(d.zone).Format("15:04:05 MST ") + w.name, do: w.check})
	}
}

// Run lets the day be.
func (d *day) Run() {
	d.t.Helper()
	if len(d.steps) == 0 {
		d.t.Fatal("a day without a step shows nothing")
	}
	slices.SortStableFunc(d.steps, func(a, b step) int { return a.at.Compare(b.at) })
	synctest.Test(d.t, d.live)
}

func (d *day) live(t *testing.T) {
	begin := d.steps[0].at
	for _, duty := range d.duties {
		if duty.From.Before(begin) {
			begin = duty.From
		}
	}
	begin = begin.Add(-2 * time.Minute) // the fleet warms up before anybody drives
	time.Sleep(time.Until(begin))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	d.ctx = ctx
	d.prepare(t)
	d.openServer(t)
	defer func() { d.stop() }()
	d.sees = newViewer(ctx, d)
	defer d.sees.close()
	endCity := d.openCity(t)
	defer endCity()
	defer func() {
		for _, h := range d.hands {
			h.close()
		}
	}()
	for _, s := range d.steps {
		time.Sleep(time.Until(s.at))
		synctest.Wait()
		if err := s.do(d); err != nil {
			t.Errorf("%s: %v", s.name, err)
			if !s.want {
				return
			}
		}
	}
}

func (d *day) prepare(t *testing.T) {
	var err error
	if d.tree, err = topics.New("daytown"); err != nil {
		t.Fatal(err)
	}
	if d.keys, err = keys.NewMaster([]byte(strings.Repeat("k", 32))); err != nil {
		t.Fatal(err)
	}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	if os.Getenv("DAY_LOG") != "" {
		d.log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
}

func (d *day) engine(t *testing.T) fleet.EngineConfig {
	set := rules.Default(d.zone)
	if d.rules != "" {
		var err error
		if set, err = rules.Parse("rules.yaml", []byte(d.rules), d.zone); err != nil {
			t.Fatal(err)
		}
	}
	chain := expect.Chain{expect.NewByHand(d.rows, d.zone)}
	if d.expect != nil {
		chain = append(chain, d.expect)
	}
	const interval = 15 * time.Second
	return fleet.EngineConfig{
		Location: d.zone, Interval: interval, WarmUp: presence.Config{Interval: interval, DeadlineIntervals: 4}.Deadline(),
		Expect: chain, Rules: set,
	}
}

// openServer starts what `farebeat serve` is, without sockets; with listen the fleet hears by a session only.
func (d *day) openServer(t *testing.T) {
	var err error
	if d.store, err = store.Open(d.ctx, filepath.Join(d.dir, "farebeat.db"), store.Options{}); err != nil {
		t.Fatal(err)
	}
	c := configs.Default()
	c.Broker.Listeners, c.Broker.MetricsAddress, c.Console.Address = nil, "", ""
	ctx, cancel := context.WithCancel(d.ctx)
	done := make(chan error, 1)
	started := make(chan struct{})
	if d.listen {
		b, f := d.newListening(t)
		d.set(b, f)
		if err := b.Start(ctx); err != nil {
			t.Fatal(err)
		}
		close(started)
		go func() { done <- errors.Join(f.Run(ctx), b.Close()) }()
	} else {
		if d.brokerStore, err = brokerstore.Open(d.ctx, filepath.Join(d.dir, "broker.db"), brokerstore.Options{}); err != nil {
			t.Fatal(err)
		}
		s, err := newServer(ctx, serverOptions{
			tree: d.tree, config: c, engine: d.engine(t), brokerStore: d.brokerStore, store: d.store, keys: d.keys, tick: c.Fleet.Tick, now: time.Now, logger: d.log,
			orders: ordersPath(d.dir),
		})
		if err != nil {
			t.Fatal(err)
		}
		d.set(s.broker, s.fleet)
		go func() { done <- s.run(ctx, func() { close(started) }) }()
	}
	<-started
	d.stop = func() {
		cancel()
		err := errors.Join(<-done, d.store.Close())
		if d.brokerStore != nil {
			err = errors.Join(err, d.brokerStore.Close())
		}
		if err != nil {
			t.Errorf("the server ended with %v", err)
		}
	}
}

func (d *day) newListening(t *testing.T) (*broker.Broker, *fleet.Fleet) {
	b, err := broker.New(broker.Options{Tree: d.tree, Logger: d.log})
	if err != nil {
		t.Fatal(err)
	}
	f, err := fleet.New(d.ctx, fleet.Options{
		Tree: d.tree, Store: d.store, Keys: d.keys, Engine: d.engine(t), Tick: configs.Default().Fleet.Tick, Now: time.Now, Logger: d.log,
		Listen: true,
		Session: session.Options{ClientID: "fleet", Logger: d.log, Dial: func(ctx context.Context) (net.Conn, error) {
			d.mu.Lock()
			defer d.mu.Unlock()
			if d.deaf {
				return nil, errors.New("the broker does not answer")
			}
			d.ear = &cuttable{}
			return d.ear.dial(ctx, func(ctx context.Context) (net.Conn, error) {
				return b.Dial(ctx, topics.Identity{Role: topics.RoleFleet, Name: "fleet"})
			})
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return b, f
}

func (d *day) set(b *broker.Broker, f *fleet.Fleet) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.broker, d.fleet = b, f
}

// dial connects to whichever broker runs now.
func (d *day) dial(ctx context.Context, id topics.Identity) (net.Conn, error) {
	d.mu.Lock()
	b := d.broker
	d.mu.Unlock()
	return b.Dial(ctx, id)
}

func (d *day) connect(id topics.Identity) (session.Options, func()) {
	c := &cuttable{}
	return session.Options{ClientID: string(id.Role) + "-" + id.Name, Logger: d.log, Dial: func(ctx context.Context) (net.Conn, error) {
		return c.dial(ctx, func(ctx context.Context) (net.Conn, error) { return d.dial(ctx, id) })
	}}, c.cut
}

func (d *day) openCity(t *testing.T) (end func()) {
	if len(d.duties) == 0 {
		return func() {}
	}
	var err error
	d.city, err = newSimulatedCity(d.ctx, cityOptions{
		operator: d.tree.Operator(), clock: city.NewClock(time.Now(), 1, time.Now), duties: d.duties, dir: d.dir, zone: d.zone, keys: d.keys,
		name:    func(vehicle string) string { return strings.TrimPrefix(vehicle, "bus-") },
		journal: journal.Options{NoSync: true}, gateways: !d.bare, connect: d.connect, logger: d.log,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(d.ctx)
	done := make(chan error, 1)
	go func() { done <- d.city.run(ctx) }()
	return func() {
		cancel()
		if err := errors.Join(<-done, d.city.close()); err != nil {
			t.Errorf("the city ended with %v", err)
		}
	}
}

// Cut takes their uplink from the first n machines of a route; Return gives all uplinks back.
func (d *day) Cut(route string, n int) action {
	return func(d *day) error {
		for i := 1; i <= n; i++ {
			d.city.city.Inject(city.Outage{Kind: city.Cut, Machine: nth(route, i), Count: 1, At: time.Now()})
		}
		return nil
	}
}

// Return ends every outage.
func (d *day) Return() action {
	return func(d *day) error { d.city.city.EndOutages(); return nil }
}

// Tap holds n cards to the reader of a machine.
func (d *day) Tap(id string, n int) action {
	return func(d *day) error {
		m, ok := d.city.city.Machine(id)
		if !ok {
			return fmt.Errorf("no machine %s", id)
		}
		for i := range n {
			if _, err := m.Tap(time.Now(), machine.Fare{AmountMinor: 200, Media: "Smart card", TokenID: fmt.Sprintf("tok-%d", i)}); err != nil {
				return err
			}
		}
		return nil
	}
}

// Restart stops broker and fleet, and starts them again from what is on disk.
func (d *day) Restart() action {
	return func(d *day) error { d.stop(); d.openServer(d.t); return nil }
}

// Deafen loses the fleet's own session, and refuses it, until Undeafen.
func (d *day) Deafen(deaf bool) action {
	return func(d *day) error {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.deaf = deaf
		if deaf {
			d.ear.cut()
		}
		return nil
	}
}

// hand is a session that a test speaks through.
type hand struct {
	d       *day
	id      topics.Identity
	session *session.Session
	stop    func()
	seq     uint64
}

func (d *day) hand(id topics.Identity) (*hand, error) {
	key := string(id.Role) + "/" + id.Name
	if h, ok := d.hands[key]; ok {
		return h, nil
	}
	so, _ := d.connect(id)
	so.CleanSession = true
	so.ClientID += "-by-hand"
	so.Backoff = session.Backoff{Min: time.Second, Max: time.Second}
	h, err := startSession(d.ctx, so)
	if err != nil {
		return nil, err
	}
	h.d, h.id = d, id
	d.hands[key] = h
	return h, nil
}

// startSession runs a session until close, and returns when it is up.
func startSession(ctx context.Context, so session.Options, handle ...func(*session.Session)) (*hand, error) {
	up := make(chan struct{})
	var once sync.Once
	so.Up = func() { once.Do(func() { close(up) }) }
	s, err := session.New(so)
	if err != nil {
		return nil, err
	}
	for _, f := range handle {
		f(s)
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	select {
	case <-up:
	case <-time.After(time.Minute):
		cancel()
		return nil, errors.Join(errors.New("no session after a minute"), <-ended)
	}
	return &hand{session: s, stop: func() { cancel(); <-ended }}, nil
}

func (h *hand) close() { h.stop() }

// Beat sends one heartbeat of a machine that no city drives.
func (d *day) Beat(id, route string) action {
	return func(d *day) error {
		h, err := d.hand(topics.Identity{Role: topics.RoleMachine, Name: id})
		if err != nil {
			return err
		}
		topic, err := d.tree.Build(topics.Address{Kind: topics.Heartbeat, Machine: id})
		if err != nil {
			return err
		}
		h.seq++
		b, err := schemas.Encode(&schemas.Heartbeat{Seq: h.seq, Boot: "by-hand", At: time.Now(), Vehicle: vehicleOf(id), Route: route, State: schemas.Running})
		if err != nil {
			return err
		}
		return h.session.Publish(d.ctx, session.Message{Topic: topic, Payload: b})
	}
}

// viewer is somebody who subscribed to everything.
type viewer struct {
	*hand
	mu     sync.Mutex
	stands map[string][]byte // retained, as a subscriber has it now
	events []schemas.FaultEvent
	bad    []error
}

func newViewer(ctx context.Context, d *day) *viewer {
	v := &viewer{stands: map[string][]byte{}}
	so, _ := d.connect(topics.Identity{Role: topics.RoleViewer, Name: "viewer"})
	so.CleanSession = true
	so.Backoff = session.Backoff{Min: time.Second, Max: time.Second}
	h, err := startSession(ctx, so, func(s *session.Session) {
		s.Handle(d.tree.Root()+"#", 1, func(_ context.Context, m *session.Delivery) error { v.take(d, m); return nil })
	})
	if err != nil {
		d.t.Fatal(err)
	}
	v.hand = h
	return v
}

func (v *viewer) take(d *day, m *session.Delivery) {
	v.mu.Lock()
	defer v.mu.Unlock()
	a, err := d.tree.Parse(m.Topic)
	if err != nil {
		v.bad = append(v.bad, err)
		return
	}
	if a.Kind == topics.Event {
		var e schemas.CloudEvent[schemas.FaultEvent]
		if err := schemas.Decode(m.Payload, schemas.NameEvent, &e); err != nil {
			v.bad = append(v.bad, err)
		}
		v.events = append(v.events, e.Data)
		return
	}
	if len(m.Payload) == 0 {
		delete(v.stands, m.Topic)
		return
	}
	v.stands[m.Topic] = m.Payload
}

// standing lists the topics of a kind that are not empty.
func (v *viewer) standing(d *day, match func(topics.Address) bool) (list []string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for topic := range v.stands {
		if a, err := d.tree.Parse(topic); err == nil && match(a) {
			list = append(list, topic)
		}
	}
	return list
}

func (v *viewer) get(d *day, a topics.Address, m schemas.Message, schema string) error {
	topic, err := d.tree.Build(a)
	if err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	payload, ok := v.stands[topic]
	if !ok {
		return fmt.Errorf("nothing stands on %s", topic)
	}
	return schemas.Decode(payload, schema, m)
}

// faultOf is the newest fault in the store that a query selects.
func (d *day) faultOf(s faults.Subject) (f faults.Fault, found bool, err error) {
	list, err := d.store.Faults().List(d.ctx, faults.Query{})
	for _, f := range list {
		if f.Subject == s {
			return f, true, err
		}
	}
	return faults.Fault{}, false, err
}

// fault wants the route's fault to be in a condition, in the store and for a subscriber.
func fault(route string, condition schemas.FaultCondition) want {
	return want{fmt.Sprintf("fault(%s, %s)", route, condition), func(d *day) error {
		stands := d.sees.standing(d, func(a topics.Address) bool { return a.Kind == topics.RouteFault && a.Route == route })
		return d.fault(faults.Subject{Route: route}, condition, len(stands))
	}}
}

// machineFault is fault for a machine; its topic is that of the vehicle that carries it.
func machineFault(id string, condition schemas.FaultCondition) want {
	return want{fmt.Sprintf("machineFault(%s, %s)", id, condition), func(d *day) error {
		stands := d.sees.standing(d, func(a topics.Address) bool { return a.Kind == topics.VehicleFault && a.Machine == id })
		return d.fault(faults.Subject{Machine: id}, condition, len(stands))
	}}
}

func (d *day) fault(s faults.Subject, condition schemas.FaultCondition, standing int) error {
	f, found, err := d.faultOf(s)
	if err != nil || !found {
		return errors.Join(err, errors.New("there never was one"))
	}
	if f.Condition != condition {
		return fmt.Errorf("it is %s since %s: %s", f.Condition, f.OpenedAt.In(d.zone).Format(time.TimeOnly), f.Reason)
	}
	if open := !f.Ended(); open != (standing == 1) {
		return fmt.Errorf("it is %s, and %d fault topics stand", f.Condition, standing)
	}
	return nil
}

// calm wants no fault to have been opened by anything so far.
func calm() want {
	return want{"calm()", func(d *day) error {
		list, err := d.store.Faults().List(d.ctx, faults.Query{})
		if err != nil {
			return err
		}
		for _, f := range list {
			err = errors.Join(err, fmt.Errorf("%s of %+v, opened %s: %s", f.Kind, f.Subject, f.OpenedAt.In(d.zone).Format(time.TimeOnly), f.Reason))
		}
		d.sees.mu.Lock()
		defer d.sees.mu.Unlock()
		if n := len(d.sees.events); n > 0 {
			err = errors.Join(err, fmt.Errorf("%d events", n))
		}
		return errors.Join(append(d.sees.bad, err)...)
	}}
}

// online wants a subscriber to see so many machines on a route, and whether we were blind.
func online(route string, n int, blind bool) want {
	return want{fmt.Sprintf("online(%s, %d, blind %t)", route, n, blind), func(d *day) error {
		var r schemas.RouteOnline
		if err := d.sees.get(d, topics.Address{Kind: topics.RouteOnline, Route: route}, &r, schemas.NameRouteOnline); err != nil {
			return err
		}
		if !blind && r.Online != n || r.Blind != blind {
			return fmt.Errorf("%d online, blind %t", r.Online, r.Blind)
		}
		return nil
	}}
}

// recovered wants the gateway to say that it read n records of a machine, and the ledger to hold them.
func recovered(id string, n int) want {
	return want{fmt.Sprintf("recovered(%s, %d)", id, n), func(d *day) error {
		var r schemas.Recovery
		a := topics.Address{Kind: topics.Recovery, Vehicle: vehicleOf(id), Machine: id}
		if err := d.sees.get(d, a, &r, schemas.NameRecovery); err != nil {
			return err
		}
		held, err := d.held(id)
		if err == nil && (r.State != schemas.RecoveryComplete || held != n) {
			err = fmt.Errorf("the recovery is %s with %d of %d read, the ledger holds %d", r.State, r.Read, r.Total, held)
		}
		return err
	}}
}

func (d *day) held(id string) (n int, err error) {
	spans, err := d.fleet.Ledger().Held(d.ctx, id)
	for _, s := range spans {
		n += int(s.Len())
	}
	return n, err
}

// home wants the ledger to hold what the journals wrote, n records in all, each once.
func home(n int) want {
	return want{fmt.Sprintf("home(%d)", n), func(d *day) error {
		written := 0
		for _, a := range d.city.city.Audit() {
			held, err := d.fleet.Ledger().Held(d.ctx, a.Machine)
			if err != nil {
				return err
			}
			for _, e := range a.Epochs {
				written += int(e.Last)
				if held[e.Epoch].CompleteTo() != e.Last || held[e.Epoch].Len() != uint64(e.Last) {
					return fmt.Errorf("machine %s wrote %d records in epoch %d, the ledger holds %v", a.Machine, e.Last, e.Epoch, held[e.Epoch])
				}
			}
			if a.Pending != 0 {
				return fmt.Errorf("machine %s holds %d records without a receipt", a.Machine, a.Pending)
			}
		}
		if s := d.fleet.Ledger().Stats(); written != n || s.New != uint64(n) || s.Conflict+s.Forged+s.Malformed+s.Broken > 0 {
			return fmt.Errorf("%d were written, the ledger says %+v", written, s)
		}
		return nil
	}}
}

// hourRow wants the stored counts of one hour.
func (d *day) hourRow(route, start string, distinct, peak int) want {
	at := d.clock(start)
	return want{fmt.Sprintf("hourRow(%s, %s)", route, start), func(d *day) error {
		rows, err := d.store.Counts().Hours(d.ctx, at, at.Add(time.Minute), route)
		if err != nil {
			return err
		}
		if len(rows) != 1 || rows[0].Start.Unix() != at.Unix() || rows[0].Length != time.Hour || rows[0].Distinct != distinct || rows[0].Peak != peak {
			return fmt.Errorf("%+v", rows)
		}
		return nil
	}}
}

// frames wants every minute stored in [from, to) to be blind, or to be not.
func (d *day) frames(from, to string, blind bool, n int) want {
	a, b := d.clock(from), d.clock(to)
	return want{fmt.Sprintf("frames(%s, %s, blind %t)", from, to, blind), func(d *day) error {
		seen := 0
		err := d.store.Counts().Frames(d.ctx, a, b, func(f counts.Frame) error {
			seen++
			if f.Blind != blind {
				return fmt.Errorf("the minute until %s says blind %t", f.At.In(d.zone).Format(time.TimeOnly), f.Blind)
			}
			return nil
		})
		if err == nil && seen != n {
			err = fmt.Errorf("%d minutes are stored, want %d", seen, n)
		}
		return err
	}}
}
