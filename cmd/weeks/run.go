package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/farebeat/farebeat/fleet"
	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/schemas"
)

const tick = 5 * time.Second

// sender is a machine on its way through the run.
type sender struct {
	*machine
	shift, leg int  // where it is
	wasDown    bool // at its last turn
	boots      int
	seq        uint64
	boot       string

	route string        // of the last heartbeat that arrived; empty after a goodbye
	last  time.Duration // its arrival
}

// run drives the engine through the whole time.
type run struct {
	c       *city
	engine  *fleet.Engine
	senders []*sender
	chance  *rand.Rand
	payload []byte
	beats   int
	rounds  int

	current []*outage // begun and not over for long
	next    int       // of c.outages
	faults  map[string]faults.Fault
	false_  map[string]*falseFault
	machine int // faults of machines that opened
}

// falseFault is a route fault that overlaps no outage of its route.
type falseFault struct {
	Route   string   `json:"route"`
	Opened  string   `json:"opened"`
	Closed  string   `json:"closed,omitempty"`
	Kind    string   `json:"kind"`
	Reason  string   `json:"reason"`
	OnRoute []string `json:"machines"` // on the route, or last heard there
}

func newRun(c *city, seed uint64) *run {
	r := &run{
		c: c, chance: rand.New(rand.NewPCG(seed, 4)), faults: map[string]faults.Fault{}, false_: map[string]*falseFault{},
		engine: fleet.NewEngine(fleet.EngineConfig{Location: c.start.Location(), Interval: interval, Expect: c.source, Rules: c.rules}, c.start),
	}
	for _, m := range c.machines {
		r.senders = append(r.senders, &sender{machine: m})
	}
	return r
}

// all lets every machine have its turn in every interval. Rounds and ends of minutes come before what
// happens at the same instant.
func (r *run) all(ctx context.Context) error {
	var clock time.Duration
	for cycle := time.Duration(0); cycle < r.c.length; cycle += interval {
		if err := ctx.Err(); err != nil {
			return err
		}
		for _, s := range r.senders {
			at := cycle + s.phase
			for ; clock <= at; clock += tick {
				r.round(clock)
			}
			if err := r.turn(s, at); err != nil {
				return err
			}
		}
	}
	return nil
}

// turn sends what a machine has to say at its phase of the interval.
func (r *run) turn(s *sender, at time.Duration) error {
	if s.shift >= len(s.shifts) || at < s.shifts[s.shift].from {
		return nil
	}
	duty := &s.shifts[s.shift]
	over := at >= duty.to
	silent := s.isDown(at) || within(s.cut, min(at, duty.to-1))
	if s.boot == "" || s.wasDown && !s.isDown(at) {
		s.boots++
		s.boot, s.seq = "b"+strconv.Itoa(s.boots), 0
	}
	s.wasDown = s.isDown(at)
	for s.leg+1 < len(duty.legs) && at >= duty.legs[s.leg].to {
		s.leg++
	}
	l := &duty.legs[s.leg]
	s.seq++
	if !silent && r.chance.Float64() >= lossRate {
		if err := r.send(s, l, at, over); err != nil {
			return err
		}
	}
	if over {
		s.shift, s.leg, s.boot = s.shift+1, 0, ""
	}
	return nil
}

func (r *run) send(s *sender, l *leg, at time.Duration, over bool) error {
	now := r.c.start.Add(at)
	hb := schemas.Heartbeat{Seq: s.seq, Boot: s.boot, At: now, Vehicle: s.vehicle, Route: l.route, Trip: l.trip, State: schemas.Running}
	s.route, s.last = l.route, at
	if over {
		hb.State, s.route = schemas.ReadyForShutdown, ""
	}
	r.beats++
	r.payload = schemas.AppendHeartbeat(r.payload[:0], &hb)
	if err := r.engine.Heartbeat(now, s.id, r.payload); err != nil {
		return fmt.Errorf("weeks: %w", err)
	}
	return nil
}

