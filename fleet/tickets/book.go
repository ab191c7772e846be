package tickets

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Bounds.
const (
	MinValidity     = 10 * time.Minute
	DefaultValidity = 24 * time.Hour
	// Farewell is how long a ticket stands after its fault closed: the gateway gives up its farewell after that.
	Farewell = time.Hour
	// maxCommand bounds how long a command keeps a ticket, whatever it says.
	maxCommand = 24 * time.Hour
	// maxCommands bounds the pairs that commands want tickets for at a time.
	maxCommands = 1000
	// retryAfter is when to try again to issue a ticket after that failed.
	retryAfter = 30 * time.Second
)

// Book holds the tickets of all machines and decides about them. One goroutine uses it.
type Book struct {
	validity time.Duration
	tickets  map[Pair]*Ticket
	newest   map[string]uint64 // highest counter of a machine
	last     uint64            // highest of all
	revoked  map[string]Order  // by vehicle

	known    bool            // SetFaults was called
	faults   map[Pair]string // that stand, with their ids
	machines map[string]int  // how many vehicles have a fault of the machine on their topic
	commands map[Pair]command
	number   uint64 // of the latest command
	failed   map[Pair]time.Time
	unsaved  map[Pair]bool
}

// command is what an operator asked for last of a pair.
type command struct {
	id     string
	until  time.Time
	number uint64 // order of arrival
}

// NewBook makes the book of what a store holds. A validity of 0 is DefaultValidity.
func NewBook(validity time.Duration, list []Ticket, floor uint64, orders []Order) *Book {
	b := &Book{
		validity: max(cmp.Or(validity, DefaultValidity), MinValidity), tickets: map[Pair]*Ticket{}, newest: map[string]uint64{}, last: floor,
		revoked: Revoked(orders), faults: map[Pair]string{}, machines: map[string]int{}, commands: map[Pair]command{},
		failed: map[Pair]time.Time{}, unsaved: map[Pair]bool{},
	}
	list = slices.SortedFunc(slices.Values(list), func(x, y Ticket) int { return cmp.Compare(x.Counter, y.Counter) })
	for _, t := range list {
		b.keep(t)
		if t.Stands() && !t.CommandUntil.IsZero() {
			b.number++ // the latest command had the newest ticket
			b.commands[t.Pair] = command{t.Reason, t.CommandUntil, b.number}
		}
	}
	return b
}

func (b *Book) keep(t Ticket) {
	b.tickets[t.Pair] = &t
	b.newest[t.Machine] = max(b.newest[t.Machine], t.Counter)
	b.last = max(b.last, t.Counter)
}

// SetFaults says which faults stand on the topics of vehicles: their ids by pair.
func (b *Book) SetFaults(now time.Time, faults map[Pair]string) {
	b.known, b.faults, b.machines = true, faults, map[string]int{}
	for p := range faults {
		b.machines[p.Machine]++
	}
	for p, t := range b.tickets {
		_, stands := faults[p]
		if !t.Stands() || t.Fault == stands {
			continue
		}
		t.Fault, t.FarewellUntil = stands, time.Time{}
		if !stands {
			t.FarewellUntil = now.Add(Farewell)
		}
		b.unsaved[p] = true
	}
}

// Errors of Command.
var (
	ErrExpired = errors.New("the command has expired")
	ErrRevoked = errors.New("the tickets of the vehicle are revoked")
	ErrFull    = errors.New("too many commands wait")
)

// Command says that a command to a vehicle wants contact with a machine until it expires.
func (b *Book) Command(now time.Time, p Pair, id string, until time.Time) error {
	if !until.After(now) {
		return fmt.Errorf("%w at %s", ErrExpired, until.UTC().Format(time.RFC3339))
	}
	if o, revoked := b.revoked[p.Vehicle]; revoked {
		return fmt.Errorf("%w since %s: `farebeat tickets restore` ends that", ErrRevoked, o.At.UTC().Format(time.RFC3339))
	}
	before, again := b.commands[p]
	if !again && len(b.commands) >= maxCommands {
		return fmt.Errorf("%w: %d have a ticket", ErrFull, maxCommands)
	}
	if limit := now.Add(maxCommand); until.After(limit) {
		until = limit
	}
	if again && before.until.After(until) {
		until = before.until
	}
	b.number++
	b.commands[p] = command{"command " + id, until, b.number}
	if t := b.tickets[p]; t != nil && t.Stands() {
		t.CommandUntil = until
		b.unsaved[p] = true
	}
	return nil
}

