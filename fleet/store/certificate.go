package store

import (
	"fmt"
	"time"

	"github.com/farebeat/farebeat/fleet/ledger"
)

const issuedColumns = `machine, service_date, revision, issued_ms, complete, records, body`

func scanIssued(scan func(...any) error) (ledger.Issued, error) {
	var c ledger.Issued
	var at int64
	err := scan(&c.Machine, &c.ServiceDate, &c.Revision, &at, &c.Complete, &c.Records, &c.Body)
	c.IssuedAt = time.UnixMilli(at).UTC()
	return c, err
}

// Issued implements ledger.View.
func (v ledgerView) Issued(machine, date string) (newest *ledger.Issued, err error) {
	err = v.q.rows(`SELECT `+issuedColumns+` FROM ledger_certificate
		WHERE service_date = ? AND machine = ? ORDER BY revision DESC LIMIT 1`, []any{date, machine}, func(scan func(...any) error) error {
		c, err := scanIssued(scan)
		newest = &c
		return err
	})
	return newest, wrap("read certificate", err)
}

// EachIssued implements ledger.View.
func (v ledgerView) EachIssued(machine, from, to string, each func(ledger.Issued) error) error {
	query, args := `SELECT `+issuedColumns+` FROM ledger_certificate WHERE service_date >= ? AND service_date <= ?`, []any{from, lastDate(to)}
	if machine != "" {
		query, args = query+` AND machine = ?`, append(args, machine)
	}
	return wrap("read certificates", v.q.rows(query+` ORDER BY service_date, machine, revision`, args, func(scan func(...any) error) error {
		c, err := scanIssued(scan)
		if err != nil {
			return err
		}
		return each(c)
	}))
}

// lastDate is a bound that no service day is after, where to is empty.
func lastDate(to string) string {
	if to == "" {
		return "9999-99-99"
	}
	return to
}

// ToIssue implements ledger.View.
func (v ledgerView) ToIssue(date string) ([]string, error) {
	var out []string
	err := v.q.rows(`SELECT d.machine
		FROM (SELECT machine, sum(records) AS records FROM ledger_day WHERE service_date = ? GROUP BY machine) d
		LEFT JOIN ledger_certificate c ON c.service_date = ? AND c.machine = d.machine AND c.revision =
			(SELECT max(n.revision) FROM ledger_certificate n WHERE n.service_date = ? AND n.machine = d.machine)
		WHERE c.revision IS NULL OR c.complete = 0 OR c.records <> d.records
			OR EXISTS (SELECT 1 FROM ledger_quarantine q WHERE q.machine = d.machine AND q.first_ms > c.issued_ms)
		ORDER BY d.machine`, []any{date, date, date}, func(scan func(...any) error) error {
		var machine string
		err := scan(&machine)
		out = append(out, machine)
		return err
	})
	return out, wrap("list what is to be certified", err)
}

// Issue implements ledger.Tx.
func (l ledgerTx) Issue(c ledger.Issued) error {
	err := l.t.exec(`INSERT INTO ledger_certificate (`+issuedColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?)`,
		c.Machine, c.ServiceDate, c.Revision, c.IssuedAt.UnixMilli(), c.Complete, int64(c.Records), c.Body)
	if err != nil {
		return fmt.Errorf("keep revision %d of the certificate of machine %q, service day %s: %w", c.Revision, c.Machine, c.ServiceDate, err)
	}
	return nil
}
