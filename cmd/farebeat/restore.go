package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/farebeat/farebeat/configs"
	"github.com/farebeat/farebeat/fleet/durable"
	"github.com/farebeat/farebeat/fleet/ledger"
	"github.com/farebeat/farebeat/fleet/store"
)

func newRestoreCmd() *cobra.Command {
	var flags storeFlags
	var merge string
	cmd := &cobra.Command{
		Use:   "restore [SRC]",
		Short: "Make a data folder from a backup; --merge adds what another store still has",
		Long: `Make a new data folder from the backup SRC, which is proved first. A folder that holds anything is refused.

What was not yet receipted comes by itself: machines and gateways keep it. What was receipted after the backup was
made is given up by them, and the ledger does not have it: as soon as such a machine is heard, farebeat ledger gaps
lists these records, as gone where it holds nothing any more. They are lost unless the old store is found. So:
bring what can be read of the old store, damaged or not, with --merge before farebeat serve starts. It adds the
records that are missing and that their machine's key proves, and puts those that contradict others into quarantine. It
may be done at any time that farebeat serve does not run, and again: a second time changes nothing.`,
		Example: "  farebeat restore /mnt/backup/2026-11-22 --data farebeat-data\n  farebeat restore --merge /mnt/old/farebeat.db --data farebeat-data",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 && merge == "" {
				return usageError(errors.New("restore what? name a backup, or a store with --merge"))
			}
			c, err := flags.load()
			if err != nil {
				return err
			}
			if len(args) == 1 {
				if err := runRestore(cmd, c, args[0]); err != nil {
					return fmt.Errorf("restore %s: %w", args[0], err)
				}
			}
			if merge == "" {
				return nil
			}
			return runMerge(cmd, c, merge, flags.json)
		},
	}
	flags.register(cmd)
	cmd.Flags().StringVar(&merge, "merge", "", "store file whose records are to be added, such as a damaged farebeat.db that was set aside")
	return cmd
}

// load reads the configuration with the flags' data folder.
func (f *storeFlags) load() (configs.Config, error) {
	return f.config.load(given("data", f.data)...)
}

