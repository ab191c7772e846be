package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/farebeat/farebeat/configs"
	"github.com/farebeat/farebeat/fleet/durable"
	"github.com/farebeat/farebeat/fleet/ledger"
	"github.com/farebeat/farebeat/fleet/store"
)

// The files of a backup. All but the first are there only if the service has them.
const (
	backupManifest = "manifest.json"
	backupStore    = "farebeat.db"
	backupUsers    = "users"
	backupPeople   = "console-users"
	backupRules    = "rules.yaml"
	backupExpected = "expected.csv"
	backupHolidays = "holidays.txt"
	backupKey      = "master.key"
	backupCA       = "ca.pem"
	backupCAKey    = "ca.key"
)

// manifestVersion is the version of manifest.
const manifestVersion = 1

// manifest says what is in a backup.
type manifest struct {
	Version int          `json:"version"`
	Program string       `json:"program"` // version that made it
	MadeAt  time.Time    `json:"made_at"` // when the copy of the store was begun
	Files   []backupFile `json:"files"`
	Ledger  bookTotals   `json:"ledger"`
}

type backupFile struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// bookTotals are what the ledger of a backup holds.
type bookTotals struct {
	ledger.Totals
	LastID int64 `json:"last_id"` // id of the newest row
}

func newBackupCmd() *cobra.Command {
	var flags storeFlags
	var check, withKeys bool
	cmd := &cobra.Command{
		Use:   "backup DEST",
		Short: "Copy the data folder, also while farebeat serve runs; --check proves a copy",
		Long: `Copy what a new host needs to go on into the new folder DEST: the store (ledger, faults, counts) as of one
moment, the users files, the rules and the expectations file. It does not disturb a running farebeat serve. DEST appears
only when all of it is whole and on disk; manifest.json in it has sizes, SHA-256 sums and the ledger's totals.

The master key is a secret that outlives every backup: it is left out unless --with-keys is given, as is the key of the
certificate authority. Without it a restored ledger cannot be proved nor give receipts, so keep a copy of both elsewhere.

The broker's store is not copied: what it retains is sent again by those who published it.

--check reads a backup, compares it with its manifest and its store with itself; exit code 3 if anything differs.`,
		Example: "  farebeat backup /mnt/backup/2026-11-22 --data farebeat-data\n  farebeat backup --check /mnt/backup/2026-11-22",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if check {
				m, err := checkBackup(cmd.Context(), args[0])
				if err != nil {
					return differenceError("backup %s: %w", args[0], err)
				}
				return m.print(cmd.OutOrStdout(), flags.json, "is whole: "+args[0])
			}
			s, c, err := flags.open(cmd.Context())
			if err != nil {
				return err
			}
			m, err := makeBackup(cmd.Context(), s, c, args[0], withKeys)
			if err := errors.Join(err, s.Close()); err != nil {
				return fmt.Errorf("backup: %w", err)
			}
			if !withKeys {
				fmt.Fprintln(cmd.ErrOrStderr(), "farebeat: the master key is not in this backup; keep a copy of", masterKeySource(c))
			}
			return m.print(cmd.OutOrStdout(), flags.json, "to "+args[0])
		},
	}
	flags.register(cmd)
	cmd.Flags().BoolVar(&check, "check", false, "prove the backup DEST instead of making it")
	cmd.Flags().BoolVar(&withKeys, "with-keys", false, "copy the master key and the authority's key too; whoever has them can forge records and be any device")
	cmd.MarkFlagsMutuallyExclusive("check", "with-keys")
	return cmd
}

func (m manifest) print(w io.Writer, asJSON bool, where string) error {
	if asJSON {
		return json.NewEncoder(w).Encode(m)
	}
	size := int64(0)
	for _, f := range m.Files {
		size += f.Size
	}
	_, err := fmt.Fprintf(w, "backup of %s %s: %d files, %d bytes, %s\n", m.MadeAt.Format(time.RFC3339), where, len(m.Files), size, m.Ledger)
	return err
}

// String is the totals in words.
func (t bookTotals) String() string {
	s := fmt.Sprintf("%d records of %d machines", t.Records, t.Machines)
	for _, m := range t.Money {
		s += fmt.Sprintf(", %s", m)
	}
	return s
}

