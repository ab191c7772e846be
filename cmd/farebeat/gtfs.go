package main

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/farebeat/farebeat/fleet/expect"
	"github.com/farebeat/farebeat/fleet/expect/gtfs"
)

func newGTFSCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "gtfs", Short: "Look into GTFS feeds before they say what should be online"}
	cmd.AddCommand(newGTFSCheckCmd(), newGTFSDiffCmd())
	return cmd
}

func newGTFSCheckCmd() *cobra.Command {
	var date string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check FEED",
		Short: "Say what is in a GTFS feed, which dates it covers, and what is wrong with it",
		Long: `Read a GTFS feed (a zip file or a folder) and print the dates that it covers, how many routes, trips, services and blocks
it has, and warnings: that it has expired or ends within 14 days, dates without any service, blocks that would have to be
in two places at once, and what was left out.

The exit code is 0 for a feed without a warning, 3 for one with warnings, and 2 for one that cannot be read; then the
error names file, line and column.`,
		Example: "  farebeat gtfs check feed.zip",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			feed, err := readFeed(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			today := gtfs.DateOf(time.Now().In(feed.Location))
			if date != "" {
				if today, err = gtfs.ParseDate(date); err != nil {
					return usageError(fmt.Errorf("--date: %w", err))
				}
			}
			check := checkFeed(feed, today)
			if err := check.print(cmd.OutOrStdout(), asJSON); err != nil {
				return err
			}
			if n := len(check.Warnings); n > 0 {
				return differenceError("warnings about the feed: %d", n)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&date, "date", "", "check as of this date, YYYY-MM-DD; today without it")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

// feedCheck is what `farebeat gtfs check` prints.
type feedCheck struct {
	First     string   `json:"first_date,omitempty"`
	Last      string   `json:"last_date,omitempty"`
	Publisher string   `json:"publisher,omitempty"`
	Version   string   `json:"version,omitempty"`
	TimeZone  string   `json:"timezone"`
	Routes    int      `json:"routes"`
	Trips     int      `json:"trips"`
	Headways  int      `json:"trips_by_headway"`
	Services  int      `json:"services"`
	Blocks    int      `json:"blocks"`
	Unblocked int      `json:"trips_without_block"`
	Warnings  []string `json:"warnings"`
}

func checkFeed(feed *gtfs.Feed, today gtfs.Date) feedCheck {
	s := feed.Summary()
	c := feedCheck{
		Publisher: feed.Info.Publisher, Version: feed.Info.Version, TimeZone: feed.Location.String(),
		Routes: s.Routes, Trips: s.Trips, Headways: s.Headways, Services: s.Services, Blocks: s.Blocks, Unblocked: s.Unblocked,
		Warnings: append([]string{}, feed.Warnings...),
	}
	if first, last, ok := feed.Range(); ok {
		c.First, c.Last = first.String(), last.String()
	}
	if w := feed.Expiry(today, expiryDays); w != "" {
		c.Warnings = append(c.Warnings, w)
	}
	if n := len(s.Quiet); n > 0 {
		c.Warnings = append(c.Warnings, fmt.Sprintf("dates without any service among those that the feed covers: %d, the first is %s; none are expected there", n, s.Quiet[0]))
	}
	if n := len(s.Overlaps); n > 0 {
		o := s.Overlaps[0]
		c.Warnings = append(c.Warnings, fmt.Sprintf("blocks with two trips at once: %d, e.g. block %s trips %s (route %s) and %s (route %s) on %s; the vehicle is expected on both routes",
			n, o.Block, o.Trips[0], o.Routes[0], o.Trips[1], o.Routes[1], o.Date))
	}
	return c
}

func (c feedCheck) print(w io.Writer, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(c)
	}
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	covered := "no date"
	if c.First != "" {
		covered = c.First + " to " + c.Last
	}
	fmt.Fprintf(out, "covers\t%s, %s\n", covered, c.TimeZone)
	if c.Publisher != "" || c.Version != "" {
		fmt.Fprintf(out, "published by\t%s\n", strings.TrimSpace(c.Publisher+" "+c.Version))
	}
	fmt.Fprintf(out, "routes\t%d\ntrips\t%d, %d of them by headway\nservices\t%d\nblocks\t%d, %d trips without one\n",
		c.Routes, c.Trips, c.Headways, c.Services, c.Blocks, c.Unblocked)
	for _, warning := range c.Warnings {
		fmt.Fprintf(out, "warning\t%s\n", warning)
	}
	return out.Flush()
}

func newGTFSDiffCmd() *cobra.Command {
	var date, from, to, format string
	cmd := &cobra.Command{
		Use:   "diff OLD NEW",
		Short: "Say which routes are new or gone in a GTFS feed, and where it expects other numbers than the one before",
		Long: `Compare two GTFS feeds: routes that only one of them has, and each route and hour for which they expect different numbers of
vehicles, on dates that both cover. Without dates these are seven, from the second date that both cover: in the early hours of
its first date a feed lacks what began the evening before.

The exit code is 0 without a difference, 3 with one.`,
		Example: "  farebeat gtfs diff feed.zip feed-new.zip --from 2026-11-23 --to 2026-11-29",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			write, ok := diffFormats()[format]
			if !ok {
				return usageError(fmt.Errorf("--format %q: want csv, json or table", format))
			}
			var feeds [2]*gtfs.Feed
			for i, path := range args {
				var err error
				if feeds[i], err = readFeed(cmd.Context(), path); err != nil {
					return err
				}
			}
			if date != "" {
				from, to = date, date
			}
			dates, err := commonDates(feeds, args, from, to)
			if err != nil {
				return usageError(err)
			}
			c := expect.Compare(feeds[0], feeds[1], dates)
			if err := write(cmd.OutOrStdout(), c); err != nil {
				return err
			}
			if !c.Same() {
				return differenceError("routes new: %d, gone: %d, hours with another number: %d", len(c.Added), len(c.Gone), len(c.Changes))
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&date, "date", "", "compare this date, YYYY-MM-DD")
	cmd.Flags().StringVar(&from, "from", "", "compare from this date on")
	cmd.Flags().StringVar(&to, "to", "", "compare to this date, which is compared too")
	cmd.Flags().StringVar(&format, "format", "table", "csv, json or table")
	cmd.MarkFlagsMutuallyExclusive("date", "from")
	cmd.MarkFlagsMutuallyExclusive("date", "to")
	return cmd
}

// commonDates lists the dates that both feeds cover, within from and to if these are given, else a week from the second on.
func commonDates(feeds [2]*gtfs.Feed, names []string, from, to string) ([]gtfs.Date, error) {
	var first, last gtfs.Date
	var ranges []string
	covered := true
	for i, feed := range feeds {
		f, l, ok := feed.Range()
		covered = covered && ok
		ranges = append(ranges, fmt.Sprintf("%s covers %s to %s", names[i], f, l))
		if i == 0 || first.Before(f) {
			first = f
		}
		if i == 0 || l.Before(last) {
			last = l
		}
	}
	if !covered || last.Before(first) {
		return nil, fmt.Errorf("there is no date that both feeds cover: %s", strings.Join(ranges, ", "))
	}
	if from == "" && first.Before(last) {
		first = first.AddDays(1) // one feed lacks what runs past midnight into its first date
	}
	if from == "" && to == "" && first.AddDays(6).Before(last) {
		last = first.AddDays(6)
	}
	for _, limit := range []struct {
		flag, text string
		date       *gtfs.Date
	}{{"--from", from, &first}, {"--to", to, &last}} {
		if limit.text == "" {
			continue
		}
		d, err := gtfs.ParseDate(limit.text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", limit.flag, err)
		}
		if !feeds[0].Covers(d) || !feeds[1].Covers(d) {
			return nil, fmt.Errorf("%s is not covered by both feeds: %s", d, strings.Join(ranges, ", "))
		}
		*limit.date = d
	}
	if last.Before(first) {
		return nil, errors.New("--to is before --from")
	}
	var dates []gtfs.Date
	for d := first; !last.Before(d); d = d.AddDays(1) {
		dates = append(dates, d)
	}
	return dates, nil
}

func diffFormats() map[string]func(io.Writer, expect.Comparison) error {
	return map[string]func(io.Writer, expect.Comparison) error{
		"csv": func(w io.Writer, c expect.Comparison) error {
			out := csv.NewWriter(w)
			_ = out.Write([]string{"date", "route_id", "hour", "old", "new"}) // kept by the writer, see Error below
			for _, ch := range c.Changes {
				_ = out.Write([]string{ch.Date.String(), ch.Route, strconv.Itoa(ch.Hour), strconv.Itoa(ch.Old), strconv.Itoa(ch.New)})
			}
			out.Flush()
			return out.Error()
		},
		"json":  writeDiffJSON,
		"table": writeDiffTable,
	}
}

func writeDiffJSON(w io.Writer, c expect.Comparison) error {
	type change struct {
		Date  string `json:"date"`
		Route string `json:"route_id"`
		Hour  int    `json:"hour"`
		Old   int    `json:"old"`
		New   int    `json:"new"`
	}
	out := struct {
		Dates   []string `json:"dates"`
		Added   []string `json:"routes_new"`
		Gone    []string `json:"routes_gone"`
		Changes []change `json:"changes"`
	}{[]string{}, append([]string{}, c.Added...), append([]string{}, c.Gone...), []change{}}
	for _, d := range c.Dates {
		out.Dates = append(out.Dates, d.String())
	}
	for _, ch := range c.Changes {
		out.Changes = append(out.Changes, change{ch.Date.String(), ch.Route, ch.Hour, ch.Old, ch.New})
	}
	return json.NewEncoder(w).Encode(out)
}

// writeDiffTable prints a block of lines for each date, and only once what several dates have in common.
func writeDiffTable(w io.Writer, c expect.Comparison) error {
	for _, list := range []struct {
		title  string
		routes []string
	}{{"new routes", c.Added}, {"routes gone", c.Gone}} {
		if len(list.routes) > 0 {
			fmt.Fprintf(w, "%s: %s\n", list.title, strings.Join(list.routes, ", "))
		}
	}
	byDate := map[gtfs.Date]string{}
	for _, ch := range c.Changes {
		byDate[ch.Date] += fmt.Sprintf("  route %s, %02d h: %d -> %d\n", ch.Route, ch.Hour, ch.Old, ch.New)
	}
	shown := map[string]gtfs.Date{}
	for _, date := range c.Dates {
		lines := byDate[date]
		as, again := shown[lines]
		var err error
		switch {
		case lines == "":
			_, err = fmt.Fprintf(w, "%s: no difference\n", date)
		case again:
			_, err = fmt.Fprintf(w, "%s: as %s\n", date, as)
		default:
			shown[lines] = date
			_, err = fmt.Fprintf(w, "%s:\n%s", date, lines)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
