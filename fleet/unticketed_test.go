package fleet

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/ledger"
	"github.com/farebeat/farebeat/fleet/ledger/ledgertest"
	"github.com/farebeat/farebeat/fleet/tickets"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
)

// says has a vehicle's gateway report that it read all of a machine.
func (d *depot) says(vehicle, machine, fault string) {
	d.t.Helper()
	payload, err := schemas.Encode(&schemas.Recovery{
		AsOf: milli(d.now), Machine: machine, Vehicle: vehicle, Fault: fault, State: schemas.RecoveryComplete, Epoch: 1, LastSeq: 5, Read: 5, Total: 5, Receipted: 5,
	})
	if err != nil {
		d.t.Fatal(err)
	}
	d.hears(topics.Address{Kind: topics.Recovery, Vehicle: vehicle, Machine: machine}, payload)
}

// hears brings a message of a recovery topic.
func (d *depot) hears(a topics.Address, payload []byte) {
	d.t.Helper()
	if err := d.onRecovery(d.t.Context(), a, payload); err != nil {
		d.t.Fatal(err)
	}
}

// faultOf is the open fault of a machine.
func (d *depot) faultOf(machine string) faults.Fault {
	d.t.Helper()
	for _, f := range d.engine.OpenFaults() {
		if f.Subject.Machine == machine {
			return f
		}
	}
	d.t.Fatalf("machine %s has no fault", machine)
	return faults.Fault{}
}

func (d *depot) recovery(machine string) *faults.Progress { return d.faultOf(machine).Machine.Recovery }

// A gateway that was never given a machine says that it read it all: that must not end the worry about what the machine holds.
func TestAReportWithoutATicketChangesNoFault(t *testing.T) {
	d := newDepot(t)
	d.live(time.Minute, "m1", "m2")
	d.live(3*time.Minute, "m1")
	fault := d.faultOf("m2")
	d.says("rogue", "m2", fault.ID)
	d.live(time.Minute, "m1")
	if after := d.faultOf("m2"); after.Machine.Recovery != nil || after.Condition != fault.Condition {
		t.Fatalf("the fault is %s with recovery %+v", after.Condition, after.Machine.Recovery)
	}
	if n := d.Stats().UnticketedReports.Load(); n != 1 || !strings.Contains(d.log.String(), "a gateway reports on a machine for which it never had a ticket") {
		t.Errorf("%d reports are counted; the log:\n%s", n, d.log.String())
	}
	d.says("vm2", "m2", fault.ID)
	d.live(5*time.Second, "m1")
	if r := d.recovery("m2"); r == nil || r.State != schemas.RecoveryComplete || d.Stats().UnticketedReports.Load() != 1 {
		t.Fatalf("what the gateway with the ticket says came to %+v", r)
	}
}

// A gateway whose vehicle had a ticket is heard after the ticket was withdrawn or revoked, and before the first round of a restart.
func TestAReportAfterTheTicketIsHeard(t *testing.T) {
	d := newDepot(t)
	d.live(time.Minute, "m1", "m2")
	d.live(3*time.Minute, "m1")
	d.mustHave("vm2", "m2")
	d.order(tickets.Revoke, "vm2")
	d.live(5*time.Second, "m1")
	d.restart()
	d.says("vm2", "m2", d.faultOf("m2").ID)
	d.live(5*time.Second, "m1")
	if r := d.recovery("m2"); r == nil || d.Stats().UnticketedReports.Load() != 0 {
		t.Errorf("%+v, %d reports are counted", r, d.Stats().UnticketedReports.Load())
	}
}

// A store that was restored forgot its tickets. The report that stands at the broker comes before the first round, and must not be lost.
func TestAReportWaitsForItsTicket(t *testing.T) {
	d := newDepot(t)
	d.live(time.Minute, "m1", "m2")
	d.live(3*time.Minute, "m1")
	fault := d.faultOf("m2")
	d.restart()
	clear(d.tickets.had)
	d.says("vm2", "m2", fault.ID)
	if n := d.Stats().UnticketedReports.Load(); n != 1 {
		t.Fatalf("%d reports wait", n)
	}
	d.live(10*time.Second, "m1")
	if r := d.recovery("m2"); r == nil || r.State != schemas.RecoveryComplete {
		t.Errorf("%+v after the first rounds", r)
	}
	// A command gives a machine into other hands, too.
	d.live(time.Minute, "m1")
	d.says("v9", "m2", fault.ID)
	d.live(5*time.Second, "m1")
	before := d.recovery("m2").AsOf
	d.command("v9", "m2", "c1", d.now.Add(time.Hour))
	d.settle()
	d.live(5*time.Second, "m1")
	if r := d.recovery("m2"); !r.AsOf.After(before) {
		t.Errorf("the recovery is as of %s still", r.AsOf)
	}
	if len(d.unticketed.reports) > 0 {
		t.Errorf("%v wait", d.unticketed.reports)
	}
}

func TestReportsThatWaitAreBounded(t *testing.T) {
	d := newDepot(t)
	for i := range maxReports + 10 {
		d.says("rogue", fmt.Sprint("m", i), "F")
	}
	d.says("other", "m1", "F")
	if n := len(d.unticketed.reports["rogue"]); n != maxReports || len(d.unticketed.reports["other"]) != 1 {
		t.Errorf("%d reports of one vehicle wait, %d of the other", n, len(d.unticketed.reports["other"]))
	}
	if n := d.Stats().UnticketedReports.Load(); n != maxReports+11 {
		t.Errorf("%d are counted", n)
	}
	old := d.unticketed.reports["other"]["m1"]
	d.now = d.now.Add(-time.Minute)
	d.says("other", "m1", "F")
	if now := d.unticketed.reports["other"]["m1"]; !now.AsOf.Equal(old.AsOf) {
		t.Error("an older report took the place of a newer one")
	}
	d.hears(topics.Address{Kind: topics.Recovery, Vehicle: "other", Machine: "m1"}, nil)
	if len(d.unticketed.reports["other"]) > 0 {
		t.Error("a report that its gateway cleared waits")
	}
}

