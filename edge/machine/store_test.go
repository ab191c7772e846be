package machine_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/edge/ble"
	"github.com/farebeat/farebeat/edge/machine"
	"github.com/farebeat/farebeat/edge/ors"
	"github.com/farebeat/farebeat/edge/ors/orstest"
	"github.com/farebeat/farebeat/schemas"
)

// gateway reads a machine over the air, contact by contact, as far as each goes,
// and keeps a ledger.
type gateway struct {
	t       *testing.T
	air     *ble.Air
	key     []byte
	machine string
	ledger  map[string][]byte // by epoch and seq
	last    map[uint32]uint32 // highest of each epoch
}

func (g *gateway) contact(ctx context.Context) error {
	link, err := g.air.Dial(ctx, "addr")
	if err != nil {
		return err
	}
	defer link.Close()
	s, err := ors.Open(ctx, link, orstest.Credentials(g.t, g.key, g.machine, 1), ors.Options{})
	if err != nil {
		return err
	}
	defer s.Close()
	status, err := s.Status(ctx)
	if err != nil {
		return err
	}
	var receipts []schemas.EpochReceipt
	for epoch, last := range g.last {
		r := schemas.EpochReceipt{Epoch: epoch, CompleteTo: last, Highest: last}
		r.MAC = schemas.ReceiptMAC(g.key, status.Machine, r)
		receipts = append(receipts, r)
	}
	if err := s.Receipt(ctx, receipts); err != nil {
		return err
	}
	for _, e := range status.Epochs {
		from := max(e.First, g.last[e.Epoch]+1)
		if from >= e.Next {
			continue
		}
		if err := s.Report(ctx, e.Epoch, from, e.Next-1, g.take); err != nil {
			return err
		}
	}
	return nil
}

func (g *gateway) take(records []ors.Record) error {
	for _, r := range records {
		tx, err := schemas.VerifyTransaction(g.key, r.Payload)
		if err != nil {
			return err
		}
		if tx.Epoch != r.Epoch || tx.Seq != r.Seq || tx.EventTime.UnixMilli() != r.UTCMillis || !json.Valid(r.Payload) {
			g.t.Errorf("record %d-%d at %d holds %+v", r.Epoch, r.Seq, r.UTCMillis, tx)
		}
		key := fmt.Sprintf("%d-%d", r.Epoch, r.Seq)
		if _, ok := g.ledger[key]; ok {
			g.t.Errorf("record %s was read twice", key)
		}
		g.ledger[key] = r.Payload
		g.last[r.Epoch] = r.Seq
	}
	return nil
}

// A link that is lost again and again, at any packet, brings every record once,
// and the machine is empty when the ledger has said so.
func TestAllMoneyComesHomeOverABadLink(t *testing.T) {
	for _, mtu := range []int{ble.MinMTU, ble.UsualMTU} {
		t.Run(fmt.Sprint("MTU ", mtu), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, nil)
				b.taps(40)
				air := ble.NewAir()
				air.Set("addr", ors.OnAir(t.Context(), b))
				g := &gateway{t: t, air: air, key: b.key, machine: b.ID(), ledger: map[string][]byte{}, last: map[uint32]uint32{}}
				contacts, whole := 0, 0
				for cut := 20; whole < 2; cut = cut + 37 {
					air.Spoil("addr", ble.Faults{MTU: mtu, CutAfter: cut})
					if err := g.contact(t.Context()); err == nil {
						whole++
					}
					if contacts++; contacts > 500 {
						t.Fatal("it does not end")
					}
				}
				if contacts < 4 {
					t.Errorf("only %d contacts: the link was too good", contacts)
				}
				if len(g.ledger) != 40 {
					t.Errorf("%d records in the ledger", len(g.ledger))
				}
				if hb := b.beat(); hb.Pending != 0 || hb.LastSeq != 40 {
					t.Errorf("afterwards the machine says %+v", hb)
				}
				air.Set("addr", nil)
				air.Wait()
			})
		})
	}
}

