package outbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// applicationID marks a SQLite file as a Farebeat outbox ("FBob").
const applicationID = 0x46426f62

// migrations lists what brings an empty file up to date; the version of a file is how many of them it has had. One that was
// released is never changed; a new one is added after it.
func migrations() []string { return []string{tables} }

// A record belongs to the batch whose range contains it; sealing therefore writes
// one row and touches no record.
const tables = `
CREATE TABLE record (
	id      INTEGER PRIMARY KEY,
	machine TEXT    NOT NULL,
	epoch   INTEGER NOT NULL,
	seq     INTEGER NOT NULL,
	crc     INTEGER NOT NULL,
	body    BLOB    NOT NULL
) STRICT;
CREATE UNIQUE INDEX record_key ON record (machine, epoch, seq);
CREATE TABLE batch (
	id        INTEGER PRIMARY KEY AUTOINCREMENT,
	machine   TEXT    NOT NULL,
	epoch     INTEGER NOT NULL,
	first     INTEGER NOT NULL,
	last      INTEGER NOT NULL,
	sealed_ms INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX batch_key ON batch (machine, epoch, first);
CREATE TABLE slot_to_clear (
	machine TEXT    NOT NULL,
	epoch   INTEGER NOT NULL,
	first   INTEGER NOT NULL,
	last    INTEGER NOT NULL,
	PRIMARY KEY (machine, epoch, first, last)
) STRICT, WITHOUT ROWID;
CREATE TABLE receipt (
	machine TEXT PRIMARY KEY,
	body    BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE quarantine (
	id      INTEGER PRIMARY KEY,
	machine TEXT    NOT NULL,
	epoch   INTEGER NOT NULL,
	seq     INTEGER NOT NULL,
	sha256  BLOB    NOT NULL,
	reason  TEXT    NOT NULL,
	at_ms   INTEGER NOT NULL,
	body    BLOB    NOT NULL
) STRICT;
CREATE UNIQUE INDEX quarantine_key ON quarantine (machine, epoch, seq, sha256);
CREATE TABLE counter (
	name  TEXT PRIMARY KEY,
	value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
`

// openFile opens or creates the SQLite file at path as its only user.
func openFile(ctx context.Context, path string, maxBytes int64) (*sql.DB, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(abs), 0o700); err != nil {
		return nil, err
	}
	// SQLite would create the file readable by all; it holds card tokens.
	f, err := os.OpenFile(abs, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	// The exclusive lock keeps a second agent from publishing and clearing the same
	// slots. Pages are 4 KiB, so that max_page_count bounds the file.
	q := url.Values{
		"_txlock": {"immediate"},
		"_pragma": {
			"locking_mode(EXCLUSIVE)", "journal_mode(WAL)", "synchronous(FULL)", "page_size(4096)",
			"foreign_keys(ON)", "busy_timeout(0)",
		},
	}
	if maxBytes > 0 {
		q.Add("_pragma", fmt.Sprintf("max_page_count(%d)", max(maxBytes/4096, 1)))
	}
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: abs, RawQuery: q.Encode()}).String())
	if err != nil {
		return nil, err
	}
	// One connection: the exclusive lock allows no second one, and there is one writer anyway.
	db.SetMaxOpenConns(1)
	if err := prepare(ctx, db); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// prepare checks that the file is ours and sound, and creates the tables in an empty one.
func prepare(ctx context.Context, db *sql.DB) (err error) {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rollback(tx)) }()
	var app, version, objects int64
	if err := tx.QueryRowContext(ctx, `SELECT (SELECT application_id FROM pragma_application_id), (SELECT user_version FROM pragma_user_version),
		(SELECT count(*) FROM sqlite_schema)`).Scan(&app, &version, &objects); err != nil {
		return err
	}
	all := migrations()
	switch {
	case objects > 0 && app != applicationID:
		return errors.New("it is a SQLite file, but not a Farebeat outbox: give another path")
	case version > int64(len(all)):
		return fmt.Errorf("it has layout version %d and this program knows up to %d: run the program version that wrote it", version, len(all))
	case objects > 0:
		var verdict string // "ok", or the first thing that is wrong
		if err := tx.QueryRowContext(ctx, `PRAGMA quick_check(1)`).Scan(&verdict); err != nil {
			return err
		}
		if verdict != "ok" {
			return fmt.Errorf("%w: %s", ErrDamaged, verdict)
		}
	}
	for _, statements := range all[version:] { // all of them or, after a crash, none
		if _, err := tx.ExecContext(ctx, statements); err != nil {
			return err
		}
	}
	if version < int64(len(all)) {
		if _, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA application_id = %d; PRAGMA user_version = %d", applicationID, len(all))); err != nil {
			return err
		}
	}
	return tx.Commit()
}

// damaged reports whether err says that the file itself is not what it should be, as opposed to one that cannot be reached.
func damaged(err error) bool {
	if errors.Is(err, ErrDamaged) {
		return true
	}
	var se *sqlite.Error
	return errors.As(err, &se) && (se.Code()&0xff == sqlite3.SQLITE_CORRUPT || se.Code()&0xff == sqlite3.SQLITE_NOTADB)
}

// refusedRow reports whether err says that a row is not what its table takes.
func refusedRow(err error) bool {
	var se *sqlite.Error
	return errors.As(err, &se) && (se.Code()&0xff == sqlite3.SQLITE_CONSTRAINT || se.Code()&0xff == sqlite3.SQLITE_MISMATCH)
}

// rollback ends tx; after a commit it does nothing.
func rollback(tx *sql.Tx) error {
	if err := tx.Rollback(); err != nil && !errors.Is(err, sql.ErrTxDone) {
		return err
	}
	return nil
}

// wrap names the operation and turns SQLite's result codes into the package's
// errors, each with the way out.
func (o *Outbox) wrap(op string, err error) error {
	if err == nil {
		return nil
	}
	var se *sqlite.Error
	if errors.As(err, &se) {
		switch se.Code() & 0xff { // the rest of the code is detail
		case sqlite3.SQLITE_FULL:
			err = fmt.Errorf("%w (%w): free space on the disk or raise the outbox size; nothing was lost, reading goes on by itself", ErrNoSpace, err)
		case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
			err = fmt.Errorf("%w (%w): stop the other agent or give this one its own outbox file", ErrInUse, err)
		case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
			err = fmt.Errorf("%w (%w): restart the agent, which sets the file aside and takes over what can be read; the machines still hold every record that has no receipt", ErrDamaged, err)
		}
	}
	return fmt.Errorf("outbox %s: %s: %w", o.path, op, err)
}
