package draft

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/fleet/counts"
	"github.com/farebeat/farebeat/fleet/expect"
	"github.com/farebeat/farebeat/fleet/replay"
	"github.com/farebeat/farebeat/fleet/rules"
	"github.com/farebeat/farebeat/fleet/store"
)

// monday is the day that the tests' history is of.
var monday = time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)

const (
	first  = "route:\n  min_online: 2\n"
	strict = "route:\n  min_online: 4\n  for: {m: 3, of: 4, every: 1m}\n"
)

// bench is a desk over a real store and a real rules file.
type bench struct {
	*Desk
	t    *testing.T
	file string
	live *rules.Live
	db   *store.Store
}

// newBench makes a desk over a file that says text, none for "". frames, if not nil, stands before the store's minutes.
func newBench(t *testing.T, text string, frames func(replay.Frames) replay.Frames) *bench {
	t.Helper()
	b := &bench{t: t, live: rules.NewLive(rules.Default(time.UTC))}
	var err error
	if b.db, err = store.Open(t.Context(), filepath.Join(t.TempDir(), "farebeat.db"), store.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.db.Close(); err != nil {
			t.Error(err)
		}
	})
	if text != "" {
		b.file = filepath.Join(t.TempDir(), "rules.yaml")
		b.write(text)
		if b.live, err = rules.OpenLive(b.file, time.UTC, monday); err != nil {
			t.Fatal(err)
		}
	}
	var rows []expect.RouteHour
	for hour := range 24 {
		rows = append(rows, expect.RouteHour{Route: "A", Hour: hour, Vehicles: 5})
	}
	o := Options{
		Live: b.live, File: b.file, Zone: time.UTC, Frames: b.db.Counts(), Faults: b.db.Faults(), Routes: func() map[string]bool { return map[string]bool{"A": true} },
		Expect: expect.NewByHand(rows, time.UTC), Deadline: time.Minute, Now: func() time.Time { return monday.AddDate(0, 0, 1) },
	}
	if frames != nil {
		o.Frames = frames(o.Frames)
	}
	b.Desk = New(o)
	return b
}

func (b *bench) write(text string) {
	b.t.Helper()
	if err := os.WriteFile(b.file, []byte(text), 0o640); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) read(file string) string {
	b.t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		b.t.Fatal(err)
	}
	return string(text)
}

func (b *bench) check(text string) Checked {
	b.t.Helper()
	c, err := b.Check(b.t.Context(), text)
	if err != nil {
		b.t.Fatal(err)
	}
	return c
}

// was is the sum of the file as it is.
func (b *bench) was() string {
	b.t.Helper()
	now, err := b.Current()
	if err != nil {
		b.t.Fatal(err)
	}
	return now.Sum
}

// history stores a day on which three of the five machines of route A were online from 12:00 to 14:00, and all from 10:00 to 16:00 otherwise.
func (b *bench) history() {
	b.t.Helper()
	for minute := range 6 * 60 {
		n := 5
		if minute >= 2*60 && minute < 4*60 {
			n = 3
		}
		f := counts.Frame{At: monday.Add(10*time.Hour + time.Duration(minute)*time.Minute), Rows: []counts.RouteMinute{{Route: "A", Online: n, Min: n, Max: n, Known: 5, Expected: 5, Threshold: 2}}}
		if err := b.db.Counts().SaveFrame(b.t.Context(), f); err != nil {
			b.t.Fatal(err)
		}
	}
}

