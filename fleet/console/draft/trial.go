package draft

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/farebeat/farebeat/fleet/expect"
	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/replay"
)

// TrialState is how a trial stands.
type TrialState string

// The states of a trial.
const (
	Running TrialState = "running"
	Done    TrialState = "done"
	Failed  TrialState = "failed"
	Stopped TrialState = "stopped"
)

// MaxSpan is the longest time that is tried.
const MaxSpan = 31 * 24 * time.Hour

// Span says on what a draft is tried.
type Span struct {
	From, To time.Time // minutes with From <= end of the minute < To, at most MaxSpan
	Route    string    // only this one; empty: all
	// Source takes the number in the counts as one of hand, timetable or history; empty: what was expected is worked out again by Options.Expect,
	// and where that is nil, the number in the counts is taken as one of the timetable.
	Source string
}

// Trial is a draft that is judged by stored days.
type Trial struct {
	Draft  string        `json:"draft"` // its id
	By     string        `json:"by"`
	State  TrialState    `json:"state"`
	From   time.Time     `json:"from"`
	To     time.Time     `json:"to"`
	Route  string        `json:"route,omitempty"`
	Source string        `json:"source,omitempty"`
	Begun  time.Time     `json:"begun"`   // by the service's clock
	Took   time.Duration `json:"took_ns"` // on the wall; 0 while it runs
	Done   int           `json:"minutes_done"`
	Total  int           `json:"minutes"` // 0: they are being counted
	Error  string        `json:"error,omitempty"`
	Result *Result       `json:"result,omitempty"` // of one that is done
	// DraftTried says that the draft was tried on all routes, by this trial or another one of it: Draft.Tried.
	DraftTried bool `json:"draft_tried" doc:"The draft was tried on all routes, by this trial or another one of it; else it is saved only with untried"`
}

// Over reports whether the trial came to an end.
func (t *Trial) Over() bool { return t.State != Running }

// Percent is how much is judged.
func (t *Trial) Percent() int {
	if t.Total == 0 {
		return 0
	}
	return t.Done * 100 / t.Total
}

// Result is what a trial found.
type Result struct {
	From         time.Time `json:"from"` // first and last minute that was judged
	To           time.Time `json:"to"`
	Routes       int       `json:"routes"`
	RouteMinutes int       `json:"route_minutes"`
	BlindMinutes int       `json:"blind_route_minutes"`
	RouteWeeks   float64   `json:"route_weeks"`
	Faults       int       `json:"route_faults"` // that would have opened
	New          int       `json:"new"`          // of them, did not fire live
	Live         int       `json:"live"`         // fired live
	Missed       int       `json:"missed"`       // of them, would not have
	Standing     int       `json:"standing"`     // stood already when the time began
	Pages        int       `json:"pages"`
	FaultsPer100 float64   `json:"route_faults_per_100_route_weeks"`
	PagesPer100  float64   `json:"pages_per_100_route_weeks"`

	List    []TrialFault `json:"faults"`   // new and missed first, each by time; at most MaxFaults
	Left    int          `json:"left_off"` // how many more there are
	ByRoute []TrialRoute `json:"by_route"` // those with any, most pages first
	Limits  []string     `json:"limits"`   // what a replay cannot know
}

// MaxFaults bounds the faults that a result lists.
const MaxFaults = 1000

// Outcome is how a fault of a trial compares with what fired live.
type Outcome string

// The outcomes.
const (
	OutcomeNew    Outcome = "new"    // it would fire, and did not
	OutcomeMissed Outcome = "missed" // it fired, and would not
	OutcomeBoth   Outcome = "both"
)

// TrialFault is one fault that would have fired, or did and would not have.
type TrialFault struct {
	Outcome   Outcome     `json:"outcome"`
	Route     string      `json:"route_id"`
	Kind      faults.Kind `json:"kind"`
	Opened    time.Time   `json:"opened"`
	Closed    time.Time   `json:"closed,omitzero"` // absent while it is open
	Pages     int         `json:"pages"`
	Live      []string    `json:"live"` // ids of those that fired
	Online    int         `json:"online"`
	Expected  int         `json:"expected"`
	Threshold int         `json:"threshold"`
	Reason    string      `json:"reason"`
}

