package store

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t testing.TB, path string) *Store {
	t.Helper()
	s, err := Open(t.Context(), path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func message(topic string, size int) Message {
	return Message{Topic: topic, Payload: bytes.Repeat([]byte("x"), size), QoS: 1}
}

// Every change, written twice as after an outcome that is unknown, and read back.
func TestChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "folder", "broker.db")
	s := open(t, path)
	props := Message{Topic: "p", Payload: []byte{0, 1}, QoS: 1, Props: []byte{2, 1, 1}}
	group := []Change{
		Retain(message("a", 10)), Retain(message("a", 20)), Retain(message("b", 10)), Retain(Message{Topic: "b"}), Retain(props),
		AddSession{Number: 1, Client: "one", Version: 4, Expiry: 60},
		AddSession{Number: 2, Client: "two", Version: 5, Expiry: 70, Left: 5},
		AddSession{Number: 3, Client: "three", Version: 4},
		TouchSession{Number: 1, Version: 5, Expiry: 61, Left: 9},
		Subscribe{Session: 1, Filter: "a/#", QoS: 1, RetainHandling: 2, NoLocal: true, RetainAsPublished: true, Identifier: 300, Replay: true},
		Subscribe{Session: 1, Filter: "b", Replay: true},
		Subscribe{Session: 1, Filter: "c"},
		Subscribe{Session: 3, Filter: "c"},
		Unsubscribe{Session: 1, Filter: "c"},
		Replayed{Session: 1, Filter: "b"},
		Enqueue{Session: 1, ID: 5, Retain: true, Message: props},
		Enqueue{Session: 1, ID: 4, Message: message("a", 1)},
		Enqueue{Session: 1, ID: 6, Message: Message{Topic: "cleared", QoS: 1}},
		Enqueue{Session: 3, ID: 7, Message: message("a", 1)},
		Enqueue{Session: 9, ID: 8, Message: message("of nobody", 1)},
		Subscribe{Session: 9, Filter: "of nobody"},
		Dequeue{Session: 1, ID: 4},
		DropSession{Number: 3},
		SaveWill{Number: 10, Retain: true, Message: message("w", 3)},
		SaveWill{Number: 11, Message: message("v", 3)},
		DropWill{Number: 11},
	}
	must(t, s.Commit(group))
	must(t, s.Commit(group))
	must(t, s.Commit(nil))
	must(t, s.Close())
	if err := s.Commit(group); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("after Close: %v", err)
	}
	want := Contents{
		Retained: []Message{message("a", 20), props},
		Sessions: []Session{{1, "one", 5, 61, 9}, {2, "two", 5, 70, 5}},
		Subscriptions: []Subscription{
			{1, "a/#", 1, 2, true, true, 300, true}, {Session: 1, Filter: "b"},
		},
		Queued: []Queued{{1, 5, true, props}, {1, 6, false, Message{Topic: "cleared", QoS: 1}}},
		Wills:  []Will{{10, true, message("w", 3)}},
	}
	s = open(t, path)
	if diff := cmp.Diff(want, s.Take(), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if diff := cmp.Diff(Contents{}, s.Take()); diff != "" || s.Damage() != nil {
		t.Errorf("taken twice: %s; damage %v", diff, s.Damage())
	}
	for _, f := range []string{path, path + "-wal", path + ".lock"} {
		if info, err := os.Stat(f); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", f, info, err)
		}
	}
	if _, err := Open(t.Context(), path, Options{}); !errors.Is(err, ErrInUse) {
		t.Errorf("a second owner: %v", err)
	}
}

// A file that is full takes nothing of a group, says so, and goes on when there is space.
func TestFull(t *testing.T) {
	path := filepath.Join(t.TempDir(), "broker.db")
	s := open(t, path)
	must(t, s.Limit(40))
	must(t, s.Commit([]Change{Retain(message("before", 100))}))
	group := []Change{Retain(message("small", 10)), Retain(message("large", 400_000))}
	for range 3 {
		if err := s.Commit(group); err == nil || !strings.Contains(err.Error(), "disk is full") || !strings.Contains(err.Error(), path) {
			t.Fatalf("the file is full: %v", err)
		}
	}
	must(t, s.Commit([]Change{Retain(message("between", 100))}))
	must(t, s.Limit(4000))
	must(t, s.Commit(group))
	must(t, s.Close())
	var got []string
	for _, m := range open(t, path).Take().Retained {
		got = append(got, m.Topic)
	}
	if fmt.Sprint(got) != "[before between large small]" {
		t.Errorf("kept: %v", got)
	}
}

// Topics that are cleared free the disk, and the log stays small.
func TestClearedSpaceIsFreed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "broker.db")
	s := open(t, path)
	size := func(suffix string) int64 {
		info, err := os.Stat(path + suffix)
		must(t, err)
		return info.Size()
	}
	const topics = 40
	for i := range topics {
		must(t, s.Commit([]Change{Retain(message(fmt.Sprint("t", i), 1<<20))}))
	}
	full := size("")
	if full < 30<<20 {
		t.Fatalf("40 MB take %d bytes", full)
	}
	for i := range topics {
		must(t, s.Commit([]Change{Retain(Message{Topic: fmt.Sprint("t", i)})}))
	}
	for i := range 700 { // small changes go on
		must(t, s.Commit([]Change{Retain(message(fmt.Sprint("s", i%10), 100))}))
	}
	wal := size("-wal")
	must(t, s.Close())
	if now := size(""); now > 20<<20 || wal > 70<<20 {
		t.Errorf("after clearing the file has %d of %d bytes, its log %d", now, full, wal)
	} else {
		t.Logf("the file went from %d to %d MB, its log has %d MB", full>>20, now>>20, wal>>20)
	}
}

