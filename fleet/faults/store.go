package faults

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/farebeat/farebeat/schemas"
)

// ErrNotFound is returned by Store.Get for an id that the store does not have.
var ErrNotFound = errors.New("no such fault")

// Store keeps faults and their history for ever. It is safe for concurrent use.
type Store interface {
	// Save writes all changes or none and returns once they are durable. Each change
	// replaces the fault of its id unless the stored revision is higher, and adds its
	// event if it has one. An event that is already there stays as it is: saving
	// the same changes twice is harmless.
	Save(ctx context.Context, changes ...Change) error
	// Open lists every fault that has not ended (ClosedAt is zero), in any order. That
	// includes an abandoned fault whose subject is not well yet.
	Open(ctx context.Context) ([]Fault, error)
	// List lists faults that match q, latest opened first, ties by id descending.
	List(ctx context.Context, q Query) ([]Fault, error)
	// Get returns one fault and its events, oldest first. The error is ErrNotFound,
	// wrapped, where there is none.
	Get(ctx context.Context, id string) (Fault, []Event, error)
}

// Query selects faults. A zero field selects all.
type Query struct {
	Conditions []schemas.FaultCondition
	Attentions []schemas.Attention
	Kinds      []Kind
	Machine    string    // machine faults of this machine
	Route      string    // faults of this route, and of machines on it
	Vehicle    string    // machine faults that this vehicle's gateway is to act on
	From, To   time.Time // those that were live at some time in [From, To)
	Live       bool      // those that have not ended
	Unfinished bool      // those that have not ended, and those that ended and nobody saw
	After      string    // id of the last fault of the page before; only those that List puts after it
	Limit      int       // at most this many; 0: DefaultLimit, more than MaxLimit: MaxLimit
}

// Bounds of one page of Store.List.
const (
	DefaultLimit = 1_000
	MaxLimit     = 100_000
)

// Bound is the number of faults that a page of q may hold.
func (q Query) Bound() int {
	if q.Limit <= 0 {
		return DefaultLimit
	}
	return min(q.Limit, MaxLimit)
}

// Matches reports whether f is selected, leaving After and Limit aside. A store may
// select with it, or say the same in its own language.
func (q Query) Matches(f Fault) bool {
	if len(q.Conditions) > 0 && !slices.Contains(q.Conditions, f.Condition) {
		return false
	}
	if len(q.Attentions) > 0 && !slices.Contains(q.Attentions, f.Attention.State) {
		return false
	}
	if len(q.Kinds) > 0 && !slices.Contains(q.Kinds, f.Kind) {
		return false
	}
	if q.Machine != "" && f.Subject.Machine != q.Machine {
		return false
	}
	if q.Route != "" && f.Subject.Route != q.Route && (f.Machine == nil || f.Machine.Route != q.Route) {
		return false
	}
	if q.Vehicle != "" && (f.Machine == nil || f.Machine.Vehicle != q.Vehicle) {
		return false
	}
	if !q.To.IsZero() && !f.OpenedAt.Before(q.To) {
		return false
	}
	if !q.From.IsZero() && f.Ended() && !f.ClosedAt.After(q.From) {
		return false
	}
	if q.Live && f.Ended() {
		return false
	}
	return !q.Unfinished || !f.Ended() || f.Attention.State == schemas.Unseen
}

// Compare orders faults as Store.List does: latest opened first, ties by id descending.
func Compare(a, b Fault) int {
	if c := b.OpenedAt.Compare(a.OpenedAt); c != 0 {
		return c
	}
	switch {
	case a.ID > b.ID:
		return -1
	case a.ID < b.ID:
		return 1
	}
	return 0
}
