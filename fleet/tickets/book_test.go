package tickets_test

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/farebeat/farebeat/fleet/tickets"
)

func noon() time.Time { return time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC) }

// desk is a book with what stands on topics and in a store, and machines that judge tickets.
type desk struct {
	book     *tickets.Book
	stored   map[tickets.Pair]tickets.Ticket
	orders   []tickets.Order
	standing map[tickets.Pair]uint64 // counters on topics
	highest  map[string]uint64       // ever issued, by machine
	faults   map[tickets.Pair]string
	issued   int
	t        testing.TB
}

func newDesk(t testing.TB) *desk {
	d := &desk{t: t, stored: map[tickets.Pair]tickets.Ticket{}, standing: map[tickets.Pair]uint64{}, highest: map[string]uint64{}, faults: map[tickets.Pair]string{}}
	d.restart(0)
	return d
}

func (d *desk) restart(floor uint64) {
	d.book = tickets.NewBook(validity, slices.Collect(maps.Values(d.stored)), floor, d.orders)
	for _, k := range d.book.Standing() {
		if got := d.standing[k.Pair]; got != k.Counter {
			d.t.Fatalf("after a restart ticket %d of %v stands, %d did", k.Counter, k.Pair, got)
		}
	}
}

const validity = time.Hour

// pass does what the service does in a pass; what fail names cannot be sealed.
func (d *desk) pass(now time.Time, fail func(tickets.Pair) bool) {
	d.t.Helper()
	d.book.SetFaults(now, maps.Clone(d.faults))
	for range 1000 {
		plan := d.book.Plan(now, 3)
		for _, p := range plan.Withdraw {
			delete(d.standing, p)
		}
		for _, k := range d.book.Unsaved() {
			d.stored[k.Pair] = k
		}
		d.book.Saved()
		if len(plan.Issue) == 0 {
			return
		}
		for _, k := range plan.Issue {
			if k.Counter <= d.highest[k.Machine] {
				d.t.Fatalf("ticket %d of %v after %d", k.Counter, k.Pair, d.highest[k.Machine])
			}
			d.highest[k.Machine] = k.Counter
			if fail != nil && fail(k.Pair) {
				d.book.Failed(now, k.Pair)
				continue
			}
			d.issued++
			k.Sealed = []byte("sealed")
			d.stored[k.Pair] = k
			d.standing[k.Pair] = k.Counter
			d.book.Issued(k)
		}
	}
	d.t.Fatal("passes without end")
}

func (d *desk) mustStand(p tickets.Pair, want bool) {
	d.t.Helper()
	if _, stands := d.standing[p]; stands != want {
		d.t.Errorf("the ticket of %v stands: %t", p, stands)
	}
}

func TestATicketStandsFromTheFaultToAnHourAfterIt(t *testing.T) {
	d, p, now := newDesk(t), tickets.Pair{Machine: "m", Vehicle: "v"}, noon()
	d.faults[p] = "F-1"
	d.pass(now, nil)
	first := d.standing[p]
	if first != uint64(now.UnixMilli()) || d.stored[p].Reason != "F-1" || !d.stored[p].ExpiresAt.Equal(now.Add(validity)) {
		t.Fatalf("%+v", d.stored[p])
	}
	d.pass(now.Add(validity/2-1), nil)
	if d.issued != 1 {
		t.Errorf("%d were issued before half of the validity", d.issued)
	}
	d.pass(now.Add(validity/2), nil)
	if d.issued != 2 || d.standing[p] <= first {
		t.Errorf("%d issued, ticket %d after %d", d.issued, d.standing[p], first)
	}
	delete(d.faults, p)
	over := now.Add(validity)
	d.pass(over, nil)
	d.restart(0)
	d.pass(over.Add(tickets.Farewell-1), nil)
	d.mustStand(p, true)
	d.pass(over.Add(tickets.Farewell), nil)
	d.mustStand(p, false)
	if d.stored[p].Stands() {
		t.Error("the store holds what was withdrawn")
	}
}

// Before the first round after a restart nobody knows which faults stand.
func TestNothingIsWithdrawnBeforeTheFirstRound(t *testing.T) {
	d, p, now := newDesk(t), tickets.Pair{Machine: "m", Vehicle: "v"}, noon()
	d.faults[p] = "F-1"
	d.pass(now, nil)
	d.restart(0)
	now = now.Add(validity) // it is renewed then, too
	plan := d.book.Plan(now, 10)
	if len(plan.Withdraw) > 0 || len(plan.Issue) != 1 || !plan.Issue[0].Fault || plan.Issue[0].Reason != "F-1" {
		t.Fatalf("%+v", plan)
	}
	d.pass(now, nil)
	d.mustStand(p, true)
}

