package rules

import (
	"fmt"
	"math/bits"
	"time"

	"github.com/farebeat/farebeat/fleet/faults"
)

// RouteState is what a route's rule remembers. The zero value is a start.
type RouteState struct {
	Seen   time.Time `json:"seen,omitzero"`    // the last evaluation with open eyes
	Frozen bool      `json:"frozen,omitempty"` // we were blind since

	Kind      faults.Kind `json:"kind,omitempty"`      // what fires, empty for nothing
	Since     time.Time   `json:"since,omitzero"`      // when its breach, or that of the suspicion, began
	WellSince time.Time   `json:"well_since,omitzero"` // since when a firing rule is not in breach
	Threshold int         `json:"threshold,omitempty"` // the last one

	Window  uint64    `json:"window,omitempty"` // samples of `for`, newest in bit 0, 1 is a breach
	Sampled time.Time `json:"sampled,omitzero"` // when the newest was taken
	Best    int       `json:"best,omitempty"`   // most online since then
	Rules   uint64    `json:"rules,omitempty"`  // id of the route's rules that they were taken by, 0: not noted

	Empty   time.Time `json:"empty,omitzero"`    // since when nothing is online
	Wanted  time.Time `json:"wanted,omitzero"`   // since when at least one should be
	AllLate time.Time `json:"all_late,omitzero"` // when two or more were last online, all of them late

	// An hourly number is the most at once in the hour, and says nothing of the minute.
	// Exact is set once a source was seen to know the minute as well.
	Exact    bool      `json:"exact,omitempty"`
	Source   string    `json:"source,omitempty"`    // the last one
	Hour     time.Time `json:"hour,omitzero"`       // start of the current hour of the local clock
	Expected int       `json:"expected,omitempty"`  // the most in it
	Before   int       `json:"before,omitempty"`    // and in the hour before; 0 where that was not seen
	Leaving  int       `json:"leaving,omitempty"`   // most online in the last DutyChange of the current hour
	Left     int       `json:"left,omitempty"`      // and of the hour before
	LeftOnce int       `json:"left_once,omitempty"` // and of the hour before that
	Peaks    []int     `json:"peaks,omitempty"`     // most online per quarter of an hour, oldest first, the last is running
	Quarter  int64     `json:"quarter,omitempty"`   // number of the running quarter since 1970
}

// clockSlack is how far our clock may go back and its notes be waited for.
const clockSlack = time.Minute

// Idle reports whether the state says no more than the zero value does, so that it need not be kept.
func (st *RouteState) Idle() bool {
	return st.Kind == "" && st.Window == 0 && st.Wanted.IsZero() && st.AllLate.IsZero() && len(st.Peaks) == 0
}

// Bounds of what a state may still say after a time without sight.
const (
	gap    = time.Minute // evaluations further apart than this had blindness between them
	forget = time.Hour   // after so long a window of samples says nothing
)

// quarters is how many full quarters of an hour, beside the running one, say what an
// hourly number may be compared with.
const quarters = 4

