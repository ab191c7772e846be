package city

import (
	"container/heap"
	"context"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/farebeat/farebeat/edge/machine"
)

// phase is where in its day a machine is.
type phase uint8

const (
	off     phase = iota // waits for duties[next]
	duty                 // serves duties[next]
	layover              // between duties[next] and the one after, on the route of the former
	parking              // after duties[next], says goodbye
)

// unit is one machine in the city.
type unit struct {
	m      *machine.Machine
	topic  string
	duties []Duty
	lane   int

	goodbyes atomic.Int32 // heartbeats sent while parking, counted by the worker

	// The scheduler's.
	index         int // in the heap, -1: nothing is due any more
	due           time.Time
	next          int
	phase         phase
	turn          time.Time // when the phase changes; zero: never
	beat, tap     time.Time // zero: none
	cut, stopped  bool
	cutTo, stopTo time.Time // zero: until the end
	crashed       bool

	// The worker's.
	powered bool
	up      Uplink
	radio   func()
}

// scheduler holds the timetable of all machines. One goroutine owns it.
type scheduler struct {
	*City
	lanes   []chan job
	heap    unitHeap
	outages []Outage // in order of time; those begun are cut off the front
	rng     *rand.Rand
	noTaps  bool
}

func newScheduler(c *City, lanes []chan job) *scheduler {
	s := &scheduler{City: c, lanes: lanes, outages: byTime(c.o.Outages), rng: rand.New(rand.NewPCG(c.o.Seed, 0x66617265))}
	now := c.clock.Now()
	for _, u := range c.units {
		for u.next < len(u.duties) && !u.duties[u.next].To.After(now) {
			u.next++
		}
		if u.next == len(u.duties) {
			continue
		}
		u.turn = u.duties[u.next].From
		if u.turn.Before(now) {
			// On duty already: not all of them in the same instant.
			u.turn = now.Add(time.Duration(s.rng.Int64N(int64(c.o.Interval))))
		}
		u.due = u.turn
		u.index = len(s.heap)
		s.heap = append(s.heap, u)
	}
	heap.Init(&s.heap)
	return s
}

// run acts on what is due until nothing is left to come or ctx ends.
func (s *scheduler) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		s.takeOrders()
		now := s.clock.Now()
		if !s.pass(ctx, now) {
			return
		}
		next, ok := s.nextDue()
		if !ok {
			return
		}
		wait := s.clock.Real(next.Sub(s.clock.Now()))
		if wait <= 0 {
			continue
		}
		timer.Reset(wait + time.Microsecond) // past the instant, whatever the rounding
		select {
		case <-timer.C:
		case <-s.wake:
		case <-ctx.Done():
			return
		}
	}
}

func (s *scheduler) takeOrders() {
	s.mu.Lock()
	orders := s.orders
	s.orders = nil
	s.mu.Unlock()
	for _, f := range orders {
		f(s)
	}
}

// pass handles all that is due now. It returns false when ctx ended.
func (s *scheduler) pass(ctx context.Context, now time.Time) bool {
	for len(s.outages) > 0 && !s.outages[0].At.After(now) {
		s.begin(ctx, s.outages[0], now)
		s.outages = s.outages[1:]
	}
	if len(s.heap) > 0 {
		s.tally.lag.Store(int64(max(0, now.Sub(s.heap[0].due))))
	}
	for len(s.heap) > 0 && !s.heap[0].due.After(now) {
		if ctx.Err() != nil {
			return false
		}
		u := s.heap[0]
		s.step(ctx, u, now)
		s.plan(u)
	}
	return true
}

func (s *scheduler) nextDue() (time.Time, bool) {
	if len(s.heap) == 0 {
		return time.Time{}, false
	}
	next := s.heap[0].due
	if len(s.outages) > 0 {
		next = earlier(next, s.outages[0].At)
	}
	return next, true
}

// plan puts a unit where its next event belongs.
func (s *scheduler) plan(u *unit) {
	var due time.Time
	switch {
	case u.stopped:
		due = u.stopTo
	case u.phase == off:
		due = u.turn
	default:
		due = earlier(earlier(u.turn, u.beat), earlier(u.tap, u.cutTo))
	}
	u.due = due
	switch {
	case due.IsZero() && u.index >= 0:
		heap.Remove(&s.heap, u.index)
	case due.IsZero():
	case u.index < 0:
		heap.Push(&s.heap, u)
	default:
		heap.Fix(&s.heap, u.index)
	}
}

