package ledger

import (
	"fmt"
	"slices"

	"github.com/farebeat/farebeat/schemas"
)

// drawer draws up one certificate out of one snapshot.
type drawer struct {
	machine, date string
	key           []byte
	declared      Declaration
	known         bool

	days      []Day // of the date, by epoch and currency
	bad       unreadable
	conflicts map[uint32]map[uint32]uint64 // by epoch and seq
	held      bool                         // the machine may still hold all that it wrote beyond what is here
	hash      schemas.RecordsHash
	sums      []Money
}

// draw returns nil for a day without records.
func (d *drawer) draw(v View) (*schemas.Certificate, error) {
	if err := v.Days(d.machine, d.date, d.date, func(day Day) error { d.days = append(d.days, day); return nil }); err != nil {
		return nil, err
	}
	if len(d.days) == 0 {
		return nil, nil
	}
	if err := d.readEvidence(v); err != nil {
		return nil, err
	}
	statuses, err := epochStatuses(v, d.machine)
	if err != nil {
		return nil, err
	}
	d.held = d.declared.holdsTails(withDeclared(statuses, d.declared))
	c := &schemas.Certificate{Machine: d.machine, ServiceDate: d.date, Epochs: []schemas.CertifiedEpoch{}}
	d.hash = schemas.NewRecordsHash()
	for _, day := range joinCurrencies(d.days) {
		i := slices.IndexFunc(statuses, func(e EpochStatus) bool { return e.Epoch == day.Epoch })
		if i < 0 {
			return nil, fmt.Errorf("epoch %d has records and no spans: verify the ledger", day.Epoch)
		}
		if err := d.epoch(v, c, day, statuses[i]); err != nil {
			return nil, err
		}
	}
	d.declare(c, statuses)
	c.Sums = []schemas.CertifiedSum{}
	for _, m := range d.sums {
		c.Sums = append(c.Sums, schemas.CertifiedSum(m))
	}
	c.RecordsHash = d.hash.String()
	c.Complete = c.Missing == 0 && c.Verified == c.Received
	return c, nil
}

// joinCurrencies makes one day of an epoch out of those of its currencies. The sums are left out.
func joinCurrencies(days []Day) []Day {
	var out []Day
	for _, d := range days {
		if n := len(out); n > 0 && out[n-1].Epoch == d.Epoch {
			o := &out[n-1]
			o.First, o.Last, o.Records = min(o.First, d.First), max(o.Last, d.Last), o.Records+d.Records
			continue
		}
		out = append(out, d)
	}
	return out
}

// readEvidence reads which numbers stand in quarantine, and how often.
func (d *drawer) readEvidence(v View) (err error) {
	if d.bad, err = unreadables(v, d.machine); err != nil {
		return err
	}
	d.conflicts = map[uint32]map[uint32]uint64{}
	return v.Evidence(d.machine, func(epoch, seq uint32, kind Kind) error {
		if kind == Conflict {
			if d.conflicts[epoch] == nil {
				d.conflicts[epoch] = map[uint32]uint64{}
			}
			d.conflicts[epoch][seq]++
		}
		return nil
	})
}

// epoch adds what the day has of one epoch: its gaps, and its records, each proved anew.
func (d *drawer) epoch(v View, c *schemas.Certificate, day Day, status EpochStatus) error {
	e := schemas.CertifiedEpoch{
		Epoch: day.Epoch, First: day.First, Last: day.Last, Records: day.Records, CompleteTo: min(status.CompleteTo, day.Last),
	}
	for _, g := range allGaps(d.machine, status, d.declared) {
		if !g.mayBeOf(d.declared, d.held)(day) {
			continue
		}
		d.bad.judge(d.declared, d.known, &g)
		c.Missing += g.Len()
		c.Quarantined.Unreadable += g.Quarantined
		if len(e.Gaps) < schemas.MaxDayGaps {
			e.Gaps = append(e.Gaps, schemas.DayGap{First: g.First, Last: g.Last, State: g.State})
		}
	}
	c.Epochs = append(c.Epochs, e)
	c.Received += day.Records
	from := max(day.First, 2) - 1 // the record before the first is what the first is chained to
	var before Row
	return v.Records(d.machine, day.Epoch, Span{from, day.Last}, func(r Row) error {
		defer func() { before = r }()
		if r.ServiceDate != d.date {
			return nil
		}
		return d.record(c, r, before)
	})
}

func (d *drawer) record(c *schemas.Certificate, r, before Row) (err error) {
	d.hash.Add(r.Record)
	c.Quarantined.Conflicts += d.conflicts[r.Epoch][r.Seq]
	tx, problem := proveRow(d.machine, d.key, r)
	if problem != "" {
		return nil // it stays received and not verified: `ledger verify` names what is wrong
	}
	c.Verified++
	if proveLink(r, before, tx.Prev) == linkBroken {
		c.Quarantined.BrokenChain++
	}
	d.sums, err = addMoney(d.sums, tx.Currency, tx.AmountMinor)
	return err
}

// declare states the machine's own word. Of an epoch that only it speaks of, all may be of the day.
func (d *drawer) declare(c *schemas.Certificate, statuses []EpochStatus) {
	if !d.known {
		return
	}
	newest, last := d.declared.newest()
	c.Declared = &schemas.DeclaredJournal{At: d.declared.At, Epoch: newest, LastSeq: last, Pending: d.declared.Pending}
	for _, e := range withDeclared(statuses, d.declared) {
		if e.Highest == 0 && (!d.held || d.declared.tailIn(d.date)) {
			c.Missing += uint64(d.declared.Epochs[e.Epoch])
		}
	}
}
