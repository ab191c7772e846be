package store

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/farebeat/farebeat/fleet/keys"
	"github.com/farebeat/farebeat/fleet/ledger"
	"github.com/farebeat/farebeat/schemas"
)

// TakenIn counts what became of the records of another file.
type TakenIn struct {
	Records   int `json:"records"`   // in the ledger now, not before
	Duplicate int `json:"duplicate"` // were there, the same bytes
	Conflict  int `json:"conflict"`  // another record is there under the key; both are in quarantine
	Damaged   int `json:"damaged"`   // the key's record is nowhere whole: what is left of it is in quarantine
}

// Merge brings the records that can be read of another store's file into this one: those that are missing here are
// added, with their spans and sums; a key with other bytes goes to quarantine. Every record is proved by its
// machine's key first. Merging the same file again changes nothing. The other file may be older or damaged, and
// must not be in use.
func (s *Store) Merge(ctx context.Context, path string, k keys.Keys) (TakenIn, error) {
	in := newIntake(s, k, false)
	_, err := os.Stat(path)
	if err == nil {
		err = locked(path, func() error { return in.file(ctx, path) })
	}
	return in.counts, wrap(fmt.Sprintf("merge %s into store %s", path, s.path), err)
}

// locked runs do while no process writes the store at path.
func locked(path string, do func() error) error {
	lock, err := acquire(path + ".lock")
	if err != nil {
		return err
	}
	return errors.Join(do(), lock.Unlock())
}

// takeGroup is how many records are taken in within one transaction.
const takeGroup = 2000

// intake takes records out of files into a store. Keys, sums and days are read out of the record, which is
// proved, never out of the columns beside it, which are not.
type intake struct {
	to      *Store
	keys    keys.Keys
	keepIDs bool // of the rows: for a store that has no others
	machine map[string][]byte
	group   []arrived
	unsound map[recordKey]carved // by the key that their columns or they themselves claim
	again   bool                 // what comes now may have come before, and is no duplicate
	proved  int
	counts  TakenIn
}

type recordKey struct {
	machine    string
	epoch, seq uint32
}

// arrived is a proved record.
type arrived struct {
	carved
	tx schemas.Transaction
}

func newIntake(to *Store, k keys.Keys, keepIDs bool) *intake {
	return &intake{to: to, keys: k, keepIDs: keepIDs, machine: map[string][]byte{}, unsound: map[recordKey]carved{}}
}

// file takes in every record of a file, first in the order of its table, then those that only its pages still have.
func (in *intake) file(ctx context.Context, path string) error {
	take := func(key recordKey, row carved) error { return in.add(ctx, key, row) }
	if err := in.table(ctx, path, take); err != nil {
		return err
	}
	p, err := openPages(path)
	if err != nil {
		return err
	}
	if err := in.flush(ctx); err != nil { // with what the table knows of them, before the pages give the same
		return errors.Join(err, p.close())
	}
	in.again = true
	err = p.each(func(row carved) error { return take(recordKey{}, row) })
	if err := errors.Join(err, p.close()); err != nil {
		return err
	}
	return in.finish(ctx)
}

// table reads the table as SQLite does, from both ends up to what is damaged. That it cannot is no error: the pages
// are read after it.
func (in *intake) table(ctx context.Context, path string, take func(recordKey, carved) error) error {
	db, err := connect(path, forReading, 1)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	var failed error
	each := func(scan func(...any) error) error {
		var key recordKey
		var row carved
		if err := scan(&row.id, &key.machine, &key.epoch, &key.seq, &row.vehicle, &row.receivedMS, &row.record); err != nil {
			return nil //nolint:nilerr // a column of another type: what the page holds is looked at later
		}
		failed = take(key, row)
		return failed
	}
	const query = `SELECT id, machine, epoch, seq, vehicle, received_ms, record FROM ledger_record ORDER BY id`
	if err := readRows(ctx, db, query, each); err != nil && failed == nil {
		_ = readRows(ctx, db, query+` DESC`, each)
	}
	return failed
}

