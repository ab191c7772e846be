package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/farebeat/farebeat/edge/machine/trace"
	"github.com/farebeat/farebeat/fleet"
	"github.com/farebeat/farebeat/fleet/counts"
	"github.com/farebeat/farebeat/fleet/expect"
	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/rules"
	"github.com/farebeat/farebeat/schemas"
)

// replayOptions are the flags of `farebeat replay`.
type replayOptions struct {
	trace, gtfs, expected, zone, counts, faults, rules string
	interval, tick                                     time.Duration
	asJSON                                             bool
}

func newReplayCmd() *cobra.Command {
	var o replayOptions
	cmd := &cobra.Command{
		Use:   "replay",
		Short: "Run a recorded day through the live code, as fast as the machine allows",
		Long: `Run a recorded day through the same decoder, presence, counts, expectation, rules and
fault code as live, on simulated time and without a network.

The trace is a CSV file, gzip allowed, with the columns epoch,vehicle_id,route_id (position
reports) or vehicle_id,route_id,from_epoch,to_epoch (on line from, to); other columns
are ignored. A machine on each vehicle sends a heartbeat every --interval while it is on
line, and says goodbye at the end.

--counts writes date,route_id,hour,distinct,peak,mean for each hour of the local clock in
which a machine was online or expected; --faults writes every fault that opened.`,
		Example: "  farebeat replay --trace day.csv.gz --expected expected.csv --tz America/New_York --counts counts.csv --faults faults.csv",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runReplay(cmd, o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.trace, "trace", "", "recorded day (CSV, gzip allowed)")
	f.StringVar(&o.gtfs, "gtfs", "", "GTFS feed that says what was expected")
	f.StringVar(&o.expected, "expected", "", "or a CSV [date,]route_id,hour,expected_vehicles_in_service")
	f.StringVar(&o.zone, "tz", "UTC", "the operator's time zone")
	f.StringVar(&o.counts, "counts", "", "where to write the counts per route and hour")
	f.StringVar(&o.faults, "faults", "", "where to write the faults")
	f.StringVar(&o.rules, "rules", "", "rules file; the default rules without it")
	f.DurationVar(&o.interval, "interval", 15*time.Second, "between two heartbeats of a machine")
	f.DurationVar(&o.tick, "tick", 5*time.Second, "between two evaluations of the rules")
	f.BoolVar(&o.asJSON, "json", false, "print one JSON object at the end")
	cmd.MarkFlagsMutuallyExclusive("gtfs", "expected")
	must(cmd.MarkFlagRequired("trace"))
	return cmd
}

// replaySummary is what `farebeat replay --json` prints.
type replaySummary struct {
	Vehicles     int     `json:"vehicles"`
	Heartbeats   int     `json:"heartbeats"`
	RouteHours   int     `json:"route_hours"`
	FaultsOpened int     `json:"faults_opened"`
	FaultsOpen   int     `json:"faults_still_open"`
	Seconds      float64 `json:"seconds"`
}

func runReplay(cmd *cobra.Command, o replayOptions) error {
	if o.interval < time.Second || o.tick < time.Second {
		return usageError(errors.New("--interval and --tick: want at least 1s"))
	}
	loc, err := time.LoadLocation(o.zone)
	if err != nil {
		return usageError(fmt.Errorf("--tz %q: want a time zone such as America/New_York", o.zone))
	}
	source, err := replayExpectation(cmd, o, loc)
	if err != nil {
		return err
	}
	set, err := loadRules(o.rules, loc)
	if err != nil {
		return err
	}
	recorded, err := trace.ReadFile(o.trace)
	if err != nil {
		return usageError(err)
	}
	began := time.Now()
	day, err := newReplayedDay(recorded, fleet.EngineConfig{Location: loc, Interval: o.interval, Expect: source, Rules: set})
	if err != nil {
		return usageError(err)
	}
	if err := day.run(cmd.Context(), o, replayProgress(cmd.ErrOrStderr())); err != nil {
		return err
	}
	for _, out := range []struct {
		path  string
		write func(io.Writer) error
	}{{o.counts, day.writeCounts}, {o.faults, day.writeFaults}} {
		if err := writeFile(out.path, out.write); err != nil {
			return err
		}
	}
	return day.report(cmd.OutOrStdout(), o.asJSON, time.Since(began))
}

func replayExpectation(cmd *cobra.Command, o replayOptions, loc *time.Location) (expect.Source, error) {
	switch {
	case o.gtfs != "":
		feed, err := openFeed(cmd, o.gtfs)
		if err != nil {
			return nil, err
		}
		return expect.NewTimetable(feed), nil
	case o.expected != "":
		return readExpected(o.expected, loc)
	}
	return expect.Chain{}, nil
}

func readExpected(path string, loc *time.Location) (*expect.Table, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, usageError(err)
	}
	defer f.Close()
	table, err := expect.ReadTimetable(path, bufio.NewReader(f), loc)
	if err != nil {
		return nil, usageError(err)
	}
	return table, nil
}

