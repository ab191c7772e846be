package edge

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/farebeat/farebeat/schemas"
)

var dawn = time.Date(2026, 3, 1, 6, 0, 0, 0, time.UTC)

func testTimings() timings {
	return timings{
		recollect: 5 * time.Minute, backoffMin: 5 * time.Second, backoffMax: time.Minute,
		listen: 30 * time.Second, sightings: time.Minute, forget: time.Hour,
	}
}

func fault(machine string, pending uint32, opened time.Duration) schemas.MachineFault {
	return schemas.MachineFault{
		Fault: "f-" + machine, Kind: "machine_silent", Severity: schemas.Major, Title: "Machine silent", Condition: schemas.Open,
		Machine: machine, Vehicle: "bus-1", OpenedAt: dawn.Add(opened), AsOf: dawn.Add(opened), Reason: "No heartbeat for 75 s.",
		NextStep: "The gateway collects.", Collect: true, Pending: pending,
	}
}

// script drives a state and keeps what it said last.
type script struct {
	t   *testing.T
	s   *state
	now time.Time
	out []effect
}

func newScript(t *testing.T) *script {
	return &script{t: t, s: newState("bus-1", nil, testTimings()), now: dawn}
}

func (p *script) in(ins ...input) *script {
	for _, in := range ins {
		p.admit(in)
		p.out = p.s.step(p.now, in)
	}
	return p
}

// admit gives the ticket with which the fleet lets a fault or a command be acted on.
func (p *script) admit(in input) {
	switch in := in.(type) {
	case faultStands:
		p.s.ticketed(p.now, ticketed{machine: in.fault.Machine})
	case commanded:
		p.s.ticketed(p.now, ticketed{machine: in.command.Machine})
	}
}

func (p *script) later(d time.Duration) *script {
	p.now = p.now.Add(d)
	return p.in(ticked{})
}

// candidates returns who the latest step wants to contact, nil for nobody.
func (p *script) candidates() []string {
	var names []string
	for _, e := range p.out {
		if c, ok := e.(contact); ok {
			for _, j := range c.candidates {
				names = append(names, j.machine)
			}
		}
	}
	return names
}

func (p *script) wantContact(names ...string) *script {
	p.t.Helper()
	if diff := cmp.Diff(names, p.candidates()); diff != "" {
		p.t.Fatalf("candidates at %v (-want +got):\n%s", p.now.Sub(dawn), diff)
	}
	return p
}

func (p *script) recovery(machine string) schemas.Recovery {
	p.t.Helper()
	for _, e := range slices.Backward(p.out) {
		if r, ok := e.(publishRecovery); ok && r.recovery.Machine == machine {
			return r.recovery
		}
	}
	p.t.Fatalf("no progress of %s among %v", machine, p.out)
	return schemas.Recovery{}
}

func (p *script) wantRecovery(machine string, st schemas.RecoveryState, read, receipted, total uint32) *script {
	p.t.Helper()
	r := p.recovery(machine)
	if r.State != st || r.Read != read || r.Receipted != receipted || r.Total != total {
		p.t.Fatalf("recovery is %s, read %d, receipted %d of %d; want %s, %d, %d of %d", r.State, r.Read, r.Receipted, r.Total, st, read, receipted, total)
	}
	return p
}

func (p *script) result(id string) schemas.CommandResult {
	p.t.Helper()
	for _, e := range slices.Backward(p.out) {
		if r, ok := e.(publishResult); ok && r.result.ID == id {
			return r.result
		}
	}
	p.t.Fatalf("no result of %s among %v", id, p.out)
	return schemas.CommandResult{}
}

