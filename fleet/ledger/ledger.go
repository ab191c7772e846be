package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/farebeat/farebeat/fleet/keys"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
)

// ErrRefused says that a payload can never be taken in as it is: sending it again
// changes nothing, so it may be acknowledged and counted. Every other error of Ingest says that
// the ledger could not do its work now; then nothing may be acknowledged.
var ErrRefused = errors.New("refused by the ledger")

// Bounds.
const (
	// MaxReceiptEpochs is the number of epochs that a receipt speaks of at most.
	MaxReceiptEpochs = 8
	// MaxBadRecords is how many forged and malformed records of one vehicle's gateway are
	// kept as evidence. More are counted only, so that nobody can fill the disk with them.
	MaxBadRecords = 1000
	// MaxPayload is the size of a batch in bytes, at most.
	MaxPayload = 1 << 20
)

// Ledger takes batches in, gives receipts out, and answers what it holds. It keeps no state
// but counters: everything is in its Store. It is safe for concurrent use.
type Ledger struct {
	store Store
	keys  keys.Keys
	now   func() time.Time
	count counters
}

// New returns a ledger over store. keys gives the machines' keys, now the time of receipt.
func New(store Store, k keys.Keys, now func() time.Time) *Ledger {
	return &Ledger{store: store, keys: k, now: now}
}

// Outcome is what became of a batch. New, Duplicate, Conflict, Forged and Malformed add up
// to its records.
type Outcome struct {
	Machine string
	Vehicle string // whose gateway brought it
	Epoch   uint32
	First   uint32
	Last    uint32

	New       int // in the ledger now, not before
	Duplicate int // were there, the same bytes
	Conflict  int // another record is there under the key; both are in quarantine
	Forged    int // MAC not the machine's; in quarantine
	Malformed int // no valid record; in quarantine
	Broken    int // links of the chain that proved broken with this batch; their records are in

	Money      []Money // sums of the new records, by currency
	CompleteTo uint32  // the ledger holds all of 1..CompleteTo of Epoch now
}

// Clean reports whether there is nothing that a person has to look at.
func (o Outcome) Clean() bool { return o.Conflict+o.Forged+o.Malformed+o.Broken == 0 }

// Ingest takes in the batch that came on the transactions topic a, and returns once all of it
// that is good is on disk. Taking it in again changes nothing. An error that wraps
// ErrRefused is about the payload; any other means that nothing was written and that it
// must be tried again.
func (l *Ledger) Ingest(ctx context.Context, a topics.Address, payload []byte) (Outcome, error) {
	b, err := open(a, payload)
	if err != nil {
		l.count.refused.Add(1)
		return Outcome{}, fmt.Errorf("ledger: batch %s of machine %q from vehicle %q: %w: %w", a.Batch, a.Machine, a.Vehicle, ErrRefused, err)
	}
	key, err := l.keys.Machine(ctx, b.Machine)
	if err != nil {
		return Outcome{}, fmt.Errorf("ledger: batch %s of machine %q: %w", a.Batch, a.Machine, err)
	}
	in := judge(b, a.Vehicle, key[:], l.now().UTC().Truncate(time.Millisecond))
	var out Outcome
	err = l.store.Update(ctx, func(tx Tx) (err error) {
		out, err = apply(tx, in)
		return err
	})
	if err != nil {
		l.count.failed.Add(1)
		return Outcome{}, fmt.Errorf("ledger: batch %s of machine %q: %w", a.Batch, a.Machine, err)
	}
	l.count.add(out)
	return out, nil
}

// envelope is a batch whose records are judged one by one later. schemas.DecodeBatch would
// refuse the whole for one bad record, and with it its neighbors' money.
type envelope schemas.Batch

