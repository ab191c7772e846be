package api

import (
	"errors"
	"net/http"

	"github.com/farebeat/farebeat/fleet/console/access"
	"github.com/farebeat/farebeat/fleet/console/act"
	"github.com/farebeat/farebeat/fleet/console/view"
	"github.com/farebeat/farebeat/fleet/tickets"
)

type ticketsIn struct {
	Machine string `query:"machine" maxLength:"256" doc:"Only for this machine"`
	Vehicle string `query:"vehicle" maxLength:"256" doc:"Only of this vehicle"`
	All     bool   `query:"all" doc:"Also tickets that were withdrawn"`
}

// RevokeRequest says whose tickets are to be revoked, and why.
type RevokeRequest struct {
	Vehicle string `json:"vehicle" minLength:"1" maxLength:"256"`
	Reason  string `json:"reason" minLength:"1" maxLength:"500" doc:"Why, for those who read it later"`
}

// RestoreRequest says whose revocation is to end.
type RestoreRequest struct {
	Vehicle string `json:"vehicle" minLength:"1" maxLength:"256"`
	Reason  string `json:"reason,omitempty" maxLength:"500" doc:"Why, for those who read it later"`
}

// TicketOrder is what became of an order about tickets.
type TicketOrder struct {
	tickets.Order
	State string `json:"state" enum:"done,waits" doc:"waits: it is on disk, and will be done with one of the next rounds"`
}

type ticketOut struct {
	Status int
	Body   TicketOrder
}

func (a *API) registerTickets() {
	register(a, op{
		id: "tickets", method: http.MethodGet, path: "/tickets", tag: "tickets", need: access.Operator, summary: "Tickets that stand, and vehicles whose tickets are revoked",
		description: "Secrets are never told.",
	}, func(c call, in *ticketsIn) (*body[view.TicketList], error) {
		list, err := a.o.View.Tickets(c, tickets.Query{Machine: in.Machine, Vehicle: in.Vehicle}, in.All)
		return &body[view.TicketList]{list}, err
	})
	register(a, op{
		id: "tickets_revoke", method: http.MethodPost, path: "/tickets/revoke", tag: "tickets", need: access.Admin, hides: "tickets_revoke", waits: true,
		summary: "Revoke the tickets of a vehicle, such as one whose gateway was stolen",
		description: "Those that stand are cleared from the broker, and the vehicle gets none until they are restored. A machine that is off line cannot be told: until it accepts " +
			"a newer ticket, or the stolen one has expired, it lets the holder in.",
	}, func(c call, in *struct{ Body RevokeRequest }) (*ticketOut, error) {
		return a.orderTickets(c, tickets.Revoke, in.Body.Vehicle, in.Body.Reason)
	})
	register(a, op{
		id: "tickets_restore", method: http.MethodPost, path: "/tickets/restore", tag: "tickets", need: access.Admin, hides: "tickets_restore", waits: true,
		summary: "End the revocation of a vehicle's tickets", description: "Those that were revoked stay void.",
	}, func(c call, in *struct{ Body RestoreRequest }) (*ticketOut, error) {
		return a.orderTickets(c, tickets.Restore, in.Body.Vehicle, in.Body.Reason)
	})
}

func (a *API) orderTickets(c call, action tickets.Action, vehicle, reason string) (*ticketOut, error) {
	order, err := a.o.Act.Tickets(c, c.who, action, vehicle, reason)
	out := &ticketOut{http.StatusOK, TicketOrder{order, "done"}}
	if errors.Is(err, act.ErrWaits) {
		out.Status, out.Body.State, err = http.StatusAccepted, "waits", nil
	}
	return out, err
}
