package outbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/farebeat/farebeat/schemas"
)

// Seal cuts the unsealed records of a machine, all epochs, oldest first, into
// batches and returns the new ones. It never makes more than
// schemas.MaxOpenBatches open batches; what is left waits for receipts.
func (o *Outbox) Seal(ctx context.Context, machine string, mode Mode) ([]BatchID, error) {
	var made []BatchID
	err := o.write(ctx, "seal records of machine "+machine, machine, func(tx *sql.Tx) error {
		v, err := o.view(ctx, tx, machine)
		if err != nil {
			return err
		}
		made = v.pieces(machine, mode)
		for _, id := range made {
			if _, err := tx.ExecContext(ctx, `INSERT INTO batch (machine, epoch, first, last, sealed_ms) VALUES (?, ?, ?, ?, ?)`,
				machine, id.Epoch, id.First, id.Last, o.now().UnixMilli()); err != nil {
				return err
			}
			// The slot is in use again: clearing it now would wipe the new batch.
			if err := forget(ctx, tx, id); err != nil {
				return err
			}
		}
		next := v.clone()
		for _, id := range made {
			next.sealed[id.Epoch] = next.sealed[id.Epoch].Union(Of(Interval{id.First, id.Last}))
			next.batches++
		}
		o.views[machine] = next
		return nil
	})
	if err != nil {
		return nil, err
	}
	return made, nil
}

// pieces decides which batches Seal makes.
func (v *view) pieces(machine string, mode Mode) []BatchID {
	var out []BatchID
	epochs := make([]uint32, 0, len(v.held))
	for epoch := range v.held {
		epochs = append(epochs, epoch)
	}
	slices.Sort(epochs)
	for _, epoch := range epochs {
		for _, iv := range v.unsealed(epoch) {
			for first := uint64(iv.First); first <= uint64(iv.Last); first += schemas.MaxBatch {
				last := min(first+schemas.MaxBatch-1, uint64(iv.Last))
				full := last-first+1 == schemas.MaxBatch
				if v.batches+len(out) >= schemas.MaxOpenBatches || (mode == FullBatches && !full) {
					break
				}
				out = append(out, BatchID{machine, epoch, uint32(first), uint32(last)})
			}
		}
	}
	return out
}

// Unsealed returns the machines that have records that no batch holds yet, in
// the order of their names.
func (o *Outbox) Unsealed(ctx context.Context) ([]string, error) {
	var out []string
	err := o.write(ctx, "list machines with unsealed records", "", func(tx *sql.Tx) error {
		machines, err := machines(ctx, tx)
		if err != nil {
			return err
		}
		for _, machine := range machines {
			v, err := o.view(ctx, tx, machine)
			if err != nil {
				return err
			}
			if v.needs() > v.batches {
				out = append(out, machine)
			}
		}
		return nil
	})
	return out, err
}

// machines lists who has records, by one step in the index for each.
func machines(ctx context.Context, tx *sql.Tx) ([]string, error) {
	var out []string
	err := each(ctx, tx, `WITH RECURSIVE m (name) AS (
			SELECT min(machine) FROM record
			UNION ALL SELECT (SELECT min(machine) FROM record WHERE machine > name) FROM m WHERE name IS NOT NULL
		) SELECT name FROM m WHERE name IS NOT NULL ORDER BY name`, nil, func(scan scanner) error {
		out = append(out, "")
		return scan(&out[len(out)-1])
	})
	return out, err
}

// OpenBatches returns every batch that waits for a receipt, in the order in which
// they were sealed.
func (o *Outbox) OpenBatches(ctx context.Context) ([]BatchID, error) {
	return o.ids(ctx, "list open batches", `SELECT machine, epoch, first, last FROM batch ORDER BY id`)
}

// SlotsToClear returns the slots of receipted batches that the broker may still
// retain. Clear each with an empty retained message, then call SlotCleared.
func (o *Outbox) SlotsToClear(ctx context.Context) ([]BatchID, error) {
	return o.ids(ctx, "list slots to clear", `SELECT machine, epoch, first, last FROM slot_to_clear ORDER BY machine, epoch, first, last`)
}

func (o *Outbox) ids(ctx context.Context, op, query string) ([]BatchID, error) {
	var out []BatchID
	err := o.write(ctx, op, "", func(tx *sql.Tx) error {
		return each(ctx, tx, query, nil, func(scan scanner) error {
			var id BatchID
			if err := scan(&id.Machine, &id.Epoch, &id.First, &id.Last); err != nil {
				return err
			}
			out = append(out, id)
			return nil
		})
	})
	return out, err
}

// SlotCleared records that the broker acknowledged the clearing of a slot.
func (o *Outbox) SlotCleared(ctx context.Context, id BatchID) error {
	return o.write(ctx, "forget slot "+id.String(), id.Machine, func(tx *sql.Tx) error { return forget(ctx, tx, id) })
}

func forget(ctx context.Context, tx *sql.Tx, id BatchID) error {
	_, err := tx.ExecContext(ctx, `DELETE FROM slot_to_clear WHERE machine = ? AND epoch = ? AND first = ? AND last = ?`, id.Machine, id.Epoch, id.First, id.Last)
	return err
}

