package view

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/farebeat/farebeat/fleet/counts"
	"github.com/farebeat/farebeat/fleet/expect"
	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/series"
	"github.com/farebeat/farebeat/fleet/tickets"
)

// Why tells what each source says of a route at an instant, and what counts. Where the sources are not known one by one, it is what counts alone.
func (r *Reader) Why(route string, at time.Time) expect.Why {
	if r.o.Why != nil {
		return r.o.Why(route, at)
	}
	e, _ := r.o.Expect.Expect(route, at)
	said := expect.Said{
		Source: e.Source, Expected: e.Expected, Now: e.Now, Lowest: e.Lowest, SampleSize: e.SampleSize, Low: e.Low, LowSample: e.LowSample,
	}
	return expect.Why{Route: route, At: at, InForce: said, Sources: []expect.Said{said}, LeftOut: []expect.LeftDay{}}
}

// DoneList is what people did about faults, oldest first.
type DoneList struct {
	Events []faults.Event `json:"events"`
	More   bool           `json:"more"` // there is more before the first
}

// maxDone bounds DoneList.
const maxDone = 10_000

// Done lists what people did about faults in [from, to), the newest limit of it. A zero time is no bound, by "" is everybody, limit 0 is 50.
func (r *Reader) Done(ctx context.Context, from, to time.Time, by string, limit int) (DoneList, error) {
	switch {
	case limit == 0:
		limit = 50
	case limit < 1 || limit > maxDone:
		return DoneList{}, fmt.Errorf("%w: limit %d: want 1 to %d", ErrUsage, limit, maxDone)
	}
	list, err := r.o.Store.Audit(ctx, from, to, by, limit+1)
	if err != nil {
		return DoneList{}, err
	}
	out := DoneList{Events: []faults.Event{}, More: len(list) > limit}
	out.Events = append(out.Events, list[max(0, len(list)-limit):]...)
	return out, nil
}

// SinkList is how far each InfluxDB has the counts.
type SinkList struct {
	Sinks []SinkRow `json:"sinks"`
}

// SinkRow is one InfluxDB.
type SinkRow struct {
	series.Standing
	Late bool `json:"late"` // something waits for more than 15 minutes
}

// Series tells how far each InfluxDB has the counts.
func (r *Reader) Series(ctx context.Context) (SinkList, error) {
	out := SinkList{Sinks: []SinkRow{}}
	list, err := series.Standings(ctx, r.o.Store, r.o.Sinks)
	for _, s := range list {
		out.Sinks = append(out.Sinks, SinkRow{s, s.Late(r.o.Now())})
	}
	return out, err
}

// TicketRow is a ticket without its secret, which the store has only sealed, and without that.
type TicketRow struct {
	Machine       string    `json:"machine"`
	Vehicle       string    `json:"vehicle"`
	Counter       uint64    `json:"counter"`
	Stands        bool      `json:"stands"`
	IssuedAt      time.Time `json:"issued_at"`
	ExpiresAt     time.Time `json:"expires_at"`
	Reason        string    `json:"reason"`
	FarewellUntil time.Time `json:"farewell_until,omitzero"`
	CommandUntil  time.Time `json:"command_until,omitzero"`
}

// TicketList is the newest ticket of each machine and vehicle, and the vehicles whose tickets are revoked.
type TicketList struct {
	Tickets []TicketRow     `json:"tickets"`
	Revoked []tickets.Order `json:"revoked"` // in the order in which they were given
}

// Tickets lists tickets: those that stand, or with all also those that were withdrawn.
func (r *Reader) Tickets(ctx context.Context, q tickets.Query, all bool) (TicketList, error) {
	out := TicketList{Tickets: []TicketRow{}, Revoked: []tickets.Order{}}
	list, err := r.o.Store.Tickets().List(ctx, q)
	if err != nil {
		return out, err
	}
	orders, err := r.o.Store.Tickets().Orders(ctx)
	if err != nil {
		return out, err
	}
	revoked := tickets.Revoked(orders)
	for _, t := range list {
		_, gone := revoked[t.Vehicle]
		row := TicketRow{
			Machine: t.Machine, Vehicle: t.Vehicle, Counter: t.Counter, Stands: t.Stands() && !gone, IssuedAt: t.IssuedAt, ExpiresAt: t.ExpiresAt,
			Reason: t.Reason, FarewellUntil: t.FarewellUntil, CommandUntil: t.CommandUntil,
		}
		if row.Stands || all {
			out.Tickets = append(out.Tickets, row)
		}
	}
	if q.Machine == "" {
		out.Revoked = append(out.Revoked, slices.DeleteFunc(orders, func(o tickets.Order) bool {
			return revoked[o.Vehicle].ID != o.ID || q.Vehicle != "" && o.Vehicle != q.Vehicle
		})...)
	}
	return out, nil
}

// WriteCounts gives the table of counts.WriteMinutes, or of counts.WriteHours.
func (r *Reader) WriteCounts(ctx context.Context, write func([]string) error, from, to time.Time, route string, hourly bool) error {
	if hourly {
		return counts.WriteHours(ctx, r.o.Store.Counts(), write, from, to, route, r.o.Zone)
	}
	return counts.WriteMinutes(ctx, r.o.Store.Counts(), write, from, to, route)
}
