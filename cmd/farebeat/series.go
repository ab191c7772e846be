package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/farebeat/farebeat/configs"
	"github.com/farebeat/farebeat/fleet"
	"github.com/farebeat/farebeat/fleet/counts"
	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/keys"
	"github.com/farebeat/farebeat/fleet/series"
	"github.com/farebeat/farebeat/fleet/store"
)

const (
	keepHours  = 2 * 365 * 24 * time.Hour // counts of hours in the embedded store
	pruneEvery = time.Hour
)

// sinkConfig turns one entry of the configuration into a sink's. It reads the token.
func sinkConfig(c configs.Influx) (series.Config, error) {
	s := series.Config{Name: c.Name, URL: c.URL, Org: c.Org, Bucket: c.Bucket, Timeout: c.Timeout, Plain: c.Plain}
	if s.Timeout == 0 {
		s.Timeout = 10 * time.Second
	}
	var err error
	if c.TokenFile != "" {
		s.Token, err = readToken(c.TokenFile)
	}
	return s, err
}

// readToken reads a token that only its owner may read.
func readToken(path string) (string, error) {
	const longest = 4096
	b, err := keys.ReadSecret(path, longest)
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(b))
	if token == "" || strings.ContainsAny(token, "\n\r") {
		return "", fmt.Errorf("%s: want one line with the token", path)
	}
	return token, nil
}

// exporters are the sinks of a service, and what keeps its store small.
type exporters struct {
	sinks  []*series.Sink
	counts *store.Counts
	keep   time.Duration
	now    func() time.Time
	logger *slog.Logger
}

func newExporters(ctx context.Context, c configs.Config, db *store.Store, now func() time.Time, logger *slog.Logger) (*exporters, error) {
	e := &exporters{counts: db.Counts(), keep: c.Fleet.KeepMinutes, now: now, logger: logger}
	for i, influx := range c.Fleet.Influx {
		sink, err := sinkConfig(influx)
		if err != nil {
			return nil, usageError(fmt.Errorf("fleet.influx[%d].token_file: %w", i, err))
		}
		s, err := series.New(ctx, sink, series.Options{Counts: db.Counts(), Cursors: db, Now: now, Logger: logger})
		if err != nil {
			return nil, err
		}
		e.sinks = append(e.sinks, s)
	}
	return e, nil
}

func (e *exporters) poke() {
	for _, s := range e.sinks {
		s.Poke()
	}
}

func (e *exporters) parts() []fleet.Part {
	var parts []fleet.Part
	for _, s := range e.sinks {
		parts = append(parts, fleet.Part{Name: "influx " + s.Status().Name, Kind: faults.SeriesSink, Failure: s.Failure})
	}
	return parts
}

// run ships and prunes until ctx ends.
func (e *exporters) run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, s := range e.sinks {
		wg.Go(func() { s.Run(ctx) })
	}
	wg.Go(func() { e.prune(ctx) })
	wg.Wait()
}

// prune deletes counts that are old. What a sink has not taken yet is kept twice as long.
func (e *exporters) prune(ctx context.Context) {
	ticker := time.NewTicker(pruneEvery)
	defer ticker.Stop()
	for last := e.now(); ; {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now := e.now()
		jumped := now.Sub(last) > 2*pruneEvery || now.Before(last)
		if last = now; jumped { // by a clock that is ahead for a while nothing is old
			continue
		}
		before := now.Add(-e.keep)
		for _, s := range e.sinks {
			if waits := s.Status().Oldest; !waits.IsZero() && waits.Before(before) {
				before = waits
			}
		}
		if limit := now.Add(-2 * e.keep); before.Before(limit) {
			before = limit
			e.logger.Error("counts that an InfluxDB has not taken are deleted after twice the time they are kept", "before", before)
		}
		if n, err := e.counts.Prune(ctx, before, now.Add(-keepHours)); err != nil && ctx.Err() == nil {
			e.logger.Error("old counts could not be deleted", "error", err)
		} else if n > 0 {
			e.logger.Info("old counts were deleted", "rows", n, "minutes before", before)
		}
	}
}

// Describe implements prometheus.Collector.
func (e *exporters) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(e, ch) }

