package rulestest

import (
	"context"
	"fmt"
	"time"

	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/presence"
	"github.com/farebeat/farebeat/fleet/rules"
	"github.com/farebeat/farebeat/schemas"
)

// Result is one test that was run.
type Result struct {
	Name     string
	Looks    int // evaluations of one route or machine
	Failures []Failure
}

// Failed reports whether anything was not as the test wants it.
func (r Result) Failed() bool { return len(r.Failures) > 0 }

// Run runs the tests that pick picks, all where it is nil, against a set of rules. The error is that of ctx.
func (f *File) Run(ctx context.Context, set *rules.Set, pick func(name string) bool) ([]Result, error) {
	var out []Result
	for i := range f.doc.Tests {
		c := &f.doc.Tests[i]
		if pick != nil && !pick(c.Name.string) {
			continue
		}
		r := newRun(f.name, c, set)
		if err := r.run(ctx); err != nil {
			return out, fmt.Errorf("run rules test %s: %w", f.name, err)
		}
		out = append(out, Result{Name: c.Name.string, Looks: r.looks, Failures: r.failures})
	}
	return out, nil
}

// run is one test on its way.
type run struct {
	file     string
	test     *caseOf
	set      *rules.Set
	book     *faults.Book
	seeing   time.Duration // time that was not blind
	blind    bool
	routes   []routeRun
	machines []machineRun
	causes   rules.CauseState
	events   []happened
	failures []Failure
	looks    int
}

type routeRun struct {
	series *routeSeries
	state  rules.RouteState
	most   int           // online so far
	heard  bool          // ever
	last   time.Duration // when, in seeing time
}

type machineRun struct {
	id      string
	series  *machineSeries
	last    time.Duration // of the latest heartbeat, in seeing time
	lastAt  time.Time
	unsent  time.Time // since when it holds transactions
	silence time.Duration
}

// happened is one opening or closing.
type happened struct {
	at     time.Duration
	opened bool
	fault  faults.Fault
	told   bool // already matched with what is wanted
}

func newRun(file string, c *caseOf, set *rules.Set) *run {
	r := &run{file: file, test: c, set: set, book: faults.NewBook(faults.Policy{})}
	for i := range c.Series {
		r.routes = append(r.routes, routeRun{series: &c.Series[i]})
	}
	for i := range c.Machines {
		for _, id := range c.Machines[i].ids() {
			r.machines = append(r.machines, machineRun{id: id, series: &c.Machines[i], lastAt: c.start})
		}
	}
	return r
}

func (r *run) run(ctx context.Context) error {
	for at := time.Duration(0); at <= r.test.length; at += Tick {
		if err := ctx.Err(); err != nil {
			return err
		}
		r.round(at)
		for i := range r.test.Want {
			if w := &r.test.Want[i]; w.At.Duration == at {
				r.compareOpen(w)
			}
		}
	}
	r.compareEvents("opened", true, r.test.Opened)
	r.compareEvents("closed", false, r.test.Closed)
	return nil
}

// round evaluates everything once, as an engine does.
func (r *run) round(at time.Duration) {
	now, interval := r.test.start.Add(at), int(at/r.test.interval)
	r.blind = r.test.Blind.at(interval, 0) == 1
	if !r.blind && at > 0 {
		r.seeing += Tick
	}
	var inputs []faults.Input
	for i := range r.routes {
		inputs = append(inputs, r.checkRoute(now, interval, &r.routes[i]))
	}
	inputs = r.checkMachines(at, interval, inputs)
	for _, c := range r.book.Apply(now, inputs) {
		switch c.Event.Change {
		case faults.ChangeOpened, faults.ChangeReopened:
			r.events = append(r.events, happened{at: at, opened: true, fault: c.Fault})
		case faults.ChangeClosed:
			r.events = append(r.events, happened{at: at, fault: c.Fault})
		}
	}
}

