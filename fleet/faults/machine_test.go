package faults_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/schemas"
)

var start = time.Date(2026, 11, 22, 7, 20, 0, 0, time.UTC)

func at(d time.Duration) time.Time { return start.Add(d) }

// life drives one machine's faults through a book, as the fleet does: what the
// machine said last stays known until it says more.
type life struct {
	t       *testing.T
	book    *faults.Book
	check   faults.MachineCheck
	history []string // "50s opened machine_silent open"
	saved   map[string]faults.Fault
}

func newLife(t *testing.T) *life {
	return &life{t: t, book: faults.NewBook(faults.Policy{}), saved: map[string]faults.Fault{}, check: faults.MachineCheck{
		Machine: "m1", Vehicle: "v1", Route: "36", State: schemas.Up, LastHeartbeat: start, Epoch: 1,
	}}
}

// apply also restarts from what was saved before every step: a kill at any point must not matter.
func (l *life) apply(after time.Duration, in ...faults.Input) []faults.Change {
	l.t.Helper()
	again := faults.NewBook(faults.Policy{})
	stored := make([]faults.Fault, 0, len(l.saved))
	for _, f := range l.saved {
		b, err := json.Marshal(f)
		if err != nil {
			l.t.Fatal(err)
		}
		var back faults.Fault
		if err := json.Unmarshal(b, &back); err != nil {
			l.t.Fatal(err)
		}
		if diff := cmp.Diff(f, back); diff != "" {
			l.t.Fatalf("a fault changed by being stored: %s", diff)
		}
		stored = append(stored, back)
	}
	again.Restore(stored)
	changes := l.book.Apply(at(after), in)
	if diff := cmp.Diff(changes, again.Apply(at(after), in)); diff != "" {
		l.t.Fatalf("after %v a restarted book decides otherwise (-running +restarted):\n%s", after, diff)
	}
	for _, c := range changes {
		if old, ok := l.saved[c.Fault.ID]; ok && c.Fault.Revision != old.Revision+1 {
			l.t.Fatalf("after %v revision %d follows %d", after, c.Fault.Revision, old.Revision)
		}
		l.saved[c.Fault.ID] = c.Fault
		if c.Told() {
			l.history = append(l.history, fmt.Sprintf("%v %s %s %s", after, c.Event.Change, c.Event.Kind, c.Event.Condition))
		}
	}
	// The very same evidence once more says nothing new.
	if twice := l.book.Apply(at(after), in); len(twice) != 0 {
		l.t.Fatalf("after %v the same inputs again changed %+v", after, twice)
	}
	return changes
}

func (l *life) silent(after time.Duration) {
	l.t.Helper()
	l.check.State = schemas.Dark
	l.check.Verdicts = []faults.Verdict{{Kind: faults.MachineSilent, Firing: true, Since: at(after), Reason: "No heartbeat."}}
	l.apply(after, l.check)
}

func (l *life) heartbeat(after time.Duration, change ...func(*faults.MachineCheck)) {
	l.t.Helper()
	l.check.State, l.check.LastHeartbeat, l.check.Verdicts = schemas.Up, at(after), nil
	for _, c := range change {
		c(&l.check)
	}
	l.apply(after, l.check)
}

func pending(n, last uint32) func(*faults.MachineCheck) {
	return func(c *faults.MachineCheck) { c.Pending, c.LastSeq = n, last }
}

func (l *life) ble(after time.Duration, state schemas.RecoveryState, last, read, total, receipted uint32) {
	l.t.Helper()
	id := ""
	for _, f := range l.book.Open() {
		if f.Family() == faults.FamilyCustody {
			id = f.ID
		}
	}
	l.apply(after, faults.RecoveryReport{Recovery: schemas.Recovery{
		AsOf: at(after), Machine: "m1", Vehicle: "v1", Fault: id, State: state, Epoch: 1, LastSeq: last, Read: read, Total: total, Receipted: receipted,
	}})
}

