package store_test

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/farebeat/farebeat/fleet/ledger"
	"github.com/farebeat/farebeat/fleet/ledger/ledgertest"
	"github.com/farebeat/farebeat/fleet/store"
	"github.com/farebeat/farebeat/schemas"
)

// childVariable holds the path of the store that a re-executed test binary writes until it is
// killed.
const childVariable = "FAREBEAT_TEST_STORE_CHILD"

func TestMain(m *testing.M) {
	if path := os.Getenv(childVariable); path != "" {
		writeUntilKilled(path)
		return
	}
	os.Exit(m.Run())
}

// open opens the store in dir and closes it with the test.
func open(tb testing.TB, dir string) *store.Store {
	tb.Helper()
	s, err := store.Open(context.Background(), filepath.Join(dir, "fleet.db"), store.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { shut(tb, s) })
	return s
}

func shut(tb testing.TB, s *store.Store) {
	tb.Helper()
	if err := s.Close(); err != nil {
		tb.Error(err)
	}
}

func newLedger(tb testing.TB, s *store.Store) *ledger.Ledger {
	tb.Helper()
	return ledger.New(s.Ledger(), ledgertest.Keys(tb), time.Now)
}

func take(tb testing.TB, l *ledger.Ledger, m *ledgertest.Machine, first, last uint32) {
	tb.Helper()
	slot, payload := m.Batch(first, last)
	if _, err := l.Ingest(context.Background(), slot, payload); err != nil {
		tb.Fatal(err)
	}
}

