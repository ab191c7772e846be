package outbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// Damage is what Open did about a file whose structure was damaged.
type Damage struct {
	Cause   error
	Aside   string // where the damaged file is now
	Records int    // records that were taken over; the machines still hold those that were not
}

// Names of the file that is to take the place of a damaged one. The second is whole and on disk.
const (
	salvaging = ".salvaging"
	salvaged  = ".salvaged"
)

// sessionSkip is added to the session counter of a salvaged file: a number must never come twice, and the row that was read
// may be an old one.
const sessionSkip = 1 << 32

// salvage takes over what can be read of a damaged file into a new one and sets the old one aside. A record that cannot be
// read is read from its machine again, which holds it until the ledger's receipt.
func salvage(ctx context.Context, path string, opts Options, cause error) (*Damage, error) {
	if err := removeFile(path + salvaging); err != nil {
		return nil, err
	}
	if err := copyReadable(ctx, path, path+salvaging, opts); err != nil {
		return nil, fmt.Errorf("take over what can be read of a damaged file: %w", err)
	}
	if err := os.Rename(path+salvaging, path+salvaged); err != nil {
		return nil, err
	}
	return exchange(path, opts, cause)
}

// exchange sets the damaged file aside and gives its place to the salvaged one. The log goes first: it must never meet
// another file. A crash in between is ended by the next Open.
func exchange(path string, opts Options, cause error) (*Damage, error) {
	aside := path + ".damaged-" + opts.Now().UTC().Format("20060102T150405.000")
	for _, suffix := range []string{"-wal", "-shm", ""} {
		if err := os.Rename(path+suffix, aside+suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("set a damaged file aside: %w", err)
		}
	}
	if err := os.Rename(path+salvaged, path); err != nil {
		return nil, fmt.Errorf("set a damaged file aside: %w", err)
	}
	return &Damage{Cause: cause, Aside: aside}, syncFolder(filepath.Dir(path))
}

// finishExchange ends what a crash interrupted; nil if there is nothing to end.
func finishExchange(path string, opts Options) (*Damage, error) {
	if _, err := os.Stat(path + salvaged); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return exchange(path, opts, errors.New("found at an earlier start, which was interrupted"))
}

// copyReadable makes a new outbox of the rows that can be read: each table from its beginning and from its end, up to what
// is damaged.
func copyReadable(ctx context.Context, from, to string, opts Options) (err error) {
	fresh, err := openFile(ctx, to, opts.MaxBytes)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, fresh.Close()) }()
	old, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: from, RawQuery: "mode=ro&_pragma=query_only(1)"}).String())
	if err != nil {
		return err
	}
	defer func() { _ = old.Close() }() // it is damaged, and was only read
	tx, err := fresh.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rollback(tx)) }()
	for _, t := range []struct{ name, order, columns string }{
		{"record", "id", "machine, epoch, seq, crc, body"},
		{"batch", "id", "id, machine, epoch, first, last, sealed_ms"},
		{"slot_to_clear", "machine, epoch, first, last", "machine, epoch, first, last"},
		{"receipt", "machine", "machine, body"},
		{"quarantine", "id", "machine, epoch, seq, sha256, reason, at_ms, body"},
		{"counter", "name", "name, value"},
	} {
		backwards := strings.ReplaceAll(t.order, ", ", " DESC, ") + " DESC"
		for _, order := range []string{t.order, backwards} {
			if err := copyRows(ctx, old, tx, t.name, order, t.columns); err != nil {
				return err
			}
		}
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO counter (name, value) VALUES ('session', ?1) ON CONFLICT (name) DO UPDATE SET value = value + ?1`, int64(sessionSkip)); err != nil {
		return err
	}
	return tx.Commit()
}

// copyRows copies rows until one cannot be read; an error is one of writing.
func copyRows(ctx context.Context, old *sql.DB, tx *sql.Tx, table, order, columns string) error {
	rows, err := old.QueryContext(ctx, fmt.Sprintf(`SELECT %s FROM %s ORDER BY %s`, columns, table, order))
	if err != nil {
		return nil //nolint:nilerr // nothing of this table can be read
	}
	defer func() { _ = rows.Close() }() // the same
	n := strings.Count(columns, ",") + 1
	insert := fmt.Sprintf(`INSERT OR IGNORE INTO %s (%s) VALUES (?%s)`, table, columns, strings.Repeat(", ?", n-1))
	values, into := make([]any, n), make([]any, n)
	for i := range values {
		into[i] = &values[i]
	}
	for rows.Next() {
		if rows.Scan(into...) != nil {
			return nil
		}
		if _, err := tx.ExecContext(ctx, insert, values...); err != nil && !refusedRow(err) {
			return err
		}
	}
	return nil
}

func removeFile(path string) error {
	for _, suffix := range []string{"-wal", "-shm", ""} {
		if err := os.Remove(path + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
