package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
)

// file is an open SQLite file with the one connection that reads and writes it.
type file struct {
	db    *sql.DB
	conn  *sql.Conn // nil after an error that may have broken it
	tx    *tx
	pages int // bound of the file, 0 for none
	count int // of commits
}

// tx is the connection within a transaction, with its prepared statements.
type tx struct {
	ctx   context.Context // never ends: a write that began is finished
	conn  *sql.Conn
	stmts map[string]*sql.Stmt
}

func (t *tx) exec(query string, args ...any) error {
	s, ok := t.stmts[query]
	if !ok {
		var err error
		if s, err = t.conn.PrepareContext(t.ctx, query); err != nil {
			return err
		}
		t.stmts[query] = s
	}
	_, err := s.ExecContext(t.ctx, args...)
	return err
}

func openFile(ctx context.Context, path string, opts Options) (*file, error) {
	mode, err := makeFile(path)
	if err != nil {
		return nil, err
	}
	db, err := connect(path, mode)
	if err != nil {
		return nil, err
	}
	f := &file{db: db}
	if err := migrate(ctx, db, opts.Now()); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	if err := f.connect(); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return f, nil
}

func (f *file) connect() error {
	ctx := context.Background()
	conn, err := f.db.Conn(ctx)
	if err != nil {
		return err
	}
	f.conn, f.tx = conn, &tx{ctx: ctx, conn: conn, stmts: map[string]*sql.Stmt{}}
	if f.pages > 0 {
		return f.limit(f.pages)
	}
	return nil
}

// limit bounds the file, for this connection and those after it.
func (f *file) limit(pages int) error {
	f.pages = pages
	if f.conn == nil {
		return nil
	}
	_, err := f.conn.ExecContext(f.tx.ctx, fmt.Sprintf("PRAGMA max_page_count = %d", pages))
	return err
}

// disconnect closes the connection, which undoes an open transaction for certain.
func (f *file) disconnect() {
	for _, s := range f.tx.stmts {
		s.Close()
	}
	_ = f.conn.Raw(func(any) error { return driver.ErrBadConn }) // makes the pool close it
	_ = f.conn.Close()
	f.conn = nil
}

func (f *file) close() error {
	var errs []error
	if f.conn != nil {
		var busy, logged, folded int
		errs = append(errs, f.conn.QueryRowContext(f.tx.ctx, "PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &logged, &folded))
		for _, s := range f.tx.stmts {
			errs = append(errs, s.Close())
		}
		errs = append(errs, f.conn.Close())
	}
	return errors.Join(append(errs, f.db.Close())...)
}

func (f *file) commit(changes []Change) error {
	if f.conn == nil {
		if err := f.connect(); err != nil {
			return err
		}
	}
	if err := f.transact(changes); err != nil {
		// SQLite undoes the transaction by itself after some errors only.
		if undo := f.tx.exec("ROLLBACK"); undo != nil {
			f.disconnect()
		}
		return err
	}
	f.count++
	if f.count%tidyEvery == 0 {
		f.tidy()
	}
	return nil
}

func (f *file) transact(changes []Change) error {
	if err := f.tx.exec("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	for _, c := range changes {
		if err := c.apply(f.tx); err != nil {
			return err
		}
	}
	return f.tx.exec("COMMIT")
}

const (
	tidyEvery = 64   // commits between two looks at the free pages
	tidyPages = 2048 // given back at most in one go: 8 MB, so that nobody waits for long
	keepPages = 4096 // free pages that stay: what is cleared now is needed again soon
)

// tidy gives pages that were cleared back to the disk while they are many, and more than a third of
// the file. It is a help only: free pages are used again anyway.
func (f *file) tidy() {
	var free, pages int
	if err := f.conn.QueryRowContext(f.tx.ctx, "PRAGMA freelist_count").Scan(&free); err != nil {
		return
	}
	if err := f.conn.QueryRowContext(f.tx.ctx, "PRAGMA page_count").Scan(&pages); err != nil {
		return
	}
	if free > keepPages && free > pages/3 {
		rows, err := f.conn.QueryContext(f.tx.ctx, fmt.Sprintf("PRAGMA incremental_vacuum(%d)", min(free-keepPages, tidyPages)))
		if err != nil {
			return
		}
		for rows.Next() { // a step frees a page
		}
		_ = rows.Err()
		_ = rows.Close()
	}
}

// errDamaged marks a file whose structure does not hold together.
var errDamaged = errors.New("the file is damaged")

// load checks the file (0.7 s for a million messages) and reads everything. What belongs to no session any more is cleared.
func (f *file) load(ctx context.Context) (Contents, error) {
	var verdict string
	if err := f.conn.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&verdict); err != nil {
		return Contents{}, err
	}
	if verdict != "ok" {
		return Contents{}, fmt.Errorf("%w: %s", errDamaged, verdict)
	}
	for _, s := range []string{
		`DELETE FROM subscription WHERE session NOT IN (SELECT number FROM session)`,
		`DELETE FROM queued WHERE session NOT IN (SELECT number FROM session)`,
	} {
		if _, err := f.conn.ExecContext(ctx, s); err != nil {
			return Contents{}, err
		}
	}
	var c Contents
	err := c.read(ctx, f.conn, "", errStop)
	return c, err
}
