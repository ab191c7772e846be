package store

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/farebeat/farebeat/fleet/ledger"
)

// Ledger is the part of the store that keeps transactions.
func (s *Store) Ledger() ledger.Store { return ledgerStore{s} }

type ledgerStore struct{ s *Store }

// Update implements ledger.Store.
func (l ledgerStore) Update(ctx context.Context, fn func(ledger.Tx) error) error {
	return l.s.update(ctx, func(t *tx) error { return fn(ledgerTx{ledgerView{&t.querier}, t}) })
}

// View implements ledger.Store.
func (l ledgerStore) View(ctx context.Context, fn func(ledger.View) error) error {
	return l.s.view(ctx, func(q *querier) error { return fn(ledgerView{q}) })
}

type ledgerView struct{ q *querier }

// Machines implements ledger.View. It asks all three tables, so that what is missing from
// one of them cannot hide a machine from Verify. The records' machines are found by
// stepping from each to the next in the index rather than by reading all of it.
func (v ledgerView) Machines(after string, limit int) ([]string, error) {
	var out []string
	err := v.q.rows(`WITH RECURSIVE step(machine) AS (
			SELECT min(machine) FROM ledger_record WHERE machine > ?
			UNION ALL SELECT (SELECT min(r.machine) FROM ledger_record r WHERE r.machine > step.machine) FROM step WHERE step.machine IS NOT NULL)
		SELECT machine FROM (SELECT machine FROM step WHERE machine IS NOT NULL LIMIT ?) a
		UNION SELECT machine FROM (SELECT DISTINCT machine FROM ledger_span WHERE machine > ? ORDER BY machine LIMIT ?) b
		UNION SELECT machine FROM (SELECT DISTINCT machine FROM ledger_day WHERE machine > ? ORDER BY machine LIMIT ?) c
		ORDER BY machine LIMIT ?`,
		[]any{after, limit, after, limit, after, limit, limit}, func(scan func(...any) error) error {
			var m string
			err := scan(&m)
			out = append(out, m)
			return err
		})
	return out, wrap("list machines", err)
}

// Epochs implements ledger.View, from all three tables as Machines does.
func (v ledgerView) Epochs(machine string) ([]uint32, error) {
	var out []uint32
	err := v.q.rows(`WITH RECURSIVE step(epoch) AS (
			SELECT min(epoch) FROM ledger_record WHERE machine = ?
			UNION ALL SELECT (SELECT min(r.epoch) FROM ledger_record r WHERE r.machine = ? AND r.epoch > step.epoch) FROM step WHERE step.epoch IS NOT NULL)
		SELECT epoch FROM step WHERE epoch IS NOT NULL
		UNION SELECT epoch FROM ledger_span WHERE machine = ?
		UNION SELECT epoch FROM ledger_day WHERE machine = ?
		ORDER BY epoch DESC`,
		[]any{machine, machine, machine, machine}, func(scan func(...any) error) error {
			var e uint32
			err := scan(&e)
			out = append(out, e)
			return err
		})
	return out, wrap("list epochs", err)
}

// Spans implements ledger.View. The last span that begins at or before over.First is looked up
// by itself: a condition on the end of spans alone would walk all of them.
func (v ledgerView) Spans(machine string, epoch uint32, over ledger.Span, limit int) (ledger.Spans, error) {
	if limit <= 0 {
		limit = math.MaxInt32
	}
	var out ledger.Spans
	err := v.q.rows(`SELECT first, last FROM ledger_span
		WHERE machine = ? AND epoch = ? AND last >= ? AND first <= ?
		AND first >= coalesce((SELECT max(first) FROM ledger_span WHERE machine = ? AND epoch = ? AND first <= ?), 0)
		ORDER BY first LIMIT ?`,
		[]any{machine, epoch, over.First, over.Last, machine, epoch, over.First, limit}, func(scan func(...any) error) error {
			var s ledger.Span
			if err := scan(&s.First, &s.Last); err != nil {
				return err
			}
			out = append(out, s)
			return nil
		})
	return out, wrap("read spans", err)
}

