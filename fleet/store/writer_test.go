package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func openHere(t *testing.T, opts Options) *Store {
	t.Helper()
	s, err := Open(context.Background(), filepath.Join(t.TempDir(), "fleet.db"), opts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func shutHere(t *testing.T, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// put writes a name into meta.
func put(name string) func(*tx) error {
	return func(t *tx) error { return setMeta(t, map[string][]byte{name: []byte("x")}) }
}

func (s *Store) has(t *testing.T, name string) bool {
	t.Helper()
	v, err := s.Meta(context.Background(), name)
	if err != nil {
		t.Fatal(err)
	}
	return v != nil
}

// blocked starts a write that holds the writer until the returned function is called.
func blocked(t *testing.T, s *Store) (release func()) {
	hold := make(chan struct{})
	go func() {
		if err := s.update(context.Background(), func(*tx) error { <-hold; return nil }); err != nil {
			t.Error(err)
		}
	}()
	synctest.Wait()
	return func() { close(hold) }
}

func TestWaitingRequestsShareOneCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openHere(t, Options{MaxGroup: 40})
		release := blocked(t, s)
		const n = 100
		results := make(chan error, n)
		for i := range n {
			go func() { results <- s.update(context.Background(), put(fmt.Sprint(i))) }()
		}
		synctest.Wait()
		release()
		for range n {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
		if st := s.Stats(); st.Requests != n+1 || st.Commits != 4 || st.MaxGroup != 40 || st.Failed != 0 {
			t.Errorf("stats %+v: want 1 commit of the first and 3 of the rest", st)
		}
		for i := range n {
			if !s.has(t, fmt.Sprint(i)) {
				t.Errorf("%d was acknowledged and is not there", i)
			}
		}
		shutHere(t, s)
	})
}

func TestOneCallersErrorStaysWithIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openHere(t, Options{})
		release := blocked(t, s)
		mine := errors.New("mine")
		bad := map[int]error{3: mine, 7: errors.New("also mine")}
		results := make([]error, 10)
		done := make(chan struct{})
		for i := range results {
			go func() {
				results[i] = s.update(context.Background(), func(t *tx) error {
					if err := put(fmt.Sprint(i))(t); err != nil {
						return err
					}
					return bad[i]
				})
				done <- struct{}{}
			}()
		}
		synctest.Wait()
		release()
		for range results {
			<-done
		}
		for i, err := range results {
			if !errors.Is(err, bad[i]) || s.has(t, fmt.Sprint(i)) != (bad[i] == nil) {
				t.Errorf("request %d: error %v, there %v", i, err, s.has(t, fmt.Sprint(i)))
			}
		}
		shutHere(t, s)
	})
}

func TestEndOfContextTakesAWaitingRequestBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openHere(t, Options{})
		release := blocked(t, s)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := s.update(ctx, put("late")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
		release()
		if s.has(t, "late") {
			t.Error("it was written although the caller was told that it was not")
		}
		shutHere(t, s)
	})
}

func TestRequestThatRunsIsFinished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openHere(t, Options{})
		ctx, cancel := context.WithCancel(context.Background())
		err := s.update(ctx, func(t *tx) error {
			cancel()
			return put("written")(t)
		})
		if err != nil || !s.has(t, "written") {
			t.Errorf("error %v, there %v: the outcome must be the truth", err, s.has(t, "written"))
		}
		shutHere(t, s)
	})
}

func TestReadersWaitForEachOtherAndContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openHere(t, Options{Readers: 2})
		hold, ended := make(chan struct{}), make(chan error, 2)
		for range 2 {
			go func() { ended <- s.view(context.Background(), func(*querier) error { <-hold; return nil }) }()
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := s.view(ctx, func(*querier) error { return nil }); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a third reader of two: %v", err)
		}
		close(hold)
		for range 2 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
		if s.has(t, "nothing") {
			t.Error("a name nobody wrote is there")
		}
		shutHere(t, s)
	})
}

