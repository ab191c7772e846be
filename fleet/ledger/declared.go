package ledger

import (
	"time"

	"github.com/farebeat/farebeat/schemas"
)

// Declaration is what a machine said last of its own journal. It says how far the journal goes and how much is
// left in it, not which records.
type Declaration struct {
	At            time.Time         `json:"at"`      // when it was heard
	Epochs        map[uint32]uint32 `json:"epochs"`  // epoch to the last record written in it, of those that are known
	Pending       uint32            `json:"pending"` // records without a receipt, over all epochs
	PendingMinor  int64             `json:"pending_minor"`
	Currency      string            `json:"currency,omitempty"` // of PendingMinor
	OldestPending time.Time         `json:"oldest_pending"`     // event time of the oldest of them; zero: none, or not known
}

// Declarations are what machines said last, by machine. One that was never heard is not in it.
type Declarations map[string]Declaration

// newest is the newest epoch that was declared and its last record; 0, 0 for none.
func (d Declaration) newest() (epoch, last uint32) {
	for e, n := range d.Epochs {
		if e >= epoch {
			epoch, last = e, n
		}
	}
	return epoch, last
}

// tail are the numbers beyond highest that the machine says it wrote in an epoch.
func (d Declaration) tail(epoch, highest uint32) (Span, bool) {
	last := d.Epochs[epoch]
	return Span{highest + 1, last}, last > highest
}

// tailIn reports whether records that the machine still holds may be of a service day: they may not if even the
// oldest was written after it. A day ends at most two calendar days, in UTC, after its own date begins.
func (d Declaration) tailIn(date string) bool {
	day, err := time.Parse(time.DateOnly, date)
	return err != nil || d.OldestPending.IsZero() || d.OldestPending.Before(day.AddDate(0, 0, 2))
}

// state tells what the machine's word means for a gap: nothing if it was heard last before it wrote the gap's records.
func (d Declaration) state(known bool, epoch uint32, gap Span) schemas.GapState {
	newest, _ := d.newest()
	last, said := d.Epochs[epoch]
	switch {
	case !known, !said && epoch >= newest, said && epoch == newest && gap.Last > last:
		return schemas.GapUnknown
	case d.Pending == 0:
		return schemas.GapGone
	}
	return schemas.GapAwaited
}
