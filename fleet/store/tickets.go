package store

import (
	"context"
	"database/sql"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/farebeat/farebeat/fleet/tickets"
)

// Tickets is the part of the store that keeps the tickets of gateways and the orders about them.
func (s *Store) Tickets() tickets.Store { return ticketStore{s} }

type ticketStore struct{ s *Store }

// Save implements tickets.Store.
func (l ticketStore) Save(ctx context.Context, list ...tickets.Ticket) error {
	if len(list) == 0 {
		return nil
	}
	return wrap("save tickets", l.s.update(ctx, func(t *tx) error {
		for _, k := range list {
			sealed := k.Sealed
			if sealed == nil {
				sealed = []byte{}
			}
			err := t.exec(`INSERT INTO ticket (machine, vehicle, counter, issued_ms, expires_ms, reason, sealed, fault, farewell_ms, command_ms)
				VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
				ON CONFLICT (machine, vehicle) DO UPDATE SET counter = excluded.counter, issued_ms = excluded.issued_ms,
				expires_ms = excluded.expires_ms, reason = excluded.reason, sealed = excluded.sealed, fault = excluded.fault,
				farewell_ms = excluded.farewell_ms, command_ms = excluded.command_ms
				WHERE excluded.counter >= ticket.counter`,
				k.Machine, k.Vehicle, int64(k.Counter), k.IssuedAt.UnixMilli(), k.ExpiresAt.UnixMilli(), k.Reason, sealed,
				k.Fault, millis(k.FarewellUntil), millis(k.CommandUntil))
			if err != nil {
				return fmt.Errorf("of vehicle %s for machine %s: %w", k.Vehicle, k.Machine, err)
			}
		}
		return nil
	}))
}

// millis is a time in ms since 1970, 0 for none.
func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fromMillis(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

// List implements tickets.Store.
func (l ticketStore) List(ctx context.Context, want tickets.Query) ([]tickets.Ticket, error) {
	var out []tickets.Ticket
	err := l.s.view(ctx, func(q *querier) error {
		out = nil
		return q.rows(`SELECT machine, vehicle, counter, issued_ms, expires_ms, reason, sealed, fault, farewell_ms, command_ms FROM ticket
			WHERE (? = '' OR machine = ?) AND (? = '' OR vehicle = ?) ORDER BY machine, vehicle`,
			[]any{want.Machine, want.Machine, want.Vehicle, want.Vehicle}, func(scan func(...any) error) error {
				var k tickets.Ticket
				var counter, issued, expires, farewell, command int64
				err := scan(&k.Machine, &k.Vehicle, &counter, &issued, &expires, &k.Reason, &k.Sealed, &k.Fault, &farewell, &command)
				k.Counter, k.IssuedAt, k.ExpiresAt = uint64(max(counter, 0)), time.UnixMilli(issued).UTC(), time.UnixMilli(expires).UTC()
				k.FarewellUntil, k.CommandUntil = fromMillis(farewell), fromMillis(command)
				out = append(out, k)
				return err
			})
	})
	return out, wrap("read tickets", err)
}

const (
	// ticketFloor is the name of tickets.Store.Floor among the meta values.
	ticketFloor = "ticket.floor"
	// ticketSkip is more than the numbers of tickets grow between a backup and its restore, also where a clock was decades
	// ahead in between: about 35 years of milliseconds.
	ticketSkip = 1 << 40
)

// Floor implements tickets.Store.
func (l ticketStore) Floor(ctx context.Context) (n uint64, err error) {
	err = l.s.view(ctx, func(q *querier) (err error) {
		n, err = readTicketFloor(q)
		return err
	})
	return n, wrap("read the floor of tickets", err)
}

func readTicketFloor(q *querier) (uint64, error) {
	var value []byte
	err := q.row(`SELECT value FROM meta WHERE name = ?`, []any{ticketFloor}, &value)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	n, size := binary.Uvarint(value)
	if size != len(value) {
		return 0, errors.New("what is kept there is no number: the file was changed by hand")
	}
	return n, nil
}

// raiseTicketFloor is for a file that may not know the latest tickets that were issued.
func raiseTicketFloor(t *tx, now time.Time) error {
	floor, err := readTicketFloor(&t.querier)
	if err != nil {
		return err
	}
	var counter int64
	if err := t.row(`SELECT coalesce(max(counter), 0) FROM ticket`, nil, &counter); err != nil {
		return err
	}
	floor = max(floor, uint64(max(counter, 0)), uint64(max(now.UnixMilli(), 0))) + ticketSkip
	return setMeta(t, map[string][]byte{ticketFloor: binary.AppendUvarint(nil, floor)})
}

// Give implements tickets.Store.
func (l ticketStore) Give(ctx context.Context, o tickets.Order) error {
	if err := o.Validate(); err != nil {
		return err
	}
	return wrap("keep an order about tickets", l.s.update(ctx, func(t *tx) error {
		return t.exec(`INSERT INTO ticket_order (id, action, vehicle, at_ms, given_by, reason) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING`,
			o.ID, string(o.Action), o.Vehicle, o.At.UnixMilli(), o.By, o.Reason)
	}))
}

// Orders implements tickets.Store.
func (l ticketStore) Orders(ctx context.Context) ([]tickets.Order, error) {
	var out []tickets.Order
	err := l.s.view(ctx, func(q *querier) error {
		out = nil
		return q.rows(`SELECT id, action, vehicle, at_ms, given_by, reason FROM ticket_order ORDER BY number`, nil, func(scan func(...any) error) error {
			var o tickets.Order
			var at int64
			err := scan(&o.ID, (*string)(&o.Action), &o.Vehicle, &at, &o.By, &o.Reason)
			o.At = time.UnixMilli(at).UTC()
			out = append(out, o)
			return err
		})
	})
	return out, wrap("read orders about tickets", err)
}

// ticketUnticketed is the name of tickets.Store.Unticketed among the meta values.
const ticketUnticketed = "ticket.unticketed"

// SaveUnticketed implements tickets.Store.
func (l ticketStore) SaveUnticketed(ctx context.Context, list []tickets.Unticketed) error {
	value, err := json.Marshal(list)
	if err != nil {
		return fmt.Errorf("keep what came without a ticket: %w", err)
	}
	return wrap("keep what came without a ticket", l.s.SetMeta(ctx, map[string][]byte{ticketUnticketed: value}))
}

// Unticketed implements tickets.Store.
func (l ticketStore) Unticketed(ctx context.Context) (list []tickets.Unticketed, err error) {
	value, err := l.s.Meta(ctx, ticketUnticketed)
	if err == nil && value != nil {
		err = json.Unmarshal(value, &list)
	}
	return list, wrap("read what came without a ticket", err)
}
