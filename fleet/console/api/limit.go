package api

import (
	"time"

	"github.com/farebeat/farebeat/fleet/limit"
)

// How much one caller may ask. It is meant for scripts that run wild, and is beyond what a program needs that asks once a second.
const (
	passEvery    = time.Second / 25
	passBurst    = 100
	addressEvery = time.Second / 100
	// addressBurst is more, since many callers may share an address.
	addressBurst = 400
)

const (
	maxCallers = 10_000 // that are told apart
	shared     = 64     // limits that the others share
	sweepEvery = time.Second
)

// limits bounds the calls of each pass and of each address.
type limits struct{ passes, addresses *limit.Table }

func newLimits() *limits {
	return &limits{passes: newTable(passEvery, passBurst), addresses: newTable(addressEvery, addressBurst)}
}

func newTable(every time.Duration, burst int) *limit.Table {
	return limit.New(limit.Options{Every: every, Burst: burst, Keys: maxCallers, Shared: shared, Sweep: sweepEvery})
}

// address counts a call, and says how long to wait where it is one too many.
func (l *limits) address(address string, now time.Time) time.Duration {
	return l.addresses.Take(address, now)
}

// pass is address for the holder of a pass; who has none is told apart by address.
func (l *limits) pass(id, address string, now time.Time) time.Duration {
	if id == "" {
		return l.passes.Take("address "+address, now)
	}
	return l.passes.Take("pass "+id, now)
}
