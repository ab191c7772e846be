package fleet

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/farebeat/farebeat/fleet/counts"
	"github.com/farebeat/farebeat/fleet/dispatch"
	"github.com/farebeat/farebeat/fleet/expect"
	"github.com/farebeat/farebeat/fleet/expect/gtfs"
	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/presence"
	"github.com/farebeat/farebeat/fleet/rules"
	"github.com/farebeat/farebeat/schemas"
)

// EngineConfig is what an Engine decides by.
type EngineConfig struct {
	Location *time.Location // the operator's zone: hours and service days
	Interval time.Duration  // between two heartbeats of a machine; 15 s if zero
	WarmUp   time.Duration  // after the start and after blindness nobody is judged; 0 for a recording
	Expect   expect.Source
	Rules    *rules.Set
	Policy   faults.Policy // how a fault lives; the zero value is the default
	// DepotGateways are the vehicle ids of gateways that stand in a depot's yard, by depot. They reach a machine of which no
	// vehicle is known.
	DepotGateways map[string]string
}

// Engine decides: from heartbeats and a clock to who is online, what should be, and which
// faults there are. It does no I/O and reads no clock, so that a recorded day runs through
// the same code as a live one. Heartbeat is safe for concurrent use; the other
// methods belong to one goroutine.
type Engine struct {
	cfg      EngineConfig
	board    *counts.Board
	presence *presence.Presence
	book     *faults.Book
	gateways sync.Map  // vehicles whose gateway is there
	decoders sync.Pool // of *schemas.HeartbeatDecoder, which are not safe for concurrent use

	states   map[string]rules.RouteState
	causes   rules.CauseState
	roster   []string
	rostered gtfs.Date // the local date that roster is for

	generation uint64          // of the source that roster is from
	week       map[string]bool // routes that are expected within a week of rostered; nil: not asked yet

	thresholds map[string]int // of the last round, by route
}

// NewEngine makes an engine that knows no machine, at start.
func NewEngine(cfg EngineConfig, start time.Time) *Engine {
	board := counts.New(counts.Config{Location: cfg.Location, Start: start, WarmUp: cfg.WarmUp})
	return &Engine{
		cfg:      cfg,
		board:    board,
		presence: presence.New(presence.Config{Interval: cfg.Interval}, board),
		book:     faults.NewBook(cfg.Policy),
		decoders: sync.Pool{New: func() any { return schemas.NewHeartbeatDecoder() }},
		states:   map[string]rules.RouteState{},

		thresholds: map[string]int{},
	}
}

// Heartbeat takes the payload of a machine's heartbeat that arrived at now. A payload that
// is not a heartbeat is an error and changes nothing. The payload is not kept.
func (e *Engine) Heartbeat(now time.Time, machine string, payload []byte) error {
	dec := e.decoders.Get().(*schemas.HeartbeatDecoder)
	defer e.decoders.Put(dec)
	var hb schemas.Heartbeat
	if err := dec.Decode(payload, &hb); err != nil {
		return fmt.Errorf("heartbeat of machine %q: %w", machine, err)
	}
	e.presence.Heartbeat(now, machine, &hb)
	return nil
}

// RouteView is one route at one round: what is there, what should be, and the verdict.
type RouteView struct {
	counts.RouteMinute
	Expectation expect.Expectation
	Verdict     rules.Verdict
	Missing     []string // known and not online, at most MaxMissing, sorted
}

// MaxMissing bounds the machines that a route names as missing.
const MaxMissing = 100

// Round is what one evaluation found.
type Round struct {
	At          time.Time
	Blind       bool
	Transitions []presence.Transition
	Routes      []RouteView // by name
	Changes     []faults.Change
}

// Round evaluates everything as of now. Call it every few seconds; more inputs, such as
// reports by hand, are applied with it. The changes must be stored before anyone is told.
func (e *Engine) Round(now time.Time, more []faults.Input) Round {
	e.setRoster(now)
	r := Round{At: now, Transitions: e.presence.Tick(now), Blind: e.presence.Blind(now)}
	inputs := append([]faults.Input(nil), more...)
	l := e.survey(now, r.Blind)
	inputs = e.checkCauses(&l, inputs)
	r.Routes, inputs = e.checkRoutes(&l, inputs)
	inputs = e.checkGone(&l, r.Routes, inputs)
	inputs = e.checkMachines(&l, inputs)
	r.Changes = e.book.Apply(now, inputs)
	return r
}

