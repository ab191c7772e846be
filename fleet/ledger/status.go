package ledger

import (
	"context"
	"errors"
	"fmt"
)

// Status is what the ledger holds of one machine.
type Status struct {
	Machine     string        `json:"machine"`
	Records     uint64        `json:"records"`
	Epochs      []EpochStatus `json:"epochs"` // newest first
	Days        []DayStatus   `json:"days"`   // those asked for, by date
	Quarantined map[Kind]int  `json:"quarantined,omitempty"`
}

// Complete reports whether no epoch has a gap. What the machine has written beyond the highest
// number here, only the machine can tell.
func (s Status) Complete() bool {
	for _, e := range s.Epochs {
		if e.Missing > 0 {
			return false
		}
	}
	return true
}

// EpochStatus is one epoch of a machine.
type EpochStatus struct {
	Epoch      uint32 `json:"epoch"`
	Records    uint64 `json:"records"`
	CompleteTo uint32 `json:"complete_to"` // all of 1..CompleteTo are here
	Highest    uint32 `json:"highest"`
	Missing    uint64 `json:"missing"`        // numbers below Highest that are not here
	Gaps       Spans  `json:"gaps,omitempty"` // those numbers
}

// DayStatus is one service day of a machine.
type DayStatus struct {
	Day
	// Gaps are the numbers missing between, next before and next after the day's records: any of
	// them may belong to the day. Without one the day is complete to Last.
	Gaps Spans `json:"gaps,omitempty"`
}

// Complete reports whether nothing is missing that may belong to the day.
func (d DayStatus) Complete() bool { return len(d.Gaps) == 0 }

// Filter selects what Status, Gaps and Export speak of. An empty field selects all.
type Filter struct {
	Machine  string
	From, To string // service days, YYYY-MM-DD, both included
}

// Check reports dates that are none, or the wrong way round.
func (f Filter) Check() error {
	for _, date := range []string{f.From, f.To} {
		if date == "" {
			continue
		}
		if err := errDate(date); err != nil {
			return err
		}
	}
	if f.From != "" && f.To != "" && f.From > f.To {
		return fmt.Errorf("the first service day %s is after the last, %s", f.From, f.To)
	}
	return nil
}

// machinesAtOnce is how many machines one page lists.
const machinesAtOnce = 1000

// Each calls each for the status of every machine that the filter selects, in ascending order.
// With From or To only machines with records of those days are selected; Epochs speak
// of all their records. Every status is of one moment, all together are not.
func (l *Ledger) Each(ctx context.Context, f Filter, each func(Status) error) error {
	return l.machines(ctx, f, func(machine string) error {
		s, err := l.status(ctx, machine, f)
		if err != nil || f.dated() && len(s.Days) == 0 {
			return err
		}
		return each(s)
	})
}

func (f Filter) dated() bool { return f.From != "" || f.To != "" }

// includes reports whether a service day is selected.
func (f Filter) includes(date string) bool {
	return date >= f.From && (f.To == "" || date <= f.To)
}

// Status tells what the ledger holds of one machine; nothing for a machine that it does not know.
func (l *Ledger) Status(ctx context.Context, machine string) (Status, error) {
	return l.status(ctx, machine, Filter{Machine: machine})
}

func (l *Ledger) status(ctx context.Context, machine string, f Filter) (s Status, err error) {
	err = l.store.View(ctx, func(v View) error {
		s = Status{Machine: machine}
		if s.Epochs, err = epochStatuses(v, machine); err != nil {
			return err
		}
		gaps := map[uint32]Spans{}
		for _, e := range s.Epochs {
			s.Records += e.Records
			gaps[e.Epoch] = e.Gaps
		}
		if s.Quarantined, err = v.CountQuarantined(machine, ""); err != nil {
			return err
		}
		return v.Days(machine, f.From, f.To, func(d Day) error {
			s.Days = append(s.Days, DayStatus{d, touching(gaps[d.Epoch], Span{d.First, d.Last}.Around())})
			return nil
		})
	})
	if err != nil {
		return Status{}, fmt.Errorf("ledger: status of machine %q: %w", machine, err)
	}
	return s, nil
}

func epochStatuses(v View, machine string) ([]EpochStatus, error) {
	epochs, err := v.Epochs(machine)
	if err != nil {
		return nil, err
	}
	out := make([]EpochStatus, 0, len(epochs))
	for _, epoch := range epochs {
		spans, err := v.Spans(machine, epoch, Every(), 0)
		if err != nil {
			return nil, err
		}
		gaps := spans.Gaps()
		out = append(out, EpochStatus{
			Epoch: epoch, Records: spans.Len(), CompleteTo: spans.CompleteTo(), Highest: spans.Highest(),
			Missing: gaps.Len(), Gaps: gaps,
		})
	}
	return out, nil
}

