package faults

import (
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/farebeat/farebeat/schemas"
)

// Book holds the faults that have not ended, and for a while those that closed, so that
// what comes back soon is the same fault. It belongs to one goroutine.
type Book struct {
	policy   Policy
	faults   map[slot]*Fault
	byID     map[string]slot
	machines map[string]int // faults held per machine
	suspects map[string]Fault
}

// slot is the place of at most one fault: its family and its subject.
type slot struct {
	family       Family
	field, value string // see Subject.name
}

func slotOf(family Family, s Subject) slot {
	field, value := s.name()
	return slot{family, field, value}
}

// NewBook makes an empty book.
func NewBook(p Policy) *Book {
	return &Book{policy: p.withDefaults(), faults: map[slot]*Fault{}, byID: map[string]slot{}, machines: map[string]int{}, suspects: map[string]Fault{}}
}

// Restore fills an empty book with stored faults: all of Store.Open, and those of Store.List that
// closed within Policy.ReopenWithin, so that they may open again. Of two in one place the one
// opened last stays in the book.
func (b *Book) Restore(faults []Fault) {
	sorted := slices.Clone(faults)
	slices.SortFunc(sorted, func(x, y Fault) int {
		if x.Ended() != y.Ended() { // a live one wins
			if x.Ended() {
				return -1
			}
			return 1
		}
		return Compare(y, x)
	})
	for _, f := range sorted {
		f = f.clone()
		if f.Parent == "" && f.Maintenance == "" && f.Condition != schemas.Abandoned && f.Attention.State != schemas.Shelved && !f.Ended() {
			f.Told = true // also where it was stored by a version that did not note it
		}
		b.put(f)
	}
}

// Stands reports whether a fault of a family and subject has not ended.
func (b *Book) Stands(family Family, s Subject) bool {
	f := b.faults[slotOf(family, s)]
	return f != nil && !f.Ended()
}

func (b *Book) put(f Fault) {
	at := slotOf(f.Family(), f.Subject)
	if old := b.faults[at]; old != nil {
		if old.ID != f.ID {
			delete(b.byID, old.ID)
		}
	} else if f.Subject.Machine != "" {
		b.machines[f.Subject.Machine]++
	}
	b.faults[at] = &f
	b.byID[f.ID] = at
}

func (b *Book) remove(at slot) {
	f := b.faults[at]
	if f == nil {
		return
	}
	delete(b.faults, at)
	delete(b.byID, f.ID)
	if m := f.Subject.Machine; m != "" {
		if b.machines[m]--; b.machines[m] <= 0 {
			delete(b.machines, m)
		}
	}
}

// Apply takes all evidence of one evaluation and returns what changed, in order. The changes
// must be durable before anybody is told of them: where saving fails, save them again. The book
// is ahead of the store meanwhile, and a crash only takes it back to what was stored.
func (b *Book) Apply(now time.Time, inputs []Input) []Change {
	var out []Change
	for order := range 3 { // what many suffer explains the rest, and a route its machines
		for _, in := range inputs {
			if orderOf(in) == order {
				out = append(out, b.apply(now, in)...)
			}
		}
	}
	return append(out, b.expire(now)...)
}

func orderOf(in Input) int {
	switch in.(type) {
	case CauseCheck:
		return 0
	case RouteCheck:
		return 1
	}
	return 2
}

func (b *Book) apply(now time.Time, in Input) []Change {
	switch in := in.(type) {
	case Attend:
		return b.stepAt(now, b.byID[in.Fault], Subject{}, in)
	case Abandon:
		return b.stepAt(now, b.byID[in.Fault], Subject{}, in)
	case Note:
		return b.stepAt(now, b.byID[in.Fault], Subject{}, in)
	case RouteCheck:
		b.suspect(in)
	case MachineCheck:
		if len(in.Verdicts) == 0 && b.machines[in.Machine] == 0 {
			return nil
		}
	}
	var out []Change
	for _, family := range in.families() {
		out = append(out, b.stepAt(now, slotOf(family, in.subject()), in.subject(), in)...)
	}
	return out
}

func (b *Book) suspect(in RouteCheck) {
	if in.Blind {
		return
	}
	if f, ok := Suspect(in); ok {
		b.suspects[in.Route] = f
		return
	}
	delete(b.suspects, in.Route)
}

// stepAt steps the fault of one place, or lets the input begin one there.
func (b *Book) stepAt(now time.Time, at slot, subject Subject, in Input) []Change {
	held := b.faults[at]
	if held == nil {
		if at.family == "" {
			return nil // no such fault id
		}
		held = &Fault{Subject: subject, Kind: firstKind(at.family, subject)}
	}
	if held.Ended() && !byPerson(in) && !b.policy.reopenable(now, *held) {
		held = &Fault{Subject: held.Subject, Kind: firstKind(at.family, held.Subject), SuspectedAt: held.free()}
	}
	next, changes := b.policy.Step(now, *held, b.inContext(now, *held, in))
	if next.ID == "" {
		return nil
	}
	b.put(next)
	return changes
}