func TestWhatIsWrongWithATextIsToldWithItsLine(t *testing.T) {
	b := newBench(t, first, nil)
	for _, tt := range []struct {
		text string
		want Problem // Text: what it holds
	}{
		{"route:\n  min_online: many\n", Problem{2, "many"}},
		{"route:\n  min_onlin: 2\n", Problem{2, `unknown key "min_onlin"`}},
		{"route:\n  min_online: 2\nmachine:\n  silence: 0s\n", Problem{3, "silence: 0s is not between"}},
		{"overrides:\n  - routes: [A]\n    hours: [\"25-26\"]\n    min_online: 1\n", Problem{2, "is no span of hours"}},
		{"route: <script>alert(1)</script>\n", Problem{1, "<script"}},
		{" \n", Problem{0, "it is empty"}},
		{"route: {off: true} # \xff\n", Problem{0, "UTF-8"}},
	} {
		c := b.check(tt.text)
		if len(c.Problems) == 0 || c.Problems[0].Line != tt.want.Line || !strings.Contains(c.Problems[0].Text, tt.want.Text) {
			t.Errorf("%q: %+v, want %+v", tt.text, c.Problems, tt.want)
			continue
		}
		if strings.Contains(c.Problems[0].Text, "rules file") || strings.HasPrefix(c.Problems[0].Text, "line ") {
			t.Errorf("%q: what is told of a line names the file or the line again: %q", tt.text, c.Problems[0].Text)
		}
		if _, err := b.Try(c.ID, Span{From: monday, To: monday.AddDate(0, 0, 1)}, "anna"); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: tried: %v", tt.text, err)
		}
		if _, err := b.Save(Saving{ID: c.ID, Was: b.was(), Untried: true, Failing: true}); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: saved: %v", tt.text, err)
		}
	}
	if _, err := b.Check(t.Context(), strings.Repeat("#", MaxText+1)); !errors.Is(err, ErrInvalid) {
		t.Errorf("a text that is too long: %v", err)
	}
	if got := b.read(b.file); got != first {
		t.Errorf("the file says %q", got)
	}
}

// FuzzCheck wants that every text is a rules file or is told why not.
func FuzzCheck(f *testing.F) {
	for _, seed := range []string{first, strict, "", "route: {min_online: x}", "a: b; line 9: c", "overrides: []", "route:\n  min_online: \"x; line 99999999999999999999: y\"\n", "\xff", "&a [*a]", "maintenance:\n- {}\n"} {
		f.Add(seed)
	}
	desk := New(Options{Live: rules.NewLive(rules.Default(time.UTC)), Zone: time.UTC})
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > MaxText {
			return
		}
		c, err := desk.Check(t.Context(), text)
		if err != nil {
			t.Fatal(err)
		}
		d, err := desk.Draft(c.ID)
		if err != nil {
			t.Fatal(err)
		}
		if d.Text != plain(text) {
			t.Fatalf("%q is kept as %q", text, d.Text)
		}
		if _, err = rules.Parse("", []byte(d.Text), time.UTC); err != nil && len(c.Problems) == 0 {
			t.Fatalf("%q is no rules file (%v), and nothing is told", text, err)
		}
		for _, p := range c.Problems {
			if p.Text == "" || p.Line < 0 {
				t.Fatalf("%q: %+v", text, p)
			}
		}
	})
}

func TestALineEndOfAFormIsThatOfAFile(t *testing.T) {
	b := newBench(t, first, nil)
	if got, want := b.check(strings.ReplaceAll(strict, "\n", "\r\n")), b.check(strict); got.ID != want.ID {
		t.Errorf("%s and %s are not one draft", got.ID, want.ID)
	}
}

func TestARouteThatNobodyKnowsIsWorthASecondLook(t *testing.T) {
	b := newBench(t, first, nil)
	c := b.check("overrides:\n- routes: [A]\n  min_online: 1\n- routes: [\"<b>\"]\n  min_online: 1\n")
	if len(c.Problems) != 0 || len(c.Warnings) != 1 || c.Warnings[0].Line != 4 || !strings.Contains(c.Warnings[0].Text, `"<b>"`) {
		t.Errorf("%+v", c)
	}
}