func (l *life) ledger(after time.Duration, to uint32) {
	l.t.Helper()
	l.check.CompleteTo = to
	l.apply(after, faults.LedgerProgress{Machine: "m1", Epoch: 1, CompleteTo: to})
}

func (l *life) report(after time.Duration, id string) {
	l.t.Helper()
	l.apply(after, faults.HandReport{Report: schemas.Report{ID: id, At: at(after), Machine: "m1", Text: "the reader is dead", By: "driver"}})
}

func (l *life) want(lines ...string) {
	l.t.Helper()
	if diff := cmp.Diff(lines, l.history); diff != "" {
		l.t.Errorf("history (-want +got):\n%s", diff)
	}
}

func (l *life) one() faults.Fault {
	l.t.Helper()
	open := l.book.Open()
	if len(open) != 1 {
		l.t.Fatalf("%d faults are open, want 1: %+v", len(open), open)
	}
	return open[0]
}

const s = time.Second

func TestMachineLives(t *testing.T) {
	for _, tt := range []struct {
		name string
		run  func(*life)
		want []string
	}{
		{"silent, read over BLE, declares more, heard again", func(l *life) {
			l.check.Pending, l.check.LastSeq = 2, 12
			l.check.CompleteTo = 10
			l.silent(75 * s)
			l.ble(80*s, schemas.RecoveryScanning, 0, 0, 0, 0)
			l.ble(90*s, schemas.RecoveryReading, 30, 5, 20, 0)
			l.ledger(100*s, 20)
			l.ledger(110*s, 30)
			l.silent(115 * s)
			l.ble(200*s, schemas.RecoveryReading, 34, 0, 4, 0)
			l.ledger(210*s, 34)
			l.heartbeat(220*s, pending(4, 34)) // the receipt has not reached it
			l.heartbeat(235*s, pending(0, 34))
		}, []string{
			"1m15s opened machine_silent open", "1m30s updated machine_silent recovering", "1m50s recovered machine_silent recovered",
			"3m55s closed machine_silent closed", // that it was read once more is history only
		}},
		{"without an uplink it goes on selling: that all is recovered is told once an hour", func(l *life) {
			l.check.Pending, l.check.LastSeq = 1, 1
			l.silent(75 * s)
			for i := range 100 {
				n := uint32(i + 2)
				at := time.Duration(80+60*i) * s
				l.ble(at, schemas.RecoveryReading, n, 0, 1, 0)
				l.ledger(at+5*s, n)
			}
		}, []string{
			"1m15s opened machine_silent open", "1m20s updated machine_silent recovering", "1m25s recovered machine_silent recovered",
			"1h1m25s recovered machine_silent recovered",
		}},
		{"one heartbeat is not heard again", func(l *life) {
			l.silent(75 * s)
			l.heartbeat(90 * s)
			l.apply(95*s, l.check)
			l.apply(100*s, l.check)
			l.heartbeat(105 * s)
		}, []string{"1m15s opened machine_silent open", "1m45s closed machine_silent closed"}},
		{"heard again with a hole in the ledger stays", func(l *life) {
			l.check.LastSeq, l.check.CompleteTo = 50, 20
			l.silent(75 * s)
			for i := range 10 {
				l.heartbeat(90*s+time.Duration(i)*15*s, pending(0, 50))
			}
			l.ledger(300*s, 50)
			l.heartbeat(315 * s)
		}, []string{"1m15s opened machine_silent open", "5m15s closed machine_silent closed"}},
		{"everything in the ledger and still dark is recovered and stays", func(l *life) {
			l.silent(75 * s)
			l.ble(90*s, schemas.RecoveryComplete, 0, 0, 0, 0)
			for i := range 100 {
				l.silent(100*s + time.Duration(i)*60*s)
			}
		}, []string{"1m15s opened machine_silent open", "1m30s recovered machine_silent recovered"}},
		{"an older epoch is not forgotten", func(l *life) {
			l.check.LastSeq, l.check.CompleteTo = 50, 20
			l.silent(75 * s)
			reset := func(c *faults.MachineCheck) { c.Epoch, c.LastSeq, c.CompleteTo, c.Pending = 2, 3, 3, 0 }
			l.heartbeat(90*s, reset)
			l.heartbeat(105*s, reset)
			l.heartbeat(120*s, reset)
			l.apply(125*s, faults.LedgerProgress{Machine: "m1", Epoch: 1, CompleteTo: 50})
			l.apply(130*s, l.check)
		}, []string{"1m15s opened machine_silent open", "2m10s closed machine_silent closed"}},
		{"the ledger is ahead of what the machine declared of a new epoch", func(l *life) {
			l.silent(75 * s)
			l.apply(80*s, faults.LedgerProgress{Machine: "m1", Epoch: 1, CompleteTo: 9})
			l.ble(85*s, schemas.RecoveryComplete, 9, 9, 9, 9)
		}, []string{"1m15s opened machine_silent open", "1m25s recovered machine_silent recovered"}},
		{"comes back soon: the same fault", func(l *life) {
			l.silent(75 * s)
			l.heartbeat(90 * s)
			l.heartbeat(105 * s)
			l.silent(180 * s)
			l.heartbeat(190 * s)
			l.heartbeat(205 * s)
			l.silent(205*s + 11*time.Minute) // too late: another one
		}, []string{
			"1m15s opened machine_silent open", "1m45s closed machine_silent closed", "3m0s reopened machine_silent open",
			"3m25s closed machine_silent closed", "14m25s opened machine_silent open",
		}},
		{"flaps: one unstable link that closes only once stable", func(l *life) {
			for i := range 6 {
				l.silent(time.Duration(i)*180*s + 75*s)
				l.heartbeat(time.Duration(i)*180*s + 90*s)
				l.heartbeat(time.Duration(i)*180*s + 105*s)
			}
			for i := range 40 {
				l.heartbeat(1020*s + time.Duration(i)*15*s)
			}
		}, []string{
			"1m15s opened machine_silent open", "1m45s closed machine_silent closed", "4m15s reopened machine_silent open",
			"4m45s closed machine_silent closed", "7m15s reopened machine_silent open", "7m45s closed machine_silent closed",
			"10m15s reopened machine_unstable_link open", "26m30s closed machine_unstable_link closed",
		}},
		{"parked with unsent money needs no more heartbeats", func(l *life) {
			l.check.State, l.check.Pending, l.check.LastSeq = schemas.Parked, 3, 3
			l.check.Verdicts = []faults.Verdict{{Kind: faults.MachineParked, Firing: true}}
			l.apply(10*s, l.check)
			l.ble(20*s, schemas.RecoverySending, 3, 3, 3, 0)
			l.ble(25*s, schemas.RecoveryComplete, 3, 3, 3, 3)
			l.ledger(30*s, 3)
			l.check.Verdicts, l.check.Pending = nil, 0
			l.apply(40*s, l.check)
		}, []string{
			"10s opened machine_parked_unsent open", "20s updated machine_parked_unsent recovering",
			"30s recovered machine_parked_unsent recovered", "40s closed machine_parked_unsent closed",
		}},
		{"silent, then parked by the end of its duty, was never heard", func(l *life) {
			l.silent(75 * s)
			l.check.State, l.check.Verdicts = schemas.Parked, nil
			l.apply(600*s, l.check)
		}, []string{"1m15s opened machine_silent open"}},
		{"a report by hand merges into the automatic one", func(l *life) {
			l.silent(75 * s)
			l.report(80*s, "r1")
			l.report(81*s, "r1")
			l.heartbeat(90 * s)
			l.heartbeat(105 * s)
			l.heartbeat(80*s + 9*time.Minute)
			l.heartbeat(80*s + 10*time.Minute)
		}, []string{"1m15s opened machine_silent open", "1m20s updated machine_silent open", "11m20s closed machine_silent closed"}},
		{"the automatic one merges into a report, under its id", func(l *life) {
			l.report(10*s, "r1")
			l.silent(75 * s)
		}, []string{"10s opened machine_reported open", "1m15s updated machine_silent open"}},
		{"graver kinds rename it, milder ones do not", func(l *life) {
			verdict := func(k faults.Kind, level int) func(*faults.MachineCheck) {
				return func(c *faults.MachineCheck) {
					c.Pending, c.Verdicts = 60, []faults.Verdict{{Kind: k, Firing: true, Threshold: level}}
				}
			}
			l.heartbeat(15*s, verdict(faults.MachineFilling, 50))
			l.heartbeat(30*s, verdict(faults.MachineFilling, 80))
			l.heartbeat(45*s, verdict(faults.MachineFull, 95))
			l.heartbeat(60*s, verdict(faults.MachineFilling, 80))
		}, []string{
			"15s opened machine_storage_filling open", "30s updated machine_storage_filling open", "45s updated machine_storage_full open",
		}},
		{"a code of its own closes when clean for a while, not by silence", func(l *life) {
			code := func(c *faults.MachineCheck) {
				c.Verdicts = []faults.Verdict{{Kind: faults.MachineCode, Firing: true}}
			}
			l.heartbeat(15*s, code)
			l.check.Verdicts, l.check.State = nil, schemas.Late
			l.apply(200*s, l.check)
			l.heartbeat(210 * s)
			l.heartbeat(225 * s)
			l.heartbeat(265 * s)
		}, []string{"15s opened machine_fault_code open", "4m25s closed machine_fault_code closed"}},
		{"abandoned stays quiet until it was well once", func(l *life) {
			l.silent(75 * s)
			id := l.one().ID
			l.apply(80*s, faults.Abandon{Fault: id, By: "ops", Reason: "scrapped"})
			l.silent(90 * s)
			l.heartbeat(1000 * s)
			l.heartbeat(1015 * s)
			l.silent(1100 * s)
		}, []string{"1m15s opened machine_silent open", "1m20s abandoned machine_silent abandoned", "18m20s opened machine_silent open"}},
		{"blind freezes it", func(l *life) {
			l.silent(75 * s)
			l.check.Blind = true
			l.heartbeat(90 * s)
			l.heartbeat(105 * s)
			l.heartbeat(120 * s)
		}, []string{"1m15s opened machine_silent open"}},
		{"blind opens nothing", func(l *life) {
			l.check.Blind = true
			l.silent(75 * s)
		}, nil},
		{"a shelf ends by itself", func(l *life) {
			l.silent(75 * s)
			id := l.one().ID
			l.apply(80*s, faults.Attend{Fault: id, To: schemas.Shelved, By: "ops"}) // without an end: refused
			l.apply(81*s, faults.Attend{Fault: id, To: schemas.Shelved, By: "ops", Until: at(200 * s)})
			l.apply(82*s, faults.Attend{Fault: "none", To: schemas.Acknowledged, By: "ops"})
			l.apply(199 * s)
			l.apply(200 * s)
		}, []string{"1m15s opened machine_silent open", "1m21s shelved machine_silent open", "3m20s updated machine_silent open"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLife(t)
			tt.run(l)
			l.want(tt.want...)
		})
	}
}