// Load returns an open batch with its records. ErrNotFound means that it was
// receipted meanwhile. Where the disk gave back other bytes than were written,
// those records are set aside in quarantine, Held no longer counts them, so that
// they are read from the machine again into the same slot, and the error is
// ErrDamaged until that is done.
func (o *Outbox) Load(ctx context.Context, id BatchID) (Batch, error) {
	var (
		b       Batch
		damaged error
	)
	err := o.write(ctx, "load batch "+id.String(), id.Machine, func(tx *sql.Tx) error {
		var ms int64
		err := tx.QueryRowContext(ctx, `SELECT sealed_ms FROM batch WHERE machine = ? AND epoch = ? AND first = ? AND last = ?`,
			id.Machine, id.Epoch, id.First, id.Last).Scan(&ms)
		if errors.Is(err, sql.ErrNoRows) {
			return ErrNotFound
		}
		if err != nil {
			return err
		}
		b = Batch{BatchID: id, SealedAt: time.UnixMilli(ms).UTC()}
		bad, err := o.records(ctx, tx, &b)
		if err != nil {
			return err
		}
		want := uint64(id.Last) - uint64(id.First) + 1
		if got := uint64(len(b.Records)); got != want {
			damaged = fmt.Errorf("%d of %d records are missing: they are read from the machine again: %w", want-got, want, ErrDamaged)
		}
		return o.setAside(ctx, tx, id.Machine, bad)
	})
	if err != nil {
		return Batch{}, err
	}
	if damaged != nil {
		return Batch{}, o.wrap("load batch "+id.String(), damaged)
	}
	return b, nil
}

// records fills b with its sound records and returns those whose bytes changed.
func (o *Outbox) records(ctx context.Context, tx *sql.Tx, b *Batch) (bad []Record, err error) {
	err = each(ctx, tx, `SELECT seq, crc, body FROM record WHERE machine = ? AND epoch = ? AND seq BETWEEN ? AND ? ORDER BY seq`,
		[]any{b.Machine, b.Epoch, b.First, b.Last}, func(scan scanner) error {
			var (
				seq, crc uint32
				body     []byte
			)
			if err := scan(&seq, &crc, &body); err != nil {
				return err
			}
			if checksum(body) != crc {
				bad = append(bad, Record{b.Epoch, seq, body})
				return nil
			}
			b.Records = append(b.Records, body)
			return nil
		})
	return bad, err
}

func (o *Outbox) setAside(ctx context.Context, tx *sql.Tx, machine string, bad []Record) error {
	for _, r := range bad {
		if err := o.quarantine(ctx, tx, machine, r, "the bytes on disk changed"); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM record WHERE machine = ? AND epoch = ? AND seq = ?`, machine, r.Epoch, r.Seq); err != nil {
			return err
		}
		delete(o.views, machine)
	}
	return nil
}

// NextSession returns a number greater than every one that it returned before:
// the number of the gateway's next connection. It is at least the Unix time in
// seconds, so that it also grows over the loss of the file.
func (o *Outbox) NextSession(ctx context.Context) (uint64, error) {
	var n int64
	err := o.write(ctx, "count sessions", "", func(tx *sql.Tx) error {
		return tx.QueryRowContext(ctx, `INSERT INTO counter (name, value) VALUES ('session', max(1, ?1))
			ON CONFLICT (name) DO UPDATE SET value = max(value + 1, ?1) RETURNING value`, o.now().Unix()).Scan(&n)
	})
	return uint64(n), err
}

// Stats is what the outbox holds.
type Stats struct {
	Records      int // without a receipt
	Machines     int // that have such records
	OpenBatches  int // sealed, without a receipt
	SlotsToClear int // receipted, perhaps still retained by the broker
	Quarantined  int // set aside: conflicting or damaged
}

// Stats counts what is here.
func (o *Outbox) Stats(ctx context.Context) (s Stats, err error) {
	err = o.write(ctx, "count", "", func(tx *sql.Tx) error {
		return tx.QueryRowContext(ctx, `SELECT (SELECT count(*) FROM record), (SELECT count(DISTINCT machine) FROM record), (SELECT count(*) FROM batch),
			(SELECT count(*) FROM slot_to_clear), (SELECT count(*) FROM quarantine)`).
			Scan(&s.Records, &s.Machines, &s.OpenBatches, &s.SlotsToClear, &s.Quarantined)
	})
	return s, err
}

// Quarantined is a record that was set aside, with its bytes.
type Quarantined struct {
	Machine string
	Record
	Reason string
	At     time.Time
}

// Quarantine returns all records of a machine that were set aside, oldest first.
func (o *Outbox) Quarantine(ctx context.Context, machine string) ([]Quarantined, error) {
	var out []Quarantined
	err := o.write(ctx, "list quarantine of machine "+machine, machine, func(tx *sql.Tx) error {
		return each(ctx, tx, `SELECT epoch, seq, reason, at_ms, body FROM quarantine WHERE machine = ? ORDER BY id`, []any{machine}, func(scan scanner) error {
			var (
				q  = Quarantined{Machine: machine}
				ms int64
			)
			if err := scan(&q.Epoch, &q.Seq, &q.Reason, &ms, &q.Body); err != nil {
				return err
			}
			q.At = time.UnixMilli(ms).UTC()
			out = append(out, q)
			return nil
		})
	})
	return out, err
}
