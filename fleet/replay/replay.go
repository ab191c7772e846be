package replay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/farebeat/farebeat/fleet/counts"
	"github.com/farebeat/farebeat/fleet/expect"
	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/rules"
)

// Frames is where the minutes come from. A counts.Store is one.
type Frames interface {
	Frames(ctx context.Context, from, to time.Time, each func(counts.Frame) error) error
}

// Faults is where the faults that fired live come from. A faults.Store is one.
type Faults interface {
	List(ctx context.Context, q faults.Query) ([]faults.Fault, error)
}

// Options say what is replayed.
type Options struct {
	From, To time.Time      // minutes with From <= end of the minute < To
	Location *time.Location // the operator's zone: days of the report
	Route    string         // only this one; empty: all
	Rules    *rules.Set
	// Expect says what was expected; nil: the number in the frames, the most in an hour, said by
	// Source (expect.SourceTimetable if empty).
	Expect expect.Source
	Source string
	// Deadline is how long a machine is unheard before it is no longer online; 1 min if 0.
	Deadline time.Duration
	Policy   faults.Policy
	// Progress, if not nil, is told how many of all minutes are judged.
	Progress func(done, total int)
}

// WarmUp is how long before Options.From the replay begins, so that windows and hours are as they
// would be after a longer run. What opens in it is not counted.
const WarmUp = 2 * time.Hour

// ErrNoHistory says that the store holds no minute of the time asked for.
var ErrNoHistory = errors.New("the store holds no counts of this time")

// Run judges the minutes. It reads them twice, and writes nothing.
func Run(ctx context.Context, frames Frames, live Faults, o Options) (*Report, error) {
	if o.Deadline <= 0 {
		o.Deadline = time.Minute
	}
	if o.Source == "" {
		o.Source = expect.SourceTimetable
	}
	survey, err := look(ctx, frames, o)
	if err != nil {
		return nil, fmt.Errorf("replay: %w", err)
	}
	if survey.counted == 0 {
		return nil, fmt.Errorf("replay from %s to %s: %w", o.From.Format(time.RFC3339), o.To.Format(time.RFC3339), ErrNoHistory)
	}
	if o.Expect == nil {
		o.Expect = survey
	}
	fired, err := list(ctx, live, o)
	if err != nil {
		return nil, fmt.Errorf("replay: %w", err)
	}
	r := newRun(o, survey.frames, fired)
	end := survey.last.Add(time.Second) // what came to the store since the first reading is left out
	if err := frames.Frames(ctx, o.From.Add(-WarmUp), end, func(f counts.Frame) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		r.minute(f)
		return nil
	}); err != nil {
		return nil, fmt.Errorf("replay: %w", err)
	}
	return r.report(fired, survey), nil
}

// list lists the route and platform faults that stood live at some time of the replay.
func list(ctx context.Context, live Faults, o Options) ([]faults.Fault, error) {
	q := faults.Query{
		Kinds: []faults.Kind{faults.RouteBelow, faults.RouteSilent, faults.Platform},
		From:  o.From.Add(-WarmUp), To: o.To, Limit: faults.MaxLimit,
	}
	var all []faults.Fault
	for {
		page, err := live.List(ctx, q)
		if err != nil {
			return nil, err
		}
		all = append(all, page...)
		if len(page) < q.Bound() {
			return all, nil
		}
		q.After = page[len(page)-1].ID
	}
}

// run is a replay on its way.
type run struct {
	o         Options
	book      *faults.Book
	routes    map[string]*route
	platforms []faults.Fault // those that stood live
	outcomes  map[string]*Outcome
	order     []string // ids, as they opened
	inputs    []faults.Input

	done, total   int
	last          time.Time // end of the minute before
	minutes       int       // of routes, judged
	blind         int       // of routes, in blindness
	begun, judged time.Time // first and last minute that counts
}

// route is what a replay remembers of one.
type route struct {
	before int // online at the look before
	state  rules.RouteState
	online int  // at the end of the minute before
	known  bool // there was one
	looked time.Time
	silent time.Duration // seeing time with nothing online
	open   bool          // it has a fault
	fast   bool          // its rule looks more often than once a minute
}

func newRun(o Options, total int, fired []faults.Fault) *run {
	r := &run{o: o, book: faults.NewBook(o.Policy), routes: map[string]*route{}, outcomes: map[string]*Outcome{}, total: total}
	for _, f := range fired {
		if f.Kind == faults.Platform {
			r.platforms = append(r.platforms, f)
		}
	}
	return r
}

// parts is into how many parts a minute falls: looks every 5 s. A rule that looks once a minute
// or less needs only the three numbers of a minute.
const parts, third = 12, 4

// minute judges one frame.
func (r *run) minute(f counts.Frame) {
	length := f.At.Sub(r.last)
	if r.last.IsZero() || length <= 0 || length > 90*time.Second {
		length = time.Minute
	}
	r.last = f.At
	rows := f.Rows
	if r.o.Route != "" {
		rows = slices.DeleteFunc(slices.Clone(rows), func(row counts.RouteMinute) bool { return row.Route != r.o.Route })
	}
	r.count(f, len(rows))
	expected := make([]rules.RouteInput, len(rows))
	for i, row := range rows {
		expected[i] = r.expectation(row, f)
	}
	for part := 1; part <= parts; part++ {
		at := f.At.Add(-length * time.Duration(parts-part) / parts)
		r.inputs = r.inputs[:0]
		for i, row := range rows {
			if rt := r.routes[row.Route]; part%third == 0 || rt.fast && !rt.still(row) {
				r.look(at, row, expected[i], rt, part)
			}
		}
		r.apply(at)
	}
	for _, row := range rows {
		rt := r.routes[row.Route]
		rt.online, rt.known = row.Online, true
	}
	r.done++
	if r.o.Progress != nil {
		r.o.Progress(r.done, r.total)
	}
}