func prove(tb testing.TB, l *ledger.Ledger) ledger.Proof {
	tb.Helper()
	p, err := l.Verify(context.Background(), ledger.Filter{}, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// killRecords is what each machine of the killed process would write in batches of killBatch.
const killMachines, killBatch, killRecords = 16, 10, 20_000

// writeUntilKilled is the child: it names every batch that was acknowledged on its standard
// output, after it was.
func writeUntilKilled(path string) {
	s, err := store.Open(context.Background(), path, store.Options{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	tb := &panicTB{}
	l := ledger.New(s.Ledger(), ledgertest.Keys(tb), time.Now)
	var out sync.Mutex
	var wg sync.WaitGroup
	for i := range killMachines {
		wg.Go(func() {
			m := ledgertest.New(tb, ledgertest.Name(i), "bus", 1)
			for first := uint32(1); first < killRecords; first += killBatch {
				m.Mint(killBatch)
				slot, payload := m.Batch(first, first+killBatch-1)
				if _, err := l.Ingest(context.Background(), slot, payload); err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				out.Lock()
				fmt.Println(m.ID, first+killBatch-1)
				out.Unlock()
			}
		})
	}
	wg.Wait()
}

// panicTB serves as a testing.TB outside of a test.
type panicTB struct{ testing.TB }

func (*panicTB) Helper()           {}
func (*panicTB) Fatal(args ...any) { panic(fmt.Sprint(args...)) }

func TestKillAtAnyInstantKeepsWhatWasAcknowledged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fleet.db")
	acknowledged := map[string]uint32{}
	for _, lines := range []int{1, 60, 300} { // each time the next process goes on with the same file
		for m, seq := range killAfter(t, path, lines) {
			acknowledged[m] = max(acknowledged[m], seq)
		}
		s, err := store.Open(context.Background(), path, store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		l := newLedger(t, s)
		for m, seq := range acknowledged {
			held, err := l.Held(context.Background(), m)
			if err != nil {
				t.Fatal(err)
			}
			if got := held[1].CompleteTo(); got < seq {
				t.Errorf("machine %s: %d was acknowledged, only %d is here", m, seq, got)
			}
		}
		if p := prove(t, l); !p.OK() || p.Records < uint64(lines) {
			t.Errorf("proof %+v", p)
		}
		if err := s.Check(context.Background()); err != nil {
			t.Error(err)
		}
		shut(t, s)
	}
}

// killAfter runs the child, kills it once it printed so many lines, and returns all that it
// acknowledged until then.
func killAfter(t *testing.T, path string, lines int) map[string]uint32 {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"="+path)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	got := map[string]uint32{}
	scanner := bufio.NewScanner(out)
	for n := 1; scanner.Scan(); n++ {
		if n == lines {
			if err := cmd.Process.Kill(); err != nil { // SIGKILL
				t.Error(err)
			}
		}
		var machine string
		var seq uint32
		if _, err := fmt.Sscan(scanner.Text(), &machine, &seq); err != nil {
			continue // the last line may be cut off
		}
		if seq%killBatch == 0 {
			got[machine] = max(got[machine], seq)
		}
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.Exited() {
		t.Fatalf("the child was to be killed, it ended with %v", err)
	}
	return got
}

func TestBackupWhileWriting(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	l := newLedger(t, s)
	m := ledgertest.New(t, "m", "v", 1).Mint(4000)
	take(t, l, m, 1, 200)
	var wg sync.WaitGroup
	wg.Go(func() {
		for first := uint32(201); first < 4000; first += 200 {
			take(t, l, m, first, first+199)
		}
	})
	dest := filepath.Join(dir, "copy.db")
	if err := s.Backup(context.Background(), dest); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	info, err := os.Stat(dest)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("copy: %v, %v", info, err)
	}
	restored, err := store.Open(context.Background(), dest, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer shut(t, restored)
	rl := newLedger(t, restored)
	if p := prove(t, rl); !p.OK() || p.Records < 200 || p.Records%200 != 0 {
		t.Errorf("copy: %+v", p)
	}
	take(t, rl, m, 3801, 4000) // it is a store like any other
	if err := s.Backup(context.Background(), dest); !errors.Is(err, os.ErrExist) || !strings.Contains(err.Error(), "choose another name") {
		t.Errorf("over an existing file: %v", err)
	}
	if err := s.Backup(context.Background(), filepath.Join(dir, "none", "copy.db")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("into a missing folder: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Backup(ctx, filepath.Join(dir, "cancelled.db")); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
	left, err := filepath.Glob(filepath.Join(dir, ".farebeat-backup-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "cancelled.db")); !errors.Is(err, os.ErrNotExist) {
		t.Error("a backup that failed left a file")
	}
}

func TestBackupThroughAReader(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	take(t, newLedger(t, s), ledgertest.New(t, "m", "v", 1).Mint(5), 1, 5)
	r, err := store.Open(context.Background(), s.Path(), store.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer shut(t, r)
	dest := filepath.Join(dir, "copy.db")
	if err := r.Backup(context.Background(), dest); err != nil {
		t.Fatal(err)
	}
	c, err := store.Open(context.Background(), dest, store.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer shut(t, c)
	if p := prove(t, newLedger(t, c)); !p.OK() || p.Records != 5 {
		t.Errorf("%+v", p)
	}
}

func TestCheckFindsDamage(t *testing.T) {
	path := filled(t)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	last := bytes.LastIndex(b, []byte(`"seq":`)) &^ 4095 // a page of records, which no opening reads
	for i := last; i < last+4096; i++ {
		b[i] ^= 0x5a
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(context.Background(), path, store.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer shut(t, s)
	if err := s.Check(context.Background()); err == nil || !strings.Contains(err.Error(), "restore the last backup") {
		t.Errorf("error %v", err)
	}
	if err := s.Backup(context.Background(), filepath.Join(t.TempDir(), "copy.db")); err == nil {
		t.Error("a damaged store was backed up without a word")
	}
}

// filled makes a closed store with 60 records of machine m (1 to 40 and 51 to 70) and 30 of n.
func filled(t *testing.T) string {
	t.Helper()
	s, err := store.Open(context.Background(), filepath.Join(t.TempDir(), "fleet.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	l := newLedger(t, s)
	m := ledgertest.New(t, "m", "v", 1).Mint(70)
	take(t, l, m, 1, 40)
	take(t, l, m, 51, 70)
	take(t, l, ledgertest.New(t, "n", "v", 2).Mint(30), 1, 30)
	shut(t, s)
	return s.Path()
}

// Whoever changes the file behind the ledger's back is found.
func TestVerifyFindsTampering(t *testing.T) {
	for name, c := range map[string]struct {
		sql  string
		want string
	}{
		"amount in the record": {`UPDATE ledger_record SET record = replace(record, '225', '100') WHERE machine = 'm' AND seq = 7`, "machine m, record 1-7: forged"},
		"amount beside it":     {`UPDATE ledger_record SET amount_minor = 1 WHERE machine = 'm' AND seq = 7`, "record 1-7: the columns beside the record"},
		"record cut off":       {`UPDATE ledger_record SET record = substr(record, 1, 100) WHERE machine = 'm' AND seq = 7`, "record 1-7: malformed"},
		"record gone":          {`DELETE FROM ledger_record WHERE machine = 'm' AND seq = 7`, "records 7 to 7 are gone"},
		"last record gone":     {`DELETE FROM ledger_record WHERE machine = 'm' AND seq = 70`, "records 70 to 70 are gone"},
		"two swapped":          {`UPDATE ledger_record SET record = (SELECT r.record FROM ledger_record r WHERE r.machine = 'm' AND r.seq = 8) WHERE machine = 'm' AND seq = 7`, "record 1-7: malformed: it is record 1-8"},
		"moved to another":     {`UPDATE ledger_record SET machine = 'x' WHERE machine = 'm' AND seq = 7`, "machine x, record 1-7: forged"},
		"machine gone":         {`DELETE FROM ledger_record WHERE machine = 'n'`, "machine n, record 2-1: records 1 to 30 are gone"},
		"span gone":            {`DELETE FROM ledger_span WHERE machine = 'n'`, "machine n, record 2-1: records 1 to 30 are here, but the ledger does not say so"},
		"span too long":        {`UPDATE ledger_span SET last = 45 WHERE first = 1 AND machine = 'm'`, "records 41 to 45 are gone"},
		"spans overlap":        {`UPDATE ledger_span SET last = 60 WHERE first = 1 AND machine = 'm'`, "overlap"},
		"day gone":             {`DELETE FROM ledger_day WHERE machine = 'm'`, "does not list it"},
		"day sum":              {`UPDATE ledger_day SET sum_minor = sum_minor - 1 WHERE machine = 'n'`, "service day 2018-06-12 says 30 records from 1 to 30 and 6749 USD"},
		"record and books":     {`DELETE FROM ledger_record WHERE machine = 'm' AND seq = 70; UPDATE ledger_span SET last = 69 WHERE machine = 'm' AND first = 51`, "the records give 59 from 1 to 69"},
		"nothing":              {`UPDATE ledger_record SET seq = seq WHERE machine = 'm'`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			path := filled(t)
			tamper(t, path, c.sql)
			s, err := store.Open(context.Background(), path, store.Options{ReadOnly: true})
			if err != nil {
				t.Fatal(err)
			}
			defer shut(t, s)
			p := prove(t, newLedger(t, s))
			var all []string
			for _, f := range p.Findings {
				all = append(all, f.String())
			}
			if p.OK() != (c.want == "") || !strings.Contains(strings.Join(all, "\n"), c.want) {
				t.Errorf("found %q, want %q", all, c.want)
			}
		})
	}
}

func tamper(t *testing.T, path, query string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	res, err := db.Exec(query)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		t.Fatalf("%d rows changed, %v", n, err)
	}
}

func TestLedgerStore(t *testing.T) {
	ledgertest.TestStore(t, func(t *testing.T) ledger.Store { return open(t, t.TempDir()).Ledger() })
}

// What a receipt promises is on disk when it is given: a reader that opens the file anew sees it.
func TestReceiptSpeaksOfWhatIsCommitted(t *testing.T) {
	s := open(t, t.TempDir())
	l := newLedger(t, s)
	m := ledgertest.New(t, "m", "v", 1)
	for i := range uint32(30) {
		take(t, l, m.Mint(1), i+1, i+1)
		receipt, err := l.Receipt(context.Background(), "m")
		if err != nil || receipt.Epochs[0].CompleteTo != i+1 {
			t.Fatalf("%+v, %v", receipt, err)
		}
	}
	other, err := store.Open(context.Background(), s.Path(), store.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer shut(t, other)
	receipt, err := newLedger(t, other).Receipt(context.Background(), "m")
	if err != nil || receipt.Epochs[0].CompleteTo != 30 {
		t.Fatalf("%+v, %v", receipt, err)
	}
	if err := schemas.VerifyReceipt(m.Key[:], "m", receipt.Epochs[0]); err != nil {
		t.Error(err)
	}
}