// byPerson reports whether an input is about what a person saw or said, which concerns a fault that ended as well.
func byPerson(in Input) bool {
	switch in.(type) {
	case Attend, Note:
		return true
	}
	return false
}

// firstKind is any kind of the family, for a fault that has not begun.
func firstKind(family Family, s Subject) Kind {
	switch family {
	case FamilyCustody:
		return MachineReported
	case FamilyCode:
		return MachineCode
	case FamilyClock:
		return MachineClock
	case FamilyRoute:
		return RouteReported
	case FamilyStore:
		return BrokerStore
	case FamilyService:
		return SeriesSink
	}
	return CauseKind(s)
}

// inContext returns the input with the fault that explains its subject.
func (b *Book) inContext(now time.Time, f Fault, in Input) Input {
	switch in := in.(type) {
	case MachineCheck:
		top, _ := strongest(in.Verdicts, f.Family())
		in.Context.parent, in.Context.found = b.parent(now, f, top.Kind, in.Context), true
		return in
	case RouteCheck:
		in.Context.parent, in.Context.found = b.parent(now, f, in.Verdict.Kind, in.Context), true
		return in
	case CauseCheck:
		in.Context.parent, in.Context.found = b.parent(now, f, in.Verdict.Kind, in.Context), true
		return in
	}
	return in
}

// parent is the id of the fault that explains f, or would if f opened as kind now; empty for none. A parent keeps its
// children until it ended, and a while longer: they return one after the other.
func (b *Book) parent(now time.Time, f Fault, kind Kind, c Context) string {
	begun := f.ID != "" && !f.Ended()
	if begun && f.Parent != "" {
		if p, ok := b.faults[b.byID[f.Parent]]; ok && (!p.Ended() || now.Sub(p.ClosedAt) < b.policy.Linger) {
			return f.Parent
		}
	}
	if begun {
		kind = f.Kind
	}
	if !c.Explained || kind.Entry().DependsOn == "" || c.Under == f.Subject {
		return ""
	}
	family := FamilyCause
	if c.Under.Route != "" {
		family = FamilyRoute
	}
	p := b.faults[slotOf(family, c.Under)]
	if p == nil || p.Ended() || begun && f.OpenedAt.Before(p.OpenedAt.Add(-b.policy.FoldBack)) {
		return ""
	}
	return p.ID
}

// expire ends what has an end of its own, and forgets what cannot come back.
func (b *Book) expire(now time.Time) []Change {
	var out []Change
	for at, f := range b.faults {
		if f.Ended() && !b.policy.reopenable(now, *f) {
			if now.Sub(f.ClosedAt) >= b.policy.Linger {
				b.remove(at)
			}
			continue
		}
		next, changes := b.policy.Tick(now, *f)
		if len(changes) > 0 {
			b.put(next)
			out = append(out, changes...)
		}
	}
	// In a fixed order, so that equal inputs give equal changes.
	slices.SortFunc(out, func(x, y Change) int { return Compare(x.Fault, y.Fault) })
	return out
}

// Concerns reports whether a machine has a fault in the book, so that it needs a MachineCheck.
func (b *Book) Concerns(machine string) bool { return b.machines[machine] > 0 }

// Machines lists the machines of which Concerns is true, in no order.
func (b *Book) Machines() iter.Seq[string] { return maps.Keys(b.machines) }

// Get returns a fault in the book by id.
func (b *Book) Get(id string) (Fault, bool) {
	f, ok := b.faults[b.byID[id]]
	if !ok {
		return Fault{}, false
	}
	return f.clone(), true
}

// Open lists the faults that have not ended, in the order of Store.List.
func (b *Book) Open() []Fault {
	out := make([]Fault, 0, len(b.faults))
	for _, f := range b.faults {
		if !f.Ended() {
			out = append(out, f.clone())
		}
	}
	slices.SortFunc(out, Compare)
	return out
}

// Subjects lists the subjects of the faults of a family that have not ended, in no order.
func (b *Book) Subjects(family Family) []Subject {
	var out []Subject
	for at, f := range b.faults {
		if at.family == family && !f.Ended() {
			out = append(out, f.Subject)
		}
	}
	return out
}

// Suspects lists what rules suspect of routes, by route.
func (b *Book) Suspects() []Fault {
	out := make([]Fault, 0, len(b.suspects))
	for _, f := range b.suspects {
		out = append(out, f.clone())
	}
	slices.SortFunc(out, func(x, y Fault) int {
		if x.Subject.Route < y.Subject.Route {
			return -1
		}
		return 1
	})
	return out
}
