package edge

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/farebeat/farebeat/edge/outbox"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
)

func TestARecoveryFromFaultToRelease(t *testing.T) {
	m := newMachine("m-1")
	m.tap(t, 3, 450)
	drive(t, nil, func(r *rig) {
		r.hub.fault(fault("m-1", 450, 0))
		r.home(m, 450, time.Minute)
		rec := r.hub.recovery("m-1")
		if rec.State != schemas.RecoveryComplete || rec.Read != 450 || rec.Receipted != 450 || rec.Total != 450 || rec.Epoch != 3 || rec.LastSeq != 450 || rec.LastError != "" {
			t.Fatalf("recovery %+v", rec)
		}
		told := m.told()
		if len(told.notices) == 0 || told.notices[0].Fault != "f-m-1" {
			t.Fatalf("the machine was not told of its fault: %v", told.notices)
		}
		if skew := time.Since(told.clock); skew < 0 || skew > time.Minute {
			t.Fatalf("the machine's clock was set to %v", told.clock)
		}
		// The machine has no uplink still and goes on writing.
		m.tap(t, 3, 7)
		r.home(m, 457, 6*time.Minute)
		// The fleet closes the fault; the machine hears of it, and progress is cleared.
		r.hub.clearFault("m-1")
		r.wait(time.Minute, "the farewell", func() bool { return m.told().cleared == 1 })
		r.wait(time.Minute, "progress to be cleared", func() bool { return r.hub.recovery("m-1").Machine == "" })
		after(time.Hour)
		if got := m.told().cleared; got != 1 {
			t.Fatalf("the machine was told %d times", got)
		}
	}, m)
}

// However short the link holds, every record arrives once: it is lost after every
// second packet of a recovery of 300 records, each of which takes two.
func TestCutAtEveryRecord(t *testing.T) {
	const n = 300
	template := newMachine("m-1")
	template.tap(t, 3, n)
	step := 2
	if testing.Short() || underRace {
		step = 74
	}
	cuts := 0
	for held := false; !held; cuts++ {
		m := newMachine("m-1")
		m.records[3] = template.records[3]
		drive(t, nil, func(r *rig) {
			r.air.cutAfter(m, 1+step*cuts)
			r.hub.fault(fault("m-1", n, 0))
			r.wait(time.Minute, "the end of the first contact", func() bool { s := r.agent.Stats(); return s.Failed > 0 || s.Read == n })
			held = r.agent.Stats().Read == n
			r.air.whole(m)
			r.home(m, n, 2*time.Minute)
		}, m)
		if t.Failed() {
			t.Fatalf("cut after %d packets", 1+step*cuts)
		}
	}
	if cuts < 2*n/step {
		t.Fatalf("the link held with %d cuts, which is not each record", cuts)
	}
}

// The link breaks after every 40 records, for ever: it gets there.
func TestALinkThatKeepsBreaking(t *testing.T) {
	m := newMachine("m-1")
	m.tap(t, 3, 300)
	drive(t, nil, func(r *rig) {
		r.hub.fault(fault("m-1", 300, 0))
		r.air.cutAfter(m, 40)
		for range 100 {
			if r.hub.held("m-1") >= 280 {
				break
			}
			r.air.cutAfter(m, 40)
			after(30 * time.Second)
		}
		r.air.whole(m)
		r.home(m, 300, 10*time.Minute)
	}, m)
}

func TestTheBrokerIsAway(t *testing.T) {
	m := newMachine("m-1")
	m.tap(t, 3, 450)
	drive(t, nil, func(r *rig) {
		r.hub.fault(fault("m-1", 450, 0))
		after(50 * time.Millisecond)
		r.hub.cut(true)
		r.wait(time.Minute, "all records on the gateway", func() bool { return r.stats().Records == 450 })
		after(3 * time.Hour)
		if got := m.pending(); got != 450 {
			t.Fatalf("the machine gave up %d records without a receipt", 450-got)
		}
		if g := r.hub.gateway(); g.Status != schemas.ConnectionBroken {
			t.Fatalf("gateway %+v", g)
		}
		r.hub.restore()
		r.home(m, 450, time.Minute)
	}, m)
}

func TestTheLedgerIsNotReady(t *testing.T) {
	m := newMachine("m-1")
	m.tap(t, 3, 10)
	drive(t, nil, func(r *rig) {
		r.hub.fleet(false, 1)
		r.hub.fault(fault("m-1", 10, 0))
		after(time.Hour)
		if s := r.stats(); s.Records != 10 || s.OpenBatches != 0 || len(r.hub.slots()) != 0 {
			t.Fatalf("sent before the ledger was ready: %+v, slots %v", s, r.hub.slots())
		}
		r.hub.fleet(true, 2)
		r.home(m, 10, time.Minute)
	}, m)
}