// readRows calls each for every row up to the first that cannot be read.
func readRows(ctx context.Context, db *sql.DB, query string, each func(scan func(...any) error) error) error {
	q := &querier{ctx: ctx, prepare: db.PrepareContext, stmts: map[string]*sql.Stmt{}}
	defer q.release()
	return q.rows(query, nil, each)
}

// add proves a record and keeps it for the next transaction. key is what stands beside it, if anything does.
func (in *intake) add(ctx context.Context, key recordKey, row carved) error {
	tx, err := schemas.ParseTransaction(row.record)
	if err != nil {
		in.setAside(key, row)
		return nil //nolint:nilerr // it is kept as evidence
	}
	k, known := in.machine[tx.Machine]
	if !known {
		full, err := in.keys.Machine(ctx, tx.Machine)
		if err != nil {
			return err
		}
		k = full[:]
		in.machine[tx.Machine] = k
	}
	if _, err := schemas.VerifyTransaction(k, row.record); err != nil {
		in.setAside(key, row)
		return nil //nolint:nilerr // it is kept as evidence
	}
	in.proved++
	if len(row.vehicle) > 128 || row.vehicle != strings.ToValidUTF8(row.vehicle, "") {
		row.vehicle = tx.Vehicle
	}
	if row.receivedMS <= 0 {
		row.receivedMS, row.vehicle = in.to.opts.Now().UnixMilli(), cmp.Or(row.vehicle, tx.Vehicle)
	}
	row.record = bytes.Clone(row.record)
	in.group = append(in.group, arrived{row, tx})
	if len(in.group) < takeGroup {
		return nil
	}
	return in.flush(ctx)
}

func (in *intake) setAside(key recordKey, row carved) {
	if key.machine != "" && key.epoch > 0 && key.seq > 0 {
		row.record = bytes.Clone(row.record)
		in.unsound[key] = row
	}
}

// ErrWrongKey says that no record of a file is proved by the master key.
var ErrWrongKey = errors.New("no record of it is proved by this master key: give the key that its machines have")

// finish takes in the rest, and keeps as evidence what is left of records that were nowhere whole.
func (in *intake) finish(ctx context.Context) error {
	if in.proved == 0 && len(in.unsound) > 0 {
		return ErrWrongKey
	}
	if err := in.flush(ctx); err != nil {
		return err
	}
	if len(in.unsound) == 0 {
		return nil
	}
	damaged := 0
	err := in.to.update(ctx, func(t *tx) error {
		damaged = 0
		at := in.to.opts.Now().UTC().Truncate(time.Millisecond)
		for key, row := range in.unsound {
			held, err := heldRecord(t, key)
			if err != nil {
				return err
			}
			if held != nil {
				continue
			}
			damaged++
			if row.record == nil {
				row.record = []byte{}
			}
			if err := (ledgerTx{ledgerView{&t.querier}, t}).Quarantine([]ledger.Quarantined{{
				Machine: key.machine, Epoch: key.epoch, Seq: key.seq, Kind: ledger.Malformed,
				Detail: "its bytes changed on the disk; what is left of it was found by a repair", Vehicle: row.vehicle,
				Record: row.record, FirstAt: at, LastAt: at, Times: 1,
			}}); err != nil {
				return err
			}
		}
		return nil
	})
	in.counts.Damaged = damaged
	return err
}

// heldRecord gives the bytes that the ledger has under a key, nil for none.
func heldRecord(t *tx, key recordKey) ([]byte, error) {
	var held []byte
	err := t.row(`SELECT record FROM ledger_record WHERE machine = ? AND epoch = ? AND seq = ?`, []any{key.machine, key.epoch, key.seq}, &held)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return held, err
}

// flush takes the kept records in, with their spans and days, in one transaction.
func (in *intake) flush(ctx context.Context) error {
	var c TakenIn
	err := in.to.update(ctx, func(t *tx) (err error) {
		c, err = in.write(t)
		return err
	})
	if err != nil {
		return err
	}
	in.counts.Records += c.Records
	in.counts.Duplicate += c.Duplicate
	in.counts.Conflict += c.Conflict
	in.group = in.group[:0]
	return nil
}

