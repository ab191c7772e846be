package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/farebeat/farebeat/fleet/durable"
	"github.com/farebeat/farebeat/fleet/keys"
	"github.com/farebeat/farebeat/fleet/ledger"
)

// Repaired is what Repair did.
type Repaired struct {
	Aside  string     `json:"aside"`  // where the damaged file is now
	Found  string     `json:"found"`  // what was wrong with it; "" for nothing
	Ledger TakenIn    `json:"ledger"` // of the damaged file's records
	Lost   []LostSpan `json:"lost"`   // what the damaged file says that it held and no page has
	Tables []Salvaged `json:"tables"` // the others
}

// LostSpan are records that were in the ledger and are not any more.
type LostSpan struct {
	Machine string `json:"machine"`
	Epoch   uint32 `json:"epoch"`
	ledger.Span
}

// Salvaged is what could be read of a table.
type Salvaged struct {
	Name string `json:"name"`
	Rows int    `json:"rows"`
	Lost string `json:"lost"` // why rows are missing, and which; "" if none is
}

// Names beside a store that is being repaired. Whoever has the second has a whole store.
const (
	repairing = ".repairing"
	repaired  = ".repaired"
)

// ErrRepairPending says that a repair was interrupted after the new file was whole.
var ErrRepairPending = errors.New("a repair of this store was interrupted; run farebeat repair to finish it")

// Repair makes a new file of everything that can be read of the store at path, and gives it the old one's place.
// Records of the ledger are looked for in every page of the file and its log, and are taken when their machine's key
// proves them; spans and sums are made anew from them. The other tables are read from both ends up to what is damaged.
// The old file is set aside and never deleted. No process may use the store.
func Repair(ctx context.Context, path string, k keys.Keys, opts Options) (r Repaired, err error) {
	opts = opts.withDefaults()
	opts.ReadOnly = false
	defer func() { err = wrap("repair store "+path, err) }()
	if !repairPending(path) { // else the old file may be set aside already
		if _, err := os.Stat(path); err != nil {
			return r, err
		}
	}
	err = locked(path, func() error {
		if repairPending(path) {
			r.Found = "a repair was interrupted, and is finished now"
			return r.exchange(path, opts)
		}
		if err := ours(ctx, path); err != nil {
			return err
		}
		if err := r.build(ctx, path, k, opts); err != nil {
			return errors.Join(err, removeStore(path+repairing))
		}
		return r.exchange(path, opts)
	})
	return r, err
}

func repairPending(path string) bool {
	_, err := os.Stat(path + repaired)
	return err == nil
}

// ours refuses another program's database. A file that cannot tell any more what it is may be ours.
func ours(ctx context.Context, path string) error {
	db, err := connect(path, forReading, 1)
	if err != nil {
		return err
	}
	id, _, err := identify(ctx, db)
	if err := db.Close(); err != nil {
		return err
	}
	if err == nil && id != applicationID && id != 0 {
		return fmt.Errorf("%w: it is another program's database", ErrForeign)
	}
	return nil
}

// build writes the new file.
func (r *Repaired) build(ctx context.Context, path string, k keys.Keys, opts Options) (err error) {
	if err := removeStore(path + repairing); err != nil {
		return err
	}
	old, err := connect(path, forReading, 1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, old.Close()) }()
	if err := quickCheck(ctx, &querier{ctx: ctx, prepare: old.PrepareContext}); err != nil {
		if !errors.Is(err, ErrDamaged) { // the check itself ended at what is damaged
			err = fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		r.Found = err.Error()
	}
	fresh, err := Open(ctx, path+repairing, opts)
	if err != nil {
		return err
	}
	if err := r.fill(ctx, path, old, fresh, k); err != nil {
		return errors.Join(err, fresh.Close())
	}
	if err := errors.Join(fresh.Check(ctx), fresh.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+repairing, path+repaired); err != nil {
		return err
	}
	return errors.Join(removeStore(path+repairing), durable.SyncDir(filepath.Dir(path)))
}