// TrialRoute is what one route adds to a result.
type TrialRoute struct {
	Route  string `json:"route_id"`
	Faults int    `json:"route_faults"`
	New    int    `json:"new"`
	Missed int    `json:"missed"`
	Pages  int    `json:"pages"`
}

// job is a trial on its way.
type job struct {
	trial *Trial
	entry *entry
	span  Span
	ctx   context.Context // ends when the trial is stopped
}

// errStopped is why a trial ends that somebody stopped.
var errStopped = errors.New("it was stopped")

// Try begins to judge stored days by a draft. One trial runs at a time.
func (d *Desk) Try(id string, s Span, by string) (Trial, error) {
	e, err := d.find(id)
	switch {
	case err != nil:
		return Trial{}, err
	case e.set == nil:
		return Trial{}, fmt.Errorf("%w: the text is no rules file: %s", ErrInvalid, e.checked.Problems[0])
	case !s.From.Before(s.To):
		return Trial{}, fmt.Errorf("%w: from %s is not before to %s", ErrInvalid, d.minute(s.From), d.minute(s.To))
	case s.To.Sub(s.From) > MaxSpan+2*time.Hour: // a month in which the clock is changed is longer
		return Trial{}, fmt.Errorf("%w: from %s to %s is longer than %d days", ErrInvalid, d.minute(s.From), d.minute(s.To), int(MaxSpan/(24*time.Hour)))
	case !slices.Contains([]string{"", expect.SourceHand, expect.SourceTimetable, expect.SourceHistory}, s.Source):
		return Trial{}, fmt.Errorf("%w: source %q: want hand, timetable or history", ErrInvalid, s.Source)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.trial != nil && !d.trial.Over() {
		return Trial{}, fmt.Errorf("%w: %s began it at %s; wait until it is done, or stop it", ErrBusy, d.trial.By, d.minute(d.trial.Begun))
	}
	ctx, stop := context.WithCancelCause(context.Background()) // Run bounds it by its own
	t := &Trial{Draft: id, By: by, State: Running, From: s.From, To: s.To, Route: s.Route, Source: s.Source, Begun: d.o.Now()}
	d.trial, d.stop = t, func() { stop(errStopped) }
	d.jobs <- &job{t, e, s, ctx} // there is room: one runs at a time
	return d.latest(), nil
}

// Trial is the latest trial; false where there was none.
func (d *Desk) Trial() (Trial, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.trial == nil {
		return Trial{}, false
	}
	return d.latest(), true
}

// latest is the latest trial, of which there is one. d.mu is held.
func (d *Desk) latest() Trial {
	t := *d.trial
	e := d.drafts[t.Draft]
	t.DraftTried = e != nil && e.tried != nil
	return t
}

// Stop ends the trial that runs.
func (d *Desk) Stop() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.trial == nil || d.trial.Over() {
		return fmt.Errorf("%w: no trial is running", ErrInvalid)
	}
	d.stop()
	return nil
}

// Run carries trials out until ctx ends.
func (d *Desk) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case j := <-d.jobs:
			d.run(ctx, j)
		}
	}
}

