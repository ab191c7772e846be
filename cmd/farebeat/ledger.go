package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
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
	filter *ledger.Filter // what registerFilter reads, nil for none
}

func (f *storeFlags) register(cmd *cobra.Command) {
	f.registerData(cmd)
	cmd.Flags().BoolVar(&f.json, "json", false, "print JSON, one object a line")
}

// registerData is register for a command that prints no JSON.
func (f *storeFlags) registerData(cmd *cobra.Command) {
	f.config.register(cmd)
	cmd.Flags().StringVar(&f.data, "data", "", "data folder of the fleet service; the configuration's without it")
}

// open opens the store for reading.
func (f *storeFlags) open(ctx context.Context) (*store.Store, configs.Config, error) {
	return f.openStore(ctx, false)
}

// openStore opens the store, for reading unless write is set; then it must be there.
func (f *storeFlags) openStore(ctx context.Context, write bool) (*store.Store, configs.Config, error) {
	var extra []string
	if f.data != "" {
		extra = append(extra, "data="+f.data)
	}
	c, err := f.config.load(extra...)
	if err != nil {
		return nil, c, err
	}
	if write {
		if err := storeIsThere(c); err != nil {
			return nil, c, err
		}
	}
	s, err := store.Open(ctx, storePath(c.Data), store.Options{ReadOnly: !write})
	if errors.Is(err, store.ErrInUse) {
		return nil, c, fmt.Errorf("%w: `farebeat serve` runs and issues by itself", err)
	}
	if err != nil {
		return nil, c, usageError(fmt.Errorf("%w (--data names the data folder)", err))
	}
	return s, c, nil
}

// books is the ledger with what the machines declared and the keys.
type books struct {
	*ledger.Ledger
	config   configs.Config
	master   *keys.Master
	declared ledger.Declarations
}

// withBooks runs do with the ledger of the data folder. Where write is set it may write, which takes that
// `farebeat serve` does not run.
func (f *storeFlags) withBooks(ctx context.Context, write bool, do func(books) error) error {
	if f.filter != nil {
		if err := f.filter.Check(); err != nil {
			return usageError(err)
		}
	}
	s, c, err := f.openStore(ctx, write)
	if err != nil {
		return err
	}
	master, err := loadMaster(c)
	if err != nil {
		return usageError(errors.Join(err, s.Close()))
	}
	declared, err := declarations(ctx, s)
	b := books{ledger.New(s.Ledger(), master, time.Now), c, master, declared}
	if err == nil && f.filter != nil {
		err = b.know(ctx, f.filter.Machine)
	}
	if err == nil {
		err = do(b)
	}
	return errors.Join(err, s.Close())
}

// know refuses a machine of which there is nothing: a typing error must not look like a good day.
func (b books) know(ctx context.Context, machine string) error {
	if _, declared := b.declared[machine]; machine == "" || declared {
		return nil
	}
	s, err := b.Status(ctx, machine)
	if err == nil && len(s.Epochs) == 0 && len(s.Quarantined) == 0 {
		err = usageError(fmt.Errorf("nothing is known of a machine %q: `farebeat ledger status` names them", machine))
	}
	return err
}

// withLedger runs do with the ledger of the data folder, for reading.
func (f *storeFlags) withLedger(ctx context.Context, do func(*ledger.Ledger) error) error {
	return f.withBooks(ctx, false, func(b books) error { return do(b.Ledger) })
}

func newLedgerCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "ledger", Short: "What the ledger holds, what it misses, and its proof"}
	cmd.AddCommand(newLedgerStatusCmd(), newLedgerGapsCmd(), newLedgerConflictsCmd(), newLedgerVerifyCmd(), newLedgerCertifyCmd(),
		newLedgerReconcileCmd(), newLedgerExportCmd())
	return cmd
}

func registerFilter(cmd *cobra.Command, flags *storeFlags, f *ledger.Filter) {
	flags.filter = f
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
			return flags.withBooks(cmd.Context(), false, func(b books) error { return ledgerStatus(cmd, b, filter, flags.json) })
		},
	}
	flags.register(cmd)
	registerFilter(cmd, &flags, &filter)
	return cmd
}

// eachStatus calls each for every machine that is in the ledger or, without dates, has declared something.
func (b books) eachStatus(ctx context.Context, filter ledger.Filter, each func(ledger.Status, *ledger.Declaration) error) error {
	seen := map[string]bool{}
	err := b.Each(ctx, filter, func(s ledger.Status) error {
		seen[s.Machine] = true
		if d, ok := b.declared[s.Machine]; ok {
			return each(s, &d)
		}
		return each(s, nil)
	})
	if err != nil || filter.From != "" || filter.To != "" {
		return err
	}
	for _, machine := range slices.Sorted(maps.Keys(b.declared)) {
		if d := b.declared[machine]; !seen[machine] && (filter.Machine == "" || filter.Machine == machine) {
			if err := each(ledger.Status{Machine: machine}, &d); err != nil {
				return err
			}
		}
	}
	return nil
}

