package faults

import (
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

// slot is the place of at most one fault.
type slot struct {
	family  Family
	subject Subject
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
		b.put(f.clone())
	}
}

func (b *Book) put(f Fault) {
	at := slot{f.Family(), f.Subject}
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
	if m := at.subject.Machine; m != "" {
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
	for _, first := range []bool{true, false} { // what the platform suffers explains the rest
		for _, in := range inputs {
			if _, platform := in.(PlatformCheck); platform == first {
				out = append(out, b.apply(now, in)...)
			}
		}
		if first {
			out = append(out, b.fold(now)...)
		}
	}
	return append(out, b.expire(now)...)
}

func (b *Book) apply(now time.Time, in Input) []Change {
	switch in := in.(type) {
	case Attend:
		return b.stepAt(now, b.byID[in.Fault], in)
	case Abandon:
		return b.stepAt(now, b.byID[in.Fault], in)
	case RouteCheck:
		b.suspect(in)
	case MachineCheck:
		if len(in.Verdicts) == 0 && b.machines[in.Machine] == 0 {
			return nil
		}
	}
	var out []Change
	for _, family := range in.families() {
		out = append(out, b.stepAt(now, slot{family, in.subject()}, in)...)
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
func (b *Book) stepAt(now time.Time, at slot, in Input) []Change {
	held := b.faults[at]
	if held == nil {
		if at.family == "" {
			return nil // no such fault id
		}
		held = &Fault{Subject: at.subject, Kind: firstKind(at)}
	}
	if _, person := in.(Attend); held.Ended() && !person && !b.policy.reopenable(now, *held) {
		held = &Fault{Subject: at.subject, Kind: firstKind(at)}
	}
	next, changes := b.policy.Step(now, *held, in)
	if next.ID == "" {
		return nil
	}
	if len(changes) > 0 && changes[0].Event.Change == ChangeOpened {
		b.adopt(&next, &changes[0].Fault)
	}
	b.put(next)
	return changes
}

// firstKind is any kind of the family, for a fault that has not begun.
func firstKind(at slot) Kind {
	switch at.family {
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
	}
	return Platform
}

// parent is the platform's fault while it stands.
func (b *Book) parent() (Fault, bool) {
	f := b.faults[slot{FamilyPlatform, Subject{}}]
	if f == nil || f.Ended() || f.Condition == schemas.Abandoned {
		return Fault{}, false
	}
	return *f, true
}

// adopt puts a fault that opens under the parent that explains it.
func (b *Book) adopt(copies ...*Fault) {
	parent, ok := b.parent()
	for _, f := range copies {
		if ok && f.Kind.Entry().DependsOn == parent.Kind {
			f.Parent = parent.ID
		}
	}
}

// fold puts what opened shortly before a parent under it, and sets free what its parent no
// longer explains.
func (b *Book) fold(now time.Time) []Change {
	parent, standing := b.parent()
	var out []Change
	for _, at := range b.slots() {
		f := b.faults[at]
		want := ""
		if standing && f.Kind.Entry().DependsOn == parent.Kind && !f.Ended() && !f.OpenedAt.Before(parent.OpenedAt.Add(-b.policy.FoldBack)) {
			want = parent.ID
		}
		if f.Parent == want {
			continue
		}
		s := step{Policy: b.policy, now: now, fault: f.clone()}
		s.fault.Parent = want
		s.tell(ChangeUpdated)
		next, changes := s.commit(*f)
		b.put(next)
		out = append(out, changes...)
	}
	return out
}

// expire ends what has an end of its own, and forgets what cannot come back.
func (b *Book) expire(now time.Time) []Change {
	var out []Change
	for _, at := range b.slots() {
		f := b.faults[at]
		if f.Ended() && !b.policy.reopenable(now, *f) {
			b.remove(at)
			continue
		}
		next, changes := b.policy.Tick(now, *f)
		if len(changes) > 0 {
			b.put(next)
			out = append(out, changes...)
		}
	}
	return out
}

// slots lists the places in a fixed order, so that equal inputs give equal changes.
func (b *Book) slots() []slot {
	out := make([]slot, 0, len(b.faults))
	for at := range b.faults {
		out = append(out, at)
	}
	slices.SortFunc(out, func(x, y slot) int { return Compare(*b.faults[x], *b.faults[y]) })
	return out
}

// Concerns reports whether a machine has a fault in the book, so that it needs a MachineCheck.
func (b *Book) Concerns(machine string) bool { return b.machines[machine] > 0 }

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
	for _, at := range b.slots() {
		if f := b.faults[at]; !f.Ended() {
			out = append(out, f.clone())
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
