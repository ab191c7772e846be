package rules

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
	"slices"
	"time"
)

// digest is an id of the content, equal for equal rules in every process, and never 0.
func (h *hours) digest() uint64 {
	var ids []byte
	for hour := range h.rules {
		for source := range h.rules[hour] {
			ids = binary.BigEndian.AppendUint64(ids, h.rules[hour][source].id)
		}
	}
	return contentID(string(ids))
}

// contentID is never 0.
func contentID(content string) uint64 {
	sum := fnv.New64a()
	_, _ = io.WriteString(sum, content) // a hash takes everything
	return max(sum.Sum64(), 1)
}

// DutyChange is how long a change of hour takes: for this long before and after it the
// lower of two thresholds holds.
const DutyChange = 10 * time.Minute

// Set is all rules of an operator, ready to be evaluated. It is immutable and safe for
// concurrent use.
type Set struct {
	location  *time.Location
	machine   MachineRules
	platform  PlatformRule
	causes    causeRules
	base      Rule              // before any override
	overrides []override        // in order; a later one wins
	common    *hours            // of routes that no override names
	routes    map[string]*hours // of those that one names

	maintenance []Maintenance
	windows     []maintenanceLayer // the same as a file says it
}

// hours holds the rule of each hour of the local clock and each source of an expectation.
type hours struct {
	rules [24][sources]*readyRule
	id    uint64 // of its content: a RouteState notes it, to see that the rules changed
}

// readyRule is a rule with its thresholds worked out.
type readyRule struct {
	Rule
	auto []int  // by demand, up to tabled; shared by rules of equal Availability and FalseAlarms
	id   uint64 // of its content
}

// tabled is the greatest demand whose automatic threshold is worked out once; few routes are bigger.
const tabled = 128

const sources = 4

// sourceNames are the sources that an override may name; the last stands for all others.
func sourceNames() [sources]string { return [...]string{"hand", "timetable", "history", "none"} }

// Sources lists the sources of an expectation that an override may name.
func Sources() []string {
	names := sourceNames()
	return names[:]
}

func sourceIndex(source string) int {
	switch source {
	case "hand":
		return 0
	case "timetable":
		return 1
	case "history":
		return 2
	}
	return sources - 1
}

// Machine returns the rules for single machines.
func (s *Set) Machine() MachineRules {
	m := s.machine
	m.Filling = slices.Clone(m.Filling)
	return m
}

// Platform returns the rule for all machines together.
func (s *Set) Platform() PlatformRule { return s.platform }

// Rule returns what holds for a route at an instant, where the expectation is of this source.
func (s *Set) Rule(route string, at time.Time, source string) Rule {
	return s.rule(route, at, sourceIndex(source)).Rule
}

func (s *Set) rule(route string, at time.Time, source int) *readyRule {
	return s.hoursOf(route).rules[at.In(s.location).Hour()][source]
}

func (s *Set) hoursOf(route string) *hours {
	if own, ok := s.routes[route]; ok {
		return own
	}
	return s.common
}

// defaults are the rules before any override of a file.
func defaults() (Rule, MachineRules, PlatformRule, []override) {
	rule := Rule{
		Availability: 0.97, FalseAlarms: 0.001,
		For:        For{M: 3, Of: 4, Every: 10 * time.Second},
		KeepFiring: 2 * time.Minute, SilentAfter: 45 * time.Second, NeverHeardAfter: 15 * time.Minute,
	}
	// A timetable says what was planned, and vehicles are late: it needs more patience than
	// a number that a person set. It speaks of every route at every minute, so that a route has some 300 chances a week
	// to be in breach for long enough: see docs/decisions/0013-a-route-fault-in-a-hundred-weeks.md.
	patient := override{Sources: []string{"timetable", "history"}, layer: layer{
		Auto:       &autoLayer{FalseAlarms: ptr(0.0001)},
		NeverHeard: ptr(duration(90 * time.Minute)),
		For:        &forLayer{M: ptr(8), Of: ptr(10), Every: ptr(duration(time.Minute))},
		KeepFiring: ptr(duration(5 * time.Minute)),
	}}
	machine := MachineRules{
		Silence: 70 * time.Second, Cap: 20_000, Filling: []int{50, 80}, Full: 95,
		ClockSkew: 5 * time.Minute, UnsentAfter: 5 * time.Minute,
	}
	return rule, machine, PlatformRule{Machines: 20, Share: 0.5, Routes: 5, Within: 2 * time.Minute, SilentAfter: 45 * time.Second}, []override{patient}
}

func ptr[T any](v T) *T { return &v }

// Default is the set that holds without a file. Its hours are those of location.
func Default(location *time.Location) *Set {
	rule, machine, platform, overrides := defaults()
	s, err := compile(location, rule, machine, platform, overrides)
	if err != nil {
		panic("rules: the default rules: " + err.Error()) // a test builds them
	}
	return s
}

// compile works out the rule of every hour, source and named route once, so that an
// evaluation only looks it up.
func compile(location *time.Location, base Rule, machine MachineRules, platform PlatformRule, overrides []override) (*Set, error) {
	s := &Set{location: location, machine: machine, platform: platform, causes: defaultCauses(), base: base, routes: map[string]*hours{}}
	for _, o := range overrides {
		if o.layer != (layer{}) || o.line > 0 { // of the defaults, those that the file replaced are gone
			s.overrides = append(s.overrides, o)
		}
	}
	var common []*override            // those for all routes
	named := map[string][]*override{} // those of a route, the common ones among them, in order
	for i := range overrides {
		o := &overrides[i]
		if len(o.Routes) == 0 {
			common = append(common, o)
			for route := range named {
				named[route] = append(named[route], o)
			}
			continue
		}
		for _, route := range slices.Compact(slices.Sorted(slices.Values(o.Routes))) {
			if _, ok := named[route]; !ok {
				named[route] = slices.Clone(common)
			}
			named[route] = append(named[route], o)
		}
	}
	shared := newReadyRules()
	var err error
	if s.common, err = buildHours(base, common, shared); err != nil {
		return nil, err
	}
	for route, list := range named {
		if s.routes[route], err = buildHours(base, list, shared); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// readyRules makes each rule ready once.
type readyRules struct {
	rules map[Rule]*readyRule
	auto  map[[2]float64][]int
}

func newReadyRules() *readyRules {
	return &readyRules{map[Rule]*readyRule{}, map[[2]float64][]int{}}
}

func (m *readyRules) of(r Rule) *readyRule {
	if ready := m.rules[r]; ready != nil {
		return ready
	}
	key := [2]float64{r.Availability, r.FalseAlarms}
	if m.auto[key] == nil {
		table := make([]int, tabled+1)
		for n := range table {
			table[n] = autoThreshold(n, r.Availability, r.FalseAlarms)
		}
		m.auto[key] = table
	}
	m.rules[r] = &readyRule{r, m.auto[key], contentID(fmt.Sprintf("%+v", r))}
	return m.rules[r]
}

// buildHours applies a route's overrides in order; equal rules are shared.
func buildHours(base Rule, list []*override, shared *readyRules) (*hours, error) {
	var h hours
	for hour := range h.rules {
		for source := range h.rules[hour] {
			r := base
			for _, o := range list {
				if !o.applies(hour, source) {
					continue
				}
				r = o.apply(r)
				if err := r.check(); err != nil {
					return nil, fmt.Errorf("line %d: overrides: %w", o.line, err)
				}
			}
			h.rules[hour][source] = shared.of(r)
		}
	}
	h.id = h.digest()
	return &h, nil
}
