package main

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/farebeat/farebeat/fleet/expect"
	"github.com/farebeat/farebeat/fleet/rules"
)

// outage takes machines of one route off the air for a while.
type outage struct {
	span
	Route string
	Share float64 // of the machines on the route, whenever one comes

	deadline time.Duration // when the rule, by its own words, should have fired; 0: not yet
	opened   time.Duration // of the fault that found it; 0: none
	stood    bool          // that fault was open before
	closed   time.Duration
	breach   time.Duration // since when the count is below the threshold, 0: it is not
}

// What an outage is. A whole one silences all of a route where the timetable wants a machine and two or more
// are heard: one that is not heard is the machine's fault. A drop silences so large a share of a route of
// at least dropFrom that what is left stays below the rule's threshold for long enough.
const (
	dropShare = 0.6
	dropFrom  = 6
	shortest  = 15 * time.Minute
	longest   = 90 * time.Minute
	apart     = 3 * time.Hour   // between two outages of one route
	settled   = 2 * time.Minute // for so long before and after its begin a whole one must be wanted and would be heard
	maxDraws  = 10_000
)

// draw finds places for n outages, three of five of them whole, at random.
func (c *city) draw(r *rand.Rand, n int) error {
	whole := int(math.Round(0.6 * float64(n)))
	for i := range n {
		share := dropShare
		if i < whole {
			share = 1
		}
		for {
			if c.redrawn++; c.redrawn > maxDraws {
				return fmt.Errorf("no place for outage %d of %d: the run is too short for so many", i+1, n)
			}
			if o := c.candidate(r, share); o != nil {
				c.outages = append(c.outages, o)
				break
			}
		}
	}
	c.redrawn -= n
	slices.SortFunc(c.outages, func(a, b *outage) int { return cmp.Compare(a.from, b.from) })
	for _, m := range c.machines {
		slices.SortFunc(m.cut, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	}
	return nil
}

// candidate draws one outage and cuts its machines; nil if it would be none by definition.
func (c *city) candidate(r *rand.Rand, share float64) *outage {
	from := time.Duration(r.Int64N(int64(c.length - longest)))
	length := shortest + time.Duration(r.Int64N(int64(longest-shortest)))
	routes := c.source.Routes(c.start.Add(from))
	o := &outage{span: span{from, from + length}, Route: routes[r.IntN(len(routes))], Share: share}
	if slices.ContainsFunc(c.outages, func(p *outage) bool {
		return p.Route == o.Route && p.from < o.to+apart && o.from < p.to+apart
	}) {
		return nil
	}
	cuts := c.cuts(r, o)
	if !c.counts(o, cuts) {
		return nil
	}
	for m, list := range cuts {
		m.cut = append(m.cut, list...)
	}
	return o
}

// cuts chooses which visits to the route the outage silences: as they come, the next one wherever fewer than the
// share of those present are silenced.
func (c *city) cuts(r *rand.Rand, o *outage) map[*machine][]span {
	type visit struct {
		m *machine
		span
		cut bool
	}
	var all []*visit
	for _, m := range c.machines {
		for _, v := range m.visits(o.Route, o.span) {
			all = append(all, &visit{m: m, span: span{max(v.from, o.from), min(v.to, o.to)}})
		}
	}
	r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	slices.SortStableFunc(all, func(a, b *visit) int { return cmp.Compare(a.from, b.from) })
	out := map[*machine][]span{}
	for _, v := range all {
		present, cut := 0, 0
		for _, other := range all {
			if other.holds(v.from) {
				present++
				if other.cut {
					cut++
				}
			}
		}
		if float64(cut) < o.Share*float64(present) {
			v.cut = true
			out[v.m] = append(out[v.m], v.span)
		}
	}
	return out
}

// counts reports whether the outage is one by definition.
func (c *city) counts(o *outage, cuts map[*machine][]span) bool {
	if o.Share == 1 {
		for _, at := range []time.Duration{o.from - settled, o.from, o.from + settled} {
			if _, demand := c.demand(o.Route, at); demand < 1 || c.heard(o.Route, at, nil) < 2 {
				return false
			}
		}
		return true
	}
	rule := c.rule(o.Route, o.from)
	for at := o.from; at < o.from+rule.For.Duration()+deadlineOf; at += time.Minute {
		expected, demand := c.demand(o.Route, at)
		if expected < dropFrom || c.heard(o.Route, at, cuts) >= threshold(rule, demand) {
			return false
		}
	}
	return true
}

// deadlineOf is the silence after which a machine is not online: four intervals.
const deadlineOf = 4 * interval

// heard is how many machines of the route are neither broken nor cut.
func (c *city) heard(route string, at time.Duration, cuts map[*machine][]span) int {
	n := 0
	for _, m := range c.machines {
		if len(m.visits(route, span{at, at + 1})) > 0 && !m.isDown(at) && !within(cuts[m], at) {
			n++
		}
	}
	return n
}

// demand is what the timetable has at an instant and what it has at least around it.
func (c *city) demand(route string, at time.Duration) (now, demand int) {
	e, ok := c.source.Expect(route, c.start.Add(at))
	if !ok {
		return 0, 0
	}
	return e.Now, min(e.Now, e.Lowest)
}

func (c *city) rule(route string, at time.Duration) rules.Rule {
	return c.rules.Rule(route, c.start.Add(at), expect.SourceTimetable)
}

// threshold is the least number online that is no breach, worked out anew from the words of
// the rule: the largest t with P(X < t) below the budget.
func threshold(r rules.Rule, n int) int {
	sum, t := 0.0, 0
	for k := 0; k < n; k++ {
		p := math.Pow(r.Availability, float64(k)) * math.Pow(1-r.Availability, float64(n-k))
		for i := range k {
			p *= float64(n-i) / float64(k-i)
		}
		if sum += p; sum >= r.FalseAlarms {
			break
		}
		t = k + 1
	}
	return t
}
