package outbox

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/farebeat/farebeat/schemas"
)

// Covered returns what a receipt says the ledger holds, by epoch. A receipt that
// contradicts itself covers nothing and is an error: it would be dangerous to
// read the best of it, since copies are given up on its word.
func Covered(r schemas.Receipt) (map[uint32]Intervals, error) {
	out := make(map[uint32]Intervals, len(r.Epochs))
	for _, e := range r.Epochs {
		if _, twice := out[e.Epoch]; twice {
			return nil, fmt.Errorf("receipt for machine %q speaks of epoch %d twice", r.Machine, e.Epoch)
		}
		held, err := coveredEpoch(e)
		if err != nil {
			return nil, fmt.Errorf("receipt for machine %q, epoch %d: %w", r.Machine, e.Epoch, err)
		}
		out[e.Epoch] = held
	}
	return out, nil
}

func coveredEpoch(e schemas.EpochReceipt) (Intervals, error) {
	if e.CompleteTo > e.Highest {
		return nil, fmt.Errorf("complete to %d but speaks only of records up to %d", e.CompleteTo, e.Highest)
	}
	gaps := make([]Interval, 0, len(e.Gaps))
	var before uint32
	for _, g := range e.Gaps {
		switch {
		case g[0] < 1 || g[0] > g[1] || g[1] > e.Highest:
			return nil, fmt.Errorf("gap %d-%d does not lie within 1-%d", g[0], g[1], e.Highest)
		case g[0] <= before:
			return nil, fmt.Errorf("gap %d-%d is out of order", g[0], g[1])
		case g[0] <= e.CompleteTo:
			return nil, fmt.Errorf("complete to %d but has a gap %d-%d", e.CompleteTo, g[0], g[1])
		}
		before = g[1]
		gaps = append(gaps, Interval{g[0], g[1]})
	}
	return Of(Interval{1, e.Highest}).Minus(Of(gaps...)), nil
}

// Receipt takes in what the ledger says it holds of a machine: the one thing on
// whose word records leave. Batches covered from first to last record are deleted
// and returned, their slots are to be cleared; covered records that were never
// sealed are deleted, too. A batch that is covered in part stays whole. The
// receipt becomes the machine's latest, also where it covers less than the one
// before it: a ledger that was restored from a backup says so that way, and what
// it lost is read again. A receipt that contradicts itself is refused and changes
// nothing.
func (o *Outbox) Receipt(ctx context.Context, r schemas.Receipt) ([]BatchID, error) {
	covered, err := Covered(r)
	if err != nil {
		return nil, o.wrap("take receipt", err)
	}
	if r.Machine == "" {
		return nil, o.wrap("take receipt", errors.New("it names no machine"))
	}
	body, err := json.Marshal(r)
	if err != nil {
		return nil, o.wrap("take receipt", err)
	}
	var gone []BatchID
	err = o.write(ctx, "take receipt for machine "+r.Machine, r.Machine, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `INSERT INTO receipt (machine, body) VALUES (?, ?) ON CONFLICT (machine) DO UPDATE SET body = excluded.body`, r.Machine, body); err != nil {
			return err
		}
		v, err := o.view(ctx, tx, r.Machine)
		if err != nil {
			return err
		}
		next := v.clone()
		for epoch, set := range covered {
			loose := v.unsealed(epoch).Intersect(set)
			if err := release(ctx, tx, r.Machine, epoch, loose); err != nil {
				return err
			}
			next.held[epoch] = next.held[epoch].Minus(loose)
		}
		gone, err = coveredBatches(ctx, tx, r.Machine, covered)
		if err != nil {
			return err
		}
		for _, id := range gone {
			if err := closeBatch(ctx, tx, id); err != nil {
				return err
			}
			records := Of(Interval{id.First, id.Last})
			next.held[id.Epoch] = next.held[id.Epoch].Minus(records)
			next.sealed[id.Epoch] = next.sealed[id.Epoch].Minus(records)
			next.batches--
		}
		o.views[r.Machine] = next
		return nil
	})
	if err != nil {
		return nil, err
	}
	return gone, nil
}

func coveredBatches(ctx context.Context, tx *sql.Tx, machine string, covered map[uint32]Intervals) ([]BatchID, error) {
	var gone []BatchID
	err := each(ctx, tx, `SELECT epoch, first, last FROM batch WHERE machine = ? ORDER BY id`, []any{machine}, func(scan scanner) error {
		id := BatchID{Machine: machine}
		if err := scan(&id.Epoch, &id.First, &id.Last); err != nil {
			return err
		}
		if covered[id.Epoch].Covers(Interval{id.First, id.Last}) {
			gone = append(gone, id)
		}
		return nil
	})
	return gone, err
}

func closeBatch(ctx context.Context, tx *sql.Tx, id BatchID) error {
	if err := release(ctx, tx, id.Machine, id.Epoch, Of(Interval{id.First, id.Last})); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM batch WHERE machine = ? AND epoch = ? AND first = ? AND last = ?`, id.Machine, id.Epoch, id.First, id.Last); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO slot_to_clear (machine, epoch, first, last) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING`, id.Machine, id.Epoch, id.First, id.Last)
	return err
}

// release deletes records that a receipt covers.
func release(ctx context.Context, tx *sql.Tx, machine string, epoch uint32, set Intervals) error {
	for _, iv := range set {
		if _, err := tx.ExecContext(ctx, `DELETE FROM record WHERE machine = ? AND epoch = ? AND seq BETWEEN ? AND ?`, machine, epoch, iv.First, iv.Last); err != nil {
			return err
		}
	}
	return nil
}

// LatestReceipt returns the receipt that came last for a machine, and whether
// there is one.
func (o *Outbox) LatestReceipt(ctx context.Context, machine string) (r schemas.Receipt, ok bool, err error) {
	err = o.write(ctx, "look up the receipt for machine "+machine, machine, func(tx *sql.Tx) error {
		r, ok, err = latestReceipt(ctx, tx, machine)
		return err
	})
	return r, ok, err
}

func latestReceipt(ctx context.Context, tx *sql.Tx, machine string) (schemas.Receipt, bool, error) {
	var (
		r    schemas.Receipt
		body []byte
	)
	err := tx.QueryRowContext(ctx, `SELECT body FROM receipt WHERE machine = ?`, machine).Scan(&body)
	if errors.Is(err, sql.ErrNoRows) {
		return r, false, nil
	}
	if err != nil {
		return r, false, err
	}
	if err := json.Unmarshal(body, &r); err != nil {
		return r, false, fmt.Errorf("receipt for machine %s: %w (%w)", machine, ErrDamaged, err)
	}
	return r, true, nil
}

func latestCovered(ctx context.Context, tx *sql.Tx, machine string) (map[uint32]Intervals, error) {
	r, ok, err := latestReceipt(ctx, tx, machine)
	if err != nil || !ok {
		return nil, err
	}
	return Covered(r)
}
