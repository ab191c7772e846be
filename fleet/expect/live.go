package expect

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Transition is for how long after a swap no more is demanded than what was expected before fits as well.
const Transition = 30 * time.Minute

// maxFading bounds the chains that a swap is compared with; swaps come hours apart.
const maxFading = 8

// Live is a Source whose chain can be replaced while others ask. For Transition after a swap all numbers of
// an expectation are the lower of old and new, and a route that only one of both expects is not asked for: who
// drove by the old timetable alarms nobody. The source and sample size are the new one's. Safe for concurrent use.
type Live struct {
	mu    sync.Mutex // held by those that swap
	state atomic.Pointer[liveState]
}

// liveState is immutable.
type liveState struct {
	chain      Chain
	fading     []fading // newest first
	generation uint64
}

// fading is what was in force before, and until when it still counts.
type fading struct {
	chain Chain
	until time.Time
}

// NewLive begins with a chain, which nothing came before. The chain is not to be changed after.
func NewLive(chain Chain) *Live {
	l := &Live{}
	l.state.Store(&liveState{chain: chain, generation: 1})
	return l
}

// Swap puts another chain in force at now.
func (l *Live) Swap(now time.Time, chain Chain) { l.Update(now, func(Chain) Chain { return chain }) }

// Complete puts a chain in force that says more than the one before it, at a start where a source was not read yet: what could not be said
// until then was no expectation of nothing, and nobody is given time to get used to it.
func (l *Live) Complete(chain Chain) {
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.state.Load()
	l.state.Store(&liveState{chain: chain, fading: old.fading, generation: old.generation + 1})
}

// Update puts in force at now what change makes of the chain that is. change may not write to what it is
// given; swaps wait for each other.
func (l *Live) Update(now time.Time, change func(Chain) Chain) {
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.state.Load()
	faded := append([]fading{{old.chain, now.Add(Transition)}}, old.live(now)...)
	l.state.Store(&liveState{
		chain: change(old.chain), fading: faded[:min(len(faded), maxFading)], generation: old.generation + 1,
	})
}

// Settle lets go of chains whose transition has ended by now. Without it they are kept until the next swap.
func (l *Live) Settle(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.state.Load()
	if still := old.live(now); len(still) < len(old.fading) {
		l.state.Store(&liveState{chain: old.chain, fading: still, generation: old.generation})
	}
}

func (s *liveState) live(now time.Time) []fading {
	return slices.DeleteFunc(slices.Clone(s.fading), func(f fading) bool { return !now.Before(f.until) })
}

// Generation grows with every swap. Who keeps what Routes gave asks again when it changes.
func (l *Live) Generation() uint64 { return l.state.Load().generation }

// Chain is what is in force. It is not to be changed.
func (l *Live) Chain() Chain { return l.state.Load().chain }

// Expect implements Source.
func (l *Live) Expect(route string, at time.Time) (Expectation, bool) {
	s := l.state.Load()
	e, ok := s.chain.Expect(route, at)
	if !ok {
		return e, false
	}
	for _, f := range s.fading {
		if !at.Before(f.until) {
			continue
		}
		before, _ := f.chain.Expect(route, at)
		e.Expected, e.Now, e.Lowest = min(e.Expected, before.Expected), min(e.Now, before.Now), min(e.Lowest, before.Lowest)
		switch {
		case before.LowSample == 0:
		case e.LowSample == 0:
			e.Low, e.LowSample = before.Low, before.LowSample
		default:
			e.Low = min(e.Low, before.Low)
		}
	}
	return e, true
}

// Routes implements Source with those of the chain in force.
func (l *Live) Routes(at time.Time) []string { return l.state.Load().chain.Routes(at) }