func TestStaleRecoveryReportsChangeNothing(t *testing.T) {
	l := newLife(t)
	l.silent(75 * s)
	report := func(asOf time.Duration, fault string, state schemas.RecoveryState) faults.RecoveryReport {
		return faults.RecoveryReport{Recovery: schemas.Recovery{AsOf: at(asOf), Machine: "m1", Fault: fault, State: state, Epoch: 1, LastSeq: 5, Total: 5}}
	}
	if c := l.apply(80*s, report(60*s, "an older fault", schemas.RecoveryComplete)); len(c) != 0 {
		t.Errorf("a retained word of an older fault changed %+v", c)
	}
	id := l.one().ID
	if c := l.apply(85*s, report(84*s, id, schemas.RecoveryReading)); len(c) != 1 {
		t.Errorf("a new word changed nothing")
	}
	if c := l.apply(90*s, report(83*s, id, schemas.RecoveryComplete)); len(c) != 0 {
		t.Errorf("a word from before changed %+v", c)
	}
	if got := l.one().Outstanding(); got != 5 {
		t.Errorf("outstanding = %d, want 5", got)
	}
}

func TestOneRevisionIsOneContent(t *testing.T) {
	l := newLife(t)
	l.silent(75 * s)
	before := l.one()
	l.check.Verdicts[0].Reason = "No heartbeat for 80 s."
	l.apply(80*s, l.check)
	if diff := cmp.Diff(before, l.one()); diff != "" {
		t.Errorf("the fault changed without a Change:\n%s", diff)
	}
}

