package rulestest

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/farebeat/farebeat/fleet/faults"
)

// check says whether each value is within the bounds.
func (s *numbers) check(key string, high int) error {
	for _, v := range s.values {
		if v < 0 || v > high {
			return fmt.Errorf("line %d: %s: %d is not between 0 and %d", s.line, key, v, high)
		}
	}
	return nil
}

func (c *caseOf) checkRoutes() error {
	seen := map[string]bool{}
	for i := range c.Series {
		r := &c.Series[i]
		if r.Route.string == "" {
			return fmt.Errorf("line %d: series %d names no route", c.Name.line, i+1)
		}
		if seen[r.Route.string] {
			return fmt.Errorf("line %d: route %q has a second series; put all its numbers into one", r.Route.line, r.Route.string)
		}
		seen[r.Route.string] = true
		if !r.Online.given() {
			return fmt.Errorf("line %d: route %q: online is missing", r.Route.line, r.Route.string)
		}
		for key, s := range map[string]*numbers{"online": &r.Online, "known": &r.Known, "late": &r.Late, "expected": &r.Expected, "expected_now": &r.ExpectedNow, "lowest": &r.Lowest, "low": &r.Low} {
			if err := s.check(key, 1_000_000); err != nil {
				return err
			}
		}
		if err := r.Heard.check("heard", 1); err != nil {
			return err
		}
		if err := oneOf("source", r.Source, []string{"hand", "timetable", "history", "none"}); err != nil {
			return err
		}
		switch none := r.Source.string == "none"; {
		case none && r.Expected.given():
			return fmt.Errorf("line %d: route %q: expected is given, so its source is not none", r.Expected.line, r.Route.string)
		case !none && r.Source.string != "" && !r.Expected.given():
			return fmt.Errorf("line %d: route %q: expected is missing; with source none nobody knows it", r.Source.line, r.Route.string)
		case !r.Expected.given() && (r.ExpectedNow.given() || r.Lowest.given()):
			return fmt.Errorf("line %d: route %q: expected is missing beside expected_now or lowest", r.Route.line, r.Route.string)
		}
	}
	return nil
}

func (c *caseOf) checkMachines() error {
	total := 0
	c.groups = map[string]string{}
	for i := range c.Machines {
		m := &c.Machines[i]
		if m.Machine.string == "" {
			return fmt.Errorf("line %d: machine %d has no name", c.Name.line, i+1)
		}
		total += m.Count.number()
		if total > maxMachines {
			return fmt.Errorf("line %d: more than %d machines", m.Machine.line, maxMachines)
		}
		for _, id := range m.ids() {
			if _, ok := c.groups[id]; ok {
				return fmt.Errorf("line %d: machine %q is there twice", m.Machine.line, id)
			}
			c.groups[id] = m.Machine.string
		}
		for _, s := range m.State.values {
			if err := oneOf("state", text{s, m.State.line}, stateNames()); err != nil {
				return err
			}
		}
		if err := m.Heard.check("heard", 1); err != nil {
			return err
		}
		if err := m.Pending.check("pending", maxNumber); err != nil {
			return err
		}
	}
	return nil
}

// ids are the machines of the entry.
func (m *machineSeries) ids() []string {
	if m.Count == 0 {
		return []string{m.Machine.string}
	}
	out := make([]string, m.Count)
	for i := range out {
		out[i] = fmt.Sprintf("%s-%d", m.Machine.string, i+1)
	}
	return out
}

