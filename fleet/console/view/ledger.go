package view

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/farebeat/farebeat/fleet/ledger"
)

// bookCache remembers the totals of a service day for as long as nothing came in.
type bookCache struct {
	mu     sync.Mutex
	of     ledger.Stats
	day    string // empty: nothing is remembered
	totals ledger.Totals
}

// totals adds up what the ledger holds of today's service day. Evidence is counted over all days.
func (r *Reader) totals(ctx context.Context) (ledger.Totals, error) {
	f := r.o.Fleet()
	if f == nil {
		return ledger.Totals{}, ErrStarting
	}
	r.book.mu.Lock()
	defer r.book.mu.Unlock()
	stats := f.Ledger().Stats()
	day := r.o.Now().In(r.o.Zone).Format(time.DateOnly)
	if r.book.day == day && r.book.of == stats {
		return r.book.totals, nil
	}
	t, err := f.Ledger().Totals(ctx, ledger.Filter{From: day, To: day})
	if err != nil {
		return t, fmt.Errorf("add up the ledger: %w", err)
	}
	r.book.of, r.book.day, r.book.totals = stats, day, t
	return t, nil
}
