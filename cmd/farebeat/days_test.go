package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/farebeat/farebeat/edge/ble"
	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/ledger"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
	"github.com/farebeat/farebeat/topics/session"
)

func TestDayFourOfTenLoseTheirUplink(t *testing.T) {
	day := newDay(t, "2026-10-27", "Europe/Berlin")
	day.Route("A1", expected("07-09", 10))
	day.Want("07:19", online("A1", 10, false))
	day.At("07:20", day.Cut("A1", 4))
	day.At("07:20:30", day.Tap("A1-03", 120)) // before anybody was told
	day.At("07:21", day.Tap("A1-01", 7))
	day.Want("07:22", fault("A1", schemas.Open))
	day.Want("07:22", machineFault("A1-04", schemas.Recovered)) // it had nothing to bring home
	day.Want("07:22", online("A1", 6, false))
	day.At("07:25", day.Tap("A1-01", 5)) // it goes on writing while it stands
	day.Want("07:28", recovered("A1-03", 120))
	day.Want("07:28", machineFault("A1-03", schemas.Recovered)) // and is not heard yet
	day.Want("07:28", home(132))
	day.Want("07:28:30", fault("A1", schemas.Open)) // the money is home, the uplink is not
	day.At("07:29", day.Return())
	day.Want("07:32", fault("A1", schemas.Closed))
	day.Want("07:32", machineFault("A1-03", schemas.Closed))
	day.Want("07:32", online("A1", 10, false))
	day.Want("07:32", home(132))
	day.Run()
}

// Spoil makes every link to a machine end after so many of its packets; 0 for never.
func (d *day) Spoil(id string, packets int) action {
	return func(d *day) error {
		d.city.airs[vehicleOf(id)].Spoil(id, ble.Faults{MTU: 23, CutAfter: packets})
		return nil
	}
}

// Each machine's links end at another packet, again and again, some before the first record and some behind the last.
// What was read stays read, and in the end all is home, each once.
func TestDayLinksEndAtAnyPacket(t *testing.T) {
	machines := 48
	if underRace {
		machines = 6
	}
	day := newDay(t, "2026-10-27", "Europe/Berlin")
	day.Route("A1", expected("07-09", machines))
	day.At("07:20", day.Cut("A1", machines))
	for i := 1; i <= machines; i++ {
		id := nth("A1", i)
		day.At("07:20:10", day.Spoil(id, 9*i))
		day.At("07:20:20", day.Tap(id, 12))
		day.At("07:40", day.Spoil(id, 0))
	}
	day.Want("07:22", fault("A1", schemas.Open))
	day.Want("07:39", inLedger("A1-01", 0)) // it never came as far as a record
	if !underRace {
		day.Want("07:39", inLedger(nth("A1", machines), 12)) // and this one to the end
	}
	day.Want("07:59", home(12*machines))
	day.At("08:00", day.Return())
	day.Want("08:06", fault("A1", schemas.Closed))
	day.Want("08:06", home(12*machines))
	day.Want("08:06", noSlots())
	day.Run()
}

// noSlots wants every transactions slot to be cleared.
func noSlots() want {
	return want{"noSlots()", func(d *day) error {
		if list := d.sees.standing(d, func(a topics.Address) bool { return a.Kind == topics.Transactions }); len(list) > 0 {
			return fmt.Errorf("%v stand", list)
		}
		return nil
	}}
}

func TestDaySilentFor60Of75Seconds(t *testing.T) {
	day := newDay(t, "2026-10-27", "Europe/Berlin")
	for s := 0; s <= 30*60; s += 60 {
		day.At(fmt.Sprintf("10:%02d:%02d", s/60, s%60), day.Beat("B1-01", "B1"))
	}
	day.Always("10:00:01", "10:30:59", time.Second, calm())
	day.Want("10:31:15", machineFault("B1-01", schemas.Open))
	day.Run()
}