func (r *Repaired) fill(ctx context.Context, path string, old *sql.DB, fresh *Store, k keys.Keys) error {
	if err := r.copyTables(ctx, old, fresh); err != nil {
		return err
	}
	err := fresh.update(ctx, func(t *tx) error {
		return errors.Join(raiseTicketFloor(t, fresh.opts.Now()), raiseFloors(t))
	})
	if err != nil {
		return err
	}
	in := newIntake(fresh, k, true)
	if err := in.file(ctx, path); err != nil {
		return err
	}
	r.Ledger = in.counts
	if in.proved == 0 {
		rows := 0
		for _, t := range r.Tables {
			rows += t.Rows
		}
		if rows == 0 && r.Found != "" {
			return errors.New("nothing of it can be read: restore the last backup")
		}
	}
	return r.findLost(ctx, old, fresh)
}

// findLost compares what the old file says that it held with what is here.
func (r *Repaired) findLost(ctx context.Context, old *sql.DB, fresh *Store) error {
	claimed := map[recordKey]ledger.Spans{}
	claim := func(scan func(...any) error) error {
		var machine string
		var epoch uint32
		var s ledger.Span
		if err := scan(&machine, &epoch, &s.First, &s.Last); err == nil && s.First > 0 && s.Last >= s.First {
			key := recordKey{machine, epoch, 0}
			claimed[key] = claimed[key].Add(s)
		}
		return nil
	}
	const spans = `SELECT machine, epoch, first, last FROM ledger_span ORDER BY machine, epoch, first`
	if err := readRows(ctx, old, spans, claim); err != nil {
		_ = readRows(ctx, old, strings.NewReplacer("machine,", "machine DESC,", "epoch,", "epoch DESC,").Replace(spans)+` DESC`, claim)
		// The index of keys may still tell what the damaged spans do not.
		_ = readRows(ctx, old, `SELECT machine, epoch, seq, seq FROM ledger_record INDEXED BY sqlite_autoindex_ledger_record_1 ORDER BY machine, epoch, seq`, claim)
		r.Tables = append(r.Tables, Salvaged{Name: "ledger_span", Lost: "it is damaged, so that records that it alone spoke of may be missing too: " + err.Error()})
	}
	for key, want := range claimed {
		var have ledger.Spans
		err := fresh.Ledger().View(ctx, func(v ledger.View) (err error) {
			have, err = v.Spans(key.machine, key.epoch, ledger.Every(), 0)
			return err
		})
		if err != nil {
			return err
		}
		for _, s := range missing(want, have) {
			r.Lost = append(r.Lost, LostSpan{key.machine, key.epoch, s})
		}
	}
	return nil
}

// missing are the numbers of want that are not in have.
func missing(want, have ledger.Spans) (out ledger.Spans) {
	for _, w := range want {
		next := uint64(w.First)
		for _, h := range have {
			if uint64(h.Last) < next || h.First > w.Last {
				continue
			}
			if uint64(h.First) > next {
				out = append(out, ledger.Span{First: uint32(next), Last: h.First - 1})
			}
			next = uint64(h.Last) + 1
		}
		if next <= uint64(w.Last) {
			out = append(out, ledger.Span{First: uint32(next), Last: w.Last})
		}
	}
	return out
}

// table is one to be copied row by row.
type table struct {
	name     string
	columns  []string
	key      []string
	required map[string]bool // columns that are never NULL
}

// copyTables copies everything but the records and what is made from them, and but sessions, tokens and codes to enrol with: the
// damaged part may be what ended, revoked or used them.
func (r *Repaired) copyTables(ctx context.Context, old *sql.DB, fresh *Store) error {
	tables, err := tablesOf(ctx, fresh.read)
	if err != nil {
		return err
	}
	known, oldErr := tablesOf(ctx, old)
	for _, t := range tables {
		switch t.name {
		case "ledger_record", "ledger_span", "ledger_day", "schema_migration", "console_pass", "identity_permit":
			continue
		}
		s := Salvaged{Name: t.name}
		switch have, found := known[t.name]; {
		case oldErr != nil:
			s.Lost = "the list of tables cannot be read: " + oldErr.Error()
		case found:
			t.columns = common(t.columns, have.columns)
			if s, err = copyTable(ctx, old, fresh, t); err != nil {
				return err
			}
		}
		r.Tables = append(r.Tables, s)
	}
	return nil
}