// A death of the fleet that belongs to an earlier birth is late news.
func TestALateDeathOfTheFleet(t *testing.T) {
	m := newMachine("m-1")
	m.tap(t, 3, 10)
	drive(t, nil, func(r *rig) {
		r.hub.fleet(true, 5)
		die := func(session uint64) {
			r.hub.do(func() {
				r.hub.put(topics.Address{Kind: topics.Fleet}, &schemas.Fleet{AsOf: dawn, Status: schemas.ConnectionBroken, Since: dawn, Session: session})
			})
			after(time.Second)
		}
		ready := func() bool {
			r.agent.sender.mu.Lock()
			defer r.agent.sender.mu.Unlock()
			return r.agent.sender.ready
		}
		die(4)
		if !ready() {
			t.Fatal("an old death counts")
		}
		die(5)
		if ready() {
			t.Fatal("this death does not count")
		}
		r.hub.fleet(true, 6)
		r.hub.fault(fault("m-1", 10, 0))
		r.home(m, 10, time.Minute)
	}, m)
}

// Publications that are never acknowledged are sent again: the same slot, the
// same bytes.
func TestLostAcknowledgements(t *testing.T) {
	m := newMachine("m-1")
	m.tap(t, 3, 450)
	drive(t, nil, func(r *rig) {
		r.hub.do(func() { r.hub.holding = true })
		r.hub.fault(fault("m-1", 450, 0))
		r.wait(time.Minute, "all records on the gateway", func() bool { return r.stats().Records == 450 })
		for range 3 {
			r.hub.do(func() { r.hub.deaf = 2 })
			r.hub.cut(false)
			after(2 * time.Minute)
		}
		r.hub.do(func() {
			sent := map[string][]string{}
			for _, msg := range r.hub.log {
				if to, err := r.hub.tree.Parse(msg.Topic); err == nil && to.Kind == topics.Transactions && len(msg.Payload) > 0 {
					sent[to.Batch.String()] = append(sent[to.Batch.String()], string(msg.Payload))
				}
			}
			for slot, payloads := range sent {
				if len(payloads) < 3 {
					t.Errorf("slot %s was sent %d times", slot, len(payloads))
				}
				if all := slices.Compact(payloads); len(all) != 1 {
					t.Errorf("slot %s was sent with %d different payloads", slot, len(all))
				}
			}
			var records uint64
			for slot := range sent {
				b, err := topics.ParseBatchID(slot)
				if err != nil {
					t.Error(err)
				}
				records += uint64(b.Last-b.First) + 1
			}
			if records != 450 {
				t.Errorf("the slots hold %d records: %v", records, sent)
			}
			r.hub.holding = false
			r.hub.receipt("m-1")
		})
		r.home(m, 450, 2*time.Minute)
	}, m)
}

// A broker that lost its disk gets every open batch again; the ledger that lost
// everything as well.
func TestTheBrokerLosesItsDisk(t *testing.T) {
	m := newMachine("m-1")
	m.tap(t, 3, 450)
	drive(t, nil, func(r *rig) {
		r.hub.do(func() { r.hub.holding = true })
		r.hub.fault(fault("m-1", 450, 0))
		r.wait(time.Minute, "all slots", func() bool { return len(r.hub.slots()) == 3 })
		r.hub.wipe()
		r.hub.do(func() {
			r.hub.ledger, r.hub.bodies = map[string]Records{}, map[string]map[[2]uint32]any{}
			r.hub.holding = false
		})
		r.hub.fleet(true, 2)
		r.hub.fault(fault("m-1", 450, 0))
		r.hub.cut(false)
		r.home(m, 450, 2*time.Minute)
	}, m)
}

// The gateway is stopped and started again all the time, at other places each time.
func TestTheGatewayRestarts(t *testing.T) {
	m := newMachine("m-1")
	m.tap(t, 2, 30)
	m.tap(t, 3, 450)
	drive(t, nil, func(r *rig) {
		r.hub.fault(fault("m-1", 480, 0))
		for i := range 12 {
			after(time.Duration(i*i*7) * time.Millisecond)
			r.restart()
		}
		r.home(m, 480, 10*time.Minute)
	}, m)
}

func TestAFullOutboxPushesBack(t *testing.T) {
	const n, limit = 13500, schemas.MaxOpenBatches * schemas.MaxBatch
	m := newMachine("m-1")
	m.tap(t, 3, n)
	drive(t, nil, func(r *rig) {
		r.hub.do(func() { r.hub.holding = true })
		r.hub.fault(fault("m-1", n, 0))
		r.wait(time.Hour, "a full outbox", func() bool { return r.hub.recovery("m-1").State == schemas.RecoveryFailed })
		rec := r.hub.recovery("m-1")
		if rec.Read > limit || rec.Read < limit-schemas.MaxBatch || !strings.Contains(rec.LastError, "64 batches of this machine wait for the ledger's receipt") {
			t.Fatalf("recovery %+v", rec)
		}
		after(7 * time.Minute)
		if s := r.stats(); s.Records != int(rec.Read) || m.pending() != n {
			t.Fatalf("outbox %+v, the machine holds %d", s, m.pending())
		}
		r.hub.do(func() { r.hub.holding = false; r.hub.receipt("m-1") })
		r.home(m, n, time.Hour)
	}, m)
}