func TestOneRecovery(t *testing.T) {
	p := newScript(t)
	all := Records{3: set(1, 300)}
	p.in(faultStands{fault("m-1", 300, 0)}).wantContact("m-1").wantRecovery("m-1", schemas.RecoveryScanning, 0, 0, 0)
	p.in(found{"m-1"}).wantRecovery("m-1", schemas.RecoveryConnecting, 0, 0, 0)
	p.in(declared{machine: "m-1", all: all, newest: 3, newestLast: 300}).wantRecovery("m-1", schemas.RecoveryReading, 0, 0, 300)
	p.now = p.now.Add(10 * time.Second)
	p.in(stored{"m-1", Records{3: set(1, 200)}}).wantRecovery("m-1", schemas.RecoveryReading, 200, 0, 300)
	if r := p.recovery("m-1"); r.PerSecond != 20 || r.Epoch != 3 || r.LastSeq != 300 || r.Fault != "f-m-1" || r.Vehicle != "bus-1" {
		t.Fatalf("recovery %+v", r)
	}
	p.in(stored{"m-1", all})
	p.in(contactEnded{contactResult{machine: "m-1", read: 300}}).wantRecovery("m-1", schemas.RecoverySending, 300, 0, 300).wantContact()
	p.in(receipted{"m-1", Records{3: set(1, 200)}, Records{3: set(201, 300)}}).wantRecovery("m-1", schemas.RecoverySending, 300, 200, 300).wantContact()
	p.in(receipted{"m-1", all, nil})
	// All is home: the machine is told at once, so that it gives up its copies.
	p.wantContact("m-1").wantRecovery("m-1", schemas.RecoveryComplete, 300, 300, 300)
	p.in(found{"m-1"}, declared{machine: "m-1", all: all, ledger: all, newest: 3, newestLast: 300})
	p.in(contactEnded{contactResult{machine: "m-1", told: all}}).wantRecovery("m-1", schemas.RecoveryComplete, 300, 300, 300).wantContact()
	// While the fault stands, the machine goes on writing and is looked at again.
	p.later(5*time.Minute - time.Second).wantContact()
	p.in(listened{})
	p.later(time.Second).wantContact("m-1")
	p.in(found{"m-1"}, declared{machine: "m-1", all: Records{3: set(301, 310)}, ledger: all, newest: 3, newestLast: 310}).
		wantRecovery("m-1", schemas.RecoveryReading, 300, 300, 310)
	p.in(stored{"m-1", Records{3: set(301, 310)}}, contactEnded{contactResult{machine: "m-1", read: 10}}).
		wantRecovery("m-1", schemas.RecoverySending, 310, 300, 310)
	// The fault is over: the machine hears of the last receipt, and that it is over.
	p.in(faultGone{"m-1"}).wantContact("m-1")
	if !slices.Contains(p.out, effect(clearRecovery{"m-1"})) {
		t.Fatalf("the progress stays retained: %v", p.out)
	}
	p.in(found{"m-1"}, contactEnded{contactResult{machine: "m-1", farewell: true}}).wantContact()
	p.in(receipted{"m-1", Records{3: set(1, 310)}, nil}).wantContact("m-1")
	p.in(found{"m-1"}, contactEnded{contactResult{machine: "m-1", farewell: true, told: Records{3: set(1, 310)}}}).wantContact()
	if len(p.s.tasks) != 0 {
		t.Fatalf("tasks left: %v", p.s.tasks)
	}
}

func TestOrderOfMoneyAtRisk(t *testing.T) {
	p := newScript(t)
	p.in(faultStands{fault("m-9", 10, 0)}).wantContact("m-9")
	p.in(faultStands{fault("m-1", 10, time.Minute)}, faultStands{fault("m-2", 500, time.Hour)}, faultStands{fault("m-3", 10, time.Second)}, faultStands{fault("m-4", 10, time.Second)})
	quiet := fault("m-5", 9000, 0)
	quiet.Collect = false
	p.in(faultStands{quiet}).wantContact()
	p.in(contactEnded{contactResult{absent: []string{"m-9"}}}).wantContact("m-2", "m-3", "m-4", "m-1")
	p.in(found{"m-3"}).wantRecovery("m-2", schemas.RecoveryWaiting, 0, 0, 0)
	p.in(declared{machine: "m-3", all: Records{1: set(1, 10)}}, contactEnded{contactResult{machine: "m-3", err: fmt.Errorf("link lost")}}).
		wantContact("m-2", "m-4", "m-1")
	// A person who waits comes first.
	p.in(contactEnded{contactResult{}}).wantContact("m-2", "m-4", "m-1")
	p.in(commanded{schemas.Command{ID: "c", Verb: schemas.VerbProbe, Machine: "m-1", ExpiresAt: p.now.Add(time.Hour)}}, contactEnded{contactResult{}}).
		wantContact("m-1", "m-2", "m-4")
}

