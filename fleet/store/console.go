package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/farebeat/farebeat/fleet/console/access"
	"github.com/farebeat/farebeat/fleet/console/audit"
)

// AuditLog is the part of the store that keeps what people did at the console.
func (s *Store) AuditLog() audit.Log { return auditLog{s} }

type auditLog struct{ s *Store }

// Append implements audit.Log.
func (l auditLog) Append(ctx context.Context, e audit.Entry) error {
	return wrap("keep an audit entry", l.s.update(ctx, func(t *tx) error { return appendAudit(t, e) }))
}

func appendAudit(t *tx, e audit.Entry) error {
	e = e.Clean()
	if err := e.Validate(); err != nil {
		return err
	}
	return t.exec(`INSERT INTO console_audit (at_ms, who, role, via, action, subject, detail, outcome, remote) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		e.At.UnixMilli(), e.By, e.Role, e.Via, e.Action, e.Subject, e.Detail, e.Outcome, e.Remote)
}

// List implements audit.Log.
func (l auditLog) List(ctx context.Context, want audit.Query) ([]audit.Entry, error) {
	// The statement has only what is asked for, so that it uses the index for it.
	where, args := []string{"TRUE"}, []any(nil)
	narrow := func(asked bool, condition string, value any) {
		if asked {
			where, args = append(where, condition), append(args, value)
		}
	}
	narrow(want.Before > 0, "n < ?", want.Before)
	narrow(!want.From.IsZero(), "at_ms >= ?", ceilMillis(want.From))
	narrow(!want.To.IsZero(), "at_ms < ?", ceilMillis(want.To))
	narrow(want.By != "", "who = ?", want.By)
	narrow(want.Action != "", "action = ?", want.Action)
	query := `SELECT n, at_ms, who, role, via, action, subject, detail, outcome, remote FROM console_audit
		WHERE ` + strings.Join(where, " AND ") + ` ORDER BY n DESC LIMIT ?`
	var out []audit.Entry
	err := l.s.view(ctx, func(q *querier) error {
		out = nil
		return q.rows(query, append(args, want.Most()), func(scan func(...any) error) error {
			var e audit.Entry
			var at int64
			err := scan(&e.N, &at, &e.By, &e.Role, &e.Via, &e.Action, &e.Subject, &e.Detail, &e.Outcome, &e.Remote)
			e.At = time.UnixMilli(at).UTC()
			out = append(out, e)
			return err
		})
	})
	return out, wrap("read audit entries", err)
}

// ceilMillis is the first millisecond that is not before t.
func ceilMillis(t time.Time) int64 { return t.Add(time.Millisecond - 1).UnixMilli() }

// Passes is the part of the store that keeps the sessions and tokens of the console.
func (s *Store) Passes() access.Passes { return passStore{s} }

type passStore struct{ s *Store }

// Add implements access.Passes.
func (l passStore) Add(ctx context.Context, p access.Pass) error {
	return wrap("keep a "+string(p.Kind), l.s.update(ctx, func(t *tx) error {
		return t.exec(`INSERT INTO console_pass (id, kind, hash, who, role, via, label, remote, made_ms, expires_ms, used_ms)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`, p.ID, string(p.Kind), p.Hash[:], p.Name, string(p.Role), p.Via, p.Label, p.Remote,
			p.MadeAt.UnixMilli(), p.ExpiresAt.UnixMilli(), p.UsedAt.UnixMilli())
	}))
}

const selectPass = `SELECT id, kind, hash, who, role, via, label, remote, made_ms, expires_ms, used_ms FROM console_pass `

func scanPass(scan func(...any) error) (access.Pass, error) {
	var p access.Pass
	var hash []byte
	var made, expires, used int64
	err := scan(&p.ID, (*string)(&p.Kind), &hash, &p.Name, (*string)(&p.Role), &p.Via, &p.Label, &p.Remote, &made, &expires, &used)
	if err == nil && len(hash) != len(p.Hash) {
		err = fmt.Errorf("pass %s: a hash of %d bytes: the file was changed by hand", p.ID, len(hash))
	}
	copy(p.Hash[:], hash)
	p.MadeAt, p.ExpiresAt, p.UsedAt = time.UnixMilli(made).UTC(), time.UnixMilli(expires).UTC(), time.UnixMilli(used).UTC()
	return p, err
}

// Find implements access.Passes.
func (l passStore) Find(ctx context.Context, secret access.Digest) (access.Pass, error) {
	return l.one(ctx, selectPass+`WHERE hash = ?`, secret[:])
}

// Get implements access.Passes.
func (l passStore) Get(ctx context.Context, id string) (access.Pass, error) {
	return l.one(ctx, selectPass+`WHERE id = ?`, id)
}

func (l passStore) one(ctx context.Context, query string, arg any) (p access.Pass, err error) {
	err = l.s.view(ctx, func(q *querier) error {
		p, err = scanPass(func(dest ...any) error { return q.row(query, []any{arg}, dest...) })
		return err
	})
	if errors.Is(err, sql.ErrNoRows) {
		return access.Pass{}, access.ErrNoPass
	}
	return p, wrap("read a session or token", err)
}

const ofPasses = `WHERE (? = '' OR id = ?) AND (? = '' OR who = ?) AND (? = '' OR kind = ?)`

func passArgs(q access.PassQuery) []any {
	return []any{q.ID, q.ID, q.Name, q.Name, string(q.Kind), string(q.Kind)}
}

// List implements access.Passes.
func (l passStore) List(ctx context.Context, want access.PassQuery) ([]access.Pass, error) {
	var out []access.Pass
	err := l.s.view(ctx, func(q *querier) error {
		out = nil
		return q.rows(selectPass+ofPasses+` ORDER BY made_ms DESC, id`, passArgs(want), func(scan func(...any) error) error {
			p, err := scanPass(scan)
			out = append(out, p)
			return err
		})
	})
	return out, wrap("read sessions and tokens", err)
}

// Touch implements access.Passes.
func (l passStore) Touch(ctx context.Context, id string, at time.Time) error {
	return wrap("note that a session or token is used", l.s.update(ctx, func(t *tx) error {
		return t.exec(`UPDATE console_pass SET used_ms = ? WHERE id = ? AND used_ms < ?`, at.UnixMilli(), id, at.UnixMilli())
	}))
}

// Remove implements access.Passes.
func (l passStore) Remove(ctx context.Context, q access.PassQuery) (int, error) {
	return l.remove(ctx, `DELETE FROM console_pass `+ofPasses, passArgs(q)...)
}

// RemoveExpired implements access.Passes.
func (l passStore) RemoveExpired(ctx context.Context, now, idle time.Time) (int, error) {
	return l.remove(ctx, `DELETE FROM console_pass WHERE expires_ms <= ? OR kind = ? AND used_ms <= ?`,
		now.UnixMilli(), string(access.Session), idle.UnixMilli())
}

func (l passStore) remove(ctx context.Context, query string, args ...any) (int, error) {
	var n int64
	err := l.s.update(ctx, func(t *tx) (err error) {
		n, err = t.affect(query, args...)
		return err
	})
	return int(n), wrap("remove sessions and tokens", err)
}

// voidPasses is for a file that may have sessions and tokens which were ended or revoked since it was copied.
func voidPasses(t *tx) error { return t.exec(`DELETE FROM console_pass`) }
