package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/farebeat/farebeat/configs"
	"github.com/farebeat/farebeat/fleet/keys"
	"github.com/farebeat/farebeat/fleet/ledger"
	"github.com/farebeat/farebeat/fleet/store"
)

// storeFlags are the flags of commands that read the fleet's store, also while `farebeat serve`
// runs.
type storeFlags struct {
	config configFlags
	data   string
	json   bool
}

func (f *storeFlags) register(cmd *cobra.Command) {
	f.config.register(cmd)
	cmd.Flags().StringVar(&f.data, "data", "", "data folder of the fleet service; the configuration's without it")
	cmd.Flags().BoolVar(&f.json, "json", false, "print JSON, one object a line")
}

// open opens the store for reading.
func (f *storeFlags) open(ctx context.Context) (*store.Store, configs.Config, error) {
	var extra []string
	if f.data != "" {
		extra = append(extra, "data="+f.data)
	}
	c, err := f.config.load(extra...)
	if err != nil {
		return nil, c, err
	}
	s, err := store.Open(ctx, storePath(c.Data), store.Options{ReadOnly: true})
	if err != nil {
		return nil, c, usageError(fmt.Errorf("%w (--data names the data folder)", err))
	}
	return s, c, nil
}

// withLedger runs do with the ledger of the data folder.
func (f *storeFlags) withLedger(ctx context.Context, do func(*ledger.Ledger) error) error {
	s, c, err := f.open(ctx)
	if err != nil {
		return err
	}
	master, err := keys.Load(masterKeyPath(c))
	if err != nil {
		return usageError(errors.Join(err, s.Close()))
	}
	return errors.Join(do(ledger.New(s.Ledger(), master, time.Now)), s.Close())
}

func newLedgerCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "ledger", Short: "What the ledger holds, what it misses, and its proof"}
	cmd.AddCommand(newLedgerStatusCmd(), newLedgerGapsCmd(), newLedgerVerifyCmd(), newLedgerExportCmd())
	return cmd
}

func registerFilter(cmd *cobra.Command, f *ledger.Filter) {
	cmd.Flags().StringVar(&f.Machine, "machine", "", "only this machine")
	cmd.Flags().StringVar(&f.From, "from", "", "only service days from this one on, YYYY-MM-DD")
	cmd.Flags().StringVar(&f.To, "to", "", "only service days up to this one, YYYY-MM-DD")
}

func newLedgerStatusCmd() *cobra.Command {
	var flags storeFlags
	var filter ledger.Filter
	cmd := &cobra.Command{
		Use:     "status",
		Short:   "Print what the ledger holds, per machine and service day",
		Example: "  farebeat ledger status --data farebeat-data --from 2026-11-22",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return flags.withLedger(cmd.Context(), func(l *ledger.Ledger) error {
				return ledgerStatus(cmd, l, filter, flags.json)
			})
		},
	}
	flags.register(cmd)
	registerFilter(cmd, &filter)
	return cmd
}