func TestDayARouteFallsSilent(t *testing.T) {
	day := newDay(t, "2026-10-27", "Europe/Berlin")
	day.bare = true
	day.Route("C1", expected("07-09", 3))
	day.Want("07:19:58", calm())
	day.At("07:20", day.Cut("C1", 3))
	day.Want("07:21", fault("C1", schemas.Open)) // the last heartbeat was before 07:20
	day.Want("07:21", kind("C1", faults.RouteSilent))
	day.Always("07:22", "12:00", 10*time.Minute, fault("C1", schemas.Open)) // past the end of service too
	day.Want("12:00", kind("C1", faults.RouteSilent))
	day.Run()
}

func TestDayWeAreDeaf(t *testing.T) {
	day := newDay(t, "2026-10-27", "Europe/Berlin")
	day.listen = true
	day.Route("D1", expected("07-09", 4))
	day.Want("07:19:59", online("D1", 4, false))
	day.At("07:20:02", day.Deafen(true))
	day.Want("07:29", day.frames("07:21", "07:29", true, 8))
	day.At("07:30:02", day.Deafen(false))
	day.Want("07:30:45", online("D1", 4, true)) // connected again, and still warming up
	day.Always("07:20", "07:45", time.Minute, calm())
	day.Want("07:35", online("D1", 4, false))
	day.Want("07:45", day.frames("07:33", "07:45", false, 12))
	day.Run()
}

func TestDayTheClockGoesBack(t *testing.T) {
	day := newDay(t, "2026-10-25", "Europe/Berlin")
	day.bare = true
	day.Route("E1", expected("01-04", 3))
	day.Always("01:00 CEST", "03:59", 10*time.Minute, calm())
	day.Want("02:30 CEST", online("E1", 3, false))
	day.Want("02:30 CET", online("E1", 3, false))
	day.Want("03:30", day.hourRow("E1", "01:00", 3, 3))
	day.Want("03:30", day.hourRow("E1", "02:00 CEST", 3, 3))
	day.Want("03:30", day.hourRow("E1", "02:00 CET", 3, 3))
	day.Run()
}

func TestDayTheClockGoesForward(t *testing.T) {
	day := newDay(t, "2026-03-29", "Europe/Berlin")
	day.bare = true
	day.Route("F1", expected("01-05", 3))
	day.Always("01:00", "04:59", 10*time.Minute, calm())
	day.Want("03:30", online("F1", 3, false))
	day.Want("04:30", day.hourRow("F1", "01:00", 3, 3))
	day.Want("04:30", day.hourRow("F1", "03:00", 3, 3))
	day.Want("04:30", day.frames("01:30", "03:30", false, 60)) // 02:00 to 03:00 was not
	day.Run()
}

func TestDayServicePastMidnight(t *testing.T) {
	day := newDay(t, "2026-10-27", "Europe/Berlin")
	day.bare = true
	day.Route("G1", expected("22-26", 5))
	day.Always("22:01", "24:29", time.Minute, calm())
	day.Want("24:10", online("G1", 5, false))
	day.At("24:30", day.Cut("G1", 3))
	day.Want("24:32", fault("G1", schemas.Open))
	day.At("24:40", day.Return())
	day.Want("24:44", fault("G1", schemas.Closed))
	day.Want("25:01", day.hourRow("G1", "23:00", 5, 5))
	day.Want("25:01", day.hourRow("G1", "24:00", 5, 5))
	day.Want("26:30", fault("G1", schemas.Closed)) // the end of service is no silence
	day.Run()
}

func TestDayARestartInsideAFor(t *testing.T) {
	day := newDay(t, "2026-10-27", "Europe/Berlin")
	day.rules = `
route:
  min_ratio: 0.9
  for: {m: 10, of: 10, every: 1m}
`
	day.Route("H1", expected("07-09", 4))
	day.At("07:20", day.Cut("H1", 1)) // it counts as there for 45 to 60 s more
	day.At("07:27:30", day.Restart())
	day.Want("07:29:30", noRouteFault("H1"))
	day.Want("07:32:10", fault("H1", schemas.Open))
	day.Run()
}

