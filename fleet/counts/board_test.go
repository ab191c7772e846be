package counts

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func at(s int) time.Time { return noon.Add(time.Duration(s) * time.Second) }

func hoursOf(t *testing.T, b *Board, now time.Time, route string) HourRow {
	t.Helper()
	b.Minute(now)
	for _, r := range b.Hours(now) {
		if r.Route == route {
			return r
		}
	}
	t.Fatalf("no hour of route %s by %s", route, now)
	return HourRow{}
}

func TestLeavingAndComingAtOneInstantDoNotOverlap(t *testing.T) {
	for _, comingFirst := range []bool{false, true} {
		b := New(Config{Start: noon})
		var x, y Place
		b.Put(at(60), &x, "36", Up)
		leave, come := func() { b.Put(at(600), &x, "", Absent) }, func() { b.Put(at(600), &y, "36", Up) }
		if comingFirst {
			come()
			leave()
		} else {
			leave()
			come()
		}
		rows := b.Minute(at(660))
		want := []RouteMinute{{Route: "36", Online: 1, Min: 0, Max: 1, Known: 1}}
		if d := cmp.Diff(want, rows); d != "" {
			t.Errorf("coming first %v: minute (-want +got):\n%s", comingFirst, d)
		}
		h := hoursOf(t, b, at(3600), "36")
		if h.Peak != 1 || h.Distinct != 2 || h.Online != 3540*time.Second || h.Lowest != 0 || h.P50 != 1 {
			t.Errorf("coming first %v: hour %+v, want peak 1, distinct 2, 3540 s online", comingFirst, h)
		}
	}
}

func TestLeavingAtTheFullHourIsNotInTheNext(t *testing.T) {
	b := New(Config{Start: noon})
	var x, y Place
	b.Put(at(10), &x, "36", Up)
	b.Put(at(10), &y, "36", Up)
	b.Minute(at(3600)) // the tick falls on the same instant, before the event
	b.Put(at(3600), &x, "36", Missing)
	b.Minute(at(7200))
	rows := b.Hours(at(7200))
	if len(rows) != 2 || rows[0].Distinct != 2 || rows[1].Distinct != 1 || rows[1].Peak != 1 {
		t.Errorf("hours %+v, want distinct 2 then 1, peak 1 in the second", rows)
	}
}

func TestAMachineComesBackToARouteAndCountsOnceInTheHour(t *testing.T) {
	b := New(Config{Start: noon})
	var p Place
	for i, route := range []string{"1", "2", "3", "4", "5", "1", "5", "2", "1"} {
		b.Put(at(60*i), &p, route, Up)
	}
	b.Minute(at(3600))
	for _, r := range b.Hours(at(3600)) {
		if r.Distinct != 1 || r.Peak != 1 {
			t.Errorf("route %s: distinct %d, peak %d, want 1 and 1", r.Route, r.Distinct, r.Peak)
		}
	}
}

func TestRosterGivesRowsWithNothing(t *testing.T) {
	b := New(Config{Start: noon})
	b.SetRoster(noon, []string{"713", "712", ""})
	want := []RouteMinute{{Route: "712", OnRoster: true}, {Route: "713", OnRoster: true}}
	if d := cmp.Diff(want, b.Minute(at(60))); d != "" {
		t.Errorf("rows (-want +got):\n%s", d)
	}
	h := hoursOf(t, b, at(3600), "713")
	if h.Peak != 0 || h.Heard != time.Hour || h.Mean() != 0 {
		t.Errorf("hour %+v, want an hour of nothing, heard in full", h)
	}
	b.SetRoster(at(3600), []string{"713"})
	if rows := b.Minute(at(3660)); len(rows) != 1 || rows[0].Route != "713" {
		t.Errorf("rows %+v after the roster shrank, want 713 alone", rows)
	}
	if len(b.lines) != 1 {
		t.Errorf("%d lines are kept, want 1", len(b.lines))
	}
}

func TestRouteThatFellSilentKeepsItsRow(t *testing.T) {
	b := New(Config{Start: noon})
	var p Place
	b.Put(noon, &p, "36", Up)
	p.Heard(0)
	b.Put(at(60), &p, "36", Missing)
	b.Minute(at(60))
	want := []RouteMinute{{Route: "36", Known: 1, Heard: true, SilentFor: 24 * time.Hour}}
	if d := cmp.Diff(want, b.Minute(at(86400))); d != "" {
		t.Errorf("a day later (-want +got):\n%s", d)
	}
	if n := len(b.Hours(at(86400))); n != 24 {
		t.Errorf("%d hours, want 24", n)
	}
}

