package rules

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/presence"
)

var day = time.Date(2026, 11, 23, 7, 0, 0, 0, time.UTC)

// line is one route on one day, looked at every few seconds. Every seventh look is taken
// twice: by the running state, and by one that was stored and read again.
type line struct {
	t       *testing.T
	set     *Set
	in      RouteInput
	state   RouteState
	step    time.Duration
	now     time.Time
	history []string
	last    string
	looks   int
}

func newLine(t *testing.T, step time.Duration, online int, source string) *line {
	l := &line{t: t, set: Default(time.UTC), step: step, now: day}
	l.in = RouteInput{Route: "36", Online: online, Known: online, Expected: online, ExpectedNow: online, Lowest: online, Source: source}
	return l
}

// until looks until the time of day; each look may change what is there first.
func (l *line) until(clock string, change ...func(now time.Time, in *RouteInput)) {
	l.t.Helper()
	to, err := time.Parse("15:04:05", clock)
	if err != nil {
		l.t.Fatal(err)
	}
	end := time.Date(day.Year(), day.Month(), day.Day(), to.Hour(), to.Minute(), to.Second(), 0, time.UTC)
	for ; l.now.Before(end); l.now = l.now.Add(l.step) {
		for _, c := range change {
			c(l.now, &l.in)
		}
		l.look()
	}
}

func (l *line) look() {
	l.t.Helper()
	before := ""
	if l.looks%7 == 6 {
		before = fmt.Sprintf("%+v", l.state)
	}
	next, v := l.set.EvaluateRoute(l.now, l.in, l.state)
	if l.looks++; l.looks%7 == 0 {
		l.restart(before, next, v)
	}
	l.state = next
	said := ""
	if v.Firing {
		said = string(v.Kind)
	}
	if said != l.last {
		l.history = append(l.history, l.now.Format("15:04:05 ")+said)
		l.last = said
	}
}

// restart looks again with the state of before, stored and read again.
func (l *line) restart(before string, next RouteState, v Verdict) {
	l.t.Helper()
	b, err := json.Marshal(States{Routes: map[string]RouteState{"36": l.state}})
	if err != nil {
		l.t.Fatal(err)
	}
	var back States
	if err := json.Unmarshal(b, &back); err != nil {
		l.t.Fatal(err)
	}
	if after := fmt.Sprintf("%+v", l.state); after != before {
		l.t.Fatalf("the state handed in was changed:\n%s\n%s", before, after)
	}
	stored, again := l.set.EvaluateRoute(l.now, l.in, back.Routes["36"])
	if diff := cmp.Diff(v, again); diff != "" {
		l.t.Fatalf("at %v a restart changes the verdict: %s", l.now, diff)
	}
	if diff := cmp.Diff(next, stored); diff != "" {
		l.t.Fatalf("at %v a restart changes the state: %s", l.now, diff)
	}
}

func (l *line) want(lines ...string) {
	l.t.Helper()
	if diff := cmp.Diff(lines, l.history); diff != "" {
		l.t.Errorf("(-want +got):\n%s", diff)
	}
}

func online(n int) func(time.Time, *RouteInput) {
	return func(_ time.Time, in *RouteInput) {
		in.Online, in.Late, in.AllSilentFor = n, 0, 0
		in.Known = max(in.Known, n)
	}
}

// silentSince is what presence tells of a route whose last heartbeat was then.
func silentSince(clock string) func(time.Time, *RouteInput) {
	at, err := time.Parse("15:04:05", clock)
	if err != nil {
		panic(err)
	}
	last := time.Date(day.Year(), day.Month(), day.Day(), at.Hour(), at.Minute(), at.Second(), 0, time.UTC)
	return func(now time.Time, in *RouteInput) {
		in.AllSilentFor, in.Late = now.Sub(last), 0
		switch {
		case in.AllSilentFor > time.Minute:
			in.Online = 0
		case in.AllSilentFor > 30*time.Second:
			in.Late = in.Online
		}
	}
}

