package edge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/farebeat/farebeat/edge/ble"
	"github.com/farebeat/farebeat/edge/ors"
	"github.com/farebeat/farebeat/edge/outbox"
	"github.com/farebeat/farebeat/schemas"
)

// machine is a payment machine's store: minted records that leave only by a
// genuine receipt.
type machine struct {
	id  string
	key []byte

	mu       sync.Mutex
	records  map[uint32][][]byte // all that were ever written, by epoch
	released map[uint32]uint32   // the first so many are released
	answers  string              // what it says that it is called
	heard    news
	noClock  bool
	spoil    map[uint32][]byte // other bytes for these of epoch 3
	deny     map[uint32]bool   // these of epoch 3 cannot be read

	mistrusts bool // refuses receipts
	ticket    ors.TicketMark
}

// news is what a machine was told.
type news struct {
	notices []ors.Notice
	cleared int
	clock   time.Time
}

func (m *machine) told() news {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.heard
}

func newMachine(id string) *machine {
	return &machine{id: id, key: bytes.Repeat([]byte(id[:1]), 32), records: map[uint32][][]byte{}, released: map[uint32]uint32{}, answers: id}
}

// tap writes n offline transactions.
func (m *machine) tap(t testing.TB, epoch uint32, n int) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	prev := schemas.Genesis(m.id, epoch)
	if all := m.records[epoch]; len(all) > 0 {
		prev = schemas.HashRecord(all[len(all)-1])
	}
	for range n {
		tx := schemas.Transaction{
			Machine: m.id, Epoch: epoch, Seq: uint32(len(m.records[epoch])) + 1, EventTime: dawn, TZ: "America/New_York", ServiceDate: "2026-03-01",
			AmountMinor: 200, Currency: "USD", FareAction: "Enter", Media: "Contactless bank card", Offline: true,
		}
		record, hash, err := schemas.MintTransaction(m.key, prev, &tx)
		if err != nil {
			t.Fatal(err)
		}
		m.records[epoch], prev = append(m.records[epoch], record), hash
	}
}

// The gate of the machine. Its marks live as long as it does.

func (m *machine) ID() string { return m.id }

func (m *machine) Key() [32]byte { return [32]byte(m.key) }

func (m *machine) LastTicket(context.Context) (ors.TicketMark, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ticket, nil
}

func (m *machine) KeepTicket(_ context.Context, mark ors.TicketMark) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ticket = mark
	return nil
}

func (m *machine) pending() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for epoch, all := range m.records {
		n += len(all) - int(m.released[epoch])
	}
	return n
}

// Advertise implements ors.Machine.
func (m *machine) Advertise() ble.Advertisement {
	return ble.Advertisement{IDHint: ble.IDHint(m.id), Pending: uint16(min(m.pending(), 1<<16-1)), State: ble.StatePending}
}

func (m *machine) Status(context.Context) (ors.Status, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	st := ors.Status{Machine: m.answers, UTC: time.Now().Add(-1500 * time.Millisecond)}
	for epoch := uint32(1); epoch < 10; epoch++ {
		if all := m.records[epoch]; all != nil {
			st.Epochs = append(st.Epochs, ors.EpochRange{Epoch: epoch, First: m.released[epoch] + 1, Next: uint32(len(all)) + 1})
		}
	}
	return st, nil
}

func (m *machine) Records(_ context.Context, epoch, from uint32, most int) ([]ors.Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []ors.Record
	for seq := from; int(seq) <= len(m.records[epoch]) && len(out) < most; seq++ {
		if seq <= m.released[epoch] {
			return nil, fmt.Errorf("record %d-%d is released", epoch, seq)
		}
		if m.deny[seq] && epoch == 3 {
			if len(out) > 0 {
				return out, nil
			}
			return nil, errors.New("the disk is worn")
		}
		body := m.records[epoch][seq-1]
		if other, ok := m.spoil[seq]; ok && epoch == 3 {
			body = other
		}
		out = append(out, ors.Record{Epoch: epoch, Seq: seq, UTCMillis: dawn.UnixMilli(), Payload: body})
	}
	return out, nil
}