func (r *run) round(clock time.Duration) {
	now := r.c.start.Add(clock)
	if clock%time.Minute == 0 {
		r.engine.Minute(now)
		r.engine.Hours(now)
	}
	for r.next < len(r.c.outages) && r.c.outages[r.next].from <= clock {
		r.current = append(r.current, r.c.outages[r.next])
		r.next++
	}
	for _, o := range r.current {
		r.judge(o, clock)
	}
	r.current = slices.DeleteFunc(r.current, func(o *outage) bool { return clock >= o.to })
	r.rounds++
	for _, c := range r.engine.Round(now, nil).Changes {
		r.take(c, clock)
	}
}

// judge finds the instant at which the rule should have fired by its own words: what was heard of the route is
// counted here from what was sent, what is demanded is the timetable's.
//
//	silent: two or more were heard, one is demanded, and none is heard for SilentAfter
//	below:  fewer are online than the threshold for For.M times For.Every; online is who was heard within four intervals
func (r *run) judge(o *outage, clock time.Duration) {
	if o.deadline != 0 || clock > o.to {
		return
	}
	rule := r.c.rule(o.Route, clock)
	_, demand := r.c.demand(o.Route, clock)
	online, last := 0, time.Duration(-1)
	for _, s := range r.senders {
		if s.route != o.Route || s.last == 0 {
			continue
		}
		last = max(last, s.last)
		if clock-s.last <= deadlineOf {
			online++
		}
	}
	if o.Share == 1 && demand > 0 && clock-last >= rule.SilentAfter {
		o.deadline = last + rule.SilentAfter
		return
	}
	switch {
	case online >= threshold(rule, demand):
		o.breach = 0
	case o.breach == 0:
		o.breach = clock
	case clock-o.breach >= rule.For.Duration():
		o.deadline = o.breach + rule.For.Duration()
	}
}

// take notes what opens and closes of routes.
func (r *run) take(c faults.Change, clock time.Duration) {
	f := c.Fault
	if f.OpenedAt.IsZero() {
		return
	}
	before, seen := r.faults[f.ID]
	if f.Subject.Route == "" {
		if !seen && f.Subject.Machine != "" {
			r.machine++
			r.faults[f.ID] = faults.Fault{ID: f.ID}
		}
		return
	}
	r.faults[f.ID] = f
	from, to := f.OpenedAt.Sub(r.c.start), clock
	ours := false
	for _, o := range r.c.outages {
		if o.Route != f.Subject.Route || o.from > to || o.to < from {
			continue
		}
		ours = true
		if o.opened == 0 && clock < o.to {
			o.opened, o.stood = max(from, o.from), from < o.from
		}
		if f.Ended() {
			o.closed = clock
		}
	}
	switch known := r.false_[f.ID]; {
	case ours:
		delete(r.false_, f.ID)
	case !seen:
		r.false_[f.ID] = &falseFault{
			Route: f.Subject.Route, Opened: r.clock(clock), Kind: string(f.Kind), Reason: f.Reason, OnRoute: r.onRoute(f.Subject.Route, clock),
		}
	case known != nil && f.Ended() && !before.Ended():
		known.Closed = r.clock(clock)
	}
}

func (r *run) clock(at time.Duration) string {
	return r.c.start.Add(at).Format("Mon 2006-01-02 15:04:05")
}

// onRoute says of each machine whose vehicle is on a route, and of each that was last heard of there, what is the matter
// with it: what a false fault is about.
func (r *run) onRoute(route string, at time.Duration) []string {
	var out []string
	for _, s := range r.senders {
		visits := s.visits(route, span{at, at + 1})
		if len(visits) == 0 && s.route != route {
			continue
		}
		text := s.id + " is not on the route"
		if len(visits) > 0 {
			text = s.id + " is on the route since " + r.clock(visits[0].from)
		}
		if s.route != "" {
			text += ", last heard on " + s.route + " at " + r.clock(s.last)
		}
		for _, d := range s.down {
			if d.holds(at) {
				text += ", broken since " + r.clock(d.from)
			}
		}
		out = append(out, text)
	}
	return out
}
