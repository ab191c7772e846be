package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/farebeat/farebeat/fleet/console/access"
	"github.com/farebeat/farebeat/fleet/console/audit"
	"github.com/farebeat/farebeat/fleet/counts"
	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/ledger"
	"github.com/farebeat/farebeat/fleet/ledger/ledgertest"
	"github.com/farebeat/farebeat/fleet/presence"
	"github.com/farebeat/farebeat/fleet/tickets"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/scripts/powercut"
)

// At every write, sync, truncation, creation and deletion of the fleet's day, its migrations and its closing included, the
// power fails, the disk fails, or the disk is full: what the ledger, the faults and the counts confirmed is there, byte for
// byte and once, and they go on without being opened again.
func TestNothingIsLostAtAnyOperation(t *testing.T) {
	d := newFleetDay(t)
	powercut.Prove(t, powercut.Subject[*Store]{
		Name: "fleet/store", Open: openForPower, Close: (*Store).Close, Steps: d.steps(), Dump: d.dump, Settle: settleFleet,
	})
}

func powerNow() time.Time { return ledgertest.Start().Add(20 * time.Hour) }

func openForPower(dir string) (*Store, error) {
	return Open(context.Background(), filepath.Join(dir, "fleet.db"), Options{Now: powerNow, Readers: 1})
}

// fleetDay is what two machines, two faults and a few routes do to the store.
type fleetDay struct {
	tb       testing.TB
	machines [2]*ledgertest.Machine
	clone    *ledgertest.Machine // mints other records under the first one's keys
	proved   sync.Map            // by dump
}

func newFleetDay(tb testing.TB) *fleetDay {
	d := &fleetDay{tb: tb, clone: ledgertest.New(tb, "m-0", "v-1", 1)}
	for i := range d.machines {
		d.machines[i] = ledgertest.New(tb, fmt.Sprint("m-", i), fmt.Sprint("v-", i), 1).Mint(12)
	}
	d.clone.Change = func(tx *schemas.Transaction) { tx.AmountMinor = 999 }
	d.clone.Mint(2)
	return d
}

func (d *fleetDay) ledger(s *Store) *ledger.Ledger {
	return ledger.New(s.Ledger(), ledgertest.Keys(d.tb), powerNow)
}

// dump reads back all tables, and proves every record, chain, span and sum of the ledger anew, once for the same tables.
func (d *fleetDay) dump(s *Store) (string, error) {
	ctx := context.Background()
	var out string
	err := s.view(ctx, func(q *querier) (err error) {
		out, err = powercut.Tables(func(query string, args ...any) (*sql.Rows, error) {
			stmt, err := q.stmt(query)
			if err != nil {
				return nil, err
			}
			return stmt.QueryContext(ctx, args...)
		})
		return err
	})
	if err != nil {
		return "", err
	}
	if _, before := d.proved.LoadOrStore(out, true); before {
		return out, nil
	}
	proof, err := d.ledger(s).Verify(ctx, ledger.Filter{}, nil)
	if err == nil && !proof.OK() {
		err = fmt.Errorf("the ledger is not proved: %+v", proof.Findings)
	}
	return out, err
}

// settleFleet leaves out how often evidence came, how often it is told that counts were saved and that somebody did one thing, and the
// number that was given out last: one that was not confirmed is never given again.
func settleFleet(dump string) string {
	var out []string
	told := map[string]bool{}
	for line := range strings.Lines(dump) {
		switch fields := strings.Split(line, "|"); {
		case fields[0] == "ledger_quarantine":
			line = strings.Join(fields[:len(fields)-1], "|") + "\n"
		case fields[0] == "series_change" || fields[0] == "console_audit":
			line = strings.Join(slices.Delete(fields, 1, 2), "|")
			if told[line] {
				continue
			}
			told[line] = true
		case strings.HasPrefix(line, "meta|next."):
			continue
		}
		out = append(out, line)
	}
	return strings.Join(out, "")
}

type fleetStep = powercut.Step[*Store]

// step does one thing, with checkpoints so close to each other that there are several in a day.
func step(name string, do func(ctx context.Context, s *Store) error) fleetStep {
	return fleetStep{Name: name, Do: func(s *Store) error {
		ctx := context.Background()
		if err := s.update(ctx, func(t *tx) error { return t.exec(`PRAGMA wal_autocheckpoint = 20`) }); err != nil {
			return err
		}
		return do(ctx, s)
	}}
}

func (d *fleetDay) batch(m *ledgertest.Machine, first, last uint32) fleetStep {
	slot, payload := m.Batch(first, last)
	return step(fmt.Sprintf("batch %s %d-%d", m.ID, first, last), func(ctx context.Context, s *Store) error {
		_, err := d.ledger(s).Ingest(ctx, slot, payload)
		return err
	})
}

func (d *fleetDay) steps() []fleetStep {
	a, b := d.machines[0], d.machines[1]
	return []fleetStep{
		d.batch(a, 1, 5), saveFault("opened", 1), d.batch(b, 1, 3), saveFrame(0), d.batch(a, 4, 7), d.batch(a, 10, 12), d.batch(d.clone, 1, 2),
		saveFault("closed", 2),
		{Name: "reopen"},
		count(), d.batch(a, 8, 9), certificate(), audited("sign_in"), addPass("s"), addPass("t"), saveTicket(7), giveOrder(), saveTicket(8), saveHours(), roster(), saveFrame(5), prune(),
		touchPass("s"), removePass("t"), audited("sign_out"), d.batch(a, 1, 12),
	}
}

