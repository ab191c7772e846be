package ors

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/farebeat/farebeat/schemas"
)

// Gate is how a machine judges who may open a session with it.
type Gate interface {
	ID() string
	// Key is the machine's own, under which the fleet seals tickets.
	Key() [schemas.TicketKeySize]byte
	// LastTicket is what KeepTicket kept last, zero at first.
	LastTicket(ctx context.Context) (TicketMark, error)
	// KeepTicket has the mark of a newer ticket durable before it returns.
	KeepTicket(ctx context.Context, m TicketMark) error
}

// TicketMark is the newest ticket that a machine accepted: its counter, and when the fleet issued it.
type TicketMark struct {
	Counter  uint64
	IssuedAt time.Time
}

// Refusal is why a machine does not open a session, as REFUSED carries it.
type Refusal uint8

// The refusals.
const (
	RefusedVersion     Refusal = 1 // another major version
	RefusedSuite       Refusal = 2 // it does not know the suite
	RefusedForm        Refusal = 3 // what was shown is not a ticket
	RefusedForeign     Refusal = 4 // the ticket is for another machine
	RefusedForged      Refusal = 5 // the ticket is not of the machine's key, or who shows it does not know its secret
	RefusedExpired     Refusal = 6
	RefusedSuperseded  Refusal = 7 // a newer ticket was accepted before
	RefusedUnavailable Refusal = 8 // the machine cannot keep the ticket's mark: its storage fails
)

// String says what happened and what helps.
func (r Refusal) String() string {
	switch r {
	case RefusedVersion:
		return "it speaks another version of the service; update the gateway or the machine"
	case RefusedSuite:
		return "it does not know the cipher suite; update the machine"
	case RefusedForm:
		return "it cannot read the ticket; update the gateway or the machine"
	case RefusedForeign:
		return "the ticket is for another machine; it is another device with the same hint, or the machine was renamed"
	case RefusedForged:
		return "the ticket is not sealed with its key; check that the machine has the key that `farebeat machine key` tells"
	case RefusedExpired:
		return "the ticket has expired; the fleet gives a new one while the fault stands"
	case RefusedSuperseded:
		return "a newer ticket was accepted before, as after the gateway was replaced or revoked; the fleet gives a new one"
	case RefusedUnavailable:
		return "its storage fails; have the machine looked at"
	}
	return fmt.Sprintf("refusal %d", uint8(r))
}

// RefusedError says that a device, which may not be the machine, did not open a session.
type RefusedError struct{ Code Refusal }

// Error implements error.
func (e *RefusedError) Error() string { return "the machine opens no session: " + e.Code.String() }

// admit judges a ticket that is genuine; 0 lets it in. elapsed is how long ago, at least, the ticket of mark was
// accepted. The machine's own clock has no say: that of a faulty machine may be years off, and its records must come home. The
// counter tells the order in which tickets were issued, and that of mark tells a time that has passed.
func admit(g schemas.TicketGrant, mark TicketMark, elapsed time.Duration) Refusal {
	switch {
	case g.Counter < mark.Counter:
		return RefusedSuperseded
	case g.Counter > mark.Counter && g.IssuedAt.Before(mark.IssuedAt):
		return 0 // the fleet's clock was set back since; what mark tells of the time is void
	case mark.IssuedAt.Add(max(elapsed, 0)).After(g.ExpiresAt):
		return RefusedExpired
	}
	return 0
}

// gatekeeper is a machine's gate in this boot.
type gatekeeper struct {
	gate  Gate
	turn  chan struct{} // holds one while a ticket is judged or its mark kept
	since time.Time     // when the ticket of the mark was accepted, or the machine booted
}

func newGatekeeper(g Gate) *gatekeeper {
	return &gatekeeper{gate: g, turn: make(chan struct{}, 1), since: time.Now()}
}

// examine opens and judges what a gateway shows.
func (k *gatekeeper) examine(ctx context.Context, sealed []byte) (schemas.TicketGrant, Refusal) {
	key := k.gate.Key()
	g, err := schemas.OpenTicket(key[:], k.gate.ID(), sealed)
	clear(key[:])
	switch {
	case errors.Is(err, schemas.ErrTicketForm):
		return g, RefusedForm
	case errors.Is(err, schemas.ErrTicketForeign):
		return g, RefusedForeign
	case err != nil:
		return g, RefusedForged
	}
	k.turn <- struct{}{}
	defer func() { <-k.turn }()
	mark, err := k.gate.LastTicket(ctx)
	if err != nil {
		return g, RefusedUnavailable
	}
	return g, admit(g, mark, time.Since(k.since))
}

// accept keeps the mark of a ticket whose holder proved to know its secret.
func (k *gatekeeper) accept(ctx context.Context, g schemas.TicketGrant) Refusal {
	k.turn <- struct{}{}
	defer func() { <-k.turn }()
	mark, err := k.gate.LastTicket(ctx)
	if err != nil {
		return RefusedUnavailable
	}
	if r := admit(g, mark, time.Since(k.since)); r != 0 || g.Counter == mark.Counter {
		return r // a newer one came on another link meanwhile
	}
	if err := k.gate.KeepTicket(ctx, TicketMark{Counter: g.Counter, IssuedAt: g.IssuedAt}); err != nil {
		return RefusedUnavailable
	}
	k.since = time.Now()
	return 0
}