// makeBackup writes the folder under another name and renames it when it is whole.
func makeBackup(ctx context.Context, s *store.Store, c configs.Config, dest string, withKeys bool) (m manifest, err error) {
	if _, err := os.Lstat(dest); err == nil {
		return m, usageError(fmt.Errorf("%s: %w: choose another name", dest, os.ErrExist))
	}
	temp, err := os.MkdirTemp(filepath.Dir(dest), ".farebeat-backup-*") // mode 0700
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temp)) }()
	m = manifest{Version: manifestVersion, Program: buildVersion().Version, MadeAt: time.Now().UTC().Truncate(time.Second)}
	if err := s.Backup(ctx, filepath.Join(temp, backupStore)); err != nil {
		return m, err
	}
	sources := map[string]string{backupUsers: c.Broker.UsersFile, backupPeople: c.Console.UsersFile, backupRules: c.Fleet.RulesFile, backupExpected: c.Fleet.ExpectedFile, backupHolidays: c.Fleet.HolidaysFile}
	switch {
	case withKeys && c.Fleet.MasterKey != "":
		if _, err := loadMaster(c); err != nil {
			return m, usageError(err)
		}
		if err := writeWhole(filepath.Join(temp, backupKey), []byte(c.Fleet.MasterKey.Reveal()+"\n")); err != nil {
			return m, err
		}
	case withKeys:
		sources[backupKey] = masterKeyPath(c)
	}
	for name, path := range authorityFiles(c, withKeys) {
		sources[name] = path
	}
	for _, name := range backupNames() {
		if source := sources[name]; source != "" {
			if err := copyFile(source, filepath.Join(temp, name)); err != nil {
				return m, err
			}
		}
		f, err := sumFile(filepath.Join(temp, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return m, err
		}
		m.Files = append(m.Files, f)
	}
	if m.Ledger, err = totalsOf(ctx, filepath.Join(temp, backupStore)); err != nil {
		return m, err
	}
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return m, err
	}
	if err := writeWhole(filepath.Join(temp, backupManifest), append(text, '\n')); err != nil {
		return m, err
	}
	return m, errors.Join(durable.SyncDir(temp), os.Rename(temp, dest), durable.SyncDir(filepath.Dir(dest)))
}

// authorityFiles are those of the certificate authority, where there is one.
func authorityFiles(c configs.Config, withKeys bool) map[string]string {
	files := map[string]string{backupCA: caPath(c)}
	if withKeys {
		files[backupCAKey] = caKeyPath(c)
	}
	for name, path := range files {
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			delete(files, name)
		}
	}
	return files
}

// backupNames are the files that a backup may have beside its manifest.
func backupNames() []string {
	return []string{backupStore, backupUsers, backupPeople, backupRules, backupExpected, backupHolidays, backupKey, backupCA, backupCAKey}
}

// totalsOf adds up a store that nobody uses, and proves its structure.
func totalsOf(ctx context.Context, path string) (t bookTotals, err error) {
	s, err := store.Open(ctx, path, store.Options{ReadOnly: true})
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := s.Check(ctx); err != nil {
		return t, err
	}
	if t.Totals, err = ledger.New(s.Ledger(), nil, time.Now).Totals(ctx, emptyFilter()); err != nil {
		return t, err
	}
	t.LastID, err = s.LastRecord(ctx)
	return t, err
}

// checkBackup proves that a backup is what its manifest says.
func checkBackup(ctx context.Context, dir string) (m manifest, err error) {
	text, err := os.ReadFile(filepath.Join(dir, backupManifest))
	if err != nil {
		return m, fmt.Errorf("it is no backup, or not a whole one: %w", err)
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return m, fmt.Errorf("%s: %w", backupManifest, err)
	}
	if m.Version != manifestVersion {
		return m, fmt.Errorf("%s has version %d, this program knows %d: update the program", backupManifest, m.Version, manifestVersion)
	}
	known := map[string]bool{}
	for _, name := range backupNames() {
		known[name] = true
	}
	seen := map[string]bool{}
	for _, want := range m.Files {
		if !known[want.Name] || seen[want.Name] {
			return m, fmt.Errorf("%s names file %q, which is none of a backup, or twice", backupManifest, want.Name)
		}
		seen[want.Name] = true
		got, err := sumFile(filepath.Join(dir, want.Name))
		if err != nil {
			return m, err
		}
		if got != want {
			return m, fmt.Errorf("%s is not what was written: %d bytes with SHA-256 %s, want %d with %s", want.Name, got.Size, got.SHA256, want.Size, want.SHA256)
		}
	}
	if !seen[backupStore] {
		return m, fmt.Errorf("%s does not name %s", backupManifest, backupStore)
	}
	got, err := totalsOf(ctx, filepath.Join(dir, backupStore))
	if err != nil {
		return m, err
	}
	if got.LastID != m.Ledger.LastID || got.String() != m.Ledger.String() {
		return m, fmt.Errorf("%s holds %s, %s says %s", backupStore, got, backupManifest, m.Ledger)
	}
	return m, nil
}

func sumFile(path string) (backupFile, error) {
	f, err := os.Open(path)
	if err != nil {
		return backupFile{}, err
	}
	h := sha256.New()
	n, err := io.Copy(h, f)
	return backupFile{filepath.Base(path), n, hex.EncodeToString(h.Sum(nil))}, errors.Join(err, f.Close())
}

// copyFile copies a file that its owner alone may read from then on, and returns when it is on disk.
func copyFile(from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Sync(), out.Close())
}

func writeWhole(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}