// setRoster names the routes of the local date once a day, and when the source changes: detection walks what is
// expected, never what was observed.
func (e *Engine) setRoster(now time.Time) {
	date := gtfs.DateOf(now.In(e.cfg.Location))
	var generation uint64
	if g, ok := e.cfg.Expect.(interface{ Generation() uint64 }); ok {
		generation = g.Generation()
	}
	if date == e.rostered && generation == e.generation {
		return
	}
	e.rostered, e.generation, e.week = date, generation, nil
	e.roster = e.cfg.Expect.Routes(now)
	e.board.SetRoster(now, e.roster)
}

// look is what one round sees and decides before faults hear of it.
type look struct {
	now    time.Time
	blind  bool
	survey presence.Survey
	wanted []presence.View // machines that a rule could concern, and those that have a fault
	causes rules.Causes
	silent map[string]bool // routes that are wholly silent
}

// survey looks at every machine once, and finds what those lost together have in common.
func (e *Engine) survey(now time.Time, blind bool) look {
	l := look{now: now, blind: blind, silent: map[string]bool{}}
	q := e.cfg.Rules.Question(e.causes)
	q.Names = MaxMissing
	q.Want = func(b *presence.Brief) bool {
		in := rules.MachineInput{Silence: b.Silence, RunState: b.Run, Fault: b.Fault, Pending: b.Pending, Skew: b.Skew}
		if b.Parked {
			in.Silence = 0
		}
		return e.cfg.Rules.Attention(&in)
	}
	wanted := map[string]bool{}
	l.survey = e.presence.Survey(q, func(v presence.View) {
		l.wanted = append(l.wanted, v)
		wanted[v.Machine] = true
	})
	for machine := range e.book.Machines() {
		if v, ok := e.presence.View(machine); ok && !wanted[machine] {
			l.wanted = append(l.wanted, v)
		}
	}
	e.causes, l.causes = e.cfg.Rules.EvaluateCauses(now, &l.survey, blind, e.causes)
	return l
}

// checkCauses says what is one fault of many machines. A cause of which the rules know nothing any more is over.
func (e *Engine) checkCauses(l *look, inputs []faults.Input) []faults.Input {
	told := map[faults.Subject]bool{}
	for _, v := range l.causes.Verdicts {
		told[v.Subject] = true
		inputs = append(inputs, faults.CauseCheck{
			Subject: v.Subject, Verdict: v.Verdict, Lost: v.Lost, Known: v.Known, Blind: l.blind,
			Context: faults.Context{Under: v.Under, Explained: v.Explained, Maintenance: e.cfg.Rules.Maintenance(l.now, rules.PlaceOf(v.Subject))},
		})
	}
	for _, s := range e.book.Subjects(faults.FamilyCause) {
		if !told[s] {
			inputs = append(inputs, faults.CauseCheck{
				Subject: s, Blind: l.blind, Known: l.survey.All.Known, Lost: l.survey.All.Lost,
				Verdict: faults.Verdict{Kind: faults.CauseKind(s), Reason: "The machines that were lost together are heard again."},
			})
		}
	}
	return inputs
}

func (e *Engine) checkRoutes(l *look, inputs []faults.Input) ([]RouteView, []faults.Input) {
	rows := e.board.Rows(l.now)
	missing := l.survey.Names
	views := make([]RouteView, len(rows))
	for i, row := range rows {
		exp, _ := e.cfg.Expect.Expect(row.Route, l.now)
		in := rules.RouteInput{
			Route: row.Route, Online: row.Online, Known: row.Known, Late: row.Late,
			Expected: exp.Expected, ExpectedNow: exp.Now, Lowest: exp.Lowest, Low: exp.Low, Exact: exp.Exact, Source: exp.Source,
			Blind: l.blind,
		}
		if exp.Source == expect.SourceHand {
			in.Low = 0 // a person's number is taken at its word
		}
		if row.Known > 0 && row.Heard {
			in.AllSilentFor = row.SilentFor
		}
		state, verdict := e.cfg.Rules.EvaluateRoute(l.now, in, e.states[row.Route])
		e.states[row.Route] = state
		row.Expected, row.Threshold = exp.Expected, verdict.Threshold
		e.thresholds[row.Route] = verdict.Threshold
		slices.Sort(missing[row.Route])
		views[i] = RouteView{RouteMinute: row, Expectation: exp, Verdict: verdict, Missing: missing[row.Route]}
		l.silent[row.Route] = verdict.Firing && verdict.Kind == faults.RouteSilent
		under, explained := l.causes.Routes[row.Route]
		inputs = append(inputs, faults.RouteCheck{
			Route: row.Route, Verdict: verdict, Online: row.Online, Expected: exp.Expected, Blind: l.blind,
			Context: faults.Context{Under: under, Explained: explained, Maintenance: e.cfg.Rules.Maintenance(l.now, rules.Place{Route: row.Route})},
		})
	}
	return views, inputs
}