func expected(n int) func(time.Time, *RouteInput) {
	return func(_ time.Time, in *RouteInput) { in.Expected, in.ExpectedNow, in.Lowest = n, n, n }
}

func blind(yes bool) func(time.Time, *RouteInput) {
	return func(_ time.Time, in *RouteInput) { in.Blind = yes }
}

func TestSilentRouteWithinAMinuteAtAnyPhase(t *testing.T) {
	for _, source := range []string{"hand", "none", "timetable"} {
		for offset := range 5 {
			l := newLine(t, 5*time.Second, 2, source)
			l.until("07:20:00")
			last := fmt.Sprintf("07:19:%02d", 55+offset)
			l.until("07:40:00", silentSince(last))
			if len(l.history) != 1 || !strings.HasSuffix(l.history[0], "route_silent") || l.history[0] > "07:20:45 route_silent" {
				t.Errorf("%s, last heartbeat %s: %v, want silent by 07:20:45", source, last, l.history)
			}
		}
	}
}

func TestSilentRouteAt15Seconds(t *testing.T) {
	l := newLine(t, 15*time.Second, 3, "timetable")
	l.until("07:20:00")
	l.until("07:40:00", silentSince("07:19:50"))
	l.want("07:20:45 route_silent")
}

func TestSilentRouteNeverResolvesByItself(t *testing.T) {
	l := newLine(t, 15*time.Second, 4, "timetable")
	l.until("07:20:00")
	l.until("12:00:00", silentSince("07:20:00"))
	l.until("16:00:00", expected(0))                                              // the service ended
	l.until("18:00:00", func(_ time.Time, in *RouteInput) { in.Known = 0 })       // all were taken out
	l.until("20:00:00", func(_ time.Time, in *RouteInput) { in.Source = "none" }) // nobody expects anything
	l.until("20:10:00", blind(true))                                              // and we were away
	l.until("20:30:00", blind(false))                                             // and came back
	l.until("20:40:00", func(_ time.Time, in *RouteInput) { in.Source = "hand" }, expected(4), online(1))
	l.until("21:00:00", online(4))
	l.want("07:20:45 route_silent", "20:32:00 route_below", "20:42:00 ")
}

func TestOneOfTwoGoingHomeIsNoSilence(t *testing.T) {
	l := newLine(t, 5*time.Second, 2, "none")
	l.until("07:20:00")
	l.until("07:40:00", online(1))
	l.until("08:40:00", silentSince("07:40:00"))
	l.want()
}

func TestNoServiceNoSilence(t *testing.T) {
	l := newLine(t, 5*time.Second, 2, "timetable")
	l.until("07:20:00")
	l.until("09:00:00", func(_ time.Time, in *RouteInput) { in.Expected, in.ExpectedNow, in.Lowest = 2, 2, 0 }, silentSince("07:20:00"))
	l.want()
}

func TestNeverHeardRoute(t *testing.T) {
	for _, tt := range []struct {
		wanted int
		known  int
		want   []string
	}{
		{1, 0, []string{"09:20:00 route_silent"}}, // 90 minutes
		{2, 0, []string{"08:35:00 route_silent"}}, // half of it: two must be broken
		{2, 1, []string{"08:35:00 route_silent"}},
		{9, 9, []string{"07:58:00 route_below", "08:00:00 route_silent"}},
	} {
		l := newLine(t, 15*time.Second, 0, "timetable")
		l.in.Known = tt.known
		// Its machines are due at 07:40, so that the source is seen to know minutes.
		l.until("07:40:00", func(_ time.Time, in *RouteInput) { in.Expected, in.ExpectedNow, in.Lowest = tt.wanted, 0, 0 })
		l.until("07:50:00", func(_ time.Time, in *RouteInput) { in.ExpectedNow = tt.wanted })
		l.until("10:00:00", func(_ time.Time, in *RouteInput) { in.Lowest = tt.wanted })
		if diff := cmp.Diff(tt.want, l.history); diff != "" {
			t.Errorf("%d wanted, %d known (-want +got):\n%s", tt.wanted, tt.known, diff)
		}
	}
}

