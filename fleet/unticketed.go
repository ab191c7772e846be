package fleet

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/ledger"
	"github.com/farebeat/farebeat/fleet/tickets"
)

// unticketed keeps apart what gateways say about machines that the fleet did not give into their hands. The broker lets a gateway write about any
// machine on its own topics: a refusal there would strand money where a store that was restored forgot tickets. So a report of a recovery
// waits here until the fleet hands its vehicle the machine, and what the machine's key proves is taken in, and noted.
// Its zero value is ready but for pairs.
type unticketed struct {
	mu      sync.Mutex
	reports map[string]map[string]faults.RecoveryReport // by vehicle and machine, the newest
	pairs   map[tickets.Pair]tickets.Unticketed
	dirty   bool // pairs is not on disk as it is

	saving sync.Mutex // held over a save, so that an older list does not come after a newer one
}

// maxReports bounds the machines of which reports of one vehicle wait.
const maxReports = 64

func recallUnticketed(ctx context.Context, s tickets.Store) (map[tickets.Pair]tickets.Unticketed, error) {
	list, err := s.Unticketed(ctx)
	pairs := make(map[tickets.Pair]tickets.Unticketed, len(list))
	for _, u := range list {
		pairs[tickets.Pair{Machine: u.Machine, Vehicle: u.Vehicle}] = u
	}
	return pairs, err
}

// report passes a gateway's report on, or keeps it back.
func (u *unticketed) report(f *Fleet, r faults.RecoveryReport) {
	p := tickets.Pair{Machine: r.Machine, Vehicle: r.Vehicle}
	if f.tickets.isBound(p) {
		u.forget(p) // else an older one would come after it
		f.apply(r)
		return
	}
	f.stats.UnticketedReports.Add(1)
	if f.log.Due("unticketed report "+r.Vehicle, f.o.Now()) {
		f.o.Logger.Warn("a gateway reports on a machine for which it never had a ticket; no fault is changed until it has one",
			"vehicle", r.Vehicle, "machine", r.Machine, "state", r.State)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	of := u.reports[r.Vehicle]
	if of == nil {
		of = map[string]faults.RecoveryReport{}
		if u.reports == nil {
			u.reports = map[string]map[string]faults.RecoveryReport{}
		}
		u.reports[r.Vehicle] = of
	}
	if before, waits := of[r.Machine]; !waits && len(of) < maxReports || waits && r.AsOf.After(before.AsOf) {
		of[r.Machine] = r
	}
}

// forget drops the report that waits.
func (u *unticketed) forget(p tickets.Pair) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.drop(p)
}

func (u *unticketed) drop(p tickets.Pair) {
	if of := u.reports[p.Vehicle]; of != nil {
		delete(of, p.Machine)
		if len(of) == 0 {
			delete(u.reports, p.Vehicle)
		}
	}
}

// bound takes out the reports of vehicles that have their machines in hand by now.
func (u *unticketed) bound(isBound func(tickets.Pair) bool) (list []faults.Input) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for vehicle, of := range u.reports {
		for machine, r := range of {
			if p := (tickets.Pair{Machine: machine, Vehicle: vehicle}); isBound(p) {
				list = append(list, r)
				u.drop(p)
			}
		}
	}
	return list
}

// brought notes a batch of which the machine's key proves something, if its vehicle never had a ticket for the machine. It is on disk before the
// batch is acknowledged, where the disk lets it; what it says of later batches is there within a minute.
func (u *unticketed) brought(ctx context.Context, f *Fleet, out ledger.Outcome) {
	p := tickets.Pair{Machine: out.Machine, Vehicle: out.Vehicle}
	proved := out.New + out.Duplicate + out.Conflict
	if proved == 0 || f.tickets.hadTicket(p) {
		return
	}
	now := f.o.Now()
	f.stats.UnticketedBatches.Add(1)
	if f.log.Due("unticketed batch "+p.Vehicle, now) {
		f.o.Logger.Warn("transactions came from a vehicle that never had a ticket for the machine; they are proved and in the ledger: farebeat tickets unticketed",
			"vehicle", p.Vehicle, "machine", p.Machine, "epoch", out.Epoch, "first", out.First, "last", out.Last, "proved", proved)
	}
	u.mu.Lock()
	e, known := u.pairs[p]
	if !known && len(u.pairs) >= tickets.MaxUnticketed {
		u.mu.Unlock()
		return
	}
	if !known {
		e = tickets.Unticketed{Machine: p.Machine, Vehicle: p.Vehicle, FirstAt: milli(now)}
	}
	e.LastAt = milli(now)
	e.Batches++
	e.Records += uint64(proved)
	u.pairs[p], u.dirty = e, true
	u.mu.Unlock()
	if known {
		return
	}
	if err := u.save(ctx, f.o.Store.Tickets()); err != nil && f.log.Due("unticketed save", now) {
		f.o.Logger.Error("what came without a ticket could not be noted on disk; it is tried again", "error", err)
	}
}

// save writes the list, if it changed.
func (u *unticketed) save(ctx context.Context, s tickets.Store) error {
	u.saving.Lock()
	defer u.saving.Unlock()
	u.mu.Lock()
	if !u.dirty {
		u.mu.Unlock()
		return nil
	}
	u.dirty = false
	list := make([]tickets.Unticketed, 0, len(u.pairs))
	for _, e := range u.pairs {
		list = append(list, e)
	}
	u.mu.Unlock()
	slices.SortFunc(list, func(a, b tickets.Unticketed) int {
		return cmp.Or(a.FirstAt.Compare(b.FirstAt), cmp.Compare(a.Machine, b.Machine), cmp.Compare(a.Vehicle, b.Vehicle))
	})
	err := s.SaveUnticketed(ctx, list)
	if err != nil {
		u.mu.Lock()
		u.dirty = true
		u.mu.Unlock()
	}
	return err
}
