package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/farebeat/farebeat/edge"
	"github.com/farebeat/farebeat/edge/ble"
	"github.com/farebeat/farebeat/edge/machine"
	"github.com/farebeat/farebeat/edge/machine/journal"
	"github.com/farebeat/farebeat/edge/ors"
	"github.com/farebeat/farebeat/edge/outbox"
	"github.com/farebeat/farebeat/fleet/keys"
	"github.com/farebeat/farebeat/fleet/ledger"
	"github.com/farebeat/farebeat/fleet/store"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
)

// TestGapsAreAskedForAgain: a gateway reads a whole machine, and is lost after a part of its records reached the ledger.
// The receipt names the gaps; the machine gives up nothing behind the first of them; the gateway's successor reads what
// is missing and, but for what a receipt has no room for, nothing else; and then the machine is released.
func TestGapsAreAskedForAgain(t *testing.T) {
	const first, second = 300, 40 // records of epoch 1 and of epoch 2
	for name, c := range map[string]struct {
		lost     func(epoch, seq uint32) bool
		released int    // by the receipt with gaps
		planned  uint64 // to be read by the first plan after it
		again    uint64 // read in all
	}{
		"nothing":                {func(uint32, uint32) bool { return false }, first + second, 0, 0},
		"the first batch":        {func(e, n uint32) bool { return e == 1 && n <= 200 }, second, 200, 200},
		"the middle of an epoch": {func(e, n uint32) bool { return e == 1 && n > 99 && n < 150 }, 99 + second, 50, 50},
		"the end":                {func(e, n uint32) bool { return e == 2 && n > 30 }, first + 30, 10, 10},
		"of both epochs":         {func(e, n uint32) bool { return n > 10 && n < 13 }, 20, 4, 4},
		"all":                    {func(uint32, uint32) bool { return true }, 0, first + second, first + second},
		// 75 gaps: a receipt lists 64 and speaks of nothing beyond. As many batches fill the outbox; the receipt for them
		// lists the other 11.
		"more gaps than a receipt lists": {func(e, n uint32) bool { return e == 1 && n%4 == 2 }, 1 + second, 64 + first - 257, 75},
	} {
		t.Run(name, func(t *testing.T) {
			chain, m := newGapChain(t, first, second)
			ctx := t.Context()
			if err := chain.contact(ctx, m); err != nil {
				t.Fatal(err)
			}
			chain.sendSome(ctx, m.ID(), func(epoch, seq uint32) bool { return !c.lost(epoch, seq) })
			chain.replaceGateway()
			if !chain.receive(ctx, m.ID()).clean() {
				t.Fatal("the successor already holds records")
			}
			if err := chain.tell(ctx, m); err != nil {
				t.Fatal(err)
			}
			if n := int(m.Counters().Released); n != c.released {
				t.Errorf("the receipt with gaps released %d records, want %d", n, c.released)
			}
			if n := chain.planned(ctx, m); n != c.planned {
				t.Errorf("the successor plans to read %d records, want %d", n, c.planned)
			}
			if n := chain.bringHome(ctx, m); n != c.again {
				t.Errorf("the successor read %d records, want %d", n, c.again)
			}
			status, err := chain.ledger.Status(ctx, m.ID())
			if stats, _ := m.Journal(); err != nil || !status.Complete() || status.Records != first+second || stats.Pending != 0 {
				t.Errorf("at the end: %d records, %d unreleased, %v", status.Records, stats.Pending, err)
			}
			if s := chain.ledger.Stats(); s.Conflict+s.Forged+s.Malformed+s.Broken != 0 {
				t.Errorf("the ledger counted %+v", s)
			}
			if proof, err := chain.ledger.Verify(ctx, ledger.Filter{}, nil); err != nil || !proof.OK() || proof.Unlinked != 0 || proof.Epochs != 2 {
				t.Errorf("proof: %+v, %v", proof, err)
			}
		})
	}
}