func TestTheOneMachineOfARouteHasAFaultOfItsOwn(t *testing.T) {
	for _, tt := range []struct {
		heard string // last
		want  []string
	}{
		{"08:30:00", nil}, // it came, and broke
		{"07:00:00", []string{"09:20:00 route_silent"}}, // it broke the day before: whoever should come did not
	} {
		l := newLine(t, 15*time.Second, 1, "timetable")
		l.until("07:00:15", expected(1))
		l.until("07:50:00", silentSince("07:00:00"), func(_ time.Time, in *RouteInput) { in.ExpectedNow, in.Lowest = 0, 0 })
		if tt.heard > "07:50:00" {
			l.until(tt.heard, expected(1), online(1))
		}
		l.until("13:00:00", silentSince(tt.heard), expected(1))
		if diff := cmp.Diff(tt.want, l.history); diff != "" {
			t.Errorf("last heard %s (-want +got):\n%s", tt.heard, diff)
		}
	}
}

func TestSilenceIsOfOneCauseWhereAllFallSilentAtOnce(t *testing.T) {
	for _, tt := range []struct {
		apart  time.Duration // between the two last heartbeats
		silent bool
	}{
		{0, true},
		{5 * time.Second, true},
		{10 * time.Second, true},
		{15 * time.Second, true},
		{time.Minute, false},
		{5 * time.Minute, false},
		{9 * time.Minute, false},
	} {
		for offset := range 5 {
			l := newLine(t, 5*time.Second, 2, "none")
			l.until("07:20:00")
			second := l.now.Add(time.Duration(offset) * time.Second)
			last := [2]time.Time{second.Add(-tt.apart), second}
			if tt.apart > 20*time.Second {
				last = [2]time.Time{second, second.Add(tt.apart)}
			}
			l.until("07:40:00", func(now time.Time, in *RouteInput) { heardLast(now, in, last) })
			want := []string(nil)
			if tt.silent {
				fires := last[1].Add(45 * time.Second)
				want = []string{fires.Add(4*time.Second).Truncate(5*time.Second).Format("15:04:05 ") + "route_silent"}
			}
			if diff := cmp.Diff(want, l.history); diff != "" {
				t.Errorf("%v apart, offset %d s (-want +got):\n%s", tt.apart, offset, diff)
			}
		}
	}
}

// heardLast is what presence tells of two machines that send every 15 s until their last heartbeat.
func heardLast(now time.Time, in *RouteInput, last [2]time.Time) {
	in.Online, in.Late, in.AllSilentFor = 0, 0, time.Hour
	for _, at := range last {
		silence := max(now.Sub(at), 0)
		in.AllSilentFor = min(in.AllSilentFor, silence)
		if silence <= time.Minute {
			in.Online++
			if silence > 30*time.Second {
				in.Late++
			}
		}
	}
}

// One machine was lost the night before and is still known; of two today one goes to another route, and the other breaks.
func TestOneThatLeavesWhileAnotherBreaksIsNoSilence(t *testing.T) {
	l := newLine(t, 5*time.Second, 2, "none")
	l.in.Known = 3
	l.until("07:20:00")
	breaks := l.now.Add(-4 * time.Second)
	l.until("07:40:00", func(now time.Time, in *RouteInput) {
		heardLast(now, in, [2]time.Time{breaks, breaks})
		in.Known, in.Online, in.Late = 2, in.Online/2, in.Late/2
	})
	l.want()
}

