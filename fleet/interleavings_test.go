package fleet

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/farebeat/farebeat/fleet/expect"
	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/rules"
	"github.com/farebeat/farebeat/schemas"
)

// chaos is an engine under everything that can happen to it, with what the store would hold. A kill takes the engine back to that.
type chaos struct {
	t       *rapid.T
	engine  *Engine
	cfg     EngineConfig
	now     time.Time
	seq     uint64
	units   []*unit
	blind   bool
	saved   map[string]faults.Fault // by id, the highest revision
	events  map[string]faults.Event // by id
	open    map[string]bool         // faults that people believe to stand, by what they were told
	minute  Memory                  // as of the last whole minute
	inputs  []faults.Input          // of the next round
	old     []faults.Input          // that came before and may come again
	reports int
}

// unit is a machine and the truth about it.
type unit struct {
	id     string
	hb     schemas.Heartbeat
	off    bool
	ledger uint32 // the ledger has all of 1..ledger
	last   []byte // its last heartbeat
}

func newChaos(t *rapid.T) *chaos {
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	var rows []expect.RouteHour
	for _, route := range []string{"R0", "R1"} {
		for h := range 24 {
			rows = append(rows, expect.RouteHour{Route: route, Hour: h, Vehicles: 6})
		}
	}
	c := &chaos{
		t: t, now: now, saved: map[string]faults.Fault{}, events: map[string]faults.Event{}, open: map[string]bool{},
		cfg: EngineConfig{Location: time.UTC, WarmUp: time.Minute, Expect: expect.NewByHand(rows, time.UTC), Rules: rules.Default(time.UTC)},
	}
	for i := range 12 {
		c.units = append(c.units, &unit{id: fmt.Sprint("m", i), hb: schemas.Heartbeat{
			Boot: "b", State: schemas.Running, Vehicle: fmt.Sprint("v", i/2), Route: fmt.Sprint("R", i%2), Network: fmt.Sprint("N", i/6), Depot: "d", Epoch: 1, Currency: "USD",
		}})
	}
	c.engine = NewEngine(c.cfg, now)
	c.pass(2 * time.Minute)
	return c
}

// pass lets time go by, a round every 5 s.
func (c *chaos) pass(d time.Duration) {
	for end := c.now.Add(d); c.now.Before(end); {
		c.now = c.now.Add(5 * time.Second)
		c.seq++
		for i, u := range c.units {
			if u.off || c.seq%3 != uint64(i%3) {
				continue
			}
			u.hb.Seq, u.hb.At, u.hb.Pending = c.seq, c.now, u.hb.LastSeq-min(u.ledger, u.hb.LastSeq)
			u.hb.PendingMinor = 100 * int64(u.hb.Pending)
			u.last = schemas.AppendHeartbeat(nil, &u.hb)
			c.hear(u)
		}
		c.round()
	}
}

func (c *chaos) hear(u *unit) {
	if c.blind || u.last == nil {
		return
	}
	if err := c.engine.Heartbeat(c.now, u.id, u.last); err != nil {
		c.t.Fatal(err)
	}
}

func (c *chaos) round() {
	in := c.inputs
	c.inputs = nil
	c.save(c.engine.Round(c.now, in).Changes)
	if c.now.Second() == 0 {
		c.minute = c.memory()
	}
	c.check()
}

// memory is what a restart would be given, by way of JSON as the store has it.
func (c *chaos) memory() Memory {
	m, err := c.engine.Remember(c.now)
	if err != nil {
		c.t.Fatal(err)
	}
	b, err := json.Marshal(m)
	if err != nil {
		c.t.Fatal(err)
	}
	var back Memory
	if err := json.Unmarshal(b, &back); err != nil {
		c.t.Fatal(err)
	}
	return back
}

