package main

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/farebeat/farebeat/configs"
	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/replay"
)

// rulesReplayFlags are the flags of `farebeat rules replay`.
type rulesReplayFlags struct {
	store                                storeFlags
	from, to, rules, route, gtfs, source string
	csv                                  bool
}

func newRulesReplayCmd() *cobra.Command {
	var o rulesReplayFlags
	cmd := &cobra.Command{
		Use:   "replay",
		Short: "Judge stored history by a rules file, and compare with what fired live",
		Long: `Judge the stored counts by a rules file, and print the route faults that would have fired, when
they would have opened and closed, how often somebody would have been told, and how that differs from the
faults that the store has. Nothing is written; the fleet service may run meanwhile.

What was expected is worked out again where --gtfs or the configuration says how; else the number that
stands in the counts is taken, the most in an hour, as one of --source.

Counts are a row a minute, and what they cannot know is said with the result.`,
		Example: "  farebeat rules replay --data farebeat-data --rules rules.yaml --from 2026-11-16T00:00:00Z --route 36",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runRulesReplay(cmd, o)
		},
	}
	o.store.register(cmd)
	f := cmd.Flags()
	f.StringVar(&o.from, "from", "", "from this time on, RFC 3339; the beginning without it")
	f.StringVar(&o.to, "to", "", "before this time, RFC 3339; the end without it")
	f.StringVar(&o.rules, "rules", "", "rules file; without it that of the configuration, else the default rules")
	f.StringVar(&o.route, "route", "", "only this route")
	f.StringVar(&o.gtfs, "gtfs", "", "GTFS feed that says what was expected")
	f.StringVar(&o.source, "source", "", "take the expectation in the counts as one of hand, timetable or history")
	f.BoolVar(&o.csv, "csv", false, "print a row a fault as CSV")
	cmd.MarkFlagsMutuallyExclusive("json", "csv")
	cmd.MarkFlagsMutuallyExclusive("gtfs", "source")
	return cmd
}

func runRulesReplay(cmd *cobra.Command, o rulesReplayFlags) error {
	from, to, err := parseRange(o.from, o.to)
	if err != nil {
		return usageError(err)
	}
	switch o.source {
	case "", "hand", "timetable", "history":
	default:
		return usageError(fmt.Errorf("--source %q: want hand, timetable or history", o.source))
	}
	for key, v := range map[string]string{"fleet.gtfs": o.gtfs, "fleet.rules_file": o.rules} {
		if v != "" {
			o.store.config.set = append(o.store.config.set, key+"="+v)
		}
	}
	db, c, err := o.store.open(cmd.Context())
	if err != nil {
		return err
	}
	report, err := replayRules(cmd, o, c, replay.Options{From: from, To: to}, db.Counts(), db.Faults())
	if err = errors.Join(err, db.Close()); err != nil {
		return err
	}
	switch {
	case o.csv:
		for _, l := range replay.Limits() {
			fmt.Fprintln(cmd.ErrOrStderr(), "farebeat: note:", l)
		}
		return writeReplayCSV(cmd.OutOrStdout(), report)
	case o.store.json:
		return json.NewEncoder(cmd.OutOrStdout()).Encode(replayJSON(report))
	}
	return writeReplayText(cmd.OutOrStdout(), report)
}

func replayRules(cmd *cobra.Command, o rulesReplayFlags, c configs.Config, opts replay.Options, frames replay.Frames, live replay.Faults) (*replay.Report, error) {
	known, err := readKnowledge(cmd.Context(), c, time.Now, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	engine := known.engine
	opts.Location, opts.Route, opts.Rules, opts.Source, opts.Deadline = engine.Location, o.route, engine.Rules, o.source, engine.WarmUp
	if o.source == "" {
		opts.Expect = replayedExpectation(c.Fleet, engine.Expect)
	}
	progress := replayProgress(cmd.ErrOrStderr())
	opts.Progress = func(done, total int) { progress(int64(done), int64(total)) }
	report, err := replay.Run(cmd.Context(), frames, live, opts)
	if errors.Is(err, replay.ErrNoHistory) {
		return nil, usageError(fmt.Errorf("%w; `farebeat counts` prints what it holds", err))
	}
	return report, err
}

func writeReplayText(w io.Writer, r *replay.Report) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if len(r.Faults)+len(r.Missed) > 0 {
		fmt.Fprintln(table, "opened\tclosed\troute\tkind\tpages\tlive\treason")
	}
	for _, o := range r.Faults {
		was := "new"
		if len(o.Live) > 0 {
			was = strings.Join(o.Live, " ")
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%d\t%s\t%s\n", o.Fault.OpenedAt.In(r.Location).Format(faultTime), closedAt(o.Fault, r.Location),
			o.Fault.Subject.Route, o.Fault.Kind, len(o.Pages), was, o.Fault.Reason)
	}
	for _, f := range r.Missed {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t-\t%s\tmissed: it fired live and would not\n", f.OpenedAt.In(r.Location).Format(faultTime), closedAt(f, r.Location),
			f.Subject.Route, f.Kind, f.ID)
	}
	if len(r.Days) > 0 {
		fmt.Fprintln(table, "\ndate\troute\tfaults\tpages\tnew\tmissed")
	}
	for _, d := range r.Days {
		fmt.Fprintf(table, "%s\t%s\t%d\t%d\t%d\t%d\n", d.Date, d.Route, d.Faults, d.Pages, d.New, d.Missed)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "\nWhat minutes cannot know:\n")
	for _, l := range replay.Limits() {
		fmt.Fprintf(w, "- %s\n", l)
	}
	fmt.Fprintf(w, "\n%s to %s, %d routes: %d route-minutes judged, %d blind\n", r.From.In(r.Location).Format(faultTime), r.To.In(r.Location).Format(faultTime),
		r.Routes, r.RouteMinutes, r.BlindMinutes)
	if n := len(r.Standing); n > 0 {
		fmt.Fprintf(w, "%d route faults stood already when the time began; they are not counted\n", n)
	}
	_, err := fmt.Fprintf(w, "live %d route faults: %d missed with these rules; %d new\n%d route faults, %d pages; for 100 route-weeks %.1f faults, %.1f pages\n",
		r.Live, len(r.Missed), r.New(), len(r.Faults), r.Pages(), r.Per100(len(r.Faults)), r.Per100(r.Pages()))
	return err
}