// Records implements ledger.View.
func (v ledgerView) Records(machine string, epoch uint32, over ledger.Span, each func(ledger.Row) error) error {
	return wrap("read records", v.q.rows(`SELECT seq, service_date, event_ms, amount_minor, currency, vehicle, received_ms, record
		FROM ledger_record WHERE machine = ? AND epoch = ? AND seq BETWEEN ? AND ? ORDER BY seq`,
		[]any{machine, epoch, over.First, over.Last}, func(scan func(...any) error) error {
			r := ledger.Row{Machine: machine, Epoch: epoch}
			var event, received int64
			if err := scan(&r.Seq, &r.ServiceDate, &event, &r.AmountMinor, &r.Currency, &r.Vehicle, &received, &r.Record); err != nil {
				return err
			}
			r.EventTime, r.ReceivedAt = time.UnixMilli(event).UTC(), time.UnixMilli(received).UTC()
			return each(r)
		}))
}

// Days implements ledger.View.
func (v ledgerView) Days(machine, from, to string, each func(ledger.Day) error) error {
	query := `SELECT machine, service_date, epoch, currency, first, last, records, sum_minor FROM ledger_day
		WHERE service_date >= ? AND service_date <= ?`
	args := []any{from, lastDate(to)}
	if machine != "" {
		query += ` AND machine = ?`
		args = append(args, machine)
	}
	query += ` ORDER BY machine, service_date, epoch, currency`
	return wrap("read days", v.q.rows(query, args, func(scan func(...any) error) error {
		var d ledger.Day
		if err := scan(&d.Machine, &d.ServiceDate, &d.Epoch, &d.Currency, &d.First, &d.Last, &d.Records, &d.SumMinor); err != nil {
			return err
		}
		return each(d)
	}))
}

// Complete implements ledger.View.
func (v ledgerView) Complete(each func(machine string, epoch, completeTo uint32) error) error {
	return wrap("read what is complete", v.q.rows(`SELECT n.machine, n.epoch, coalesce(s.last, 0)
		FROM (SELECT machine, max(epoch) AS epoch FROM ledger_span GROUP BY machine) n
		LEFT JOIN ledger_span s ON s.machine = n.machine AND s.epoch = n.epoch AND s.first = 1
		ORDER BY n.machine`, nil, func(scan func(...any) error) error {
		var machine string
		var epoch, to uint32
		if err := scan(&machine, &epoch, &to); err != nil {
			return err
		}
		return each(machine, epoch, to)
	}))
}

// Quarantined implements ledger.View.
func (v ledgerView) Quarantined(machine string, after int64, limit int, each func(ledger.Quarantined) error) error {
	if limit <= 0 {
		limit = math.MaxInt32
	}
	query := `SELECT id, machine, epoch, seq, kind, detail, vehicle, record, held, first_ms, last_ms, times
		FROM ledger_quarantine WHERE id > ?`
	args := []any{after}
	if machine != "" {
		query += ` AND machine = ?`
		args = append(args, machine)
	}
	args = append(args, limit)
	return wrap("read quarantine", v.q.rows(query+` ORDER BY id LIMIT ?`, args, func(scan func(...any) error) error {
		var e ledger.Quarantined
		var first, last int64
		if err := scan(&e.ID, &e.Machine, &e.Epoch, &e.Seq, &e.Kind, &e.Detail, &e.Vehicle, &e.Record, &e.Held, &first, &last, &e.Times); err != nil {
			return err
		}
		e.FirstAt, e.LastAt = time.UnixMilli(first).UTC(), time.UnixMilli(last).UTC()
		return each(e)
	}))
}

// Evidence implements ledger.View.
func (v ledgerView) Evidence(machine string, each func(epoch, seq uint32, kind ledger.Kind) error) error {
	return wrap("read quarantine", v.q.rows(`SELECT epoch, seq, kind FROM ledger_quarantine WHERE machine = ?`, []any{machine},
		func(scan func(...any) error) error {
			var epoch, seq uint32
			var kind ledger.Kind
			if err := scan(&epoch, &seq, &kind); err != nil {
				return err
			}
			return each(epoch, seq, kind)
		}))
}

// CountQuarantined implements ledger.View.
func (v ledgerView) CountQuarantined(machine, vehicle string) (map[ledger.Kind]int, error) {
	query, args := `SELECT kind, count(*) FROM ledger_quarantine WHERE 1 = 1`, []any(nil)
	if machine != "" {
		query, args = query+` AND machine = ?`, append(args, machine)
	}
	if vehicle != "" {
		query, args = query+` AND vehicle = ?`, append(args, vehicle)
	}
	counts := map[ledger.Kind]int{}
	err := v.q.rows(query+` GROUP BY kind`, args, func(scan func(...any) error) error {
		var k ledger.Kind
		var n int
		if err := scan(&k, &n); err != nil {
			return err
		}
		counts[k] = n
		return nil
	})
	return counts, wrap("count quarantine", err)
}