func TestReportsAreBounded(t *testing.T) {
	l := newLife(t)
	for i := range 40 {
		l.report(time.Duration(i)*s, fmt.Sprint("r", i))
	}
	f := l.one()
	if len(f.Reports) != faults.MaxReports || f.Reports[0].ID != "r24" || f.Events != 40 {
		t.Errorf("%d reports from %s, %d events; want the newest %d and 40 events", len(f.Reports), f.Reports[0].ID, f.Events, faults.MaxReports)
	}
}

func TestCustodyIsBounded(t *testing.T) {
	l := newLife(t)
	l.silent(75 * s)
	for epoch := range uint32(20) {
		l.apply(80*s+time.Duration(epoch)*s, faults.LedgerProgress{Machine: "m1", Epoch: epoch + 1, CompleteTo: 1})
	}
	c := l.one().Machine.Custody
	if len(c) != faults.MaxEpochs || c[0].Epoch != 20 || !slices.IsSortedFunc(c, func(a, b faults.Custody) int { return int(b.Epoch) - int(a.Epoch) }) {
		t.Errorf("custody = %+v, want the newest %d epochs, newest first", c, faults.MaxEpochs)
	}
}

func TestCatalogue(t *testing.T) {
	for _, k := range faults.Kinds() {
		e := k.Entry()
		if e.Kind != k || e.Family == "" || e.Rank == 0 || e.Severity == "" || e.Title == "" || !strings.HasSuffix(e.Meaning, ".") || !strings.HasSuffix(e.NextStep, ".") {
			t.Errorf("%s: incomplete entry %+v", k, e)
		}
		for _, other := range faults.Kinds() {
			if o := other.Entry(); other != k && o.Family == e.Family && o.Rank == e.Rank {
				t.Errorf("%s and %s have the same rank", k, other)
			}
		}
	}
	if e := faults.Kind("from_the_future").Entry(); e.Title != "from_the_future" || e.Severity == "" {
		t.Errorf("unknown kind: %+v", e)
	}
}

