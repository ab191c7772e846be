package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// applicationID marks the file as Farebeat's ("FBT1") in the header that SQLite keeps for
// this purpose.
const applicationID = 0x46425431

// migration brings the file from the version before it to version. A migration that was
// released is never changed; a new one is added after it.
type migration struct {
	version    int
	name       string
	statements []string
}

// migrations lists all of them, oldest first. The statements keep to SQL that PostgreSQL
// has too, but for WITHOUT ROWID and the type BLOB.
func migrations() []migration {
	return []migration{
		{1, "ledger", ledgerSchema()},
		{2, "counts, faults, roster", fleetSchema()},
		{3, "day certificates", certificateSchema()},
		{4, "tickets", ticketSchema()},
		{5, "notify", notifySchema()},
		{6, "series", seriesSchema()},
		{7, "console", consoleSchema()},
		{8, "identities", identitySchema()},
	}
}

func ledgerSchema() []string {
	return []string{
		// id grows in the order of commits (nothing is ever deleted here), so that an exporter
		// can follow behind a cursor.
		`CREATE TABLE ledger_record (
			id INTEGER PRIMARY KEY,
			machine TEXT NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL,
			service_date TEXT NOT NULL, event_ms INTEGER NOT NULL,
			amount_minor INTEGER NOT NULL, currency TEXT NOT NULL,
			vehicle TEXT NOT NULL, received_ms INTEGER NOT NULL,
			record BLOB NOT NULL,
			UNIQUE (machine, epoch, seq))`,
		// What ledger_record holds, as intervals that neither overlap nor touch.
		`CREATE TABLE ledger_span (
			machine TEXT NOT NULL, epoch INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
			PRIMARY KEY (machine, epoch, first)) WITHOUT ROWID`,
		`CREATE TABLE ledger_day (
			machine TEXT NOT NULL, service_date TEXT NOT NULL, epoch INTEGER NOT NULL, currency TEXT NOT NULL,
			first INTEGER NOT NULL, last INTEGER NOT NULL, records INTEGER NOT NULL, sum_minor INTEGER NOT NULL,
			PRIMARY KEY (machine, service_date, epoch, currency)) WITHOUT ROWID`,
		`CREATE INDEX ledger_day_by_date ON ledger_day (service_date)`,
		`CREATE TABLE ledger_quarantine (
			id INTEGER PRIMARY KEY,
			machine TEXT NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL,
			kind TEXT NOT NULL, hash BLOB NOT NULL,
			record BLOB NOT NULL, held BLOB, detail TEXT NOT NULL, vehicle TEXT NOT NULL,
			first_ms INTEGER NOT NULL, last_ms INTEGER NOT NULL, times INTEGER NOT NULL,
			UNIQUE (machine, epoch, seq, kind, hash))`,
		`CREATE INDEX ledger_quarantine_by_vehicle ON ledger_quarantine (vehicle, kind)`,
	}
}

func fleetSchema() []string {
	return []string{
		`CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID`,
		`CREATE TABLE count_route (number INTEGER PRIMARY KEY, route TEXT NOT NULL UNIQUE)`,
		`CREATE TABLE count_frame (at_s INTEGER PRIMARY KEY, blind INTEGER NOT NULL, points BLOB NOT NULL)`,
		`CREATE TABLE count_hour (
			start_s INTEGER NOT NULL, route TEXT NOT NULL,
			length_ns INTEGER NOT NULL, heard_ns INTEGER NOT NULL, online_ns INTEGER NOT NULL,
			machines INTEGER NOT NULL, peak INTEGER NOT NULL, lowest INTEGER NOT NULL,
			p10 INTEGER NOT NULL, p50 INTEGER NOT NULL, p90 INTEGER NOT NULL,
			PRIMARY KEY (start_s, route)) WITHOUT ROWID`,
		`CREATE INDEX count_hour_by_route ON count_hour (route, start_s)`,
		// body is the fault as JSON; the other columns are for finding it.
		`CREATE TABLE fault (
			id TEXT PRIMARY KEY, revision INTEGER NOT NULL, opened_ns INTEGER NOT NULL, closed_ns INTEGER,
			condition TEXT NOT NULL, attention TEXT NOT NULL, kind TEXT NOT NULL,
			machine TEXT NOT NULL, route TEXT NOT NULL, machine_route TEXT NOT NULL, vehicle TEXT NOT NULL,
			body BLOB NOT NULL) WITHOUT ROWID`,
		`CREATE INDEX fault_by_opening ON fault (opened_ns DESC, id DESC)`,
		`CREATE INDEX fault_not_ended ON fault (id) WHERE closed_ns IS NULL`,
		`CREATE INDEX fault_by_machine ON fault (machine, opened_ns DESC)`,
		`CREATE TABLE fault_event (
			fault TEXT NOT NULL, number INTEGER NOT NULL, body BLOB NOT NULL,
			PRIMARY KEY (fault, number)) WITHOUT ROWID`,
		// The whole roster is written at once, so it is cut in parts, not in machines.
		`CREATE TABLE roster (part INTEGER PRIMARY KEY, body BLOB NOT NULL)`,
	}
}

