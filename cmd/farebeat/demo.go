package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/farebeat/farebeat/configs"
	"github.com/farebeat/farebeat/edge/machine/city"
	"github.com/farebeat/farebeat/edge/machine/journal"
	"github.com/farebeat/farebeat/fleet"
	"github.com/farebeat/farebeat/fleet/console/access"
	"github.com/farebeat/farebeat/fleet/expect"
	"github.com/farebeat/farebeat/fleet/expect/gtfs"
	"github.com/farebeat/farebeat/fleet/expect/tampa"
	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/keys"
	"github.com/farebeat/farebeat/fleet/presence"
	"github.com/farebeat/farebeat/fleet/rules"
	"github.com/farebeat/farebeat/fleet/store"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
	"github.com/farebeat/farebeat/topics/session"
)

// demoOptions are the flags of `farebeat demo`.
type demoOptions struct {
	length  time.Duration // 0: until interrupted
	speed   float64
	start   string
	address string
	console string
	seed    uint64
	asJSON  bool
	keep    string
}

func newDemoCmd() *cobra.Command {
	var o demoOptions
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show the whole loop on a real city's timetable",
		Long: `Show the whole loop: a broker, the fleet service, a real city's buses on their timetable
(Tampa, HART, June 2018) with a payment machine and a gateway on each, sped up. Machines
lose their uplink; their faults reach the vehicles; the gateways read them over a simulated
Bluetooth link; the transactions arrive in the ledger; the faults close.

Nothing is needed and nothing is left behind. Any MQTT client may look on at --address.
With --for it ends by itself and compares every journal with the ledger; --json prints one
object at the end. Exit code 0 only where nothing is missing, nothing contradicts and at least
one recovery was completed; else 3.`,
		Example: "  farebeat demo --for 60s --json",
		RunE:    func(cmd *cobra.Command, _ []string) error { return runDemo(cmd, o) },
	}
	f := cmd.Flags()
	f.DurationVar(&o.length, "for", 0, "end after this long; until interrupted without it")
	f.Float64Var(&o.speed, "speed", 60, "simulated seconds in a second")
	f.StringVar(&o.start, "start", "06:50", "time of day at which it begins")
	f.StringVar(&o.address, "address", "127.0.0.1:1883", "where MQTT clients may look on; another port is taken if it is in use")
	f.StringVar(&o.console, "console", "127.0.0.1:8080", "where a browser may look on; another port is taken if it is in use")
	f.Uint64Var(&o.seed, "seed", 1, "of everything that is random")
	f.BoolVar(&o.asJSON, "json", false, "print one JSON object at the end, nothing else on standard output")
	f.StringVar(&o.keep, "keep", "", "data folder to keep; a temporary one is used and removed without it")
	return cmd
}

// demoResult is what `farebeat demo --json` prints.
type demoResult struct {
	Machines               int     `json:"machines"`
	Heartbeats             uint64  `json:"heartbeats"`
	FaultsOpened           int     `json:"faults_opened"`
	FaultsClosed           int     `json:"faults_closed"`
	TransactionsWritten    uint64  `json:"transactions_written"`
	TransactionsInLedger   uint64  `json:"transactions_in_ledger"`
	Missing                uint64  `json:"missing"`
	Duplicates             uint64  `json:"duplicates"`
	Conflicts              uint64  `json:"conflicts"`
	Recoveries             int     `json:"recoveries"`
	SecondsToFirstRecovery float64 `json:"seconds_to_first_recovery"` // real; -1 if there was none
}

// demo is a running demo.
type demo struct {
	o      demoOptions
	clock  *city.Clock
	zone   *time.Location
	server *server
	city   *simulatedCity
	store  *store.Store
	began  time.Time

	mu        sync.Mutex
	round     fleet.Round
	events    []demoEvent
	opened    map[string]bool
	closed    map[string]bool
	recovered map[string]schemas.Recovery // newest word of each recovery
	first     time.Duration               // until the first recovery was complete
	completed map[string]bool             // fault and machine of complete recoveries
}