func TestNewID(t *testing.T) {
	a := faults.NewID(faults.FamilyCustody, faults.Subject{Machine: "m"}, start)
	for _, other := range []string{
		faults.NewID(faults.FamilyCode, faults.Subject{Machine: "m"}, start),
		faults.NewID(faults.FamilyCustody, faults.Subject{Machine: "n"}, start),
		faults.NewID(faults.FamilyRoute, faults.Subject{Route: "m"}, start),
		faults.NewID(faults.FamilyCause, faults.Subject{}, start),
		faults.NewID(faults.FamilyCause, faults.Subject{Depot: "m"}, start),
		faults.NewID(faults.FamilyCause, faults.Subject{Network: "m"}, start),
	} {
		if other == a {
			t.Errorf("two faults share the id %s", a)
		}
	}
	if again := faults.NewID(faults.FamilyCustody, faults.Subject{Machine: "m"}, start); again != a {
		t.Errorf("%s, then %s for the same fault", a, again)
	}
	if later := faults.NewID(faults.FamilyCustody, faults.Subject{Machine: "m"}, start.Add(time.Millisecond)); later <= a {
		t.Errorf("%s does not sort after %s", later, a)
	}
	for _, odd := range []time.Time{{}, time.Unix(1<<60, 0)} {
		if id := faults.NewID(faults.FamilyRoute, faults.Subject{Route: "1"}, odd); len(id) != 28 {
			t.Errorf("NewID(%v) = %q", odd, id)
		}
	}
}
