package fleet

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/limit"
	"github.com/farebeat/farebeat/fleet/orders"
	"github.com/farebeat/farebeat/fleet/tickets"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
)

const (
	ticketBatch    = 64                     // tickets that are sealed before the first of them is saved
	ticketParallel = 8                      // of them at once: a hardware module may take its time
	maxPlanned     = 4096                   // tickets that one look plans
	planAgain      = time.Second            // on the wall: after which what is left of a plan is planned again
	sealPatience   = 10 * time.Second       // for one batch, on the wall
	ordersEvery    = time.Second            // on the wall: between two looks for orders of the command line
	roundPatience  = 250 * time.Millisecond // that a round waits for tickets, on the wall
)

// ticketing keeps the tickets that should stand on disk and on their topics. One goroutine does its passes, so that keys
// that make it wait hold up neither a round nor the messages of faults.
type ticketing struct {
	o     Options
	out   *publisher
	stats *Stats
	log   *limit.Table
	book  *tickets.Book  // of whoever does a pass
	shut  []tickets.Pair // tickets of the last run, whose secret was not read yet
	asked chan chan struct{}
	wake  chan struct{}

	mu       sync.Mutex
	faults   map[tickets.Pair]string // that stand; nil before the first round
	commands []contactWish
	unread   map[tickets.Pair]bool // as shut
	had      map[tickets.Pair]bool // for which a ticket was ever issued
}

// contactWish is a command that wants contact with a machine.
type contactWish struct {
	pair  tickets.Pair
	id    string
	until time.Time
}

// newTicketing recalls the tickets of the last run. Nothing of a vehicle whose tickets were revoked meanwhile is taken up.
func newTicketing(ctx context.Context, o Options, out *publisher, stats *Stats, log *limit.Table) (*ticketing, error) {
	t := &ticketing{
		o: o, out: out, stats: stats, log: log, asked: make(chan chan struct{}), wake: make(chan struct{}, 1), unread: map[tickets.Pair]bool{},
		had: map[tickets.Pair]bool{},
	}
	list, err := o.Store.Tickets().List(ctx, tickets.Query{})
	if err != nil {
		return nil, err
	}
	floor, err := o.Store.Tickets().Floor(ctx)
	if err != nil {
		return nil, err
	}
	orders, err := o.Store.Tickets().Orders(ctx)
	if err != nil {
		return nil, err
	}
	t.book = tickets.NewBook(o.TicketValidity, list, floor, orders)
	t.takeOrders(ctx)
	for _, k := range list {
		t.had[k.Pair] = true
	}
	for _, k := range t.book.Standing() {
		t.shut = append(t.shut, k.Pair)
		t.unread[k.Pair] = true
	}
	t.poke()
	return t, nil
}

func (t *ticketing) poke() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// run does passes until ctx ends: after each round, at once for a command, and soon for an operator's order.
func (t *ticketing) run(ctx context.Context) {
	look := time.NewTicker(ordersEvery)
	defer look.Stop()
	for {
		var done chan struct{}
		select {
		case <-ctx.Done():
			return
		case <-look.C:
			if !orders.AnyLeft(t.o.Orders) {
				continue
			}
		case <-t.wake:
		case done = <-t.asked:
		}
		t.pass(ctx)
		if done != nil {
			close(done)
		}
	}
}