func TestAMachineThatMovesGetsATicketForItsNewVehicle(t *testing.T) {
	d, now := newDesk(t), noon()
	old, next := tickets.Pair{Machine: "m", Vehicle: "v1"}, tickets.Pair{Machine: "m", Vehicle: "v2"}
	d.faults[old] = "F-1"
	d.pass(now, nil)
	first := d.standing[old]
	delete(d.faults, old)
	d.faults[next] = "F-1"
	d.pass(now, nil) // in the same millisecond
	d.mustStand(old, false)
	d.mustStand(next, true)
	if d.standing[next] <= first {
		t.Errorf("ticket %d after %d", d.standing[next], first)
	}
	delete(d.faults, next)
	d.faults[old] = "F-1"
	d.pass(now, nil)
	d.mustStand(next, false)
	d.mustStand(old, true)
}

// A command to another vehicle does not take the ticket from the one with the fault; but once it is over
// that one has the newest ticket again, since the machine may refuse its old one now.
func TestACommandSupersedesAndGivesBack(t *testing.T) {
	d, now := newDesk(t), noon()
	bound, other := tickets.Pair{Machine: "m", Vehicle: "v1"}, tickets.Pair{Machine: "m", Vehicle: "v2"}
	d.faults[bound] = "F-1"
	d.pass(now, nil)
	before := d.standing[bound]
	if err := d.book.Command(now, other, "c1", now.Add(5*time.Minute)); err != nil {
		t.Fatal(err)
	}
	d.pass(now, nil)
	if d.standing[bound] != before || d.standing[other] <= before || d.stored[other].Reason != "command c1" {
		t.Fatalf("%v", d.standing)
	}
	d.restart(0)
	d.pass(now.Add(5*time.Minute-1), nil)
	if d.standing[bound] != before {
		t.Error("it was issued anew too early")
	}
	d.pass(now.Add(5*time.Minute), nil)
	d.mustStand(other, false)
	if d.standing[bound] <= before+1 {
		t.Errorf("ticket %d, the command's was above %d", d.standing[bound], before)
	}
	issued := d.issued
	d.pass(now.Add(6*time.Minute), nil)
	if d.issued != issued {
		t.Error("it is issued again and again")
	}
}

func TestCommandsThatGiveNoTicket(t *testing.T) {
	d, now := newDesk(t), noon()
	d.book.Order(tickets.Order{Action: tickets.Revoke, Vehicle: "stolen", At: now})
	if err := d.book.Command(now, tickets.Pair{Machine: "m", Vehicle: "stolen"}, "c", now.Add(time.Minute)); !errors.Is(err, tickets.ErrRevoked) {
		t.Errorf("to a revoked vehicle: %v", err)
	}
	if err := d.book.Command(now, tickets.Pair{Machine: "m", Vehicle: "v"}, "c", now); !errors.Is(err, tickets.ErrExpired) {
		t.Errorf("that expired: %v", err)
	}
	for i := range 1001 {
		err := d.book.Command(now, tickets.Pair{Machine: fmt.Sprint(i), Vehicle: "v"}, "c", now.AddDate(1, 0, 0))
		if (err != nil) != (i == 1000) || err != nil && !errors.Is(err, tickets.ErrFull) {
			t.Fatalf("command %d: %v", i, err)
		}
	}
	d.pass(now, nil)
	if len(d.standing) != 1000 {
		t.Errorf("%d stand", len(d.standing))
	}
	d.pass(now.Add(24*time.Hour), nil) // no command keeps a ticket for longer
	if len(d.standing) != 0 {
		t.Errorf("%d stand a day later", len(d.standing))
	}
}

