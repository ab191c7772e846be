package api

import (
	"hash/maphash"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// How much one caller may ask. It is meant for scripts that run wild, and is beyond what a program needs that asks once a second.
const (
	perPass    = rate.Limit(25) // calls a second
	passBurst  = 100
	perAddress = rate.Limit(100)
	// addressBurst is more, since many callers may share an address.
	addressBurst = 400
)

const (
	maxCallers = 10_000 // that are told apart
	shared     = 64     // limits that the others share
)

// limits bounds the calls of each pass and of each address.
type limits struct{ passes, addresses *table }

func newLimits() *limits {
	return &limits{passes: newTable(perPass, passBurst), addresses: newTable(perAddress, addressBurst)}
}

// address counts a call, and says how long to wait where it is one too many.
func (l *limits) address(address string, now time.Time) time.Duration {
	return l.addresses.take(address, now)
}

// pass is address for the holder of a pass; who has none is told apart by address.
func (l *limits) pass(id, address string, now time.Time) time.Duration {
	if id == "" {
		return l.passes.take("address "+address, now)
	}
	return l.passes.take("pass "+id, now)
}

// table is a limit for each of many keys. When more are in use than are told apart, those that come then share some.
type table struct {
	every rate.Limit
	burst int
	seed  maphash.Seed

	mu     sync.Mutex
	byKey  map[string]*rate.Limiter
	shared []*rate.Limiter
	swept  time.Time
}

func newTable(every rate.Limit, burst int) *table {
	t := &table{every: every, burst: burst, seed: maphash.MakeSeed(), byKey: map[string]*rate.Limiter{}}
	for range shared {
		t.shared = append(t.shared, rate.NewLimiter(every, burst))
	}
	return t
}

func (t *table) take(key string, now time.Time) time.Duration {
	r := t.of(key, now).ReserveN(now, 1)
	wait := r.DelayFrom(now)
	if wait > 0 {
		r.CancelAt(now)
	}
	return wait
}

func (t *table) of(key string, now time.Time) *rate.Limiter {
	t.mu.Lock()
	defer t.mu.Unlock()
	if l := t.byKey[key]; l != nil {
		return l
	}
	if len(t.byKey) >= maxCallers && now.Sub(t.swept).Abs() >= time.Second {
		t.swept = now
		for k, l := range t.byKey {
			if l.TokensAt(now) >= float64(t.burst) { // as one that never called
				delete(t.byKey, k)
			}
		}
	}
	if len(t.byKey) >= maxCallers {
		return t.shared[maphash.String(t.seed, key)%shared]
	}
	l := rate.NewLimiter(t.every, t.burst)
	t.byKey[key] = l
	return l
}
