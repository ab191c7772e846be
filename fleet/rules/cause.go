package rules

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/presence"
)

// CauseRule says when machines that have something in common, lost together, are one fault of that.
type CauseRule struct {
	Machines int     // at least this many fell silent lately; 0: never
	Share    float64 // that are at least this share of those heard before, in (0, 1]
}

// Bounds of a cause's life.
const (
	// settle is how long a cause waits for more: machines that were cut off at one instant fall silent within a heartbeat interval.
	settle = 15 * time.Second
	// restFor: where half are back and for so long nobody else came, the rest is not of this cause.
	restFor = 15 * time.Minute
	// maxCauses bounds the causes found at one evaluation; the next finds more.
	maxCauses = 64
)

// Outage is a cause that fires.
type Outage struct {
	Subject faults.Subject `json:"subject"`
	Begun   time.Time      `json:"begun"`   // machines of it that were heard last after this were taken by it
	Since   time.Time      `json:"since"`   // when it began to fire
	Peak    int            `json:"peak"`    // most lost at once
	Least   int            `json:"least"`   // fewest lost since the peak
	LeastAt time.Time      `json:"leastAt"` // when it became so few
}

// CauseState is what the search for causes remembers: the zero value is a start.
type CauseState struct {
	Outages []Outage  `json:"outages,omitempty"` // those that fire, by rank
	Growing time.Time `json:"growing,omitzero"`  // since when one may begin
	Fresh   int       `json:"fresh,omitempty"`   // machines freshly lost at the evaluation before
}

// CauseVerdict is the verdict on one cause.
type CauseVerdict struct {
	Subject faults.Subject
	Verdict Verdict
	Lost    int            // machines that it took and that are still lost
	Known   int            // machines that it concerns
	Under   faults.Subject // the greater cause that explains it; the zero value where Explained is false
	// Explained says that Under is one: the platform's subject is the zero value.
	Explained bool
}

// Causes is what was found at one evaluation.
type Causes struct {
	Verdicts []CauseVerdict            // those that fire, greatest first, and those that ended now
	Routes   map[string]faults.Subject // the cause that explains at least half of the lost machines of a route
}

// Question is what presence is to be asked for EvaluateCauses. Want is left to the caller.
func (s *Set) Question(st CauseState) presence.Question {
	q := presence.Question{LostAfter: s.platform.SilentAfter, FreshUntil: s.platform.SilentAfter + s.platform.Within, Outages: map[presence.Group]time.Time{}}
	for _, o := range st.Outages {
		if g, ok := groupOf(o.Subject); ok {
			q.Outages[g] = o.Begun
		} else {
			q.Everyone = o.Begun
		}
	}
	return q
}

// subjectOf is the subject of a group's fault.
func subjectOf(g presence.Group) faults.Subject {
	switch g.Dimension {
	case presence.ByVehicle:
		return faults.Subject{Vehicle: g.Name}
	case presence.ByDepot:
		return faults.Subject{Depot: g.Name}
	case presence.ByNetwork:
		return faults.Subject{Network: g.Name}
	}
	return faults.Subject{Firmware: g.Name}
}

// groupOf is the inverse; false for the platform.
func groupOf(s faults.Subject) (presence.Group, bool) {
	switch {
	case s.Vehicle != "":
		return presence.Group{Dimension: presence.ByVehicle, Name: s.Vehicle}, true
	case s.Depot != "":
		return presence.Group{Dimension: presence.ByDepot, Name: s.Depot}, true
	case s.Network != "":
		return presence.Group{Dimension: presence.ByNetwork, Name: s.Network}, true
	case s.Firmware != "":
		return presence.Group{Dimension: presence.ByFirmware, Name: s.Firmware}, true
	}
	return presence.Group{}, false
}

// rankOf orders causes: the greater explains the smaller, and of two that explain a loss equally well the greater is named.
func rankOf(s faults.Subject) int {
	switch {
	case s.Vehicle != "":
		return 4
	case s.Firmware != "":
		return 3
	case s.Depot != "":
		return 2
	case s.Network != "":
		return 1
	}
	return 0
}

