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
	"github.com/farebeat/farebeat/edge/ors/orstest"
	"github.com/farebeat/farebeat/edge/outbox"
	"github.com/farebeat/farebeat/fleet/keys"
	"github.com/farebeat/farebeat/fleet/ledger"
	"github.com/farebeat/farebeat/fleet/store"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
)

// chain is everything between a journal and the ledger, but for the broker between outbox and ledger.
type chain struct {
	t      *testing.T
	air    *ble.Air
	box    *outbox.Outbox
	ledger *ledger.Ledger
	keys   *keys.Master
}

// cutting is a machine that goes out of reach once, before it hands out the record behind at.
type cutting struct {
	*machine.Machine
	air *ble.Air
	at  uint32
	cut bool
}

func (c *cutting) Records(ctx context.Context, epoch, from uint32, most int) ([]ors.Record, error) {
	if !c.cut && from > c.at {
		c.cut = true
		c.air.Disconnect(c.ID())
		return nil, errors.New("out of reach")
	}
	records, err := c.Machine.Records(ctx, epoch, from, most)
	if !c.cut && err == nil && len(records) > 0 && records[len(records)-1].Seq > c.at {
		records = records[:c.at-from+1]
	}
	return records, err
}

func TestRecoveryCutAtEveryRecord(t *testing.T) {
	const records = 300
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
	box, err := outbox.Open(ctx, filepath.Join(dir, "outbox.db"), outbox.Options{})
	if err != nil {
		t.Fatal(err)
	}
	step := uint32(1)
	if underRace {
		step = 15 // the race detector looks at the same code at each
	}
	c := &chain{t: t, air: ble.NewAir(), box: box, keys: master, ledger: ledger.New(db.Ledger(), master, time.Now)}
	var want uint64
	for cut := uint32(0); cut < records; cut += step {
		c.recover(dir, cut, records)
		want += records
	}
	if s := c.ledger.Stats(); s.New != want || s.Conflict+s.Forged+s.Malformed+s.Broken+s.Duplicate != 0 {
		t.Errorf("the ledger counted %+v, want %d new and nothing else", s, want)
	}
	proof, err := c.ledger.Verify(ctx, ledger.Filter{}, nil)
	if err != nil || !proof.OK() || proof.Records != want {
		t.Errorf("proof: %+v, %v", proof, err)
	}
	if err := errors.Join(box.Close(), db.Close()); err != nil {
		t.Error(err)
	}
	c.air.Wait()
}

// recover brings a full journal home over a link that is lost behind record cut, where 0 is before the first.
func (c *chain) recover(dir string, cut, records uint32) {
	t := c.t
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	id := fmt.Sprintf("m%03d", cut)
	key, err := c.keys.Machine(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	m, err := machine.New(machine.Options{
		ID: id, Vehicle: "bus", Key: key[:], Dir: filepath.Join(dir, id), Zone: time.UTC, Currency: "USD", Now: time.Now,
		Journal: journal.Options{NoSync: true, NoLock: true},
	})
	if err == nil {
		err = m.PowerOn()
	}
	if err != nil {
		t.Fatal(err)
	}
	for range records {
		if _, err := m.Tap(time.Now(), machine.Fare{AmountMinor: 200}); err != nil {
			t.Fatal(err)
		}
	}
	c.air.Set(id, ors.OnAir(ctx, &cutting{Machine: m, air: c.air, at: cut}))
	contacts := 0
	for left := true; left; contacts++ {
		if contacts > 3 {
			t.Fatalf("cut after %d: not home after %d contacts", cut, contacts)
		}
		readErr := c.contact(ctx, m)
		c.send(ctx, id)
		stats, _ := m.Journal()
		left = stats.Pending > 0
		if readErr == nil && contacts == 0 {
			t.Fatalf("cut after %d: the cut was not noticed", cut)
		}
	}
	status, err := c.ledger.Status(ctx, id)
	if err != nil || status.Records != uint64(records) || !status.Complete() {
		t.Fatalf("cut after %d: the ledger holds %+v, %v", cut, status, err)
	}
	if n := m.Counters().Released; n != uint64(records) {
		t.Errorf("cut after %d: the machine released %d", cut, n)
	}
	c.air.Set(id, nil)
	if err := m.PowerOff(); err != nil {
		t.Error(err)
	}
}

// contact gives the machine the latest receipt and reads what is in neither ledger nor outbox, as the
// agent does.
func (c *chain) contact(ctx context.Context, m *machine.Machine) error {
	t := c.t
	link, err := c.air.Dial(ctx, m.ID())
	if err != nil {
		return err
	}
	defer link.Close()
	key := m.Key()
	s, err := ors.Open(ctx, link, orstest.Credentials(t, key[:], m.ID(), 1), ors.Options{})
	if err != nil {
		return err
	}
	latest, _, err := c.box.LatestReceipt(ctx, m.ID())
	if err != nil {
		t.Fatal(err)
	}
	if len(latest.Epochs) > 0 {
		if err := s.Receipt(ctx, latest.Epochs); err != nil {
			return err
		}
	}
	status, err := s.Status(ctx)
	if err != nil {
		return err
	}
	unreleased := edge.Records{}
	for _, e := range status.Epochs {
		if e.Next > e.First {
			unreleased[e.Epoch] = outbox.Of(outbox.Interval{First: e.First, Last: e.Next - 1})
		}
	}
	receipted, err := outbox.Covered(latest)
	if err != nil {
		t.Fatal(err)
	}
	held, err := c.box.Held(ctx, m.ID())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range edge.Plan(unreleased, receipted, held) {
		err := s.Report(ctx, r.Epoch, r.First, r.Last, func(page []ors.Record) error {
			var rows []outbox.Record
			for _, rec := range page {
				rows = append(rows, outbox.Record{Epoch: rec.Epoch, Seq: rec.Seq, Body: rec.Payload})
			}
			_, err := c.box.Append(ctx, m.ID(), rows)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// send brings all open batches of a machine into the ledger and its receipt back into the outbox.
func (c *chain) send(ctx context.Context, id string) {
	t := c.t
	if _, err := c.box.Seal(ctx, id, outbox.Everything); err != nil {
		t.Fatal(err)
	}
	open, err := c.box.OpenBatches(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range open {
		batch, err := c.box.Load(ctx, b)
		if err != nil {
			t.Fatal(err)
		}
		m := schemas.Batch{Machine: id, Vehicle: "bus", Epoch: b.Epoch, First: b.First, Last: b.Last, AsOf: batch.SealedAt}
		for _, r := range batch.Records {
			m.Records = append(m.Records, r)
		}
		payload, err := schemas.EncodeBatch(&m)
		if err != nil {
			t.Fatal(err)
		}
		a := topics.Address{Kind: topics.Transactions, Vehicle: "bus", Machine: id, Batch: topics.BatchID{Epoch: b.Epoch, First: b.First, Last: b.Last}}
		if _, err := c.ledger.Ingest(ctx, a, payload); err != nil {
			t.Fatal(err)
		}
	}
	r, err := c.ledger.Receipt(ctx, id)
	if err == nil {
		_, err = c.box.Receipt(ctx, r)
	}
	if err != nil {
		t.Fatal(err)
	}
}
