package expect_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/farebeat/farebeat/fleet/expect"
)

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestWatcherReloadsWhenFilesHaveSettled(t *testing.T) {
	dir := t.TempDir()
	feed, link := filepath.Join(dir, "feed"), filepath.Join(dir, "current")
	if err := errors.Join(os.MkdirAll(filepath.Join(feed, "inner"), 0o700), os.Symlink(feed, link)); err != nil {
		t.Fatal(err)
	}
	file, inner := filepath.Join(dir, "holidays"), filepath.Join(feed, "inner", "trips.txt")
	write(t, file, "a")
	write(t, inner, "a")
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var content string
		var reports []error
		w := expect.NewWatcher([]string{link, file}, func(context.Context) error {
			b, err := os.ReadFile(inner)
			mu.Lock()
			defer mu.Unlock()
			content = string(b)
			return err
		})
		if err := w.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			w.Watch(ctx, time.Minute, func(err error) {
				mu.Lock()
				defer mu.Unlock()
				reports = append(reports, err)
			})
		}()
		step := func(what string, reported int, want string) {
			t.Helper()
			time.Sleep(time.Minute)
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if len(reports) != reported || content != want {
				t.Errorf("%s: %d reports %v, content %q; want %d, %q", what, len(reports), reports, content, reported, want)
			}
		}
		time.Sleep(time.Second) // between two looks
		step("nothing changed", 0, "a")
		step("nothing changed", 0, "a")
		write(t, inner, "ab")
		step("one look after a change", 0, "a")
		write(t, inner, "abc")
		step("it is still being written", 0, "a")
		step("unchanged for two looks", 1, "abc")
		step("once is enough", 1, "abc")
		if err := os.Remove(inner); err != nil {
			t.Fatal(err)
		}
		step("gone", 1, "abc")
		step("gone for two looks", 2, "")
		mu.Lock()
		if reports[0] != nil || !errors.Is(reports[1], os.ErrNotExist) {
			t.Error(reports)
		}
		mu.Unlock()
		step("what failed is not tried again and again", 2, "")
		write(t, inner, "back")
		write(t, file, "ab")
		step("back", 2, "")
		step("both files changed, one reload", 3, "back")
		write(t, inner, "by hand")
		if err := w.Reload(ctx); err != nil || content != "by hand" {
			t.Error(err, content)
		}
		step("loaded by hand", 3, "by hand")
		step("loaded by hand", 3, "by hand")
		stop()
		<-done
		if i := slices.IndexFunc(reports, func(err error) bool { return err != nil }); i != 1 {
			t.Error(reports)
		}
	})
}

// A feed that cannot be read leaves what is in force.
func TestABrokenFeedLeavesTheOldOne(t *testing.T) {
	l := expect.NewLive(hand("A", 5))
	now := time.Date(2026, 11, 23, 8, 5, 0, 0, time.UTC)
	file := filepath.Join(t.TempDir(), "expected.csv")
	write(t, file, "route_id,hour,expected_vehicles_in_service\nA,25,5\n")
	w := expect.NewWatcher([]string{file}, func(context.Context) error {
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		defer f.Close()
		table, err := expect.ReadTimetable(file, f, time.UTC)
		if err == nil {
			l.Swap(now, expect.Chain{table})
		}
		return err
	})
	err := w.Reload(t.Context())
	if want := file + ` line 2: hour "25": want 0 to 23`; err == nil || err.Error() != want {
		t.Errorf("\n got %v\nwant %s", err, want)
	}
	if e, _ := l.Expect("A", now); e.Expected != 5 || l.Generation() != 1 {
		t.Errorf("%+v, generation %d", e, l.Generation())
	}
	write(t, file, "route_id,hour,expected_vehicles_in_service\nA,8,7\n")
	if err := w.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if e, _ := l.Expect("A", now.Add(time.Hour)); e.Source != expect.SourceTimetable || l.Generation() != 2 {
		t.Errorf("%+v, generation %d", e, l.Generation())
	}
}