func (r *run) checkRoute(now time.Time, interval int, route *routeRun) faults.RouteCheck {
	s := route.series
	r.looks++
	online := s.Online.at(interval, 0)
	route.most = max(route.most, online)
	heard := 0
	if online > 0 {
		heard = 1
	}
	if s.Heard.at(interval, heard) == 1 {
		route.heard, route.last = true, r.seeing
	}
	expected := s.Expected.at(interval, 0)
	in := rules.RouteInput{
		Route: s.Route.string, Online: online, Known: s.Known.at(interval, route.most), Late: s.Late.at(interval, r.late(now, interval, s)),
		Expected: expected, ExpectedNow: s.ExpectedNow.at(interval, expected), Low: s.Low.at(interval, 0), Source: s.source(), Blind: r.blind,
	}
	in.Lowest = s.Lowest.at(interval, r.lowest(s, interval))
	if route.heard && in.Known > 0 {
		in.AllSilentFor = r.seeing - route.last
	}
	var verdict rules.Verdict
	route.state, verdict = r.set.EvaluateRoute(now, in, route.state)
	return faults.RouteCheck{Route: in.Route, Verdict: verdict, Online: online, Expected: expected, Blind: r.blind}
}

// late is how many of those online presence would call late: what goes off line with the next value was silent before.
func (r *run) late(now time.Time, interval int, s *routeSeries) int {
	next := r.test.start.Add(time.Duration(interval+1) * r.test.interval)
	if next.Sub(now) > 2*r.test.beat {
		return 0
	}
	return max(0, s.Online.at(interval, 0)-s.Online.at(interval+1, 0))
}

func (s *routeSeries) source() string {
	switch {
	case s.Source.string != "":
		return s.Source.string
	case s.Expected.given():
		return "hand"
	}
	return "none"
}

// lowest is the least that is expected within the time that a change of duty takes.
func (r *run) lowest(s *routeSeries, interval int) int {
	around := int((rules.DutyChange + r.test.interval - 1) / r.test.interval)
	series := &s.ExpectedNow
	if !series.given() {
		series = &s.Expected
	}
	return min(series.least(interval-around, interval), series.least(interval, interval+around))
}

// checkMachines looks at those that any rule could concern and those that have a fault, and at
// what those that are lost have in common, as an engine does.
func (r *run) checkMachines(at time.Duration, interval int, inputs []faults.Input) []faults.Input {
	now := r.test.start.Add(at)
	survey := r.newSurvey()
	type look struct {
		m  *machineRun
		in rules.MachineInput
	}
	var looks []look
	for i := range r.machines {
		m := &r.machines[i]
		r.looks++
		in := r.machineInput(m, at, interval)
		survey.add(m, &in)
		if r.set.Attention(&in) || r.book.Concerns(m.id) {
			looks = append(looks, look{m, in})
		}
	}
	var causes rules.Causes
	r.causes, causes = r.set.EvaluateCauses(now, &survey.Survey, r.blind, r.causes)
	for _, v := range causes.Verdicts {
		inputs = append(inputs, faults.CauseCheck{
			Subject: v.Subject, Verdict: v.Verdict, Lost: v.Lost, Known: v.Known, Blind: r.blind,
			Context: faults.Context{Under: v.Under, Explained: v.Explained, Maintenance: r.set.Maintenance(now, rules.PlaceOf(v.Subject))},
		})
	}
	for i, in := range inputs {
		if in, ok := in.(faults.RouteCheck); ok {
			in.Context.Under, in.Context.Explained = lookUp(causes.Routes, in.Route)
			in.Context.Maintenance = r.set.Maintenance(now, rules.Place{Route: in.Route})
			inputs[i] = in
		}
	}
	for _, l := range looks {
		s := l.m.series
		check := faults.MachineCheck{
			Machine: l.m.id, Route: s.Route.string, Vehicle: s.Vehicle.string, State: l.in.State, LastHeartbeat: l.m.lastAt,
			Pending: l.in.Pending, Verdicts: r.set.EvaluateMachine(now, l.in), Blind: r.blind,
		}
		check.Context.Under, check.Context.Explained = r.causes.Explains(s.Vehicle.string, s.Depot.string, s.Network.string, s.Firmware.string)
		check.Context.Maintenance = r.set.Maintenance(now, rules.Place{Machine: l.m.id, Route: s.Route.string, Vehicle: s.Vehicle.string, Depot: s.Depot.string})
		inputs = append(inputs, check)
	}
	return inputs
}

