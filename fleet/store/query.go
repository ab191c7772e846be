package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
)

// tx is the writer's transaction, as a request sees it.
type tx struct{ querier }

// exec runs a statement that gives no rows.
func (t *tx) exec(query string, args ...any) error {
	_, err := t.affect(query, args...)
	return err
}

// affect is exec that also tells how many rows changed.
func (t *tx) affect(query string, args ...any) (int64, error) {
	stmt, err := t.stmt(query)
	if err != nil {
		return 0, err
	}
	res, err := stmt.ExecContext(t.ctx, args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// querier reads, in the writer's transaction or in a reader's snapshot. Statements are
// prepared once.
type querier struct {
	ctx     context.Context
	prepare func(context.Context, string) (*sql.Stmt, error)
	stmts   map[string]*sql.Stmt
}

func (q *querier) stmt(query string) (*sql.Stmt, error) {
	if s, ok := q.stmts[query]; ok {
		return s, nil
	}
	s, err := q.prepare(q.ctx, query)
	if err != nil {
		return nil, err
	}
	q.stmts[query] = s
	return s, nil
}

func (q *querier) release() {
	for _, s := range q.stmts {
		_ = s.Close()
	}
	clear(q.stmts)
}

// row reads one row into dest; sql.ErrNoRows where there is none.
func (q *querier) row(query string, args []any, dest ...any) error {
	stmt, err := q.stmt(query)
	if err != nil {
		return err
	}
	return stmt.QueryRowContext(q.ctx, args...).Scan(dest...)
}

// rows calls each for every row until it fails. each scans with the function it is given.
func (q *querier) rows(query string, args []any, each func(scan func(...any) error) error) error {
	stmt, err := q.stmt(query)
	if err != nil {
		return err
	}
	rows, err := stmt.QueryContext(q.ctx, args...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		if err := each(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

// reader is a connection that reads, with its prepared statements: preparing one costs more than
// most of them take. It is connected when it is first used.
type reader struct {
	conn  *sql.Conn
	stmts map[string]*sql.Stmt
}

// view runs fn over one consistent snapshot. It waits until a reader is free, or ctx ends.
func (s *Store) view(ctx context.Context, fn func(*querier) error) error {
	var r *reader
	select {
	case r = <-s.readers:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.quit:
		return ErrClosed
	}
	defer func() { s.readers <- r }()
	if s.closed() { // both were ready
		return ErrClosed
	}
	return explain(r.view(ctx, s.read, fn))
}

func (r *reader) view(ctx context.Context, db *sql.DB, fn func(*querier) error) error {
	if r.conn == nil {
		conn, err := db.Conn(ctx)
		if err != nil {
			return err
		}
		r.conn, r.stmts = conn, map[string]*sql.Stmt{}
	}
	if _, err := r.conn.ExecContext(ctx, "BEGIN"); err != nil {
		r.drop()
		return err
	}
	err := fn(&querier{ctx: ctx, prepare: r.conn.PrepareContext, stmts: r.stmts})
	// Nothing was written, so that there is nothing to lose by it. It has to happen after ctx ended too.
	if _, end := r.conn.ExecContext(context.WithoutCancel(ctx), "ROLLBACK"); end != nil {
		r.drop()
	}
	return err
}

// drop closes the connection; the next use makes another.
func (r *reader) drop() {
	if r.conn == nil {
		return
	}
	for _, stmt := range r.stmts {
		_ = stmt.Close()
	}
	discard(r.conn)
	r.conn = nil
}

// discard closes a connection rather than giving it back to its pool.
func discard(conn *sql.Conn) {
	_ = conn.Raw(func(any) error { return driver.ErrBadConn })
	_ = conn.Close()
}