// kind wants the route's newest fault to be of a kind.
func kind(route string, k faults.Kind) want {
	return want{fmt.Sprintf("kind(%s, %s)", route, k), func(d *day) error {
		f, _, err := d.faultOf(faults.Subject{Route: route})
		if err == nil && f.Kind != k {
			err = fmt.Errorf("it is %q", f.Kind)
		}
		return err
	}}
}

// noRouteFault wants the route to never have had a fault.
func noRouteFault(route string) want {
	return want{"noRouteFault(" + route + ")", func(d *day) error {
		f, found, err := d.faultOf(faults.Subject{Route: route})
		if found {
			err = errors.Join(err, fmt.Errorf("it is %s since %s", f.Condition, f.OpenedAt))
		}
		return err
	}}
}

// refusals is what was counted as bad.
type refusals struct {
	fleet, write, form                 uint64
	forged, malformed, conflict, batch uint64
}

func (d *day) refusals() refusals {
	b, l := d.broker.Stats(), d.fleet.Ledger().Stats()
	return refusals{d.fleet.Stats().Refused.Load(), b.RefusedWrite, b.RefusedForm, l.Forged, l.Malformed, l.Conflict, l.Refused}
}

// bad sends a message and wants exactly this to be counted for it, and nothing else to change.
func (d *day) bad(from topics.Identity, to topics.Address, payload func(*day) []byte, counted refusals) action {
	return func(d *day) error {
		before, heard := d.refusals(), d.fleet.Stats().Heartbeats.Load()
		h, err := d.hand(from)
		if err != nil {
			return err
		}
		topic, spec := "farebeat/v1/elsewhere/machine/X1/heartbeat", topics.Spec{QoS: 1}
		if to.Kind != "" {
			if topic, err = d.tree.Build(to); err != nil {
				return err
			}
			spec, _ = topics.Lookup(to.Kind)
		}
		ctx, cancel := context.WithTimeout(d.ctx, 5*time.Second)
		defer cancel()
		// A writer that is refused is disconnected, so that no answer is one too.
		_ = h.session.Publish(ctx, session.Message{Topic: topic, QoS: spec.QoS, Retain: spec.Retain, Payload: payload(d)})
		time.Sleep(10 * time.Second)
		after := d.refusals()
		delta := refusals{
			after.fleet - before.fleet, after.write - before.write, after.form - before.form,
			after.forged - before.forged, after.malformed - before.malformed, after.conflict - before.conflict, after.batch - before.batch,
		}
		if delta != counted {
			return fmt.Errorf("counted %+v, want %+v", delta, counted)
		}
		if n := d.fleet.Stats().Heartbeats.Load(); n != heard {
			return fmt.Errorf("%d heartbeats were taken", n-heard)
		}
		return nil
	}
}

// named lets the day go on after an error.
func named(name string, do action) action {
	return func(d *day) error {
		if err := do(d); err != nil {
			d.t.Errorf("%s: %v", name, err)
		}
		return nil
	}
}

// untouched wants the fleet to believe nothing but what X1 said well: it is up, and that is all.
func untouched() want {
	return want{"untouched()", func(d *day) error {
		v, _ := d.fleet.Engine().Presence().View("X1")
		if v.State != schemas.Up || v.Route != "X" || v.Pending != 0 {
			return fmt.Errorf("X1 is %+v", v)
		}
		if _, known := d.fleet.Engine().Presence().View("X2"); known {
			return errors.New("X2 is known")
		}
		for _, id := range []string{"X1", "X2"} {
			if n, err := d.held(id); err != nil || n > 0 {
				return fmt.Errorf("the ledger holds %d records of %s, %w", n, id, err)
			}
		}
		if list := d.sees.standing(d, func(a topics.Address) bool {
			forged := a.Machine == "X2" || a.Vehicle == "bus-X2" || a.Route == "A"
			return forged || a.Kind == topics.VehicleFault || a.Kind == topics.RouteFault
		}); len(list) > 0 {
			return fmt.Errorf("%v stand", list)
		}
		return nil
	}}
}