func TestAnUnbrokenBreachFiresAfterItsTimeAtAnyPhase(t *testing.T) {
	for source, takes := range map[string]time.Duration{"hand": 30 * time.Second, "timetable": 8 * time.Minute} {
		for phase := 0; phase < 60; phase += 5 {
			l := newLine(t, 5*time.Second, 10, source)
			l.state.Exact = true
			begin := day.Add(20*time.Minute + time.Duration(phase)*time.Second)
			l.until(begin.Format("15:04:05"))
			l.until("07:40:00", online(4))
			l.want(begin.Add(takes).Format("15:04:05 ") + "route_below")
		}
	}
}

// A source that knows the minute says so: its word counts from the first look, however long its number stays the same.
func TestASourceThatKnowsTheMinuteIsTakenAtItsWordAtOnce(t *testing.T) {
	for _, exact := range []bool{true, false} {
		l := newLine(t, 5*time.Second, 10, "timetable")
		l.in.Exact = exact
		l.until("07:05:00")
		l.until("07:30:00", online(4))
		if want := map[bool][]string{true: {"07:13:00 route_below"}}[exact]; !cmp.Equal(want, l.history) {
			t.Errorf("exact %v: %q, want %q", exact, l.history, want)
		}
	}
}

func TestWhatLeftJustBeforeAnHourMayHaveBeenItsMost(t *testing.T) {
	for _, tt := range []struct {
		leaves string
		from8  int // expected from 08:00 on
		want   []string
	}{
		{"07:52:00", 1, []string{"10:00:00 route_silent"}}, // at 08:01 it would have been no fault
		{"07:48:00", 1, []string{"09:00:00 route_silent"}},
		{"07:52:00", 2, []string{"09:00:00 route_silent"}}, // only one left
	} {
		l := newLine(t, 15*time.Second, 1, "timetable")
		l.now = day.Add(-time.Hour)
		l.until("08:00:00", func(now time.Time, in *RouteInput) {
			if now.Format("15:04:05") >= tt.leaves {
				in.Online, in.Known = 0, 0
			}
		})
		l.until("10:30:00", expected(tt.from8))
		if diff := cmp.Diff(tt.want, l.history); diff != "" {
			t.Errorf("leaves %s, then %d (-want +got):\n%s", tt.leaves, tt.from8, diff)
		}
	}
}

func TestHourlyNumbersAreNotMinutes(t *testing.T) {
	// 3 vehicles at once at some time in each hour; between them the route is empty for half an
	// hour, and it starts only at 07:50.
	l := newLine(t, 15*time.Second, 0, "timetable")
	l.until("07:50:00", expected(3))
	for hour := 8; hour < 12; hour++ {
		l.until(fmt.Sprintf("%02d:10:00", hour), online(3))
		l.until(fmt.Sprintf("%02d:45:00", hour), online(0))
	}
	l.want()
	// Nothing at all from 11:45 on: the hour from 12 is the first that contradicts the number.
	l.until("15:00:00", online(0))
	l.want("13:00:00 route_silent")
}

func TestHourlyNumbersFindAPartialLoss(t *testing.T) {
	l := newLine(t, 15*time.Second, 10, "timetable")
	l.until("09:00:00")
	l.until("12:00:00", online(5))
	l.until("13:00:00", online(9))
	if len(l.history) != 2 || l.history[0] < "10:00:00 route_below" || l.history[0] > "10:30:00 route_below" || l.history[1] != "12:05:00 " {
		t.Errorf("history %v, want too few within an hour and a half, and an end five minutes after", l.history)
	}
}

func TestTooFewByHand(t *testing.T) {
	l := newLine(t, 5*time.Second, 10, "hand")
	l.until("07:21:00")
	l.until("07:30:00", online(6))
	l.until("07:35:00", online(7)) // the threshold is 7: one more is needed
	l.until("07:36:00", online(8))
	l.until("07:36:30", online(7)) // not for long enough
	l.until("07:45:00", online(8))
	l.want("07:21:30 route_below", "07:38:30 ")
}

func TestAFlickerIsNoFault(t *testing.T) {
	l := newLine(t, 5*time.Second, 10, "hand")
	l.until("07:10:00")
	for minute := 10; minute < 40; minute++ {
		l.until(fmt.Sprintf("07:%02d:15", minute), online(5))
		l.until(fmt.Sprintf("07:%02d:59", minute), online(10))
	}
	l.want()
}

