package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
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
	return syncDir(filepath.Dir(dest))
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
		return fmt.Errorf("the file is damaged; stop, keep a copy, and restore the last backup: %s", strings.Join(found, "; "))
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