// Collect implements prometheus.Collector.
func (e *exporters) Collect(ch chan<- prometheus.Metric) {
	for _, s := range e.sinks {
		st := s.Status()
		lag := 0.0
		if !st.Oldest.IsZero() {
			lag = max(0, e.now().Sub(st.Oldest).Seconds())
		}
		for _, m := range []struct {
			name, help string
			kind       prometheus.ValueType
			value      float64
		}{
			{"lines_shipped_total", "lines that InfluxDB took since the start", prometheus.CounterValue, float64(st.Shipped)},
			{"lines_dropped_total", "lines that InfluxDB left out of what it took", prometheus.CounterValue, float64(st.Dropped)},
			{"lines_set_aside_total", "lines that InfluxDB refuses", prometheus.CounterValue, float64(st.Aside)},
			{"behind", "minutes and hours that wait to be shipped", prometheus.GaugeValue, float64(st.Behind)},
			{"lag_seconds", "age of the oldest minute or hour that waits", prometheus.GaugeValue, lag},
		} {
			ch <- prometheus.MustNewConstMetric(prometheus.NewDesc("farebeat_series_"+m.name, m.help, []string{"sink"}, nil), m.kind, m.value, st.Name)
		}
	}
}

func newSeriesCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "series", Short: "See how far InfluxDB has the online counts, ship them again, or read them back"}
	cmd.AddCommand(newSeriesStatusCmd(), newSeriesBackfillCmd(), newSeriesRebuildCmd())
	return cmd
}

func newSeriesStatusCmd() *cobra.Command {
	var flags storeFlags
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Print how far each InfluxDB has the online counts",
		Long: `Print, for each InfluxDB of the configuration, the newest minute or hour that it took, how many wait, how many lines it left
out, and the lines that it refuses for what they are. It reads the store, also while farebeat serve runs. Exit code 3: something waits for more than
15 minutes.`,
		Example: "  farebeat series status --config /etc/farebeat/farebeat.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, c, err := flags.open(cmd.Context())
			if err != nil {
				return err
			}
			list, err := series.Standings(cmd.Context(), s, sinkNames(c))
			if err = errors.Join(err, s.Close()); err != nil {
				return err
			}
			if len(list) == 0 {
				return usageError(errors.New("the configuration names no InfluxDB: see fleet.influx"))
			}
			for _, st := range list {
				if err := printSink(cmd, st, flags.json); err != nil {
					return err
				}
			}
			now := time.Now()
			if slices.ContainsFunc(list, func(st series.Standing) bool { return st.Late(now) }) {
				return differenceError("counts wait for more than 15 minutes")
			}
			return nil
		},
	}
	flags.register(cmd)
	return cmd
}

func printSink(cmd *cobra.Command, st series.Standing, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(st)
	}
	has := "nothing yet"
	if st.At != nil {
		has = "all to " + st.At.Format(time.RFC3339)
		if st.Behind > 0 {
			has = "up to " + st.At.Format(time.RFC3339)
		}
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s: has %s, %d minutes and hours wait, %d lines left out, %d set aside\n", st.Sink, has, st.Behind, st.Dropped, len(st.Aside))
	for _, a := range st.Aside {
		fmt.Fprintf(cmd.OutOrStdout(), "  set aside %s: %s: %s\n", a.At.Format(time.RFC3339), a.Line, a.Reason)
	}
	return nil
}

// sinkNames are the InfluxDBs of a configuration.
func sinkNames(c configs.Config) []string {
	var names []string
	for _, influx := range c.Fleet.Influx {
		names = append(names, influx.Name)
	}
	return names
}

func newSeriesBackfillCmd() *cobra.Command {
	var flags storeFlags
	var from, to, name string
	cmd := &cobra.Command{
		Use:   "backfill",
		Short: "Ship stored counts to InfluxDB again",
		Long: `Ship the stored counts of a time to the InfluxDBs of the configuration again, such as after somebody deleted them there. What is there is
overwritten with the same. It works while farebeat serve runs, and moves no cursor. Exit code 3: lines were refused for what they are; the others
are there.`,
		Example: "  farebeat series backfill --from 2026-11-20T00:00:00Z --to 2026-11-21T00:00:00Z --sink grafana",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			start, end, err := parseRange(from, to)
			if err != nil {
				return usageError(err)
			}
			s, c, err := flags.open(cmd.Context())
			if err != nil {
				return err
			}
			return errors.Join(backfill(cmd, c, s, start, end, name), s.Close())
		},
	}
	flags.registerData(cmd)
	cmd.Flags().StringVar(&from, "from", "", "from this time on, RFC 3339; the beginning without it")
	cmd.Flags().StringVar(&to, "to", "", "before this time, RFC 3339; the end without it")
	cmd.Flags().StringVar(&name, "sink", "", "only to this one; all without it")
	return cmd
}

