package tickets

import (
	"context"
	"fmt"
	"time"
)

// Pair is a machine and the vehicle whose gateway may open sessions with it.
type Pair struct{ Machine, Vehicle string }

// Ticket is the newest ticket that was issued for a pair, and why it stands.
type Ticket struct {
	Pair
	Counter   uint64
	IssuedAt  time.Time // to the millisecond
	ExpiresAt time.Time // likewise
	Reason    string    // what it was issued for: the id of a fault, or "command" and its id
	Sealed    []byte    // see schemas.SealTicket; empty: it was withdrawn

	Fault         bool      // a fault stands on the vehicle's topic
	FarewellUntil time.Time // until when it stands after the fault; zero for none
	CommandUntil  time.Time // until when a command wants it; zero for none
}

// Stands reports whether the ticket was not withdrawn.
func (t Ticket) Stands() bool { return len(t.Sealed) > 0 }

// Action is what an operator orders about the tickets of a vehicle.
type Action string

// The actions.
const (
	Revoke  Action = "revoke"  // no ticket for this vehicle from now on
	Restore Action = "restore" // as before
)

// Order is an operator's decision about the tickets of one vehicle. The latest of a vehicle holds; all are kept.
type Order struct {
	ID      string    `json:"id"` // the same order twice is one
	Action  Action    `json:"action"`
	Vehicle string    `json:"vehicle"`
	At      time.Time `json:"at"`
	By      string    `json:"by"`
	Reason  string    `json:"reason"`
}

// MaxReason bounds the texts of an order, in bytes.
const MaxReason = 500

// Validate says which field of an order is wrong.
func (o Order) Validate() error {
	switch {
	case o.ID == "" || len(o.ID) > 64:
		return fmt.Errorf("order about tickets: id of %d bytes, want 1 to 64", len(o.ID))
	case o.Action != Revoke && o.Action != Restore:
		return fmt.Errorf("order about tickets: action %.20q, want %s or %s", o.Action, Revoke, Restore)
	case o.Vehicle == "" || len(o.Vehicle) > 256:
		return fmt.Errorf("order about tickets: vehicle of %d bytes, want 1 to 256", len(o.Vehicle))
	case o.At.IsZero():
		return fmt.Errorf("order about tickets of vehicle %q: it says not when it was given", o.Vehicle)
	case o.By == "" || len(o.By) > MaxReason:
		return fmt.Errorf("order about tickets of vehicle %q: who gave it is %d bytes, want 1 to %d", o.Vehicle, len(o.By), MaxReason)
	case len(o.Reason) > MaxReason || o.Action == Revoke && o.Reason == "":
		return fmt.Errorf("order about tickets of vehicle %q: reason of %d bytes, want 1 to %d", o.Vehicle, len(o.Reason), MaxReason)
	}
	return nil
}

// Given implements orders.Order.
func (o Order) Given() (string, time.Time) { return o.ID, o.At }

// Query narrows Store.List down; its zero value asks for all.
type Query struct{ Machine, Vehicle string }

// Store keeps tickets and orders. It is safe for concurrent use. A write that returned nil is on disk.
type Store interface {
	// Save keeps tickets, each in place of the one of its pair unless that has a higher counter; all or none.
	Save(ctx context.Context, list ...Ticket) error
	// List gives the newest ticket of every pair, by machine and vehicle.
	List(ctx context.Context, q Query) ([]Ticket, error)
	// Floor is a number that every ticket to come must be above, whatever List knows.
	Floor(ctx context.Context) (uint64, error)
	// Give keeps an order; one that it has already changes nothing.
	Give(ctx context.Context, o Order) error
	// Orders gives all orders, in the order in which they were given to the store.
	Orders(ctx context.Context) ([]Order, error)
	// SaveUnticketed keeps a list in place of the last.
	SaveUnticketed(ctx context.Context, list []Unticketed) error
	// Unticketed gives the list that SaveUnticketed kept.
	Unticketed(ctx context.Context) ([]Unticketed, error)
}

// Revoked folds orders into what holds: the revocation of every vehicle that is under one.
func Revoked(orders []Order) map[string]Order {
	out := map[string]Order{}
	for _, o := range orders {
		if o.Action == Revoke {
			out[o.Vehicle] = o
		} else {
			delete(out, o.Vehicle)
		}
	}
	return out
}