type ledgerTx struct {
	ledgerView
	t *tx
}

// Append implements ledger.Tx.
func (l ledgerTx) Append(rows []ledger.Row) error {
	for _, r := range rows {
		err := l.t.exec(`INSERT INTO ledger_record
			(machine, epoch, seq, service_date, event_ms, amount_minor, currency, vehicle, received_ms, record)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			r.Machine, r.Epoch, r.Seq, r.ServiceDate, r.EventTime.UnixMilli(), r.AmountMinor, r.Currency,
			r.Vehicle, r.ReceivedAt.UnixMilli(), r.Record)
		if err != nil {
			return fmt.Errorf("add record %d-%d of machine %q: %w", r.Epoch, r.Seq, r.Machine, err)
		}
	}
	return nil
}

// ReplaceSpans implements ledger.Tx. A span that only grew at its end, as nearly all do, is one
// statement.
func (l ledgerTx) ReplaceSpans(machine string, epoch uint32, before, after ledger.Spans) error {
	left := slices.Clone(after)
	for _, s := range before {
		query, args := `DELETE FROM ledger_span WHERE machine = ? AND epoch = ? AND first = ? AND last = ?`, []any{machine, epoch, s.First, s.Last}
		if i := slices.IndexFunc(left, func(n ledger.Span) bool { return n.First == s.First }); i >= 0 {
			n := left[i]
			left = slices.Delete(left, i, i+1)
			if n == s {
				continue
			}
			query = `UPDATE ledger_span SET last = ? WHERE machine = ? AND epoch = ? AND first = ? AND last = ?`
			args = append([]any{n.Last}, args...)
		}
		changed, err := l.t.affect(query, args...)
		if err != nil {
			return wrap("replace spans", err)
		}
		if changed != 1 {
			return fmt.Errorf("replace spans of machine %q, epoch %d: %d-%d is not there", machine, epoch, s.First, s.Last)
		}
	}
	for _, s := range left {
		if err := l.t.exec(`INSERT INTO ledger_span (machine, epoch, first, last) VALUES (?, ?, ?, ?)`, machine, epoch, s.First, s.Last); err != nil {
			return wrap("replace spans", err)
		}
	}
	return nil
}

// maxSum bounds a day's sum either way. SQLite makes a sum beyond 64 bits a number with a fraction, silently.
const maxSum = int64(9_000_000_000_000_000_000)

// AddDays implements ledger.Tx.
func (l ledgerTx) AddDays(days []ledger.Day) error {
	for _, d := range days {
		changed, err := l.t.affect(`INSERT INTO ledger_day (machine, service_date, epoch, currency, first, last, records, sum_minor)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (machine, service_date, epoch, currency) DO UPDATE SET
			first = CASE WHEN excluded.first < ledger_day.first THEN excluded.first ELSE ledger_day.first END,
			last = CASE WHEN excluded.last > ledger_day.last THEN excluded.last ELSE ledger_day.last END,
			records = ledger_day.records + excluded.records, sum_minor = ledger_day.sum_minor + excluded.sum_minor
			WHERE ledger_day.sum_minor + excluded.sum_minor BETWEEN ? AND ?`,
			d.Machine, d.ServiceDate, d.Epoch, d.Currency, d.First, d.Last, int64(d.Records), d.SumMinor, -maxSum, maxSum)
		if err == nil && changed == 0 {
			err = fmt.Errorf("machine %q, service day %s: %w", d.Machine, d.ServiceDate, ledger.ErrOverflow)
		}
		if err != nil {
			return wrap("add up days", err)
		}
	}
	return nil
}

// Quarantine implements ledger.Tx.
func (l ledgerTx) Quarantine(evidence []ledger.Quarantined) error {
	for _, e := range evidence {
		hash := sha256.Sum256(e.Record)
		err := l.t.exec(`INSERT INTO ledger_quarantine
			(machine, epoch, seq, kind, hash, record, held, detail, vehicle, first_ms, last_ms, times)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (machine, epoch, seq, kind, hash) DO UPDATE SET
			times = ledger_quarantine.times + excluded.times, last_ms = excluded.last_ms`,
			e.Machine, e.Epoch, e.Seq, string(e.Kind), hash[:], e.Record, e.Held, e.Detail, e.Vehicle,
			e.FirstAt.UnixMilli(), e.LastAt.UnixMilli(), e.Times)
		if err != nil {
			return wrap("quarantine", err)
		}
	}
	return nil
}

func wrap(op string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", op, err)
}
