package main

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"time"

	"github.com/spf13/cobra"

	"github.com/farebeat/farebeat/fleet/rules/rulestest"
)

func newRulesCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "rules", Short: "Check, show, test and replay the rules of what is a fault"}
	cmd.AddCommand(newRulesTestCmd(), newRulesReplayCmd())
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