func runDemo(cmd *cobra.Command, o demoOptions) (err error) {
	if !(o.speed >= 1 && o.speed <= 600) {
		return usageError(fmt.Errorf("--speed %g: want 1 to 600", o.speed))
	}
	if o.length < 0 || o.length > 0 && o.length < 20*time.Second {
		return usageError(fmt.Errorf("--for %s: want at least 20s, so that a recovery can be seen", o.length))
	}
	dir := o.keep
	if dir == "" {
		if dir, err = os.MkdirTemp("", "farebeat-demo-"); err != nil {
			return fmt.Errorf("make a temporary folder: %w", err)
		}
		defer func() { _ = os.RemoveAll(dir) }() // a temporary folder that stays harms nobody
	} else if err := os.MkdirAll(dir, 0o700); err != nil {
		return usageError(err)
	}
	d, err := newDemo(cmd, o, dir)
	if err != nil {
		if cmd.Context().Err() != nil {
			return nil // interrupted while it was being set up
		}
		return err
	}
	defer func() { err = errors.Join(err, d.store.Close()) }()
	if err := d.run(cmd); err != nil {
		return err
	}
	result, err := d.result(context.WithoutCancel(cmd.Context()))
	if err != nil {
		return err
	}
	return d.print(cmd.OutOrStdout(), result)
}

// latestTuesday is a weekday whose date is not in the future.
func latestTuesday(now time.Time) gtfs.Date {
	d := gtfs.DateOf(now)
	for d.Weekday() != time.Tuesday {
		d = d.AddDays(-1)
	}
	return d
}

func newDemo(cmd *cobra.Command, o demoOptions, dir string) (*demo, error) {
	ctx := cmd.Context()
	feed, err := tampa.Feed(ctx)
	if err != nil {
		return nil, err
	}
	date := latestTuesday(time.Now().In(feed.Location))
	at, err := time.ParseInLocation("2006-01-02 15:04", date.String()+" "+o.start, feed.Location)
	if err != nil {
		return nil, usageError(fmt.Errorf("--start %q: want a time of day such as 06:50", o.start))
	}
	d := &demo{
		o: o, zone: feed.Location, clock: city.NewClock(at, o.speed, time.Now), opened: map[string]bool{}, closed: map[string]bool{},
		recovered: map[string]schemas.Recovery{}, completed: map[string]bool{},
	}
	tree, err := topics.New("tampa")
	must(err) // a name that is known to be good
	master, _, err := keys.LoadOrCreate(filepath.Join(dir, "master.key"))
	if err != nil {
		return nil, err
	}
	if d.store, err = store.Open(ctx, storePath(dir), store.Options{Now: d.clock.Now}); err != nil {
		return nil, err
	}
	logger := slog.New(slog.DiscardHandler)
	if os.Getenv("FAREBEAT_LOG_LEVEL") != "" {
		logger = newLogger(cmd.ErrOrStderr(), slog.LevelDebug)
	}
	if d.server, err = d.newServer(ctx, tree, feed, master, logger); err != nil {
		return nil, errors.Join(err, d.store.Close())
	}
	d.city, err = newSimulatedCity(ctx, cityOptions{
		operator: tree.Operator(), clock: d.clock, duties: onDuty(dutiesOn(feed, date), at), dir: dir, zone: feed.Location, keys: master,
		home: simulatedHome, taps: 240, outages: demoOutages(feed, date, at, o), seed: o.seed, gateways: true, pace: time.Millisecond, logger: logger,
		journal: journal.Options{FirstEpoch: uint32(time.Now().Unix()), NoSync: o.keep == ""},
		connect: func(id topics.Identity) (session.Options, func()) {
			c := &cuttable{}
			return session.Options{ClientID: string(id.Role) + "-" + id.Name, Logger: logger, Dial: func(ctx context.Context) (net.Conn, error) {
				return c.dial(ctx, func(ctx context.Context) (net.Conn, error) { return d.server.broker.Dial(ctx, id) })
			}}, c.cut
		},
	})
	if err != nil {
		return nil, errors.Join(err, d.store.Close())
	}
	return d, nil
}

