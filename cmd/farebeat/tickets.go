package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/farebeat/farebeat/configs"
	"github.com/farebeat/farebeat/fleet/store"
	"github.com/farebeat/farebeat/fleet/tickets"
)

func newTicketsCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "tickets", Short: "List the tickets of gateways, or revoke those of a vehicle"}
	cmd.AddCommand(newTicketsListCmd(), newTicketsUnticketedCmd(), newTicketsRevokeCmd(), newTicketsRestoreCmd())
	return cmd
}

// listedTicket is a ticket as it is shown: without its secret, which the store has only sealed, and without that.
type listedTicket struct {
	Type          string     `json:"type"` // ticket
	Machine       string     `json:"machine"`
	Vehicle       string     `json:"vehicle"`
	Counter       uint64     `json:"counter"`
	Stands        bool       `json:"stands"`
	IssuedAt      time.Time  `json:"issued_at"`
	ExpiresAt     time.Time  `json:"expires_at"`
	Reason        string     `json:"reason"`
	FarewellUntil *time.Time `json:"farewell_until,omitempty"`
	CommandUntil  *time.Time `json:"command_until,omitempty"`
}

// listedRevocation is a vehicle whose tickets are revoked.
type listedRevocation struct {
	Type string `json:"type"` // revocation
	tickets.Order
}

func newTicketsListCmd() *cobra.Command {
	var flags storeFlags
	var query tickets.Query
	var all, history bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the tickets that stand, and the vehicles whose tickets are revoked",
		Long: `List the tickets with which gateways open sessions with machines over BLE, and the vehicles whose tickets are
revoked. A ticket stands while the machine's fault stands on the vehicle's topic, for an hour after that, and while a
command to the vehicle has not expired. Secrets are never shown. With --all also the latest ticket of every machine and
vehicle that was withdrawn; with --history every revocation and its end.`,
		Example: "  farebeat tickets list --data farebeat-data --vehicle 1216",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, c, err := flags.open(cmd.Context())
			if err != nil {
				return err
			}
			list, err := s.Tickets().List(cmd.Context(), query)
			orders, orderErr := s.Tickets().Orders(cmd.Context())
			if err := errors.Join(err, orderErr, s.Close()); err != nil {
				return err
			}
			zone, err := time.LoadLocation(c.TimeZone)
			if err != nil {
				return usageError(err)
			}
			w := ticketWriter{cmd, zone, flags.json}
			if err := w.tickets(list, tickets.Revoked(orders), all); err != nil {
				return err
			}
			if query.Machine != "" {
				return nil
			}
			return w.orders(orders, query.Vehicle, history)
		},
	}
	flags.register(cmd)
	cmd.Flags().StringVar(&query.Machine, "machine", "", "only for this machine")
	cmd.Flags().StringVar(&query.Vehicle, "vehicle", "", "only of this vehicle")
	cmd.Flags().BoolVar(&all, "all", false, "also tickets that were withdrawn")
	cmd.Flags().BoolVar(&history, "history", false, "also revocations that ended")
	return cmd
}

// ticketWriter shows tickets and orders to a person, or as JSON.
type ticketWriter struct {
	cmd  *cobra.Command
	zone *time.Location
	json bool
}

func (w ticketWriter) line(v any, text string) error {
	if w.json {
		return json.NewEncoder(w.cmd.OutOrStdout()).Encode(v)
	}
	_, err := fmt.Fprintln(w.cmd.OutOrStdout(), text)
	return err
}

func (w ticketWriter) tickets(list []tickets.Ticket, revoked map[string]tickets.Order, all bool) error {
	for _, t := range list {
		_, gone := revoked[t.Vehicle]
		stands := t.Stands() && !gone
		if !stands && !all {
			continue
		}
		l := listedTicket{
			Type: "ticket", Machine: t.Machine, Vehicle: t.Vehicle, Counter: t.Counter, Stands: stands, IssuedAt: t.IssuedAt, ExpiresAt: t.ExpiresAt,
			Reason: t.Reason, FarewellUntil: timeOrNil(t.FarewellUntil), CommandUntil: timeOrNil(t.CommandUntil),
		}
		state := "stands"
		if !stands {
			state = "withdrawn"
		}
		text := fmt.Sprintf("vehicle %s, machine %s: ticket %d, %s, issued %s for %s, expires %s", t.Vehicle, t.Machine, t.Counter, state,
			t.IssuedAt.In(w.zone).Format(faultTime), t.Reason, t.ExpiresAt.In(w.zone).Format(faultTime))
		if err := w.line(l, text); err != nil {
			return err
		}
	}
	return nil
}

