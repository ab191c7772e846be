package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/farebeat/farebeat/fleet/console/audit"
	"github.com/farebeat/farebeat/fleet/enrol"
	"github.com/farebeat/farebeat/topics"
)

func identitySchema() []string {
	return []string{
		// der is what the authority signed. A row is never deleted; that it was revoked is added to it.
		`CREATE TABLE identity_certificate (
			serial TEXT PRIMARY KEY, role TEXT NOT NULL, name TEXT NOT NULL, device_key TEXT NOT NULL,
			issued_ms INTEGER NOT NULL, not_after_ms INTEGER NOT NULL, permitted_by TEXT NOT NULL, how TEXT NOT NULL,
			replaces TEXT NOT NULL, vehicle TEXT NOT NULL, epoch INTEGER NOT NULL,
			revoked_ms INTEGER NOT NULL, revoked_by TEXT NOT NULL, why TEXT NOT NULL, der BLOB NOT NULL) WITHOUT ROWID`,
		`CREATE INDEX identity_certificate_by_identity ON identity_certificate (role, name, issued_ms)`,
		`CREATE INDEX identity_certificate_revoked ON identity_certificate (not_after_ms) WHERE revoked_ms > 0`,
		// code is the SHA-256 of a random code, which stands nowhere here; empty: an admission of device_key.
		`CREATE TABLE identity_permit (
			id TEXT PRIMARY KEY, code BLOB NOT NULL, role TEXT NOT NULL, name TEXT NOT NULL, vehicle TEXT NOT NULL, replacing INTEGER NOT NULL,
			made_ms INTEGER NOT NULL, made_by TEXT NOT NULL, expires_ms INTEGER NOT NULL,
			device_key TEXT NOT NULL, used_ms INTEGER NOT NULL, serial TEXT NOT NULL, withdrawn INTEGER NOT NULL) WITHOUT ROWID`,
		`CREATE UNIQUE INDEX identity_permit_by_code ON identity_permit (code) WHERE code <> x''`,
		`CREATE INDEX identity_permit_by_key ON identity_permit (device_key)`,
		`CREATE INDEX identity_permit_by_identity ON identity_permit (role, name)`,
		`CREATE TABLE identity_revocation (role TEXT NOT NULL, name TEXT NOT NULL, at_ms INTEGER NOT NULL, PRIMARY KEY (role, name)) WITHOUT ROWID`,
		`CREATE TABLE identity_waiting (
			device_key TEXT PRIMARY KEY, role TEXT NOT NULL, name TEXT NOT NULL, remote TEXT NOT NULL,
			first_ms INTEGER NOT NULL, last_ms INTEGER NOT NULL, times INTEGER NOT NULL, dismissed_ms INTEGER NOT NULL) WITHOUT ROWID`,
	}
}

// Identities is the part of the store that keeps the register of certificates, and who may have one.
func (s *Store) Identities() enrol.Store { return identityStore{s} }

type identityStore struct{ s *Store }

// Update implements enrol.Store.
func (l identityStore) Update(ctx context.Context, fn func(enrol.Tx) error) error {
	return wrap("save identities", l.s.update(ctx, func(t *tx) error { return fn(identityTx{identityView{&t.querier}, t}) }))
}

// View implements enrol.Store.
func (l identityStore) View(ctx context.Context, fn func(enrol.View) error) error {
	return wrap("read identities", l.s.view(ctx, func(q *querier) error { return fn(identityView{q}) }))
}

type identityView struct{ q *querier }

const selectPermit = `SELECT id, code, role, name, vehicle, replacing, made_ms, made_by, expires_ms, device_key, used_ms, serial, withdrawn FROM identity_permit `

func scanPermit(scan func(...any) error) (enrol.Permit, error) {
	var p enrol.Permit
	var code []byte
	var made, expires, used int64
	err := scan(&p.ID, &code, (*string)(&p.Role), &p.Name, &p.Vehicle, &p.Replace, &made, &p.By, &expires, &p.Key, &used, &p.Serial, &p.Withdrawn)
	if err == nil && len(code) != 0 && len(code) != len(p.Code) {
		err = fmt.Errorf("permit %s: a hash of %d bytes: the file was changed by hand", p.ID, len(code))
	}
	copy(p.Code[:], code)
	p.MadeAt, p.ExpiresAt, p.UsedAt = fromMillis(made), fromMillis(expires), fromMillis(used)
	return p, err
}