// TestAGapThatTheMachineCannotFill: a record rots in the journal. All others come home and are released; the gap stays
// in the receipt, in the list and in the certificate, and is called gone as soon as the machine says that it holds nothing.
func TestAGapThatTheMachineCannotFill(t *testing.T) {
	c, m := newGapChain(t, 20, 5)
	ctx := t.Context()
	if err := c.contact(ctx, m); err != nil {
		t.Fatal(err)
	}
	c.sendSome(ctx, m.ID(), func(epoch, seq uint32) bool { return epoch != 1 || seq != 7 })
	c.replaceGateway()
	lossy := &deaf{Machine: m, epoch: 1, seq: 7}
	c.air.Set(m.ID(), ors.OnAir(ctx, lossy))
	for range 3 {
		c.receive(ctx, m.ID())
		if err := c.contact(ctx, m); err != nil { // the agent sees that the report ended early, and says so
			t.Fatal(err)
		}
		c.send(ctx, m.ID())
	}
	r, err := c.ledger.Receipt(ctx, m.ID())
	if err != nil || len(r.Epochs) != 2 || len(r.Epochs[1].Gaps) != 1 || r.Epochs[1].Gaps[0] != [2]uint32{7, 7} || r.Epochs[1].Highest != 20 {
		t.Fatalf("receipt %+v, %v", r, err)
	}
	for pending, want := range map[uint32]schemas.GapState{14: schemas.GapAwaited, 0: schemas.GapGone} {
		declared := ledger.Declarations{m.ID(): {At: time.Now(), Epochs: map[uint32]uint32{2: 5}, Pending: pending}}
		n := 0
		err := c.ledger.Gaps(ctx, ledger.Filter{}, declared, func(g ledger.Gap) error {
			if n++; g.Epoch != 1 || g.Span != (ledger.Span{First: 7, Last: 7}) || g.State != want {
				t.Errorf("gap %+v, want %s", g, want)
			}
			return nil
		})
		if err != nil || n != 1 {
			t.Errorf("%d gaps, %v", n, err)
		}
		var days int
		certifier := c.ledger.Certifier(c.keys, declared)
		err = certifier.Days(ctx, ledger.Filter{}, func(d ledger.MachineDay) error {
			days++
			cert, _, err := certifier.Certify(ctx, d.Machine, d.Date)
			if err == nil && (cert.Complete || cert.Missing != 1 || cert.Epochs[0].Gaps[0] != schemas.DayGap{First: 7, Last: 7, State: want}) {
				t.Errorf("certificate %+v", cert.Certificate)
			}
			return err
		})
		if err != nil || days == 0 {
			t.Errorf("%d days, %v", days, err)
		}
	}
}

// deaf is a machine whose journal no longer has one record.
type deaf struct {
	*machine.Machine
	epoch, seq uint32
}

func (d *deaf) Records(ctx context.Context, epoch, from uint32, most int) ([]ors.Record, error) {
	records, err := d.Machine.Records(ctx, epoch, from, most)
	kept := records[:0]
	for _, r := range records {
		if r.Epoch != d.epoch || r.Seq != d.seq {
			kept = append(kept, r)
		}
	}
	return kept, err
}

// gapChain is a chain whose gateway can be replaced.
type gapChain struct {
	*chain
	dir      string
	gateways int
}