// timeOrNil is nil for the zero time.
func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func (w ticketWriter) orders(orders []tickets.Order, vehicle string, history bool) error {
	latest := map[string]string{} // ids of the orders that hold
	for _, o := range orders {
		latest[o.Vehicle] = o.ID
	}
	for _, o := range orders {
		holds := o.Action == tickets.Revoke && latest[o.Vehicle] == o.ID
		if vehicle != "" && o.Vehicle != vehicle || !holds && !history {
			continue
		}
		kind, what := "revocation", "tickets revoked"
		if o.Action == tickets.Restore {
			kind, what = "restoration", "tickets restored"
		}
		text := fmt.Sprintf("vehicle %s: %s %s by %s: %s", o.Vehicle, what, o.At.In(w.zone).Format(faultTime), o.By, o.Reason)
		if err := w.line(listedRevocation{kind, o}, text); err != nil {
			return err
		}
	}
	return nil
}

func newTicketsRevokeCmd() *cobra.Command {
	var flags orderFlags
	cmd := &cobra.Command{
		Use:   "revoke",
		Short: "Revoke the tickets of a vehicle, such as one whose gateway was stolen",
		Long: `Revoke the tickets of a vehicle, such as one whose gateway was stolen: those that stand are cleared from the broker at
once, and the vehicle gets none until farebeat tickets restore. The next ticket of each of its machines, to whichever
gateway, has a higher number than the revoked ones, and a machine that accepted it refuses those.

What this cannot do: a machine is off line when it matters, so nobody can tell it that a ticket was revoked. Until it accepts a
newer ticket or reckons that the stolen one has expired, it lets the holder in, who must stand within reach of its radio.
It reckons from the latest ticket that it accepted and the time since then or since it was switched on. What the holder gets is
what a gateway gets: the machine's records, which it cannot change. To end that early have another gateway
read the machine (farebeat collect). Also remove the gateway's user from the broker's users file. If it has a
certificate, farebeat revoke does all of this, and this too.

It works while farebeat serve runs, on its host, and also while it does not. Who ordered it, when and why is kept.`,
		Example: "  farebeat tickets revoke --vehicle 1216 --reason 'gateway stolen at the depot' --data farebeat-data",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return flags.run(cmd, tickets.Revoke)
		},
	}
	flags.register(cmd)
	must(cmd.MarkFlagRequired("reason"))
	return cmd
}

func newTicketsRestoreCmd() *cobra.Command {
	var flags orderFlags
	cmd := &cobra.Command{
		Use:   "restore",
		Short: "End the revocation of a vehicle's tickets",
		Long: `End the revocation of a vehicle's tickets, such as when it has another gateway: from now on it gets tickets as before.
Those that were revoked stay void.`,
		Example: "  farebeat tickets restore --vehicle 1216 --reason 'new gateway' --data farebeat-data",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return flags.run(cmd, tickets.Restore)
		},
	}
	flags.register(cmd)
	return cmd
}

// orderFlags are the flags of commands that order something about the tickets of a vehicle.
type orderFlags struct {
	givingFlags
	order tickets.Order
}

func (f *orderFlags) register(cmd *cobra.Command) {
	f.givingFlags.register(cmd)
	cmd.Flags().StringVar(&f.order.Vehicle, "vehicle", "", "the vehicle")
	cmd.Flags().StringVar(&f.order.Reason, "reason", "", "why, for those who read it later")
	must(cmd.MarkFlagRequired("vehicle"))
}

// run gives the order to the store, or where `farebeat serve` writes that, to it.
func (f *orderFlags) run(cmd *cobra.Command, action tickets.Action) error {
	c, err := f.store.load()
	if err != nil {
		return err
	}
	o := f.order
	o.ID, o.Action = randomID(), action
	o.By, o.At = f.who(c.Client)
	if err := o.Validate(); err != nil {
		return usageError(err)
	}
	if err := storeIsThere(c); err != nil {
		return err
	}
	if err := giveTicketOrder(cmd.Context(), c, o, f.timeout); err != nil {
		return err
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "vehicle %s: %s, done\n", o.Vehicle, o.Action)
	return err
}

// giveTicketOrder gives an order to the store, or where `farebeat serve` writes that, to it.
func giveTicketOrder(ctx context.Context, c configs.Config, o tickets.Order, timeout time.Duration) error {
	_, err := giveOrder(ctx, c, ordersPath(c.Data), o, timeout, func(s *store.Store) error { return s.Tickets().Give(ctx, o) })
	return err
}