// runRestore builds the folder under another name and gives it its own when all is proved.
func runRestore(cmd *cobra.Command, c configs.Config, src string) (err error) {
	ctx := cmd.Context()
	if err := emptyFolder(c.Data); err != nil {
		return usageError(err)
	}
	m, err := checkBackup(ctx, src)
	if err != nil {
		return err
	}
	dest := filepath.Clean(c.Data)
	if err := os.MkdirAll(filepath.Dir(dest), 0o700); err != nil {
		return err
	}
	temp, err := os.MkdirTemp(filepath.Dir(dest), ".farebeat-restore-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temp)) }()
	for _, f := range m.Files {
		if err := copyFile(filepath.Join(src, f.Name), filepath.Join(temp, f.Name)); err != nil {
			return err
		}
	}
	proof, err := proveRestored(ctx, c, temp)
	if err != nil {
		return err
	}
	if err := durable.SyncDir(temp); err != nil {
		return err
	}
	if err := os.Rename(temp, dest); err != nil { // an empty folder gives way
		return fmt.Errorf("%w: if the data folder is a mount point, name a folder in it", err)
	}
	if err := durable.SyncDir(filepath.Dir(dest)); err != nil {
		return err
	}
	return tellRestored(cmd.OutOrStdout(), c, m, proof)
}

// emptyFolder refuses a folder that holds anything, so that nothing is overwritten and no service's data is taken away.
func emptyFolder(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	return fmt.Errorf("the data folder %s is not empty: stop farebeat serve if it runs, move the folder away and keep it; "+
		"its store can be brought in with --merge", dir)
}

// proveRestored opens the store of a folder as the service would, and proves the ledger where the master key is at hand.
func proveRestored(ctx context.Context, c configs.Config, dir string) (proof *ledger.Proof, err error) {
	s, err := store.Open(ctx, storePath(dir), store.Options{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := s.Restored(ctx); err != nil {
		return nil, err
	}
	if c.Fleet.MasterKey == "" && c.Fleet.MasterKeyFile == "" {
		c.Fleet.MasterKeyFile = filepath.Join(dir, backupKey)
	}
	master, err := loadMaster(c)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	p, err := ledger.New(s.Ledger(), master, time.Now).Verify(ctx, emptyFilter(), func(ledger.Progress) {})
	if err == nil && !p.OK() {
		err = differenceError("the ledger of the backup has %d problems, the first: %s", p.Problems, p.Findings[0])
	}
	return &p, err
}

func tellRestored(w io.Writer, c configs.Config, m manifest, proof *ledger.Proof) error {
	fmt.Fprintf(w, "restored to %s: %s, as of %s\n", c.Data, m.Ledger, m.MadeAt.Format(time.RFC3339))
	if proof != nil {
		fmt.Fprintf(w, "proved: MAC and chain of %d records\n", proof.Records)
	} else {
		fmt.Fprintf(w, "not proved: the master key is not in the backup; put it to %s before farebeat serve starts, then run farebeat ledger verify\n", masterKeyPath(c))
	}
	for _, f := range m.Files {
		if f.Name != backupStore && f.Name != backupKey {
			fmt.Fprintf(w, "beside it: %s; let the configuration name it\n", filepath.Join(c.Data, f.Name))
		}
	}
	_, err := fmt.Fprintf(w, `What happens next: machines and gateways send what has no receipt by themselves. Records that were receipted after
%s are no longer with them, and not here: they are lost unless the old store is found. Bring it in before farebeat serve
starts: farebeat restore --merge OLD/farebeat.db --data %s
farebeat ledger gaps lists what is missing of a machine as soon as it is heard.
`, m.MadeAt.Format(time.RFC3339), c.Data)
	return err
}

func runMerge(cmd *cobra.Command, c configs.Config, from string, asJSON bool) (err error) {
	if _, err := os.Stat(storePath(c.Data)); err != nil {
		return usageError(fmt.Errorf("%w (--data names the data folder)", err))
	}
	master, err := loadMaster(c)
	if err != nil {
		return usageError(err)
	}
	s, err := store.Open(cmd.Context(), storePath(c.Data), store.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	in, err := s.Merge(cmd.Context(), from, master)
	if err != nil {
		return err
	}
	if asJSON {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(in)
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "merged %s: %d records added, %d were here, %d contradict others (farebeat ledger conflicts), %d damaged\n",
		from, in.Records, in.Duplicate, in.Conflict, in.Damaged)
	return err
}

func newRepairCmd() *cobra.Command {
	var flags storeFlags
	cmd := &cobra.Command{
		Use:   "repair",
		Short: "Bring what can be read of a damaged store into a new one; exit code 3 if anything is lost",
		Long: `Bring what can be read of a damaged store into a new one, which takes its place; the damaged file is set aside
and kept. farebeat serve must not run.

Records of the ledger are looked for in every page of the file and of its log, and are taken when their machine's key
proves them. Sums, and what receipts speak of, are made anew from the records that are there: a receipt never covers one
that was lost. What is lost is listed; a machine or gateway that still has it sends it again by itself. Other tables
are read from both ends up to what is damaged.`,
		Example: "  farebeat repair --data farebeat-data",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := flags.load()
			if err != nil {
				return err
			}
			return runRepair(cmd, c, flags.json)
		},
	}
	flags.register(cmd)
	return cmd
}

func runRepair(cmd *cobra.Command, c configs.Config, asJSON bool) error {
	master, err := loadMaster(c)
	if err != nil {
		return usageError(err)
	}
	r, err := store.Repair(cmd.Context(), storePath(c.Data), master, store.Options{})
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	if asJSON {
		err = json.NewEncoder(out).Encode(r)
	} else {
		err = tellRepaired(out, r)
	}
	lost := uint64(0)
	for _, l := range r.Lost {
		lost += l.Len()
	}
	var tables []string
	for _, t := range r.Tables {
		if t.Lost != "" {
			tables = append(tables, t.Name)
		}
	}
	switch {
	case err != nil:
		return err
	case lost > 0:
		return differenceError("%d records were in the ledger and cannot be read: they come again from machines and gateways "+
			"that still have them, or from another copy with farebeat restore --merge", lost)
	case len(tables) > 0:
		return differenceError("not every row could be read of %s", strings.Join(tables, ", "))
	}
	return nil
}

func tellRepaired(w io.Writer, r store.Repaired) error {
	if r.Found == "" {
		fmt.Fprintln(w, "nothing was wrong with the file's structure")
	} else {
		fmt.Fprintln(w, "found:", r.Found)
	}
	fmt.Fprintf(w, "%-20s %d rows, %d records whose bytes changed\n", "ledger_record", r.Ledger.Records, r.Ledger.Damaged)
	for _, t := range r.Tables {
		fmt.Fprintf(w, "%-20s %d rows", t.Name, t.Rows)
		if t.Lost != "" {
			fmt.Fprintf(w, "; lost: %s", t.Lost)
		}
		fmt.Fprintln(w)
	}
	for _, l := range r.Lost {
		fmt.Fprintf(w, "lost: %s epoch %d: %d to %d (%d)\n", l.Machine, l.Epoch, l.First, l.Last, l.Len())
	}
	_, err := fmt.Fprintln(w, "the old file is kept:", r.Aside)
	return err
}