// quarantined wants so much evidence of a kind to be kept.
func quarantined(id string, kind ledger.Kind, n int) want {
	return want{fmt.Sprintf("quarantined(%s, %s, %d)", id, kind, n), func(d *day) error {
		seen := 0
		err := d.fleet.Ledger().Quarantine(d.ctx, id, func(q ledger.Quarantined) error {
			if q.Kind == kind {
				seen++
			}
			return nil
		})
		if err == nil && seen != n {
			err = fmt.Errorf("%d are kept", seen)
		}
		return err
	}}
}

func TestDayBadInput(t *testing.T) {
	x1 := topics.Identity{Role: topics.RoleMachine, Name: "X1"}
	bus := topics.Identity{Role: topics.RoleGateway, Name: "bus-X1"}
	beat := topics.Address{Kind: topics.Heartbeat, Machine: "X1"}
	status := topics.Address{Kind: topics.Gateway, Vehicle: "bus-X1"}
	slot := topics.Address{Kind: topics.Transactions, Vehicle: "bus-X1", Machine: "X1", Batch: topics.BatchID{Epoch: 1, First: 1, Last: 1}}
	text := func(s string) func(*day) []byte { return func(*day) []byte { return []byte(s) } }
	size := func(n int) func(*day) []byte { return func(*day) []byte { return bytes.Repeat([]byte(" "), n) } }

	type made = func(*day) []byte
	day := newDay(t, "2026-10-27", "Europe/Berlin")
	minute := 0
	send := func(name string, from topics.Identity, to topics.Address, payload made, counted refusals) {
		minute++
		day.At(fmt.Sprintf("10:%02d", minute), named(name, day.bad(from, to, payload, counted)))
	}
	for m := range 21 {
		for _, second := range []int{15, 30, 45, 59} { // between them it is a good machine
			day.At(fmt.Sprintf("10:%02d:%02d", m, second), day.Beat("X1", "X"))
		}
	}
	send("a heartbeat that is no JSON", x1, beat, text("hello"), refusals{fleet: 1})
	send("a heartbeat cut short", x1, beat, text(`{"seq":1,"boot":"b","at":"2026-10-27T09:00:00Z","sta`), refusals{fleet: 1})
	send("a heartbeat of a wrong type", x1, beat, text(`{"seq":"1","boot":"b","at":"2026-10-27T09:00:00Z","state":"running"}`), refusals{fleet: 1})
	send("a heartbeat without its state", x1, beat, text(`{"seq":1,"boot":"b","at":"2026-10-27T09:00:00Z"}`), refusals{fleet: 1})
	send("an oversized heartbeat", x1, beat, size(1025), refusals{form: 1})
	send("another machine's heartbeat", x1, topics.Address{Kind: topics.Heartbeat, Machine: "X2"}, text("{}"), refusals{write: 1})
	send("a machine that says it is up", x1, topics.Address{Kind: topics.MachineState, Machine: "X1"}, text("{}"), refusals{write: 1})
	send("a machine that says its route is well", x1, topics.Address{Kind: topics.RouteOnline, Route: "A"}, text("{}"), refusals{write: 1})
	send("a topic of another operator", x1, topics.Address{}, text("{}"), refusals{write: 1})
	send("a status that is no JSON", bus, status, text("hello"), refusals{fleet: 1})
	send("an oversized status", bus, status, size(1<<20), refusals{form: 1})
	send("another vehicle's status", bus, topics.Address{Kind: topics.Gateway, Vehicle: "bus-X2"}, text("{}"), refusals{write: 1})
	send("a gateway that writes a receipt", bus, topics.Address{Kind: topics.Receipt, Vehicle: "bus-X1", Machine: "X1"}, text("{}"), refusals{write: 1})
	send("a batch that is no JSON", bus, slot, text("hello"), refusals{fleet: 1, batch: 1})
	send("a batch of another machine than its topic", bus, slot, batchOf("X2", "X2", "X2"), refusals{fleet: 1, batch: 1})
	send("a record that names another machine", bus, slot, batchOf("X1", "X2", "X1"), refusals{malformed: 1})
	send("a record of another machine", bus, slot, batchOf("X1", "X2", "X2"), refusals{forged: 1})
	send("a forged MAC", bus, slot, batchOf("X1", "X1", "X3"), refusals{forged: 1})
	day.Want("10:20", quarantined("X1", ledger.Forged, 2))
	day.Want("10:20", quarantined("X1", ledger.Malformed, 1))
	day.Want("10:20", calm())
	day.Want("10:20", untouched())
	day.Run()
}