func (in *intake) write(t *tx) (c TakenIn, err error) {
	l := ledgerTx{ledgerView{&t.querier}, t}
	var fresh []schemas.Transaction
	for _, a := range in.group {
		held, err := heldRecord(t, recordKey{a.tx.Machine, a.tx.Epoch, a.tx.Seq})
		switch {
		case err != nil:
			return c, err
		case held == nil:
			if err := in.insert(t, a); err != nil {
				return c, err
			}
			fresh = append(fresh, a.tx)
			c.Records++
		case bytes.Equal(held, a.record):
			if !in.again {
				c.Duplicate++
			}
		default:
			if err := l.Quarantine([]ledger.Quarantined{in.conflict(a, held)}); err != nil {
				return c, err
			}
			if !in.again {
				c.Conflict++
			}
		}
	}
	return c, addUp(l, fresh)
}

func (in *intake) conflict(a arrived, held []byte) ledger.Quarantined {
	at := in.to.opts.Now().UTC().Truncate(time.Millisecond)
	return ledger.Quarantined{
		Machine: a.tx.Machine, Epoch: a.tx.Epoch, Seq: a.tx.Seq, Kind: ledger.Conflict, Vehicle: a.vehicle,
		Detail: "another store has another record under this key; the one that was here stays",
		Record: a.record, Held: held, FirstAt: at, LastAt: at, Times: 1,
	}
}

func (in *intake) insert(t *tx, a arrived) error {
	var id any // the next one
	if in.keepIDs && a.id > 0 {
		var taken int
		if err := t.row(`SELECT count(*) FROM ledger_record WHERE id = ?`, []any{a.id}, &taken); err != nil {
			return err
		}
		if taken == 0 {
			id = a.id
		}
	}
	return t.exec(`INSERT INTO ledger_record
		(id, machine, epoch, seq, service_date, event_ms, amount_minor, currency, vehicle, received_ms, record)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		id, a.tx.Machine, a.tx.Epoch, a.tx.Seq, a.tx.ServiceDate, a.tx.EventTime.UnixMilli(), a.tx.AmountMinor, a.tx.Currency,
		a.vehicle, a.receivedMS, a.record)
}

// addUp writes spans and days of records that were added. Both come from the records alone, so that no
// receipt can claim what is not there.
func addUp(l ledgerTx, fresh []schemas.Transaction) error {
	slices.SortFunc(fresh, func(a, b schemas.Transaction) int {
		return cmp.Or(strings.Compare(a.Machine, b.Machine), cmp.Compare(a.Epoch, b.Epoch), cmp.Compare(a.Seq, b.Seq))
	})
	for len(fresh) > 0 {
		n := 1
		for n < len(fresh) && fresh[n].Machine == fresh[0].Machine && fresh[n].Epoch == fresh[0].Epoch {
			n++
		}
		if err := addEpoch(l, fresh[:n]); err != nil {
			return err
		}
		fresh = fresh[n:]
	}
	return nil
}

func addEpoch(l ledgerTx, of []schemas.Transaction) error {
	machine, epoch := of[0].Machine, of[0].Epoch
	old, err := l.Spans(machine, epoch, ledger.Span{First: of[0].Seq, Last: of[len(of)-1].Seq}.Around(), 0)
	if err != nil {
		return err
	}
	merged, days := old, []ledger.Day(nil)
	for _, tx := range of {
		merged = merged.Add(ledger.Span{First: tx.Seq, Last: tx.Seq})
		i := slices.IndexFunc(days, func(d ledger.Day) bool { return d.ServiceDate == tx.ServiceDate && d.Currency == tx.Currency })
		if i < 0 {
			i = len(days)
			days = append(days, ledger.Day{Machine: machine, ServiceDate: tx.ServiceDate, Epoch: epoch, Currency: tx.Currency, First: tx.Seq})
		}
		days[i].Last = tx.Seq
		days[i].Records++
		days[i].SumMinor += tx.AmountMinor
	}
	if err := l.ReplaceSpans(machine, epoch, old, merged); err != nil {
		return err
	}
	return l.AddDays(days)
}
