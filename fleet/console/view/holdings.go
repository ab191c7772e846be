package view

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/farebeat/farebeat/fleet"
	"github.com/farebeat/farebeat/fleet/ledger"
)

// HoldingQuery selects what is told of the ledger.
type HoldingQuery struct {
	ledger.Filter
	After string // the last machine of the page before
	Limit int    // machines of a page, 1 to MaxPage; 0: 50
}

// HoldingRow is what the ledger holds of one machine, and what the machine declared.
type HoldingRow struct {
	ledger.Status
	Declared *ledger.Declaration `json:"declared,omitempty"`
}

// HoldingList is a page of the ledger.
type HoldingList struct {
	Machines []HoldingRow `json:"machines"`
	Next     string       `json:"next,omitempty"` // HoldingQuery.After of the next page; empty: this is the last
}

// GapList is the gaps of a page of machines.
type GapList struct {
	Gaps    []ledger.Gap `json:"gaps"`
	Missing uint64       `json:"missing"`        // records, of this page
	Next    string       `json:"next,omitempty"` // HoldingQuery.After of the next page; empty: this is the last
}

// holdings are the ledger and what machines declared, after a look at the filter.
func (r *Reader) holdings(ctx context.Context, q *HoldingQuery) (*ledger.Ledger, ledger.Declarations, error) {
	if err := checkFilter(q.Filter); err != nil {
		return nil, nil, err
	}
	var err error
	if q.Limit, err = pageSize(q.Limit); err != nil {
		return nil, nil, err
	}
	f := r.o.Fleet()
	if f == nil {
		return nil, nil, ErrStarting
	}
	if q.Machine == "" {
		declared, err := r.declaredByAll(ctx, f, r.o.Now()) // of now, as on the page
		return f.Ledger(), declared, err
	}
	declared, err := r.declared(ctx, f, q.Machine)
	if err != nil {
		return nil, nil, err
	}
	if _, known := declared[q.Machine]; known {
		return f.Ledger(), declared, nil
	}
	s, err := f.Ledger().Status(ctx, q.Machine)
	if err == nil && len(s.Epochs) == 0 && len(s.Quarantined) == 0 {
		err = fmt.Errorf("machine %s: %w: it is neither in the ledger nor did it declare anything", q.Machine, ErrNotFound)
	}
	return f.Ledger(), declared, err
}

func checkFilter(f ledger.Filter) error {
	if err := f.Check(); err != nil {
		return fmt.Errorf("%w: %w", ErrUsage, err)
	}
	return nil
}

// errEnough ends a walk.
var errEnough = errors.New("enough")

// eachMachine calls each for the machines that the ledger has or that declared something, in ascending order, from after on, until it returns
// errEnough.
func (r *Reader) eachMachine(ctx context.Context, q HoldingQuery, declared ledger.Declarations, each func(machine string) error) error {
	if q.Machine != "" {
		return each(q.Machine)
	}
	others := slices.DeleteFunc(slices.Sorted(maps.Keys(declared)), func(m string) bool { return m <= q.After })
	for after, more := q.After, true; more; {
		var page []string
		err := r.o.Store.Ledger().View(ctx, func(v ledger.View) (err error) {
			page, err = v.Machines(after, MaxPage)
			return err
		})
		if err != nil {
			return fmt.Errorf("list the machines of the ledger: %w", err)
		}
		if more = len(page) == MaxPage; more {
			after = page[len(page)-1]
		}
		cut := len(others)
		if more {
			var both bool
			if cut, both = slices.BinarySearchFunc(others, after, strings.Compare); both {
				cut++
			}
		}
		names := slices.Concat(page, others[:cut])
		others = others[cut:]
		slices.Sort(names)
		for _, name := range slices.Compact(names) {
			if err := each(name); err != nil {
				if errors.Is(err, errEnough) {
					return nil
				}
				return err
			}
		}
	}
	return nil
}

// Holdings tells what the ledger holds, by machine. Without dates those are in it, too, that only declared something.
func (r *Reader) Holdings(ctx context.Context, q HoldingQuery) (HoldingList, error) {
	out := HoldingList{Machines: []HoldingRow{}}
	l, declared, err := r.holdings(ctx, &q)
	if err != nil {
		return out, err
	}
	err = r.eachMachine(ctx, q, declared, func(machine string) error {
		f := q.Filter
		f.Machine = machine
		return l.Each(ctx, f, func(s ledger.Status) error {
			if len(out.Machines) == q.Limit {
				out.Next = out.Machines[q.Limit-1].Machine
				return errEnough
			}
			row := HoldingRow{Status: s}
			if d, known := declared[machine]; known {
				row.Declared = &d
			}
			out.Machines = append(out.Machines, row)
			return nil
		})
	})
	return out, err
}