func TestSavingReplacesTheFileWholeAndKeepsTheOneOfBefore(t *testing.T) {
	b := newBench(t, first, nil)
	saved, err := b.Save(Saving{ID: b.check(strict).ID, Was: b.was(), Untried: true})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Saved{File: b.file, Before: b.file + ".before", Sum: sumOf([]byte(strict))}, saved); diff != "" {
		t.Error(diff)
	}
	if got := b.read(b.file); got != strict {
		t.Errorf("the file says %q", got)
	}
	if got := b.read(saved.Before); got != first {
		t.Errorf("the file of before says %q", got)
	}
	for _, name := range []string{b.file, saved.Before} {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o640 {
			t.Errorf("%s: %v", name, info.Mode())
		}
	}
	list, err := os.ReadDir(filepath.Dir(b.file))
	if err != nil || len(list) != 2 {
		t.Errorf("in the folder are %v, %v", list, err)
	}
	if s := b.Standing(); s.InForce || s.Error != "" {
		t.Errorf("before the file was looked at: %+v", s)
	}
	for n := range 2 {
		if _, err := b.live.Poll(monday.Add(time.Duration(n) * time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	if s := b.Standing(); !s.InForce || s.Loads != 2 || !s.LoadedAt.Equal(monday.Add(time.Second)) {
		t.Errorf("after the file was looked at twice: %+v", s)
	}
	if _, err := b.Save(Saving{ID: b.check(strict).ID, Was: b.was(), Untried: true}); !errors.Is(err, ErrInvalid) {
		t.Errorf("what the file says was saved again: %v", err)
	}
}

func TestWhatALinkLeadsToIsReplaced(t *testing.T) {
	b := newBench(t, first, nil)
	target := filepath.Join(t.TempDir(), "elsewhere.yaml")
	if err := errors.Join(os.Rename(b.file, target), os.Symlink(target, b.file)); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Save(Saving{ID: b.check(strict).ID, Was: b.was(), Untried: true}); err != nil {
		t.Fatal(err)
	}
	if to, err := os.Readlink(b.file); err != nil || to != target || b.read(target) != strict {
		t.Errorf("the link leads to %q, %v, which says %q", to, err, b.read(target))
	}
}

func TestSavingIsRefused(t *testing.T) {
	b := newBench(t, first, nil)
	id, was := b.check(strict).ID, b.was()
	refused := func(name string, s Saving, want error) {
		t.Helper()
		before := b.read(b.file)
		if _, err := b.Save(s); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
		if after := b.read(b.file); after != before {
			t.Errorf("%s: the file says %q", name, after)
		}
		if _, err := os.Stat(b.file + ".before"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: something is kept as before: %v", name, err)
		}
	}
	refused("not tried", Saving{ID: id, Was: was}, ErrInvalid)
	refused("not checked", Saving{ID: sumOf([]byte("overrides: []")), Was: was, Untried: true}, ErrGone)
	refused("begun with no file", Saving{ID: id, Untried: true}, ErrChanged)
	b.write(first + "# by hand\n")
	refused("changed meanwhile", Saving{ID: id, Was: was, Untried: true}, ErrChanged)
	b.write(first)
	if err := os.WriteFile(testsFile(b.file), []byte("rules_file: rules.yaml\ntests:\n  - name: x\n    nonsense: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if c := b.check(strict); c.Tests.Passed() || c.Tests.Error == "" {
		t.Errorf("tests that cannot be read: %+v", c.Tests)
	}
	refused("its tests fail", Saving{ID: id, Was: was, Untried: true}, ErrInvalid)
	if _, err := b.Save(Saving{ID: id, Was: was, Untried: true, Failing: true}); err != nil {
		t.Errorf("on purpose: %v", err)
	}
}

func TestWithoutAFileATextIsCheckedAndNotSaved(t *testing.T) {
	b := newBench(t, "", nil)
	now, err := b.Current()
	if err != nil || !now.Default || !strings.Contains(now.Body, "route:") {
		t.Errorf("%+v, %v", now, err)
	}
	c := b.check(now.Body)
	if len(c.Problems) != 0 || !c.Alike {
		t.Errorf("what is in force: %+v", c)
	}
	if _, err := b.Save(Saving{ID: c.ID, Untried: true}); !errors.Is(err, ErrNoFile) || !strings.Contains(err.Error(), "fleet.rules_file") {
		t.Errorf("saved nowhere: %v", err)
	}
}

// TestWhoeverReadsTheFileReadsAllOfOneText saves two texts in turn while others read.
func TestWhoeverReadsTheFileReadsAllOfOneText(t *testing.T) {
	long := first + "# " + strings.Repeat("x", 64<<10) + "\n"
	b := newBench(t, long, nil)
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if text, err := os.ReadFile(b.file); err != nil || string(text) != long && string(text) != strict {
					t.Errorf("read %d bytes, %v", len(text), err)
					return
				}
			}
		})
	}
	for n := range 20 {
		text := []string{strict, long}[n%2]
		if _, err := b.Save(Saving{ID: b.check(text).ID, Was: b.was(), Untried: true}); err != nil {
			t.Error(err)
			break
		}
	}
	close(done)
	readers.Wait()
}

func TestTheDraftThatWasNotUsedForLongestIsForgotten(t *testing.T) {
	b := newBench(t, first, nil)
	text := func(n int) string { return first + strings.Repeat("#", n) + "\n" }
	kept, gone := b.check(text(1)).ID, b.check(text(2)).ID
	for n := range maxDrafts {
		if _, err := b.Draft(kept); err != nil {
			t.Fatal(err)
		}
		b.check(text(n + 3))
	}
	if _, err := b.Draft(gone); !errors.Is(err, ErrGone) {
		t.Errorf("the draft that nobody used: %v", err)
	}
}