func (d *demo) newServer(ctx context.Context, tree topics.Tree, feed *gtfs.Feed, master *keys.Master, logger *slog.Logger) (*server, error) {
	c := configs.Default()
	c.Data = filepath.Dir(d.store.Path())
	c.Broker.MetricsAddress = ""
	c.Broker.Listeners = []configs.Listener{{Name: "mqtt", Kind: "tcp", Address: freeAddress(ctx, d.o.address), AnonymousReaders: true}}
	c.Console.Address = freeAddress(ctx, d.o.console)
	interval := 15 * time.Second
	file := filepath.Join(filepath.Dir(d.store.Path()), "rules.yaml")
	live, err := demoRules(file, feed.Location, d.clock.Now())
	if err != nil {
		return nil, err
	}
	return newServer(ctx, serverOptions{
		tree: tree, config: c, rules: live, store: d.store, keys: master, now: d.clock.Now, speed: d.o.speed, open: &access.Identity{Name: "demo", Role: access.Admin, Via: access.ViaOpen}, watch: d.watch, logger: logger, orders: ordersPath(filepath.Dir(d.store.Path())),
		tick: max(d.clock.Real(5*time.Second), 10*time.Millisecond),
		engine: fleet.EngineConfig{
			Location: feed.Location, Interval: interval, WarmUp: presence.Config{Interval: interval, DeadlineIntervals: 4}.Deadline(),
			Expect: expect.Chain{expect.NewTimetable(feed)}, Rules: live.Set(),
		},
	})
}

// demoRules begins with a file of the default rules, so that they can be changed in the console. A file that was kept stays.
func demoRules(file string, zone *time.Location, now time.Time) (*rules.Live, error) {
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		text, err := rules.Default(zone).YAML()
		if err == nil {
			err = os.WriteFile(file, text, 0o600)
		}
		if err != nil {
			return nil, fmt.Errorf("write the demo's rules: %w", err)
		}
	}
	return rules.OpenLive(file, zone, now)
}

// freeAddress is address, or one with a port of the system's choice where somebody listens there.
func freeAddress(ctx context.Context, address string) string {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return "127.0.0.1:0"
	}
	l.Close()
	return address
}

// onDuty leaves out the vehicles whose day is over at at, so that the demo begins with what runs.
func onDuty(duties []city.Duty, at time.Time) []city.Duty {
	later := map[string]bool{}
	for _, duty := range duties {
		later[duty.Vehicle] = later[duty.Vehicle] || duty.To.After(at)
	}
	return slices.DeleteFunc(duties, func(duty city.Duty) bool { return !later[duty.Vehicle] })
}

// demoOutages are three stories: a route that loses half of its machines, one that falls wholly silent,
// and a few machines here and there. They end before a demo with --for does.
func demoOutages(feed *gtfs.Feed, date gtfs.Date, at time.Time, o demoOptions) []city.Outage {
	rows := expect.PerHour(feed, date)
	hour := at.In(feed.Location).Hour()
	rows = slices.DeleteFunc(rows, func(r expect.RouteHour) bool { return r.Hour != (hour+1)%24 })
	slices.SortFunc(rows, func(a, b expect.RouteHour) int { return b.Vehicles - a.Vehicles })
	length := 60 * time.Second
	if o.length > 0 {
		length = o.length
	}
	simulated := func(share float64) time.Duration {
		return time.Duration(share * float64(length) * o.speed).Round(time.Second)
	}
	story := func(route string, share float64, from, lasts float64) city.Outage {
		return city.Outage{Kind: city.Cut, Route: route, Share: share, At: at.Add(simulated(from)), For: simulated(lasts)}
	}
	var list []city.Outage
	if len(rows) >= 2 {
		list = append(list, story(rows[0].Route, 0.5, 0.05, 0.4), story(rows[1].Route, 1, 0.12, 0.35))
	}
	return append(list, story("", 0.03, 0.2, 0.3))
}

// watch is called by the fleet after each round.
func (d *demo) watch(r fleet.Round) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.round = r
	for _, c := range r.Changes {
		d.note(c)
	}
}

