package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/farebeat/farebeat/configs"
	"github.com/farebeat/farebeat/fleet/expect"
	"github.com/farebeat/farebeat/fleet/expect/gtfs"
	"github.com/farebeat/farebeat/fleet/store"
)

// whyFlags ask for one route of a configuration.
type whyFlags struct {
	store     storeFlags
	route, at string
}

func (f *whyFlags) register(cmd *cobra.Command) {
	f.store.registerData(cmd)
	cmd.Flags().StringVar(&f.route, "route", "", "show what each source of the configuration says of this route")
	cmd.Flags().StringVar(&f.at, "at", "", "time of the local clock, HH:MM; now without it")
}

func (f *whyFlags) run(cmd *cobra.Command, date, format string) error {
	if format != "table" && format != "json" {
		return usageError(fmt.Errorf("--format %q: want json or table with --route", format))
	}
	var extra []string
	if f.store.data != "" {
		extra = append(extra, "data="+f.store.data)
	}
	c, err := f.store.config.load(extra...)
	if err != nil {
		return err
	}
	zone, err := time.LoadLocation(c.TimeZone)
	must(err) // validated by configs
	now := time.Now()
	at, err := whyTime(now.In(zone), date, f.at)
	if err != nil {
		return usageError(err)
	}
	s, err := readSources(cmd.Context(), c, zone)
	if err != nil {
		return err
	}
	asOf := at // what was known then, or is now
	if now.Before(at) {
		asOf = now
	}
	if err := s.recallHistory(cmd.Context(), c, asOf, zone); err != nil {
		return err
	}
	w := s.why(f.route, at, zone)
	if s.history == nil {
		w.Sources[len(w.Sources)-1].Silent = "there is no " + storePath(c.Data)
	}
	if err := printWhy(cmd.OutOrStdout(), w, zone, format); err != nil {
		return err
	}
	if w.InForce.Source == expect.SourceNone {
		return differenceError("no source says how many should be online on route %s: set a number by hand (fleet.expected), or give a timetable (fleet.gtfs)", f.route)
	}
	return nil
}

// whyTime joins date and clock, each today's and now's where it is not given.
func whyTime(now time.Time, date, clock string) (time.Time, error) {
	d := gtfs.DateOf(now)
	if date != "" {
		var err error
		if d, err = gtfs.ParseDate(date); err != nil {
			return now, fmt.Errorf("--date: %w", err)
		}
	}
	hour, minute := now.Hour(), now.Minute()
	if clock != "" {
		t, err := time.Parse("15:04", clock)
		if err != nil {
			return now, fmt.Errorf("--at %q: want a time such as 08:30", clock)
		}
		hour, minute = t.Hour(), t.Minute()
	}
	return time.Date(d.Year, d.Month, d.Day, hour, minute, 0, 0, now.Location()), nil
}

// recallHistory learns from the store of a data folder, if there is one.
func (s *sources) recallHistory(ctx context.Context, c configs.Config, asOf time.Time, zone *time.Location) error {
	if _, err := os.Stat(storePath(c.Data)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	db, err := store.Open(ctx, storePath(c.Data), store.Options{ReadOnly: true})
	if err != nil {
		return usageError(err)
	}
	if s.retired, err = recallRetired(ctx, db); err == nil {
		s.retired = s.retiredBy(s.timetable)
		s.history, err = learnHistory(ctx, db.Counts(), s.days, asOf, zone)
	}
	return errors.Join(err, db.Close())
}

// why asks each source by itself and the chain of all.
func (s sources) why(route string, at time.Time, zone *time.Location) expect.Why {
	return s.apart(s.chain(), zone).Why(route, at)
}

// apart are the sources one by one, beside what is in force.
func (s sources) apart(inForce expect.Source, zone *time.Location) expect.Sources {
	all := expect.Sources{Hand: s.hand, Feed: s.feed, Days: s.days, History: s.history, Retired: s.retired, InForce: inForce, Location: zone}
	if s.timetable != nil {
		all.Timetable = s.timetable
	}
	return all
}

// why asks each source of the service, and what it expects, which is less for a while after a change.
func (e *expectations) why(route string, at time.Time) expect.Why {
	e.mu.Lock()
	s := e.sources
	e.mu.Unlock()
	return s.apart(e.live, e.zone).Why(route, at)
}

func printWhy(to io.Writer, w expect.Why, zone *time.Location, format string) error {
	if format == "json" {
		return json.NewEncoder(to).Encode(w)
	}
	fmt.Fprintf(to, "route %s on %s in %s, a day judged as %s\n\n", w.Route, w.At.Format("Monday 2006-01-02 15:04"), zone, w.Day)
	out := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, "source\texpected\tnow\tlowest\tdays\tlow\tdays\t")
	for _, s := range w.Sources {
		if s.Silent != "" {
			fmt.Fprintf(out, "%s\t-\t-\t-\t-\t-\t-\tsays nothing: %s\n", s.Source, s.Silent)
			continue
		}
		won := ""
		if s.Source == w.InForce.Source {
			won = "wins"
		}
		fmt.Fprintf(out, "%s\t%s%s\n", s.Source, whyNumbers(s), won)
	}
	fmt.Fprintf(out, "in force\t%sfrom %s\n", whyNumbers(w.InForce), w.InForce.Source)
	if err := out.Flush(); err != nil {
		return err
	}
	for _, d := range w.LeftOut {
		fmt.Fprintf(to, "left out of history: %s %s\n", d.Date, d.Reason)
	}
	return nil
}

// whyNumbers are the columns of a table.
func whyNumbers(s expect.Said) string {
	low := "-\t-\t"
	if s.LowSample > 0 {
		low = fmt.Sprintf("%d\t%d\t", s.Low, s.LowSample)
	}
	return fmt.Sprintf("%d\t%d\t%d\t%d\t%s", s.Expected, s.Now, s.Lowest, s.SampleSize, low)
}
