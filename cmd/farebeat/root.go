package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/lmittmann/tint"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// The exit codes of every subcommand; docs/cli.md lists them.
const (
	exitOK         = 0
	exitFailed     = 1 // something went wrong while running
	exitUsage      = 2 // the command line, the configuration or an input file is wrong
	exitDifference = 3 // the command ran, and what it checked is not as it should be
)

// codedError carries the exit code that an error asks for.
type codedError struct {
	code int
	err  error
}

func (e *codedError) Error() string { return e.err.Error() }
func (e *codedError) Unwrap() error { return e.err }

// usageError is an error in what the user gave.
func usageError(err error) error { return &codedError{exitUsage, err} }

// differenceError says that a check found something.
func differenceError(format string, args ...any) error {
	return &codedError{exitDifference, fmt.Errorf(format, args...)}
}

// run executes one command line and returns its exit code. It is main without the
// process, for tests.
func run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) int {
	root := newRootCmd()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	fmt.Fprintln(errOut, "farebeat:", err)
	var coded *codedError
	if errors.As(err, &coded) {
		return coded.code
	}
	return exitFailed
}

func newRootCmd() *cobra.Command {
	root := &cobra.Command{
		Use:   "farebeat",
		Short: "Watch the payment machines of public transport and bring home what a broken one still holds",
		Long: `Farebeat counts, per route and hour, how many payment machines are online against
how many should be, tells the vehicle that carries a broken one, reads the
machine's stored transactions over BLE and proves that each arrived once.

Begin with: farebeat demo

Exit codes: 0 all is well, 1 failed while running, 2 wrong command line,
configuration or input file, 3 a check found a difference.`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError(fmt.Errorf("%w: see %q", err, cmd.CommandPath()+" --help"))
	})
	root.AddCommand(
		newVersionCmd(), newDemoCmd(), newServeCmd(), newEdgeCmd(), newMachineCmd(), newSimulateCmd(), newExpectCmd(), newGTFSCmd(), newCountsCmd(), newSeriesCmd(), newFaultsCmd(), newNotifyCmd(), newReportCmd(), newTicketsCmd(), newLedgerCmd(), newBackupCmd(), newRestoreCmd(), newRepairCmd(),
		newCollectCmd(), newReplayCmd(), newRulesCmd(), newConfigCmd(), newUsersCmd(), newFeedCmd(),
		newCACmd(), newEnrolCmd(), newJoinCmd(), newRevokeCmd(),
	)
	wrapArgs(root)
	return root
}

// wrapArgs gives wrong positional arguments and unknown commands the exit code of a wrong command line.
func wrapArgs(cmd *cobra.Command) {
	check := cmd.Args
	if check == nil {
		check = cobra.NoArgs
		if cmd.HasSubCommands() {
			check = func(cmd *cobra.Command, args []string) error {
				if len(args) == 0 {
					return nil
				}
				message := fmt.Sprintf("unknown command %q for %q", args[0], cmd.CommandPath())
				if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
					message += fmt.Sprintf(": did you mean %q?", strings.Join(near, `" or "`))
				}
				return errors.New(message)
			}
			if cmd.Run == nil && cmd.RunE == nil {
				cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
			}
		}
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usageError(err)
		}
		return nil
	}
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		if err := errors.Join(cmd.ValidateRequiredFlags(), cmd.ValidateFlagGroups()); err != nil {
			return usageError(fmt.Errorf("%w: see %q", err, cmd.CommandPath()+" --help"))
		}
		return nil
	}
	cmd.SuggestionsMinimumDistance = 2
	for _, sub := range cmd.Commands() {
		wrapArgs(sub)
	}
}

// newLogger writes for a person on a terminal and as logfmt elsewhere.
func newLogger(w io.Writer, level slog.Level) *slog.Logger {
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return slog.New(tint.NewTextHandler(w, &tint.Options{Level: level, TimeFormat: "15:04:05"}))
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
}

// isTerminal reports whether w shows its bytes to a person.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
