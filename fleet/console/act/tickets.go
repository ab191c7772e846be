package act

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/farebeat/farebeat/fleet/console/access"
	"github.com/farebeat/farebeat/fleet/orders"
	"github.com/farebeat/farebeat/fleet/tickets"
)

// Tickets revokes the tickets of a vehicle's gateway, or ends that.
func (a *Actions) Tickets(ctx context.Context, who Actor, action tickets.Action, vehicle, reason string) (tickets.Order, error) {
	o := tickets.Order{ID: rand.Text(), Action: action, Vehicle: vehicle, At: a.o.Now().UTC().Truncate(time.Millisecond), By: who.Name, Reason: reason}
	return o, a.do(ctx, who, access.Admin, "tickets_"+string(action), "vehicle "+vehicle, reason, func() error {
		if err := o.Validate(); err != nil {
			return fmt.Errorf("%w: %w", ErrUsage, err)
		}
		path, err := orders.Leave(a.o.Orders, o)
		if err != nil {
			return err
		}
		return taken(ctx, path)
	})
}