func TestItRetriesForEver(t *testing.T) {
	p := newScript(t)
	p.in(faultStands{fault("m-1", 1, 0)}).wantContact("m-1")
	var waits []time.Duration
	for range 8 {
		p.in(contactEnded{contactResult{absent: []string{"m-1"}}}).wantContact()
		if r := p.recovery("m-1"); r.State != schemas.RecoveryFailed || r.LastError != "the machine was not heard over Bluetooth" {
			t.Fatalf("recovery %+v", r)
		}
		from := p.now
		for len(p.candidates()) == 0 {
			p.later(time.Second)
			if p.s.busy && len(p.candidates()) == 0 {
				p.in(listened{})
			}
		}
		waits = append(waits, p.now.Sub(from))
	}
	want := []time.Duration{5 * time.Second, 10 * time.Second, 20 * time.Second, 40 * time.Second, time.Minute, time.Minute, time.Minute, time.Minute}
	if diff := cmp.Diff(want, waits); diff != "" {
		t.Fatalf("waits (-want +got):\n%s", diff)
	}
	p.in(found{"m-1"}, declared{machine: "m-1"}, contactEnded{contactResult{machine: "m-1"}}).wantRecovery("m-1", schemas.RecoveryComplete, 0, 0, 0)
	if r := p.recovery("m-1"); r.Attempts != 0 || r.LastError != "" {
		t.Fatalf("a good contact forgives: %+v", r)
	}
}

// A clock that is set back, as that of a gateway without a battery, does not put
// off recoveries for as long as it was wrong.
func TestTheClockIsSetBack(t *testing.T) {
	p := newScript(t)
	p.now = dawn.Add(365 * 24 * time.Hour)
	p.in(faultStands{fault("m-1", 1, 0)}).wantContact("m-1")
	p.in(contactEnded{contactResult{absent: []string{"m-1"}}}).wantContact()
	p.now = dawn
	p.in(ticked{})
	if !p.s.busy {
		t.Fatal("it does not listen")
	}
	p.in(listened{})
	p.later(5 * time.Minute).wantContact("m-1")
	first := p.recovery("m-1")
	p.in(contactEnded{contactResult{absent: []string{"m-1"}}})
	if second := p.recovery("m-1"); !second.AsOf.After(first.AsOf) {
		t.Fatalf("progress of %v after that of %v", second.AsOf, first.AsOf)
	}
}

func TestAFullOutboxWaitsForAReceipt(t *testing.T) {
	p := newScript(t)
	all := Records{3: set(1, 20000)}
	p.in(faultStands{fault("m-1", 20000, 0)}, found{"m-1"}, declared{machine: "m-1", all: all, newest: 3, newestLast: 20000})
	p.in(stored{"m-1", Records{3: set(1, 12800)}}, contactEnded{contactResult{machine: "m-1", read: 12800, full: true, err: fmt.Errorf("outbox full")}})
	p.wantRecovery("m-1", schemas.RecoveryFailed, 12800, 0, 20000).wantContact()
	if got := p.recovery("m-1").NextAction; !strings.Contains(got, "when the ledger confirms") {
		t.Fatalf("next step %q", got)
	}
	p.in(receipted{"m-1", Records{3: set(1, 200)}, Records{3: set(201, 12800)}}).wantContact("m-1")
}