func (d *demo) note(c faults.Change) {
	f := c.Fault
	if f.Machine != nil && f.Machine.Recovery != nil {
		p := f.Machine.Recovery
		d.recovered[f.Subject.Machine] = schemas.Recovery{
			AsOf: p.AsOf, Machine: f.Subject.Machine, Vehicle: f.Machine.Vehicle, Fault: f.ID, State: p.State,
			Read: p.Read, Total: p.Total, Receipted: p.Receipted, LastError: p.LastError,
		}
		if p.State == schemas.RecoveryComplete && p.Total > 0 {
			if len(d.completed) == 0 {
				d.first = time.Since(d.began)
			}
			d.completed[f.ID] = true
		}
	}
	if !c.Told() {
		return
	}
	switch c.Event.Change {
	case faults.ChangeOpened, faults.ChangeReopened:
		d.opened[f.ID] = true
	case faults.ChangeClosed:
		d.closed[f.ID] = true
	}
	subject := "all machines"
	switch {
	case f.Subject.Machine != "":
		subject = "machine " + f.Subject.Machine
	case f.Subject.Route != "":
		subject = "route " + f.Subject.Route
	}
	d.events = append(d.events, demoEvent{c.Event.At.In(d.zone), fmt.Sprintf("%s %s: %s", subject, c.Event.Change, c.Event.Reason)})
	d.events = d.events[max(0, len(d.events)-2*demoListRows):]
}

// run lets everything live. The city ends before the fleet, which looks away first: that is no outage.
func (d *demo) run(cmd *cobra.Command) error {
	serving, stopServing := context.WithCancel(context.WithoutCancel(cmd.Context()))
	defer stopServing()
	group, inner := errgroup.WithContext(serving)
	ready := make(chan struct{})
	group.Go(func() error { return d.server.run(inner, func() { close(ready) }) })
	select {
	case <-ready:
	case <-inner.Done():
		return errors.Join(group.Wait(), d.city.close())
	}
	living, stopLiving := context.WithCancel(inner)
	defer stopLiving()
	cityDone := make(chan error, 1)
	d.began = time.Now()
	go func() { cityDone <- d.city.run(living) }()
	err := d.show(inner, cmd)
	d.server.fleet.Engine().SetBlind(d.clock.Now(), true)
	stopLiving()
	err = errors.Join(err, <-cityDone, d.city.close())
	stopServing()
	return errors.Join(err, group.Wait())
}

// drainPatience is how long the last transactions may take to come home.
const drainPatience = 60 * time.Second

// show draws the screen until the demo is over: at --for, or at an interrupt, after which what is still
// inside machines is brought home first.
func (d *demo) show(inner context.Context, cmd *cobra.Command) error {
	out := cmd.OutOrStdout()
	if d.o.asJSON {
		out = cmd.ErrOrStderr()
	}
	screen := &screenWriter{out: out}
	live := isTerminal(out)
	ticker := time.NewTicker(500 * time.Millisecond)
	defer ticker.Stop()
	var end <-chan time.Time
	if d.o.length > 0 {
		end = time.After(d.o.length * 3 / 4)
	}
	fmt.Fprintf(out, "farebeat demo: Tampa's buses at %gx; look on with a browser at %s, with MQTT clients at %s, topic %s#\n", d.o.speed, d.server.console.url(), d.server.broker.Addr("mqtt"), d.server.o.tree.Root())
	lastLine := time.Now()
	draining := time.Time{}
	for {
		select {
		case <-inner.Done():
			return nil
		case <-end:
			end, draining = nil, time.Now()
			d.drain()
		case <-cmd.Context().Done():
			if d.o.length == 0 {
				return nil // Ctrl-C
			}
			return cmd.Context().Err()
		case <-ticker.C:
		}
		if live {
			if err := screen.draw(d.screen().render()); err != nil {
				return err
			}
		} else if time.Since(lastLine) > 5*time.Second {
			lastLine = time.Now()
			fmt.Fprintln(out, strings.TrimSpace(d.screen().render()[3]))
		}
		if draining.IsZero() {
			continue
		}
		if over := time.Since(draining); over > drainPatience || over > d.o.length/4 && d.home() {
			return nil
		}
	}
}

// drain ends what goes wrong, so that all comes home.
func (d *demo) drain() {
	d.city.city.StopTaps()
	d.city.city.EndOutages()
}

