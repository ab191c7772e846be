// Package limit bounds how often each of many callers may do something, in bounded memory.
package limit

import (
	"hash/maphash"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Options say how often, and how many callers are told apart. All are required.
type Options struct {
	Every time.Duration // between two, once Burst is used up
	Burst int           // so many at once
	Keys  int           // callers that are told apart
	// Shared is how many limits those share that are more. Sweep is how often it is looked for callers that are as good as new.
	Shared int
	Sweep  time.Duration
}

// Table is a limit for each of many keys. When more are in use than are told apart, those that come then share some, so that a flood of keys
// makes nobody's forgotten. It is safe for concurrent use.
type Table struct {
	o    Options
	seed maphash.Seed

	mu     sync.Mutex
	byKey  map[string]*rate.Limiter
	shared []*rate.Limiter
	swept  time.Time
}

// New makes a table in which nobody has done anything yet.
func New(o Options) *Table {
	t := &Table{o: o, seed: maphash.MakeSeed(), byKey: map[string]*rate.Limiter{}}
	for range o.Shared {
		t.shared = append(t.shared, t.limiter())
	}
	return t
}

// EachMinute is a table that lets one through a minute for each of 10,000 keys, such as a line of a log.
func EachMinute() *Table {
	return New(Options{Every: time.Minute, Burst: 1, Keys: 10_000, Shared: 256, Sweep: time.Minute})
}

// Due takes one if none has to wait, and reports whether it did.
func (t *Table) Due(key string, now time.Time) bool { return t.Take(key, now) <= 0 }

func (t *Table) limiter() *rate.Limiter { return rate.NewLimiter(rate.Every(t.o.Every), t.o.Burst) }

// Take counts one at now, and says how long to wait where it is one too many, which is not counted.
func (t *Table) Take(key string, now time.Time) time.Duration {
	r := t.of(key, now).ReserveN(now, 1)
	wait := r.DelayFrom(now)
	if wait > 0 {
		r.CancelAt(now)
	}
	return wait
}

// Len is how many callers are told apart now.
func (t *Table) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.byKey)
}

func (t *Table) of(key string, now time.Time) *rate.Limiter {
	t.mu.Lock()
	defer t.mu.Unlock()
	if l := t.byKey[key]; l != nil {
		return l
	}
	if len(t.byKey) >= t.o.Keys && now.Sub(t.swept).Abs() >= t.o.Sweep {
		t.swept = now
		for k, l := range t.byKey {
			if l.TokensAt(now) >= float64(t.o.Burst) { // as one that never was used
				delete(t.byKey, k)
			}
		}
	}
	if len(t.byKey) >= t.o.Keys {
		return t.shared[maphash.String(t.seed, key)%uint64(len(t.shared))]
	}
	l := t.limiter()
	t.byKey[key] = l
	return l
}