func TestReaderSeesOneMoment(t *testing.T) {
	s := openHere(t, Options{})
	defer shutHere(t, s)
	count := func(q *querier) (n int) {
		if err := q.row(`SELECT count(*) FROM meta`, nil, &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	err := s.view(context.Background(), func(q *querier) error {
		before := count(q)
		if err := s.update(context.Background(), put("meanwhile")); err != nil {
			return err
		}
		if after := count(q); after != before {
			t.Errorf("the snapshot went from %d to %d", before, after)
		}
		return nil
	})
	if err != nil || !s.has(t, "meanwhile") {
		t.Error(err)
	}
}

func TestReaderRecoversFromAnEndedContext(t *testing.T) {
	s := openHere(t, Options{Readers: 1})
	defer shutHere(t, s)
	for range 20 {
		ctx, cancel := context.WithCancel(context.Background())
		err := s.view(ctx, func(q *querier) error {
			cancel()
			var n int
			return q.row(`WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c WHERE x < 1000000) SELECT count(*) FROM c`, nil, &n)
		})
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("error %v", err)
		}
		if s.has(t, "nothing") {
			t.Fatal("read what is not there")
		}
	}
}

func TestFullDiskLosesNothingAndEnds(t *testing.T) {
	s := openHere(t, Options{})
	defer shutHere(t, s)
	pages := func(n int) {
		t.Helper()
		if err := s.update(context.Background(), func(t *tx) error {
			var got int
			return t.row(fmt.Sprintf("PRAGMA max_page_count = %d", n), nil, &got)
		}); err != nil {
			t.Fatal(err)
		}
	}
	pages(1) // SQLite takes it as: not one page more than now
	big := func(t *tx) error { return setMeta(t, map[string][]byte{"big": make([]byte, 1<<20)}) }
	err := s.update(context.Background(), big)
	if err == nil || !strings.Contains(err.Error(), "the disk is full, nothing was written") {
		t.Fatalf("error %v", err)
	}
	if s.has(t, "big") || s.Stats().Failed == 0 {
		t.Error("something was written")
	}
	pages(1 << 20)
	if err := s.update(context.Background(), big); err != nil || !s.has(t, "big") {
		t.Errorf("with space again: %v", err)
	}
}

func TestClosedAndReadOnly(t *testing.T) {
	s := openHere(t, Options{})
	r, err := Open(context.Background(), s.Path(), Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.update(context.Background(), put("x")); !errors.Is(err, ErrReadOnly) {
		t.Errorf("writing through a reader: %v", err)
	}
	if err := s.update(context.Background(), put("y")); err != nil || !r.has(t, "y") {
		t.Errorf("a reader of another opening does not see what was written: %v", err)
	}
	shutHere(t, r)
	shutHere(t, s)
	shutHere(t, s)
	if err := s.update(context.Background(), put("x")); !errors.Is(err, ErrClosed) {
		t.Errorf("writing: %v", err)
	}
	if _, err := s.Meta(context.Background(), "x"); !errors.Is(err, ErrClosed) {
		t.Errorf("reading: %v", err)
	}
	if err := s.Backup(context.Background(), filepath.Join(t.TempDir(), "copy")); !errors.Is(err, ErrClosed) {
		t.Errorf("backup: %v", err)
	}
	left, err := filepath.Glob(s.Path() + "*")
	if err != nil || len(left) != 2 || left[1] != s.Path()+".lock" {
		t.Errorf("after closing there are %v, %v: the file alone must be whole", left, err)
	}
	r, err = Open(context.Background(), s.Path(), Options{ReadOnly: true}) // nobody writes, no log is there
	if err != nil {
		t.Fatal(err)
	}
	if !r.has(t, "y") {
		t.Error("y is gone")
	}
	shutHere(t, r)
}

func TestCloseEndsRequestsThatWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openHere(t, Options{})
		release := blocked(t, s)
		waits := make(chan error)
		go func() { waits <- s.update(context.Background(), put("x")) }()
		synctest.Wait()
		closed := make(chan error)
		go func() { closed <- s.Close() }()
		if err := <-waits; !errors.Is(err, ErrClosed) {
			t.Errorf("error %v", err)
		}
		release()
		if err := <-closed; err != nil {
			t.Error(err)
		}
	})
}