func saveFault(change string, revision uint64) fleetStep {
	return step("fault "+change, func(ctx context.Context, s *Store) error {
		var changes []faults.Change
		for _, id := range []string{"F-1", "F-2"} {
			f := faults.Fault{
				ID: id, Revision: revision, Subject: faults.Subject{Machine: "m-" + id}, Kind: faults.MachineSilent, Severity: schemas.Major,
				Condition: schemas.Open, OpenedAt: ledgertest.Start(), UpdatedAt: powerNow(), Attention: faults.Attention{State: schemas.Unseen},
			}
			if change == "closed" {
				f.Condition, f.ClosedAt = schemas.Closed, powerNow()
			}
			changes = append(changes, faults.Change{Fault: f, Event: faults.Event{Fault: id, Number: revision, At: powerNow(), Change: change, Kind: f.Kind}})
		}
		return s.Faults().Save(ctx, changes...)
	})
}

func saveFrame(second int) fleetStep {
	return step("frame", func(ctx context.Context, s *Store) error {
		return s.Counts().SaveFrame(ctx, counts.Frame{At: ledgertest.Start().Add(time.Duration(second) * time.Second), Rows: []counts.RouteMinute{
			{Route: "36", Online: second, Min: second, Max: second, Known: 20}, {Route: fmt.Sprint("route ", second), Online: 1, Min: 1, Max: 1, Known: 1},
		}})
	})
}

func saveHours() fleetStep {
	return step("hours", func(ctx context.Context, s *Store) error {
		var rows []counts.HourRow
		for i := range 12 {
			rows = append(rows, counts.HourRow{Start: ledgertest.Start().Add(time.Duration(i/2) * time.Hour), Route: fmt.Sprint(i % 2), Length: time.Hour})
		}
		return s.Counts().SaveHours(ctx, rows)
	})
}

func prune() fleetStep {
	return step("prune", func(ctx context.Context, s *Store) error {
		_, err := s.Counts().Prune(ctx, ledgertest.Start().Add(4*time.Second), time.Time{})
		return err
	})
}

func count() fleetStep {
	return step("count", func(ctx context.Context, s *Store) error { _, err := s.Next(ctx, "session"); return err })
}

func roster() fleetStep {
	return step("roster", func(ctx context.Context, s *Store) error {
		var saved []presence.Saved
		for i := range 20 {
			saved = append(saved, presence.Saved{Machine: ledgertest.Name(i), State: schemas.Up, Since: ledgertest.Start(), Route: "36"})
		}
		return s.SaveRoster(ctx, saved, []byte("board"))
	})
}

func saveTicket(counter uint64) fleetStep {
	return step("ticket", func(ctx context.Context, s *Store) error {
		return s.Tickets().Save(ctx, tickets.Ticket{
			Pair: tickets.Pair{Machine: "m-0", Vehicle: "v-1"}, Counter: counter, IssuedAt: powerNow(), ExpiresAt: powerNow().Add(time.Hour),
			Reason: "F-1", Sealed: []byte("sealed"), Fault: true,
		})
	})
}

func giveOrder() fleetStep {
	return step("order", func(ctx context.Context, s *Store) error {
		return s.Tickets().Give(ctx, tickets.Order{ID: "o", Action: tickets.Revoke, Vehicle: "v-1", At: powerNow(), By: "anna", Reason: "stolen"})
	})
}

func certificate() fleetStep {
	return step("certificate", func(ctx context.Context, s *Store) error {
		return s.Ledger().Update(ctx, func(t ledger.Tx) error {
			const machine, date = "m-0", "2018-06-12"
			if before, err := t.Issued(machine, date); err != nil || before != nil {
				return err
			}
			return t.Issue(ledger.Issued{Machine: machine, ServiceDate: date, Revision: 1, IssuedAt: powerNow(), Records: 12, Body: []byte("signed")})
		})
	})
}

func audited(action string) fleetStep {
	return step("audit "+action, func(ctx context.Context, s *Store) error {
		return s.AuditLog().Append(ctx, audit.Entry{At: powerNow(), By: "anna", Role: "admin", Via: "password", Action: action, Outcome: audit.Done})
	})
}

// addPass gives nobody a second pass where the first was not confirmed and is there.
func addPass(id string) fleetStep {
	return step("add pass", func(ctx context.Context, s *Store) error {
		if _, err := s.Passes().Get(ctx, id); !errors.Is(err, access.ErrNoPass) {
			return err
		}
		return s.Passes().Add(ctx, access.Pass{
			ID: id, Kind: access.Session, Hash: access.Digest{id[0]}, Name: "anna", Role: access.Admin, Via: access.ViaPassword,
			MadeAt: powerNow(), ExpiresAt: powerNow().Add(time.Hour), UsedAt: powerNow(),
		})
	})
}

func touchPass(id string) fleetStep {
	return step("touch pass", func(ctx context.Context, s *Store) error {
		return s.Passes().Touch(ctx, id, powerNow().Add(time.Minute))
	})
}

func removePass(id string) fleetStep {
	return step("remove pass", func(ctx context.Context, s *Store) error {
		_, err := s.Passes().Remove(ctx, access.PassQuery{ID: id})
		return err
	})
}