func (d *depot) bring(m *ledgertest.Machine, first, last uint32) {
	d.t.Helper()
	a, payload := m.Batch(first, last)
	if err := d.onTransactions(d.t.Context(), a, payload); err != nil {
		d.t.Fatal(err)
	}
}

func (d *depot) wantUnticketed(want ...tickets.Unticketed) {
	d.t.Helper()
	got, err := d.store.Tickets().Unticketed(d.t.Context())
	if err != nil {
		d.t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		d.t.Error(diff)
	}
}

// Money is taken, whoever brings it. That nobody knows how it came there is noted, on disk with the batch.
func TestTransactionsWithoutATicketAreTakenAndNoted(t *testing.T) {
	d := newDepot(t)
	begun := milli(d.now)
	m := ledgertest.New(t, "m2", "v9", 1).Mint(30)
	d.bring(m, 1, 20)
	first := tickets.Unticketed{Machine: "m2", Vehicle: "v9", FirstAt: begun, LastAt: begun, Batches: 1, Records: 20}
	d.wantUnticketed(first)
	if s := d.Ledger().Stats(); s.New != 20 {
		t.Errorf("%+v", s)
	}
	if d.out.want["farebeat/v1/tampa/vehicle/v9/receipt/m2"] == nil {
		t.Error("no receipt: the gateway could never let go of them")
	}
	d.live(2*time.Minute, "m1")
	d.bring(m, 1, 20) // again
	d.bring(m, 21, 30)
	last := milli(d.now)
	d.live(time.Minute, "m1") // the end of a minute
	first.LastAt, first.Batches, first.Records = last, 3, 50
	d.wantUnticketed(first)
	if n := d.Stats().UnticketedBatches.Load(); n != 3 || strings.Count(d.log.String(), "from a vehicle that never had a ticket for the machine") != 2 {
		t.Errorf("%d batches are counted; the log:\n%s", n, d.log.String())
	}
	d.restart()
	d.now = d.now.Add(time.Hour)
	d.bring(m, 1, 1)
	if err := d.remember(t.Context(), d.now); err != nil {
		t.Fatal(err)
	}
	first.LastAt, first.Batches, first.Records = milli(d.now), 4, 51
	d.wantUnticketed(first)
}

// Forged records are quarantined, as ever, and prove nothing; and whoever has a ticket, or had one, is not noted.
func TestWhatIsNotNotedAsUnticketed(t *testing.T) {
	d := newDepot(t)
	forged := ledgertest.New(t, "m2", "v9", 1)
	forged.Key[0] ^= 1
	d.bring(forged.Mint(3), 1, 3)
	if s := d.Ledger().Stats(); s.Forged != 3 || s.New != 0 {
		t.Errorf("%+v", s)
	}
	d.command("v1", "m1", "c1", d.now.Add(time.Minute))
	d.settle()
	m := ledgertest.New(t, "m1", "v1", 1).Mint(20)
	d.bring(m, 1, 10)
	d.live(2 * time.Minute)
	if k, _ := d.ticket("v1", "m1"); k != nil {
		t.Fatal("the ticket stands still")
	}
	d.restart()
	d.bring(m, 11, 20)
	d.wantUnticketed()
	if n := d.Stats().UnticketedBatches.Load(); n != 0 {
		t.Errorf("%d are counted", n)
	}
}

// Where the note cannot be written the money is in all the same, and the note follows.
func TestANoteThatFailsDelaysNoMoney(t *testing.T) {
	d := newDepot(t)
	good := d.store
	broken := openStore(t, filepath.Join(t.TempDir(), "farebeat.db"))
	if err := broken.Close(); err != nil {
		t.Fatal(err)
	}
	a, payload := ledgertest.New(t, "m2", "v9", 1).Mint(5).Batch(1, 5)
	d.o.Store = broken // of the note; the ledger has its own
	if err := d.onTransactions(t.Context(), a, payload); err != nil {
		t.Fatal(err)
	}
	d.o.Store = good
	if s := d.Ledger().Stats(); s.New != 5 || !strings.Contains(d.log.String(), "could not be noted on disk") {
		t.Errorf("%+v; the log:\n%s", s, d.log.String())
	}
	d.wantUnticketed()
	if err := d.remember(t.Context(), d.now); err != nil {
		t.Fatal(err)
	}
	d.wantUnticketed(tickets.Unticketed{Machine: "m2", Vehicle: "v9", FirstAt: milli(d.now), LastAt: milli(d.now), Batches: 1, Records: 5})
}

func TestUnticketedPairsAreBounded(t *testing.T) {
	d := newDepot(t)
	for i := range tickets.MaxUnticketed + 5 {
		p := tickets.Pair{Machine: fmt.Sprint(i), Vehicle: "v"}
		if i < tickets.MaxUnticketed {
			d.unticketed.pairs[p] = tickets.Unticketed{Machine: p.Machine, Vehicle: p.Vehicle}
			continue
		}
		d.unticketed.brought(t.Context(), d.Fleet, ledger.Outcome{Machine: p.Machine, Vehicle: p.Vehicle, New: 1})
	}
	if n := len(d.unticketed.pairs); n != tickets.MaxUnticketed || d.Stats().UnticketedBatches.Load() != 5 {
		t.Errorf("%d pairs, %d batches counted", n, d.Stats().UnticketedBatches.Load())
	}
}
