package store_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/fleet/counts"
	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/presence"
	"github.com/farebeat/farebeat/fleet/store"
	"github.com/farebeat/farebeat/schemas"
)

var ctx = context.Background()

func noon() time.Time { return time.Date(2018, 6, 12, 12, 0, 0, 0, time.UTC) }

func frames(t testing.TB, s *store.Store, from, to time.Time) []counts.Frame {
	t.Helper()
	var out []counts.Frame
	if err := s.Counts().Frames(ctx, from, to, func(f counts.Frame) error {
		out = append(out, f)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

func saveFrame(t testing.TB, s *store.Store, f counts.Frame) {
	t.Helper()
	if err := s.Counts().SaveFrame(ctx, f); err != nil {
		t.Fatal(err)
	}
}

func TestFramesComeBackAsTheyWere(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	first := counts.Frame{At: noon(), Rows: []counts.RouteMinute{
		{Route: "36", Online: 9, Min: 8, Max: 9, Known: 10, Expected: 10, Threshold: 7},
		{Route: "1", Online: 0, Min: 0, Max: 0, Known: 0, Expected: 3, Threshold: 1},
	}}
	second := counts.Frame{At: noon().Add(5 * time.Second), Blind: true, Rows: []counts.RouteMinute{{Route: "Ü 7", Online: 1, Min: 1, Max: 1, Known: 1}}}
	saveFrame(t, s, first)
	saveFrame(t, s, second)
	slices.Reverse(first.Rows) // sorted by route
	if diff := cmp.Diff([]counts.Frame{first, second}, frames(t, s, noon(), noon().Add(time.Hour))); diff != "" {
		t.Error(diff)
	}
	first.Rows[0].Online = 2
	first.Rows[0].Max = 2
	saveFrame(t, s, first)
	shut(t, s)
	s = open(t, dir) // numbers of routes outlive the process
	saveFrame(t, s, counts.Frame{At: noon().Add(10 * time.Second), Rows: []counts.RouteMinute{{Route: "36", Online: 5, Min: 5, Max: 5, Known: 5}, {Route: "new"}}})
	got := frames(t, s, noon(), noon().Add(time.Hour))
	if len(got) != 3 || got[2].Rows[0].Route != "36" || got[2].Rows[0].Online != 5 || got[2].Rows[1].Route != "new" {
		t.Errorf("after a restart: %+v", got)
	}
	if diff := cmp.Diff(first, got[0]); diff != "" {
		t.Errorf("the frame that was saved again: %s", diff)
	}
	if routes, err := s.Counts().Routes(ctx); err != nil || !slices.Equal(routes, []string{"1", "36", "new", "Ü 7"}) {
		t.Errorf("routes %q, %v", routes, err)
	}
	for _, c := range []struct {
		from, to time.Duration
		want     int
	}{{0, 10 * time.Second, 2}, {0, 10*time.Second + 1, 3}, {1, 5 * time.Second, 0}, {time.Second, 6 * time.Second, 1}, {time.Hour, 2 * time.Hour, 0}} {
		if got := frames(t, s, noon().Add(c.from), noon().Add(c.to)); len(got) != c.want {
			t.Errorf("from %s to %s: %d frames, want %d", c.from, c.to, len(got), c.want)
		}
	}
}

func TestFramesOverManyPages(t *testing.T) {
	s := open(t, t.TempDir())
	var wg sync.WaitGroup
	const n = 600
	for w := range 50 {
		wg.Go(func() {
			for i := w; i < n; i += 50 {
				f := counts.Frame{At: noon().Add(time.Duration(i) * time.Second), Rows: []counts.RouteMinute{{Route: fmt.Sprint(i % 7), Online: i, Min: i, Max: i, Known: i}}}
				if err := s.Counts().SaveFrame(ctx, f); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	got := frames(t, s, noon(), noon().Add(time.Hour))
	if len(got) != n {
		t.Fatalf("%d frames", len(got))
	}
	for i, f := range got {
		if f.At != noon().Add(time.Duration(i)*time.Second) || len(f.Rows) != 1 || f.Rows[0].Route != fmt.Sprint(i%7) || f.Rows[0].Online != i {
			t.Fatalf("frame %d: %+v", i, f)
		}
	}
	stop := errors.New("stop")
	calls := 0
	if err := s.Counts().Frames(ctx, noon(), noon().Add(time.Hour), func(counts.Frame) error { calls++; return stop }); !errors.Is(err, stop) || calls != 1 {
		t.Errorf("%d calls, %v", calls, err)
	}
}

func TestFrameThatCannotBe(t *testing.T) {
	s := open(t, t.TempDir())
	for name, rows := range map[string][]counts.RouteMinute{
		"twice":    {{Route: "1"}, {Route: "1"}},
		"negative": {{Route: "1", Online: -1}},
	} {
		if err := s.Counts().SaveFrame(ctx, counts.Frame{At: noon(), Rows: rows}); err == nil || !strings.Contains(err.Error(), "save counts of 2018-06-12T12:00:00Z") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := frames(t, s, noon(), noon().Add(time.Hour)); len(got) != 0 {
		t.Errorf("it was saved: %+v", got)
	}
	saveFrame(t, s, counts.Frame{At: noon(), Rows: []counts.RouteMinute{{Route: "1", Online: 4, Min: 4, Max: 4, Known: 4}}})
	if got := frames(t, s, noon(), noon().Add(time.Hour)); len(got) != 1 || got[0].Rows[0].Route != "1" {
		t.Errorf("a number of a route that was never committed was used: %+v", got)
	}
}

func TestDamagedFrameIsNamed(t *testing.T) {
	s, err := store.Open(ctx, t.TempDir()+"/fleet.db", store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	saveFrame(t, s, counts.Frame{At: noon(), Rows: []counts.RouteMinute{{Route: "1"}}})
	shut(t, s)
	tamper(t, s.Path(), `DELETE FROM count_route`)
	r, err := store.Open(ctx, s.Path(), store.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer shut(t, r)
	err = r.Counts().Frames(ctx, noon(), noon().Add(time.Hour), func(counts.Frame) error { return nil })
	if !errors.Is(err, counts.ErrFrame) || !strings.Contains(err.Error(), "2018-06-12T12:00:00Z") {
		t.Error(err)
	}
}

func TestHours(t *testing.T) {
	s := open(t, t.TempDir())
	row := func(hour int, route string, distinct int) counts.HourRow {
		return counts.HourRow{
			Start: noon().Add(time.Duration(hour) * time.Hour), Route: route, Length: time.Hour, Heard: time.Hour - 1, Online: 7*time.Hour + 3,
			Distinct: distinct, Peak: 8, Lowest: 1, P10: 2, P50: 5, P90: 7,
		}
	}
	all := []counts.HourRow{row(0, "1", 9), row(0, "36", 4), row(1, "1", 8), row(2, "1", 7)}
	if err := s.Counts().SaveHours(ctx, []counts.HourRow{all[3], all[1], all[0], row(1, "1", 99)}); err != nil {
		t.Fatal(err)
	}
	if err := s.Counts().SaveHours(ctx, []counts.HourRow{all[2]}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		from, to int
		route    string
		want     []counts.HourRow
	}{{0, 3, "", all}, {0, 2, "", all[:3]}, {1, 9, "1", all[2:]}, {0, 9, "36", all[1:2]}, {0, 9, "none", nil}, {3, 9, "", nil}} {
		got, err := s.Counts().Hours(ctx, noon().Add(time.Duration(c.from)*time.Hour), noon().Add(time.Duration(c.to)*time.Hour), c.route)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%d to %d, route %q: %s", c.from, c.to, c.route, diff)
		}
	}
}

func TestPrune(t *testing.T) {
	s := open(t, t.TempDir())
	for i := range 5 {
		saveFrame(t, s, counts.Frame{At: noon().Add(time.Duration(i) * time.Second), Rows: []counts.RouteMinute{{Route: "1"}}})
	}
	var hours []counts.HourRow
	for i := range 2500 {
		hours = append(hours, counts.HourRow{Start: noon().Add(time.Duration(i/2) * time.Hour), Route: fmt.Sprint(i % 2), Length: time.Hour})
	}
	if err := s.Counts().SaveHours(ctx, hours); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Counts().Prune(ctx, time.Time{}, time.Time{}); n != 0 || err != nil {
		t.Errorf("no bounds: %d, %v", n, err)
	}
	n, err := s.Counts().Prune(ctx, noon().Add(3*time.Second), noon().Add(1200*time.Hour))
	if n != 3+2400 || err != nil {
		t.Errorf("pruned %d, %v", n, err)
	}
	if got := frames(t, s, noon(), noon().Add(time.Hour)); len(got) != 2 || got[0].At != noon().Add(3*time.Second) {
		t.Errorf("left: %+v", got)
	}
	left, err := s.Counts().Hours(ctx, noon(), noon().Add(9000*time.Hour), "")
	if err != nil || len(left) != 100 || left[0].Start != noon().Add(1200*time.Hour) {
		t.Errorf("%d hours left, %v", len(left), err)
	}
}

func TestStateMetaAndNext(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if got, err := s.Counts().State(ctx); got != nil || err != nil {
		t.Errorf("before: %v, %v", got, err)
	}
	if err := s.Counts().SaveState(ctx, []byte{1, 2}); err != nil {
		t.Fatal(err)
	}
	if err := s.Counts().SaveState(ctx, []byte{3}); err != nil {
		t.Fatal(err)
	}
	if err := s.SetMeta(ctx, map[string][]byte{"rules": []byte("r"), "empty": nil}); err != nil {
		t.Fatal(err)
	}
	for want := uint64(1); want <= 300; want++ {
		if got, err := s.Next(ctx, "session"); got != want || err != nil {
			t.Fatalf("%d, %v; want %d", got, err, want)
		}
	}
	shut(t, s)
	s = open(t, dir)
	if got, err := s.Next(ctx, "session"); got != 301 || err != nil {
		t.Errorf("after a restart: %d, %v", got, err)
	}
	if got, err := s.Next(ctx, "other"); got != 1 || err != nil {
		t.Errorf("another name: %d, %v", got, err)
	}
	if got, err := s.Next(ctx, "rules"); got != 1 || err != nil {
		t.Errorf("a name that has a state too: %d, %v", got, err)
	}
	if err := s.SetMeta(ctx, map[string][]byte{"next.session": {0xff}}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Next(ctx, "session"); err == nil || !strings.Contains(err.Error(), "no counter") {
		t.Errorf("a damaged counter: %v", err)
	}
	for name, want := range map[string][]byte{"counts.state": {3}, "rules": []byte("r"), "empty": {}, "none": nil} {
		if got, err := s.Meta(ctx, name); err != nil || !slices.Equal(got, want) || (got == nil) != (want == nil) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

func TestRosterComesBack(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if got, err := s.Roster(ctx); len(got) != 0 || err != nil {
		t.Errorf("before: %d, %v", len(got), err)
	}
	var saved []presence.Saved
	for i := range 10_000 { // more than two parts
		saved = append(saved, presence.Saved{
			Machine: fmt.Sprintf("%05d-1", i), State: schemas.Up, Since: noon(), LastHeartbeat: noon().Add(time.Duration(i)),
			Silence: 3 * time.Second, Route: "36", Pending: uint32(i), Counted: []string{"36", "7"}, CountedIn: noon(),
		})
	}
	if err := s.SaveRoster(ctx, saved, []byte("board")); err != nil {
		t.Fatal(err)
	}
	shut(t, s)
	s = open(t, dir)
	got, err := s.Roster(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(saved, got); diff != "" {
		t.Error(diff)
	}
	if err := s.SaveRoster(ctx, saved[:5], nil); err != nil {
		t.Fatal(err)
	}
	if got, err = s.Roster(ctx); err != nil || len(got) != 5 {
		t.Errorf("a smaller roster: %d, %v", len(got), err)
	}
	if state, err := s.Counts().State(ctx); err != nil || string(state) != "board" {
		t.Errorf("open hour %q, %v", state, err)
	}
	shut(t, s)
	tamper(t, s.Path(), `UPDATE roster SET body = x'00ff'`)
	s = open(t, dir)
	if _, err := s.Roster(ctx); err == nil || !strings.Contains(err.Error(), "part 0: damaged") {
		t.Errorf("a damaged roster: %v", err)
	}
}

func TestNothingIsWrittenThroughAReader(t *testing.T) {
	s := open(t, t.TempDir())
	saveFaults(t, s, event(fault("a", 0, nil), 1, faults.ChangeOpened))
	r, err := store.Open(ctx, s.Path(), store.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer shut(t, r)
	_, nextErr := r.Next(ctx, "n")
	_, pruneErr := r.Counts().Prune(ctx, noon(), noon())
	for name, err := range map[string]error{
		"fault": r.Faults().Save(ctx, event(fault("b", 0, nil), 1, faults.ChangeOpened)), "frame": r.Counts().SaveFrame(ctx, counts.Frame{At: noon()}),
		"hours": r.Counts().SaveHours(ctx, nil), "state": r.Counts().SaveState(ctx, nil), "roster": r.SaveRoster(ctx, nil, nil),
		"meta": r.SetMeta(ctx, nil), "next": nextErr, "prune": pruneErr,
	} {
		if !errors.Is(err, store.ErrReadOnly) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got, err := r.Faults().Open(ctx); err != nil || len(got) != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	db, err := sql.Open("sqlite", "file:"+s.Path()+"?mode=ro")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var n int
	if err := db.QueryRow(`SELECT count(*) FROM fault`).Scan(&n); err != nil || n != 1 {
		t.Errorf("another program reads %d faults, %v", n, err)
	}
}

func BenchmarkFrame(b *testing.B) {
	s := open(b, b.TempDir())
	f := counts.Frame{}
	for i := range 5000 {
		n := i % 23
		f.Rows = append(f.Rows, counts.RouteMinute{Route: fmt.Sprint(i), Online: n, Min: max(0, n-i%2), Max: n, Known: n + i%3/2, Expected: n, Threshold: n / 2})
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		f.At = noon().Add(time.Duration(i) * time.Second)
		saveFrame(b, s, f)
	}
}

func BenchmarkRoster(b *testing.B) {
	s := open(b, b.TempDir())
	saved := make([]presence.Saved, 100_000)
	for i := range saved {
		saved[i] = presence.Saved{
			Machine: fmt.Sprintf("%06d-1", i), State: schemas.Up, Since: noon(), LastHeartbeat: noon().Add(time.Duration(i) * time.Millisecond), Vehicle: fmt.Sprintf("%06d", i),
			Route: fmt.Sprint(i % 5000), Trip: fmt.Sprint(i), Run: schemas.Running, Firmware: "2.4.1", Boot: "b7", Seq: uint64(i), Epoch: 1, LastSeq: math.MaxUint16,
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := s.SaveRoster(ctx, saved, nil); err != nil {
			b.Fatal(err)
		}
	}
}