func TestFaultsThatWereOverBeforeTheConnectionAreDropped(t *testing.T) {
	p := newScript(t)
	p.in(faultStands{fault("m-1", 5, 0)}, faultStands{fault("m-2", 5, 0)})
	p.in(connecting{}, faultStands{fault("m-2", 5, 0)})
	p.in(settled{})
	if !slices.Contains(p.out, effect(clearRecovery{"m-1"})) || p.s.tasks["m-1"] != nil || p.s.tasks["m-2"] == nil {
		t.Fatalf("effects %v, tasks %v", p.out, p.s.tasks)
	}
}

func TestANewFaultBeginsAfresh(t *testing.T) {
	p := newScript(t)
	p.in(faultStands{fault("m-1", 5, 0)}, contactEnded{contactResult{absent: []string{"m-1"}}}).wantContact()
	p.in(faultStands{fault("m-1", 6, 0)}).wantContact() // the same fault, updated: the back-off holds
	f := fault("m-1", 7, time.Hour)
	f.Fault = "another"
	p.in(faultStands{f}).wantContact("m-1")
	if r := p.recovery("m-1"); r.Fault != "another" || r.Attempts != 0 {
		t.Fatalf("recovery %+v", r)
	}
}

func TestDamagedRecordsAreSaid(t *testing.T) {
	p := newScript(t)
	p.in(faultStands{fault("m-1", 5, 0)}, found{"m-1"}, declared{machine: "m-1", all: Records{1: set(1, 5)}, newest: 1, newestLast: 5})
	p.in(stored{"m-1", Records{1: set(1, 3, 5, 5)}}, contactEnded{contactResult{machine: "m-1", read: 4, refused: 1}})
	p.wantRecovery("m-1", schemas.RecoveryFailed, 4, 0, 5)
	if r := p.recovery("m-1"); !strings.Contains(r.LastError, "1 records of the machine are damaged") {
		t.Fatalf("recovery %+v", r)
	}
}

func TestCommands(t *testing.T) {
	command := func(id string, verb schemas.Verb) schemas.Command {
		return schemas.Command{ID: id, At: dawn, By: "lena", Verb: verb, Machine: "m-1", ExpiresAt: dawn.Add(10 * time.Minute)}
	}
	t.Run("collect", func(t *testing.T) {
		p := newScript(t)
		p.in(commanded{command("c-1", schemas.VerbCollect)}).wantContact("m-1")
		if r := p.result("c-1"); r.State != schemas.CommandWaiting {
			t.Fatalf("result %+v", r)
		}
		p.in(found{"m-1"})
		if r := p.result("c-1"); r.State != schemas.CommandRunning {
			t.Fatalf("result %+v", r)
		}
		p.in(contactEnded{contactResult{machine: "m-1", read: 12, status: &contactStatus{RSSI: -60, Pending: 12, Read: 12}}}).wantContact()
		r := p.result("c-1")
		if r.State != schemas.CommandFinished || r.Text != "12 new records are on the gateway." || !strings.Contains(string(r.Detail), `"pending":12`) {
			t.Fatalf("result %+v", r)
		}
		if len(p.s.tasks) != 0 {
			t.Fatalf("tasks left: %v", p.s.tasks)
		}
		p.in(commanded{command("c-1", schemas.VerbCollect)}).wantContact() // delivered twice, done once
		if again := p.result("c-1"); again.State != schemas.CommandFinished || again.Text != r.Text {
			t.Fatalf("result %+v", again)
		}
	})
	t.Run("set_time that the machine refuses", func(t *testing.T) {
		p := newScript(t)
		p.in(commanded{command("c-1", schemas.VerbSetTime)}, found{"m-1"}, contactEnded{contactResult{machine: "m-1", clockErr: fmt.Errorf("not allowed")}})
		if r := p.result("c-1"); r.State != schemas.CommandFailed || !strings.Contains(r.Text, "not allowed") {
			t.Fatalf("result %+v", r)
		}
	})
	t.Run("reboot", func(t *testing.T) {
		p := newScript(t).in(commanded{command("c-1", schemas.VerbReboot)}).wantContact()
		if r := p.result("c-1"); r.State != schemas.CommandFailed || !strings.Contains(r.Text, "Restart it by hand") {
			t.Fatalf("result %+v", r)
		}
	})
	t.Run("unknown", func(t *testing.T) {
		p := newScript(t).in(commanded{command("c-1", "dance")}).wantContact()
		if r := p.result("c-1"); r.State != schemas.CommandFailed || !strings.Contains(r.Text, `"dance"`) {
			t.Fatalf("result %+v", r)
		}
	})
	t.Run("expired before it came", func(t *testing.T) {
		p := newScript(t)
		p.now = dawn.Add(11 * time.Minute)
		p.in(commanded{command("c-1", schemas.VerbCollect)}).wantContact()
		if r := p.result("c-1"); r.State != schemas.CommandFailed || !strings.Contains(r.Text, "expired at 2026-03-01T06:10:00Z") {
			t.Fatalf("result %+v", r)
		}
	})
	t.Run("expires while the machine is away", func(t *testing.T) {
		p := newScript(t).in(commanded{command("c-1", schemas.VerbCollect)}, contactEnded{contactResult{absent: []string{"m-1"}}})
		p.later(10 * time.Minute).wantContact()
		if r := p.result("c-1"); r.State != schemas.CommandFailed || !strings.Contains(r.Text, "not heard over Bluetooth") {
			t.Fatalf("result %+v", r)
		}
		if len(p.s.tasks) != 0 {
			t.Fatalf("tasks left: %v", p.s.tasks)
		}
	})
	t.Run("too many", func(t *testing.T) {
		p := newScript(t)
		for i := range maxWaitingCommands + 1 {
			p.in(commanded{command(fmt.Sprint("c-", i), schemas.VerbProbe)})
		}
		if r := p.result("c-64"); r.State != schemas.CommandFailed || !strings.Contains(r.Text, "64 commands wait") {
			t.Fatalf("result %+v", r)
		}
	})
}