func lookUp(m map[string]faults.Subject, route string) (faults.Subject, bool) {
	s, ok := m[route]
	return s, ok
}

// survey counts what presence would.
type survey struct {
	presence.Survey
	q presence.Question
}

func (r *run) newSurvey() *survey {
	return &survey{Survey: presence.Survey{Groups: map[presence.Group]presence.Tally{}}, q: r.set.Question(r.causes)}
}

func (s *survey) add(m *machineRun, in *rules.MachineInput) {
	if in.State == schemas.Parked || in.State == schemas.OutOfService {
		return
	}
	lost := in.Silence >= s.q.LostAfter
	missing := presence.Missing{Route: m.series.Route.string, Fresh: lost && in.Silence < s.q.FreshUntil, LastHeard: m.lastAt}
	s.All = s.count(s.All, s.q.Everyone, lost, missing)
	for d, name := range [presence.Dimensions]string{
		presence.ByVehicle: m.series.Vehicle.string, presence.ByDepot: m.series.Depot.string,
		presence.ByNetwork: m.series.Network.string, presence.ByFirmware: m.series.Firmware.string,
	} {
		if name == "" {
			continue
		}
		g := presence.Group{Dimension: presence.Dimension(d), Name: name}
		s.Groups[g] = s.count(s.Groups[g], s.q.Outages[g], lost, missing)
		missing.Groups[d] = &g
	}
	if lost {
		s.Missing = append(s.Missing, missing)
	}
}

func (s *survey) count(t presence.Tally, begun time.Time, lost bool, m presence.Missing) presence.Tally {
	t.Known++
	if lost {
		t.Lost++
		if m.Fresh {
			t.Fresh++
		}
		if !begun.IsZero() && m.LastHeard.After(begun) {
			t.Since++
		}
	}
	return t
}

func (r *run) machineInput(m *machineRun, at time.Duration, interval int) rules.MachineInput {
	now, s := r.test.start.Add(at), m.series
	if at%r.test.beat == 0 && s.Heard.at(interval, 1) == 1 && !r.blind {
		m.last, m.lastAt = r.seeing, now
	}
	m.silence = r.seeing - m.last
	in := rules.MachineInput{
		Machine: m.id, State: r.stateOf(m, interval), Silence: m.silence, RunState: schemas.Running,
		Pending: uint32(s.Pending.at(interval, 0)), Skew: time.Duration(s.Skew.at(interval, 0)) * time.Second, Blind: r.blind,
	}
	if code := s.Fault.at(interval, "-"); code != "-" {
		in.Fault, in.RunState = code, schemas.Defective
	}
	switch {
	case in.Pending == 0:
		m.unsent = time.Time{}
	case m.unsent.IsZero():
		m.unsent = now
	}
	if in.Pending > 0 {
		in.OldestPending, in.UnsentSince = m.unsent.Add(in.Skew), m.unsent
	}
	return in
}

// stateOf is the state that presence comes to after a silence, unless the test says another.
func (r *run) stateOf(m *machineRun, interval int) schemas.MachineCondition {
	state := schemas.Up
	switch {
	case m.silence >= 4*r.test.beat:
		state = schemas.Dark
	case m.silence >= 2*r.test.beat:
		state = schemas.Late
	}
	return schemas.MachineCondition(m.series.State.at(interval, string(state)))
}
