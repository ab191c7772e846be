package city_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/farebeat/farebeat/edge/machine/city"
	"github.com/farebeat/farebeat/edge/machine/trace"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
)

func TestOrdersFromOutside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := newCity(t, "06:00:00", 10, func(o *city.Options) {
			for i := range 10 {
				o.Duties = append(o.Duties, trip(fmt.Sprint(i), "A", "06:00:00", "08:00:00"))
			}
			o.TapsPerHour = 600
		})
		done := make(chan struct{})
		go func() { defer close(done); live(t, c) }()
		sleep := func(d time.Duration) { time.Sleep(c.Clock().Real(d)); synctest.Wait() }
		sleep(10 * time.Minute)
		c.Inject(city.Outage{Kind: city.Cut, Share: 0.3})
		c.Inject(city.Outage{Kind: city.Stop, Count: 2})
		c.Inject(city.Outage{Kind: city.Cut, Share: 1, Route: "Z"})
		sleep(10 * time.Minute)
		if s := c.Stats(); s.Stopped != 2 || s.Cut != 3 || s.Outages != 3 || s.Missed != 1 || s.Pending == 0 {
			t.Errorf("%+v", s)
		}
		c.StopTaps()
		sleep(time.Second)
		before := c.Stats()
		sleep(10 * time.Minute)
		if s := c.Stats(); s.Written != before.Written || s.Online != before.Online || s.Heartbeats == before.Heartbeats {
			t.Errorf("taps after StopTaps: before %+v, after %+v", before, s)
		}
		c.EndOutages()
		sleep(time.Second)
		if s := c.Stats(); s.Stopped != 0 || s.Cut != 0 || s.On != 10 {
			t.Errorf("%+v", s)
		}
		for _, m := range c.Machines() {
			settle(t, m)
		}
		<-done
		if s := c.Stats(); s.Pending != 0 || s.On != 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestTheCityWaitsForABadNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, e := newCity(t, "06:00:00", 1, func(o *city.Options) {
			o.Duties = []city.Duty{trip("1", "A", "06:00:00", "06:10:00")}
			o.TapsPerHour = 1200
		})
		e.busy = true
		done := make(chan struct{})
		go func() { defer close(done); live(t, c) }()
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		s := c.Stats()
		if s.Reconnects < 8 || s.Heartbeats != 0 || s.Written == 0 || s.Online != 0 {
			t.Errorf("without a network: %+v", s)
		}
		e.set(func() { e.busy, e.deaf = false, true })
		time.Sleep(time.Minute)
		synctest.Wait()
		if s := c.Stats(); s.Failed == 0 || s.Heartbeats != 0 {
			t.Errorf("with a deaf broker: %+v", s)
		}
		e.set(func() { e.deaf = false })
		time.Sleep(time.Minute)
		synctest.Wait()
		if s := c.Stats(); s.Heartbeats < 3 {
			t.Errorf("well again: %+v", s)
		}
		m, _ := c.Machine("1-1")
		settle(t, m)
		<-done
	})
}

func TestTheEndOfTheContextSwitchesAllOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, e := newCity(t, "06:00:00", 1, func(o *city.Options) {
			for i := range 20 {
				o.Duties = append(o.Duties, trip(fmt.Sprint(i), "A", "05:00:00", "20:00:00"))
			}
		})
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		if err := c.Run(ctx); err != nil {
			t.Error(err)
		}
		if len(e.radios) > 0 {
			t.Errorf("%d radios still on", len(e.radios))
		}
		first := map[time.Time]bool{}
		for _, ev := range e.events[:20] {
			first[at(ev[:8])] = true
		}
		if len(first) < 5 {
			t.Errorf("machines already on duty booted at only %d different times", len(first))
		}
		if s := c.Stats(); s.Heartbeats < 350 || s.Heartbeats > 420 {
			t.Errorf("%d heartbeats of 20 machines in 5 minutes", s.Heartbeats)
		}
	})
}

