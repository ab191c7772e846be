package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/farebeat/farebeat/fleet/tickets"
)

// listedUnticketed is what came without a ticket, as it is shown.
type listedUnticketed struct {
	Type string `json:"type"` // unticketed
	tickets.Unticketed
}

func newTicketsUnticketedCmd() *cobra.Command {
	var flags storeFlags
	var query tickets.Query
	cmd := &cobra.Command{
		Use:   "unticketed",
		Short: "List vehicles that brought transactions of machines for which they never had a ticket",
		Long: fmt.Sprintf(`List the vehicles whose gateway brought transactions of a machine for which it never had a ticket. The records are in
the ledger, for the machine's key proves them and money is never turned away; what is asked here is how they came to that gateway. After
farebeat restore or repair the store may have forgotten tickets, and then there is nothing wrong. Else look at the gateway: revoke its tickets
(farebeat tickets revoke), change its password or certificate, and find out who had the machine in hand.

The list grows, at most to %d pairs of machine and vehicle; farebeat_fleet_unticketed_batches_total counts all. The service writes a
pair at once and its numbers within a minute.`, tickets.MaxUnticketed),
		Example: "  farebeat tickets unticketed --data farebeat-data",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, c, err := flags.open(cmd.Context())
			if err != nil {
				return err
			}
			list, err := s.Tickets().Unticketed(cmd.Context())
			if err := errors.Join(err, s.Close()); err != nil {
				return err
			}
			zone, err := time.LoadLocation(c.TimeZone)
			if err != nil {
				return usageError(err)
			}
			w := ticketWriter{cmd, zone, flags.json}
			for _, u := range list {
				if query.Machine != "" && u.Machine != query.Machine || query.Vehicle != "" && u.Vehicle != query.Vehicle {
					continue
				}
				text := fmt.Sprintf("vehicle %s, machine %s: %d records in %d batches, first %s, last %s", u.Vehicle, u.Machine, u.Records, u.Batches,
					u.FirstAt.In(zone).Format(faultTime), u.LastAt.In(zone).Format(faultTime))
				if err := w.line(listedUnticketed{"unticketed", u}, text); err != nil {
					return err
				}
			}
			return nil
		},
	}
	flags.register(cmd)
	cmd.Flags().StringVar(&query.Machine, "machine", "", "only of this machine")
	cmd.Flags().StringVar(&query.Vehicle, "vehicle", "", "only of this vehicle")
	return cmd
}