func TestMisspeltRoutesAreBoundedAndForgotten(t *testing.T) {
	b := New(Config{Start: noon, MaxRoutes: 2})
	var p, q Place
	b.Put(noon, &q, "36", Up)
	b.Put(at(1), &p, "x1", Up)
	b.Put(at(2), &p, "x2", Up)
	if p.Route() != "" || b.Refused() != 1 {
		t.Errorf("third route: machine on %q, refused %d, want nowhere and 1", p.Route(), b.Refused())
	}
	b.Minute(at(3601)) // its hour is over
	b.Put(at(3602), &p, "x2", Up)
	if p.Route() != "x2" {
		t.Errorf("machine on %q after x1 was forgotten, want x2", p.Route())
	}
	if rows := b.Hours(at(3602)); len(rows) != 2 {
		t.Errorf("hours %+v, want those of 36 and of the forgotten x1", rows)
	}
}

func TestHoursOfTheClock(t *testing.T) {
	for _, c := range []struct {
		zone, date string
		hours      []int
		odd        map[int]time.Duration // index of the rows that are not an hour long
	}{
		{"Europe/Berlin", "2026-10-25", []int{0, 1, 2, 2, 3, 4, 5}, nil},
		{"Europe/Berlin", "2026-03-29", []int{0, 1, 3, 4, 5, 6, 7}, nil},
		{"America/New_York", "2026-11-01", []int{0, 1, 1, 2, 3, 4, 5}, nil},
		{"Asia/Kolkata", "2026-11-23", []int{0, 1, 2, 3, 4, 5, 6}, nil},
		{"Australia/Lord_Howe", "2026-04-05", []int{0, 1, 1, 2, 3, 4, 5}, map[int]time.Duration{2: 30 * time.Minute}},
	} {
		t.Run(c.zone+c.date, func(t *testing.T) {
			loc, err := time.LoadLocation(c.zone)
			if err != nil {
				t.Fatal(err)
			}
			start, err := time.ParseInLocation(time.DateOnly, c.date, loc)
			if err != nil {
				t.Fatal(err)
			}
			b := New(Config{Start: start, Location: loc})
			b.SetRoster(start, []string{"36"})
			end := start
			for range 7 * 60 {
				end = end.Add(time.Minute)
				b.Minute(end)
			}
			rows := b.Hours(end)
			var hours []int
			for i, r := range rows {
				date, hour := r.Local(loc)
				if date != c.date {
					t.Errorf("row %d is of %s", i, date)
				}
				want := time.Hour
				if d, ok := c.odd[i]; ok {
					want = d
				}
				if r.Length != want || r.Heard != want {
					t.Errorf("row %d: length %s, heard %s, want %s", i, r.Length, r.Heard, want)
				}
				hours = append(hours, hour)
			}
			if !slices.Equal(hours[:min(7, len(hours))], c.hours) {
				t.Errorf("hours %v, want %v", hours, c.hours)
			}
		})
	}
}

func TestBlindTimeIsNoEvidence(t *testing.T) {
	b := New(Config{Start: noon, WarmUp: time.Minute})
	var p Place
	b.Put(at(60), &p, "36", Up)
	b.SetBlind(at(600), true)
	b.SetBlind(at(1200), false) // warm-up until 1260
	h := hoursOf(t, b, at(3600), "36")
	if want := (3600 - 60 - 660) * time.Second; h.Heard != want || h.Online != want || h.Mean() != 1 {
		t.Errorf("heard %s, online %s, mean %v, want %s and 1", h.Heard, h.Online, h.Mean(), want)
	}
	for s, want := range map[int]bool{0: true, 59: true, 60: false, 599: false, 600: true, 1199: true, 1259: true, 1260: false} {
		b := New(Config{Start: noon, WarmUp: time.Minute})
		if s >= 600 {
			b.SetBlind(at(600), true)
		}
		if s >= 1200 {
			b.SetBlind(at(1200), false)
		}
		if got := b.Blind(at(s)); got != want {
			t.Errorf("at %d s blind is %v, want %v", s, got, want)
		}
	}
}

func TestSightStandsStillWhileBlind(t *testing.T) {
	s := NewSight(noon, time.Minute)
	s.Set(at(100), true)
	s.Set(at(150), true)
	if got := s.Seeing(at(700)); got != 100*time.Second {
		t.Errorf("seeing %s while blind, want 100 s", got)
	}
	s.Set(at(700), false)
	want := Reading{Seeing: 110 * time.Second, Returned: 100 * time.Second, WarmUp: time.Minute, Blind: true}
	if got := s.Read(at(710)); got != want {
		t.Errorf("reading %+v, want %+v", got, want)
	}
}

func TestFlickeringSightStaysBounded(t *testing.T) {
	s := NewSight(noon, 0)
	for i := range 3000 {
		s.Set(at(2*i), true)
		s.Set(at(2*i+1), false)
	}
	if n := len(s.now.Load().windows); n > maxWindows {
		t.Errorf("%d windows are kept, want at most %d", n, maxWindows)
	}
	if got := s.heard(at(5990).UnixNano(), at(6000).UnixNano()); got != int64(5*time.Second) {
		t.Errorf("heard %s of the last 10 s, want 5 s", time.Duration(got))
	}
}