// holds reports whether a machine belongs to a cause.
func holds(s faults.Subject, m *presence.Missing) bool {
	g, ok := groupOf(s)
	return !ok || m.Groups[g.Dimension] != nil && *m.Groups[g.Dimension] == g
}

// took reports whether a machine was taken by an outage.
func (o *Outage) took(m *presence.Missing) bool {
	return m.LastHeard.After(o.Begun) && holds(o.Subject, m)
}

// EvaluateCauses finds what machines lost together have in common: of all groups that pass their rule the one that fits best what is lost,
// until no other passes with what is left. survey answers Question. While blind nothing is decided and nothing is forgotten.
func (s *Set) EvaluateCauses(now time.Time, survey *presence.Survey, blind bool, st CauseState) (CauseState, Causes) {
	if blind {
		return st, Causes{Verdicts: s.standing(now, survey, st)}
	}
	st.Outages = slices.Clone(st.Outages)
	ended := st.resolve(now, survey)
	left := st.unexplained(survey)
	st = s.find(now, survey, st, left)
	out := Causes{Verdicts: append(s.standing(now, survey, st), ended...), Routes: map[string]faults.Subject{}}
	st.explain(survey, &out)
	return st, out
}

// tallyOf is the count of a cause's machines.
func tallyOf(survey *presence.Survey, s faults.Subject) presence.Tally {
	if g, ok := groupOf(s); ok {
		return survey.Groups[g]
	}
	return survey.All
}

// standing are the verdicts on the causes that fire.
func (s *Set) standing(now time.Time, survey *presence.Survey, st CauseState) []CauseVerdict {
	var out []CauseVerdict
	for _, o := range st.Outages {
		t := tallyOf(survey, o.Subject)
		if o.Since.Equal(now) {
			t.Since = o.Peak // it was not asked for yet
		}
		out = append(out, CauseVerdict{
			Subject: o.Subject, Lost: t.Since, Known: t.Known,
			Verdict: Verdict{
				Kind: faults.CauseKind(o.Subject), Firing: true, Since: o.Since,
				Reason: fmt.Sprintf("%d machines fell silent together within %s%s; %d of %d are lost now.", o.Peak, s.platform.Within, o.Subject.Common(), t.Since, t.Known),
			},
		})
	}
	return out
}

// resolve ends the outages that are over: nearly all machines are back, or most are and for long nobody else came.
func (st *CauseState) resolve(now time.Time, survey *presence.Survey) []CauseVerdict {
	var ended []CauseVerdict
	st.Outages = slices.DeleteFunc(st.Outages, func(o Outage) bool {
		t := tallyOf(survey, o.Subject)
		back := o.Subject.Vehicle != "" && t.Since < t.Known // one that is heard shows that the vehicle has power and a way out
		if !back && t.Since > o.Peak/50 && (t.Since > o.Peak/2 || now.Sub(o.LeastAt) < restFor) {
			return false
		}
		reason := fmt.Sprintf("%d of %d machines are heard again.", o.Peak-min(t.Since, o.Peak), o.Peak)
		ended = append(ended, CauseVerdict{
			Subject: o.Subject, Lost: t.Since, Known: t.Known, Verdict: Verdict{Kind: faults.CauseKind(o.Subject), Reason: reason},
		})
		return true
	})
	if len(st.Outages) == 0 {
		st.Outages = nil // as it is read again
	}
	for i := range st.Outages {
		o := &st.Outages[i]
		switch n := tallyOf(survey, o.Subject).Since; {
		case n > o.Peak:
			o.Peak, o.Least, o.LeastAt = n, n, now
		case n < o.Least:
			o.Least, o.LeastAt = n, now
		}
	}
	return ended
}

// unexplained lists the machines freshly lost that no outage took.
func (st *CauseState) unexplained(survey *presence.Survey) []*presence.Missing {
	var left []*presence.Missing
	for i := range survey.Missing {
		m := &survey.Missing[i]
		if m.Fresh && !slices.ContainsFunc(st.Outages, func(o Outage) bool { return o.took(m) }) {
			left = append(left, m)
		}
	}
	return left
}