// save keeps changes as the store does, and follows what people are told.
func (c *chaos) save(changes []faults.Change) {
	for _, ch := range changes {
		old, had := c.saved[ch.Fault.ID]
		if had && ch.Fault.Revision < old.Revision {
			continue
		}
		c.saved[ch.Fault.ID] = ch.Fault
		if !ch.HasEvent() {
			continue
		}
		if _, twice := c.events[ch.Event.ID()]; twice {
			c.t.Fatalf("event %s was used before", ch.Event.ID())
		}
		c.events[ch.Event.ID()] = ch.Event
		if !ch.Told() {
			continue
		}
		id := ch.Fault.ID
		switch stands := c.open[id]; ch.Event.Change {
		case faults.ChangeOpened, faults.ChangeReopened:
			if stands {
				c.t.Fatalf("%s: %s of %s, which people know to stand", c.now.Format(time.TimeOnly), ch.Event.Change, ch.Fault.Subject)
			}
			c.open[id] = true
		case faults.ChangeAbandoned:
			delete(c.open, id)
		case faults.ChangeClosed:
			if !stands {
				c.t.Fatalf("%s: %s closed, of which nobody was told", c.now.Format(time.TimeOnly), ch.Fault.Subject)
			}
			delete(c.open, id)
		}
	}
}

// check is what holds after every round.
func (c *chaos) check() {
	seen := map[string]bool{}
	for _, f := range c.engine.OpenFaults() {
		key := fmt.Sprint(f.Family(), f.Subject)
		if seen[key] {
			c.t.Fatalf("two faults of %s stand", key)
		}
		seen[key] = true
		if c.saved[f.ID].Revision != f.Revision {
			c.t.Fatalf("%s stands at revision %d, the store has %d", f.Subject, f.Revision, c.saved[f.ID].Revision)
		}
	}
}

// restart ends the engine: in good order, or by a kill that leaves what the last whole minute left.
func (c *chaos) restart(kill bool, away time.Duration) {
	m := c.minute
	if !kill {
		m = c.memory()
	}
	m.Faults = nil
	for _, f := range c.saved {
		if !f.Ended() || f.Condition == schemas.Closed && c.now.Sub(f.ClosedAt) < time.Hour {
			m.Faults = append(m.Faults, f)
		}
	}
	c.inputs = nil
	c.now = c.now.Add(away)
	c.engine = NewEngine(c.cfg, c.now)
	if err := c.engine.Recall(c.now, m); err != nil {
		c.t.Fatal(err)
	}
	for _, u := range c.units {
		c.engine.LedgerProgress(c.now, u.id, 1, u.ledger)
	}
	c.engine.SetBlind(c.now, c.blind)
}

// tell gives evidence to the next round, sometimes twice, and sometimes with what came before.
func (c *chaos) tell(in ...faults.Input) {
	c.inputs = append(c.inputs, in...)
	c.old = append(c.old, in...)
	if len(c.old) > 0 && rapid.Bool().Draw(c.t, "again") {
		c.inputs = append(c.inputs, c.old[rapid.IntRange(0, len(c.old)-1).Draw(c.t, "which")])
	}
	if rapid.Bool().Draw(c.t, "shuffled") {
		slices.Reverse(c.inputs)
	}
}

