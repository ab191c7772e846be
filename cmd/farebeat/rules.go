package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/farebeat/farebeat/configs"
	"github.com/farebeat/farebeat/fleet/rules"
	"github.com/farebeat/farebeat/fleet/rules/rulestest"
	"github.com/farebeat/farebeat/fleet/store"
)

func newRulesCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "rules", Short: "Check, show, test and replay the rules of what is a fault"}
	cmd.AddCommand(newRulesCheckCmd(), newRulesShowCmd(), newRulesTestCmd(), newRulesReplayCmd())
	return cmd
}

func newRulesCheckCmd() *cobra.Command {
	var flags configFlags
	var feed, data string
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "Check a rules file, and whether the routes that it names exist",
		Long: `Check a rules file. What is wrong is told with file, line and what would be right; the exit code is 2 then.
With a GTFS feed (--gtfs, or the configuration's) or the store of a fleet service (--data) a route that the file
names and that neither has is a warning, and the exit code is 3: a rule for it never holds. So it is for an empty file, which
a running service does not take for the default rules.`,
		Example: "  farebeat rules check rules.yaml --gtfs feed.zip",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var extra []string
			if feed != "" {
				extra = append(extra, "fleet.gtfs="+feed)
			}
			c, err := flags.load(extra...)
			if err != nil {
				return err
			}
			set, err := rulesOf(c, args[0])
			if err != nil {
				return err
			}
			named := set.Named()
			routes := make([]string, len(named))
			for i, n := range named {
				routes[i] = n.Route
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is valid: %d overrides with those of the defaults, %d routes named", args[0], set.Overrides(), len(named))
			if len(named) > 0 {
				fmt.Fprintf(cmd.OutOrStdout(), ": %s", strings.Join(routes, ", "))
			}
			fmt.Fprintln(cmd.OutOrStdout())
			if info, err := os.Stat(args[0]); err == nil && info.Size() == 0 {
				return differenceError("%s is empty, which a running service refuses: for the default rules write overrides: []", args[0])
			}
			known, err := knownRoutes(cmd, c, data)
			if err != nil || known == nil {
				return err
			}
			return checkNamed(cmd.ErrOrStderr(), args[0], named, known)
		},
	}
	flags.register(cmd)
	cmd.Flags().StringVar(&feed, "gtfs", "", "GTFS feed whose routes are known")
	cmd.Flags().StringVar(&data, "data", "", "data folder of a fleet service whose routes are known")
	return cmd
}

// rulesOf reads a rules file in the configuration's time zone.
func rulesOf(c configs.Config, path string) (*rules.Set, error) {
	loc, err := time.LoadLocation(c.TimeZone)
	if err != nil {
		return nil, usageError(err)
	}
	return loadRules(path, loc)
}

// knownRoutes are those of the feed, of the store and of the numbers set by hand, nil where there is neither feed nor
// store to ask.
func knownRoutes(cmd *cobra.Command, c configs.Config, data string) (map[string]bool, error) {
	if c.Fleet.GTFS == "" && data == "" {
		return nil, nil
	}
	known := map[string]bool{}
	add := func(routes []string) {
		for _, r := range routes {
			known[r] = true
		}
	}
	if c.Fleet.GTFS != "" {
		feed, err := openFeed(cmd, c.Fleet.GTFS)
		if err != nil {
			return nil, err
		}
		add(feed.Routes())
	}
	if data != "" {
		db, err := store.Open(cmd.Context(), storePath(data), store.Options{ReadOnly: true})
		if err != nil {
			return nil, usageError(fmt.Errorf("%w (--data names the data folder)", err))
		}
		routes, err := db.Counts().Routes(cmd.Context())
		if err = errors.Join(err, db.Close()); err != nil {
			return nil, err
		}
		add(routes)
	}
	for _, e := range c.Fleet.Expected {
		known[e.Route] = true
	}
	return known, nil
}

func checkNamed(w io.Writer, file string, named []rules.Named, known map[string]bool) error {
	unknown := 0
	for _, n := range named {
		if !known[n.Route] {
			unknown++
			fmt.Fprintf(w, "farebeat: warning: %s: line %d: route %q is not one of the %d known\n", file, n.Line, n.Route, len(known))
		}
	}
	if unknown > 0 {
		return differenceError("%d of the %d routes that %s names are not known; ids are compared letter by letter", unknown, len(named), file)
	}
	return nil
}