func backfill(cmd *cobra.Command, c configs.Config, s *store.Store, from, to time.Time, name string) error {
	total := 0
	if err := s.Counts().Frames(cmd.Context(), from, to, func(counts.Frame) error { total++; return nil }); err != nil {
		return err
	}
	found, refused := false, 0
	for i, influx := range c.Fleet.Influx {
		if name != "" && influx.Name != name {
			continue
		}
		found = true
		sink, err := sinkConfig(influx)
		if err != nil {
			return usageError(fmt.Errorf("fleet.influx[%d].token_file: %w", i, err))
		}
		done := func(time.Time) {}
		if isTerminal(cmd.ErrOrStderr()) {
			bar := progressbar.NewOptions(total, progressbar.OptionSetWriter(cmd.ErrOrStderr()), progressbar.OptionSetDescription(influx.Name), progressbar.OptionClearOnFinish())
			done = func(time.Time) { _ = bar.Add(1) } // a bar that cannot be drawn spoils nothing
		}
		o := series.Options{Counts: s.Counts(), Cursors: s, Now: time.Now}
		st, lines, err := series.Backfill(cmd.Context(), sink, o, from, to, done)
		if err != nil {
			return err
		}
		refused += len(lines)
		fmt.Fprintf(cmd.OutOrStdout(), "%s: %d lines shipped, %d left out\n", influx.Name, st.Shipped, st.Dropped)
		for _, a := range lines {
			fmt.Fprintf(cmd.OutOrStdout(), "  refused: %s: %s\n", a.Line, a.Reason)
		}
	}
	if !found {
		return usageError(fmt.Errorf("the configuration has no InfluxDB %q: see fleet.influx", name))
	}
	if refused > 0 {
		return differenceError("%d lines were refused for what they are", refused)
	}
	return nil
}

func newSeriesRebuildCmd() *cobra.Command {
	var flags storeFlags
	var from, to, name string
	cmd := &cobra.Command{
		Use:   "rebuild",
		Short: "Read counts back from InfluxDB into a store that lacks them",
		Long: `Read the counts of a time back from an InfluxDB into the embedded store, such as after its disk was lost. What the store has stays as it is. Of
InfluxDB 2.x the bucket must be mapped to a database (DBRP). Hours come back as if all of them had been heard. farebeat serve must not run.`,
		Example: "  farebeat series rebuild --sink grafana --from 2026-10-01T00:00:00Z --to 2026-11-23T00:00:00Z",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			start, end, err := parseRange(from, to)
			if err != nil {
				return usageError(err)
			}
			c, err := flags.load()
			if err != nil {
				return err
			}
			i := slices.IndexFunc(c.Fleet.Influx, func(x configs.Influx) bool { return x.Name == name })
			if i < 0 {
				return usageError(fmt.Errorf("the configuration has no InfluxDB %q: see fleet.influx", name))
			}
			sink, err := sinkConfig(c.Fleet.Influx[i])
			if err != nil {
				return usageError(fmt.Errorf("fleet.influx[%d].token_file: %w", i, err))
			}
			s, err := store.Open(cmd.Context(), storePath(c.Data), store.Options{})
			if errors.Is(err, store.ErrInUse) {
				return fmt.Errorf("%w: stop `farebeat serve` first", err)
			}
			if err != nil {
				return err
			}
			return errors.Join(rebuild(cmd, sink, s, start, end), s.Close())
		},
	}
	flags.registerData(cmd)
	cmd.Flags().StringVar(&name, "sink", "", "the InfluxDB to read from")
	cmd.Flags().StringVar(&from, "from", "", "from this time on, RFC 3339")
	cmd.Flags().StringVar(&to, "to", "", "before this time, RFC 3339")
	for _, flag := range []string{"sink", "from", "to"} {
		must(cmd.MarkFlagRequired(flag))
	}
	return cmd
}

func rebuild(cmd *cobra.Command, c series.Config, s *store.Store, from, to time.Time) error {
	reader, closeReader := series.NewReader(c)
	defer closeReader()
	done := func(time.Time) {}
	if isTerminal(cmd.ErrOrStderr()) {
		bar := progressbar.NewOptions(int(to.Sub(from)/time.Hour)+1, progressbar.OptionSetWriter(cmd.ErrOrStderr()), progressbar.OptionSetDescription(c.Name), progressbar.OptionClearOnFinish())
		done = func(time.Time) { _ = bar.Add(1) } // a bar that cannot be drawn spoils nothing
	}
	out, err := series.Rebuild(cmd.Context(), reader, s.Counts(), from, to, done)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %d minutes and %d rows of hours came back\n", c.Name, out.Minutes, out.Hours)
	return err
}