func TestSightings(t *testing.T) {
	p := newScript(t)
	heard := func(machine string, pending uint32) schemas.Sighting {
		return schemas.Sighting{Machine: machine, RSSI: -70, SeenAt: p.now, Pending: pending}
	}
	published := func() []string {
		for _, e := range p.out {
			if g, ok := e.(publishGateway); ok {
				names := []string{}
				for _, s := range g.seen {
					names = append(names, s.Machine)
				}
				return names
			}
		}
		return nil
	}
	want := func(names ...string) {
		t.Helper()
		if diff := cmp.Diff(names, published()); diff != "" {
			t.Fatalf("at %v published (-want +got):\n%s", p.now.Sub(dawn), diff)
		}
	}
	p.in(ticked{})
	if !p.s.busy {
		t.Fatal("a gateway without a task does not listen")
	}
	p.in(listened{[]schemas.Sighting{heard("m-2", 0), heard("m-1", 0)}})
	want("m-1", "m-2")
	p.later(30 * time.Second)
	p.in(listened{[]schemas.Sighting{heard("m-1", 0)}})
	want() // no news
	p.later(30 * time.Second)
	want("m-1", "m-2") // a minute later, once more
	p.in(listened{[]schemas.Sighting{heard("m-1", 4)}})
	want("m-1", "m-2") // it wrote records
	p.later(59*time.Minute + time.Second)
	want("m-1") // m-2 was heard an hour ago
}