// maxGaps bounds the gaps of a page: no further machine is begun beyond them.
const maxGaps = 1000

// Gaps tells which records must exist that the ledger lacks, by machine. A page ends between two machines.
func (r *Reader) Gaps(ctx context.Context, q HoldingQuery) (GapList, error) {
	out := GapList{Gaps: []ledger.Gap{}}
	l, declared, err := r.holdings(ctx, &q)
	if err != nil {
		return out, err
	}
	last, machines := "", 0
	err = r.eachMachine(ctx, q, declared, func(machine string) error {
		if len(out.Gaps) >= maxGaps || machines == q.Limit {
			out.Next = last
			return errEnough
		}
		f, before := q.Filter, len(out.Gaps)
		f.Machine, last = machine, machine
		err := l.Gaps(ctx, f, declared, func(g ledger.Gap) error {
			out.Gaps, out.Missing = append(out.Gaps, g), out.Missing+g.Len()
			return nil
		})
		if len(out.Gaps) > before {
			machines++
		}
		return err
	})
	return out, err
}

// Evidence is a piece of what stands in quarantine, as text.
type Evidence struct {
	ledger.Quarantined
	Record string `json:"record"`         // what came; anything, if somebody forged it
	Held   string `json:"held,omitempty"` // what the ledger holds and that it contradicts
	Do     string `json:"do"`             // the way out
}

// EvidenceList is a page of evidence, oldest first.
type EvidenceList struct {
	Evidence []Evidence `json:"evidence"`
	Next     int64      `json:"next,omitempty"` // after of the next page; 0: this is the last
}

// Conflicts lists evidence above the id after, of one machine and kind or all.
func (r *Reader) Conflicts(ctx context.Context, machine string, kind ledger.Kind, after int64, limit int) (EvidenceList, error) {
	out := EvidenceList{Evidence: []Evidence{}}
	limit, err := pageSize(limit)
	if err != nil {
		return out, err
	}
	if kind != "" && !slices.Contains(ledger.Kinds(), kind) {
		return out, fmt.Errorf("%w: kind %q: want one of %v", ErrUsage, kind, ledger.Kinds())
	}
	for more := true; more && out.Next == 0; {
		var page []ledger.Quarantined
		err := r.o.Store.Ledger().View(ctx, func(v ledger.View) error {
			page = nil
			return v.Quarantined(machine, after, MaxPage, func(q ledger.Quarantined) error { page = append(page, q); return nil })
		})
		if err != nil {
			return out, fmt.Errorf("read the quarantine: %w", err)
		}
		for _, q := range page {
			after = q.ID
			if kind != "" && q.Kind != kind {
				continue
			}
			if len(out.Evidence) == limit {
				out.Next = out.Evidence[limit-1].ID
				break
			}
			out.Evidence = append(out.Evidence, Evidence{q, string(q.Record), string(q.Held), q.Kind.WayOut()})
		}
		more = len(page) == MaxPage
	}
	return out, nil
}

// Totals adds up what the ledger holds of what a filter selects.
func (r *Reader) Totals(ctx context.Context, filter ledger.Filter) (ledger.Totals, error) {
	f := r.o.Fleet()
	if f == nil {
		return ledger.Totals{}, ErrStarting
	}
	if err := checkFilter(filter); err != nil {
		return ledger.Totals{}, err
	}
	return f.Ledger().Totals(ctx, filter)
}

// Certify gives the certificate of a machine's service day, as it is signed: the newest that was issued if it still says what the ledger
// says, else one that is drawn up now, of revision 0.
func (r *Reader) Certify(ctx context.Context, date, machine string) ([]byte, error) {
	f := r.o.Fleet()
	if f == nil {
		return nil, ErrStarting
	}
	if err := checkFilter(ledger.Filter{From: date, To: date}); err != nil {
		return nil, err
	}
	c, err := f.Certifier(ctx)
	if errors.Is(err, fleet.ErrNoSigner) {
		return nil, fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	if err != nil {
		return nil, err
	}
	got, there, err := c.Certify(ctx, machine, date)
	if err == nil && !there {
		err = fmt.Errorf("certificate of machine %s, service day %s: %w: the ledger has no record of that day", machine, date, ErrNotFound)
	}
	return got.Body, err
}

// Export writes the records that a filter selects.
func (r *Reader) Export(ctx context.Context, w io.Writer, format ledger.Format, filter ledger.Filter) error {
	f := r.o.Fleet()
	if f == nil {
		return ErrStarting
	}
	_, err := f.Ledger().Export(ctx, w, format, filter)
	return err
}

// CheckFilter says whether an export can begin: ErrUsage or ErrStarting where not.
func (r *Reader) CheckFilter(filter ledger.Filter) error {
	if r.o.Fleet() == nil {
		return ErrStarting
	}
	return checkFilter(filter)
}