// touching are the spans that have a number in over.
func touching(spans Spans, over Span) Spans {
	var out Spans
	for _, s := range spans {
		if s.Overlaps(over) {
			out = append(out, s)
		}
	}
	return out
}

// machines calls each for every machine that the filter names.
func (l *Ledger) machines(ctx context.Context, f Filter, each func(machine string) error) error {
	if f.Machine != "" {
		return each(f.Machine)
	}
	for after := ""; ; {
		var page []string
		err := l.store.View(ctx, func(v View) (err error) {
			page, err = v.Machines(after, machinesAtOnce)
			return err
		})
		if err != nil {
			return fmt.Errorf("ledger: list machines: %w", err)
		}
		for _, m := range page {
			if err := each(m); err != nil {
				return err
			}
			after = m
		}
		if len(page) < machinesAtOnce {
			return nil
		}
	}
}

// Held tells which numbers of every epoch of a machine are here, for comparing with the machine's
// own journal.
func (l *Ledger) Held(ctx context.Context, machine string) (map[uint32]Spans, error) {
	var held map[uint32]Spans
	err := l.store.View(ctx, func(v View) error {
		held = map[uint32]Spans{}
		epochs, err := v.Epochs(machine)
		if err != nil {
			return err
		}
		for _, epoch := range epochs {
			if held[epoch], err = v.Spans(machine, epoch, Every(), 0); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("ledger: what is held of machine %q: %w", machine, err)
	}
	return held, nil
}

// Complete calls each for the newest epoch of every machine with the greatest n for which
// the ledger holds all of 1..n: what presence and faults are told after a start.
func (l *Ledger) Complete(ctx context.Context, each func(machine string, epoch, completeTo uint32) error) error {
	err := l.store.View(ctx, func(v View) error { return v.Complete(each) })
	if err != nil {
		return fmt.Errorf("ledger: what is complete: %w", err)
	}
	return nil
}

// Quarantine calls each for the evidence against a machine (all for ""), oldest first.
func (l *Ledger) Quarantine(ctx context.Context, machine string, each func(Quarantined) error) error {
	const atOnce = 200
	for after := int64(0); ; {
		var page []Quarantined
		err := l.store.View(ctx, func(v View) error {
			page = nil
			return v.Quarantined(machine, after, atOnce, func(q Quarantined) error {
				page = append(page, q)
				return nil
			})
		})
		if err != nil {
			return fmt.Errorf("ledger: quarantine: %w", err)
		}
		for _, q := range page {
			if err := each(q); err != nil {
				return err
			}
			after = q.ID
		}
		if len(page) < atOnce {
			return nil
		}
	}
}

// Totals adds up the whole ledger.
type Totals struct {
	Machines    uint64       `json:"machines"`
	Records     uint64       `json:"records"`
	Money       []Money      `json:"money"` // by currency
	Quarantined map[Kind]int `json:"quarantined"`
}

// Totals adds up what the filter selects, as of one moment. Evidence is not dated: only
// Machine selects there.
func (l *Ledger) Totals(ctx context.Context, f Filter) (t Totals, err error) {
	err = l.store.View(ctx, func(v View) (err error) {
		t = Totals{}
		last := ""
		if err := v.Days(f.Machine, f.From, f.To, func(d Day) error {
			if d.Machine != last {
				t.Machines++
				last = d.Machine
			}
			t.Records += d.Records
			t.Money, err = addMoney(t.Money, d.Currency, d.SumMinor)
			return err
		}); err != nil {
			return err
		}
		t.Quarantined, err = v.CountQuarantined(f.Machine, "")
		return err
	})
	if err != nil {
		return Totals{}, fmt.Errorf("ledger: totals: %w", err)
	}
	return t, nil
}

// rowsAtOnce is how many records one snapshot reads, so that a slow reader does not hold
// up the cleaning of the store's log.
const rowsAtOnce = 1000

var errPage = errors.New("the page is full")

// Rows calls each for the records of an epoch in over, lowest seq first. Records that
// arrive meanwhile may be among them or not.
func (l *Ledger) Rows(ctx context.Context, machine string, epoch uint32, over Span, each func(Row) error) error {
	for over.Len() > 0 {
		var page []Row
		err := l.store.View(ctx, func(v View) error {
			page = nil
			return v.Records(machine, epoch, over, func(r Row) error {
				if page = append(page, r); len(page) == rowsAtOnce {
					return errPage
				}
				return nil
			})
		})
		if err != nil && !errors.Is(err, errPage) {
			return fmt.Errorf("ledger: records of machine %q, epoch %d: %w", machine, epoch, err)
		}
		for _, r := range page {
			if err := each(r); err != nil {
				return err
			}
		}
		if len(page) < rowsAtOnce || page[len(page)-1].Seq == over.Last {
			return nil
		}
		over.First = page[len(page)-1].Seq + 1
	}
	return nil
}