func ledgerStatus(cmd *cobra.Command, l *ledger.Ledger, filter ledger.Filter, asJSON bool) error {
	out := cmd.OutOrStdout()
	if asJSON {
		enc := json.NewEncoder(out)
		return l.Each(cmd.Context(), filter, func(s ledger.Status) error { return enc.Encode(s) })
	}
	err := l.Each(cmd.Context(), filter, func(s ledger.Status) error {
		for _, d := range s.Days {
			complete := fmt.Sprintf("complete to %d-%d", d.Epoch, d.Last)
			if !d.Complete() {
				complete = fmt.Sprintf("gaps near %d-%d to %d-%d", d.Epoch, d.First, d.Epoch, d.Last)
			}
			fmt.Fprintf(out, "%-24s %s  %5d records  %12s  %s\n", s.Machine, d.ServiceDate, d.Records, money(d.SumMinor, d.Currency), complete)
		}
		for _, kind := range ledger.Kinds() {
			if n := s.Quarantined[kind]; n > 0 {
				fmt.Fprintf(out, "%-24s in quarantine: %d %s\n", s.Machine, n, kind)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	t, err := l.Totals(cmd.Context(), filter)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%d machines, %d records", t.Machines, t.Records)
	for _, m := range t.Money {
		fmt.Fprintf(out, ", %s", money(m.Minor, m.Currency))
	}
	fmt.Fprintln(out)
	return nil
}

func newLedgerGapsCmd() *cobra.Command {
	var flags storeFlags
	var filter ledger.Filter
	cmd := &cobra.Command{
		Use:     "gaps",
		Short:   "Print the records that must exist and that the ledger lacks; exit code 3 if there are any",
		Example: "  farebeat ledger gaps --data farebeat-data",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return flags.withLedger(cmd.Context(), func(l *ledger.Ledger) error {
				enc, missing := json.NewEncoder(cmd.OutOrStdout()), uint64(0)
				err := l.Gaps(cmd.Context(), filter, func(g ledger.Gap) error {
					missing += g.Len()
					if flags.json {
						return enc.Encode(g)
					}
					_, err := fmt.Fprintf(cmd.OutOrStdout(), "%-24s epoch %d: %d to %d missing (%d)\n", g.Machine, g.Epoch, g.First, g.Last, g.Len())
					return err
				})
				if err == nil && missing > 0 {
					return differenceError("%d records are missing", missing)
				}
				return err
			})
		},
	}
	flags.register(cmd)
	registerFilter(cmd, &filter)
	return cmd
}

func newLedgerVerifyCmd() *cobra.Command {
	var flags storeFlags
	var filter ledger.Filter
	cmd := &cobra.Command{
		Use:     "verify",
		Short:   "Prove every record's MAC and chain anew; exit code 3 if anything is wrong",
		Example: "  farebeat ledger verify --data farebeat-data --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return flags.withLedger(cmd.Context(), func(l *ledger.Ledger) error {
				return ledgerVerify(cmd, l, filter, flags.json)
			})
		},
	}
	flags.register(cmd)
	cmd.Flags().StringVar(&filter.Machine, "machine", "", "only this machine")
	return cmd
}

func ledgerVerify(cmd *cobra.Command, l *ledger.Ledger, filter ledger.Filter, asJSON bool) error {
	progress := func(ledger.Progress) {}
	if isTerminal(cmd.ErrOrStderr()) {
		bar := progressbar.NewOptions64(0, progressbar.OptionSetWriter(cmd.ErrOrStderr()), progressbar.OptionSetDescription("verify"), progressbar.OptionClearOnFinish())
		progress = func(p ledger.Progress) {
			bar.ChangeMax64(int64(p.Total))
			_ = bar.Set64(int64(p.Records)) // a bar that cannot be drawn spoils nothing
		}
	}
	proof, err := l.Verify(cmd.Context(), filter, progress)
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	if asJSON {
		if err := json.NewEncoder(out).Encode(proof); err != nil {
			return err
		}
	} else {
		for _, f := range proof.Findings {
			fmt.Fprintln(out, f)
		}
		fmt.Fprintf(out, "%d records of %d machines proved, %d missing in gaps, %d problems", proof.Records, proof.Machines, proof.Missing, proof.Problems)
		for _, m := range proof.Money {
			fmt.Fprintf(out, ", %s", money(m.Minor, m.Currency))
		}
		fmt.Fprintln(out)
	}
	if !proof.OK() {
		return differenceError("%d problems in the ledger", proof.Problems)
	}
	return nil
}

func newLedgerExportCmd() *cobra.Command {
	var flags storeFlags
	var filter ledger.Filter
	var format, path string
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write the records as CSV in TIDES' columns, or as JSON lines",
		Long: `Write the records of the ledger. csv has the columns of TIDES 1.0 fare_transactions and x_
columns for what TIDES lacks; jsonl has every record exactly as the machine made it.`,
		Example: "  farebeat ledger export --data farebeat-data --format csv --from 2026-11-22 --out day.csv",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return flags.withLedger(cmd.Context(), func(l *ledger.Ledger) error {
				write := func(w io.Writer) error {
					_, err := l.Export(cmd.Context(), w, ledger.Format(format), filter)
					return err
				}
				if path == "" {
					return write(cmd.OutOrStdout())
				}
				return writeFile(path, write)
			})
		},
	}
	flags.config.register(cmd)
	cmd.Flags().StringVar(&flags.data, "data", "", "data folder of the fleet service; the configuration's without it")
	registerFilter(cmd, &filter)
	cmd.Flags().StringVar(&format, "format", "csv", "csv or jsonl")
	cmd.Flags().StringVar(&path, "out", "", "file; standard output without it")
	return cmd
}

// emptyFilter selects the whole ledger.
func emptyFilter() ledger.Filter { return ledger.Filter{} }