// Order takes in an operator's order.
func (b *Book) Order(o Order) {
	if o.Action == Restore {
		delete(b.revoked, o.Vehicle)
		return
	}
	b.revoked[o.Vehicle] = o
	maps.DeleteFunc(b.commands, func(p Pair, _ command) bool { return p.Vehicle == o.Vehicle })
}

// IsRevoked reports whether the tickets of a vehicle are revoked.
func (b *Book) IsRevoked(vehicle string) bool {
	_, revoked := b.revoked[vehicle]
	return revoked
}

// Plan is what to do so that those tickets stand that should.
type Plan struct {
	Withdraw []Pair   // their tickets stand no longer
	Issue    []Ticket // to be sealed, saved and given to Issued; without Sealed
}

// Plan withdraws what has no reason any more and says what to issue, each with a number of its own: those of one machine in
// the order in which they should supersede one another, and those of no further machine where there are most already.
func (b *Book) Plan(now time.Time, most int) (p Plan) {
	b.forget(now)
	pairs := slices.DeleteFunc(b.pairs(), func(pair Pair) bool {
		if b.wanted(now, pair) {
			return false
		}
		if t := b.tickets[pair]; t != nil && t.Stands() {
			t.Sealed, t.Fault, t.FarewellUntil, t.CommandUntil = nil, false, time.Time{}, time.Time{}
			b.unsaved[pair] = true
			p.Withdraw = append(p.Withdraw, pair)
		}
		return true
	})
	for len(pairs) > 0 && len(p.Issue) < most {
		n := 1
		for n < len(pairs) && pairs[n].Machine == pairs[0].Machine {
			n++
		}
		p.Issue = b.planMachine(now, pairs[:n], p.Issue)
		pairs = pairs[n:]
	}
	return p
}

// planMachine adds what to issue for the vehicles that are to have a ticket for one machine.
func (b *Book) planMachine(now time.Time, pairs []Pair, issue []Ticket) []Ticket {
	if len(pairs) > 1 {
		slices.SortFunc(pairs, b.byRank)
	}
	newest := b.newest[pairs[0].Machine]
	for i, pair := range pairs {
		top := i == len(pairs)-1
		if !b.due(now, pair) && (!top || b.tickets[pair].Counter >= newest) {
			continue
		}
		if at, failed := b.failed[pair]; failed && now.Sub(at).Abs() < retryAfter {
			continue
		}
		t := b.draw(now, pair)
		newest = t.Counter
		issue = append(issue, t)
	}
	return issue
}

