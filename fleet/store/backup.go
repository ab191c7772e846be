package store

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/farebeat/farebeat/fleet/durable"
)

// Backup writes a copy of the store as of now to dest, while the program goes on. The copy
// is whole, checked, on disk and readable by its owner only when Backup returns; until
// then nothing stands at dest. A file that is there already is not replaced.
func (s *Store) Backup(ctx context.Context, dest string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("back up store %s to %s: %w", s.path, dest, explain(err))
		}
	}()
	if _, err := os.Lstat(dest); err == nil {
		return fmt.Errorf("%w: choose another name or move it away", os.ErrExist)
	}
	f, err := os.CreateTemp(filepath.Dir(dest), ".farebeat-backup-*") // mode 0600
	if err != nil {
		return err
	}
	temp := f.Name()
	defer func() { err = errors.Join(err, removeIfThere(temp)) }()
	defer func() { _ = f.Close() }()
	if err := s.copyTo(ctx, temp); err != nil {
		return err
	}
	if err := checkCopy(ctx, temp); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Link(temp, dest); err != nil { // unlike a rename it replaces nothing
		return err
	}
	return durable.SyncDir(filepath.Dir(dest))
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// copyTo has SQLite write the copy into an empty file, from one snapshot.
func (s *Store) copyTo(ctx context.Context, path string) error {
	if s.closed() {
		return ErrClosed
	}
	// A connection of its own: the readers' may not write, not even elsewhere.
	db, err := connect(s.path, forCopying, 1)
	if err != nil {
		return err
	}
	_, err = db.ExecContext(ctx, "VACUUM INTO ?", path)
	return errors.Join(err, db.Close())
}

func checkCopy(ctx context.Context, path string) error {
	db, err := connect(path, forReading, 1)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	return quickCheck(ctx, &querier{ctx: ctx, prepare: db.PrepareContext, stmts: nil})
}

// Check reads the whole file and compares its structure with itself. It says nothing about
// what the records mean: that is the ledger's Verify.
func (s *Store) Check(ctx context.Context) error {
	err := s.view(ctx, func(q *querier) error { return quickCheck(ctx, q) })
	return wrap("check store "+s.path, err)
}

// maxFindings bounds what an error lists of a damaged file.
const maxFindings = 10

func quickCheck(ctx context.Context, q *querier) error {
	stmt, err := q.prepare(ctx, fmt.Sprintf("PRAGMA integrity_check(%d)", maxFindings))
	if err != nil {
		return err
	}
	defer func() { _ = stmt.Close() }()
	rows, err := stmt.QueryContext(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	var found []string
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			return err
		}
		if line != "ok" {
			found = append(found, line)
		}
	}
	if err := rows.Err(); err != nil {
		return err
	}
	if len(found) > 0 {
		return fmt.Errorf("%w; stop and run farebeat repair, or restore the last backup: %s", ErrDamaged, strings.Join(found, "; "))
	}
	return nil
}

// leftLog reports whether a process that used the store ended without closing it: closing folds the log in.
func leftLog(path string) bool {
	info, err := os.Stat(path + "-wal")
	return err == nil && info.Size() > 0
}

// checkedWhole is the size of a file that is read whole after a crash: about a second.
const checkedWhole = 256 << 20

// checkAfterCrash looks over a file that was not closed. A larger one is not read whole, which would keep the service
// away for minutes: there, both ends of every table are read, where a crash leaves its traces, and what is damaged
// elsewhere is named when it is met.
func checkAfterCrash(ctx context.Context, path string, db *sql.DB) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	q := &querier{ctx: ctx, prepare: db.PrepareContext, stmts: map[string]*sql.Stmt{}}
	defer q.release()
	if info.Size() <= checkedWhole {
		var verdict string
		if err := q.row("PRAGMA quick_check(1)", nil, &verdict); err != nil {
			return explain(err)
		}
		if verdict != "ok" {
			return fmt.Errorf("%w; run farebeat repair, or restore the last backup: %s", ErrDamaged, verdict)
		}
		return nil
	}
	tables, err := tablesOf(ctx, db)
	if err != nil {
		return explain(err)
	}
	for _, t := range tables {
		if len(t.key) == 0 {
			continue
		}
		for _, order := range []string{" LIMIT 1", " DESC LIMIT 1"} {
			end := func(func(...any) error) error { return nil }
			err := q.rows(fmt.Sprintf("SELECT * FROM %s ORDER BY %s%s", t.name, t.key[0], order), nil, end)
			if err != nil {
				return explain(err)
			}
		}
	}
	return nil
}

// LastRecord is the id of the ledger's newest row, 0 for none. Ids grow in the order of commits.
func (s *Store) LastRecord(ctx context.Context) (id int64, err error) {
	err = s.view(ctx, func(q *querier) error { return q.row(`SELECT coalesce(max(id), 0) FROM ledger_record`, nil, &id) })
	return id, wrap("read the newest record's id", err)
}

// restoredSkip is more than Next gives between a backup and its restore.
const restoredSkip = 1 << 32

// Restored tells the store that it is a copy that now takes the original's place: numbers that Next gave
// after the copy was made are never given again, and the console's sessions and tokens, and codes to enrol with, are void, for
// some of them may have been ended, revoked or used since.
func (s *Store) Restored(ctx context.Context) error {
	return wrap("skip numbers", s.update(ctx, func(t *tx) error {
		next := map[string][]byte{}
		err := t.rows(`SELECT name, value FROM meta WHERE name LIKE ?`, []any{counterPrefix + "%"}, func(scan func(...any) error) error {
			var name string
			var old []byte
			if err := scan(&name, &old); err != nil {
				return err
			}
			n, _ := binary.Uvarint(old)
			next[name] = binary.AppendUvarint(nil, n+restoredSkip)
			return nil
		})
		if err != nil {
			return err
		}
		if err := setMeta(t, next); err != nil {
			return err
		}
		if err := errors.Join(voidPasses(t), voidPermits(t)); err != nil {
			return err
		}
		return raiseTicketFloor(t, s.opts.Now())
	}))
}