// home reports whether nothing is left in a machine or outbox and every fault of a machine has closed.
func (d *demo) home() bool {
	stats := d.city.city.Stats()
	d.mu.Lock()
	defer d.mu.Unlock()
	for id := range d.opened {
		if strings.HasPrefix(id, "M-") && !d.closed[id] {
			return false
		}
	}
	return stats.Written == d.server.fleet.Ledger().Stats().New
}

// screen is the demo as it stands.
func (d *demo) screen() demoScreen {
	stats := d.city.city.Stats()
	totals, err := d.server.fleet.Ledger().Totals(context.Background(), emptyFilter())
	d.mu.Lock()
	defer d.mu.Unlock()
	s := demoScreen{
		City: "Tampa's buses", Now: d.clock.Now().In(d.zone), Speed: d.o.speed, Address: d.server.broker.Addr("mqtt"), Topic: d.server.o.tree.Root() + "#",
		OpenFaults: len(d.opened) - len(d.closed), Closed: len(d.closed), Currency: "USD", Events: d.events,
	}
	for _, r := range d.round.Routes {
		s.Online += r.Online
		s.Expected += r.Expectation.Now
		if r.Verdict.Firing {
			s.Routes = append(s.Routes, demoRoute{Route: r.Route, Online: r.Online, Expected: r.Expectation.Now, Threshold: r.Threshold, Since: r.Verdict.Since.In(d.zone), Kind: string(r.Verdict.Kind)})
		}
	}
	if err == nil {
		for _, m := range totals.Money {
			s.Home += m.Minor
		}
	}
	s.AtRisk = max(0, stats.WrittenMinor-s.Home)
	for _, r := range d.recovered {
		s.Recoveries = append(s.Recoveries, r)
	}
	slices.SortFunc(s.Recoveries, func(a, b schemas.Recovery) int { return b.AsOf.Compare(a.AsOf) })
	return s
}

// result compares what every machine wrote with what the ledger holds.
func (d *demo) result(ctx context.Context) (demoResult, error) {
	stats, book := d.city.city.Stats(), d.server.fleet.Ledger()
	d.mu.Lock()
	r := demoResult{
		Machines: stats.Machines, Heartbeats: stats.Heartbeats, FaultsOpened: len(d.opened), FaultsClosed: len(d.closed),
		Duplicates: book.Stats().Duplicate, Conflicts: book.Stats().Conflict + book.Stats().Forged + book.Stats().Malformed + book.Stats().Broken,
		Recoveries: len(d.completed), SecondsToFirstRecovery: -1,
	}
	if len(d.completed) > 0 {
		r.SecondsToFirstRecovery = float64(d.first.Milliseconds()) / 1000
	}
	d.mu.Unlock()
	for _, a := range d.city.city.Audit() {
		held, err := book.Held(ctx, a.Machine)
		if err != nil {
			return r, err
		}
		for _, e := range a.Epochs {
			r.TransactionsWritten += uint64(e.Last)
			for seq := uint32(1); seq <= e.Last; seq++ {
				if held[e.Epoch].Holds(seq) {
					r.TransactionsInLedger++
				}
			}
		}
	}
	r.Missing = r.TransactionsWritten - r.TransactionsInLedger
	return r, nil
}

func (d *demo) print(w io.Writer, r demoResult) error {
	if d.o.asJSON {
		if err := json.NewEncoder(w).Encode(r); err != nil {
			return err
		}
	} else {
		where := "missing"
		if d.o.length == 0 {
			where = "still inside machines"
		}
		fmt.Fprintf(w, "%d machines, %d heartbeats; %d faults opened, %d closed; %d transactions written, %d in the ledger, %d %s, %d conflicts; first recovery after %.1f s\n",
			r.Machines, r.Heartbeats, r.FaultsOpened, r.FaultsClosed, r.TransactionsWritten, r.TransactionsInLedger, r.Missing, where, r.Conflicts, r.SecondsToFirstRecovery)
	}
	switch {
	case r.Conflicts > 0:
		return differenceError("%d records contradict the ledger", r.Conflicts)
	case d.o.length == 0:
		return nil // interrupted: what is inside machines stays there
	case r.Missing > 0:
		return differenceError("%d transactions are missing in the ledger", r.Missing)
	case r.Recoveries == 0:
		return differenceError("no recovery was completed")
	}
	return nil
}