// newGapChain makes a chain and a machine with records in two epochs.
func newGapChain(t *testing.T, first, second int) (*gapChain, *machine.Machine) {
	t.Helper()
	dir := t.TempDir()
	ctx := t.Context()
	master, err := keys.Create(filepath.Join(dir, "master.key"))
	if err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(ctx, filepath.Join(dir, "farebeat.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c := &gapChain{chain: &chain{t: t, air: ble.NewAir(), keys: master, ledger: ledger.New(db.Ledger(), master, time.Now)}, dir: dir}
	c.openGateway()
	key, err := master.Machine(ctx, "m")
	if err != nil {
		t.Fatal(err)
	}
	m, err := machine.New(machine.Options{
		ID: "m", Vehicle: "bus", Key: key[:], Dir: filepath.Join(dir, "m"), Zone: time.UTC, Currency: "USD", Now: time.Now,
		Journal: journal.Options{NoSync: true, NoLock: true},
	})
	if err == nil {
		err = m.PowerOn()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.air.Set("m", nil)
		c.air.Wait()
		for what, err := range map[string]error{"machine": m.PowerOff(), "outbox": c.box.Close(), "store": db.Close()} {
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
	})
	tapTimes(t, m, first)
	// A receipt for more than it ever wrote makes it begin another epoch; it releases nothing.
	ahead := schemas.EpochReceipt{Epoch: 1, CompleteTo: uint32(first) + 1, Highest: uint32(first) + 1}
	ahead.MAC = schemas.ReceiptMAC(key[:], "m", ahead)
	if err := m.Receipt(ctx, []schemas.EpochReceipt{ahead}); err == nil || m.Counters().Released != 0 {
		t.Fatalf("a receipt ahead: %v", err)
	}
	tapTimes(t, m, second)
	c.air.Set("m", ors.OnAir(ctx, m))
	return c, m
}

func tapTimes(t *testing.T, m *machine.Machine, n int) {
	t.Helper()
	for range n {
		if _, err := m.Tap(time.Now(), machine.Fare{AmountMinor: 200}); err != nil {
			t.Fatal(err)
		}
	}
}

func (c *gapChain) openGateway() {
	c.gateways++
	box, err := outbox.Open(c.t.Context(), filepath.Join(c.dir, fmt.Sprintf("outbox-%d.db", c.gateways)), outbox.Options{})
	if err != nil {
		c.t.Fatal(err)
	}
	c.box = box
}

// replaceGateway throws the outbox away.
func (c *gapChain) replaceGateway() {
	if err := c.box.Close(); err != nil {
		c.t.Fatal(err)
	}
	c.openGateway()
}

// sendSome brings those of the outbox's records into the ledger that are not lost, each as a batch of its own.
func (c *gapChain) sendSome(ctx context.Context, id string, arrives func(epoch, seq uint32) bool) {
	if _, err := c.box.Seal(ctx, id, outbox.Everything); err != nil {
		c.t.Fatal(err)
	}
	open, err := c.box.OpenBatches(ctx)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, b := range open {
		batch, err := c.box.Load(ctx, b)
		if err != nil {
			c.t.Fatal(err)
		}
		for i, record := range batch.Records {
			seq := b.First + uint32(i)
			if !arrives(b.Epoch, seq) {
				continue
			}
			m := schemas.Batch{Machine: id, Vehicle: "bus", Epoch: b.Epoch, First: seq, Last: seq, AsOf: batch.SealedAt}
			m.Records = append(m.Records, record)
			payload, err := schemas.EncodeBatch(&m)
			if err != nil {
				c.t.Fatal(err)
			}
			a := topics.Address{Kind: topics.Transactions, Vehicle: "bus", Machine: id, Batch: topics.BatchID{Epoch: b.Epoch, First: seq, Last: seq}}
			if _, err := c.ledger.Ingest(ctx, a, payload); err != nil {
				c.t.Fatal(err)
			}
		}
	}
}

// receive brings the ledger's receipt to the gateway, as its retained topic does, and returns what the gateway holds.
func (c *gapChain) receive(ctx context.Context, id string) heldRecords {
	r, err := c.ledger.Receipt(ctx, id)
	if err == nil {
		_, err = c.box.Receipt(ctx, r)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	held, err := c.box.Held(ctx, id)
	if err != nil {
		c.t.Fatal(err)
	}
	return held
}

// planned is how many records the gateway will read at its next contact.
func (c *gapChain) planned(ctx context.Context, m *machine.Machine) (n uint64) {
	status, err := m.Status(ctx)
	if err != nil {
		c.t.Fatal(err)
	}
	unreleased := edge.Records{}
	for _, e := range status.Epochs {
		if e.Next > e.First {
			unreleased[e.Epoch] = outbox.Of(outbox.Interval{First: e.First, Last: e.Next - 1})
		}
	}
	latest, _, err := c.box.LatestReceipt(ctx, m.ID())
	if err != nil {
		c.t.Fatal(err)
	}
	receipted, err := outbox.Covered(latest)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, r := range edge.Plan(unreleased, receipted, nil) {
		n += uint64(r.Last-r.First) + 1
	}
	return n
}

// bringHome contacts the machine until it holds nothing, and returns how many records were read.
func (c *gapChain) bringHome(ctx context.Context, m *machine.Machine) (read uint64) {
	for range 5 {
		if err := c.contact(ctx, m); err != nil && !errors.Is(err, outbox.ErrFull) {
			c.t.Fatal(err)
		}
		held, err := c.box.Held(ctx, m.ID())
		if err != nil {
			c.t.Fatal(err)
		}
		for _, set := range held {
			read += set.Count()
		}
		c.send(ctx, m.ID())
		if err := c.tell(ctx, m); err != nil {
			c.t.Fatal(err)
		}
		if stats, _ := m.Journal(); stats.Pending == 0 {
			break
		}
	}
	return read
}

type heldRecords map[uint32]outbox.Intervals

func (h heldRecords) clean() bool {
	for _, set := range h {
		if len(set) > 0 {
			return false
		}
	}
	return true
}

// tell gives the machine the gateway's latest receipt and reads nothing.
func (c *gapChain) tell(ctx context.Context, m *machine.Machine) error {
	latest, _, err := c.box.LatestReceipt(ctx, m.ID())
	if err != nil || len(latest.Epochs) == 0 {
		return err
	}
	return m.Receipt(ctx, latest.Epochs)
}