func TestClockThatLeapsDoesNotMakeUpYears(t *testing.T) {
	b := New(Config{Start: noon})
	b.SetRoster(noon, []string{"36"})
	b.Minute(noon.AddDate(30, 0, 0))
	if n := len(b.Hours(noon.AddDate(30, 0, 0))); n > 2 {
		t.Errorf("%d hours after a leap of 30 years, want the open one", n)
	}
	b.Minute(noon) // and back
	if rows := b.Rows(noon); len(rows) != 1 || rows[0].Online != 0 {
		t.Errorf("rows %+v", rows)
	}
}

// stay is one machine on one route, seconds after noon, to exclusive.
type stay struct{ from, to, machine, route int }

// TestBoardEqualsTheDefinition draws random stays, tells them to the board in any order
// within an instant, and compares with the definition by brute force, second by second.
func TestBoardEqualsTheDefinition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const end = 3 * 3600
		var stays []stay
		for m := range rapid.IntRange(1, 6).Draw(t, "machines") {
			s := rapid.IntRange(0, 4000).Draw(t, "first")
			for s < end {
				step := rapid.SampledFrom([]int{0, 0, 1, 60, 600, 3600}).Draw(t, "gap")
				long := rapid.SampledFrom([]int{0, 1, 60, 600, 1800, 3600, 5000}).Draw(t, "length")
				stays = append(stays, stay{s + step, min(s+step+long, end), m, rapid.IntRange(0, 2).Draw(t, "route")})
				s += step + max(long, 1)
			}
		}
		stays = slices.DeleteFunc(stays, func(s stay) bool { return s.from > s.to || s.from >= end })
		got := playStays(stays, end, rapid.Uint64().Draw(t, "seed"))
		for hour := range 3 {
			for route := range 3 {
				want := bruteHour(stays, hour*3600, route)
				g := got[fmt.Sprint(route, "/", hour)]
				if g.Distinct != want.Distinct || g.Peak != want.Peak || g.Online != want.Online || want.Distinct > 0 && g.Lowest != want.Lowest {
					t.Fatalf("route %d hour %d: distinct %d peak %d lowest %d online %s, want %d %d %d %s\n%v", route, hour,
						g.Distinct, g.Peak, g.Lowest, g.Online, want.Distinct, want.Peak, want.Lowest, want.Online, stays)
				}
			}
		}
	})
}

// playStays tells the board of stays: machines in random order within one instant.
func playStays(stays []stay, end int, seed uint64) map[string]HourRow {
	type event struct{ at, machine, nth, route int }
	var events []event
	for i, s := range stays {
		events = append(events, event{s.from, s.machine, 2 * i, s.route})
		if i+1 == len(stays) || stays[i+1].machine != s.machine || stays[i+1].from != s.to {
			events = append(events, event{s.to, s.machine, 2*i + 1, -1})
		}
	}
	rnd := rand.New(rand.NewPCG(seed, 1))
	turn := rnd.Perm(16)
	slices.SortFunc(events, func(a, b event) int {
		for _, d := range [...]int{a.at - b.at, turn[a.machine] - turn[b.machine], a.nth - b.nth} {
			if d != 0 {
				return d
			}
		}
		return 0
	})
	b := New(Config{Start: noon})
	places := make([]Place, 16)
	next := 60
	for _, e := range events {
		for ; next <= e.at; next += 60 {
			b.Minute(at(next))
		}
		if e.route < 0 {
			b.Put(at(e.at), &places[e.machine], places[e.machine].Route(), Missing)
		} else {
			b.Put(at(e.at), &places[e.machine], fmt.Sprint(e.route), Up)
		}
	}
	b.Minute(at(end))
	rows := map[string]HourRow{}
	for _, r := range b.Hours(at(end)) {
		rows[fmt.Sprint(r.Route, "/", r.Start.Hour()-12)] = r
	}
	return rows
}

func bruteHour(stays []stay, from, route int) HourRow {
	want := HourRow{Lowest: 1 << 30}
	machines := map[int]bool{}
	for s := from; s < from+3600; s++ {
		n := 0
		for _, x := range stays {
			if x.route == route && x.from <= s && s < x.to {
				n++
				machines[x.machine] = true
			}
		}
		want.Peak, want.Lowest = max(want.Peak, n), min(want.Lowest, n)
		want.Online += time.Duration(n) * time.Second
	}
	want.Distinct = len(machines)
	return want
}

func BenchmarkMove(b *testing.B) {
	board := New(Config{Start: noon})
	var p Place
	now := noon
	routes := [...]string{"36", "37"}
	b.ReportAllocs()
	for i := range b.N {
		now = now.Add(time.Millisecond)
		board.Put(now, &p, routes[i&1], Up)
	}
}

func BenchmarkMinute5000Routes(b *testing.B) {
	board := New(Config{Start: noon})
	places := make([]Place, 100_000)
	for i := range places {
		board.Put(noon, &places[i], fmt.Sprint("route ", i%5000), Up)
	}
	now := noon
	b.ReportAllocs()
	for b.Loop() {
		now = now.Add(time.Minute)
		board.Minute(now)
		board.Hours(now)
	}
}
