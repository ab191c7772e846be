package expect_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/farebeat/farebeat/fleet/expect"
	"github.com/farebeat/farebeat/fleet/rules"
)

// A timetable is replaced by one with more vehicles, and the drivers follow it a quarter of an hour later. With the default
// rules nobody is alarmed, whenever in the hour the feed is replaced. Without a transition it
// would be a false alarm.
func TestNobodyIsAlarmedByANewTimetable(t *testing.T) {
	feed := func(vehicles int) expect.Source {
		trips := []string{"A early early 06:10:00 06:40:00"} // so that rules see that minutes are known
		for v := range vehicles {
			trips = append(trips, fmt.Sprintf("A t%d b%d 05:00:00 23:00:00", v, v))
		}
		return expect.NewTimetable(small(t, trips...))
	}
	berlin := zone(t, "Europe/Berlin")
	day := time.Date(2026, 11, 20, 0, 0, 0, 0, berlin)
	const before, after = 5, 15
	fires := func(source func(now time.Time) expect.Source, swap time.Time) bool {
		set := rules.Default(berlin)
		var state rules.RouteState
		for now := day.Add(6 * time.Hour); now.Before(day.Add(14 * time.Hour)); now = now.Add(10 * time.Second) {
			online := before
			if now.After(swap.Add(15 * time.Minute)) {
				online = after
			}
			e, _ := source(now).Expect("A", now)
			in := rules.RouteInput{
				Route: "A", Online: online, Known: online, Expected: e.Expected, ExpectedNow: e.Now, Lowest: e.Lowest, Source: e.Source,
			}
			var verdict rules.Verdict
			if state, verdict = set.EvaluateRoute(now, in, state); verdict.Firing {
				return true
			}
		}
		return false
	}
	for _, minute := range []int{0, 20, 50, 58} {
		swap := day.Add(9*time.Hour + time.Duration(minute)*time.Minute)
		live := expect.NewLive(expect.Chain{feed(before)})
		swapped := false
		if fires(func(now time.Time) expect.Source {
			if !swapped && !now.Before(swap) {
				swapped = true
				live.Swap(now, expect.Chain{feed(after)})
			}
			return live
		}, swap) {
			t.Errorf("swapped at 09:%02d: a false alarm", minute)
		}
		old, next := feed(before), feed(after)
		if !fires(func(now time.Time) expect.Source {
			if now.Before(swap) {
				return old
			}
			return next
		}, swap) {
			t.Errorf("at 09:%02d: no alarm without a transition either: this test shows nothing", minute)
		}
	}
}