// The same seed gives the same day: taps, fares and victims.
func TestASeedGivesTheSameDayAgain(t *testing.T) {
	run := func(seed uint64) (out []string) {
		synctest.Test(t, func(t *testing.T) {
			c, e := newCity(t, "06:00:00", 10, func(o *city.Options) {
				for i := range 8 {
					o.Duties = append(o.Duties, trip(fmt.Sprint(i), "A", "06:00:00", "07:00:00"))
				}
				o.Seed, o.TapsPerHour = seed, 90
				o.Outages = []city.Outage{{Kind: city.Cut, Share: 0.5, At: at("06:10:00")}}
			})
			ctx, cancel := context.WithTimeout(t.Context(), c.Clock().Real(55*time.Minute))
			defer cancel()
			if err := c.Run(ctx); err != nil {
				t.Error(err)
			}
			for _, a := range c.Audit() {
				out = append(out, fmt.Sprintf("%s %d %d", a.Machine, a.Counters.Written, a.Counters.WrittenMinor))
			}
			_ = e
		})
		return out
	}
	one, again, other := run(1), run(1), run(2)
	if !slices.Equal(one, again) || len(one) != 4 {
		t.Errorf("seed 1 gave %q and then %q", one, again)
	}
	if slices.Equal(one, other) {
		t.Errorf("seeds 1 and 2 gave the same day: %q", one)
	}
}

func TestTapsAreStoredWhileTheLinkIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, e := newCity(t, "06:00:00", 10, func(o *city.Options) {
			o.Duties = []city.Duty{trip("1", "A", "06:00:00", "07:00:00")}
			o.TapsPerHour = 36_000 // ten a second
		})
		done := make(chan struct{})
		go func() { defer close(done); live(t, c) }()
		pass := func(d time.Duration) city.Stats {
			time.Sleep(c.Clock().Real(d))
			synctest.Wait()
			return c.Stats()
		}
		if s := pass(time.Minute); s.Written != 0 || s.Online < 300 {
			t.Errorf("with the broker there %d were stored and %d authorized online", s.Written, s.Online)
		}
		e.set(func() { e.away = true })
		before := c.Stats()
		s := pass(time.Minute)
		if s.Online != before.Online || s.Written < 300 {
			t.Errorf("without the broker %d were stored and %d authorized online", s.Written, s.Online-before.Online)
		}
		e.set(func() { e.away = false })
		if again := pass(time.Minute); again.Written != s.Written || again.Online < s.Online+300 {
			t.Errorf("with the broker back %d were stored and %d authorized online", again.Written-s.Written, again.Online-s.Online)
		}
		m, _ := c.Machine("1-1")
		settle(t, m)
		c.StopTaps()
		<-done
	})
}

func TestATraceDrivesTheCity(t *testing.T) {
	tr, err := trace.ReadFile("../trace/testdata/mbta_20240811_intervals.csv")
	if err != nil {
		t.Fatal(err)
	}
	ivs := tr.Intervals(trace.JoinGap)
	if shifted := city.FromTrace(ivs, day); !shifted[0].From.Equal(day) {
		t.Errorf("shifted to %s the day begins at %s", day, shifted[0].From)
	}
	synctest.Test(t, func(t *testing.T) {
		from, _, _ := tr.Span()
		c, e := newCity(t, "00:00:00", 100, func(o *city.Options) {
			o.Duties, o.Layover, o.Radio = city.FromTrace(ivs, time.Time{}), 0, nil
			o.Clock = city.NewClock(from, 100, time.Now)
		})
		e.clock = c.Clock()
		live(t, c)
		wrong := 0
		for _, h := range e.heard {
			on := slices.ContainsFunc(ivs, func(iv trace.Interval) bool {
				return iv.Vehicle+"-1" == h.machine && iv.Route == h.hb.Route && !h.at.Before(iv.Start()) && h.at.Before(iv.End())
			})
			if on != (h.hb.State == schemas.Running) {
				wrong++
			}
		}
		if wrong > 0 || len(e.heard) < 10000 {
			t.Errorf("%d of %d heartbeats contradict the trace", wrong, len(e.heard))
		}
	})
}

func TestMoneyOfYesterdayIsStillThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "journals")
		run := func(begin string, cut bool) *city.City {
			c, _ := newCity(t, begin, 10, func(o *city.Options) {
				o.Dir = dir
				o.Duties = []city.Duty{trip("a/b", "A", "06:00:00", "10:00:00")}
				o.TapsPerHour = 120
				if cut {
					o.Outages = []city.Outage{{Kind: city.Cut, Share: 1, At: at("06:01:00")}}
				}
			})
			ctx, cancel := context.WithTimeout(t.Context(), c.Clock().Real(30*time.Minute))
			defer cancel()
			if err := c.Run(ctx); err != nil {
				t.Error(err)
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
			return c
		}
		first := run("06:00:00", true).Stats()
		second := run("07:00:00", false).Stats()
		if first.Written == 0 || second.Written != 0 || second.Pending != int(first.Written) {
			t.Errorf("first %+v\nsecond %+v", first, second)
		}
	})
}

func TestBadOptions(t *testing.T) {
	dir := t.TempDir()
	good := func() city.Options {
		tree, err := topics.New("test")
		if err != nil {
			t.Fatal(err)
		}
		return city.Options{
			Clock: city.NewClock(day, 1, time.Now), Tree: tree, Dir: dir, Zone: time.UTC, Key: func(string) []byte { return make([]byte, 32) },
			Connect: func(context.Context, string) (city.Uplink, error) { return nil, os.ErrClosed },
			Duties:  []city.Duty{trip("1", "A", "06:00:00", "07:00:00"), trip("2", "A", "06:00:00", "07:00:00")},
		}
	}
	for name, tc := range map[string]struct {
		spoil func(*city.Options)
		want  string
	}{
		"no clock":       {func(o *city.Options) { o.Clock = nil }, "city: Clock, Dir, Zone, Key and Connect are required"},
		"taps":           {func(o *city.Options) { o.TapsPerHour = -1 }, "city: interval 0s and layover 0s must not be negative, taps per hour -1 between 0 and 100000"},
		"short key":      {func(o *city.Options) { o.Key = func(string) []byte { return nil } }, `city: machine "1-1": options missing or wrong: Key`},
		"two of a name":  {func(o *city.Options) { o.Name = func(string) string { return "m" } }, `city: two vehicles carry a machine "m"`},
		"duty backwards": {func(o *city.Options) { o.Duties[1].To = o.Duties[1].From }, `city: duty of vehicle "2" on route "A" from 2026-11-22T06:00:00Z to 2026-11-22T06:00:00Z: it needs a vehicle, a route and an end after its beginning`},
	} {
		o := good()
		tc.spoil(&o)
		if _, err := city.New(o); err == nil || err.Error() != tc.want {
			t.Errorf("%s: got %v\nwant %s", name, err, tc.want)
		}
	}
	o := good()
	o.Duties[0].Vehicle = "a+b"
	if _, err := city.New(o); err == nil || !strings.Contains(err.Error(), "a+b-1") {
		t.Errorf("an id that no topic can carry: %v", err)
	}
	c, err := city.New(good())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := city.New(good()); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("two cities on one directory: %v", err)
	}
}

func BenchmarkCity(b *testing.B) {
	for _, n := range []int{190, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			tree, err := topics.New("test")
			if err != nil {
				b.Fatal(err)
			}
			sent := make(chan struct{}, 1)
			left := b.N
			var mu sync.Mutex
			up := quick(func() {
				mu.Lock()
				defer mu.Unlock()
				if left--; left == 0 {
					sent <- struct{}{}
				}
			})
			o := city.Options{
				Clock: city.NewClock(day, 1e6, time.Now), Tree: tree, Dir: b.TempDir(), Zone: time.UTC, Key: func(string) []byte { return make([]byte, 32) },
				Connect: func(context.Context, string) (city.Uplink, error) { return up, nil },
			}
			for i := range n {
				o.Duties = append(o.Duties, city.Duty{Vehicle: fmt.Sprint(i), Route: "A", From: day, To: day.AddDate(10, 0, 0)})
			}
			c, err := city.New(o)
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			ctx, cancel := context.WithCancel(b.Context())
			done := make(chan error)
			b.ReportAllocs()
			b.ResetTimer()
			go func() { done <- c.Run(ctx) }()
			<-sent
			b.StopTimer()
			cancel()
			if err := <-done; err != nil {
				b.Fatal(err)
			}
		})
	}
}

type quick func()

func (q quick) Publish(context.Context, string, byte, []byte) error { q(); return nil }
func (q quick) Up() bool                                            { return true }
func (q quick) Cut()                                                {}
func (q quick) Close() error                                        { return nil }
