package ledger

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/farebeat/farebeat/schemas"
)

// Gap is a run of numbers that the machine must have written, since a higher one is here or it said so, and that
// the ledger does not hold.
type Gap struct {
	Machine string `json:"machine"`
	Epoch   uint32 `json:"epoch"`
	Span
	State schemas.GapState `json:"state"`
	// Quarantined is how many of the numbers stand in quarantine as forged or malformed. What is there cannot be
	// proved, so it counts as missing.
	Quarantined uint64 `json:"quarantined,omitempty"`
	// Tail says that no higher number is here: that the records exist is the machine's own word.
	Tail bool `json:"tail,omitempty"`
}

// unreadable are the numbers of a machine, by epoch, that stand in quarantine as forged or malformed.
type unreadable map[uint32]Spans

func unreadables(v View, machine string) (unreadable, error) {
	found := map[uint32][]uint32{}
	err := v.Evidence(machine, func(epoch, seq uint32, kind Kind) error {
		if kind == Forged || kind == Malformed {
			found[epoch] = append(found[epoch], seq)
		}
		return nil
	})
	out := unreadable{}
	for epoch, seqs := range found {
		slices.Sort(seqs)
		for _, seq := range slices.Compact(seqs) {
			out[epoch] = out[epoch].Add(Span{seq, seq})
		}
	}
	return out, err
}

// within counts the numbers of a gap that are unreadable.
func (u unreadable) within(epoch uint32, gap Span) uint64 {
	var n uint64
	for _, s := range u[epoch] {
		if s.Overlaps(gap) {
			n += Span{max(s.First, gap.First), min(s.Last, gap.Last)}.Len()
		}
	}
	return n
}

// judge names what is known of a gap: that it is in quarantine outweighs what the machine says.
func (u unreadable) judge(d Declaration, known bool, g *Gap) {
	g.State = d.state(known, g.Epoch, g.Span)
	if g.Quarantined = u.within(g.Epoch, g.Span); g.Quarantined == g.Len() {
		g.State = schemas.GapUnreadable
	}
}

// Gaps calls each for the gaps of every machine that the filter selects, by machine, newest epoch first, lowest
// first, and then for machines that only declared has. With From or To they are those that may belong to these days.
func (l *Ledger) Gaps(ctx context.Context, f Filter, declared Declarations, each func(Gap) error) error {
	silent := maps.Clone(declared) // those of which nothing is here
	one := func(machine string) error {
		d, known := declared[machine]
		delete(silent, machine)
		var gaps []Gap
		err := l.store.View(ctx, func(v View) (err error) {
			gaps, err = gapsOf(v, machine, f, d, known)
			return err
		})
		if err != nil {
			return fmt.Errorf("ledger: gaps of machine %q: %w", machine, err)
		}
		for _, g := range gaps {
			if err := each(g); err != nil {
				return err
			}
		}
		return nil
	}
	if err := l.machines(ctx, f, one); err != nil || f.Machine != "" {
		return err
	}
	for _, machine := range slices.Sorted(maps.Keys(silent)) {
		if err := one(machine); err != nil {
			return err
		}
	}
	return nil
}

func gapsOf(v View, machine string, f Filter, d Declaration, known bool) ([]Gap, error) {
	epochs, err := epochStatuses(v, machine)
	if err != nil {
		return nil, err
	}
	bad, err := unreadables(v, machine)
	if err != nil {
		return nil, err
	}
	var days []Day
	if f.dated() {
		err = v.Days(machine, "", "", func(d Day) error { days = append(days, d); return nil })
	}
	epochs = withDeclared(epochs, d)
	held := d.holdsTails(epochs)
	var out []Gap
	for _, e := range epochs {
		for _, g := range allGaps(machine, e, d) {
			if f.dated() && !g.mayBeWithin(f, days, d, held) {
				continue
			}
			bad.judge(d, known, &g)
			out = append(out, g)
		}
	}
	return out, err
}

