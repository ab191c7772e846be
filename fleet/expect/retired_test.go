package expect_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/fleet/expect"
	"github.com/farebeat/farebeat/fleet/expect/gtfs"
)

func TestRetiredRoutes(t *testing.T) {
	var r expect.Retired
	step := func(what string, named, gone []string) {
		t.Helper()
		r = r.After(named)
		if diff := cmp.Diff(gone, append([]string(nil), r.Gone...)); diff != "" {
			t.Errorf("%s: %s", what, diff)
		}
	}
	step("the first timetable", []string{"B", "A", "A"}, nil)
	step("the same again", []string{"A", "B"}, nil)
	step("A is gone, C is new", []string{"B", "C"}, []string{"A"})
	step("B is gone too", []string{"C"}, []string{"A", "B"})
	step("A is back", []string{"A", "C"}, []string{"B"})
	r = r.Keep(func(route string) bool { return route != "B" })
	if len(r.Gone) != 0 || len(r.Named) != 2 {
		t.Errorf("%+v", r)
	}
}

// History goes on for routes that no timetable ever named, and ends for those that it has no more.
func TestHistoryWithoutRetiredRoutes(t *testing.T) {
	now := time.Date(2026, 11, 23, 3, 15, 0, 0, time.UTC)
	five := func(gtfs.Date, int) int { return 5 }
	h := build(t, now, time.UTC, expect.Days{}, hoursBefore(now, time.UTC, "gone", five), hoursBefore(now, time.UTC, "metro", five))
	without := h.Without([]string{"gone", "unknown"})
	at := now.Add(5 * time.Hour)
	if _, ok := without.Expect("gone", at); ok {
		t.Error("asks for a route that is gone")
	}
	if e, ok := without.Expect("metro", at); !ok || e.Expected != 5 {
		t.Errorf("%v %+v", ok, e)
	}
	if diff := cmp.Diff([]string{"metro"}, without.Routes(at)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"gone", "metro"}, h.Routes(at)); diff != "" {
		t.Errorf("the history that it was made from has changed: %s", diff)
	}
}

func TestNamed(t *testing.T) {
	table := expect.NewByHand([]expect.RouteHour{{Route: "B"}, {Date: date(t, "2026-11-23"), Route: "A"}, {Route: "A"}}, time.UTC)
	if diff := cmp.Diff([]string{"A", "B"}, table.Named()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"A", "B"}, expect.NewTimetable(small(t, "B t1 - 07:00:00 08:00:00", "A t2 - 07:00:00 08:00:00", "A t3 - 07:00:00 08:00:00")).Named()); diff != "" {
		t.Error(diff)
	}
}

func BenchmarkChainExpect(b *testing.B) {
	table := expect.NewTimetable(tampaFeed(b))
	now := time.Date(2018, 6, 12, 12, 0, 0, 0, time.UTC)
	routes := table.Routes(now)
	h := build(b, now, time.UTC, expect.Days{Feed: table.Feed()}, hoursBefore(now, time.UTC, routes[0], func(gtfs.Date, int) int { return 5 }))
	chain := expect.Chain{expect.NewByHand(nil, time.UTC), table, h}
	b.ReportAllocs()
	for b.Loop() {
		chain.Expect(routes[0], now)
	}
}