// setFaults says which faults stand, and has their tickets issued. It waits for them a moment, so that a gateway seldom
// hears of a fault before it has the ticket, but not where the keys make others wait already.
func (t *ticketing) setFaults(ctx context.Context, stand map[tickets.Pair]string) {
	t.mu.Lock()
	fresh := false
	for p := range stand {
		_, before := t.faults[p]
		fresh = fresh || !before
	}
	t.faults = stand
	t.mu.Unlock()
	if !fresh {
		t.poke()
		return
	}
	done := make(chan struct{})
	select {
	case t.asked <- done:
	default:
		t.poke()
		return
	}
	timer := time.NewTimer(roundPatience)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// pass brings the tickets to what they should be. What fails is tried again with a later pass.
func (t *ticketing) pass(ctx context.Context) {
	for ctx.Err() == nil {
		t.takeOrders(ctx)
		t.takeWishes()
		plan := t.book.Plan(t.o.Now(), maxPlanned)
		for _, p := range plan.Withdraw {
			t.withdraw(p)
		}
		if !t.saveChanged(ctx) {
			return
		}
		t.read(ctx)
		if len(plan.Issue) == 0 {
			return
		}
		// Slow keys must not keep a revocation waiting: what is not done in a while is planned again.
		for begun := time.Now(); len(plan.Issue) > 0 && time.Since(begun) < planAgain; {
			n := min(len(plan.Issue), ticketBatch)
			if !t.issue(ctx, plan.Issue[:n]) {
				return
			}
			plan.Issue = plan.Issue[n:]
		}
	}
}

// takeOrders takes in what the command line left. A file is removed when its order is on disk; it holds from now on in any case.
func (t *ticketing) takeOrders(ctx context.Context) {
	if t.o.Orders == "" {
		return
	}
	left, err := orders.Take[tickets.Order](t.o.Orders)
	if err != nil {
		t.complain("orders", "an order about tickets was not taken", "error", err)
	}
	for _, l := range left {
		o := l.Order
		t.book.Order(o)
		err := t.o.Store.Tickets().Give(ctx, o)
		if err == nil {
			t.o.Logger.Warn("the tickets of a vehicle: an operator's order", "vehicle", o.Vehicle, "action", o.Action, "by", o.By, "at", o.At, "reason", o.Reason)
			err = os.Remove(l.Path)
		}
		if err != nil {
			t.complain("orders", "an order about tickets holds, but could not be saved; it is tried again", "vehicle", o.Vehicle, "action", o.Action, "error", err)
		}
	}
}

// complain logs an error once a minute.
func (t *ticketing) complain(what, message string, args ...any) {
	if t.log.Due("tickets "+what, t.o.Now()) {
		t.o.Logger.Error(message, args...)
	}
}

func (t *ticketing) complainOfDisk(ctx context.Context, err error) {
	if ctx.Err() == nil {
		t.complain("save", "tickets could not be saved; none is issued until they are", "error", err)
	}
}

// takeWishes takes in faults and commands.
func (t *ticketing) takeWishes() {
	t.mu.Lock()
	stand, commands := t.faults, t.commands
	t.commands = nil
	t.mu.Unlock()
	now := t.o.Now()
	if stand != nil {
		t.book.SetFaults(now, stand)
	}
	for _, c := range commands {
		if err := t.book.Command(now, c.pair, c.id, c.until); err != nil {
			t.stats.CommandsRefused.Add(1)
			if t.log.Due("command "+c.pair.Vehicle, now) {
				t.o.Logger.Warn("no ticket for a command", "vehicle", c.pair.Vehicle, "machine", c.pair.Machine, "command", c.id, "error", err)
			}
		}
	}
}

// command notes that a gateway was told to contact a machine.
func (t *ticketing) command(a topics.Address, payload []byte) error {
	var c schemas.Command
	if err := schemas.Decode(payload, schemas.NameCommand, &c); err != nil {
		return err
	}
	if c.ID != a.Command {
		return &schemas.Error{Message: schemas.NameCommand, Field: "id", Problem: fmt.Sprintf("is %q on the topic of %q", c.ID, a.Command)}
	}
	if c.Verb == schemas.VerbReboot { // gateways have no way to
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.commands) >= maxWishes {
		return fmt.Errorf("command %s to vehicle %s: %d wait for a ticket already", c.ID, a.Vehicle, maxWishes)
	}
	t.commands = append(t.commands, contactWish{tickets.Pair{Machine: c.Machine, Vehicle: a.Vehicle}, c.ID, c.ExpiresAt})
	t.poke()
	return nil
}

// maxWishes bounds the commands that wait for a pass.
const maxWishes = 1000

// stands judges what was seen to stand on a ticket's topic; what should not is cleared.
func (t *ticketing) stands(a topics.Address, topic string, payload []byte) {
	t.mu.Lock()
	unread := t.unread[tickets.Pair{Machine: a.Machine, Vehicle: a.Vehicle}]
	t.mu.Unlock()
	if !unread { // else what should stand is told in a moment
		t.out.stands(topic, payload)
	}
}

func (t *ticketing) topic(p tickets.Pair) string {
	topic, err := t.o.Tree.Build(topics.Address{Kind: topics.Ticket, Vehicle: p.Vehicle, Machine: p.Machine})
	if err != nil {
		t.complain("topic", "a ticket has no topic", "vehicle", p.Vehicle, "machine", p.Machine, "error", err)
	}
	return topic
}

func (t *ticketing) withdraw(p tickets.Pair) {
	if t.book.IsRevoked(p.Vehicle) {
		t.stats.TicketsRevoked.Add(1)
	}
	t.forget(p)
	if topic := t.topic(p); topic != "" {
		t.out.set(topic, nil)
	}
}

// forget notes that the secret of a ticket of the last run need not be read any more.
func (t *ticketing) forget(p tickets.Pair) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.unread, p)
}

