package replay_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/farebeat/farebeat/fleet"
	"github.com/farebeat/farebeat/fleet/counts"
	"github.com/farebeat/farebeat/fleet/expect"
	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/replay"
	"github.com/farebeat/farebeat/fleet/rules"
	"github.com/farebeat/farebeat/fleet/store"
	"github.com/farebeat/farebeat/schemas"
)

var dawn = time.Date(2026, 11, 23, 5, 0, 0, 0, time.UTC)

// outage is a part of a route's machines that is not heard from one time to another.
type outage struct {
	route    string
	machines int // the first of them
	from, to time.Duration
}

// city is a fleet that ran, and left its minutes and faults in a store.
type city struct {
	store *store.Store
	hours []expect.RouteHour
	end   time.Time
}

// live runs a city for a time with the real engine and a real store. What is expected was set by hand.
func live(t testing.TB, set *rules.Set, routes map[string]int, length time.Duration, blind func(time.Duration) bool, outages ...outage) *city {
	t.Helper()
	return liveWith(t, byHand, set, routes, length, blind, outages)
}

func byHand(t testing.TB, rows []expect.RouteHour) expect.Source {
	t.Helper()
	return expect.NewByHand(rows, time.UTC)
}

// hourly is a timetable of which only the most in each hour is known.
func hourly(t testing.TB, rows []expect.RouteHour) expect.Source {
	t.Helper()
	var b strings.Builder
	b.WriteString("route_id,hour,expected_vehicles_in_service\n")
	for _, r := range rows {
		fmt.Fprintf(&b, "%s,%d,%d\n", r.Route, r.Hour, r.Vehicles)
	}
	table, err := expect.ReadTimetable("t.csv", strings.NewReader(b.String()), time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func liveWith(t testing.TB, source func(testing.TB, []expect.RouteHour) expect.Source, set *rules.Set, routes map[string]int, length time.Duration, blind func(time.Duration) bool, outages []outage) *city {
	t.Helper()
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "farebeat.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	c := &city{store: db, end: dawn.Add(length)}
	for route, n := range routes {
		for h := range 24 {
			c.hours = append(c.hours, expect.RouteHour{Route: route, Hour: h, Vehicles: n})
		}
	}
	engine := fleet.NewEngine(fleet.EngineConfig{
		Location: time.UTC, Interval: 15 * time.Second, Expect: source(t, c.hours), Rules: set,
	}, dawn)
	var seq uint64
	for at := time.Duration(0); at <= length; at += 5 * time.Second {
		now := dawn.Add(at)
		if at%time.Minute == 0 && at > 0 {
			if err := db.Counts().SaveFrame(t.Context(), engine.Minute(now)); err != nil {
				t.Fatal(err)
			}
		}
		engine.SetBlind(now, blind(at))
		if !blind(at) {
			for route, n := range routes {
				for i := range n {
					away := slices.ContainsFunc(outages, func(o outage) bool {
						return o.route == route && i < o.machines && at >= o.from && at < o.to
					})
					if away || (int(at/(5*time.Second))+i)%3 != 0 {
						continue
					}
					seq++
					payload := schemas.AppendHeartbeat(nil, &schemas.Heartbeat{Seq: seq, Boot: "b", At: now, Vehicle: fmt.Sprint("v", i), Route: route, State: schemas.Running})
					if err := engine.Heartbeat(now, fmt.Sprintf("%s-%d", route, i), payload); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		if err := db.Faults().Save(t.Context(), engine.Round(now, nil).Changes...); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func neverBlind(time.Duration) bool { return false }

// replay judges all of a city but its first ten minutes.
func (c *city) replay(t testing.TB, set *rules.Set, change func(*replay.Options)) *replay.Report {
	t.Helper()
	o := replay.Options{From: dawn.Add(10 * time.Minute), To: c.end.Add(time.Second), Location: time.UTC, Rules: set, Expect: expect.NewByHand(c.hours, time.UTC)}
	if change != nil {
		change(&o)
	}
	r, err := replay.Run(t.Context(), c.store.Counts(), c.store.Faults(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// story tells a report in words.
func story(r *replay.Report) []string {
	var out []string
	for _, o := range r.Faults {
		was := "live"
		if len(o.Live) == 0 {
			was = "new"
		}
		closed := "open"
		if o.Fault.Ended() {
			closed = o.Fault.ClosedAt.Format("15:04")
		}
		out = append(out, fmt.Sprintf("%s %s %s-%s %s %d", o.Fault.Kind, o.Fault.Subject.Route, o.Fault.OpenedAt.Format("15:04"), closed, was, len(o.Pages)))
	}
	for _, f := range r.Missed {
		out = append(out, fmt.Sprintf("missed %s %s", f.Subject.Route, f.OpenedAt.Format("15:04")))
	}
	return out
}

func wantStory(t *testing.T, r *replay.Report, want ...string) {
	t.Helper()
	if got := story(r); !slices.Equal(got, want) {
		t.Errorf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

func parse(t testing.TB, text string) *rules.Set {
	t.Helper()
	s, err := rules.Parse("r", []byte(text), time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func day(t testing.TB) *city {
	return live(t, rules.Default(time.UTC), map[string]int{"A": 10, "B": 6, "C": 4}, 5*time.Hour,
		func(at time.Duration) bool { return at >= 3*time.Hour && at < 200*time.Minute },
		outage{"A", 4, time.Hour, 80 * time.Minute},
		outage{"A", 5, 86 * time.Minute, 96 * time.Minute}, // within ten minutes: the same fault again
		outage{"B", 6, 2 * time.Hour, 135 * time.Minute},
		outage{"C", 1, 0, 5 * time.Hour},
		outage{"A", 5, 4 * time.Hour, 245 * time.Minute},
		outage{"B", 3, 290 * time.Minute, 6 * time.Hour})
}

func TestTheSameRulesFireTheSameFaults(t *testing.T) {
	c := day(t)
	stored, err := c.store.Faults().List(t.Context(), faults.Query{Kinds: []faults.Kind{faults.RouteBelow, faults.RouteSilent}})
	if err != nil || len(stored) != 4 {
		t.Fatalf("%d route faults fired live (%v), want 4", len(stored), err)
	}
	var progress, total int
	r := c.replay(t, rules.Default(time.UTC), func(o *replay.Options) { o.Progress = func(d, n int) { progress, total = d, n } })
	wantStory(t, r,
		"route_below A 06:01-06:48 live 2", "route_silent B 07:00-07:17 live 1", "route_below A 09:01-09:07 live 1", "route_below B 09:51-open live 1")
	if r.Live != 4 || r.New() != 0 || r.Pages() != 5 || r.Routes != 3 || r.RouteMinutes != 3*(291-20) || r.BlindMinutes != 3*20 {
		t.Errorf("%+v, %d new, %d pages", r, r.New(), r.Pages())
	}
	if progress != total || total != 300 {
		t.Errorf("progress ended at %d of %d minutes, want 300", progress, total)
	}
	for _, o := range r.Faults {
		i := slices.IndexFunc(stored, func(f faults.Fault) bool { return f.ID == o.Live[0] })
		if late := o.Fault.OpenedAt.Sub(stored[i].OpenedAt); i < 0 || late.Abs() > time.Minute || stored[i].Kind != o.Fault.Kind {
			t.Errorf("%s of %s opened %v later than live", o.Fault.Kind, o.Fault.Subject.Route, late)
		}
	}
	if want := []replay.Day{{Date: "2026-11-23", Route: "A", Faults: 2, Pages: 3}, {Date: "2026-11-23", Route: "B", Faults: 2, Pages: 2}}; !slices.Equal(r.Days, want) {
		t.Errorf("days %+v, want %+v", r.Days, want)
	}
	if got, want := r.Per100(4), 4/(813.0/10080)*100; got != want {
		t.Errorf("%v faults for 100 route-weeks, want %v", got, want)
	}
}

func TestOtherRulesMissAndFind(t *testing.T) {
	c := day(t)
	patient := parse(t, "route: {for: {m: 10, of: 10, every: 1m}, never_heard_after: 1h, silent_after: 1h}")
	wantStory(t, c.replay(t, patient, nil), "route_below A 06:11-06:22 live 1", "route_silent B 07:10-07:17 live 1", "missed A 09:01", "missed B 09:51")
	sharp := parse(t, "overrides: [{routes: [C], min_online: 4}, {routes: [B], off: true}]")
	r := c.replay(t, sharp, nil)
	wantStory(t, r, "route_below A 06:01-06:48 live 2", "route_below A 09:01-09:07 live 1", "missed B 07:00", "missed B 09:51")
	if len(r.Standing) != 1 || r.Standing[0].Fault.Subject.Route != "C" || len(r.Standing[0].Pages) != 0 {
		t.Errorf("standing when the time began: %+v, want route C, and no page", r.Standing)
	}
	new4 := c.replay(t, parse(t, "overrides: [{routes: [C], hours: ['07-09'], min_online: 4}]"), func(o *replay.Options) { o.Route = "C" })
	if got := story(new4); len(got) != 1 || !strings.HasPrefix(got[0], "route_below C 07:10-") || new4.New() != 1 {
		t.Errorf("%q: want one new fault of C", got)
	}
	only := c.replay(t, rules.Default(time.UTC), func(o *replay.Options) { o.Route = "B" })
	wantStory(t, only, "route_silent B 07:00-07:17 live 1", "route_below B 09:51-open live 1")
}

// Days with outages at random: what fired live fires in the replay, within a minute, and nothing else does.
func TestRandomDaysAreReplayedAsTheyWere(t *testing.T) {
	minute := "route: {for: {m: 4, of: 5, every: 1m}, keep_firing_for: 5m}"
	for _, tt := range []struct {
		name   string
		rules  string
		source func(testing.TB, []expect.RouteHour) expect.Source
		change func(*replay.Options)
		shift  time.Duration // by how much an opening may differ
	}{
		{"a look every 10 s", "", byHand, func(o *replay.Options) { o.Expect, o.Source = nil, expect.SourceHand }, time.Minute},
		{"a look every minute", minute, byHand, func(o *replay.Options) { o.Expect, o.Source = nil, expect.SourceHand }, time.Minute},
		{"the most in an hour", "", hourly, func(o *replay.Options) { o.Expect = nil }, time.Minute},
	} {
		t.Run(tt.name, func(t *testing.T) {
			random := rand.New(rand.NewPCG(7, 1))
			routes := map[string]int{}
			var outages []outage
			for i := range 5 {
				name := fmt.Sprint("R", i)
				routes[name] = 2 + random.IntN(14)
				for at := 80 * time.Minute; at < 8*time.Hour; {
					at += time.Duration(random.IntN(90*60)) * time.Second
					end := at + 3*time.Minute + time.Duration(random.IntN(100*60))*time.Second
					outages = append(outages, outage{name, 1 + random.IntN(routes[name]), at, end})
					at = end
				}
			}
			c := liveWith(t, tt.source, parse(t, tt.rules), routes, 8*time.Hour, neverBlind, outages)
			r := c.replay(t, parse(t, tt.rules), tt.change)
			if r.Live < 4 || len(r.Faults) != r.Live || r.New() > 0 || len(r.Missed) > 0 {
				t.Fatalf("%d fired live, in the replay\n%s", r.Live, strings.Join(story(r), "\n"))
			}
			for _, o := range r.Faults {
				stored, _, err := c.store.Faults().Get(t.Context(), o.Live[0])
				if err != nil {
					t.Fatal(err)
				}
				if late := o.Fault.OpenedAt.Sub(stored.OpenedAt); late.Abs() > tt.shift {
					t.Errorf("%s of %s opened at %v, %v later than live", o.Fault.Kind, o.Fault.Subject.Route, o.Fault.OpenedAt, late)
				}
				if late := o.Fault.ClosedAt.Sub(stored.ClosedAt); o.Fault.Ended() != stored.Ended() || late.Abs() > 2*tt.shift {
					t.Errorf("%s of %s closed at %v, %v later than live", o.Fault.Kind, o.Fault.Subject.Route, o.Fault.ClosedAt, late)
				}
			}
		})
	}
}

// Where nobody says again what was expected, the number in the minutes is that of an hour.
func TestTheExpectationInTheMinutes(t *testing.T) {
	c := day(t)
	timetable := c.replay(t, rules.Default(time.UTC), func(o *replay.Options) { o.Expect = nil })
	if got := story(timetable); len(got) != 4 || !strings.HasPrefix(got[0], "route_silent B") {
		t.Errorf("%q: want route B silent, and nothing of outages shorter than an hour", got)
	}
	hand := c.replay(t, rules.Default(time.UTC), func(o *replay.Options) { o.Expect, o.Source = nil, expect.SourceHand })
	if len(hand.Missed) != 0 || hand.New() != 0 || len(hand.Faults) != 4 {
		t.Errorf("%q", story(hand))
	}
}

// What a platform fault explained live pages nobody in a replay either.
func TestFoldedUnderThePlatform(t *testing.T) {
	routes := map[string]int{}
	var outages []outage
	for i := range 6 {
		route := fmt.Sprint("R", i)
		routes[route] = 6
		outages = append(outages, outage{route, 6, time.Hour, 80 * time.Minute})
	}
	c := live(t, rules.Default(time.UTC), routes, 2*time.Hour, neverBlind, outages...)
	r := c.replay(t, rules.Default(time.UTC), nil)
	if len(r.Faults) != 6 || r.New() != 0 || len(r.Missed) != 0 || r.Pages() != 0 {
		t.Errorf("%q: %d pages; want six faults that were live, and no page", story(r), r.Pages())
	}
}

// In the first minute of a store machines come: the least in it is before the most, and no silence after it.
func TestTheFirstMinuteOfAStoreIsNoSilence(t *testing.T) {
	c := live(t, rules.Default(time.UTC), map[string]int{"A": 6, "B": 4}, 30*time.Minute, neverBlind, outage{"A", 6, 0, 20 * time.Second}, outage{"B", 4, 0, 20 * time.Second})
	wantStory(t, c.replay(t, rules.Default(time.UTC), func(o *replay.Options) { o.From = dawn }))
}

// In a maintenance window nobody would have been told.
func TestReplayKnowsMaintenance(t *testing.T) {
	c := live(t, rules.Default(time.UTC), map[string]int{"A": 10}, 2*time.Hour, neverBlind, outage{"A", 5, time.Hour, 80 * time.Minute})
	r := c.replay(t, parse(t, "maintenance: [{name: works, hours: '00:00-24:00'}]"), nil)
	if len(r.Faults) != 1 || r.Pages() != 0 {
		t.Errorf("%q: %d pages; want one fault and no page", story(r), r.Pages())
	}
}

func TestNoHistory(t *testing.T) {
	c := live(t, rules.Default(time.UTC), map[string]int{"A": 2}, 3*time.Minute, neverBlind)
	_, err := replay.Run(t.Context(), c.store.Counts(), c.store.Faults(), replay.Options{From: dawn.Add(time.Hour), To: dawn.Add(2 * time.Hour), Location: time.UTC, Rules: rules.Default(time.UTC)})
	if !errors.Is(err, replay.ErrNoHistory) {
		t.Errorf("%v, want %v", err, replay.ErrNoHistory)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = replay.Run(gone, c.store.Counts(), c.store.Faults(), replay.Options{From: dawn, To: dawn.Add(time.Hour), Location: time.UTC, Rules: rules.Default(time.UTC)})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want %v", err, context.Canceled)
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func BenchmarkReplay(b *testing.B) {
	const routes, minutes = 200, 24 * 60
	for _, bb := range []struct{ name, source string }{{"every 10s", expect.SourceHand}, {"every 1m", expect.SourceTimetable}} {
		b.Run(bb.name, func(b *testing.B) {
			db, err := store.Open(b.Context(), filepath.Join(b.TempDir(), "farebeat.db"), store.Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer db.Close()
			f := counts.Frame{Rows: make([]counts.RouteMinute, routes)}
			for m := range minutes {
				f.At = dawn.Add(time.Duration(m) * time.Minute)
				for i := range f.Rows {
					n := 10 + i%20
					if (m+i*7)%400 < 30 {
						n = 5
					}
					f.Rows[i] = counts.RouteMinute{Route: fmt.Sprint("R", i), Online: n, Min: n - b2i(m%10 == i%10), Max: n, Known: 10 + i%20, Expected: 10 + i%20}
				}
				if err := db.Counts().SaveFrame(b.Context(), f); err != nil {
					b.Fatal(err)
				}
			}
			o := replay.Options{From: dawn, To: dawn.Add(24 * time.Hour), Location: time.UTC, Rules: rules.Default(time.UTC), Source: bb.source}
			n := 0
			for b.Loop() {
				r, err := replay.Run(b.Context(), db.Counts(), db.Faults(), o)
				if err != nil {
					b.Fatal(err)
				}
				n += r.RouteMinutes
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "route-minutes/s")
		})
	}
}