func ledgerStatus(cmd *cobra.Command, b books, filter ledger.Filter, asJSON bool) error {
	out := cmd.OutOrStdout()
	if asJSON {
		enc := json.NewEncoder(out)
		return b.eachStatus(cmd.Context(), filter, func(s ledger.Status, d *ledger.Declaration) error {
			return enc.Encode(struct {
				ledger.Status
				Declared *ledger.Declaration `json:"declared,omitempty"`
			}{s, d})
		})
	}
	err := b.eachStatus(cmd.Context(), filter, func(s ledger.Status, declared *ledger.Declaration) error {
		for _, d := range s.Days {
			complete := fmt.Sprintf("complete to %d-%d", d.Epoch, d.Last)
			if !d.Complete() {
				complete = fmt.Sprintf("gaps near %d-%d to %d-%d", d.Epoch, d.First, d.Epoch, d.Last)
			}
			fmt.Fprintf(out, "%-24s %s  %5d records  %12s  %s\n", s.Machine, d.ServiceDate, d.Records, ledger.Money{Currency: d.Currency, Minor: d.SumMinor}, complete)
		}
		for _, kind := range ledger.Kinds() {
			if n := s.Quarantined[kind]; n > 0 {
				fmt.Fprintf(out, "%-24s in quarantine: %d %s\n", s.Machine, n, kind)
			}
		}
		if declared != nil {
			epoch := slices.Max(append(slices.Collect(maps.Keys(declared.Epochs)), 0))
			fmt.Fprintf(out, "%-24s declared %d-%d as its last record and %d unsent, at %s\n",
				s.Machine, epoch, declared.Epochs[epoch], declared.Pending, declared.At.UTC().Format(time.RFC3339))
		}
		return nil
	})
	if err != nil {
		return err
	}
	t, err := b.Totals(cmd.Context(), filter)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%d machines, %d records", t.Machines, t.Records)
	for _, m := range t.Money {
		fmt.Fprintf(out, ", %s", m)
	}
	fmt.Fprintln(out)
	return nil
}

func newLedgerGapsCmd() *cobra.Command {
	var flags storeFlags
	var filter ledger.Filter
	cmd := &cobra.Command{
		Use:   "gaps",
		Short: "Print the records that must exist and that the ledger lacks; exit code 3 if there are any",
		Long: `Print the records that must exist and that the ledger lacks. A gap that is awaited is asked for again by
itself, at the next contact with the machine. One that is gone is what the machine says that it no longer holds:
its journal was damaged or reset, or this ledger was restored from an old backup. One that is unreadable came and
could not be proved: see farebeat ledger conflicts. Of one that is unknown the machine has said nothing yet.`,
		Example: "  farebeat ledger gaps --data farebeat-data",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return flags.withBooks(cmd.Context(), false, func(b books) error { return ledgerGaps(cmd, b, filter, flags.json) })
		},
	}
	flags.register(cmd)
	registerFilter(cmd, &flags, &filter)
	return cmd
}

func ledgerGaps(cmd *cobra.Command, b books, filter ledger.Filter, asJSON bool) error {
	enc, missing := json.NewEncoder(cmd.OutOrStdout()), uint64(0)
	err := b.Gaps(cmd.Context(), filter, b.declared, func(g ledger.Gap) error {
		missing += g.Len()
		if asJSON {
			return enc.Encode(g)
		}
		notes := string(g.State)
		if g.Tail {
			notes += ", by the machine's own word"
		}
		if g.Quarantined > 0 {
			notes += fmt.Sprintf(", %d in quarantine", g.Quarantined)
		}
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "%-24s epoch %d: %d to %d missing (%d), %s\n", g.Machine, g.Epoch, g.First, g.Last, g.Len(), notes)
		return err
	})
	if err == nil && missing > 0 {
		return differenceError("%d records are missing", missing)
	}
	return err
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
	flags.filter = &filter
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
	begun := time.Now()
	proof, err := l.Verify(cmd.Context(), filter, progress)
	if err != nil {
		return err
	}
	perSecond := float64(proof.Records) / time.Since(begun).Seconds()
	out := cmd.OutOrStdout()
	if asJSON {
		result := struct {
			ledger.Proof
			PerSecond float64 `json:"records_per_s"`
		}{proof, math.Round(perSecond)}
		if err := json.NewEncoder(out).Encode(result); err != nil {
			return err
		}
	} else {
		for _, f := range proof.Findings {
			fmt.Fprintln(out, f)
		}
		fmt.Fprintf(out, "%d records of %d machines checked, %d missing in gaps, %d problems", proof.Records, proof.Machines, proof.Missing, proof.Problems)
		for _, m := range proof.Money {
			fmt.Fprintf(out, ", %s", m)
		}
		fmt.Fprintf(out, ", %.0f records/s\n", perSecond)
	}
	if !proof.OK() {
		return differenceError("%d problems in the ledger", proof.Problems)
	}
	return nil
}

// emptyFilter selects the whole ledger.
func emptyFilter() ledger.Filter { return ledger.Filter{} }