func (d *Desk) run(ctx context.Context, j *job) {
	bounded, cancel := context.WithTimeoutCause(ctx, d.o.Limit, fmt.Errorf("it took longer than %s; try fewer days, or one route", d.o.Limit))
	defer cancel()
	inner, stop := context.WithCancelCause(bounded)
	defer stop(nil)
	defer context.AfterFunc(j.ctx, func() { stop(context.Cause(j.ctx)) })()
	began := d.o.Wall()
	o := replay.Options{
		From: j.span.From, To: j.span.To, Location: d.o.Zone, Route: j.span.Route, Rules: j.entry.set, Source: j.span.Source, Deadline: d.o.Deadline, Policy: d.o.Policy,
		Progress: func(done, total int) {
			d.mu.Lock()
			defer d.mu.Unlock()
			j.trial.Done, j.trial.Total = done, total
		},
	}
	if j.span.Source == "" {
		o.Expect = d.o.Expect
	}
	report, err := replay.Run(inner, d.o.Frames, d.o.Faults, o)
	d.mu.Lock()
	defer d.mu.Unlock()
	t := *j.trial // what others hold of it stays as it was
	t.Took = max(d.o.Wall().Sub(began), 1)
	switch {
	case err == nil:
		t.State, t.Result = Done, resultOf(report)
		if e := d.drafts[t.Draft]; e != nil && t.Route == "" { // it may have been checked again meanwhile
			t.DraftTried, e.tried = true, &t
		}
	case errors.Is(context.Cause(inner), errStopped) || ctx.Err() != nil:
		t.State, t.Error = Stopped, "it was stopped"
	case inner.Err() != nil:
		t.State, t.Error = Failed, context.Cause(inner).Error()
	case errors.Is(err, replay.ErrNoHistory):
		t.State, t.Error = Failed, fmt.Sprintf("%s: %s to %s", replay.ErrNoHistory, d.minute(j.span.From), d.minute(j.span.To))
	default:
		t.State, t.Error = Failed, err.Error()
		d.o.Logger.Error("rules could not be tried", "error", err)
	}
	d.trial = &t
}

// minute is a time for a person.
func (d *Desk) minute(t time.Time) string { return t.In(d.o.Zone).Format("2006-01-02 15:04") }

func resultOf(r *replay.Report) *Result {
	out := &Result{
		From: r.From, To: r.To, Routes: r.Routes, RouteMinutes: r.RouteMinutes, BlindMinutes: r.BlindMinutes, RouteWeeks: r.RouteWeeks(),
		Faults: len(r.Faults), New: r.New(), Live: r.Live, Missed: len(r.Missed), Standing: len(r.Standing), Pages: r.Pages(),
		FaultsPer100: r.Per100(len(r.Faults)), PagesPer100: r.Per100(r.Pages()), Limits: replay.Limits(), ByRoute: routesOf(r),
	}
	list := make([]TrialFault, 0, len(r.Faults)+len(r.Missed))
	for _, o := range r.Faults {
		outcome := OutcomeBoth
		if len(o.Live) == 0 {
			outcome = OutcomeNew
		}
		list = append(list, trialFault(o.Fault, outcome, len(o.Pages), o.Live))
	}
	for _, f := range r.Missed {
		list = append(list, trialFault(f, OutcomeMissed, 0, []string{f.ID}))
	}
	rank := func(o Outcome) int { return slices.Index([]Outcome{OutcomeNew, OutcomeMissed, OutcomeBoth}, o) }
	slices.SortStableFunc(list, func(a, b TrialFault) int {
		return cmp.Or(cmp.Compare(rank(a.Outcome), rank(b.Outcome)), a.Opened.Compare(b.Opened))
	})
	n := min(len(list), MaxFaults)
	out.List, out.Left = slices.Clone(list[:n]), len(list)-n
	return out
}

func trialFault(f faults.Fault, outcome Outcome, pages int, live []string) TrialFault {
	t := TrialFault{Outcome: outcome, Route: f.Subject.Route, Kind: f.Kind, Opened: f.OpenedAt, Pages: pages, Live: append([]string{}, live...), Reason: f.Reason}
	if f.Ended() {
		t.Closed = f.ClosedAt
	}
	if f.Route != nil {
		t.Online, t.Expected, t.Threshold = f.Route.Online, f.Route.Expected, f.Route.Threshold
	}
	return t
}

func routesOf(r *replay.Report) []TrialRoute {
	sums := map[string]*TrialRoute{}
	for _, day := range r.Days {
		if sums[day.Route] == nil {
			sums[day.Route] = &TrialRoute{Route: day.Route}
		}
		s := sums[day.Route]
		s.Faults, s.New, s.Missed, s.Pages = s.Faults+day.Faults, s.New+day.New, s.Missed+day.Missed, s.Pages+day.Pages
	}
	out := make([]TrialRoute, 0, len(sums))
	for _, s := range sums {
		out = append(out, *s)
	}
	slices.SortFunc(out, func(a, b TrialRoute) int {
		return cmp.Or(cmp.Compare(b.Pages, a.Pages), cmp.Compare(b.New+b.Missed, a.New+a.Missed), cmp.Compare(a.Route, b.Route))
	})
	return out
}