func newRulesShowCmd() *cobra.Command {
	var flags configFlags
	var route, source string
	var hour int
	cmd := &cobra.Command{
		Use:   "show [FILE]",
		Short: "Print the rules in force as YAML, or the one of a route and hour",
		Long: `Print the rules of a file, without one those of the configuration, else the default rules, as a rules file that
leaves nothing to the defaults. With --route, --hour and --source only the rule that holds there.`,
		Example: "  farebeat rules show rules.yaml --route 36 --hour 7 --source timetable",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := flags.load()
			if err != nil {
				return err
			}
			path := c.Fleet.RulesFile
			if len(args) > 0 {
				path = args[0]
			}
			set, err := rulesOf(c, path)
			if err != nil {
				return err
			}
			print := set.YAML
			if cmd.Flags().Changed("route") {
				if hour < 0 || hour > 23 {
					return usageError(fmt.Errorf("--hour %d: want 0 to 23", hour))
				}
				if !slices.Contains(rules.Sources(), source) {
					return usageError(fmt.Errorf("--source %q: want one of %s", source, strings.Join(rules.Sources(), ", ")))
				}
				print = set.RuleAt(route, hour, source).YAML
			}
			b, err := print()
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(b)
			return err
		},
	}
	flags.register(cmd)
	cmd.Flags().StringVar(&route, "route", "", "the rule of this route")
	cmd.Flags().IntVar(&hour, "hour", 0, "in this hour of the operator's clock, 0 to 23")
	cmd.Flags().StringVar(&source, "source", "", "where the expectation is from hand, timetable, history or none")
	cmd.MarkFlagsRequiredTogether("route", "hour", "source")
	return cmd
}

func newRulesTestCmd() *cobra.Command {
	var pattern, against string
	var verbose bool
	cmd := &cobra.Command{
		Use:   "test FILE...",
		Short: "Run the tests that stand beside a rules file",
		Long: `Run tests of rules: series of numbers in, faults out, at a minute. They are evaluated on a clock
of their own by the same rules and fault code as live, every 5 s. docs/rules.md says how a test is written.

Each expectation that fails is a line with file, line, minute, what was wanted and what came; the
exit code is 3 then, and 2 where a file is wrong.`,
		Example: "  farebeat rules test configs/rules_test.yaml",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			pick, err := regexp.Compile(pattern)
			if err != nil {
				return usageError(fmt.Errorf("--run: %w", err))
			}
			t := rulesTest{pick: pick, against: against, verbose: verbose}
			for _, path := range args {
				if err := t.file(cmd, path); err != nil {
					return err
				}
			}
			switch {
			case t.ran == 0:
				return usageError(fmt.Errorf("--run %q: no test has such a name", pattern))
			case t.failed > 0:
				return differenceError("%d of %d tests of rules failed", t.failed, t.ran)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&pattern, "run", "", "only tests whose name matches this regular expression")
	cmd.Flags().StringVar(&against, "rules", "", "a rules file in place of the one that the tests name")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "name the tests that pass too")
	return cmd
}

// rulesTest runs files of tests and counts.
type rulesTest struct {
	pick        *regexp.Regexp
	against     string
	verbose     bool
	ran, failed int
}

func (t *rulesTest) file(cmd *cobra.Command, path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return usageError(fmt.Errorf("rules test: %w", err))
	}
	f, err := rulestest.Parse(path, b)
	if err != nil {
		return usageError(err)
	}
	rulesFile := f.RulesFile()
	if t.against != "" {
		rulesFile = t.against
	}
	set, err := loadRules(rulesFile, f.Location())
	if err != nil {
		return err
	}
	began := time.Now()
	results, err := f.Run(cmd.Context(), set, t.pick.MatchString)
	if err != nil {
		return err
	}
	failed := t.report(cmd.OutOrStdout(), results)
	word := "ok  "
	if failed > 0 {
		word = "FAIL"
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s  %s  %d tests, %d failed  %.2fs\n", word, path, len(results), failed, time.Since(began).Seconds())
	t.ran, t.failed = t.ran+len(results), t.failed+failed
	return nil
}

func (t *rulesTest) report(w io.Writer, results []rulestest.Result) (failed int) {
	for _, r := range results {
		switch {
		case r.Failed():
			failed++
			fmt.Fprintf(w, "--- FAIL: %s\n", r.Name)
		case t.verbose:
			fmt.Fprintf(w, "--- PASS: %s\n", r.Name)
		}
		for _, f := range r.Failures {
			fmt.Fprintf(w, "    %s\n", f)
		}
	}
	return failed
}