// actions are what happens.
func (c *chaos) actions() map[string]func(*rapid.T) {
	some := func(t *rapid.T) *unit { return c.units[rapid.IntRange(0, len(c.units)-1).Draw(t, "machine")] }
	fault := func(t *rapid.T) string {
		open := c.engine.OpenFaults()
		if len(open) == 0 {
			return ""
		}
		return open[rapid.IntRange(0, len(open)-1).Draw(t, "fault")].ID
	}
	return map[string]func(*rapid.T){
		"time": func(t *rapid.T) { c.pass(time.Duration(rapid.IntRange(1, 40).Draw(t, "rounds")) * 5 * time.Second) },
		"long": func(t *rapid.T) { c.pass(time.Duration(rapid.IntRange(3, 20).Draw(t, "minutes")) * time.Minute) },
		"cut":  func(t *rapid.T) { some(t).off = true },
		"back": func(t *rapid.T) { some(t).off = false },
		"network": func(t *rapid.T) {
			n, off := fmt.Sprint("N", rapid.IntRange(0, 1).Draw(t, "network")), rapid.Bool().Draw(t, "off")
			for _, u := range c.units {
				if u.hb.Network == n {
					u.off = off
				}
			}
		},
		"all": func(t *rapid.T) {
			off := rapid.Bool().Draw(t, "off")
			for _, u := range c.units {
				u.off = off
			}
		},
		"taps":   func(t *rapid.T) { some(t).hb.LastSeq += uint32(rapid.IntRange(1, 30).Draw(t, "taps")) },
		"echo":   func(t *rapid.T) { c.hear(some(t)) },
		"ledger": func(t *rapid.T) { c.ledgerTakes(some(t), rapid.Bool().Draw(t, "all")) },
		"recovery": func(t *rapid.T) {
			u := some(t)
			for _, f := range c.engine.OpenFaults() {
				if f.Subject.Machine == u.id && f.Family() == faults.FamilyCustody {
					c.tell(faults.RecoveryReport{Recovery: schemas.Recovery{
						AsOf: c.now, Machine: u.id, Vehicle: u.hb.Vehicle, Fault: f.ID, State: schemas.RecoveryReading, Epoch: 1, LastSeq: u.hb.LastSeq, Total: u.hb.LastSeq, Receipted: u.ledger,
					}})
				}
			}
		},
		"report": func(t *rapid.T) {
			c.reports++
			c.tell(faults.HandReport{Report: schemas.Report{ID: fmt.Sprint("r", c.reports), At: c.now, Machine: some(t).id, Text: "dark", By: "driver"}})
		},
		"attend": func(t *rapid.T) {
			to := rapid.SampledFrom([]schemas.Attention{schemas.Acknowledged, schemas.Assigned, schemas.Shelved, schemas.Unseen}).Draw(t, "to")
			c.tell(faults.Attend{Fault: fault(t), To: to, By: "anna", Until: c.now.Add(10 * time.Minute)})
		},
		"abandon": func(t *rapid.T) { c.tell(faults.Abandon{Fault: fault(t), By: "anna", Reason: "gone"}) },
		"restart": func(t *rapid.T) {
			c.restart(rapid.Bool().Draw(t, "kill"), time.Duration(rapid.IntRange(0, 300).Draw(t, "away"))*time.Second)
		},
		"blind": func(t *rapid.T) {
			c.blind = rapid.Bool().Draw(t, "blind")
			c.engine.SetBlind(c.now, c.blind)
		},
		"reload": func(t *rapid.T) {
			c.reload(rapid.SampledFrom([]string{"", "maintenance: [{name: n, hours: '00:00-24:00', depots: [d]}]", "machine: {silence: 100s}", "causes: {network: {off: true}}"}).Draw(t, "rules"))
		},
	}
}

func (c *chaos) reload(text string) {
	set, err := rules.Parse("rules.yaml", []byte(text), time.UTC)
	if err != nil {
		c.t.Fatal(err)
	}
	c.cfg.Rules = set
	c.engine.SetRules(set)
}

func (c *chaos) ledgerTakes(u *unit, all bool) {
	if u.hb.LastSeq == 0 {
		return
	}
	u.ledger = max(u.ledger, u.hb.LastSeq/2)
	if all {
		u.ledger = u.hb.LastSeq
	}
	if u.ledger > 0 {
		c.engine.LedgerProgress(c.now, u.id, 1, u.ledger)
		c.tell(faults.LedgerProgress{Machine: u.id, Epoch: 1, CompleteTo: u.ledger})
	}
}

// Restarts, kills, reloads, evidence twice and in any order, people and blindness: when all is well for a while no fault stands and people
// know of none, and what is wrong then is a fault that people know of.
func TestNoInterleavingLeavesAFaultWrong(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := newChaos(t)
		t.Repeat(c.actions())
		c.blind = false
		c.engine.SetBlind(c.now, false)
		c.reload("")
		for _, u := range c.units {
			u.off = false
		}
		c.pass(2 * time.Minute)
		for _, u := range c.units {
			c.ledgerTakes(u, true)
		}
		c.pass(75 * time.Minute) // flaps within the hour make a link unstable, which must be calm for a while
		if left := c.engine.OpenFaults(); len(left) > 0 {
			t.Fatalf("all is well, and there stand %d faults: %s %s %s, firing %v", len(left), left[0].Subject, left[0].Kind, left[0].Condition, left[0].Firing)
		}
		if len(c.open) > 0 {
			t.Fatalf("all is well, and people believe in %v", c.open)
		}
		if rapid.Bool().Draw(t, "restart at last") {
			c.restart(rapid.Bool().Draw(t, "kill"), time.Second)
			c.pass(2 * time.Minute)
		}
		u := c.units[3]
		u.off = true
		c.pass(3 * time.Minute)
		left := c.engine.OpenFaults()
		if !slices.ContainsFunc(left, func(f faults.Fault) bool { return f.Subject.Machine == u.id && f.Firing && f.Told && c.open[f.ID] }) {
			t.Fatalf("%s is silent, and of that stands and is told only %+v", u.id, left)
		}
	})
}
