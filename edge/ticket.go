package edge

import (
	"encoding/base64"
	"fmt"
	"time"

	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
)

// ticket is what the gateway opens sessions with one machine with. Whether it still holds is the machine's to judge: a
// gateway's clock may be wrong.
type ticket struct {
	*halves        // by pointer: nothing that prints a ticket prints them
	confirmed bool // it stood on this connection
}

// halves are never changed.
type halves struct {
	sealed []byte // shown to the machine
	secret [schemas.TicketKeySize]byte
}

func parseTicket(to topics.Address, payload []byte) (any, error) {
	if len(payload) == 0 {
		return ticketGone{to.Machine}, nil
	}
	var m schemas.Ticket
	if err := schemas.Decode(payload, schemas.NameTicket, &m); err != nil {
		return nil, err
	}
	if m.Machine != to.Machine || m.Vehicle != to.Vehicle {
		return nil, fmt.Errorf("the ticket is of vehicle %q for machine %q, the topic of %q for %q", m.Vehicle, m.Machine, to.Vehicle, to.Machine)
	}
	var t halves
	secret, err := base64.RawURLEncoding.DecodeString(m.Secret)
	if err != nil || copy(t.secret[:], secret) != len(t.secret) {
		return nil, &schemas.Error{Message: schemas.NameTicket, Field: "secret", Problem: "is not 32 bytes"}
	}
	if t.sealed, err = base64.RawURLEncoding.DecodeString(m.Sealed); err != nil {
		return nil, &schemas.Error{Message: schemas.NameTicket, Field: "sealed", Problem: "is not base64url"}
	}
	return ticketed{to.Machine, ticket{halves: &t}}, nil
}

// ticketed keeps the newest ticket for a machine. Who waited for it is due.
func (s *state) ticketed(now time.Time, in ticketed) []effect {
	if _, known := s.tickets[in.machine]; !known && len(s.tickets) >= maxTasks {
		return []effect{refused{fmt.Sprintf("the ticket for machine %s: there are %d already", in.machine, maxTasks)}}
	}
	in.ticket.confirmed = true
	s.tickets[in.machine] = in.ticket
	if t := s.tasks[in.machine]; t != nil && t.unticketed {
		t.unticketed, t.due, t.attempts = false, now, 0
	}
	return nil
}

// dropTickets forgets those that did not stand on this connection.
func (s *state) dropTickets() {
	for machine, t := range s.tickets {
		if !t.confirmed {
			delete(s.tickets, machine)
		}
	}
}

// doubtTickets is for a new connection, which brings those that stand.
func (s *state) doubtTickets() {
	for machine, t := range s.tickets {
		t.confirmed = false
		s.tickets[machine] = t
	}
}

// mayContact reports whether there is a ticket for a machine; where there is none, who asked hears of it once.
func (s *state) mayContact(now time.Time, t *task) (bool, []effect) {
	if _, ok := s.tickets[t.machine]; ok {
		return true, nil
	}
	if t.unticketed {
		return false, nil
	}
	t.unticketed = true
	return false, s.progress(now, t, true)
}