// bind notes that a vehicle has a ticket for a machine, before its gateway can know.
func (t *ticketing) bind(p tickets.Pair) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.had[p] = true
}

// hadTicket reports whether a ticket of a vehicle for a machine was ever issued, as far as the store knows.
func (t *ticketing) hadTicket(p tickets.Pair) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.had[p]
}

// isBound reports whether the fleet gave a machine into a vehicle's hands: by a ticket, now or before, or by a fault on its topic, whose ticket is
// to come.
func (t *ticketing) isBound(p tickets.Pair) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, told := t.faults[p]
	return told || t.had[p]
}

func (t *ticketing) saveChanged(ctx context.Context) bool {
	if err := t.o.Store.Tickets().Save(ctx, t.book.Unsaved()...); err != nil {
		t.complainOfDisk(ctx, err)
		return false
	}
	t.book.Saved()
	return true
}

// issue seals, saves and publishes, in this order, and reports whether to go on.
func (t *ticketing) issue(ctx context.Context, list []tickets.Ticket) bool {
	messages := t.seal(ctx, list)
	var sealed []tickets.Ticket
	for i, k := range list {
		if messages[i] == nil {
			t.book.Failed(t.o.Now(), k.Pair)
		} else {
			sealed = append(sealed, k)
		}
	}
	if err := t.o.Store.Tickets().Save(ctx, sealed...); err != nil {
		t.complainOfDisk(ctx, err)
		return false
	}
	for i, k := range list {
		if messages[i] == nil {
			continue
		}
		if _, stood := t.book.Ticket(k.Pair); stood {
			t.stats.TicketsRenewed.Add(1)
		} else {
			t.stats.TicketsIssued.Add(1)
		}
		t.book.Issued(k)
		t.forget(k.Pair)
		t.bind(k.Pair)
		t.out.set(t.topic(k.Pair), messages[i])
	}
	return true
}

// seal makes the sealed halves and the messages of tickets. Where it fails the message is nil.
func (t *ticketing) seal(ctx context.Context, list []tickets.Ticket) [][]byte {
	ctx, cancel := context.WithTimeout(ctx, sealPatience)
	defer cancel()
	messages := make([][]byte, len(list))
	var group errgroup.Group
	group.SetLimit(ticketParallel)
	for i := range list {
		k := &list[i]
		group.Go(func() error {
			g := schemas.TicketGrant{
				Machine: k.Machine, Vehicle: k.Vehicle, Reason: k.Reason, Counter: k.Counter, IssuedAt: k.IssuedAt, ExpiresAt: k.ExpiresAt,
			}
			_, err := rand.Read(g.Secret[:])
			if err == nil {
				k.Sealed, err = t.o.Keys.SealTicket(ctx, g)
			}
			var message []byte
			if err == nil && t.topic(k.Pair) != "" {
				message, err = encodeTicket(g, k.Sealed)
			}
			if err != nil {
				t.stats.TicketsFailed.Add(1)
				t.complain("seal", "a ticket could not be issued; its gateway waits for it", "vehicle", k.Vehicle, "machine", k.Machine, "error", err)
			}
			messages[i] = message
			return nil
		})
	}
	_ = group.Wait() // each one's failure is its own
	return messages
}