func (m *machine) Receipt(_ context.Context, epochs []schemas.EpochReceipt) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mistrusts {
		return errors.New("the MAC is not of my key")
	}
	for _, e := range epochs {
		if err := schemas.VerifyReceipt(m.key, m.id, e); err != nil {
			return err
		}
		m.released[e.Epoch] = max(m.released[e.Epoch], e.CompleteTo)
	}
	return nil
}

func (m *machine) FaultNotice(_ context.Context, n ors.Notice) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.heard.notices = append(m.heard.notices, n)
	return nil
}

func (m *machine) FaultCleared(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.heard.cleared++
	return nil
}

func (m *machine) SetTime(_ context.Context, utc time.Time, _ time.Duration) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.noClock {
		return errors.New("the clock is locked")
	}
	m.heard.clock = utc
	return nil
}

// rig is one vehicle: its gateway, its machines within reach, and the hub.
type rig struct {
	t     *testing.T
	hub   *hub
	air   *testAir
	path  string
	box   *outbox.Outbox
	agent *Agent
	stop  func()
	tune  func(*Options)
}

// quickDir is a folder in memory where there is one: what a crash leaves on a
// real disk is the outbox's own tests' business.
func quickDir(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "farebeat-edge-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// drive runs a test in virtual time with one vehicle, and ends it cleanly.
func drive(t *testing.T, tune func(*Options), f func(r *rig), machines ...*machine) {
	t.Helper()
	dir := quickDir(t)
	synctest.Test(t, func(t *testing.T) {
		keys := map[string][]byte{}
		for _, m := range machines {
			keys[m.id] = m.key
		}
		r := &rig{t: t, hub: newHub(t, keys), air: newTestAir(), path: filepath.Join(dir, "outbox.db"), tune: tune}
		for _, m := range machines {
			r.air.put(m)
		}
		r.hub.fleet(true, 1)
		defer synctest.Wait()
		defer r.air.close(machines)
		r.start()
		defer func() { r.stop() }() // also when f gave up
		r.wait(time.Minute, "the gateway's birth", func() bool { return r.hub.gateway().Status == schemas.Online })
		f(r)
		r.hub.check()
	})
}

// start starts the gateway.
func (r *rig) start() {
	r.t.Helper()
	box, err := outbox.Open(context.Background(), r.path, outbox.Options{})
	if err != nil {
		r.t.Fatal(err)
	}
	o := Options{Vehicle: "bus-1", Tree: r.hub.tree, Connect: r.hub.connect, Radio: r.air.radio(), Outbox: box, Logger: slog.New(slog.NewTextHandler(testWriter{r.t}, nil))}
	if r.tune != nil {
		r.tune(&o)
	}
	agent, err := New(o)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- agent.Run(ctx) }()
	r.box, r.agent = box, agent
	r.stop = func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Error(err)
		}
		if err := box.Close(); err != nil {
			r.t.Error(err)
		}
		r.stop = func() {}
	}
}

// restart stops the gateway and starts it again on the same outbox.
func (r *rig) restart() {
	r.t.Helper()
	r.stop()
	r.start()
}

// after lets virtual time pass until everybody waits.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// wait lets time pass until ok, or fails after limit.
func (r *rig) wait(limit time.Duration, what string, ok func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(limit); !ok(); after(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("%s: not within %v; recoveries %+v, outbox %+v, agent %+v", what, limit, r.hub.recoveries(), r.stats(), r.agent.Stats())
		}
	}
}

func (r *rig) stats() outbox.Stats {
	r.t.Helper()
	s, err := r.box.Stats(context.Background())
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

// home waits until the ledger holds n records of m, the machine gave up its
// copies, and neither outbox nor broker keep any.
func (r *rig) home(m *machine, n uint64, limit time.Duration) {
	r.t.Helper()
	r.wait(limit, fmt.Sprintf("%d records of %s in the ledger", n, m.id), func() bool { return r.hub.held(m.id) == n })
	r.wait(limit, "the machine's release", func() bool { return m.pending() == 0 })
	r.wait(limit, "empty slots", func() bool { return len(r.hub.slots()) == 0 })
	if s := r.stats(); s != (outbox.Stats{}) {
		r.t.Fatalf("the outbox keeps %+v", s)
	}
}

// testWriter logs into the test.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(string(bytes.TrimSpace(p)))
	return len(p), nil
}