// withDeclared adds the epochs of which only the machine speaks, newest first.
func withDeclared(epochs []EpochStatus, d Declaration) []EpochStatus {
	for epoch := range d.Epochs {
		if !slices.ContainsFunc(epochs, func(e EpochStatus) bool { return e.Epoch == epoch }) {
			epochs = append(epochs, EpochStatus{Epoch: epoch})
		}
	}
	slices.SortFunc(epochs, func(a, b EpochStatus) int { return int(int64(b.Epoch) - int64(a.Epoch)) })
	return epochs
}

// allGaps are the gaps of an epoch, lowest first, the last of them what the machine wrote beyond the highest number here.
func allGaps(machine string, e EpochStatus, d Declaration) []Gap {
	var out []Gap
	for _, g := range e.Gaps {
		out = append(out, Gap{Machine: machine, Epoch: e.Epoch, Span: g})
	}
	if tail, ok := d.tail(e.Epoch, e.Highest); ok {
		out = append(out, Gap{Machine: machine, Epoch: e.Epoch, Span: tail, Tail: true})
	}
	return out
}

// holdsTails reports whether the machine may still hold all that it wrote beyond the highest numbers here. If it holds
// less, some of that is gone, and the age of what it holds says nothing of what is gone.
func (d Declaration) holdsTails(epochs []EpochStatus) bool {
	var n uint64
	for _, e := range epochs {
		if tail, ok := d.tail(e.Epoch, e.Highest); ok {
			n += tail.Len()
		}
	}
	return n <= uint64(d.Pending)
}

// mayBeWithin reports whether numbers of the gap may belong to the days that a filter selects. days are all of the
// machine. Numbers are written in order, those of an epoch after those of the ones before: so what is missing is of a day
// from that of the record below to that of the record above, whether or not the ledger has any record of it. Where there
// is none, only the machine's word bounds the days. held says that all of the tails is still in the machine.
func (g Gap) mayBeWithin(f Filter, days []Day, d Declaration, held bool) bool {
	from, to := g.between(days)
	switch {
	case f.To != "" && (from > f.To || g.Tail && held && !d.tailIn(f.To)):
		return false
	case f.From == "":
		return true
	case to == "" && g.Tail:
		return d.At.IsZero() || d.At.UTC().AddDate(0, 0, 1).Format(time.DateOnly) >= f.From // its clock may be ahead, its zone too
	}
	return to == "" || to >= f.From
}

// between returns the service days of the records next below and next above the gap, in the order of the calendar, since
// the machine's clock may have gone back; "" where there is no such record. days are all of the machine. Where a number lies
// within several days, the widest counts.
func (g Gap) between(days []Day) (from, to string) {
	var below, above [2]uint32 // epoch and number of these records; below {0, 0}, above {0, 0}: none
	for _, d := range days {
		if d.Epoch < g.Epoch || d.Epoch == g.Epoch && d.First < g.First {
			at := [2]uint32{d.Epoch, d.Last}
			if d.Epoch == g.Epoch {
				at[1] = min(d.Last, g.First-1)
			}
			if n := slices.Compare(at[:], below[:]); n > 0 || n == 0 && d.ServiceDate < from {
				below, from = at, d.ServiceDate
			}
		}
		if d.Epoch > g.Epoch || d.Epoch == g.Epoch && d.Last > g.Last {
			at := [2]uint32{d.Epoch, d.First}
			if d.Epoch == g.Epoch {
				at[1] = max(d.First, g.Last+1) // no overflow: d.Last is higher
			}
			if n := slices.Compare(at[:], above[:]); above == [2]uint32{} || n < 0 || n == 0 && d.ServiceDate > to {
				above, to = at, d.ServiceDate
			}
		}
	}
	if to != "" && to < from {
		from, to = to, from
	}
	return from, to
}

// mayBeOf returns whether numbers of the gap may belong to a day: those that are between, next before or next
// after its records.
func (g Gap) mayBeOf(d Declaration, held bool) func(Day) bool {
	return func(day Day) bool {
		return day.Epoch == g.Epoch && g.Overlaps(Span{day.First, day.Last}.Around()) && (!g.Tail || !held || d.tailIn(day.ServiceDate))
	}
}
