package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/farebeat/farebeat/fleet/faults"
)

func newFaultsCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "faults", Short: "List faults, show the life of one, acknowledge, assign, shelve or give up"}
	cmd.AddCommand(newFaultsListCmd(), newFaultsShowCmd(), newFaultsAuditCmd())
	cmd.AddCommand(newFaultsAttendCmds()...)
	return cmd
}

func newFaultsListCmd() *cobra.Command {
	var flags storeFlags
	var query faults.Query
	var all, unseen bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the faults that have not ended, or all",
		Long: `List faults, latest opened first: those that have not ended; with --unseen also those that
ended and nobody saw, with --all every one. Times are those of the configuration's time zone.`,
		Example: "  farebeat faults list --data farebeat-data --route 36",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if query.Limit < 1 || query.Limit >= faults.MaxLimit {
				return usageError(fmt.Errorf("--limit %d: want 1 to %d", query.Limit, faults.MaxLimit-1))
			}
			s, c, err := flags.open(cmd.Context())
			if err != nil {
				return err
			}
			zone, err := time.LoadLocation(c.TimeZone)
			if err != nil {
				return errors.Join(usageError(err), s.Close())
			}
			one := query
			one.Live, one.Unfinished, one.Limit = !all && !unseen, unseen, query.Limit+1 // to know whether there are more
			list, err := s.Faults().List(cmd.Context(), one)
			if err = errors.Join(err, s.Close()); err != nil {
				return err
			}
			if len(list) > query.Limit {
				list = list[:query.Limit]
				fmt.Fprintf(cmd.ErrOrStderr(), "the latest %d are shown, there are more: raise --limit\n", query.Limit)
			}
			enc := json.NewEncoder(cmd.OutOrStdout())
			for _, f := range list {
				if flags.json {
					if err := enc.Encode(f); err != nil {
						return err
					}
					continue
				}
				fmt.Fprintln(cmd.OutOrStdout(), faultLine(f, zone))
			}
			return nil
		},
	}
	flags.register(cmd)
	cmd.Flags().StringVar(&query.Machine, "machine", "", "only of this machine")
	cmd.Flags().StringVar(&query.Route, "route", "", "only of this route and the machines on it")
	cmd.Flags().StringVar(&query.Vehicle, "vehicle", "", "only those that this vehicle's gateway acts on")
	cmd.Flags().BoolVar(&unseen, "unseen", false, "also those that ended and nobody saw")
	cmd.Flags().BoolVar(&all, "all", false, "also those that ended")
	cmd.MarkFlagsMutuallyExclusive("unseen", "all")
	cmd.Flags().IntVar(&query.Limit, "limit", faults.DefaultLimit, "at most this many")
	return cmd
}

// faultLine is one fault for a person, who asks first which vehicle it is.
func faultLine(f faults.Fault, zone *time.Location) string {
	subject := f.Subject.String()
	if f.Subject.Machine != "" {
		if m := f.Machine; m != nil && m.Vehicle != "" {
			subject = "vehicle " + m.Vehicle + ", " + subject
		} else {
			subject = "no known vehicle, " + subject
		}
		if m := f.Machine; m != nil && m.Route != "" {
			subject += " on route " + m.Route
		}
	}
	if f.Parent != "" {
		subject += " (under " + f.Parent + ")"
	}
	if f.Maintenance != "" {
		subject += " (in maintenance: " + f.Maintenance + ")"
	}
	return fmt.Sprintf("%s  %s  %-10s %-8s %s: %s: %s", f.ID, f.OpenedAt.In(zone).Format(faultTime), f.Condition, f.Severity, subject, f.Kind, f.Reason)
}

// faultTime is how a person reads a time: local, with its offset.
const faultTime = "2006-01-02 15:04:05 -07:00"

func newFaultsShowCmd() *cobra.Command {
	var flags storeFlags
	cmd := &cobra.Command{
		Use:     "show ID",
		Short:   "Show one fault and its life so far",
		Example: "  farebeat faults show M-01K5Y0H3QZ0000000000000000 --data farebeat-data",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, c, err := flags.open(cmd.Context())
			if err != nil {
				return err
			}
			zone, err := time.LoadLocation(c.TimeZone)
			if err != nil {
				return errors.Join(usageError(err), s.Close())
			}
			f, events, err := s.Faults().Get(cmd.Context(), args[0])
			err = errors.Join(err, s.Close())
			if errors.Is(err, faults.ErrNotFound) {
				return usageError(fmt.Errorf("%w: `farebeat faults list --all` names them", err))
			}
			if err != nil {
				return err
			}
			if flags.json {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(struct {
					Fault  faults.Fault   `json:"fault"`
					Events []faults.Event `json:"events"`
				}{f, events})
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s\n%s\nnext step: %s\n", faultLine(f, zone), f.Kind.Entry().Title, f.Kind.Entry().NextStep)
			for _, e := range events {
				by := ""
				if e.By != "" {
					by = " by " + e.By
				}
				fmt.Fprintf(cmd.OutOrStdout(), "  %s  %-12s %s%s: %s\n", e.At.In(zone).Format(faultTime), e.Change, e.Condition, by, e.Reason)
			}
			return nil
		},
	}
	flags.register(cmd)
	return cmd
}