// slotStands wants something, or nothing, to stand on a transactions slot.
func slotStands(a topics.Address, stands bool) want {
	return want{fmt.Sprintf("slotStands(%s, %t)", a.Machine, stands), func(d *day) error {
		topic, err := d.tree.Build(a)
		if err == nil && slices.Contains(d.sees.standing(d, func(topics.Address) bool { return true }), topic) != stands {
			err = fmt.Errorf("%s: stands is %t", topic, !stands)
		}
		return err
	}}
}

// inLedger wants the ledger to hold n records of a machine.
func inLedger(id string, n int) want {
	return want{fmt.Sprintf("inLedger(%s, %d)", id, n), func(d *day) error {
		held, err := d.held(id)
		if err == nil && held != n {
			err = fmt.Errorf("it holds %d", held)
		}
		return err
	}}
}

// A gateway that was replaced leaves slots behind. What the ledger holds is cleared for it; what it does not hold stands.
func TestDaySlotsOfAGatewayThatIsGone(t *testing.T) {
	bus := topics.Identity{Role: topics.RoleGateway, Name: "bus-X1"}
	left := topics.Address{Kind: topics.Transactions, Vehicle: "bus-X1", Machine: "X1", Batch: topics.BatchID{Epoch: 1, First: 1, Last: 1}}
	forged := left
	forged.Machine = "X4"
	leave := func(a topics.Address, payload func(*day) []byte) action {
		return func(d *day) error {
			h, err := d.hand(bus)
			if err != nil {
				return err
			}
			topic, err := d.tree.Build(a)
			if err != nil {
				return err
			}
			return h.session.Publish(d.ctx, session.Message{Topic: topic, QoS: 1, Retain: true, Payload: payload(d)})
		}
	}
	day := newDay(t, "2026-10-27", "Europe/Berlin")
	day.At("10:01", leave(left, batchOf("X1", "X1", "X1")))
	day.At("10:01", leave(forged, batchOf("X4", "X4", "X1")))
	day.Want("10:02", inLedger("X1", 1))
	day.Want("10:10:30", slotStands(left, true))
	day.Want("10:13", slotStands(left, false))
	day.Want("10:13", slotStands(forged, true))
	day.Want("10:13", inLedger("X1", 1))
	day.Run()
}

// batchOf makes a batch of one record that names a machine and has the MAC of another.
func batchOf(id, inside, signer string) func(*day) []byte {
	return func(d *day) []byte {
		key, err := d.keys.Machine(d.ctx, signer)
		must(err)
		now := time.Now().UTC()
		tx := schemas.Transaction{
			Machine: inside, Epoch: 1, Seq: 1, EventTime: now, TZ: "Europe/Berlin", ServiceDate: "2026-10-27", AmountMinor: 200, Currency: "EUR",
			FareAction: "Enter", Media: "Smart card", TokenID: "tok-1", Offline: true,
		}
		record, _, err := schemas.MintTransaction(key[:], [32]byte{}, &tx)
		must(err)
		return fmt.Appendf(nil, `{"machine":%q,"vehicle":"bus-X1","epoch":1,"first":1,"last":1,"as_of":%q,"records":[%s]}`,
			id, now.Format("2006-01-02T15:04:05.000Z"), strings.TrimSpace(string(record)))
	}
}