func certificateSchema() []string {
	return []string{
		// body is the certificate as it was signed. A row is never changed; what is known later is a new revision.
		`CREATE TABLE ledger_certificate (
			service_date TEXT NOT NULL, machine TEXT NOT NULL, revision INTEGER NOT NULL,
			issued_ms INTEGER NOT NULL, complete INTEGER NOT NULL, records INTEGER NOT NULL, body BLOB NOT NULL,
			PRIMARY KEY (service_date, machine, revision)) WITHOUT ROWID`,
	}
}

func ticketSchema() []string {
	return []string{
		// sealed is only what the machine's key opens: no secret stands here in clear. It is empty in a ticket that was withdrawn.
		`CREATE TABLE ticket (
			machine TEXT NOT NULL, vehicle TEXT NOT NULL, counter INTEGER NOT NULL,
			issued_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL, reason TEXT NOT NULL, sealed BLOB NOT NULL,
			fault INTEGER NOT NULL, farewell_ms INTEGER NOT NULL, command_ms INTEGER NOT NULL,
			PRIMARY KEY (machine, vehicle)) WITHOUT ROWID`,
		// Who revoked and restored the tickets of which vehicle. A row is never changed.
		`CREATE TABLE ticket_order (
			number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, action TEXT NOT NULL, vehicle TEXT NOT NULL,
			at_ms INTEGER NOT NULL, given_by TEXT NOT NULL, reason TEXT NOT NULL)`,
	}
}

func seriesSchema() []string {
	return []string{
		// The order in which counts were saved, so that an exporter can follow behind a cursor.
		`CREATE TABLE series_change (n INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, at_s INTEGER NOT NULL)`,
		`INSERT INTO series_change (kind, at_s) SELECT 'frame', at_s FROM count_frame ORDER BY at_s`,
		`INSERT INTO series_change (kind, at_s) SELECT DISTINCT 'hour', start_s FROM count_hour ORDER BY start_s`,
		`CREATE TABLE series_aside (n INTEGER PRIMARY KEY, sink TEXT NOT NULL, at_s INTEGER NOT NULL, line TEXT NOT NULL, reason TEXT NOT NULL)`,
	}
}

func notifySchema() []string {
	return []string{
		// The order in which fault events were saved, over all faults. n grows and is never given twice, so that a channel
		// can follow behind a cursor. The other columns are of the fault as it was then, and change in its life.
		`CREATE TABLE fault_order (
			n INTEGER PRIMARY KEY AUTOINCREMENT, fault TEXT NOT NULL, number INTEGER NOT NULL,
			vehicle TEXT NOT NULL, machine_route TEXT NOT NULL,
			UNIQUE (fault, number))`,
		// Of older events only the order within a fault is known.
		`INSERT INTO fault_order (fault, number, vehicle, machine_route)
			SELECT e.fault, e.number, f.vehicle, f.machine_route
			FROM fault_event e JOIN fault f ON f.id = e.fault ORDER BY f.opened_ns, e.fault, e.number`,
	}
}