// checkGone says of which faults the route is no more. Detection walks the roster, so that nothing else would end them.
func (e *Engine) checkGone(l *look, views []RouteView, inputs []faults.Input) []faults.Input {
	for _, s := range e.book.Subjects(faults.FamilyRoute) {
		_, there := slices.BinarySearchFunc(views, s.Route, func(v RouteView, route string) int { return cmp.Compare(v.Route, route) })
		if there || e.expected(l.now, s.Route) {
			continue // it does not run today, and comes again
		}
		inputs = append(inputs, faults.RouteCheck{Route: s.Route, Gone: true, Blind: l.blind, Verdict: faults.Verdict{Kind: faults.RouteSilent}})
	}
	return inputs
}

// expected reports whether a route is expected at all within a week.
func (e *Engine) expected(now time.Time, route string) bool {
	if e.week == nil {
		e.week = map[string]bool{}
		for days := range 8 {
			for _, r := range e.cfg.Expect.Routes(now.AddDate(0, 0, days)) {
				e.week[r] = true
			}
		}
	}
	return e.week[route]
}

// checkMachines applies the machine rules to those that any rule could concern and to those that have a fault.
func (e *Engine) checkMachines(l *look, inputs []faults.Input) []faults.Input {
	for _, v := range l.wanted {
		check := e.machineCheck(v, e.cfg.Rules.EvaluateMachine(l.now, machineInput(v, l.blind)), l.blind)
		place := rules.Place{Machine: v.Machine, Route: v.Route, Vehicle: v.Vehicle, Depot: v.Depot}
		check.Context.Maintenance = e.cfg.Rules.Maintenance(l.now, place)
		check.Context.Under, check.Context.Explained = e.causes.Explains(v.Vehicle, v.Depot, v.Network, v.Firmware)
		if !check.Context.Explained && l.silent[v.Route] {
			check.Context.Under, check.Context.Explained = faults.Subject{Route: v.Route}, true
		}
		inputs = append(inputs, check)
	}
	return inputs
}

func machineInput(v presence.View, blind bool) rules.MachineInput {
	return rules.MachineInput{
		Machine: v.Machine, State: v.State, Silence: v.Silence, RunState: v.Run, Fault: v.Fault,
		Pending: v.Pending, OldestPending: v.OldestPending, UnsentSince: v.UnsentSince, Skew: v.Skew, Blind: blind,
	}
}

func (e *Engine) machineCheck(v presence.View, verdicts []rules.Verdict, blind bool) faults.MachineCheck {
	check := faults.MachineCheck{
		Machine: v.Machine, Route: v.Route, Depot: v.Depot, Network: v.Network, Firmware: v.Firmware, State: v.State, LastHeartbeat: v.LastHeartbeat,
		Vehicle: dispatch.Carrier(dispatch.Whereabouts{Vehicle: v.Vehicle, SeenBy: v.SeenBy, Depot: e.cfg.DepotGateways[v.Depot]}, e.GatewayThere),
		Pending: v.Pending, PendingMinor: v.PendingMinor, Currency: v.Currency, Epoch: v.Epoch, LastSeq: v.LastSeq,
		Verdicts: verdicts, Blind: blind,
	}
	if v.LedgerEpoch == v.Epoch {
		check.CompleteTo = v.LedgerComplete
	}
	return check
}

