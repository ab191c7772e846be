package view

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/fleet"
	"github.com/farebeat/farebeat/fleet/counts"
	"github.com/farebeat/farebeat/fleet/expect"
	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/presence"
	"github.com/farebeat/farebeat/fleet/rules"
)

func TestNamesAreOrderedAsPeopleCount(t *testing.T) {
	want := []string{"", "1", "2", "02", "10", "A2", "A10", "A10b", "B", "Ä"}
	got := slices.Clone(want)
	slices.Reverse(got)
	slices.SortFunc(got, CompareNatural)
	// 2 and 02 are one number: their order is that of their letters.
	if diff := cmp.Diff([]string{"", "1", "02", "2", "10", "A2", "A10", "A10b", "B", "Ä"}, got); diff != "" {
		t.Error(diff)
	}
}

func FuzzCompareNatural(f *testing.F) {
	f.Add("a2", "a10", "a")
	f.Add("0", "00", "000")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		if CompareNatural(a, b) != -CompareNatural(b, a) {
			t.Fatalf("%q and %q", a, b)
		}
		if (CompareNatural(a, b) == 0) != (a == b) {
			t.Fatalf("%q and %q are one", a, b)
		}
		if CompareNatural(a, b) <= 0 && CompareNatural(b, c) <= 0 && CompareNatural(a, c) > 0 {
			t.Fatalf("%q, %q and %q go round", a, b, c)
		}
	})
}

// TestAnHourIsJudgedByWhatWasHeard wants that nobody's silence is 0 where nobody heard.
func TestAnHourIsJudgedByWhatWasHeard(t *testing.T) {
	minute := func(online, expected, threshold int, blind bool) func(*Cell) {
		return func(c *Cell) {
			c.add(counts.RouteMinute{Online: online, Min: online, Max: online, Expected: expected, Threshold: threshold}, blind)
		}
	}
	for name, c := range map[string]struct {
		minutes []func(*Cell)
		want    Cell
	}{
		"well":                       {[]func(*Cell){minute(5, 5, 3, false)}, Cell{Level: LevelOK, Online: 5, Lowest: 5, Expected: 5, Minutes: 1}},
		"fewer":                      {[]func(*Cell){minute(4, 5, 3, false)}, Cell{Level: LevelLow, Online: 4, Lowest: 4, Expected: 5, Minutes: 1}},
		"below for a minute":         {[]func(*Cell){minute(5, 5, 3, false), minute(2, 5, 3, false)}, Cell{Level: LevelBelow, Online: 5, Lowest: 2, Expected: 5, Below: 1, Minutes: 2}},
		"silent":                     {[]func(*Cell){minute(0, 5, 3, false)}, Cell{Level: LevelSilent, Expected: 5, Below: 1, Minutes: 1}},
		"none there, none due yet":   {[]func(*Cell){minute(0, 5, 0, false)}, Cell{Level: LevelLow, Expected: 5, Minutes: 1}},
		"nothing expected":           {[]func(*Cell){minute(0, 0, 0, false)}, Cell{Level: LevelNone, Minutes: 1}},
		"nobody heard":               {[]func(*Cell){minute(0, 5, 3, true)}, Cell{Level: LevelNoData, Expected: 5, Blind: 1, Minutes: 1}},
		"nobody heard for a while":   {[]func(*Cell){minute(0, 5, 3, true), minute(5, 5, 3, false)}, Cell{Level: LevelOK, Online: 5, Lowest: 5, Expected: 5, Blind: 1, Minutes: 2}},
		"nobody heard, then too few": {[]func(*Cell){minute(0, 5, 3, true), minute(1, 5, 3, false)}, Cell{Level: LevelBelow, Online: 1, Lowest: 1, Expected: 5, Below: 1, Blind: 1, Minutes: 2}},
		"more than anybody expected": {[]func(*Cell){minute(7, 0, 0, false)}, Cell{Level: LevelOK, Online: 7, Lowest: 7, Minutes: 1}},
	} {
		var got Cell
		for _, m := range c.minutes {
			m(&got)
		}
		got.judge()
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestARouteNowIsNeverGreenWhenBlind(t *testing.T) {
	route := func(online, expected, threshold int, v rules.Verdict) fleet.RouteView {
		return fleet.RouteView{RouteMinute: counts.RouteMinute{Online: online, Threshold: threshold}, Expectation: expect.Expectation{Now: expected}, Verdict: v}
	}
	silent := rules.Verdict{Firing: true, Kind: faults.RouteSilent}
	for _, c := range []struct {
		v     fleet.RouteView
		blind bool
		want  Level
	}{
		{route(5, 5, 3, rules.Verdict{}), false, LevelOK},
		{route(5, 5, 3, rules.Verdict{}), true, LevelNoData},
		{route(0, 5, 3, silent), true, LevelNoData},
		{route(0, 5, 3, silent), false, LevelSilent},
		{route(0, 0, 0, silent), false, LevelSilent},
		{route(2, 5, 3, rules.Verdict{}), false, LevelBelow},
		{route(4, 5, 3, rules.Verdict{}), false, LevelLow},
		{route(0, 0, 0, rules.Verdict{}), false, LevelNone},
	} {
		if got := routeIn(c.v, c.blind).Level; got != c.want {
			t.Errorf("%d of %d, blind %t: %s, want %s", c.v.Online, c.v.Expectation.Now, c.blind, got, c.want)
		}
	}
}

func TestADayHasAsManyHoursAsItsClock(t *testing.T) {
	zone, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	r := New(Options{Zone: zone, Now: func() time.Time { return time.Date(2026, 11, 28, 12, 0, 0, 0, zone) }})
	for date, want := range map[string]int{"2026-10-25": 25, "2026-03-29": 23, "2026-11-28": 24} {
		d, err := r.Day(date)
		if err != nil || len(d.hours()) != want {
			t.Errorf("%s: %d hours, want %d: %v", date, len(d.hours()), want, err)
		}
		if d.Today != (date == "2026-11-28") || (d.After() == "") != d.Today {
			t.Errorf("%s: today %t, after it %q", date, d.Today, d.After())
		}
	}
	if d, err := r.Day("2026-10-25"); err != nil || d.Before() != "2026-10-24" || d.After() != "2026-10-26" {
		t.Errorf("%v %v", d, err)
	}
}

// TestTheLastDayOfAMachineIsToldByItsFaults draws the bar of the last 24 hours.
func TestTheLastDayOfAMachineIsToldByItsFaults(t *testing.T) {
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	silent := func(id string, from, heard time.Duration) faults.Fault {
		f := faults.Fault{ID: id, Kind: faults.MachineSilent, SuspectedAt: now.Add(-from), Machine: &faults.MachineFacts{}}
		if heard > 0 {
			f.Machine.HeardSince = now.Add(-heard)
		}
		return f
	}
	list := []faults.Fault{silent("now", time.Hour, 0), silent("morning", 5*time.Hour, 4*time.Hour), silent("long ago", 40*time.Hour, 23*time.Hour), {ID: "clock", Kind: faults.MachineClock}}
	got := stretches(list, presence.View{LastHeartbeat: now}, now)
	at := func(hours int) time.Time { return now.Add(-time.Duration(hours) * time.Hour) }
	want := []Stretch{
		{at(24), at(23), "lost", "long ago"},
		{at(23), at(5), "up", ""},
		{at(5), at(4), "lost", "morning"},
		{at(4), at(1), "up", ""},
		{at(1), at(0), "lost", "now"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got := stretches(nil, presence.View{}, now); len(got) != 1 || got[0].State != "unknown" {
		t.Errorf("a machine that was never heard: %v", got)
	}
}
