package expect_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/fleet/expect"
	"github.com/farebeat/farebeat/fleet/expect/gtfs"
)

// hand is a chain of one source with one number for each route, given as pairs.
func hand(pairs ...any) expect.Chain {
	var rows []expect.RouteHour
	for i := 0; i < len(pairs); i += 2 {
		for h := range 24 {
			rows = append(rows, expect.RouteHour{Route: pairs[i].(string), Hour: h, Vehicles: pairs[i+1].(int)})
		}
	}
	return expect.Chain{expect.NewByHand(rows, time.UTC)}
}

func TestSwapAsksForNoMoreThanBothDo(t *testing.T) {
	start := time.Date(2026, 11, 23, 8, 5, 0, 0, time.UTC)
	l := expect.NewLive(hand("same", 5, "more", 5, "less", 5, "gone", 5))
	says := func(at time.Time) map[string]string {
		got := map[string]string{}
		for _, r := range []string{"same", "more", "less", "gone", "new"} {
			e, ok := l.Expect(r, at)
			got[r] = fmt.Sprint(e.Expected, e.Now, e.Lowest, " ", e.Source, " ", ok)
		}
		return got
	}
	before := l.Generation()
	l.Swap(start, hand("same", 5, "more", 9, "less", 2, "new", 4))
	if l.Generation() == before {
		t.Error("the generation did not change")
	}
	transition := map[string]string{"same": "5 5 5 hand true", "more": "5 5 5 hand true", "less": "2 2 2 hand true", "gone": "0 0 0 none false", "new": "0 0 0 hand true"}
	for _, after := range []time.Duration{-time.Second, 0, expect.Transition - 1} {
		if diff := cmp.Diff(transition, says(start.Add(after))); diff != "" {
			t.Errorf("%s after: %s", after, diff)
		}
	}
	if diff := cmp.Diff([]string{"less", "more", "new", "same"}, l.Routes(start)); diff != "" {
		t.Error(diff)
	}
	settled := map[string]string{"same": "5 5 5 hand true", "more": "9 9 9 hand true", "less": "2 2 2 hand true", "gone": "0 0 0 none false", "new": "4 4 4 hand true"}
	if diff := cmp.Diff(settled, says(start.Add(expect.Transition))); diff != "" {
		t.Error(diff)
	}
	// A second swap within the transition: what fitted the first chain still alarms nobody.
	l.Swap(start.Add(20*time.Minute), hand("same", 7, "more", 9))
	if got := says(start.Add(25 * time.Minute))["more"]; got != "5 5 5 hand true" {
		t.Errorf("25 minutes after the first swap: %s", got)
	}
	if got := says(start.Add(35 * time.Minute)); got["more"] != "9 9 9 hand true" || got["same"] != "5 5 5 hand true" {
		t.Errorf("35 minutes after the first swap: %v", got)
	}
	generation := l.Generation()
	l.Settle(start.Add(35 * time.Minute))
	if got := says(start.Add(35 * time.Minute))["same"]; got != "5 5 5 hand true" {
		t.Errorf("settled too early: %s", got)
	}
	l.Settle(start.Add(time.Hour))
	if got := says(start.Add(35 * time.Minute))["same"]; got != "7 7 7 hand true" { // the old ones are let go
		t.Errorf("after all has settled: %s", got)
	}
	if l.Generation() != generation {
		t.Error("settling changed the generation")
	}
}

// The timetable before asked at 08:00 for what the one after asks for at 09:00: at no time may more be asked for
// than each of both does.
func TestSwapOfTimetables(t *testing.T) {
	old := expect.NewTimetable(small(t, "A t1 b1 08:00:00 10:00:00", "A t2 b2 08:00:00 10:00:00"))
	next := expect.NewTimetable(small(t, "A t1 b1 09:00:00 11:00:00", "A t2 b2 09:00:00 11:00:00", "A t3 b3 09:00:00 11:00:00"))
	berlin := zone(t, "Europe/Berlin")
	swap := time.Date(2026, 11, 20, 9, 20, 0, 0, berlin)
	l := expect.NewLive(expect.Chain{old})
	l.Swap(swap, expect.Chain{next})
	for after, want := range map[time.Duration]string{10 * time.Minute: "2 2 2", 29 * time.Minute: "2 2 2", 30 * time.Minute: "3 3 3", 45 * time.Minute: "3 3 3"} {
		e, _ := l.Expect("A", swap.Add(after))
		if got := fmt.Sprint(e.Expected, e.Now, e.Lowest); got != want {
			t.Errorf("%s after: %s, want %s", after, got, want)
		}
	}
}

func TestLowIsTheLowerOfBoth(t *testing.T) {
	now := time.Date(2026, 11, 23, 8, 5, 0, 0, time.UTC)
	learn := func(n int) expect.Chain {
		return append(hand("A", 12), build(t, now, time.UTC, expect.Days{}, hoursBefore(now, time.UTC, "A", func(gtfs.Date, int) int { return n })))
	}
	seven, nine := learn(7), learn(9)
	at := now.Add(time.Minute)
	for name, tc := range map[string]struct {
		old, next expect.Chain
		want      string
	}{
		"learned for the first time": {hand("A", 12), nine, "9 40"},
		"forgotten":                  {nine, hand("A", 12), "9 40"},
		"lower":                      {nine, seven, "7 40"},
		"higher":                     {seven, nine, "7 40"},
		"never known":                {hand("A", 12), hand("A", 12), "0 0"},
	} {
		l := expect.NewLive(tc.old)
		l.Swap(now, tc.next)
		e, _ := l.Expect("A", at)
		if got := fmt.Sprint(e.Low, " ", e.LowSample); got != tc.want || e.Expected != 12 || e.Source != expect.SourceHand {
			t.Errorf("%s: %s, want %s: %+v", name, got, tc.want, e)
		}
	}
}

// Who asks while others swap sees one chain or another, never a mixture and never none.
func TestSwapWhileOthersAsk(t *testing.T) {
	now := time.Date(2026, 11, 23, 8, 5, 0, 0, time.UTC)
	l := expect.NewLive(hand("A", 5, "B", 5))
	var wg sync.WaitGroup
	done := make(chan struct{})
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if routes := l.Routes(now); len(routes) != 2 {
					t.Errorf("routes %v", routes)
					return
				}
				if e, ok := l.Expect("A", now); !ok || e.Expected != 5 && e.Expected != 6 {
					t.Errorf("%v %+v", ok, e)
					return
				}
			}
		})
	}
	for i := range 500 {
		l.Update(now.Add(time.Duration(i)*time.Minute), func(expect.Chain) expect.Chain { return hand("A", 5+i%2, "B", 5) })
		l.Settle(now.Add(time.Duration(i) * time.Minute))
	}
	close(done)
	wg.Wait()
	if l.Generation() != 501 {
		t.Errorf("generation %d", l.Generation())
	}
}

func BenchmarkLiveExpectInTransition(b *testing.B) {
	table := expect.NewTimetable(tampaFeed(b))
	at := time.Date(2018, 6, 12, 12, 0, 0, 0, time.UTC)
	l := expect.NewLive(expect.Chain{table})
	l.Swap(at, expect.Chain{table})
	routes := table.Routes(at)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		l.Expect(routes[i%len(routes)], at)
	}
}
