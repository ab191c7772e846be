package main

import (
	"encoding/csv"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/farebeat/farebeat/fleet/counts"
)

func newCountsCmd() *cobra.Command {
	var flags storeFlags
	var from, to, route string
	var hourly bool
	cmd := &cobra.Command{
		Use:   "counts",
		Short: "Print the stored online counts as CSV",
		Long: `Print the stored online counts as CSV: one row a route and minute
(time,route_id,online,min,max,known,expected,threshold,blind), or with --hourly one a route and hour of the
operator's clock (date,route_id,hour,distinct,peak,mean).`,
		Example: "  farebeat counts --data farebeat-data --from 2026-11-22T05:00:00Z --route 36",
		RunE: func(cmd *cobra.Command, _ []string) error {
			start, end, err := parseRange(from, to)
			if err != nil {
				return usageError(err)
			}
			s, c, err := flags.open(cmd.Context())
			if err != nil {
				return err
			}
			loc, err := time.LoadLocation(c.TimeZone)
			if err != nil {
				return usageError(errors.Join(err, s.Close()))
			}
			out := csv.NewWriter(cmd.OutOrStdout())
			if hourly {
				err = counts.WriteHours(cmd.Context(), s.Counts(), out.Write, start, end, route, loc)
			} else {
				err = counts.WriteMinutes(cmd.Context(), s.Counts(), out.Write, start, end, route)
			}
			out.Flush()
			return errors.Join(err, out.Error(), s.Close())
		},
	}
	flags.registerData(cmd)
	cmd.Flags().StringVar(&from, "from", "", "from this time on, RFC 3339; the beginning without it")
	cmd.Flags().StringVar(&to, "to", "", "before this time, RFC 3339; the end without it")
	cmd.Flags().StringVar(&route, "route", "", "only this route")
	cmd.Flags().BoolVar(&hourly, "hourly", false, "one row an hour instead of one a minute")
	return cmd
}

func parseRange(from, to string) (start, end time.Time, err error) {
	start, end = time.Unix(0, 0), time.Unix(1<<33, 0) // the year 2242
	for flag, v := range map[string]struct {
		text string
		into *time.Time
	}{"--from": {from, &start}, "--to": {to, &end}} {
		if v.text == "" {
			continue
		}
		if *v.into, err = time.Parse(time.RFC3339, v.text); err != nil {
			return start, end, fmt.Errorf("%s %q: want a time such as 2026-11-22T05:00:00Z", flag, v.text)
		}
	}
	if !end.After(start) {
		return start, end, fmt.Errorf("--to %s is not after --from %s", to, from)
	}
	return start, end, nil
}