func closedAt(f faults.Fault, loc *time.Location) string {
	if !f.Ended() {
		return "open"
	}
	return f.ClosedAt.In(loc).Format(faultTime)
}

// replayedFault is one row of --json and --csv.
type replayedFault struct {
	Route     string      `json:"route_id"`
	Kind      faults.Kind `json:"kind"`
	Opened    time.Time   `json:"opened"`
	Closed    time.Time   `json:"closed,omitzero"` // absent while it is open
	Outcome   string      `json:"outcome"`         // both, new, missed or standing
	Pages     []time.Time `json:"pages"`
	Live      []string    `json:"live"` // ids of those that fired live
	Online    int         `json:"online"`
	Expected  int         `json:"expected"`
	Threshold int         `json:"threshold"`
	Reason    string      `json:"reason"`
}

// replayedFaults are those that would have fired, those that fired live and would not have, and those that stood
// before.
func replayedFaults(r *replay.Report) []replayedFault {
	out := []replayedFault{}
	row := func(f faults.Fault, outcome string, pages []time.Time, live []string) {
		one := replayedFault{
			Route: f.Subject.Route, Kind: f.Kind, Opened: f.OpenedAt.In(r.Location), Outcome: outcome,
			Pages: append([]time.Time{}, pages...), Live: append([]string{}, live...), Reason: f.Reason,
		}
		if f.Ended() {
			one.Closed = f.ClosedAt.In(r.Location)
		}
		if f.Route != nil {
			one.Online, one.Expected, one.Threshold = f.Route.Online, f.Route.Expected, f.Route.Threshold
		}
		out = append(out, one)
	}
	for _, o := range r.Faults {
		outcome := "both"
		if len(o.Live) == 0 {
			outcome = "new"
		}
		row(o.Fault, outcome, o.Pages, o.Live)
	}
	for _, f := range r.Missed {
		row(f, "missed", nil, []string{f.ID})
	}
	for _, o := range r.Standing {
		row(o.Fault, "standing", o.Pages, o.Live)
	}
	return out
}

// replaySummaryJSON is what `farebeat rules replay --json` prints.
type replaySummaryJSON struct {
	From         time.Time       `json:"from"`
	To           time.Time       `json:"to"`
	Routes       int             `json:"routes"`
	RouteMinutes int             `json:"route_minutes"`
	BlindMinutes int             `json:"blind_route_minutes"`
	Faults       int             `json:"route_faults"`
	Pages        int             `json:"pages"`
	Live         int             `json:"live"`
	Missed       int             `json:"missed"`
	New          int             `json:"new"`
	FaultsPer100 float64         `json:"route_faults_per_100_route_weeks"`
	PagesPer100  float64         `json:"pages_per_100_route_weeks"`
	Days         []replayDayJSON `json:"days"`
	List         []replayedFault `json:"faults"`
	Limits       []string        `json:"limits"`
}

type replayDayJSON struct {
	Date   string `json:"date"`
	Route  string `json:"route_id"`
	Faults int    `json:"route_faults"`
	Pages  int    `json:"pages"`
	New    int    `json:"new"`
	Missed int    `json:"missed"`
}

func replayJSON(r *replay.Report) replaySummaryJSON {
	s := replaySummaryJSON{
		From: r.From.In(r.Location), To: r.To.In(r.Location), Routes: r.Routes, RouteMinutes: r.RouteMinutes, BlindMinutes: r.BlindMinutes,
		Faults: len(r.Faults), Pages: r.Pages(), Live: r.Live, Missed: len(r.Missed), New: r.New(),
		FaultsPer100: r.Per100(len(r.Faults)), PagesPer100: r.Per100(r.Pages()),
		Days: []replayDayJSON{}, List: replayedFaults(r), Limits: replay.Limits(),
	}
	for _, d := range r.Days {
		s.Days = append(s.Days, replayDayJSON(d))
	}
	return s
}

func writeReplayCSV(w io.Writer, r *replay.Report) error {
	out := csv.NewWriter(w)
	_ = out.Write([]string{"opened", "closed", "route_id", "kind", "outcome", "pages", "live", "online", "expected", "threshold", "reason"}) // an error stays in out
	for _, f := range replayedFaults(r) {
		closed := ""
		if !f.Closed.IsZero() {
			closed = f.Closed.Format(time.RFC3339)
		}
		_ = out.Write([]string{
			f.Opened.Format(time.RFC3339), closed, f.Route, string(f.Kind), f.Outcome, strconv.Itoa(len(f.Pages)), strings.Join(f.Live, " "),
			strconv.Itoa(f.Online), strconv.Itoa(f.Expected), strconv.Itoa(f.Threshold), f.Reason,
		})
	}
	out.Flush()
	return out.Error()
}