func minuteRule(t *testing.T) *Set {
	t.Helper()
	s, err := Parse("r", []byte("route: {for: {m: 10, of: 10, every: 1m}}"), time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestForKeepsItsMinuteOverBlindnessAndRestart(t *testing.T) {
	for _, tt := range []struct {
		name string
		away func(*line) // what happens from 07:27:00 to 07:37:00
		want string      // ten unbroken minutes in all
	}{
		{"no break", func(*line) {}, "07:30:00 route_below"},
		{"blind for ten minutes", func(l *line) { l.until("07:37:00", blind(true)) }, "07:40:05 route_below"},
		{"not running for ten minutes", func(l *line) { l.now = l.now.Add(10 * time.Minute) }, "07:40:05 route_below"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLine(t, 5*time.Second, 10, "hand")
			l.set = minuteRule(t)
			l.until("07:20:00")
			l.until("07:27:00", online(5))
			tt.away(l)
			l.until("07:59:00", blind(false))
			l.want(tt.want)
		})
	}
}

func TestBlindChangesNothing(t *testing.T) {
	l := newLine(t, 5*time.Second, 10, "hand")
	l.until("07:20:00")
	before := l.state
	l.until("07:50:00", blind(true), silentSince("07:20:00"))
	l.want()
	frozen := l.state
	frozen.Frozen = false
	if diff := cmp.Diff(before, frozen); diff != "" {
		t.Errorf("blindness changed the state: %s", diff)
	}
	l.until("08:30:00", blind(false), online(10)) // all are heard again: nothing happened
	l.want()
}

func TestChangeOfHourTakesTheLower(t *testing.T) {
	s, err := Parse("r", []byte("overrides:\n- {hours: ['07-09'], min_online: 10}\n- {hours: ['09-16'], min_online: 4}\n"), time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	l := newLine(t, 15*time.Second, 12, "hand")
	l.set = s
	l.until("08:50:00")
	l.until("12:00:00", online(5)) // they leave ten minutes before the hour
	l.want()
	for clock, want := range map[string]int{"08:49:00": 10, "08:51:00": 4, "09:30:00": 4, "15:55:00": 4} {
		at, err := time.Parse("15:04:05", clock)
		if err != nil {
			t.Fatal(err)
		}
		now := day.Add(time.Duration(at.Hour()-7)*time.Hour + time.Duration(at.Minute())*time.Minute)
		_, v := s.EvaluateRoute(now, l.in, RouteState{})
		if clock == "15:55:00" {
			want = min(4, autoThreshold(12, 0.97, 0.001)) // auto comes after 16:00
		}
		if v.Threshold != want {
			t.Errorf("at %s the threshold is %d, want %d", clock, v.Threshold, want)
		}
	}
}

func TestOffEndsWhatFires(t *testing.T) {
	l := newLine(t, 5*time.Second, 10, "hand")
	l.until("07:20:00")
	l.until("07:30:00", silentSince("07:20:00"))
	s, err := Parse("r", []byte("route: {off: true}"), time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	l.set = s
	l.until("07:40:00", silentSince("07:20:00"))
	l.want("07:20:45 route_silent", "07:30:00 ")
}

func TestClockGoingBackALittleDecidesNothing(t *testing.T) {
	l := newLine(t, 5*time.Second, 10, "hand")
	l.until("07:20:00")
	next, v := l.set.EvaluateRoute(l.now.Add(-30*time.Second), RouteInput{Route: "36", Source: "hand", Expected: 10, ExpectedNow: 10, Lowest: 10}, l.state)
	if v.Firing || !reflect.DeepEqual(next, l.state) {
		t.Errorf("verdict %+v and another state at a time that was decided", v)
	}
}

func TestStatesAreRefusedWhereTheyWouldBeMisread(t *testing.T) {
	for in, want := range map[string]string{
		`{"version":2,"routes":{}}`:                            "version 2 is not 1",
		`{"version":1,"routes":{"a":{"peaks":[1,2,3,4,5,6]}}}`: `route "a": 6 quarters of an hour are more than 5`,
		`{"version":1,"routes":{"a":{"best":-1}}}`:             `the number -1 is negative`,
		`{"version":1,"routes":{"a":{"seen":"yesterday"}}}`:    "read rule states",
		`{"version":1} {}`:                                     "after top-level value",
		`[]`:                                                   "read rule states",
	} {
		var s States
		if err := json.Unmarshal([]byte(in), &s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", in, err, want)
		}
	}
	b, err := json.Marshal(States{Routes: map[string]RouteState{"idle": {}, "b": {Kind: faults.RouteSilent}}})
	if err != nil || strings.Contains(string(b), "idle") || !strings.Contains(string(b), "route_silent") {
		t.Errorf("%s, %v: want b without what is idle", b, err)
	}
}

func FuzzStates(f *testing.F) {
	f.Add([]byte(`{"version":1,"routes":{"36":{"seen":"2026-11-23T07:00:00Z","window":7,"peaks":[1,2],"quarter":3}},"causes":{"growing":"2026-11-23T07:00:00Z"}}`))
	f.Add([]byte(`{"version":1,"routes":{"36":{"kind":"route_silent","empty":"2026-11-23T07:00:00Z","wanted":"0001-01-01T00:00:00Z"}}}`))
	f.Add([]byte(`{"version":1,"causes":{"outages":[{"subject":{"depot":"n"},"begun":"2026-11-23T07:00:00Z","peak":-9}],"fresh":-3}}`))
	set := Default(time.UTC)
	f.Fuzz(func(t *testing.T, b []byte) {
		var s States
		if s.UnmarshalJSON(b) != nil {
			return
		}
		for route, st := range s.Routes {
			for i := range 8 {
				in := RouteInput{Route: route, Known: 3, Expected: 3, ExpectedNow: 3, Lowest: 3, Source: "timetable", AllSilentFor: time.Minute, Blind: i == 3}
				st, _ = set.EvaluateRoute(day.Add(time.Duration(i)*20*time.Minute), in, st)
			}
			if err := st.check(); err != nil {
				t.Fatalf("evaluating made a state that is refused: %v", err)
			}
		}
		set.EvaluateCauses(day, &presence.Survey{All: presence.Tally{Known: 9, Lost: 9, Fresh: 9}}, false, s.Causes)
	})
}

func BenchmarkEvaluate5000Routes(b *testing.B) {
	set := Default(berlin(b))
	const routes = 5000
	states := make([]RouteState, routes)
	in := make([]RouteInput, routes)
	for i := range in {
		in[i] = RouteInput{Route: fmt.Sprint(i), Online: i % 40, Known: i % 40, Expected: i % 40, ExpectedNow: i % 40, Lowest: i % 40, Source: "timetable"}
	}
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		now := day.Add(time.Duration(n) * 5 * time.Second)
		for i := range in {
			states[i], _ = set.EvaluateRoute(now, in[i], states[i])
		}
	}
}

// A timetable that knew the minutes expires, and history knows hours only: the greatest number of an hour is not asked for at every minute.
func TestAnotherSourceMayNotKnowMinutes(t *testing.T) {
	l := newLine(t, 15*time.Second, 6, "timetable")
	l.until("07:10:00", func(_ time.Time, in *RouteInput) { in.Expected, in.ExpectedNow, in.Lowest = 10, 6, 6 })
	l.until("12:00:00", func(_ time.Time, in *RouteInput) {
		in.Source, in.Expected, in.ExpectedNow, in.Lowest, in.Online = "history", 10, 10, 10, 6
		if in.Online = 6; l.now.Minute() < 20 {
			in.Online = 10
		}
	})
	l.want()
}
