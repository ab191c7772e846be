package edge

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/farebeat/farebeat/edge/outbox"
	"github.com/farebeat/farebeat/schemas"
)

func TestWhoeverAnswersForAnotherIsNotRead(t *testing.T) {
	m := newMachine("m-1")
	m.tap(t, 3, 10)
	m.answers = "m-2"
	drive(t, nil, func(r *rig) {
		r.hub.fault(fault("m-1", 10, 0))
		r.wait(time.Minute, "the failure", func() bool { return r.hub.recovery("m-1").State == schemas.RecoveryFailed })
		if rec := r.hub.recovery("m-1"); !strings.Contains(rec.LastError, `says that it is "m-2"`) {
			t.Fatalf("recovery %+v", rec)
		}
		if s := r.stats(); s != (outbox.Stats{}) {
			t.Fatalf("outbox %+v", s)
		}
	}, m)
}

// A damaged record stays with the machine and is said; those behind it come home.
func TestADamagedRecordDoesNotHoldUpTheOthers(t *testing.T) {
	m := newMachine("m-1")
	m.tap(t, 3, 20)
	m.spoil = map[uint32][]byte{5: []byte("not a record"), 9: m.records[3][3]}
	drive(t, nil, func(r *rig) {
		r.hub.fault(fault("m-1", 20, 0))
		r.wait(time.Minute, "18 records in the ledger", func() bool { return r.hub.held("m-1") == 18 })
		r.wait(time.Minute, "the word on it", func() bool {
			rec := r.hub.recovery("m-1")
			return rec.State == schemas.RecoveryFailed && strings.Contains(rec.LastError, "2 records of the machine are damaged")
		})
		if got := m.pending(); got < 16 {
			t.Fatalf("the machine holds only %d records although the ledger lacks number 5", got)
		}
		m.mu.Lock()
		m.spoil = nil // somebody repaired it
		m.mu.Unlock()
		r.home(m, 20, 10*time.Minute)
		if got := r.agent.Stats().Damaged; got < 2 {
			t.Fatalf("%d damaged records counted", got)
		}
	}, m)
}

// A record that the machine cannot give does not hold up those behind it either.
func TestARecordThatTheMachineCannotGive(t *testing.T) {
	m := newMachine("m-1")
	m.tap(t, 3, 40)
	m.deny = map[uint32]bool{5: true, 6: true, 20: true}
	drive(t, nil, func(r *rig) {
		r.hub.fault(fault("m-1", 40, 0))
		r.wait(20*time.Minute, "37 records in the ledger", func() bool { return r.hub.held("m-1") == 37 })
		r.wait(time.Minute, "the word on it", func() bool {
			rec := r.hub.recovery("m-1")
			return rec.State == schemas.RecoveryFailed && rec.Total == 40 && rec.Receipted == 37 && strings.Contains(rec.LastError, "the disk is worn")
		})
		m.mu.Lock()
		m.deny = nil
		m.mu.Unlock()
		r.home(m, 40, 20*time.Minute)
	}, m)
}

// A machine that will not believe the receipt is read all the same, and keeps its copies.
func TestAMachineThatRefusesTheReceipt(t *testing.T) {
	m := newMachine("m-1")
	m.tap(t, 3, 20)
	drive(t, nil, func(r *rig) {
		m.mu.Lock()
		m.mistrusts = true
		m.mu.Unlock()
		r.hub.fault(fault("m-1", 20, 0))
		r.wait(time.Minute, "all in the ledger", func() bool { return r.hub.held("m-1") == 20 })
		r.wait(time.Minute, "the word on it", func() bool {
			rec := r.hub.recovery("m-1")
			return rec.State == schemas.RecoveryComplete && strings.Contains(rec.LastError, "did not take the ledger's receipt")
		})
		m.tap(t, 3, 5)
		r.wait(10*time.Minute, "what it wrote since", func() bool { return r.hub.held("m-1") == 25 })
		if got := m.pending(); got != 25 {
			t.Fatalf("the machine holds %d", got)
		}
		m.mu.Lock()
		m.mistrusts = false
		m.mu.Unlock()
		r.home(m, 25, 10*time.Minute)
	}, m)
}

// A machine that lost records which it declared: it is said, and the rest is home.
func TestAMachineThatLostRecords(t *testing.T) {
	m := newMachine("m-1")
	m.tap(t, 3, 20)
	m.deny = map[uint32]bool{16: true}
	drive(t, nil, func(r *rig) {
		r.hub.fault(fault("m-1", 20, 0))
		r.wait(time.Minute, "the refusal", func() bool { return r.agent.Stats().Failed > 0 })
		m.mu.Lock()
		lost := m.records[3][15:]
		m.records[3] = m.records[3][:15]
		m.deny = nil
		m.mu.Unlock()
		r.wait(time.Minute, "the rest in the ledger", func() bool { return r.hub.held("m-1") == 15 })
		r.wait(time.Minute, "the word on it", func() bool {
			rec := r.hub.recovery("m-1")
			return rec.State == schemas.RecoveryFailed && rec.Total == 20 && strings.Contains(rec.LastError, "5 records that the machine declared before are no longer on it")
		})
		m.mu.Lock()
		m.records[3] = append(m.records[3], lost...)
		m.mu.Unlock()
		r.home(m, 20, 10*time.Minute)
	}, m)
}

// BenchmarkRecovery brings 5,000 records from a machine over the air and the disk
// into a ledger that verifies each, in real time.
func BenchmarkRecovery(b *testing.B) {
	const n = 5000
	m := newMachine("m-1")
	m.tap(b, 3, n)
	for b.Loop() {
		b.StopTimer()
		m.released = map[uint32]uint32{}
		h := newHub(b, map[string][]byte{"m-1": m.key})
		air := newTestAir()
		air.put(m)
		h.fleet(true, 1)
		h.fault(fault("m-1", n, 0))
		box, err := outbox.Open(b.Context(), filepath.Join(b.TempDir(), "outbox.db"), outbox.Options{})
		if err != nil {
			b.Fatal(err)
		}
		a, err := New(Options{Vehicle: "bus-1", Tree: h.tree, Connect: h.connect, Radio: air.radio(), Outbox: box})
		if err != nil {
			b.Fatal(err)
		}
		ctx, cancel := context.WithCancel(b.Context())
		done := make(chan error, 1)
		b.StartTimer()
		go func() { done <- a.Run(ctx) }()
		for h.held("m-1") < n {
			time.Sleep(time.Millisecond)
		}
		b.StopTimer()
		cancel()
		if err := <-done; err != nil {
			b.Fatal(err)
		}
		air.close([]*machine{m})
		if err := box.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "records/s")
}
