package ledger

import (
	"context"
	"time"
)

// Row is one record as the ledger keeps it. Record is what the machine minted; the fields
// beside Vehicle and ReceivedAt are copies out of it, for finding and adding up.
type Row struct {
	Machine     string
	Epoch       uint32
	Seq         uint32
	ServiceDate string // YYYY-MM-DD
	EventTime   time.Time
	AmountMinor int64
	Currency    string
	Vehicle     string    // whose gateway brought it
	ReceivedAt  time.Time // when it came, ms
	Record      []byte
}

// Day adds up the records of one machine, service day, epoch and currency.
type Day struct {
	Machine     string `json:"machine"`
	ServiceDate string `json:"service_date"` // YYYY-MM-DD
	Epoch       uint32 `json:"epoch"`
	Currency    string `json:"currency"`
	First       uint32 `json:"first"` // lowest seq of the day
	Last        uint32 `json:"last"`  // highest seq of the day
	Records     uint64 `json:"records"`
	SumMinor    int64  `json:"sum_minor"` // minor units of Currency
}

// Kind is why something stands in quarantine.
type Kind string

// The kinds.
const (
	Conflict    Kind = "conflict"     // the machine minted two records under one key; Held is the one in the ledger
	Forged      Kind = "forged"       // the MAC is not the machine's; not in the ledger
	Malformed   Kind = "malformed"    // no valid record of this machine; not in the ledger
	BrokenChain Kind = "broken_chain" // does not follow Held, the record before it; both are in the ledger
)

// Kinds lists the kinds of quarantine.
func Kinds() []Kind { return []Kind{Conflict, Forged, Malformed, BrokenChain} }

// Quarantined is evidence that somebody has to look at. The same evidence again only
// raises Times.
type Quarantined struct {
	ID      int64     `json:"id"` // grows with every new piece of evidence
	Machine string    `json:"machine"`
	Epoch   uint32    `json:"epoch"`
	Seq     uint32    `json:"seq"`
	Kind    Kind      `json:"kind"`
	Detail  string    `json:"detail"`           // one sentence for a person
	Vehicle string    `json:"vehicle"`          // whose gateway brought it first
	Record  []byte    `json:"record,omitempty"` // the bytes that came
	Held    []byte    `json:"held,omitempty"`   // the bytes in the ledger that they contradict
	FirstAt time.Time `json:"first_at"`
	LastAt  time.Time `json:"last_at"`
	Times   int       `json:"times"`
}

// Store keeps the ledger durably. It is safe for concurrent use.
type Store interface {
	// Update runs fn in one write transaction, alone among writers, and returns nil once all that fn
	// wrote is on disk; after an error nothing of it is there. fn may run more than once,
	// each time from the same state, so it sets its results anew. It must not wait.
	Update(ctx context.Context, fn func(Tx) error) error
	// View runs fn over one consistent snapshot of what is committed.
	View(ctx context.Context, fn func(View) error) error
}

// View reads the ledger as of one moment. It must not be used after the function that it was
// given to returned, nor inside a callback of its own.
type View interface {
	// Machines lists machines that have records, in ascending order, those after after, at most
	// limit.
	Machines(after string, limit int) ([]string, error)
	// Epochs lists the epochs of which the machine has records, newest first.
	Epochs(machine string) ([]uint32, error)
	// Spans gives the whole spans of an epoch that have a number in over, at most limit (0: all).
	Spans(machine string, epoch uint32, over Span, limit int) (Spans, error)
	// Records calls each for the records of an epoch in over, lowest seq first, until it fails.
	// each may keep the row.
	Records(machine string, epoch uint32, over Span, each func(Row) error) error
	// Days calls each for the days of a machine with from <= ServiceDate <= to (an empty bound
	// is none), by date, epoch and currency. Machine "" is all machines, in ascending order.
	Days(machine, from, to string, each func(Day) error) error
	// Complete calls each for the newest epoch of every machine, with the greatest n for which
	// the ledger holds all of 1..n.
	Complete(each func(machine string, epoch, completeTo uint32) error) error
	// Quarantined calls each for evidence with an ID above after, in the order of IDs, at most
	// limit (0: all). Machine "" is all.
	Quarantined(machine string, after int64, limit int, each func(Quarantined) error) error
	// Evidence calls each for the key and kind of every piece of evidence against a machine, in no order.
	Evidence(machine string, each func(epoch, seq uint32, kind Kind) error) error
	// CountQuarantined counts the pieces of evidence by kind. Machine or vehicle "" is all.
	CountQuarantined(machine, vehicle string) (map[Kind]int, error)
	// Issued gives the newest certificate of a machine's service day; nil if there is none.
	Issued(machine, date string) (*Issued, error)
	// EachIssued calls each for certificates of service days with from <= day <= to (an empty bound is none), by day,
	// machine and revision. Machine "" is all.
	EachIssued(machine, from, to string, each func(Issued) error) error
	// ToIssue lists the machines, in ascending order, whose service day has no certificate, or whose newest is not complete,
	// has another number of records than the day, or is older than evidence against the machine.
	ToIssue(date string) ([]string, error)
}

// MachineDay names a service day of a machine.
type MachineDay struct {
	Date    string // YYYY-MM-DD
	Machine string
}

// Issued is one revision of a certificate as it is kept. Body is the certificate; the fields beside it are for
// finding it.
type Issued struct {
	Machine     string
	ServiceDate string // YYYY-MM-DD
	Revision    uint32 // from 1
	IssuedAt    time.Time
	Complete    bool
	Records     uint64 // received
	Body        []byte // schemas.Certificate, signed
}

// Tx writes. Its reads see what it wrote.
type Tx interface {
	View
	// Append adds records. A key that is there already is an error.
	Append(rows []Row) error
	// ReplaceSpans takes the spans of an epoch that are in old and not in new away, and adds those
	// that are in new and not in old.
	ReplaceSpans(machine string, epoch uint32, old, new Spans) error
	// AddDays adds the numbers of each to what is there. A sum that comes near 64 bits is ErrOverflow.
	AddDays(days []Day) error
	// Quarantine keeps evidence. One with the key, kind and bytes of an earlier one raises
	// that one's Times and LastAt instead.
	Quarantine(evidence []Quarantined) error
	// Issue keeps a certificate. A revision that is there already is an error; none is ever changed.
	Issue(c Issued) error
}