// pairs lists all that have a ticket or want one.
func (b *Book) pairs() []Pair {
	all := make([]Pair, 0, len(b.faults)+len(b.commands))
	for p := range b.faults {
		all = append(all, p)
	}
	for p := range b.commands {
		if _, listed := b.faults[p]; !listed {
			all = append(all, p)
		}
	}
	for p, t := range b.tickets {
		_, listed := b.faults[p]
		_, too := b.commands[p]
		if t.Stands() && !listed && !too {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(x, y Pair) int {
		return cmp.Or(cmp.Compare(x.Machine, y.Machine), cmp.Compare(x.Vehicle, y.Vehicle))
	})
	return all
}

// forget drops commands that expired, and cuts what a clock that was ahead made too long.
func (b *Book) forget(now time.Time) {
	for p, c := range b.commands {
		if !c.until.After(now) {
			delete(b.commands, p)
		} else if limit := now.Add(maxCommand); c.until.After(limit) {
			c.until = limit
			b.commands[p] = c
		}
	}
	for p, t := range b.tickets {
		if limit := now.Add(Farewell); t.FarewellUntil.After(limit) {
			t.FarewellUntil = limit
			b.unsaved[p] = true
		}
	}
	maps.DeleteFunc(b.failed, func(_ Pair, at time.Time) bool { return now.Sub(at).Abs() >= retryAfter })
}

// wanted reports whether a ticket is to stand for a pair.
func (b *Book) wanted(now time.Time, p Pair) bool {
	if b.IsRevoked(p.Vehicle) {
		return false
	}
	t := b.tickets[p]
	_, fault := b.faults[p]
	_, command := b.commands[p]
	switch {
	case fault || command:
		return true
	case t == nil || !t.Stands():
		return false
	case !b.known && t.Fault:
		return true // as before the restart, until the first round
	}
	// Where the machine is another vehicle's now there is nobody to say farewell to.
	return t.FarewellUntil.After(now) && b.machines[p.Machine] == 0
}

// byRank orders pairs of a machine by who is to act on it: the vehicle of the latest command before that of a fault.
func (b *Book) byRank(x, y Pair) int {
	_, fx := b.faults[x]
	_, fy := b.faults[y]
	return cmp.Or(cmp.Compare(b.commands[x].number, b.commands[y].number), compareBool(b.commanded(x), b.commanded(y)), compareBool(fx, fy), cmp.Compare(x.Vehicle, y.Vehicle))
}

func (b *Book) commanded(p Pair) bool {
	_, ok := b.commands[p]
	return ok
}

func compareBool(x, y bool) int {
	switch {
	case x == y:
		return 0
	case x:
		return 1
	}
	return -1
}

// due reports whether there is no ticket for a pair, or one that is to be renewed. One that was issued by a clock that
// was ahead would else be renewed too late for the machine, which counts the time by itself.
func (b *Book) due(now time.Time, p Pair) bool {
	t := b.tickets[p]
	if t == nil || !t.Stands() {
		return true
	}
	age := now.Sub(t.IssuedAt)
	return age >= b.validity/2 || age < -b.validity/4 || t.ExpiresAt.Sub(now) < min(b.validity, t.ExpiresAt.Sub(t.IssuedAt))/2
}

// draw makes the next ticket of a pair, not yet sealed. Its number is above all before it, also where the clock was set back, and
// above those of a store that was lost.
func (b *Book) draw(now time.Time, p Pair) Ticket {
	b.last = max(b.last+1, uint64(max(now.UnixMilli(), 0)))
	issued := now.UTC().Truncate(time.Millisecond)
	t := Ticket{Pair: p, Counter: b.last, IssuedAt: issued, ExpiresAt: issued.Add(b.validity)}
	if before := b.tickets[p]; before != nil && before.Stands() {
		t.FarewellUntil, t.Reason = before.FarewellUntil, before.Reason
		t.Fault = before.Fault && !b.known // until the first round says more
	}
	if c, ok := b.commands[p]; ok {
		t.CommandUntil, t.Reason = c.until, c.id
	}
	if fault, ok := b.faults[p]; ok {
		t.Fault, t.Reason = true, fault
	}
	return t
}

// Issued says that a ticket was sealed and saved.
func (b *Book) Issued(t Ticket) {
	delete(b.failed, t.Pair)
	delete(b.unsaved, t.Pair)
	b.keep(t)
}

// Failed says that a ticket could not be sealed.
func (b *Book) Failed(now time.Time, p Pair) { b.failed[p] = now }

// Unsaved lists the tickets that changed without being issued. Saved says that they are on disk.
func (b *Book) Unsaved() []Ticket {
	var out []Ticket
	for p := range b.unsaved {
		out = append(out, *b.tickets[p])
	}
	return out
}

// Saved says that what Unsaved listed is on disk.
func (b *Book) Saved() { clear(b.unsaved) }

// Standing lists the tickets that stand, in no order.
func (b *Book) Standing() []Ticket {
	var out []Ticket
	for _, t := range b.tickets {
		if t.Stands() && !b.IsRevoked(t.Vehicle) {
			out = append(out, *t)
		}
	}
	return out
}

// Ticket gives the ticket that stands for a pair.
func (b *Book) Ticket(p Pair) (Ticket, bool) {
	t := b.tickets[p]
	if t == nil || !t.Stands() || b.IsRevoked(p.Vehicle) {
		return Ticket{}, false
	}
	return *t, true
}

// Spoilt says that the ticket of a pair cannot be read with the machine's key: it is issued anew where it is wanted.
func (b *Book) Spoilt(p Pair) {
	if t := b.tickets[p]; t != nil {
		t.IssuedAt, t.ExpiresAt = time.Unix(0, 0).UTC(), time.Unix(0, 0).UTC()
	}
}