// Receipts that come while the link is held let the same contact go on.
func TestAFullOutboxWaitsWithTheLinkHeld(t *testing.T) {
	const n, limit = 13500, schemas.MaxOpenBatches * schemas.MaxBatch
	m := newMachine("m-1")
	m.tap(t, 3, n)
	drive(t, nil, func(r *rig) {
		r.hub.do(func() { r.hub.holding = true })
		r.hub.fault(fault("m-1", n, 0))
		r.wait(time.Hour, "a full outbox", func() bool { return len(r.hub.slots()) == schemas.MaxOpenBatches-1 })
		after(5 * time.Second) // the last batch is not full: the next page has no room
		if rec := r.hub.recovery("m-1"); rec.State != schemas.RecoveryReading || rec.Read < limit-schemas.MaxBatch {
			t.Fatalf("recovery %+v", rec)
		}
		r.hub.do(func() { r.hub.holding = false; r.hub.receipt("m-1") })
		r.home(m, n, time.Minute)
		if s := r.agent.Stats(); s.Failed != 0 {
			t.Fatalf("the contact was given up: %+v", s)
		}
	}, m)
}

func TestTheMachineIsOutOfReach(t *testing.T) {
	m := newMachine("m-1")
	m.tap(t, 3, 10)
	drive(t, nil, func(r *rig) {
		r.air.remove(m)
		r.hub.fault(fault("m-1", 10, 0))
		after(24 * time.Hour)
		rec := r.hub.recovery("m-1")
		if rec.Attempts < 200 || !strings.Contains(rec.LastError, "not heard over Bluetooth") {
			t.Fatalf("recovery %+v", rec)
		}
		r.air.put(m)
		r.home(m, 10, 10*time.Minute)
	}, m)
}

func TestTwoMachinesOneRadio(t *testing.T) {
	a, b := newMachine("a-1"), newMachine("b-1")
	a.tap(t, 1, 60)
	b.tap(t, 1, 600)
	drive(t, nil, func(r *rig) {
		r.hub.fault(fault("a-1", 60, 0))
		r.hub.fault(fault("b-1", 600, 0))
		r.home(a, 60, 2*time.Minute)
		r.home(b, 600, 2*time.Minute)
	}, a, b)
}

func TestCommandsOverTheBroker(t *testing.T) {
	m := newMachine("m-1")
	m.tap(t, 3, 30)
	command := func(id string, verb schemas.Verb, machine string) schemas.Command {
		return schemas.Command{ID: id, At: time.Now(), By: "lena", Verb: verb, Machine: machine, ExpiresAt: time.Now().Add(2 * time.Minute)}
	}
	drive(t, nil, func(r *rig) {
		last := func(id string, want schemas.CommandState) schemas.CommandResult {
			t.Helper()
			r.wait(5*time.Minute, "the answer to "+id, func() bool {
				all := r.hub.results(id)
				return len(all) > 0 && (all[len(all)-1].State == schemas.CommandFinished || all[len(all)-1].State == schemas.CommandFailed)
			})
			all := r.hub.results(id)
			got := all[len(all)-1]
			if got.State != want {
				t.Fatalf("%s: %+v", id, all)
			}
			return got
		}
		r.hub.command(command("probe", schemas.VerbProbe, "m-1"))
		if got := last("probe", schemas.CommandFinished); !strings.Contains(string(got.Detail), `"pending":30`) || !strings.Contains(string(got.Detail), `"clock_skew_ms":-15`) {
			t.Fatalf("%s", got.Detail)
		}
		if r.stats().Records != 0 {
			t.Fatal("a probe reads no records")
		}
		r.hub.command(command("collect", schemas.VerbCollect, "m-1"))
		if got := last("collect", schemas.CommandFinished); got.Text != "30 new records are on the gateway." {
			t.Fatalf("%+v", got)
		}
		r.wait(time.Minute, "the ledger", func() bool { return r.hub.held("m-1") == 30 })
		r.hub.command(command("time", schemas.VerbSetTime, "m-1"))
		last("time", schemas.CommandFinished)
		m.mu.Lock()
		m.noClock = true
		m.mu.Unlock()
		r.hub.command(command("time-2", schemas.VerbSetTime, "m-1"))
		if got := last("time-2", schemas.CommandFailed); !strings.Contains(got.Text, "the clock is locked") {
			t.Fatalf("%+v", got)
		}
		r.hub.command(command("reboot", schemas.VerbReboot, "m-1"))
		last("reboot", schemas.CommandFailed)
		r.hub.command(command("away", schemas.VerbCollect, "m-7"))
		if got := last("away", schemas.CommandFailed); !strings.Contains(got.Text, "expired") || !strings.Contains(got.Text, "not heard") {
			t.Fatalf("%+v", got)
		}
	}, m)
}