// fill makes a file with n retained messages, a session and what waits for it.
func fill(t testing.TB, path string, n int) {
	t.Helper()
	s := open(t, path)
	group := []Change{AddSession{Number: 1, Client: "one", Version: 4, Expiry: 60}, Subscribe{Session: 1, Filter: "#", QoS: 1}}
	for i := range n {
		group = append(group, Retain(message(fmt.Sprintf("t%06d", i), 300)))
		if i%10 == 0 {
			group = append(group, Enqueue{Session: 1, ID: int64(i + 1), Message: message("q", 300)})
		}
	}
	must(t, s.Commit(group))
	must(t, s.Close())
}

// A file that is damaged anywhere is set aside, what can be read is taken over, and the store works. Never does it
// begin empty without a word.
func TestDamaged(t *testing.T) {
	const n = 2_000
	whole := filepath.Join(t.TempDir(), "whole.db")
	fill(t, whole, n)
	good, err := os.ReadFile(whole)
	must(t, err)
	pages := len(good) / 4096
	at := []int{0, 1, 2, pages / 4, pages / 2, pages - 2, pages - 1}
	worst := n
	for _, page := range at {
		t.Run(fmt.Sprint("page ", page), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "broker.db")
			bad := bytes.Clone(good)
			copy(bad[page*4096:], bytes.Repeat([]byte{0xd1, 0x0f}, 2048))
			must(t, os.WriteFile(path, bad, 0o600))
			s := open(t, path)
			d := s.Damage()
			if d == nil || d.Cause == nil {
				t.Fatal("it says nothing")
			}
			if aside, err := os.ReadFile(d.Aside); err != nil || !bytes.Equal(aside, bad) {
				t.Errorf("the damaged file is not kept as it was at %s: %v", d.Aside, err)
			}
			got := s.Take()
			if d.Copied != got.rows() {
				t.Errorf("it says %d rows, they are %d", d.Copied, got.rows())
			}
			if page > 6 { // the first pages lead to all the others
				worst = min(worst, len(got.Retained))
				if len(got.Retained)+len(got.Queued) < n {
					t.Errorf("%d retained, %d queued messages were saved", len(got.Retained), len(got.Queued))
				}
			}
			must(t, s.Commit([]Change{Retain(message("new", 10))}))
			must(t, s.Close())
			s = open(t, path)
			if again := s.Take(); s.Damage() != nil || len(again.Retained) != len(got.Retained)+1 {
				t.Errorf("after it: %d messages, damage %v", len(again.Retained), s.Damage())
			}
		})
	}
	t.Logf("%d places; with one page in the middle gone at least %d of %d messages are saved", len(at), worst, n)
}

// A salvage that was cut short is finished by the next start.
func TestSalvageIsFinished(t *testing.T) {
	path := filepath.Join(t.TempDir(), "broker.db")
	fill(t, path, 10)
	must(t, os.Rename(path, path+salvaged))
	must(t, os.WriteFile(path, []byte("damaged"), 0o600))
	must(t, os.WriteFile(path+"-wal", []byte("of the damaged one"), 0o600))
	s := open(t, path)
	if got := s.Take(); len(got.Retained) != 10 || s.Damage() == nil {
		t.Errorf("%d messages, damage %v", len(got.Retained), s.Damage())
	}
	for suffix, want := range map[string]string{"": "damaged", "-wal": "of the damaged one"} {
		if got, err := os.ReadFile(s.Damage().Aside + suffix); err != nil || string(got) != want {
			t.Errorf("set aside %q: %q %v", suffix, got, err)
		}
	}
	if _, err := os.Stat(path + salvaged); err == nil {
		t.Error("the salvaged file is still there")
	}
}

// Another program's database is set aside whole; one of a newer version is left alone.
func TestForeignAndNewer(t *testing.T) {
	foreign := filepath.Join(t.TempDir(), "broker.db")
	sqlExec(t, foreign, "CREATE TABLE theirs (a)")
	s := open(t, foreign)
	if s.Damage() == nil || !errors.Is(s.Damage().Cause, errForeign) {
		t.Errorf("damage: %v", s.Damage())
	} else {
		sqlExec(t, s.Damage().Aside, "SELECT a FROM theirs")
	}
	newer := filepath.Join(t.TempDir(), "broker.db")
	fill(t, newer, 1)
	sqlExec(t, newer, "PRAGMA user_version = 99")
	if _, err := Open(t.Context(), newer, Options{}); !errors.Is(err, ErrNewer) {
		t.Errorf("a newer file: %v", err)
	}
	if found, _ := filepath.Glob(newer + ".damaged*"); len(found) != 0 {
		t.Errorf("it was set aside: %v", found)
	}
	if _, err := Open(t.Context(), filepath.Join(newer, "x", "y.db"), Options{}); err == nil || !strings.Contains(err.Error(), "y.db") {
		t.Errorf("no folder can be made there: %v", err)
	}
}

func sqlExec(t *testing.T, path, statement string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	must(t, err)
	defer db.Close()
	_, err = db.ExecContext(t.Context(), statement)
	must(t, err)
}