// EvaluateRoute decides about one route. While blind nothing changes but the freezing itself: the
// verdict stays what it was.
func (s *Set) EvaluateRoute(now time.Time, in RouteInput, st RouteState) (RouteState, Verdict) {
	if in.Blind {
		st.Frozen = true
		return st, st.verdict("We cannot hear; nothing is decided.")
	}
	if st.Seen.Sub(now) > clockSlack {
		// Our clock was ahead. What it noted would only count when that time comes: begin anew, and keep what fires.
		st = RouteState{Kind: st.Kind, Since: now, Threshold: st.Threshold, Exact: st.Exact, Rules: st.Rules}
	}
	if now.Before(st.Seen) {
		return st, st.verdict("") // our clock went back a little: decide nothing until it is here again
	}
	st = st.thaw(now)
	st = st.under(s.hoursOf(in.Route).id)
	st = st.note(now, in, s.location)
	rule := s.rule(in.Route, now, sourceIndex(in.Source))
	demand, known := st.demand(in)
	st.Threshold = s.threshold(now, in, demand, known)
	compared := in.Online
	if st.hourly(in.Source) {
		compared = st.trailingPeak()
	}
	reason, silent := st.silence(now, in, rule, demand, known)
	breach := silent || compared < st.Threshold && (compared > 0 || !st.hourly(in.Source))
	if breach && st.Kind == "" && st.Since.IsZero() {
		// The first sample is of one whole period, wherever the last one lay: an unbroken breach fires after M of them.
		st.Since, st.Sampled, st.Best = now, now, compared
	}
	st = st.sample(now, rule.For, breach && (silent || st.Best < st.Threshold))

	switch {
	case rule.Off:
		st.Kind, st.Since, st.WellSince, st.Window = "", time.Time{}, time.Time{}, 0
	case silent && st.Kind != faults.RouteSilent:
		if st.Since.IsZero() {
			st.Since = now
		}
		st.Kind, st.WellSince = faults.RouteSilent, time.Time{}
	case st.Kind != "":
		st = st.resolve(now, in, rule, demand)
	case st.breaches(rule.For) >= rule.For.M:
		st.Kind, st.WellSince = faults.RouteBelow, time.Time{}
	}
	if reason == "" {
		reason = st.explain(in, compared, demand)
	}
	return st, st.verdict(reason)
}

// thaw takes the time without sight out of the state, as if it had not passed.
func (st RouteState) thaw(now time.Time) RouteState {
	away := now.Sub(st.Seen)
	if st.Seen.IsZero() || !st.Frozen && away <= gap {
		return st
	}
	if away > forget {
		// The fault stands; of the rest too much may have happened.
		return RouteState{Kind: st.Kind, Since: st.Since, Threshold: st.Threshold, Exact: st.Exact, Rules: st.Rules}
	}
	for _, t := range []*time.Time{&st.WellSince, &st.Sampled, &st.Empty, &st.Wanted, &st.AllLate} {
		if !t.IsZero() {
			*t = t.Add(away)
		}
	}
	st.Frozen = false
	return st
}

// under notes by which rules samples are taken from now on. Those taken by others are no evidence under
// these: a `for` and a keep_firing_for begin anew. What fires stays, and so does what was seen
// whatever the rules: since when nothing is online, or nothing heard.
func (st RouteState) under(id uint64) RouteState {
	if st.Rules != 0 && st.Rules != id {
		st.Window, st.Sampled, st.Best, st.WellSince = 0, time.Time{}, 0, time.Time{}
		if st.Kind == "" {
			st.Since = time.Time{}
		}
	}
	st.Rules = id
	return st
}

// note writes down what the next evaluations compare with.
func (st RouteState) note(now time.Time, in RouteInput, loc *time.Location) RouteState {
	st.Seen, st.Frozen = now, false
	st.Best = max(st.Best, in.Online)
	switch {
	case in.Online > 0:
		st.Empty = time.Time{}
	case st.Empty.IsZero():
		st.Empty = now
	}
	if in.Online >= 2 && in.Late == in.Online {
		st.AllLate = now
	}
	switch {
	case in.ExpectedNow <= 0 || in.Lowest <= 0:
		st.Wanted = time.Time{}
	case st.Wanted.IsZero():
		st.Wanted = now
	}
	if in.Source != st.Source { // what the other one knew, this one may not, and samples against it are no evidence
		if st.Source != "" {
			st.Exact, st.Window = false, 0
		}
		st.Source = in.Source
	}
	if in.Exact || in.ExpectedNow != in.Expected {
		st.Exact = true
	}
	hour := hourStart(now, loc)
	if !hour.Equal(st.Hour) {
		before := st
		st.Before, st.Left, st.LeftOnce, st.Leaving = 0, 0, 0, 0
		if hour.Sub(st.Hour) <= time.Hour {
			st.Before, st.Left, st.LeftOnce = before.Expected, before.Leaving, before.Left
		}
		st.Hour = hour
	}
	st.Expected = in.Expected
	if now.Sub(hour) >= time.Hour-DutyChange {
		st.Leaving = max(st.Leaving, in.Online)
	}
	return st.notePeak(now, in.Online)
}

