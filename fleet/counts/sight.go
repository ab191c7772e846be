package counts

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Sight is the clock on which silence is measured: it stands still while we ourselves
// cannot hear, so that our blindness is never taken for the machines' silence. Safe
// for concurrent use; reading takes no lock.
type Sight struct {
	warmUp time.Duration
	mu     sync.Mutex // serializes writers
	now    atomic.Pointer[sightState]
}

// sightState is immutable once published.
type sightState struct {
	start    time.Time     // seeing time 0
	lost     time.Duration // blind time before since, all told
	blind    bool
	since    time.Time     // blind since, if blind
	returned time.Duration // seeing time at which sight last came back
	settled  time.Time     // end of the warm-up after that
	windows  []window      // without evidence, oldest first, disjoint, warm-up included
}

// window is a stretch of wall time, Unix nanoseconds, to exclusive.
type window struct{ from, to int64 }

const (
	forever    = math.MaxInt64
	windowsFor = 3 * time.Hour // windows are asked for back to the last tick; hours are generous
	maxWindows = 256
)

// Reading is Sight at one instant. Times are seeing time: since the start, less the
// time that we were blind.
type Reading struct {
	Seeing   time.Duration
	Returned time.Duration // when sight last came back; 0 at the start
	WarmUp   time.Duration // for so long after Returned nobody is judged who was silent before it
	Blind    bool          // blind, or within WarmUp
	Deaf     bool          // blind right now
}

// NewSight starts the clock at start with sight just come back. warmUp is how long
// machines take to be heard again after that; 0 for a recording, where nothing
// was missed.
func NewSight(start time.Time, warmUp time.Duration) *Sight {
	s := &Sight{warmUp: warmUp}
	st := &sightState{start: start, settled: start.Add(warmUp)}
	if warmUp > 0 {
		st.windows = []window{{start.UnixNano(), st.settled.UnixNano()}}
	}
	s.now.Store(st)
	return s
}

// Seeing is the seeing time at now.
func (s *Sight) Seeing(now time.Time) time.Duration {
	st := s.now.Load()
	if st.blind {
		now = st.since
	}
	return now.Sub(st.start) - st.lost
}

// Blind reports that what is not heard at now is no evidence: we are blind, or sight
// came back less than the warm-up ago.
func (s *Sight) Blind(now time.Time) bool {
	st := s.now.Load()
	return st.blind || now.Before(st.settled)
}

// Read gives all of it at once.
func (s *Sight) Read(now time.Time) Reading {
	st := s.now.Load()
	r := Reading{Returned: st.returned, WarmUp: s.warmUp, Blind: st.blind || now.Before(st.settled), Deaf: st.blind}
	if st.blind {
		now = st.since
	}
	r.Seeing = now.Sub(st.start) - st.lost
	return r
}

// Set says that we are blind from now on, or that sight is back. Saying the same again
// changes nothing.
func (s *Sight) Set(now time.Time, blind bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.now.Load()
	if old.blind == blind {
		return
	}
	st := *old
	st.windows = slices.Clone(old.windows)
	st.blind = blind
	if blind {
		st.since = now
		st.open(now.UnixNano())
	} else {
		st.lost += max(0, now.Sub(st.since))
		st.returned = now.Sub(st.start) - st.lost
		st.settled = now.Add(s.warmUp)
		st.windows[len(st.windows)-1].to = st.settled.UnixNano()
	}
	s.now.Store(&st)
}

// open begins a window without end, joined to the last where they touch.
func (st *sightState) open(at int64) {
	old := at - int64(windowsFor)
	st.windows = slices.DeleteFunc(st.windows, func(w window) bool { return w.to < old })
	if n := len(st.windows); n > 0 && st.windows[n-1].to >= at {
		st.windows[n-1].to = forever
		return
	}
	if len(st.windows) == maxWindows {
		// Flickering sight is bad sight: the time between the two oldest counts as blind.
		st.windows[1].from = st.windows[0].from
		st.windows = slices.Delete(st.windows, 0, 1)
	}
	st.windows = append(st.windows, window{at, forever})
}

// heard is how much of from..to (Unix nanoseconds) was neither blind nor warm-up.
func (s *Sight) heard(from, to int64) int64 {
	d := to - from
	for _, w := range s.now.Load().windows {
		if over := min(to, w.to) - max(from, w.from); over > 0 {
			d -= over
		}
	}
	return d
}