func (v identityView) permits(query string, args ...any) (out []enrol.Permit, err error) {
	err = v.q.rows(selectPermit+query, args, func(scan func(...any) error) error {
		p, err := scanPermit(scan)
		out = append(out, p)
		return err
	})
	return out, err
}

// first is the only or first of a list, nil if it is empty.
func first[T any](list []T, err error) (*T, error) {
	if err != nil || len(list) == 0 {
		return nil, err
	}
	return &list[0], nil
}

// Permit implements enrol.View.
func (v identityView) Permit(code [sha256.Size]byte) (*enrol.Permit, error) {
	return first(v.permits(`WHERE code = ? AND code <> x''`, code[:]))
}

// PermitOfKey implements enrol.View.
func (v identityView) PermitOfKey(key string) (*enrol.Permit, error) {
	return first(v.permits(`WHERE device_key = ? AND code = x'' ORDER BY made_ms DESC, id LIMIT 1`, key))
}

// Permits implements enrol.View.
func (v identityView) Permits(of topics.Identity) ([]enrol.Permit, error) {
	if of.Role == "" {
		return v.permits(`ORDER BY made_ms DESC, id`)
	}
	return v.permits(`WHERE role = ? AND name = ? ORDER BY made_ms DESC, id`, string(of.Role), of.Name)
}

const certificateFields = `serial, role, name, device_key, issued_ms, not_after_ms, permitted_by, how, replaces, vehicle, epoch, revoked_ms, revoked_by, why`

func (v identityView) certificates(query string, args []any, each func(enrol.Certificate)) error {
	return v.q.rows(`SELECT `+certificateFields+` FROM identity_certificate `+query, args, func(scan func(...any) error) error {
		var c enrol.Certificate
		err := scanCertificate(scan, &c)
		if err == nil {
			each(c)
		}
		return err
	})
}

func scanCertificate(scan func(...any) error, c *enrol.Certificate, more ...any) error {
	var issued, after, revoked int64
	err := scan(append([]any{
		&c.Serial, (*string)(&c.Role), &c.Name, &c.Key, &issued, &after, &c.By, &c.How, &c.Replaces, &c.Vehicle, &c.Epoch, &revoked, &c.RevokedBy, &c.Why,
	}, more...)...)
	c.IssuedAt, c.NotAfter, c.RevokedAt = fromMillis(issued), fromMillis(after), fromMillis(revoked)
	return err
}

// Certificate implements enrol.View.
func (v identityView) Certificate(serial string) (*enrol.Certificate, error) {
	var c enrol.Certificate
	err := scanCertificate(func(dest ...any) error {
		return v.q.row(`SELECT `+certificateFields+`, der FROM identity_certificate WHERE serial = ?`, []any{serial}, dest...)
	}, &c, &c.DER)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return &c, err
}

// Certificates implements enrol.View.
func (v identityView) Certificates(of topics.Identity) (out []enrol.Certificate, err error) {
	query, args := `WHERE role = ? AND name = ? ORDER BY issued_ms DESC, serial`, []any{string(of.Role), of.Name}
	if of.Role == "" {
		query, args = `ORDER BY role, name, issued_ms DESC, serial`, nil
	}
	err = v.certificates(query, args, func(c enrol.Certificate) { out = append(out, c) })
	return out, err
}

// Revoked implements enrol.View.
func (v identityView) Revoked(now time.Time, each func(enrol.Certificate)) error {
	return v.certificates(`WHERE revoked_ms > 0 AND not_after_ms > ?`, []any{now.UnixMilli()}, each)
}

// Latest implements enrol.View.
func (v identityView) Latest(each func(enrol.Certificate)) error {
	var last enrol.Certificate
	return v.certificates(`WHERE revoked_ms = 0 ORDER BY role, name, not_after_ms DESC`, nil, func(c enrol.Certificate) {
		if c.Role != last.Role || c.Name != last.Name {
			each(c)
		}
		last = c
	})
}

// Revocations implements enrol.View.
func (v identityView) Revocations() (out []enrol.Revocation, err error) {
	err = v.q.rows(`SELECT role, name, at_ms FROM identity_revocation ORDER BY role, name`, nil, func(scan func(...any) error) error {
		var r enrol.Revocation
		var at int64
		err := scan((*string)(&r.Role), &r.Name, &at)
		r.At = fromMillis(at)
		out = append(out, r)
		return err
	})
	return out, err
}