// Validate implements schemas.Message.
func (e *envelope) Validate() error {
	wrong := func(field, problem string) error {
		return &schemas.Error{Message: schemas.NameTransactions, Field: field, Problem: problem}
	}
	switch {
	case e.Machine == "":
		return wrong("machine", "is required")
	case e.Epoch == 0:
		return wrong("epoch", "is 0")
	case e.First == 0 || e.Last < e.First:
		return wrong("first", fmt.Sprintf("%d with last %d: want 1 <= first <= last", e.First, e.Last))
	case len(e.Records) > schemas.MaxBatch:
		return wrong("records", fmt.Sprintf("%d, at most %d", len(e.Records), schemas.MaxBatch))
	case Span{e.First, e.Last}.Len() != uint64(len(e.Records)):
		return wrong("records", fmt.Sprintf("%d, want %d for first %d and last %d", len(e.Records), Span{e.First, e.Last}.Len(), e.First, e.Last))
	}
	return nil
}

// open reads a payload and holds it against its topic: the broker vouches for the topic only.
func open(a topics.Address, payload []byte) (*envelope, error) {
	if a.Kind != topics.Transactions {
		return nil, fmt.Errorf("topic %q does not carry transactions", a.Kind)
	}
	if len(payload) > MaxPayload {
		return nil, fmt.Errorf("%d bytes, at most %d", len(payload), MaxPayload)
	}
	var b envelope
	if err := schemas.Decode(payload, schemas.NameTransactions, &b); err != nil {
		return nil, err
	}
	if b.Machine != a.Machine || b.Vehicle != a.Vehicle {
		return nil, fmt.Errorf("it says machine %q on vehicle %q, its topic says %q on %q", b.Machine, b.Vehicle, a.Machine, a.Vehicle)
	}
	if id := (topics.BatchID{Epoch: b.Epoch, First: b.First, Last: b.Last}); id != a.Batch {
		return nil, fmt.Errorf("it is batch %s, its topic says %s", id, a.Batch)
	}
	return &b, nil
}

// apply writes a judged batch within tx.
func apply(tx Tx, in incoming) (Outcome, error) {
	out := Outcome{Machine: in.machine, Vehicle: in.vehicle, Epoch: in.epoch, First: in.span.First, Last: in.span.Last}
	old, err := tx.Spans(in.machine, in.epoch, in.span.Around(), 0)
	if err != nil {
		return out, err
	}
	held, err := heldBytes(tx, in, old)
	if err != nil {
		return out, err
	}
	p := decide(in, held)
	merged, err := write(tx, in, p, old)
	if err != nil {
		return out, err
	}
	out.New, out.Duplicate, out.Conflict, out.Broken = len(p.rows), p.duplicates, len(p.conflicts), len(p.broken)
	for _, q := range in.bad {
		if q.Kind == Forged {
			out.Forged++
		} else {
			out.Malformed++
		}
	}
	if out.Money, err = sumMoney(p.days); err != nil {
		return out, err
	}
	if merged.CompleteTo() == 0 { // the first span was not among those looked at
		merged, err = tx.Spans(in.machine, in.epoch, Span{1, 1}, 1)
	}
	out.CompleteTo = merged.CompleteTo()
	return out, err
}