func TestKilledBetweenMigrations(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "fleet.db")
	db, err := connect(path, forWriting, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := claim(ctx, db); err != nil {
		t.Fatal(err)
	}
	if err := migrations()[0].apply(ctx, db, time.Unix(0, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(ctx, `INSERT INTO ledger_span VALUES ('m', 1, 1, 9)`); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(ctx, path, Options{ReadOnly: true}); err == nil || !strings.Contains(err.Error(), "older version") {
		t.Errorf("reading an older file: %v", err)
	}
	s, err := Open(ctx, path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer shutHere(t, s)
	var last int
	if err := s.view(ctx, func(q *querier) error { return q.row(`SELECT last FROM ledger_span`, nil, &last) }); err != nil || last != 9 {
		t.Errorf("%d, %v", last, err)
	}
	if err := s.update(ctx, put("new table")); err != nil {
		t.Error(err)
	}
}

// Events that were saved before they had an order over all faults get one.
func TestOlderEventsAreNumbered(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "fleet.db")
	db, err := connect(path, forWriting, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := claim(ctx, db); err != nil {
		t.Fatal(err)
	}
	for _, m := range migrations() {
		if m.name == "notify" {
			break
		}
		if err := m.apply(ctx, db, time.Unix(0, 0)); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range []string{
		`INSERT INTO fault VALUES ('late', 1, 20, NULL, 'open', '', 'machine_silent', 'm', '', '7', 'v7', '{"id":"late","machine_facts":{}}')`,
		`INSERT INTO fault VALUES ('early', 1, 10, NULL, 'open', '', 'route_silent', '', '36', '', '', '{"id":"early"}')`,
		`INSERT INTO fault_event VALUES ('late', 1, '{"fault":"late","number":1}')`,
		`INSERT INTO fault_event VALUES ('early', 2, '{"fault":"early","number":2}')`,
		`INSERT INTO fault_event VALUES ('early', 1, '{"fault":"early","number":1}')`,
	} {
		if _, err := db.ExecContext(ctx, s); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := Open(ctx, path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer shutHere(t, s)
	list, err := s.Events(ctx, 0, 10)
	var got []string
	for _, e := range list {
		got = append(got, fmt.Sprint(e.N, " ", e.Event.ID(), " ", e.Told()))
	}
	if want := []string{"1 early.1 true", "2 early.2 true", "3 late.1 true"}; err != nil || !slices.Equal(got, want) {
		t.Fatalf("%q, %v", got, err)
	}
	if m := list[2].Fault.Machine; m.Vehicle != "v7" || m.Route != "7" {
		t.Errorf("%+v", m)
	}
}

func TestMigrationsAreInOrder(t *testing.T) {
	last := 0
	for i, m := range migrations() {
		if m.version <= last || m.name == "" || len(m.statements) == 0 {
			t.Errorf("migration %d: %d %q", i, m.version, m.name)
		}
		last = m.version
	}
}

func TestWhatCannotBeOpened(t *testing.T) {
	dir := t.TempDir()
	newer := openHere(t, Options{})
	if err := newer.update(context.Background(), func(t *tx) error {
		return t.exec(`INSERT INTO schema_migration VALUES (99, 'from the future', 0)`)
	}); err != nil {
		t.Fatal(err)
	}
	shutHere(t, newer)
	text := filepath.Join(dir, "notes.txt")
	if err := os.WriteFile(text, []byte(strings.Repeat("not a database. ", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	foreign := filepath.Join(dir, "foreign.db")
	db, err := connect(foreign, forWriting, 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec("CREATE TABLE other (x)"); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		path     string
		readOnly bool
		want     error
		text     string
	}{
		"newer":            {newer.Path(), false, ErrNewer, "update the program"},
		"newer, reading":   {newer.Path(), true, ErrNewer, "update the program"},
		"text":             {text, false, ErrForeign, "notes.txt"},
		"text, reading":    {text, true, ErrForeign, "notes.txt"},
		"foreign":          {foreign, false, ErrForeign, "choose another path"},
		"foreign, reading": {foreign, true, ErrForeign, "another program's"},
		"missing":          {filepath.Join(dir, "none.db"), true, os.ErrNotExist, "check the path"},
		"folder, reading":  {dir, true, ErrForeign, "name the file in it"},
		"in a file":        {filepath.Join(text, "fleet.db"), false, nil, "notes.txt"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Open(context.Background(), c.path, Options{ReadOnly: c.readOnly})
			if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) || !strings.Contains(err.Error(), c.path) {
				t.Errorf("error %v; want %v, %q and the path", err, c.want, c.text)
			}
		})
	}
	if _, err := os.Stat(filepath.Join(dir, "none.db")); !errors.Is(err, os.ErrNotExist) {
		t.Error("reading made a file")
	}
}

func TestOddPaths(t *testing.T) {
	for _, name := range []string{"a b", "100%", "what?mode=memory", "#1", "ünï", "a&b=c", "%41"} {
		path := filepath.Join(t.TempDir(), name, name+".db")
		s, err := Open(context.Background(), path, Options{})
		if err != nil {
			t.Errorf("%q: %v", name, err)
			continue
		}
		if err := s.update(context.Background(), put("x")); err != nil {
			t.Errorf("%q: %v", name, err)
		}
		shutHere(t, s)
		info, err := os.Stat(path)
		if err != nil || info.Size() == 0 || info.Mode().Perm() != 0o600 {
			t.Errorf("%q: %v, %v", name, info, err)
		}
	}
}

func TestOneWriter(t *testing.T) {
	s := openHere(t, Options{})
	if _, err := Open(context.Background(), s.Path(), Options{}); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "stop it first") {
		t.Errorf("a second writer: %v", err)
	}
	if err := s.update(context.Background(), put("still writes")); err != nil {
		t.Error(err)
	}
	shutHere(t, s)
	again, err := Open(context.Background(), s.Path(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	shutHere(t, again)
}

func TestSettingsHold(t *testing.T) {
	s := openHere(t, Options{})
	defer shutHere(t, s)
	for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "trusted_schema": "0"} {
		var got string
		if err := s.update(context.Background(), func(t *tx) error { return t.row("PRAGMA "+pragma, nil, &got) }); err != nil || got != want {
			t.Errorf("%s is %q, want %q (%v)", pragma, got, want, err)
		}
	}
}