func (v identityView) waiting(query string, args ...any) (out []enrol.Waiting, err error) {
	err = v.q.rows(`SELECT device_key, role, name, remote, first_ms, last_ms, times, dismissed_ms FROM identity_waiting `+query, args, func(scan func(...any) error) error {
		var w enrol.Waiting
		var begin, end, dismissed int64
		err := scan(&w.Key, &w.Role, &w.Name, &w.Remote, &begin, &end, &w.Times, &dismissed)
		w.FirstAt, w.LastAt, w.DismissedAt = fromMillis(begin), fromMillis(end), fromMillis(dismissed)
		out = append(out, w)
		return err
	})
	return out, err
}

// Waiting implements enrol.View.
func (v identityView) Waiting(key string) (*enrol.Waiting, error) {
	return first(v.waiting(`WHERE device_key = ?`, key))
}

// AllWaiting implements enrol.View.
func (v identityView) AllWaiting() ([]enrol.Waiting, error) {
	return v.waiting(`ORDER BY last_ms DESC, device_key`)
}

type identityTx struct {
	identityView
	t *tx
}

// PutPermit implements enrol.Tx.
func (l identityTx) PutPermit(p enrol.Permit) error {
	code := []byte{}
	if p.HasCode() {
		code = p.Code[:]
	}
	return l.t.exec(`INSERT INTO identity_permit (id, code, role, name, vehicle, replacing, made_ms, made_by, expires_ms, device_key, used_ms, serial, withdrawn)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (id) DO UPDATE SET device_key = excluded.device_key, used_ms = excluded.used_ms, serial = excluded.serial, withdrawn = excluded.withdrawn`,
		p.ID, code, string(p.Role), p.Name, p.Vehicle, p.Replace, millis(p.MadeAt), p.By, millis(p.ExpiresAt), p.Key, millis(p.UsedAt), p.Serial, p.Withdrawn)
}

// PutCertificate implements enrol.Tx.
func (l identityTx) PutCertificate(c enrol.Certificate) error {
	der := c.DER
	if der == nil {
		der = []byte{}
	}
	return l.t.exec(`INSERT INTO identity_certificate (`+certificateFields+`, der) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (serial) DO UPDATE SET revoked_ms = excluded.revoked_ms, revoked_by = excluded.revoked_by, why = excluded.why`,
		c.Serial, string(c.Role), c.Name, c.Key, millis(c.IssuedAt), millis(c.NotAfter), c.By, c.How, c.Replaces, c.Vehicle, int64(c.Epoch),
		millis(c.RevokedAt), c.RevokedBy, c.Why, der)
}

// PutRevocation implements enrol.Tx.
func (l identityTx) PutRevocation(r enrol.Revocation) error {
	return l.t.exec(`INSERT INTO identity_revocation (role, name, at_ms) VALUES (?, ?, ?)
		ON CONFLICT (role, name) DO UPDATE SET at_ms = max(at_ms, excluded.at_ms)`, string(r.Role), r.Name, millis(r.At))
}

// PutWaiting implements enrol.Tx.
func (l identityTx) PutWaiting(w enrol.Waiting) error {
	return l.t.exec(`INSERT INTO identity_waiting (device_key, role, name, remote, first_ms, last_ms, times, dismissed_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (device_key) DO UPDATE SET role = excluded.role, name = excluded.name, remote = excluded.remote,
		last_ms = excluded.last_ms, times = excluded.times, dismissed_ms = excluded.dismissed_ms`,
		w.Key, w.Role, w.Name, w.Remote, millis(w.FirstAt), millis(w.LastAt), w.Times, millis(w.DismissedAt))
}

// RemoveWaiting implements enrol.Tx.
func (l identityTx) RemoveWaiting(key string) error {
	return l.t.exec(`DELETE FROM identity_waiting WHERE device_key = ?`, key)
}

// Audit implements enrol.Tx.
func (l identityTx) Audit(e audit.Entry) error { return appendAudit(l.t, e) }

// voidPermits is for a file that may have permits which were used or withdrawn since it was copied.
func voidPermits(t *tx) error { return t.exec(`UPDATE identity_permit SET withdrawn = 1`) }