func (st RouteState) notePeak(now time.Time, online int) RouteState {
	const quarter = 15 * 60
	q := now.Unix() / quarter
	n := len(st.Peaks)
	if n > 0 && q == st.Quarter {
		if online > st.Peaks[n-1] {
			st.Peaks = append([]int(nil), st.Peaks...)
			st.Peaks[n-1] = online
		}
		return st
	}
	st.Quarter = q
	old := st.Peaks[max(0, n-quarters):]
	st.Peaks = append(append(make([]int, 0, quarters+1), old...), online)
	return st
}

// hourStart is the last full hour of the local clock at or before t.
func hourStart(t time.Time, loc *time.Location) time.Time {
	l := t.In(loc)
	return t.Add(-time.Duration(l.Minute())*time.Minute - time.Duration(l.Second())*time.Second - time.Duration(l.Nanosecond()))
}

// hourly reports whether the expectation is the most in an hour and no more is known.
func (st *RouteState) hourly(source string) bool {
	return !st.Exact && (source == "timetable" || source == "history")
}

// trailingPeak is the most online within the last hour or a little more.
func (st *RouteState) trailingPeak() int {
	most := 0
	for _, n := range st.Peaks {
		most = max(most, n)
	}
	return most
}

// demand is how many machines may be asked for now, and whether anybody knows.
func (st *RouteState) demand(in RouteInput) (int, bool) {
	if in.Source == "" || in.Source == "none" {
		return 0, false
	}
	if !st.hourly(in.Source) {
		return max(min(in.ExpectedNow, in.Lowest), 0), true
	}
	if len(st.Peaks) <= quarters {
		return 0, true // not watched for an hour yet
	}
	return max(min(st.Before, in.Expected), 0), true
}

// threshold is the lowest of those that hold within DutyChange.
func (s *Set) threshold(now time.Time, in RouteInput, demand int, known bool) int {
	lowest, _ := s.lowest(now, in, demand, known)
	return lowest
}

// lowest is the threshold, and the rule that sets it.
func (s *Set) lowest(now time.Time, in RouteInput, demand int, known bool) (int, *readyRule) {
	source := sourceIndex(in.Source)
	rule := s.rule(in.Route, now, source)
	by, lowest := rule, rule.threshold(demand, known, in.Low)
	for _, near := range [...]time.Time{now.Add(-DutyChange), now.Add(DutyChange)} {
		other := s.rule(in.Route, near, source)
		if other == rule {
			continue
		}
		if n := other.threshold(demand, known, in.Low); n < lowest {
			by, lowest = other, n
		}
	}
	return lowest, by
}

// silence reports whether the route is wholly silent, and why that is known.
func (st *RouteState) silence(now time.Time, in RouteInput, rule *readyRule, demand int, known bool) (string, bool) {
	wanted := !known || min(in.ExpectedNow, in.Lowest) > 0
	if in.Known >= 2 && in.AllSilentFor >= rule.SilentAfter && wanted && st.atOnce(now, in) {
		return fmt.Sprintf("None of the route's %d machines was heard for %s.", in.Known, in.AllSilentFor.Round(time.Second)), true
	}
	if st.hourly(in.Source) {
		// Only a whole hour of the clock contradicts the most in that hour. What left just before it may have been what the
		// hour was to end with, a little early: only more than that is missed.
		if demand > 0 && st.Before > st.LeftOnce && !st.Empty.IsZero() && !st.Empty.After(st.Hour.Add(-time.Hour)) {
			return fmt.Sprintf("Nothing was online for the whole hour before, %d were expected.", st.Before), true
		}
		return "", false
	}
	if !known || in.Online > 0 || demand <= 0 || st.Wanted.IsZero() || st.Empty.IsZero() {
		return "", false
	}
	since := st.Empty
	if st.Wanted.After(since) {
		since = st.Wanted
	}
	// The more machines are wanted, the shorter the time for which all of them happen to be broken.
	if now.Sub(since) < rule.NeverHeardAfter/time.Duration(demand) {
		return "", false
	}
	if demand == 1 && in.Known > 0 && in.AllSilentFor < now.Sub(st.Wanted) {
		return "", false // the one that is wanted was heard: it has a fault of its own, and one cause is one fault
	}
	return fmt.Sprintf("Nothing was online for %s, %d were expected.", now.Sub(since).Round(time.Second), demand), true
}