// find begins the outages that explain what is left.
func (s *Set) find(now time.Time, survey *presence.Survey, st CauseState, left []*presence.Missing) CauseState {
	grown := len(left) > st.Fresh
	st.Fresh = len(left)
	first, ok := s.best(survey, left, st.Outages)
	if !ok {
		st.Growing = time.Time{}
		return st
	}
	if st.Growing.IsZero() {
		st.Growing = now
	}
	if waited := now.Sub(st.Growing); waited >= 0 && waited < settle && (grown || waited == 0) {
		return st
	}
	begun := now.Add(-s.platform.SilentAfter - s.platform.Within)
	for range maxCauses {
		o := Outage{Subject: first, Begun: begun, Since: now, LeastAt: now}
		left = slices.DeleteFunc(left, func(m *presence.Missing) bool {
			if holds(first, m) {
				if !m.LastHeard.After(o.Begun) { // while we were blind nobody's silence grew
					o.Begun = m.LastHeard.Add(-1)
				}
				o.Peak++
				return true
			}
			return false
		})
		o.Least = o.Peak
		st.Outages = append(st.Outages, o)
		if first, ok = s.best(survey, left, st.Outages); !ok {
			break
		}
	}
	slices.SortStableFunc(st.Outages, func(a, b Outage) int { return cmp.Compare(rankOf(a.Subject), rankOf(b.Subject)) })
	st.Growing, st.Fresh = time.Time{}, len(left)
	return st
}

// candidate is a group with what it would explain.
type candidate struct {
	subject faults.Subject
	fresh   int // of what is left
	before  int // machines of the group that were heard before
}

// before counts the machines that were heard before some fell silent lately.
func before(t presence.Tally) int { return t.Known - t.Lost + t.Fresh }

// best is the cause whose machines are most nearly those that are left: by Jaccard's index, of the lost and the
// group, and the greatest of equals.
func (s *Set) best(survey *presence.Survey, left []*presence.Missing, standing []Outage) (faults.Subject, bool) {
	fresh, routes := map[presence.Group]int{}, map[string]bool{}
	for _, m := range left {
		if m.Route != "" {
			routes[m.Route] = true
		}
		for _, g := range m.Groups {
			if g != nil {
				fresh[*g]++
			}
		}
	}
	var list []candidate
	for g, n := range fresh {
		if rule := s.causes[g.Dimension]; rule.passes(n, before(survey.Groups[g])) {
			list = append(list, candidate{subjectOf(g), n, before(survey.Groups[g])})
		}
	}
	p := s.platform
	if len(routes) >= p.Routes && (CauseRule{p.Machines, p.Share}).passes(len(left), before(survey.All)) {
		list = append(list, candidate{faults.Subject{}, len(left), before(survey.All)})
	}
	list = slices.DeleteFunc(list, func(c candidate) bool {
		return slices.ContainsFunc(standing, func(o Outage) bool { return o.Subject == c.subject })
	})
	if len(list) == 0 {
		return faults.Subject{}, false
	}
	fit := func(c candidate) float64 { return float64(c.fresh) / float64(len(left)+c.before-c.fresh) }
	top := slices.MinFunc(list, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(fit(b), fit(a)), cmp.Compare(rankOf(a.subject), rankOf(b.subject)), cmp.Compare(a.subject.String(), b.subject.String()))
	})
	return top.subject, true
}

// passes reports whether so many lost of so many known are one fault.
func (r CauseRule) passes(fresh, before int) bool {
	return r.Machines > 0 && fresh >= r.Machines && float64(fresh) >= r.Share*float64(before)
}

// explain finds what explains routes and smaller causes: the greatest cause that took at least half of their lost machines.
func (st *CauseState) explain(survey *presence.Survey, out *Causes) {
	if len(st.Outages) == 0 {
		return
	}
	lost := map[string]int{}                              // by route
	taken := map[string]map[faults.Subject]int{}          // by route and cause
	within := map[faults.Subject]map[faults.Subject]int{} // of a cause's machines those of a greater one
	for i := range survey.Missing {
		m := &survey.Missing[i]
		lost[m.Route]++
		var first *Outage
		for j := range st.Outages { // by rank
			o := &st.Outages[j]
			if !o.took(m) {
				continue
			}
			if first == nil {
				first = o
				add(taken, m.Route, o.Subject)
				continue
			}
			add(within, o.Subject, first.Subject)
		}
	}
	for route, by := range taken {
		for _, o := range st.Outages {
			if route != "" && 2*by[o.Subject] >= lost[route] {
				out.Routes[route] = o.Subject
				break
			}
		}
	}
	for i := range out.Verdicts {
		v := &out.Verdicts[i]
		for _, o := range st.Outages {
			if n := within[v.Subject][o.Subject]; n > 0 && 2*n >= v.Lost && v.Verdict.Firing {
				v.Under, v.Explained = o.Subject, true
				break
			}
		}
	}
}

