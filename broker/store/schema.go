package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"
)

// applicationID marks the file as the broker's ("FBB1") in the header that SQLite keeps for this
// purpose.
const applicationID = 0x46424231

// errForeign marks a file that is no store of a broker.
var errForeign = errors.New("the file is not a broker's store")

// migration brings the file from the version before it to its own. One that was released is never
// changed; a new one is added after it.
type migration []string

// migrations lists all of them; the version of a file (PRAGMA user_version) is how many it has had.
func migrations() []migration {
	return []migration{{
		`CREATE TABLE retained (topic TEXT PRIMARY KEY, payload BLOB NOT NULL, qos INTEGER NOT NULL, props BLOB) WITHOUT ROWID`,
		`CREATE TABLE session (
			number INTEGER PRIMARY KEY, client TEXT NOT NULL,
			version INTEGER NOT NULL, expiry_s INTEGER NOT NULL, left_s INTEGER NOT NULL)`,
		`CREATE TABLE subscription (
			session INTEGER NOT NULL, filter TEXT NOT NULL, qos INTEGER NOT NULL, retain_handling INTEGER NOT NULL,
			no_local INTEGER NOT NULL, retain_as_published INTEGER NOT NULL, identifier INTEGER NOT NULL, replay INTEGER NOT NULL,
			PRIMARY KEY (session, filter)) WITHOUT ROWID`,
		`CREATE TABLE queued (
			session INTEGER NOT NULL, id INTEGER NOT NULL, topic TEXT NOT NULL, payload BLOB NOT NULL,
			qos INTEGER NOT NULL, retain INTEGER NOT NULL, props BLOB,
			PRIMARY KEY (session, id)) WITHOUT ROWID`,
		`CREATE TABLE will (
			number INTEGER PRIMARY KEY, topic TEXT NOT NULL, payload BLOB NOT NULL,
			qos INTEGER NOT NULL, retain INTEGER NOT NULL, props BLOB)`,
		`CREATE TABLE schema_migration (version INTEGER PRIMARY KEY, applied_ms INTEGER NOT NULL)`,
	}}
}

// migrate makes an empty file ours and an older one new, each migration in a transaction of its own.
func migrate(ctx context.Context, db *sql.DB, now time.Time) error {
	var id, have, tables int
	for query, into := range map[string]*int{
		"PRAGMA application_id": &id, "PRAGMA user_version": &have, "SELECT count(*) FROM sqlite_master": &tables,
	} {
		if err := db.QueryRowContext(ctx, query).Scan(into); err != nil {
			return err
		}
	}
	if id != applicationID && (id != 0 || tables != 0) {
		return errForeign
	}
	all := migrations()
	if have > len(all) {
		return fmt.Errorf("%w: it has version %d, this program knows up to %d; update the program", ErrNewer, have, len(all))
	}
	for version := have + 1; version <= len(all); version++ {
		if err := all[version-1].apply(ctx, db, version, now); err != nil {
			return fmt.Errorf("migration %d: %w", version, err)
		}
	}
	return nil
}

func (m migration) apply(ctx context.Context, db *sql.DB, version int, now time.Time) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // after Commit it only says so
	for _, s := range append(m, fmt.Sprintf("PRAGMA application_id = %d", applicationID), fmt.Sprintf("PRAGMA user_version = %d", version)) {
		if _, err := tx.ExecContext(ctx, s); err != nil {
			return err
		}
	}
	if _, err := tx.ExecContext(ctx, "INSERT INTO schema_migration (version, applied_ms) VALUES (?, ?)", version, now.UnixMilli()); err != nil {
		return err
	}
	return tx.Commit()
}

// damaged reports whether err says that the file itself is not what it should be, as opposed to one
// that cannot be reached.
func damaged(err error) bool {
	if errors.Is(err, errForeign) || errors.Is(err, errDamaged) {
		return true
	}
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Code() & 0xff {
	case lib.SQLITE_CORRUPT, lib.SQLITE_NOTADB:
		return true
	case lib.SQLITE_ERROR: // a schema that is ours by its mark and lacks a table or a column
		return true
	}
	return false
}

// explain adds the way out to errors that an operator can do something about.
func explain(err error) error {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Code() & 0xff {
	case lib.SQLITE_FULL:
		return fmt.Errorf("the disk is full; free space and it goes on by itself: %w", err)
	case lib.SQLITE_IOERR, lib.SQLITE_READONLY, lib.SQLITE_CANTOPEN:
		return fmt.Errorf("the disk failed; check it, its free space and the file's permissions: %w", err)
	case lib.SQLITE_CORRUPT, lib.SQLITE_NOTADB:
		return fmt.Errorf("the file is damaged; restart the broker, which sets it aside and takes over what can be read: %w", err)
	}
	return err
}