// loadRules reads a rules file; the default rules where there is none.
func loadRules(path string, loc *time.Location) (*rules.Set, error) {
	if path == "" {
		return rules.Default(loc), nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, usageError(fmt.Errorf("rules file: %w", err))
	}
	set, err := rules.Parse(path, b, loc)
	if err != nil {
		return nil, usageError(err)
	}
	return set, nil
}

func replayProgress(w io.Writer) func(done, total int64) {
	if !isTerminal(w) {
		return func(int64, int64) {}
	}
	bar := progressbar.NewOptions64(0, progressbar.OptionSetWriter(w), progressbar.OptionSetDescription("replay"),
		progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish(), progressbar.OptionSetPredictTime(true))
	return func(done, total int64) {
		bar.ChangeMax64(total)
		_ = bar.Set64(done) // a bar that cannot be drawn spoils nothing
	}
}

// writeFile writes to a path through a temporary file beside it; "" writes nothing.
func writeFile(path string, write func(io.Writer) error) error {
	if path == "" {
		return nil
	}
	f, err := os.Create(path + ".part")
	if err != nil {
		return usageError(err)
	}
	buffered := bufio.NewWriter(f)
	err = errors.Join(write(buffered), buffered.Flush(), f.Close())
	if err == nil {
		err = os.Rename(path+".part", path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// replayedDay is a recorded day on its way through the engine.
type replayedDay struct {
	loc       *time.Location
	source    expect.Source
	engine    *fleet.Engine
	intervals []trace.Interval
	from, to  time.Time // first and last full local hour that the trace touches
	seq       map[string]uint64
	beats     int
	hours     []counts.HourRow
	faults    map[string]faults.Fault
}

func newReplayedDay(recorded *trace.Trace, cfg fleet.EngineConfig) (*replayedDay, error) {
	intervals := recorded.Intervals(trace.JoinGap)
	if len(intervals) == 0 {
		return nil, fmt.Errorf("trace %s: nobody is on line in it", recorded.Name)
	}
	first, last := intervals[0].Start(), intervals[0].End()
	for _, i := range intervals {
		if i.End().After(last) {
			last = i.End()
		}
	}
	d := &replayedDay{
		loc: cfg.Location, source: cfg.Expect, intervals: intervals,
		from: localHour(first, cfg.Location), to: localHour(last, cfg.Location).Add(time.Hour),
		seq: map[string]uint64{}, faults: map[string]faults.Fault{},
	}
	d.engine = fleet.NewEngine(cfg, d.from)
	return d, nil
}

// localHour is the last full hour of the local clock at or before t.
func localHour(t time.Time, loc *time.Location) time.Time {
	l := t.In(loc)
	return t.Add(-time.Duration(l.Minute())*time.Minute - time.Duration(l.Second())*time.Second - time.Duration(l.Nanosecond()))
}

// run moves the clock from heartbeat to heartbeat; rounds and ends of minutes come before what
// happens at the same instant.
func (d *replayedDay) run(ctx context.Context, o replayOptions, progress func(done, total int64)) error {
	clock, minute := d.from, d.from
	advance := func(to time.Time) error {
		for ; !clock.After(to); clock = clock.Add(o.tick) {
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("replay: %w", err)
			}
			if !clock.Before(minute.Add(time.Minute)) {
				minute = clock.Truncate(time.Minute)
				d.engine.Minute(clock)
				d.hours = append(d.hours, d.engine.Hours(clock)...)
				progress(int64(clock.Sub(d.from)/time.Second), int64(d.to.Sub(d.from)/time.Second))
			}
			d.take(d.engine.Round(clock, nil))
		}
		return nil
	}
	var payload []byte
	for b := range trace.Beats(d.intervals, o.interval) {
		at := time.Unix(b.At, 0).UTC()
		if err := advance(at); err != nil {
			return err
		}
		machine := b.Vehicle + "-1"
		d.seq[machine]++
		d.beats++
		hb := schemas.Heartbeat{Seq: d.seq[machine], Boot: "replay", At: at, Vehicle: b.Vehicle, Route: b.Route, Trip: b.Trip, State: schemas.Running}
		if b.Last {
			hb.State = schemas.ReadyForShutdown
		}
		payload = schemas.AppendHeartbeat(payload[:0], &hb)
		if err := d.engine.Heartbeat(at, machine, payload); err != nil {
			return fmt.Errorf("replay: %w", err)
		}
	}
	if err := advance(d.to); err != nil {
		return err
	}
	d.engine.Minute(d.to)
	d.hours = append(d.hours, d.engine.Hours(d.to)...)
	return nil
}

func (d *replayedDay) take(r fleet.Round) {
	for _, c := range r.Changes {
		f := c.Fault
		if f.OpenedAt.IsZero() {
			continue
		}
		if first, seen := d.faults[f.ID]; seen { // what was so when it opened
			f.Reason, f.Route, f.Machine = first.Reason, first.Route, first.Machine
		}
		d.faults[f.ID] = f
	}
}

func (d *replayedDay) writeCounts(w io.Writer) error {
	out := csv.NewWriter(w)
	_ = out.Write([]string{"date", "route_id", "hour", "distinct", "peak", "mean"}) // an error stays in out
	for _, r := range d.shownHours() {
		date, hour := r.Local(d.loc)
		_ = out.Write([]string{date, r.Route, strconv.Itoa(hour), strconv.Itoa(r.Distinct), strconv.Itoa(r.Peak), strconv.FormatFloat(r.Mean(), 'f', 2, 64)})
	}
	out.Flush()
	return out.Error()
}

// shownHours leaves out the hours in which nothing was online and nothing expected.
func (d *replayedDay) shownHours() []counts.HourRow {
	return slices.DeleteFunc(slices.Clone(d.hours), func(r counts.HourRow) bool {
		e, _ := d.source.Expect(r.Route, r.Start)
		return r.Distinct == 0 && e.Expected == 0
	})
}

func (d *replayedDay) sortedFaults() []faults.Fault {
	list := make([]faults.Fault, 0, len(d.faults))
	for _, f := range d.faults {
		list = append(list, f)
	}
	slices.SortFunc(list, func(a, b faults.Fault) int {
		return cmp.Or(a.OpenedAt.Compare(b.OpenedAt), cmp.Compare(a.ID, b.ID))
	})
	return list
}

func (d *replayedDay) writeFaults(w io.Writer) error {
	out := csv.NewWriter(w)
	_ = out.Write([]string{"opened", "closed", "kind", "route_id", "machine", "online", "expected", "threshold", "reason"}) // an error stays in out
	for _, f := range d.sortedFaults() {
		closed, route, numbers := "", f.Subject.Route, []string{"", "", ""}
		if f.Ended() {
			closed = f.ClosedAt.In(d.loc).Format(time.RFC3339)
		}
		if f.Machine != nil {
			route = f.Machine.Route
		}
		if f.Route != nil {
			numbers = []string{strconv.Itoa(f.Route.Online), strconv.Itoa(f.Route.Expected), strconv.Itoa(f.Route.Threshold)}
		}
		row := append([]string{f.OpenedAt.In(d.loc).Format(time.RFC3339), closed, string(f.Kind), route, f.Subject.Machine}, numbers...)
		_ = out.Write(append(row, f.Reason))
	}
	out.Flush()
	return out.Error()
}

func (d *replayedDay) report(w io.Writer, asJSON bool, took time.Duration) error {
	s := replaySummary{Vehicles: len(d.seq), Heartbeats: d.beats, RouteHours: len(d.shownHours()), Seconds: took.Seconds()}
	for _, f := range d.faults {
		s.FaultsOpened++
		if !f.Ended() {
			s.FaultsOpen++
		}
	}
	if asJSON {
		return json.NewEncoder(w).Encode(s)
	}
	_, err := fmt.Fprintf(w, "%d vehicles, %d heartbeats, %d route-hours, %d faults opened, %d still open at the end, in %.1f s\n",
		s.Vehicles, s.Heartbeats, s.RouteHours, s.FaultsOpened, s.FaultsOpen, s.Seconds)
	return err
}