// GatewayThere reports whether a vehicle's gateway is there, by its own word or its last will. It is safe for concurrent use.
func (e *Engine) GatewayThere(vehicle string) bool {
	_, there := e.gateways.Load(vehicle)
	return there
}

// Gateway notes that a vehicle's gateway came or went, and which machines it hears over
// BLE. A sighting counts only while it is fresh. It is safe for concurrent use.
func (e *Engine) Gateway(now time.Time, g schemas.Gateway) {
	up := g.Status == schemas.Online
	if up {
		e.gateways.Store(g.Vehicle, true)
	} else {
		e.gateways.Delete(g.Vehicle)
	}
	e.presence.Gateway(now, g.Vehicle, up)
	for _, s := range g.Seen {
		if up && now.Sub(s.SeenAt).Abs() < freshSighting {
			e.presence.Seen(now, g.Vehicle, s.Machine, s.RSSI)
		}
	}
}

// freshSighting is how old a sighting may be to say where a machine is now.
const freshSighting = time.Minute

// LedgerProgress notes that the ledger holds all of 1..completeTo of an epoch of a machine. It is safe
// for concurrent use.
func (e *Engine) LedgerProgress(now time.Time, machine string, epoch, completeTo uint32) {
	e.presence.LedgerProgress(now, machine, epoch, completeTo)
}

// SetBlind says that we cannot hear from now on, or can again. It is safe for concurrent use.
func (e *Engine) SetBlind(now time.Time, blind bool) { e.presence.SetBlind(now, blind) }

// SetRules has rounds decide by other rules from now on. What routes and causes remember stays.
func (e *Engine) SetRules(set *rules.Set) { e.cfg.Rules = set }

// Presence is who is online.
func (e *Engine) Presence() *presence.Presence { return e.presence }

// Minute returns the counts of the minute that ends at now, with what was expected, and begins the next.
// Call it before the events of that instant.
func (e *Engine) Minute(now time.Time) counts.Frame {
	rows := e.board.Minute(now)
	for i := range rows {
		exp, _ := e.cfg.Expect.Expect(rows[i].Route, now)
		rows[i].Expected, rows[i].Threshold = exp.Expected, e.thresholds[rows[i].Route]
	}
	return counts.Frame{At: now.Truncate(time.Second), Blind: e.presence.Blind(now), Rows: rows}
}

// Hours returns the hours that ended by now and were not returned before.
func (e *Engine) Hours(now time.Time) []counts.HourRow { return e.board.Hours(now) }

// OpenFaults lists the faults that have not ended.
func (e *Engine) OpenFaults() []faults.Fault { return e.book.Open() }

// Memory is what an engine must not forget over a restart.
type Memory struct {
	Roster []presence.Saved
	Board  []byte // the open hour
	Rules  []byte // the windows of running rules
	Faults []faults.Fault
}

// Remember returns what Recall takes, but for the faults, which are saved as they change.
func (e *Engine) Remember(now time.Time) (Memory, error) {
	states, err := json.Marshal(rules.States{Routes: e.states, Causes: e.causes})
	if err != nil {
		return Memory{}, fmt.Errorf("remember the states of rules: %w", err)
	}
	return Memory{Roster: e.presence.Snapshot(now), Board: e.board.AppendState(nil, now), Rules: states}, nil
}

// Recall takes up where Remember left off: the time between is our blindness, and nobody's silence.
// The engine must be new. A part that cannot be read is left out and named in the error; the others
// are recalled.
func (e *Engine) Recall(now time.Time, m Memory) error {
	var problems []error
	if len(m.Board) > 0 {
		problems = append(problems, e.board.RestoreState(now, m.Board))
	}
	e.setRoster(now)
	problems = append(problems, e.presence.Restore(now, m.Roster))
	e.book.Restore(m.Faults)
	if len(m.Rules) > 0 {
		var states rules.States
		err := json.Unmarshal(m.Rules, &states)
		if err == nil {
			states.Forget(now, func(s faults.Subject) bool {
				return e.book.Stands(faults.FamilyRoute, s) || e.book.Stands(faults.FamilyCause, s)
			})
			e.states, e.causes = states.Routes, states.Causes
		}
		problems = append(problems, err)
	}
	return errors.Join(problems...)
}