// count counts what is judged of a frame.
func (r *run) count(f counts.Frame, rows int) {
	if f.At.Before(r.o.From) {
		return
	}
	if r.begun.IsZero() {
		r.begun = f.At
	}
	r.judged = f.At
	if f.Blind {
		r.blind += rows
	} else {
		r.minutes += rows
	}
}

// expectation begins the input of a route's minute.
func (r *run) expectation(row counts.RouteMinute, f counts.Frame) rules.RouteInput {
	rt := r.routes[row.Route]
	if rt == nil {
		rt = &route{}
		r.routes[row.Route] = rt
	}
	e, _ := r.o.Expect.Expect(row.Route, f.At)
	rt.fast = r.o.Rules.Rule(row.Route, f.At, e.Source).For.Every < time.Minute
	in := rules.RouteInput{
		Route: row.Route, Known: row.Known, Expected: e.Expected, ExpectedNow: e.Now, Lowest: e.Lowest, Low: e.Low, Exact: e.Exact, Source: e.Source, Blind: f.Blind,
	}
	if e.Source == expect.SourceHand {
		in.Low = 0 // as live: a person's number is taken at its word
	}
	return in
}

// look evaluates one part of a route's minute.
func (r *run) look(at time.Time, row counts.RouteMinute, in rules.RouteInput, rt *route, part int) {
	in.Online = numberIn(row, rt, part)
	switch since := at.Sub(rt.looked); {
	case in.Online > 0:
		rt.silent = 0
	case !in.Blind && since <= time.Minute:
		rt.silent += since
	}
	rt.looked = at
	if in.Online == 0 && rt.before >= 2 {
		// Presence would have called them late, all together as far as minutes can tell.
		late := in
		late.Online, late.Late = rt.before, rt.before
		rt.state, _ = r.o.Rules.EvaluateRoute(at.Add(-time.Second), late, rt.state)
	}
	rt.before = in.Online
	if in.Online == 0 && in.Known > 0 {
		in.AllSilentFor = r.o.Deadline + rt.silent
	}
	var v rules.Verdict
	rt.state, v = r.o.Rules.EvaluateRoute(at, in, rt.state)
	if v.Firing || rt.open {
		r.inputs = append(r.inputs, faults.RouteCheck{
			Route: row.Route, Verdict: v, Online: in.Online, Expected: in.Expected, Blind: in.Blind,
			Context: faults.Context{Maintenance: r.o.Rules.Maintenance(at, rules.Place{Route: row.Route})},
		})
	}
}

// still reports whether the minute brings nothing that needs more than three looks.
func (rt *route) still(row counts.RouteMinute) bool {
	return rt.known && row.Min == row.Max && row.Online == rt.online && row.Online > 0 && rt.state.Window == 0 && rt.state.Kind == ""
}

// numberIn is how many were online in a part of the minute. It begins with the one of the least and
// the most that is nearer to the number before it, with the least where nothing came before, and ends with the last number.
func numberIn(row counts.RouteMinute, rt *route, part int) int {
	first, second := row.Max, row.Min
	if !rt.known || 2*rt.online < row.Max+row.Min {
		first, second = second, first
	}
	switch {
	case part <= third:
		return first
	case part <= 2*third:
		return second
	}
	return row.Online
}

// apply lets the faults live on, and notes what changed.
func (r *run) apply(at time.Time) {
	if len(r.platforms) > 0 {
		v := faults.Verdict{Kind: faults.Platform}
		for _, p := range r.platforms {
			if !at.Before(p.OpenedAt) && (!p.Ended() || at.Before(p.ClosedAt)) {
				v.Firing, v.Since, v.Reason = true, p.OpenedAt, p.Reason
			}
		}
		for i, in := range r.inputs {
			if in, ok := in.(faults.RouteCheck); ok {
				in.Context.Explained = v.Firing // by all machines, the zero subject
				r.inputs[i] = in
			}
		}
		r.inputs = append(r.inputs, faults.CauseCheck{Verdict: v})
	}
	for _, c := range r.book.Apply(at, r.inputs) {
		if c.Fault.Family() == faults.FamilyRoute {
			r.note(at, c)
		}
	}
}

func (r *run) note(at time.Time, c faults.Change) {
	o := r.outcomes[c.Fault.ID]
	if o == nil {
		o = &Outcome{Fault: c.Fault}
		r.outcomes[c.Fault.ID] = o
		r.order = append(r.order, c.Fault.ID)
	}
	first := o.Fault
	o.Fault = c.Fault
	// What was so when it opened says why it did.
	o.Fault.Reason, o.Fault.Route = first.Reason, first.Route
	switch c.Event.Change {
	case faults.ChangeOpened, faults.ChangeReopened:
		r.routes[c.Fault.Subject.Route].open = true
		if c.Told() && !at.Before(r.o.From) {
			o.Pages = append(o.Pages, at)
		}
	case faults.ChangeClosed:
		r.routes[c.Fault.Subject.Route].open = false
	}
}