func common(a, b []string) (out []string) {
	for _, x := range a {
		for _, y := range b {
			if x == y {
				out = append(out, x)
			}
		}
	}
	return out
}

func tablesOf(ctx context.Context, db *sql.DB) (map[string]table, error) {
	out := map[string]table{}
	err := readRows(ctx, db, `SELECT m.name, c.name, c.pk, c."notnull" FROM sqlite_master m, pragma_table_info(m.name) c
		WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%' ORDER BY m.name, c.pk, c.cid`, func(scan func(...any) error) error {
		var name, column string
		var pk int
		var required bool
		if err := scan(&name, &column, &pk, &required); err != nil {
			return err
		}
		t, found := out[name]
		if !found {
			t.required = map[string]bool{}
		}
		t.required[column] = required
		t.name, t.columns = name, append(t.columns, column)
		if pk > 0 {
			t.key = append(t.key, column)
		}
		out[name] = t
		return nil
	})
	return out, err
}

// copyTable reads a table from both ends. What stands before the damage wins over what stands behind it.
func copyTable(ctx context.Context, old *sql.DB, fresh *Store, t table) (Salvaged, error) {
	s := Salvaged{Name: t.name}
	insert := fmt.Sprintf(`INSERT INTO %s (%s) VALUES (?%s) ON CONFLICT DO NOTHING`, t.name, strings.Join(t.columns, ", "),
		strings.Repeat(", ?", len(t.columns)-1))
	var group [][]any
	flush := func() error {
		added, refused := 0, 0
		err := fresh.update(ctx, func(tx *tx) error {
			added, refused = 0, 0
			for _, row := range group {
				switch n, err := tx.affect(insert, row...); {
				case isCode(err, constraint):
					refused++ // its bytes changed, such as a value that is missing now
				case err != nil:
					return err
				default:
					added += int(n)
				}
			}
			return nil
		})
		if refused > 0 {
			s.Lost = fmt.Sprintf("%d rows whose bytes changed", refused)
		}
		if err == nil {
			s.Rows += added
			group = group[:0]
		}
		return err
	}
	var failed error
	keep := func(scan func(...any) error) error {
		row, into := make([]any, len(t.columns)), make([]any, len(t.columns))
		for i := range row {
			into[i] = &row[i]
		}
		if err := scan(into...); err != nil {
			return err
		}
		for i, column := range t.columns {
			if b, isBytes := row[i].([]byte); isBytes && b == nil || row[i] == nil && t.required[column] {
				row[i] = []byte{} // the driver's empty value
			}
		}
		if group = append(group, row); len(group) >= takeGroup {
			failed = flush()
		}
		return failed
	}
	query := `SELECT ` + strings.Join(t.columns, ", ") + ` FROM ` + t.name + ` ORDER BY `
	err := readRows(ctx, old, query+strings.Join(t.key, ", "), keep)
	if failed == nil && err != nil {
		s.Lost = "the rows between the two places where reading it from either end stops: " + err.Error()
		_ = readRows(ctx, old, query+strings.Join(t.key, " DESC, ")+` DESC`, keep)
	}
	if failed == nil {
		failed = flush()
	}
	return s, failed
}

// exchange sets the old file aside and gives the new one its place. The log goes first: it must never meet another
// file. A crash in between leaves the new file under a name that Open knows.
func (r *Repaired) exchange(path string, opts Options) error {
	r.Aside = path + ".damaged-" + opts.Now().UTC().Format("20060102T150405.000")
	for _, suffix := range []string{"-wal", "-shm", ""} {
		if err := os.Rename(path+suffix, r.Aside+suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("set the damaged file aside: %w", err)
		}
	}
	if err := os.Rename(path+repaired, path); err != nil {
		return fmt.Errorf("put the repaired file in place: %w", err)
	}
	return durable.SyncDir(filepath.Dir(path))
}

// removeStore deletes a file of ours that is not a store yet, with its log.
func removeStore(path string) error {
	var errs []error
	for _, suffix := range []string{"-wal", "-shm", ".lock", ""} {
		errs = append(errs, removeIfThere(path+suffix))
	}
	return errors.Join(errs...)
}