// earlier is the first of two times; a zero time is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

func due(t, now time.Time) bool { return !t.IsZero() && !t.After(now) }

// step handles the events of one unit that are due.
func (s *scheduler) step(ctx context.Context, u *unit, now time.Time) {
	if u.stopped {
		if due(u.stopTo, now) {
			s.restart(ctx, u, now)
		}
		return
	}
	if due(u.cutTo, now) {
		u.cut, u.cutTo = false, time.Time{}
		s.tally.cut.Add(-1)
		s.send(ctx, u, job{kind: jobSync, now: now})
	}
	if due(u.turn, now) {
		s.turn(ctx, u, now)
	}
	if u.phase == off {
		return
	}
	if due(u.tap, now) {
		s.send(ctx, u, job{kind: jobTap, now: now, fare: s.o.Fare(s.rng)})
		u.tap = s.nextTap(u.tap)
	}
	if due(u.beat, now) {
		s.beat(ctx, u, now)
	}
}

// turn moves a unit on in its day.
func (s *scheduler) turn(ctx context.Context, u *unit, now time.Time) {
	switch u.phase {
	case off:
		s.tally.on.Add(1)
		u.crashed = false
		s.serve(u, now)
	case duty:
		s.afterDuty(u, now)
	case layover, parking:
		u.next++
		s.serve(u, now)
	}
	s.send(ctx, u, job{kind: jobSync, now: now})
}

// serve begins duties[next], or a later one if time went past it.
func (s *scheduler) serve(u *unit, now time.Time) {
	for u.next+1 < len(u.duties) && !u.duties[u.next+1].From.After(now) {
		u.next++
	}
	d := u.duties[u.next]
	if !d.To.After(now) {
		s.afterDuty(u, now)
		return
	}
	if u.beat.IsZero() {
		u.beat = now
	}
	u.phase, u.turn = duty, d.To
	u.tap = time.Time{}
	if s.o.TapsPerHour > 0 && !s.noTaps {
		u.tap = s.nextTap(now)
	}
}

// afterDuty goes on to the next duty, into the layover before it, or home.
func (s *scheduler) afterDuty(u *unit, now time.Time) {
	u.tap = time.Time{}
	if u.next+1 < len(u.duties) {
		n := u.duties[u.next+1].From
		if !n.After(now) {
			u.next++
			s.serve(u, now)
			return
		}
		u.turn = n
		if n.Sub(u.duties[u.next].To) <= s.o.Layover {
			u.phase = layover
			if u.beat.IsZero() {
				u.beat = now
			}
			return
		}
	} else {
		u.turn = time.Time{}
	}
	u.phase, u.beat = parking, now
	u.goodbyes.Store(0)
}

// farewells is how many heartbeats say that a machine parks: the first may be lost.
const farewells = 2

func (s *scheduler) beat(ctx context.Context, u *unit, now time.Time) {
	if u.phase == parking && u.goodbyes.Load() >= farewells && pending(u) == 0 {
		s.home(ctx, u, now)
		return
	}
	if !s.offer(u, job{kind: jobBeat, now: now}) {
		s.tally.skipped.Add(1)
	}
	u.beat = u.beat.Add(s.o.Interval)
	if late := now.Sub(u.beat); late >= 0 {
		n := late/s.o.Interval + 1
		s.tally.skipped.Add(uint64(n))
		u.beat = u.beat.Add(n * s.o.Interval)
	}
}

func pending(u *unit) int {
	j, _ := u.m.Journal()
	return j.Pending
}

// home switches a machine off until its next duty.
func (s *scheduler) home(ctx context.Context, u *unit, now time.Time) {
	if u.cut {
		u.cut, u.cutTo = false, time.Time{}
		s.tally.cut.Add(-1)
	}
	u.phase, u.beat, u.tap = off, time.Time{}, time.Time{}
	u.next++
	u.turn = time.Time{}
	if u.next < len(u.duties) {
		u.turn = u.duties[u.next].From
	}
	s.tally.on.Add(-1)
	s.send(ctx, u, job{kind: jobSync, now: now})
}

