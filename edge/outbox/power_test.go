package outbox

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/scripts/powercut"
)

// At every write, sync, truncation, creation and deletion of a gateway's day the power fails, the disk
// fails, or the disk is full: what the outbox confirmed is there, byte for byte and once, and it goes on.
func TestNothingIsLostAtAnyOperation(t *testing.T) {
	powercut.Prove(t, powercut.Subject[*Outbox]{
		Name: "outbox", Open: openForPower, Close: (*Outbox).Close, Steps: gatewayDay(), Dump: dumpForPower,
		Settle: func(dump string) string { // a session number that was given out and not confirmed is never given again
			var out []string
			for line := range strings.Lines(dump) {
				if !strings.HasPrefix(line, "counter|") {
					out = append(out, line)
				}
			}
			return strings.Join(out, "")
		},
	})
}

func openForPower(dir string) (*Outbox, error) {
	now := time.Date(2026, 3, 1, 6, 0, 0, 0, time.UTC)
	o, err := Open(context.Background(), filepath.Join(dir, "outbox.db"), Options{Now: func() time.Time { return now }})
	if err != nil {
		return nil, err
	}
	if _, err := o.db.Exec(`PRAGMA wal_autocheckpoint = 16`); err != nil { // so that the day has several checkpoints
		return nil, fmt.Errorf("%w (%w)", err, o.Close())
	}
	return o, nil
}

// dumpForPower reads back what is there: the tables, every open batch as it would be published, and what the outbox believes
// without asking the disk.
func dumpForPower(o *Outbox) (string, error) {
	ctx := context.Background()
	open, err := o.OpenBatches(ctx)
	if err != nil {
		return "", err
	}
	for _, id := range open {
		if _, err := o.Load(ctx, id); err != nil {
			return "", err
		}
	}
	for machine, cached := range o.views {
		delete(o.views, machine)
		if err := o.write(ctx, "read", machine, func(tx *sql.Tx) error { _, err := o.view(ctx, tx, machine); return err }); err != nil {
			return "", err
		}
		if want, got := viewString(o.views[machine]), viewString(cached); want != got {
			return "", fmt.Errorf("of machine %s the disk has %s and the outbox believes %s", machine, want, got)
		}
	}
	return powercut.Tables(o.db.Query)
}

// viewString leaves out epochs of which nothing is there.
func viewString(v *view) string {
	out := fmt.Sprint(v.batches)
	for epoch := range uint32(4) {
		out += fmt.Sprint(" held ", v.held[epoch], " sealed ", v.sealed[epoch])
	}
	return out
}

func powerRecords(machine string, epoch, first, last uint32) []Record {
	var out []Record
	for seq := first; seq <= last; seq++ {
		out = append(out, Record{epoch, seq, fmt.Appendf(nil, `{"machine":%q,"epoch":%d,"seq":%d,"evidence":"%s"}`, machine, epoch, seq, strings.Repeat("x", 120))})
	}
	return out
}

// gatewayDay appends, seals, takes receipts, clears slots and quarantines a conflict.
func gatewayDay() []powercut.Step[*Outbox] {
	ctx := context.Background()
	type step = powercut.Step[*Outbox]
	add := func(machine string, epoch, first, last uint32) step {
		return step{Name: fmt.Sprintf("append %s %d-%d-%d", machine, epoch, first, last), Do: func(o *Outbox) error {
			_, err := o.Append(ctx, machine, powerRecords(machine, epoch, first, last))
			return err
		}}
	}
	seal := func(machine string, mode Mode) step {
		return step{Name: "seal " + machine, Do: func(o *Outbox) error { _, err := o.Seal(ctx, machine, mode); return err }}
	}
	receipt := func(machine string, epoch, upTo uint32, gaps ...[2]uint32) step {
		r := schemas.Receipt{Machine: machine, Epochs: []schemas.EpochReceipt{{Epoch: epoch, CompleteTo: upTo, Highest: upTo}}}
		if len(gaps) > 0 {
			r.Epochs[0].CompleteTo, r.Epochs[0].Gaps = gaps[0][0]-1, gaps
		}
		return step{Name: "receipt for " + machine, Do: func(o *Outbox) error { _, err := o.Receipt(ctx, r); return err }}
	}
	cleared := func(machine string, epoch, first, last uint32) step {
		return step{Name: "slot cleared", Do: func(o *Outbox) error { return o.SlotCleared(ctx, BatchID{machine, epoch, first, last}) }}
	}
	return []step{
		add("m-1", 1, 1, 12), add("m-2", 1, 1, 4), add("m-1", 1, 9, 20), seal("m-1", Everything),
		{Name: "conflict", Do: func(o *Outbox) error {
			_, err := o.Append(ctx, "m-1", []Record{{1, 3, []byte("other bytes")}})
			return err
		}},
		receipt("m-2", 1, 3),
		{Name: "session", Do: func(o *Outbox) error { _, err := o.NextSession(ctx); return err }},
		add("m-1", 1, 21, 40),
		{Name: "reopen"},
		seal("m-1", Everything), receipt("m-1", 1, 40, [2]uint32{33, 34}),
		cleared("m-1", 1, 1, 20), add("m-1", 2, 1, 5), seal("m-1", Everything), add("m-2", 1, 4, 9),
		{Name: "reopen"},
		receipt("m-1", 1, 40), seal("m-2", Everything), cleared("m-1", 1, 21, 40), receipt("m-2", 1, 9),
	}
}