func add[K comparable](m map[K]map[faults.Subject]int, k K, s faults.Subject) {
	if m[k] == nil {
		m[k] = map[faults.Subject]int{}
	}
	m[k][s]++
}

// Explains is the greatest cause that fires and to which a machine belongs; false for none. Groups are the machine's.
func (st *CauseState) Explains(vehicle, depot, network, firmware string) (faults.Subject, bool) {
	for _, o := range st.Outages {
		s := o.Subject
		if s == (faults.Subject{}) || s == (faults.Subject{Vehicle: vehicle}) || s == (faults.Subject{Depot: depot}) ||
			s == (faults.Subject{Network: network}) || s == (faults.Subject{Firmware: firmware}) {
			return s, true
		}
	}
	return faults.Subject{}, false
}

// causeRules are the rules by dimension.
type causeRules [presence.Dimensions]CauseRule

func defaultCauses() causeRules {
	return causeRules{
		presence.ByVehicle:  {Machines: 2, Share: 1},
		presence.ByDepot:    {Machines: 5, Share: 0.6},
		presence.ByNetwork:  {Machines: 10, Share: 0.5},
		presence.ByFirmware: {Machines: 10, Share: 0.5},
	}
}

// Cause returns the rule of a dimension.
func (s *Set) Cause(d presence.Dimension) CauseRule { return s.causes[d] }

// causesLayer sets some rules of causes.
type causesLayer struct {
	Vehicle  *causeLayer `yaml:"vehicle,omitempty"`
	Depot    *causeLayer `yaml:"depot,omitempty"`
	Network  *causeLayer `yaml:"network,omitempty"`
	Firmware *causeLayer `yaml:"firmware,omitempty"`
}

type causeLayer struct {
	Off      *bool    `yaml:"off,omitempty"`
	Machines *int     `yaml:"machines,omitempty"`
	Share    *float64 `yaml:"share,omitempty"`
}

// layer says all of the rules.
func (c causeRules) layer() *causesLayer {
	of := func(d presence.Dimension) *causeLayer {
		if c[d].Machines == 0 {
			return &causeLayer{Off: ptr(true)}
		}
		return &causeLayer{Machines: &c[d].Machines, Share: &c[d].Share}
	}
	return &causesLayer{Vehicle: of(presence.ByVehicle), Depot: of(presence.ByDepot), Network: of(presence.ByNetwork), Firmware: of(presence.ByFirmware)}
}

func (l *causesLayer) apply(c causeRules) (causeRules, error) {
	layers := map[presence.Dimension]*causeLayer{
		presence.ByVehicle: l.Vehicle, presence.ByDepot: l.Depot, presence.ByNetwork: l.Network, presence.ByFirmware: l.Firmware,
	}
	names := [presence.Dimensions]string{presence.ByVehicle: "vehicle", presence.ByDepot: "depot", presence.ByNetwork: "network", presence.ByFirmware: "firmware"}
	for _, d := range slices.Sorted(maps.Keys(layers)) {
		layer := layers[d]
		if layer == nil {
			continue
		}
		set(&c[d].Machines, layer.Machines)
		set(&c[d].Share, layer.Share)
		if c[d].Machines < 2 || !(c[d].Share > 0 && c[d].Share <= 1) {
			return c, fmt.Errorf("%s: machines must be 2 or more and share in (0, 1], got %d and %v", names[d], c[d].Machines, c[d].Share)
		}
		if layer.Off != nil && *layer.Off {
			c[d] = CauseRule{}
		}
	}
	return c, nil
}