// Malformed messages are counted and change nothing; the good one behind them works.
func TestBadMessagesChangeNothing(t *testing.T) {
	m := newMachine("m-1")
	m.tap(t, 3, 10)
	drive(t, nil, func(r *rig) {
		bad := map[string]string{
			"vehicle/bus-1/fault/m-1":   "not JSON",
			"vehicle/bus-1/fault/m-2":   `{"specversion":"1.0"}`,
			"vehicle/bus-1/receipt/m-1": strings.Replace(goodReceipt, `"highest":9`, `"highest":8`, 1),
			"command/bus-1/c-1":         strings.Repeat("[", 1000),
			"fleet":                     `{"status":"MAYBE"}`,
		}
		r.hub.do(func() {
			for topic, payload := range bad {
				r.hub.deliver(delivery(root+topic, payload))
			}
		})
		after(time.Minute)
		if got := r.agent.Stats(); got.Refused != uint64(len(bad)) || got.Contacts != 0 {
			t.Fatalf("%+v", got)
		}
		if _, ok, err := r.box.LatestReceipt(context.Background(), "m-1"); ok || err != nil {
			t.Fatalf("the receipt was kept: %v", err)
		}
		r.hub.fault(fault("m-1", 10, 0))
		r.home(m, 10, time.Minute)
	}, m)
}

// Faults that closed while the gateway was away are over for it, too.
func TestAFaultThatClosedMeanwhile(t *testing.T) {
	m := newMachine("m-1")
	drive(t, nil, func(r *rig) {
		r.air.remove(m)
		r.hub.fault(fault("m-1", 10, 0))
		after(time.Minute)
		r.hub.cut(true)
		r.hub.clearFault("m-1")
		after(time.Hour)
		r.hub.restore()
		after(20 * time.Minute)
		before := r.agent.Stats()
		r.air.put(m)
		after(20 * time.Minute)
		if got := r.agent.Stats(); got.Contacts != before.Contacts {
			t.Fatalf("contacted for a fault that is over: %+v", got)
		}
		if rec := r.hub.recovery("m-1"); rec.Machine != "" {
			t.Fatalf("progress %+v", rec)
		}
	}, m)
}

func TestTheGatewaySaysThatItIsThere(t *testing.T) {
	m := newMachine("m-1")
	drive(t, func(o *Options) { o.Machines = []string{"m-1"} }, func(r *rig) {
		r.wait(time.Minute, "the birth", func() bool { return r.hub.gateway().Status == schemas.Online })
		first := r.hub.gateway().Session
		r.wait(time.Minute, "the sighting", func() bool {
			seen := r.hub.gateway().Seen
			return len(seen) == 1 && seen[0].Machine == "m-1" && seen[0].RSSI < 0
		})
		r.hub.cut(true)
		if g := r.hub.gateway(); g.Status != schemas.ConnectionBroken || g.Session != first {
			t.Fatalf("the will is %+v, the birth had session %d", g, first)
		}
		r.hub.restore()
		r.wait(time.Minute, "another birth", func() bool { return r.hub.gateway().Status == schemas.Online })
		second := r.hub.gateway()
		if second.Session <= first || len(second.Seen) != 1 {
			t.Fatalf("second birth %+v after session %d", second, first)
		}
		r.stop()
		if g := r.hub.gateway(); g.Status != schemas.Offline || g.Session != second.Session {
			t.Fatalf("the farewell is %+v", g)
		}
	}, m)
}

func TestOptionsAreChecked(t *testing.T) {
	if _, err := New(Options{}); err == nil || !strings.Contains(err.Error(), "[Vehicle Connect Radio Outbox]") {
		t.Fatalf("error %v", err)
	}
	h := newHub(t, nil)
	box, err := outbox.Open(t.Context(), t.TempDir()+"/outbox.db", outbox.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer box.Close()
	o := Options{Vehicle: "bus-1", Tree: h.tree, Connect: h.connect, Radio: newTestAir().radio(), Outbox: box, Limits: Limits{Scan: -time.Second}}
	if _, err := New(o); err == nil || !strings.Contains(err.Error(), "Limits.Scan is -1s") {
		t.Fatalf("error %v", err)
	}
	o.Limits, o.Vehicle = Limits{}, "bus/#"
	if _, err := New(o); err == nil || !strings.Contains(err.Error(), "vehicle") {
		t.Fatalf("error %v", err)
	}
}
