package faults

import (
	"fmt"

	"github.com/farebeat/farebeat/schemas"
)

// routeCheck is one look at the route of a fault.
func (s *step) routeCheck(in RouteCheck) {
	if !in.Gone || in.Blind {
		s.countCheck(in.Verdict, in.Blind, in.Context, RouteFacts{in.Online, in.Expected, in.Verdict.Threshold})
		return
	}
	if s.fault.ID != "" && !s.fault.Ended() && s.live(true) && !s.reported() {
		s.close("The route is not expected any more, and no machine is on it.")
	}
}

// countCheck is the life of a fault of a route or of the platform: the rule has the
// hysteresis, so the fault follows it.
func (s *step) countCheck(v Verdict, blind bool, c Context, facts RouteFacts) {
	f := &s.fault
	if blind {
		return
	}
	s.context(c)
	if f.ID == "" || f.Ended() {
		if !v.Firing || f.Ended() && !s.reopenable(s.now, *f) {
			return
		}
		s.begin(v.Kind, v.Since, v.Reason)
	}
	// Nothing heard of a route is not well, whatever its rule came to.
	if !s.live(!v.Firing) {
		return
	}
	s.firing(v.Firing)
	s.numbers(facts)
	switch {
	case v.Firing && v.Kind != f.Kind:
		s.name(v.Kind, v.Reason)
	case !v.Firing && !s.reported() && s.heardOf(facts) && s.calm():
		reason := v.Reason
		if reason == "" {
			reason = fmt.Sprintf("%d machines are online.", facts.Online)
		}
		s.close(reason)
	}
}

// heardOf reports whether the fault may close on these numbers: one that says that nothing is
// heard never closes without anything heard, even where the rule lost its memory.
func (s *step) heardOf(facts RouteFacts) bool {
	return s.fault.Kind != RouteReported && s.fault.Kind != RouteSilent || facts.Online > 0
}

// calm reports whether a fault that came back again and again was gone for long enough to be over.
func (s *step) calm() bool {
	return s.fault.Reopened < flapsBeforeCalm || s.now.Sub(s.fault.WellSince) >= s.StableFor
}

// flapsBeforeCalm is how often a fault may come back before it must be gone for Policy.StableFor.
const flapsBeforeCalm = 1

func (s *step) numbers(facts RouteFacts) {
	f := &s.fault
	if f.Route == nil {
		f.Route, s.dirty = &facts, true
		return
	}
	// They change with every machine; the fault's readers need not hear of each.
	if *f.Route != facts && (s.dirty || s.now.Sub(f.UpdatedAt) >= s.NumbersEvery) {
		*f.Route, s.dirty = facts, true
	}
}

// Suspect is the fault that a route check suspects but does not yet say. Nobody is told of
// it and nothing of it is stored: it follows from the rule's state.
func Suspect(in RouteCheck) (Fault, bool) {
	if in.Blind || !in.Verdict.Suspect || in.Verdict.Since.IsZero() {
		return Fault{}, false
	}
	s := in.subject()
	return Fault{
		ID: NewID(FamilyRoute, s, in.Verdict.Since), Subject: s, Kind: in.Verdict.Kind,
		Severity: in.Verdict.Kind.Entry().Severity, Condition: schemas.Suspected, Reason: in.Verdict.Reason,
		SuspectedAt: in.Verdict.Since, UpdatedAt: in.Verdict.Since, Attention: Attention{State: schemas.Unseen},
		Route: &RouteFacts{in.Online, in.Expected, in.Verdict.Threshold},
	}, true
}
