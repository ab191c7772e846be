package rules

import (
	"bytes"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"go.yaml.in/yaml/v3"
)

// YAML writes the set as a rules file that says everything and leaves nothing to the defaults. Parse
// makes an equal set of it.
func (s *Set) YAML() ([]byte, error) {
	m, p := s.machine, s.platform
	return encode(file{
		Route:     layerOf(s.base),
		Overrides: s.overrides,
		Machine: &machineLayer{
			Silence: ptr(duration(m.Silence)), Cap: &m.Cap, Pending: append(slices.Clone(m.Filling), m.Full),
			ClockSkew: ptr(duration(m.ClockSkew)), UnsentAfter: ptr(duration(m.UnsentAfter)),
		},
		Platform: &platformLayer{
			Machines: &p.Machines, Share: &p.Share, Routes: &p.Routes,
			Within: ptr(duration(p.Within)), Silent: ptr(duration(p.SilentAfter)),
		},
		Causes: s.causes.layer(), Maintenance: s.windows,
	})
}

// YAML writes the rule as a rules file in which it holds for every route.
func (r Rule) YAML() ([]byte, error) { return encode(file{Route: layerOf(r)}) }

func encode(f file) ([]byte, error) {
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(f); err != nil {
		return nil, fmt.Errorf("write rules: %w", err)
	}
	return b.Bytes(), enc.Close()
}

// layerOf says all of a rule.
func layerOf(r Rule) *layer {
	l := &layer{
		For:        &forLayer{M: &r.For.M, Of: &r.For.Of, Every: ptr(duration(r.For.Every))},
		KeepFiring: ptr(duration(r.KeepFiring)), Silent: ptr(duration(r.SilentAfter)), NeverHeard: ptr(duration(r.NeverHeardAfter)),
	}
	if r.Off {
		l.Off = &r.Off
	}
	switch {
	case r.MinOnline > 0:
		l.MinOnline = &r.MinOnline
	case r.MinRatio > 0:
		l.MinRatio = &r.MinRatio
	default:
		l.Auto = &autoLayer{Availability: &r.Availability, FalseAlarms: &r.FalseAlarms}
	}
	return l
}

// RuleAt returns what holds for a route in an hour (0 to 23) of the local clock, where the
// expectation is of this source.
func (s *Set) RuleAt(route string, hour int, source string) Rule {
	return s.hoursOf(route).rules[hour%24][sourceIndex(source)].Rule
}

// Overrides is how many overrides the set has, those of the defaults among them.
func (s *Set) Overrides() int { return len(s.overrides) }

// Named is a route that an override names.
type Named struct {
	Route string
	Line  int // of the first such override in its file
}

// Named lists the routes that overrides name, sorted.
func (s *Set) Named() []Named {
	out := make([]Named, 0, len(s.routes))
	for _, route := range slices.Sorted(maps.Keys(s.routes)) {
		i := slices.IndexFunc(s.overrides, func(o override) bool { return slices.Contains(o.Routes, route) })
		n := Named{Route: route}
		if i >= 0 {
			n.Line = s.overrides[i].line
		}
		out = append(out, n)
	}
	return out
}

// Equal reports whether two sets decide alike, whatever their files look like.
func (s *Set) Equal(o *Set) bool {
	if s.location.String() != o.location.String() || s.platform != o.platform || s.causes != o.causes || !reflect.DeepEqual(s.windows, o.windows) || !s.machine.equal(o.machine) || !s.common.equal(o.common) {
		return false
	}
	for _, routes := range []map[string]*hours{s.routes, o.routes} {
		for route := range routes {
			if !s.hoursOf(route).equal(o.hoursOf(route)) {
				return false
			}
		}
	}
	return true
}

func (m MachineRules) equal(o MachineRules) bool {
	return m.Silence == o.Silence && m.Cap == o.Cap && slices.Equal(m.Filling, o.Filling) && m.Full == o.Full &&
		m.ClockSkew == o.ClockSkew && m.UnsentAfter == o.UnsentAfter
}

func (h *hours) equal(o *hours) bool {
	for hour := range h.rules {
		for source := range h.rules[hour] {
			if h.rules[hour][source].Rule != o.rules[hour][source].Rule {
				return false
			}
		}
	}
	return true
}

// Location is the zone of the set's hours.
func (s *Set) Location() *time.Location { return s.location }
