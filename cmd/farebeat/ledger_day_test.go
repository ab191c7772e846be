package main

import (
	"fmt"
	"testing"
	"time"

	"github.com/farebeat/farebeat/fleet/ledger"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
	"github.com/farebeat/farebeat/topics/session"
)

// TestDayAGapIsAskedForAgain: a gateway that is gone brought records 61 to 120 and lost 1 to 60 with its disk. The fault
// alone makes its successor read what is missing, and nothing of what the ledger has.
func TestDayAGapIsAskedForAgain(t *testing.T) {
	day := newDay(t, "2026-10-27", "Europe/Berlin")
	day.Route("A1", expected("07-09", 2))
	day.At("07:20", day.Cut("A1", 1))
	day.At("07:20:05", day.Tap("A1-01", 120))
	day.At("07:20:10", day.arrive("A1-01", 61, 120))
	day.Want("07:20:20", gap("A1-01", 1, 60))
	day.Want("07:28", recovered("A1-01", 120))
	day.Want("07:28", machineFault("A1-01", schemas.Recovered))
	day.Want("07:28", home(120))
	day.Want("07:28", nothingTwice())
	day.At("07:29", day.Return())
	day.Want("07:32", machineFault("A1-01", schemas.Closed))
	day.Run()
}

// arrive publishes records of a machine's journal as a gateway of its vehicle did that is gone.
func (d *day) arrive(id string, first, last uint32) action {
	return func(d *day) error {
		m, ok := d.city.city.Machine(id)
		if !ok {
			return fmt.Errorf("no machine %s", id)
		}
		status, err := m.Status(d.ctx)
		if err != nil {
			return err
		}
		epoch := status.Epochs[0].Epoch
		records, err := m.Records(d.ctx, epoch, first, int(last-first+1))
		if err != nil {
			return err
		}
		b := schemas.Batch{Machine: id, Vehicle: vehicleOf(id), Epoch: epoch, First: first, Last: last, AsOf: time.Now()}
		for _, r := range records {
			b.Records = append(b.Records, r.Payload)
		}
		payload, err := schemas.EncodeBatch(&b)
		if err != nil {
			return err
		}
		topic, err := d.tree.Build(topics.Address{
			Kind: topics.Transactions, Vehicle: b.Vehicle, Machine: id, Batch: topics.BatchID{Epoch: epoch, First: first, Last: last},
		})
		if err != nil {
			return err
		}
		h, err := d.hand(topics.Identity{Role: topics.RoleGateway, Name: b.Vehicle})
		if err != nil {
			return err
		}
		return h.session.Publish(d.ctx, session.Message{Topic: topic, QoS: 1, Retain: true, Payload: payload})
	}
}

// gap wants the ledger to lack exactly these records of a machine.
func gap(id string, first, last uint32) want {
	return want{fmt.Sprintf("gap(%s, %d, %d)", id, first, last), func(d *day) error {
		var gaps []ledger.Gap
		err := d.fleet.Ledger().Gaps(d.ctx, ledger.Filter{Machine: id}, nil, func(g ledger.Gap) error { gaps = append(gaps, g); return nil })
		if err == nil && (len(gaps) != 1 || gaps[0].Span != (ledger.Span{First: first, Last: last})) {
			err = fmt.Errorf("the gaps are %+v", gaps)
		}
		return err
	}}
}

// nothingTwice wants no record to have come to the ledger that it had.
func nothingTwice() want {
	return want{"nothingTwice()", func(d *day) error {
		if s := d.fleet.Ledger().Stats(); s.Duplicate > 0 {
			return fmt.Errorf("%d records came twice", s.Duplicate)
		}
		return nil
	}}
}