func TestRevocation(t *testing.T) {
	d, now := newDesk(t), noon()
	stolen, other := tickets.Pair{Machine: "m", Vehicle: "stolen"}, tickets.Pair{Machine: "m", Vehicle: "v2"}
	d.faults[other] = "F-1"
	d.pass(now, nil)
	if err := d.book.Command(now, stolen, "c1", now.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	d.pass(now, nil)
	taken := d.standing[stolen]
	d.order(tickets.Revoke, "stolen", now)
	d.pass(now, nil)
	d.mustStand(stolen, false)
	if d.standing[other] <= taken {
		t.Errorf("the other gateway's ticket %d does not supersede the stolen %d", d.standing[other], taken)
	}
	delete(d.faults, other)
	d.faults[stolen] = "F-2"
	d.pass(now, nil)
	d.restart(0)
	d.pass(now, nil)
	d.mustStand(stolen, false)
	d.order(tickets.Restore, "stolen", now)
	d.pass(now, nil)
	if d.standing[stolen] <= taken {
		t.Errorf("ticket %d after the revoked %d", d.standing[stolen], taken)
	}
}

func (d *desk) order(a tickets.Action, vehicle string, now time.Time) {
	o := tickets.Order{ID: fmt.Sprint("o", len(d.orders)), Action: a, Vehicle: vehicle, At: now, By: "anna", Reason: "because"}
	d.orders = append(d.orders, o)
	d.book.Order(o)
}

func TestOneThatCannotBeSealedHoldsUpNobody(t *testing.T) {
	d, now := newDesk(t), noon()
	for i := range 20 {
		d.faults[tickets.Pair{Machine: fmt.Sprintf("m%02d", i), Vehicle: "v"}] = "F"
	}
	bad := func(p tickets.Pair) bool { return p.Machine < "m10" }
	d.pass(now, bad)
	if len(d.standing) != 10 {
		t.Errorf("%d stand", len(d.standing))
	}
	d.pass(now.Add(29*time.Second), nil)
	if len(d.standing) != 10 {
		t.Error("it was tried again at once")
	}
	d.pass(now.Add(30*time.Second), nil)
	if len(d.standing) != 20 {
		t.Errorf("%d stand", len(d.standing))
	}
}

// A backup of before is restored after the clock was a year ahead: the floor that restoring sets is above all.
func TestTheFloorIsAboveWhatAStoreForgot(t *testing.T) {
	d, p := newDesk(t), tickets.Pair{Machine: "m", Vehicle: "v"}
	d.faults[p] = "F-1"
	d.pass(noon(), nil)
	backup := maps.Clone(d.stored)
	d.pass(noon().AddDate(1, 0, 0), nil)
	d.stored, d.standing = backup, map[tickets.Pair]uint64{p: backup[p].Counter}
	d.restart(backup[p].Counter + 1<<40)
	d.pass(noon().Add(time.Hour), nil) // pass checks that the number is above
	d.mustStand(p, true)
}

// A clock that is a year ahead, and set right again, costs nobody the way to a machine that believed it.
func TestAClockThatWasAYearAhead(t *testing.T) {
	d, p, m := newDesk(t), tickets.Pair{Machine: "m", Vehicle: "v"}, &machine{since: noon()}
	d.faults[p] = "F-1"
	real := noon()
	for i, ahead := range []time.Duration{0, 365 * 24 * time.Hour, 0, 0} {
		real = real.Add(validity / 8)
		d.pass(real.Add(ahead), nil)
		k := d.stored[p]
		if !m.admits(k, real) || !k.ExpiresAt.After(real.Add(ahead)) {
			t.Errorf("step %d: %+v is not admitted by %+v", i, k, *m)
		}
		*m = machine{k.Counter, k.IssuedAt, real}
	}
	if d.issued != 3 {
		t.Errorf("%d were issued, want one for each time that the clock was set", d.issued)
	}
	d.restart(0)
	if err := d.book.Command(real, tickets.Pair{Machine: "m", Vehicle: "other"}, "c", real.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	d.pass(real, nil) // checks that the number is above those of the year ahead
}

// machine judges tickets as payment machines do.
type machine struct {
	counter  uint64
	issuedAt time.Time
	since    time.Time // by a clock that nobody sets
}

func (m *machine) admits(k tickets.Ticket, real time.Time) bool {
	switch {
	case k.Counter < m.counter:
		return false
	case k.Counter > m.counter && k.IssuedAt.Before(m.issuedAt):
		return true
	}
	return !m.issuedAt.Add(real.Sub(m.since)).After(k.ExpiresAt)
}

func TestTicketsUnderAllThatCanHappen(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		d := newDesk(t)
		real, offset := noon(), time.Duration(0)
		now := func() time.Time { return real.Add(offset) }
		machines, vehicles := []string{"m1", "m2", "m3"}, []string{"v1", "v2", "v3"}
		fleet := map[string]*machine{}
		for _, id := range machines {
			fleet[id] = &machine{since: real}
		}
		commands := map[tickets.Pair]time.Time{}
		revoked := map[string]bool{}
		draw := func() tickets.Pair {
			return tickets.Pair{Machine: rapid.SampledFrom(machines).Draw(r, "machine"), Vehicle: rapid.SampledFrom(vehicles).Draw(r, "vehicle")}
		}
		clear := func(machine string) {
			maps.DeleteFunc(d.faults, func(p tickets.Pair, _ string) bool { return p.Machine == machine })
		}
		r.Repeat(map[string]func(*rapid.T){
			"fault":  func(*rapid.T) { p := draw(); clear(p.Machine); d.faults[p] = "F" }, // or it moves
			"closed": func(*rapid.T) { clear(draw().Machine) },
			"time": func(r *rapid.T) {
				real = real.Add(time.Duration(rapid.Int64Range(1, int64(validity/4)).Draw(r, "passes")))
			},
			"clock": func(r *rapid.T) {
				offset = rapid.SampledFrom([]time.Duration{0, 365 * 24 * time.Hour, -365 * 24 * time.Hour, time.Second}).Draw(r, "offset")
			},
			"restart": func(*rapid.T) { d.restart(0) },
			"command": func(r *rapid.T) {
				p, until := draw(), now().Add(time.Duration(rapid.IntRange(-1, 600).Draw(r, "seconds"))*time.Second)
				if err := d.book.Command(now(), p, "c", until); (err != nil) != (revoked[p.Vehicle] || !until.After(now())) {
					t.Fatalf("command to %v until %s at %s: %v", p, until, now(), err)
				} else if err == nil && until.After(commands[p]) {
					commands[p] = until
				}
				d.pass(now(), nil) // it is on disk before a restart
			},
			"revoke": func(*rapid.T) {
				v := draw().Vehicle
				d.order(tickets.Revoke, v, now())
				revoked[v] = true
				maps.DeleteFunc(commands, func(p tickets.Pair, _ time.Time) bool { return p.Vehicle == v })
			},
			"restore": func(*rapid.T) { v := draw().Vehicle; d.order(tickets.Restore, v, now()); delete(revoked, v) },
			"fails": func(*rapid.T) {
				d.pass(now(), func(p tickets.Pair) bool { return p.Machine == "m1" })
				real = real.Add(31 * time.Second)
			},
			"contact": func(*rapid.T) {
				if len(d.standing) == 0 {
					return
				}
				p := rapid.SampledFrom(slices.SortedFunc(maps.Keys(d.standing), func(x, y tickets.Pair) int {
					return cmp.Or(cmp.Compare(x.Machine, y.Machine), cmp.Compare(x.Vehicle, y.Vehicle))
				})).Draw(r, "contact")
				if fleet[p.Machine].admits(d.stored[p], real) && d.stored[p].Counter > fleet[p.Machine].counter {
					*fleet[p.Machine] = machine{d.stored[p].Counter, d.stored[p].IssuedAt, real}
				}
			},
			"": func(*rapid.T) {
				d.pass(now(), nil)
				stood := maps.Clone(d.standing)
				issued := d.issued
				d.pass(now(), nil)
				if d.issued != issued || !maps.Equal(stood, d.standing) {
					t.Fatal("a second pass changes something")
				}
				maps.DeleteFunc(commands, func(_ tickets.Pair, until time.Time) bool { return !until.After(now()) })
				for p := range d.standing {
					k := d.stored[p]
					_, fault := d.faults[p]
					_, command := commands[p]
					if revoked[p.Vehicle] || !k.Stands() || !fault && !command && !k.FarewellUntil.After(now()) || !k.ExpiresAt.After(now()) || k.IssuedAt.After(now().Add(validity/4)) {
						t.Fatalf("it stands at %s: %+v", now(), k)
					}
				}
				for p := range d.faults {
					if _, stands := d.standing[p]; stands == revoked[p.Vehicle] {
						t.Fatalf("the ticket of %v stands: %t", p, stands)
					}
					alone := true
					for c := range commands {
						alone = alone && (c.Machine != p.Machine || c == p)
					}
					if alone && !revoked[p.Vehicle] && !fleet[p.Machine].admits(d.stored[p], real) {
						t.Fatalf("machine %+v does not admit %+v at %s", *fleet[p.Machine], d.stored[p], real)
					}
				}
			},
		})
	})
}

// A round looks at all tickets that stand, nearly always to find that nothing is to be done.
func BenchmarkPlan5000(b *testing.B) {
	d := newDesk(b)
	for i := range 5000 {
		d.faults[tickets.Pair{Machine: fmt.Sprint("m", i), Vehicle: fmt.Sprint("v", i)}] = "F"
	}
	d.book.SetFaults(noon(), d.faults)
	for _, k := range d.book.Plan(noon(), 5000).Issue {
		k.Sealed = []byte("sealed")
		d.book.Issued(k)
	}
	b.ReportAllocs()
	for b.Loop() {
		d.book.SetFaults(noon(), d.faults)
		if p := d.book.Plan(noon(), 64); len(p.Issue) > 0 {
			b.Fatal(p)
		}
	}
}
