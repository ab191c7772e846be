package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync/atomic"

	"modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"
)

// request is one caller's write, waiting for the writer.
type request struct {
	do    func(*tx) error // may run more than once, each time from the same state
	state atomic.Int32
	err   error         // why nothing was written; set before done is closed
	done  chan struct{} // closed when the outcome is known
}

// States of a request.
const (
	waiting int32 = iota
	taken
	abandoned
)

// update runs do in the writer's transaction and returns nil once that is on disk. do may run
// again if another request of the same transaction fails, so it must only set what it sets
// anew each time. While the request waits, the end of ctx takes it back; once it was taken,
// update returns what truly happened.
func (s *Store) update(ctx context.Context, do func(*tx) error) error {
	if s.write == nil {
		return ErrReadOnly
	}
	if s.closed() {
		return ErrClosed
	}
	r := &request{do: do, done: make(chan struct{})}
	select {
	case s.requests <- r:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.quit:
		return ErrClosed
	}
	select {
	case <-r.done:
	case <-ctx.Done():
		if r.state.CompareAndSwap(waiting, abandoned) {
			return ctx.Err()
		}
		<-r.done
	}
	return r.err
}

// run is the writer: it owns the only connection that writes.
func (s *Store) run() {
	defer close(s.stopped)
	for {
		select {
		case r := <-s.requests:
			s.commit(s.writer, s.gather(r))
		case <-s.quit:
			return
		}
	}
}

// gather takes what waits together with first. Nobody is waited for: while one
// transaction reaches the disk the next group collects by itself.
func (s *Store) gather(first *request) []*request {
	group := []*request{first}
	for len(group) < s.opts.MaxGroup {
		select {
		case r := <-s.requests:
			group = append(group, r)
		default:
			return group
		}
	}
	return group
}

// commit writes the group in one transaction. If a request fails, all of it is undone and
// every request is run on its own, so that one caller's error stays with that caller.
func (s *Store) commit(w *writer, group []*request) {
	live := group[:0]
	for _, r := range group {
		if r.state.CompareAndSwap(waiting, taken) {
			live = append(live, r)
		}
	}
	if len(live) == 0 {
		return
	}
	start := s.opts.Now()
	err := w.transact(func(t *tx) error {
		for _, r := range live {
			if err := r.do(t); err != nil {
				return &requestError{err}
			}
		}
		return nil
	})
	s.stats.note(len(live), err, s.opts.Now().Sub(start))
	var own *requestError
	if errors.As(err, &own) && len(live) > 1 {
		for _, r := range live {
			s.alone(w, r)
		}
		return
	}
	for _, r := range live {
		r.finish(err)
	}
}

func (s *Store) alone(w *writer, r *request) {
	start := s.opts.Now()
	err := w.transact(func(t *tx) error {
		if err := r.do(t); err != nil {
			return &requestError{err}
		}
		return nil
	})
	s.stats.note(1, err, s.opts.Now().Sub(start))
	r.finish(err)
}

func (r *request) finish(err error) {
	var own *requestError
	if errors.As(err, &own) {
		err = own.err
	}
	r.err = explain(err)
	close(r.done)
}

// requestError marks an error that a request returned, as opposed to one of the transaction
// as a whole.
type requestError struct{ err error }

func (e *requestError) Error() string { return e.err.Error() }
func (e *requestError) Unwrap() error { return e.err }

// explain adds the way out to errors that an operator can do something about.
func explain(err error) error {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Code() & 0xff {
	case lib.SQLITE_FULL:
		return fmt.Errorf("the disk is full, nothing was written; free space and it goes on by itself: %w", err)
	case lib.SQLITE_IOERR:
		return fmt.Errorf("the disk failed, nothing was written; check it and its free space: %w", err)
	case lib.SQLITE_CORRUPT, lib.SQLITE_NOTADB:
		return fmt.Errorf("%w; stop and run farebeat repair, or restore the last backup: %w", ErrDamaged, err)
	}
	return err
}

// notADB is SQLite's code for a file that is no database.
const notADB = lib.SQLITE_NOTADB

// constraint is SQLite's code for a row that a table does not take.
const constraint = lib.SQLITE_CONSTRAINT

// isCode reports whether err is SQLite's, with this primary code.
func isCode(err error, code int) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && e.Code()&0xff == code
}

// writer is the connection that writes, with its prepared statements. One
// goroutine uses it.
type writer struct {
	ctx  context.Context // never ends: a write that began is finished
	db   *sql.DB
	conn *sql.Conn
	tx   *tx
}

func newWriter(ctx context.Context, db *sql.DB) (*writer, error) {
	w := &writer{ctx: ctx, db: db}
	return w, w.connect()
}

func (w *writer) connect() error {
	conn, err := w.db.Conn(w.ctx)
	if err != nil {
		return err
	}
	w.conn = conn
	w.tx = &tx{querier: querier{ctx: w.ctx, prepare: conn.PrepareContext, stmts: map[string]*sql.Stmt{}}}
	return nil
}

// stop closes the connection. It holds nothing that could be lost, since every transaction
// has ended.
func (w *writer) stop() {
	if w.conn == nil {
		return
	}
	w.tx.release()
	discard(w.conn)
	w.conn = nil
}

// fold brings what stands in the log into the file and empties the log, so that the file
// alone is whole. Where a reader of another process prevents it, the log stays and is good too.
func (w *writer) fold() error {
	if w.conn == nil {
		return nil
	}
	if err := w.tx.exec("PRAGMA busy_timeout = 1000"); err != nil { // nobody waits for long here
		return err
	}
	var busy, logged, folded int
	return w.tx.row("PRAGMA wal_checkpoint(TRUNCATE)", nil, &busy, &logged, &folded)
}

// transact runs fn between BEGIN and COMMIT. After an error nothing of it was written.
func (w *writer) transact(fn func(*tx) error) error {
	if w.conn == nil {
		if err := w.connect(); err != nil {
			return err
		}
	}
	if err := w.tx.exec("BEGIN IMMEDIATE"); err != nil {
		return w.giveUp(err)
	}
	if err := fn(w.tx); err != nil {
		return w.giveUp(err)
	}
	if err := w.tx.exec("COMMIT"); err != nil {
		return w.giveUp(err)
	}
	return nil
}

// giveUp undoes the transaction. SQLite has undone it already after some errors; where that
// cannot be told, the connection is dropped, which undoes it for certain.
func (w *writer) giveUp(cause error) error {
	if err := w.tx.exec("ROLLBACK"); err != nil {
		w.stop()
	}
	return cause
}