// atOnce reports whether two or more fell silent together, so that in this silence they were late at the same time: of one
// cause the last heartbeats are an interval apart. Two that break one after the other are two faults of machines, and
// two that go home, or one that does while another breaks, are no silence of a route.
func (st *RouteState) atOnce(now time.Time, in RouteInput) bool {
	return !st.AllLate.Before(now.Add(-in.AllSilentFor))
}

// sample takes one sample if its time has come.
func (st RouteState) sample(now time.Time, f For, breach bool) RouteState {
	// A tick that comes a little early must not cost a whole period.
	if !st.Sampled.IsZero() && now.Sub(st.Sampled) < f.Every-min(f.Every/10, time.Second) {
		return st
	}
	st.Sampled, st.Best = now, 0
	st.Window <<= 1
	if breach {
		st.Window |= 1
	}
	st.Window &= ^uint64(0) >> (MaxWindow - f.Of)
	switch {
	case st.Kind != "":
	case st.Window == 0:
		st.Since = time.Time{}
	case st.Since.IsZero():
		st.Since = now
	}
	return st
}

func (st *RouteState) breaches(f For) int {
	return bits.OnesCount64(st.Window & (^uint64(0) >> (MaxWindow - f.Of)))
}

// resolve ends what fires once it was well for long enough. A route of which nothing is heard
// is not well, whatever the timetable says.
func (st RouteState) resolve(now time.Time, in RouteInput, rule *readyRule, demand int) RouteState {
	if !st.well(in, demand) {
		st.WellSince = time.Time{}
		return st
	}
	if st.WellSince.IsZero() {
		st.WellSince = now
	}
	if now.Sub(st.WellSince) < rule.KeepFiring {
		return st
	}
	st.WellSince = time.Time{}
	if st.Kind == faults.RouteSilent && st.Threshold > 0 && in.Online < st.Threshold {
		st.Kind = faults.RouteBelow
		return st
	}
	st.Kind, st.Since, st.Window = "", time.Time{}, 0
	return st
}

func (st *RouteState) well(in RouteInput, demand int) bool {
	if st.Kind == faults.RouteSilent {
		return in.Online > 0
	}
	if st.Threshold == 0 {
		return in.Online > 0 || in.Known == 0
	}
	// One machine of hysteresis, but never more than may be asked for.
	return in.Online >= max(st.Threshold, min(st.Threshold+1, demand))
}

func (st *RouteState) explain(in RouteInput, compared, demand int) string {
	switch {
	case st.Kind == faults.RouteSilent && in.Online == 0:
		return "Nothing is heard of the route."
	case st.Kind == faults.RouteSilent:
		return fmt.Sprintf("%d machines are heard again.", in.Online)
	case st.Kind != "" && !st.WellSince.IsZero():
		return fmt.Sprintf("%d machines are online again, the threshold is %d.", in.Online, st.Threshold)
	case st.Kind != "" || st.Window != 0:
		if st.hourly(in.Source) {
			return fmt.Sprintf("At most %d machines were online within an hour, fewer than %d of %d expected.", compared, st.Threshold, demand)
		}
		return fmt.Sprintf("%d machines are online, fewer than %d of %d expected.", in.Online, st.Threshold, demand)
	}
	return ""
}

func (st *RouteState) verdict(reason string) Verdict {
	kind := st.Kind
	if kind == "" {
		kind = faults.RouteBelow
	}
	return Verdict{
		Kind: kind, Firing: st.Kind != "", Suspect: st.Kind == "" && st.Window != 0,
		Since: st.Since, Threshold: st.Threshold, Reason: reason,
	}
}