func (c *caseOf) checkWants() error {
	for _, w := range c.Want {
		if w.At.line == 0 {
			return fmt.Errorf("line %d: an entry of want has no at; say when, such as at: 17m", c.Name.line)
		}
		if w.At.Duration < 0 || w.At.Duration%Tick != 0 {
			return fmt.Errorf("line %d: at: %v is not a multiple of %v from 0s on", w.At.line, w.At.Duration, Tick)
		}
		if w.Faults == nil {
			return fmt.Errorf("line %d: faults is missing; write faults: [] where none must be open", w.At.line)
		}
		for i := range *w.Faults {
			if err := c.checkFault(&(*w.Faults)[i], w.At.line); err != nil {
				return err
			}
		}
	}
	for key, list := range map[string]*[]wantEvent{"opened": c.Opened, "closed": c.Closed} {
		if list == nil {
			continue
		}
		for i := range *list {
			e := &(*list)[i]
			if e.At.line == 0 {
				return fmt.Errorf("line %d: an entry of %s has no at; say when, such as at: 17m", c.Name.line, key)
			}
			if e.At.Duration < 0 || e.At.Duration%c.interval != 0 {
				return fmt.Errorf("line %d: at: %v is not a multiple of the interval of %v: it stands for all that happens from then to the next", e.At.line, e.At.Duration, c.interval)
			}
			if err := c.checkFault(&e.wantFault, e.At.line); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *caseOf) checkFault(w *wantFault, line int) error {
	if w.Kind.string == "" {
		return fmt.Errorf("line %d: a fault without its kind, such as kind: route_below", line)
	}
	if err := oneOf("kind", w.Kind, kindNames()); err != nil {
		return err
	}
	if err := oneOf("severity", w.Severity, severityNames()); err != nil {
		return err
	}
	about, route, machine := "nothing", w.Route.string != "", w.Machine.string != ""
	switch {
	case strings.HasPrefix(w.Kind.string, "route_"):
		about = "a route"
	case strings.HasPrefix(w.Kind.string, "machine_"):
		about = "a machine"
	}
	cause := w.subject()
	if cause != (faults.Subject{}) || strings.HasSuffix(w.Kind.string, "_lost") {
		if kind := faults.CauseKind(cause); kind != faults.Kind(w.Kind.string) || route || machine || cause.String() == "platform" {
			return fmt.Errorf("line %d: a fault of kind %s names the vehicle, depot, network or fw that its machines have in common, and nothing else", w.Kind.line, w.Kind.string)
		}
		if w.Count > 1 {
			return fmt.Errorf("line %d: count goes with machine only", w.Kind.line)
		}
		return nil
	}
	if route != (about == "a route") || machine != (about == "a machine") {
		return fmt.Errorf("line %d: a fault of kind %s names %s, and nothing else", w.Kind.line, w.Kind.string, about)
	}
	if w.Count > 1 && !machine {
		return fmt.Errorf("line %d: count goes with machine only", w.Kind.line)
	}
	// A name that no series has can never come true.
	if route && !slices.ContainsFunc(c.Series, func(r routeSeries) bool { return r.Route.string == w.Route.string }) {
		return fmt.Errorf("line %d: the test has no series of route %q", w.Route.line, w.Route.string)
	}
	_, one := c.groups[w.Machine.string]
	if machine && !one && !slices.ContainsFunc(c.Machines, func(m machineSeries) bool { return m.Machine.string == w.Machine.string }) {
		return fmt.Errorf("line %d: the test has no machine %q", w.Machine.line, w.Machine.string)
	}
	return nil
}

// checkLength works out how long the test takes: to the end of its longest series and to the last
// thing that it wants.
func (c *caseOf) checkLength() error {
	values, machines := len(c.Blind.values), 0
	for i := range c.Series {
		r := &c.Series[i]
		for _, s := range []*numbers{&r.Online, &r.Known, &r.Late, &r.Heard, &r.Expected, &r.ExpectedNow, &r.Lowest, &r.Low} {
			values = max(values, len(s.values))
		}
	}
	for i := range c.Machines {
		m := &c.Machines[i]
		machines += m.Count.number()
		values = max(values, len(m.Heard.values), len(m.State.values), len(m.Fault.values), len(m.Pending.values), len(m.Skew.values))
	}
	if values > int(MaxLength/c.interval) {
		return fmt.Errorf("line %d: %d values of %v are more than %v", c.Name.line, values, c.interval, MaxLength)
	}
	c.length = time.Duration(values) * c.interval
	for _, w := range c.Want {
		c.length = max(c.length, w.At.Duration)
	}
	for _, list := range []*[]wantEvent{c.Opened, c.Closed} {
		if list == nil {
			continue
		}
		for _, e := range *list {
			c.length = max(c.length, e.At.Duration+c.interval)
		}
	}
	if c.length > MaxLength {
		return fmt.Errorf("line %d: takes %v, more than %v", c.Name.line, c.length, MaxLength)
	}
	if looks := int(c.length/Tick) * (len(c.Series) + machines); looks > maxLooks {
		return fmt.Errorf("line %d: %d looks at routes and machines are more than %d; make it shorter or smaller", c.Name.line, looks, maxLooks)
	}
	return nil
}
