package main

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/farebeat/farebeat/fleet/expect"
	"github.com/farebeat/farebeat/fleet/expect/gtfs"
	"github.com/farebeat/farebeat/fleet/expect/tampa"
)

func newExpectCmd() *cobra.Command {
	var feedPath, date, format string
	var why whyFlags
	cmd := &cobra.Command{
		Use:   "expect",
		Short: "Print how many vehicles a timetable puts on each route in each hour, or what should be online on one and why",
		Long: `Print, per route and hour of one calendar date, the greatest number of vehicles at
once on the route. A block is a vehicle; a layover of up to 30 minutes belongs to
the trip before it. The date's first hours include what the service day before it
runs past 24:00.

Without --gtfs the timetable of Tampa (HART, June 2018) that ships with the program
is used.

With --route, print what each source of the configuration says of that route at one time, and which of them wins: a
number set by hand, the timetable, history. It is what a service with this configuration and data folder expects, but for
the half hour after a change. The columns are the most at once in the hour, the number at this minute, the least
within ten minutes, the low number that was reached on nine days of ten, and the days behind these. History is that of the
eight weeks before the date. The exit code is 3 if no source says anything.`,
		Example: "  farebeat expect --gtfs feed.zip --date 2018-06-12 --format csv\n" +
			"  farebeat expect --config farebeat.yaml --route 36 --at 08:30",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if why.route != "" {
				return why.run(cmd, date, format)
			}
			if date == "" {
				return usageError(errors.New(`required flag(s) "date" not set`))
			}
			d, err := gtfs.ParseDate(date)
			if err != nil {
				return usageError(fmt.Errorf("--date: %w", err))
			}
			write, ok := expectFormats()[format]
			if !ok {
				return usageError(fmt.Errorf("--format %q: want csv, json or table", format))
			}
			feed, err := openFeed(cmd, feedPath)
			if err != nil {
				return err
			}
			rows := expect.PerHour(feed, d)
			if len(rows) == 0 {
				return differenceError("the timetable has no service on %s: check its calendar.txt", d)
			}
			return write(cmd.OutOrStdout(), rows)
		},
	}
	cmd.Flags().StringVar(&feedPath, "gtfs", "", "GTFS feed, a zip file or a folder")
	cmd.Flags().StringVar(&date, "date", "", "calendar date, YYYY-MM-DD; with --route today without it")
	cmd.Flags().StringVar(&format, "format", "table", "csv, json or table; with --route json or table")
	why.register(cmd)
	cmd.MarkFlagsMutuallyExclusive("gtfs", "route")
	return cmd
}

// must guards calls that fail only on a mistake in this program.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// openFeed reads the feed at path, or the shipped one, and shows its warnings.
func openFeed(cmd *cobra.Command, path string) (*gtfs.Feed, error) {
	if path == "" {
		return tampa.Feed(cmd.Context())
	}
	feed, err := readFeed(cmd.Context(), path)
	if err != nil {
		return nil, err
	}
	for _, w := range feed.Warnings {
		fmt.Fprintln(cmd.ErrOrStderr(), "farebeat: warning:", w)
	}
	return feed, nil
}

func expectFormats() map[string]func(io.Writer, []expect.RouteHour) error {
	return map[string]func(io.Writer, []expect.RouteHour) error{
		"csv": func(w io.Writer, rows []expect.RouteHour) error {
			out := csv.NewWriter(w)
			_ = out.Write([]string{"route_id", "hour", "expected_vehicles_in_service"}) // kept by the writer, see Error below
			for _, r := range rows {
				_ = out.Write([]string{r.Route, strconv.Itoa(r.Hour), strconv.Itoa(r.Vehicles)})
			}
			out.Flush()
			return out.Error()
		},
		"json": func(w io.Writer, rows []expect.RouteHour) error {
			type row struct {
				Date     string `json:"date"`
				Route    string `json:"route_id"`
				Hour     int    `json:"hour"`
				Vehicles int    `json:"expected_vehicles_in_service"`
			}
			out := make([]row, len(rows))
			for i, r := range rows {
				out[i] = row{r.Date.String(), r.Route, r.Hour, r.Vehicles}
			}
			return json.NewEncoder(w).Encode(out)
		},
		"table": writeExpectTable,
	}
}

// writeExpectTable prints a line a route and a column an hour.
func writeExpectTable(w io.Writer, rows []expect.RouteHour) error {
	out := tabwriter.NewWriter(w, 3, 0, 1, ' ', tabwriter.AlignRight)
	fmt.Fprint(out, "route\t")
	for h := range 24 {
		fmt.Fprintf(out, "%02d\t", h)
	}
	for i := 0; i < len(rows); {
		route, hours := rows[i].Route, [24]int{}
		for ; i < len(rows) && rows[i].Route == route; i++ {
			hours[rows[i].Hour] = rows[i].Vehicles
		}
		fmt.Fprintf(out, "\n%s\t", route)
		for _, n := range hours {
			if n == 0 {
				fmt.Fprint(out, "\t")
			} else {
				fmt.Fprintf(out, "%d\t", n)
			}
		}
	}
	fmt.Fprintln(out)
	return out.Flush()
}