// Whatever happens in whatever order: the radio is asked for one thing at a time,
// nothing is done with machines nobody asked for, and a machine with a standing
// fault is contacted again sooner or later.
func TestStateKeepsItsPromises(t *testing.T) {
	machines := []string{"m-1", "m-2", "m-3"}
	rapid.Check(t, func(t *rapid.T) {
		s := newState("bus-1", nil, testTimings())
		now := dawn
		latest := map[string]time.Time{}
		standing := map[string]bool{} // tickets
		var asked *contact
		busy := false
		do := func(in input) {
			for _, e := range s.step(now, in) {
				switch e := e.(type) {
				case contact:
					if busy || len(e.candidates) == 0 {
						t.Fatalf("contact %v while busy=%v", e, busy)
					}
					for _, c := range e.candidates {
						if !standing[c.machine] {
							t.Fatalf("%s is contacted without a ticket", c.machine)
						}
					}
					busy, asked = true, &e
				case listen:
					if busy {
						t.Fatal("listening while busy")
					}
					busy, asked = true, nil
				case publishRecovery:
					if err := e.recovery.Validate(); err != nil {
						t.Fatal(err)
					}
					if before := latest[e.recovery.Fault]; !e.recovery.AsOf.After(before) {
						t.Fatalf("progress of %v comes after that of %v", e.recovery.AsOf, before)
					}
					latest[e.recovery.Fault] = e.recovery.AsOf
					if r := e.recovery; r.Receipted > r.Read || r.Read > r.Total {
						t.Fatalf("progress %+v", r)
					}
				}
			}
		}
		release := func() {
			busy = false
			if asked == nil {
				do(listened{})
				return
			}
			c := rapid.SampledFrom(asked.candidates).Draw(t, "found")
			r := contactResult{machine: c.machine}
			switch rapid.SampledFrom([]string{"good", "cut", "absent"}).Draw(t, "outcome") {
			case "absent":
				r = contactResult{absent: []string{c.machine}}
			case "cut":
				r.err = errors.Join(errors.New("link lost\x00\xff"), errors.New(strings.Repeat("é", 1000)))
				do(found{c.machine})
			case "good":
				all := Records{1: set(1, rapid.Uint32Range(1, 50).Draw(t, "last"))}
				do(found{c.machine})
				do(declared{machine: c.machine, all: all, newest: 1})
				if c.collect {
					do(stored{c.machine, all})
				}
				r.farewell = c.farewell
			}
			do(contactEnded{r})
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			machine := rapid.SampledFrom(machines).Draw(t, "machine")
			switch rapid.SampledFrom([]string{"fault", "gone", "tick", "receipt", "radio", "radio", "reconnect", "ticket", "ticket gone"}).Draw(t, "step") {
			case "fault":
				do(faultStands{fault(machine, rapid.Uint32Range(0, 9).Draw(t, "pending"), 0)})
			case "gone":
				do(faultGone{machine})
			case "tick":
				now = now.Add(time.Duration(rapid.IntRange(0, 90).Draw(t, "s")) * time.Second)
				do(ticked{})
			case "receipt":
				do(receipted{machine, Records{1: set(1, rapid.Uint32Range(1, 50).Draw(t, "to"))}, nil})
			case "ticket":
				standing[machine] = true
				do(ticketed{machine: machine})
			case "ticket gone":
				delete(standing, machine)
				do(ticketGone{machine})
			case "reconnect":
				do(connecting{})
				clear(standing)
				do(settled{})
			case "radio":
				if busy {
					release()
				}
			}
		}
		// From here on there are tickets and all contacts go well: each standing fault gets one.
		for _, machine := range machines {
			standing[machine] = true
			do(ticketed{machine: machine})
		}
		waiting := map[string]bool{}
		for machine, task := range s.tasks {
			if task.fault != nil {
				waiting[machine] = true
			}
		}
		for i := 0; len(waiting) > 0; i++ {
			if i > 500 {
				t.Fatalf("never contacted: %v", waiting)
			}
			if busy {
				r := contactResult{}
				if asked != nil {
					r.machine = asked.candidates[0].machine
					delete(waiting, r.machine)
				}
				wasContact := asked != nil
				busy = false
				if wasContact {
					do(found{r.machine})
					do(contactEnded{r})
				} else {
					do(listened{})
				}
				continue
			}
			now = now.Add(10 * time.Second)
			do(ticked{})
		}
	})
}