func consoleSchema() []string {
	return []string{
		// What people did at the console. A row is never changed nor deleted, and no number is given twice.
		`CREATE TABLE console_audit (
			n INTEGER PRIMARY KEY AUTOINCREMENT, at_ms INTEGER NOT NULL, who TEXT NOT NULL, role TEXT NOT NULL, via TEXT NOT NULL,
			action TEXT NOT NULL, subject TEXT NOT NULL, detail TEXT NOT NULL, outcome TEXT NOT NULL, remote TEXT NOT NULL)`,
		`CREATE INDEX console_audit_by_time ON console_audit (at_ms)`,
		`CREATE INDEX console_audit_by_who ON console_audit (who, n)`,
		`CREATE INDEX console_audit_by_action ON console_audit (action, n)`,
		// Sessions and API tokens. hash is the SHA-256 of a random secret, which stands nowhere here.
		`CREATE TABLE console_pass (
			id TEXT PRIMARY KEY, kind TEXT NOT NULL, hash BLOB NOT NULL UNIQUE, who TEXT NOT NULL, role TEXT NOT NULL, via TEXT NOT NULL,
			label TEXT NOT NULL, remote TEXT NOT NULL, made_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL, used_ms INTEGER NOT NULL) WITHOUT ROWID`,
	}
}

// migrate brings the file up to date, each migration in a transaction of its own, so that a
// kill between two of them leaves a version that the next start goes on from.
func migrate(ctx context.Context, db *sql.DB, now time.Time) error {
	if err := claim(ctx, db); err != nil {
		return err
	}
	have, err := version(ctx, db)
	if err != nil {
		return err
	}
	all := migrations()
	if newest := all[len(all)-1].version; have > newest {
		return tooNew(have, newest)
	}
	for _, m := range all {
		if m.version <= have {
			continue
		}
		if err := m.apply(ctx, db, now); err != nil {
			return fmt.Errorf("migration %d (%s): %w", m.version, m.name, err)
		}
	}
	return nil
}

func tooNew(have, newest int) error {
	return fmt.Errorf("%w: it has version %d, this program knows up to %d; update the program", ErrNewer, have, newest)
}

// claim marks an empty file as ours and refuses one that is something else.
func claim(ctx context.Context, db *sql.DB) error {
	id, tables, err := identify(ctx, db)
	if err != nil {
		return err
	}
	if id == applicationID {
		return nil
	}
	if id != 0 || tables != 0 {
		return fmt.Errorf("%w: it is another program's database; choose another path", ErrForeign)
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // after Commit it only says so
	for _, s := range []string{
		fmt.Sprintf("PRAGMA application_id = %d", applicationID),
		`CREATE TABLE schema_migration (version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_ms INTEGER NOT NULL)`,
	} {
		if _, err := tx.ExecContext(ctx, s); err != nil {
			return err
		}
	}
	return tx.Commit()
}

func identify(ctx context.Context, db *sql.DB) (id, tables int, err error) {
	if err := db.QueryRowContext(ctx, "PRAGMA application_id").Scan(&id); err != nil {
		return 0, 0, notADatabase(err)
	}
	err = db.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_master").Scan(&tables)
	return id, tables, notADatabase(err)
}

func notADatabase(err error) error {
	if isCode(err, notADB) {
		return fmt.Errorf("%w: %w", ErrForeign, err)
	}
	return explain(err)
}

func version(ctx context.Context, db *sql.DB) (int, error) {
	var v int
	err := db.QueryRowContext(ctx, "SELECT coalesce(max(version), 0) FROM schema_migration").Scan(&v)
	return v, explain(err)
}

func (m migration) apply(ctx context.Context, db *sql.DB, now time.Time) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // after Commit it only says so
	for _, s := range m.statements {
		if _, err := tx.ExecContext(ctx, s); err != nil {
			return err
		}
	}
	if _, err := tx.ExecContext(ctx, "INSERT INTO schema_migration (version, name, applied_ms) VALUES (?, ?, ?)",
		m.version, m.name, now.UnixMilli()); err != nil {
		return err
	}
	return tx.Commit()
}

// checkVersion is what a reader does in place of migrate.
func checkVersion(ctx context.Context, db *sql.DB) error {
	id, _, err := identify(ctx, db)
	if err != nil {
		return err
	}
	if id != applicationID {
		return fmt.Errorf("%w: it is another program's database, or an empty file", ErrForeign)
	}
	have, err := version(ctx, db)
	if err != nil {
		return err
	}
	all := migrations()
	switch newest := all[len(all)-1].version; {
	case have > newest:
		return tooNew(have, newest)
	case have < newest:
		return errors.New("it was written by an older version of this program; start the fleet service once to bring it up to date")
	}
	return nil
}
