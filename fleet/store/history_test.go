package store_test

import (
	"context"
	"fmt"
	"iter"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/fleet/counts"
	"github.com/farebeat/farebeat/fleet/expect"
	"github.com/farebeat/farebeat/fleet/store"
)

func TestEachHourGivesWhatHoursGives(t *testing.T) {
	s := open(t, t.TempDir())
	start := time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC)
	var rows []counts.HourRow
	for h := range 30 {
		for r := range 3 {
			rows = append(rows, counts.HourRow{
				Start: start.Add(time.Duration(h) * 30 * time.Minute), Route: fmt.Sprint(r), Length: 30 * time.Minute,
				Heard: 29 * time.Minute, Peak: h + r,
			})
		}
	}
	if err := s.Counts().SaveHours(t.Context(), rows); err != nil {
		t.Fatal(err)
	}
	for _, span := range [][2]time.Duration{{0, 24 * time.Hour}, {time.Hour, 5*time.Hour + time.Minute}, {90 * time.Minute, 91 * time.Minute}, {time.Hour, time.Hour}} {
		from, to := start.Add(span[0]), start.Add(span[1])
		want, err := s.Counts().Hours(t.Context(), from, to, "")
		if err != nil {
			t.Fatal(err)
		}
		var got []counts.HourRow
		for row, err := range s.Counts().EachHour(t.Context(), from, to) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, row)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%v: %s", span, diff)
		}
	}
	ended, end := context.WithCancel(t.Context())
	end()
	failed := 0
	for _, err := range s.Counts().EachHour(ended, start, start.Add(24*time.Hour)) {
		if err == nil {
			t.Error("a row after the end of the context")
		}
		failed++
	}
	if failed != 1 {
		t.Errorf("%d errors, want 1", failed)
	}
}

const benchRoutes = 5000

// fillHistory writes rows of the hours of the clock that keep says, for benchRoutes routes over the window of now.
func fillHistory(b *testing.B, s *store.Store, now time.Time, keep func(hour int) bool) {
	b.Helper()
	rng := rand.New(rand.NewPCG(1, 2))
	from, to := expect.HistoryWindow(now, time.UTC)
	for at := from; at.Before(to); at = at.Add(time.Hour) {
		if !keep(at.Hour()) {
			continue
		}
		rows := make([]counts.HourRow, benchRoutes)
		for r := range rows {
			n := r%20 + rng.IntN(3)
			rows[r] = counts.HourRow{
				Start: at, Length: time.Hour, Heard: time.Hour, Route: fmt.Sprintf("route-%04d", r), Distinct: n, Peak: n, Lowest: n / 2,
				P10: n / 2, P50: n, P90: n, Online: time.Duration(n) * time.Hour,
			}
		}
		if err := s.Counts().SaveHours(b.Context(), rows); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkHistoryHour learns one hour of the clock of 5,000 routes from eight weeks.
func BenchmarkHistoryHour(b *testing.B) {
	now := time.Date(2026, 11, 23, 3, 15, 0, 0, time.UTC)
	s := open(b, b.TempDir())
	fillHistory(b, s, now, func(hour int) bool { return hour >= 7 && hour <= 8 })
	from, to := expect.HistoryWindow(now, time.UTC)
	one := func() iter.Seq2[counts.HourRow, error] {
		return func(yield func(counts.HourRow, error) bool) {
			for at := from.Add(8 * time.Hour); at.Before(to); at = at.Add(24 * time.Hour) {
				for row, err := range s.Counts().EachHour(b.Context(), at, at.Add(time.Hour)) {
					if !yield(row, err) {
						return
					}
				}
			}
		}
	}
	for b.Loop() {
		h, err := expect.BuildHistory(one(), expect.Days{}, now, time.UTC)
		if err != nil || h.Len() != benchRoutes {
			b.Fatal(h.Len(), err)
		}
	}
}

// BenchmarkHistoryWhole learns 24 hours of 5,000 routes from eight weeks, 6.7 million rows. Filling the store takes longer.
func BenchmarkHistoryWhole(b *testing.B) {
	now := time.Date(2026, 11, 23, 3, 15, 0, 0, time.UTC)
	s := open(b, b.TempDir())
	fillHistory(b, s, now, func(int) bool { return true })
	from, to := expect.HistoryWindow(now, time.UTC)
	for b.Loop() {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		h, err := expect.BuildHistory(s.Counts().EachHour(b.Context(), from, to), expect.Days{}, now, time.UTC)
		if err != nil || h.Len() != benchRoutes {
			b.Fatal(h.Len(), err)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/(1<<20), "MiB-kept")
		runtime.KeepAlive(h)
	}
}