// heldBytes reads what the ledger has under the batch's keys and those next to it. The spans
// tell without looking that most batches meet nothing but the record before them.
func heldBytes(tx Tx, in incoming, old Spans) (map[uint32][]byte, error) {
	if len(in.good) == 0 {
		return nil, nil
	}
	held := map[uint32][]byte{}
	around := in.span.Around()
	for _, s := range old {
		over := Span{max(s.First, around.First), min(s.Last, around.Last)}
		err := tx.Records(in.machine, in.epoch, over, func(r Row) error {
			held[r.Seq] = r.Record
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return held, nil
}

// write does what p says and returns the spans of old as they are then.
func write(tx Tx, in incoming, p plan, old Spans) (Spans, error) {
	evidence := slices.Concat(p.conflicts, p.broken)
	if len(in.bad) > 0 {
		room, err := roomForBad(tx, in.vehicle)
		if err != nil {
			return nil, err
		}
		evidence = append(evidence, in.bad[:min(room, len(in.bad))]...)
	}
	if len(evidence) > 0 {
		if err := tx.Quarantine(evidence); err != nil {
			return nil, err
		}
	}
	if len(p.rows) == 0 {
		return old, nil
	}
	if err := tx.Append(p.rows); err != nil {
		return nil, err
	}
	merged := old
	for _, s := range p.added {
		merged = merged.Add(s)
	}
	if err := tx.ReplaceSpans(in.machine, in.epoch, old, merged); err != nil {
		return nil, err
	}
	return merged, tx.AddDays(p.days)
}

func roomForBad(tx Tx, vehicle string) (int, error) {
	have, err := tx.CountQuarantined("", vehicle)
	return max(0, MaxBadRecords-have[Forged]-have[Malformed]), err
}

func sumMoney(days []Day) (sums []Money, err error) {
	for _, d := range days {
		if sums, err = addMoney(sums, d.Currency, d.SumMinor); err != nil {
			return nil, err
		}
	}
	return sums, nil
}

// Receipt states what the ledger has on disk of a machine, MACed epoch by epoch with the
// machine's key. It speaks of the newest epochs, MaxReceiptEpochs at most, and in
// any case of the epochs named in also, which are those that somebody waits for. A machine that the
// ledger does not know gets a receipt without epochs.
func (l *Ledger) Receipt(ctx context.Context, machine string, also ...uint32) (schemas.Receipt, error) {
	key, err := l.keys.Machine(ctx, machine)
	if err != nil {
		return schemas.Receipt{}, fmt.Errorf("ledger: receipt for machine %q: %w", machine, err)
	}
	r := schemas.Receipt{Machine: machine, AsOf: l.now().UTC().Truncate(time.Millisecond), Epochs: []schemas.EpochReceipt{}}
	err = l.store.View(ctx, func(v View) error {
		epochs, err := v.Epochs(machine)
		if err != nil {
			return err
		}
		for _, epoch := range choose(epochs, also) {
			spans, err := v.Spans(machine, epoch, Every(), schemas.MaxGaps+2)
			if err != nil {
				return err
			}
			e := state(epoch, spans)
			e.MAC = schemas.ReceiptMAC(key[:], machine, e)
			r.Epochs = append(r.Epochs, e)
		}
		return nil
	})
	if err != nil {
		return schemas.Receipt{}, fmt.Errorf("ledger: receipt for machine %q: %w", machine, err)
	}
	return r, nil
}

// choose picks the epochs of a receipt out of all, newest first: those wanted, then the newest.
func choose(all, wanted []uint32) []uint32 {
	if len(all) <= MaxReceiptEpochs {
		return all
	}
	picked := make([]uint32, 0, MaxReceiptEpochs)
	for _, must := range []bool{true, false} {
		for _, e := range all {
			if slices.Contains(wanted, e) == must && len(picked) < MaxReceiptEpochs {
				picked = append(picked, e)
			}
		}
	}
	slices.SortFunc(picked, func(a, b uint32) int { return int(int64(b) - int64(a)) })
	return picked
}

// state says what spans hold, as a receipt does. Where there are more gaps than it
// may list, it speaks only of the numbers below the first that it cannot list.
func state(epoch uint32, spans Spans) schemas.EpochReceipt {
	e := schemas.EpochReceipt{Epoch: epoch, CompleteTo: spans.CompleteTo(), Highest: spans.Highest()}
	gaps := spans.Gaps()
	if len(gaps) > schemas.MaxGaps {
		e.Highest = gaps[schemas.MaxGaps].First - 1
		gaps = gaps[:schemas.MaxGaps]
	}
	for _, g := range gaps {
		e.Gaps = append(e.Gaps, [2]uint32{g.First, g.Last})
	}
	return e
}