func TestStatus(t *testing.T) {
	b := newBench(t, func(o *machine.Options) { o.Skew = time.Minute })
	status := func() ors.Status {
		t.Helper()
		s, err := b.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	want := ors.Status{Machine: "4711-1", UTC: b.now.Add(time.Minute), ClockGen: 1, Epochs: []ors.EpochRange{{Epoch: 1, First: 1, Next: 1}}}
	if diff := cmp.Diff(want, status()); diff != "" {
		t.Errorf("new (-want +got):\n%s", diff)
	}
	b.taps(3)
	want = ors.Status{
		Machine: "4711-1", UTC: b.now.Add(time.Minute), ClockGen: 1, Pending: 3, PendingMinor: 750, Currency: "EUR",
		Epochs: []ors.EpochRange{{Epoch: 1, First: 1, Next: 4}},
	}
	if diff := cmp.Diff(want, status()); diff != "" {
		t.Errorf("after three taps (-want +got):\n%s", diff)
	}
	if err := b.receipt(schemas.EpochReceipt{Epoch: 1, CompleteTo: 3, Highest: 3}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]ors.EpochRange{{Epoch: 1, First: 4, Next: 4}}, status().Epochs); diff != "" {
		t.Errorf("all released (-want +got):\n%s", diff)
	}
	// More epochs than a status holds: each receipt ahead begins one.
	for epoch := uint32(2); epoch < 14; epoch++ {
		if err := b.receipt(schemas.EpochReceipt{Epoch: epoch - 1, CompleteTo: 90, Highest: 90}); err == nil {
			t.Fatalf("epoch %d did not begin", epoch)
		}
		b.taps(1)
	}
	got := status().Epochs
	if len(got) != ors.MaxEpochs || got[0] != (ors.EpochRange{Epoch: 2, First: 1, Next: 2}) || got[7] != (ors.EpochRange{Epoch: 13, First: 1, Next: 2}) {
		t.Errorf("of 12 epochs the status tells %v", got)
	}
}

func TestRecordsEndAtAHole(t *testing.T) {
	b := newBench(t, nil)
	b.taps(5)
	if err := b.PowerOff(); err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(b.dir, "*.seg"))
	if err != nil || len(names) != 1 {
		t.Fatalf("segments %v: %v", names, err)
	}
	data, err := os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1 // in the third of five
	if err := os.WriteFile(names[0], data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := b.PowerOn(); err != nil {
		t.Fatal(err)
	}
	s, err := b.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]ors.EpochRange{{Epoch: 1, First: 1, Next: 3}, {Epoch: 1, First: 4, Next: 6}}, s.Epochs); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for from, want := range map[uint32]int{1: 2, 2: 1, 3: 0, 4: 2, 6: 0} {
		if records, err := b.Records(t.Context(), 1, from, 10); err != nil || len(records) != want {
			t.Errorf("from %d: %d records, want %d: %v", from, len(records), want, err)
		}
	}
}

func TestNotices(t *testing.T) {
	b := newBench(t, nil)
	if ad := b.Advertise(); ad.State != ble.StateIdle || ad.Pending != 0 || ad.IDHint != ble.IDHint("4711-1") {
		t.Errorf("idle: %+v", ad)
	}
	b.taps(2)
	if ad := b.Advertise(); ad.State != ble.StatePending || ad.Pending != 2 {
		t.Errorf("with money: %+v", ad)
	}
	n := ors.Notice{Fault: "f1", Kind: "machine_silent", OpenedAt: b.now}
	if err := b.FaultNotice(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	if err := b.FaultNotice(t.Context(), ors.Notice{Fault: strings.Repeat("x", 65)}); !errors.Is(err, ors.ErrFormat) {
		t.Errorf("an id of 65 bytes: %v", err)
	}
	if got, ok := b.Notice(); !ok || got != n {
		t.Errorf("%+v, %v", got, ok)
	}
	if ad := b.Advertise(); ad.State != ble.StateFault {
		t.Errorf("with a notice: %+v", ad)
	}
	if err := b.FaultCleared(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, ok := b.Notice(); ok {
		t.Error("the notice still stands")
	}
}

func TestNothingIsAnsweredWithoutPowerOrPatience(t *testing.T) {
	b := newBench(t, nil)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tc := range []struct {
		ctx  context.Context
		off  bool
		want error
	}{{gone, false, context.Canceled}, {t.Context(), true, machine.ErrOff}} {
		if tc.off {
			if err := b.PowerOff(); err != nil {
				t.Fatal(err)
			}
		}
		_, status := b.Status(tc.ctx)
		_, records := b.Records(tc.ctx, 1, 1, 1)
		for what, err := range map[string]error{
			"status": status, "records": records, "receipt": b.Receipt(tc.ctx, nil), "notice": b.FaultNotice(tc.ctx, ors.Notice{Fault: "f"}),
			"cleared": b.FaultCleared(tc.ctx), "time": b.SetTime(tc.ctx, b.now, 0),
		} {
			if !errors.Is(err, tc.want) {
				t.Errorf("%s: %v, want %v", what, err, tc.want)
			}
		}
	}
}