// nextTap draws the time of the next tap: a Poisson process, a second apart at least, or half the mean where
// that is less.
func (s *scheduler) nextTap(after time.Time) time.Time {
	mean := float64(time.Hour) / s.o.TapsPerHour
	gap := time.Duration(s.rng.ExpFloat64() * mean)
	return after.Add(max(gap, min(time.Second, time.Duration(mean/2))))
}

// begin hits the machines of an outage.
func (s *scheduler) begin(ctx context.Context, o Outage, now time.Time) {
	s.tally.outages.Add(1)
	var hit []*unit
	for _, u := range s.units {
		free := (u.phase == duty || u.phase == layover) && !u.stopped && (o.Kind == Stop || !u.cut)
		if free && o.matches(u.m.ID(), u.m.Vehicle(), u.duties[u.next].Route) {
			hit = append(hit, u)
		}
	}
	if len(hit) == 0 {
		s.tally.missed.Add(1)
		s.o.Logger.Warn("the outage found no machine on duty", "kind", o.Kind, "route", o.Route, "at", o.At)
		return
	}
	s.rng.Shuffle(len(hit), func(i, j int) { hit[i], hit[j] = hit[j], hit[i] })
	var until time.Time
	if o.For > 0 {
		until = o.At.Add(o.For)
	}
	for _, u := range hit[:o.hits(len(hit))] {
		if o.Kind == Stop {
			u.stopped, u.stopTo, u.crashed = true, until, true
			s.tally.stopped.Add(1)
			s.tally.on.Add(-1)
		} else {
			u.cut, u.cutTo = true, until
			s.tally.cut.Add(1)
		}
		s.send(ctx, u, job{kind: jobSync, now: now})
		s.plan(u)
	}
}

// restart gives a machine its power back, wherever in its day it is now.
func (s *scheduler) restart(ctx context.Context, u *unit, now time.Time) {
	u.stopped, u.stopTo, u.crashed = false, time.Time{}, false
	s.tally.stopped.Add(-1)
	s.tally.on.Add(1)
	u.beat = time.Time{}
	s.serve(u, now)
	s.send(ctx, u, job{kind: jobSync, now: now})
}

func (s *scheduler) endOutages() {
	now := s.clock.Now()
	s.outages = nil
	for _, u := range s.units {
		if u.cut {
			u.cutTo = now
		}
		if u.stopped {
			u.stopTo = now
		}
		if u.cut || u.stopped {
			s.plan(u)
		}
	}
}

func (s *scheduler) stopTaps() {
	s.noTaps = true
	for _, u := range s.units {
		if !u.tap.IsZero() {
			u.tap = time.Time{}
			s.plan(u)
		}
	}
}

// want is the state that the scheduler wants a machine to be in.
func (u *unit) want() want {
	return want{
		on: u.phase != off && !u.stopped, crashed: u.crashed, cut: u.cut, parking: u.phase == parking,
		duty: machine.Duty{Route: u.route(), Trip: u.trip()},
	}
}

func (u *unit) route() string {
	if u.phase == off {
		return ""
	}
	return u.duties[u.next].Route
}

func (u *unit) trip() string {
	if u.phase != duty {
		return ""
	}
	return u.duties[u.next].Trip
}

// send gives a job to the unit's worker, waiting while it has too many.
func (s *scheduler) send(ctx context.Context, u *unit, j job) {
	j.unit, j.want = u, u.want()
	select {
	case s.lanes[u.lane] <- j:
	case <-ctx.Done():
	}
}

// offer is send for what may be left out.
func (s *scheduler) offer(u *unit, j job) bool {
	j.unit, j.want = u, u.want()
	select {
	case s.lanes[u.lane] <- j:
		return true
	default:
		return false
	}
}

type unitHeap []*unit

func (h unitHeap) Len() int { return len(h) }
func (h unitHeap) Less(i, j int) bool {
	if !h[i].due.Equal(h[j].due) {
		return h[i].due.Before(h[j].due)
	}
	return h[i].topic < h[j].topic
}

func (h unitHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *unitHeap) Push(x any) {
	u := x.(*unit)
	u.index = len(*h)
	*h = append(*h, u)
}

func (h *unitHeap) Pop() any {
	old := *h
	u := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	u.index = -1
	return u
}