// encodeTicket makes the message of a ticket: of the same grant the same bytes.
func encodeTicket(g schemas.TicketGrant, sealed []byte) ([]byte, error) {
	return schemas.Encode(&schemas.Ticket{
		Machine: g.Machine, Vehicle: g.Vehicle, AsOf: milli(g.IssuedAt), ExpiresAt: milli(g.ExpiresAt),
		Secret: base64.RawURLEncoding.EncodeToString(g.Secret[:]), Sealed: base64.RawURLEncoding.EncodeToString(sealed),
	})
}

// read has the tickets of the last run stand as they stood: the secret of each is in its sealed half.
func (t *ticketing) read(ctx context.Context) {
	if len(t.shut) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, sealPatience)
	defer cancel()
	again := make([]bool, len(t.shut))
	useless := make([]bool, len(t.shut))
	var group errgroup.Group
	group.SetLimit(ticketParallel)
	for i, p := range t.shut {
		k, stands := t.book.Ticket(p)
		if !stands || !t.isUnread(p) {
			continue
		}
		group.Go(func() error {
			message, err := t.reopen(ctx, k)
			switch {
			case err == nil:
				t.forget(p)
				t.out.set(t.topic(p), message)
			case ctx.Err() != nil || !cannotBeRead(err):
				again[i] = true
				t.complain("open", "a ticket could not be read again; its gateway goes on with the one that stands", "vehicle", p.Vehicle, "machine", p.Machine, "error", err)
			default:
				useless[i] = true
				t.complain("open", "a ticket is of another key and is issued anew", "vehicle", p.Vehicle, "machine", p.Machine, "error", err)
			}
			return nil
		})
	}
	_ = group.Wait() // each one's failure is its own
	var shut []tickets.Pair
	for i, p := range t.shut {
		if again[i] {
			shut = append(shut, p)
		}
		if useless[i] {
			t.book.Spoilt(p)
			t.poke()
		}
	}
	t.shut = shut
}

func (t *ticketing) isUnread(p tickets.Pair) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.unread[p]
}

var errOtherTicket = errors.New("what was sealed is another ticket")

func cannotBeRead(err error) bool {
	return errors.Is(err, schemas.ErrTicketForm) || errors.Is(err, schemas.ErrTicketForeign) || errors.Is(err, schemas.ErrTicketForged) ||
		errors.Is(err, errOtherTicket)
}

func (t *ticketing) reopen(ctx context.Context, k tickets.Ticket) ([]byte, error) {
	g, err := t.o.Keys.OpenTicket(ctx, k.Machine, k.Sealed)
	if err != nil {
		return nil, err
	}
	if g.Vehicle != k.Vehicle || g.Counter != k.Counter {
		return nil, errOtherTicket
	}
	return encodeTicket(g, k.Sealed)
}

// firstFaults names the fault that a machine's ticket is issued for: the one that opened first.
func firstFaults(open []faults.Fault) map[string]string {
	first := map[string]faults.Fault{}
	for _, f := range open {
		if f.Subject.Machine == "" || f.Ended() {
			continue
		}
		if old, ok := first[f.Subject.Machine]; !ok || cmp.Or(f.OpenedAt.Compare(old.OpenedAt), cmp.Compare(f.ID, old.ID)) < 0 {
			first[f.Subject.Machine] = f
		}
	}
	out := make(map[string]string, len(first))
	for machine, f := range first {
		out[machine] = f.ID
	}
	return out
}
