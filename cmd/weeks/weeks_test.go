package main

import (
	"bytes"
	"encoding/json"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/farebeat/farebeat/fleet/rules"
)

// Two days with three outages: the short run of what scripts/weeks does for three weeks. The race detector, which slows it
// down several times and has one goroutine to look at, gets one.
func TestTwoDaysFindTheirOutagesAndCryNoWolf(t *testing.T) {
	days := 2
	if underRace {
		days = 1
	}
	p, err := simulate(t.Context(), options{days: days, outages: 3, availability: 0.97, seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if err := p.write(&text, false); err != nil {
		t.Fatal(err)
	}
	t.Logf("\n%s", &text)
	if !p.Met || p.Found != 3 || p.RouteFaults != 3 || len(p.False) != 0 {
		t.Error("an outage was not found in time, or a route fault has no outage")
	}
	if p.Machines < 150 || p.Heartbeats < 400_000*days || p.MachineFaults < 100*days {
		t.Error("the run is smaller than so many days of the city")
	}
}

// The measure must see what it is there to see.
func TestTheMeasureSeesSleepAndWolves(t *testing.T) {
	for _, tt := range []struct {
		name, rules string
		outages     int
		want        string
	}{
		{"rules that sleep", "route: {off: true}", 2, "NOT FOUND"},
		{"rules that cry", "route: {never_heard_after: 1m, auto: {false_alarms: 0.1}, for: {m: 1, of: 1, every: 5s}}", 0, "FALSE"},
	} {
		if underRace {
			break // the same code as above
		}
		var out, problems bytes.Buffer
		o := options{days: 1, outages: tt.outages, availability: 0.97, seed: 1, rules: []byte(tt.rules)}
		if code := measure(t.Context(), o, &out, &problems); code != exitMissed || !strings.Contains(out.String(), tt.want) {
			t.Errorf("%s: exit code %d, want %d and %q in:\n%s%s", tt.name, code, exitMissed, tt.want, &out, &problems)
		}
	}
}

func TestARunIsItsSeed(t *testing.T) {
	var first string
	for range 2 {
		c, err := newCity(t.Context(), options{days: 1, outages: 3, availability: 0.9, seed: 7})
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(c.outages)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range c.machines {
			b = append(b, m.id...)
			for _, d := range append(m.down, m.cut...) {
				b = append(b, d.from.String()...)
			}
		}
		if first != "" && first != string(b) {
			t.Fatal("two cities of one seed differ")
		}
		first = string(b)
	}
}

func TestMachinesAreUpForTheShareTheyShould(t *testing.T) {
	c := &city{length: 2000 * 24 * time.Hour}
	for range 20 {
		c.machines = append(c.machines, &machine{})
	}
	c.wear(rand.New(rand.NewPCG(1, 1)), 0.97)
	var down time.Duration
	n := 0
	for _, m := range c.machines {
		for _, d := range m.down {
			down += min(d.to, c.length) - max(d.from, 0)
			n++
		}
	}
	if share := 1 - float64(down)/float64(20*c.length); math.Abs(share-0.97) > 0.001 {
		t.Errorf("up for %.4f of the time, want 0.97", share)
	}
	if mean := down / time.Duration(n); (mean - meanDown).Abs() > time.Minute {
		t.Errorf("down for %v at a time, want %v", mean, meanDown)
	}
}

// What is drawn is what the words of outage say, and buses are late within their bounds.
func TestTheCityIsAsDescribed(t *testing.T) {
	c, err := newCity(t.Context(), options{days: 7, outages: 10, availability: 0.97, seed: 3})
	if err != nil {
		t.Fatal(err)
	}
	whole := 0
	for _, o := range c.outages {
		if o.to-o.from < shortest || o.to-o.from > longest {
			t.Errorf("an outage of %v", o.to-o.from)
		}
		if o.Share == 1 {
			whole++
		}
		for at := o.from; at < o.to; at += time.Minute {
			present, cut := 0, 0
			for _, m := range c.machines {
				if len(m.visits(o.Route, span{at, at + 1})) > 0 {
					present++
					if within(m.cut, at) {
						cut++
					}
				}
			}
			if o.Share == 1 && cut != present || at == o.from && float64(cut) < o.Share*float64(present) {
				t.Errorf("route %s at %s: %d of %d are cut, want a share of %g", o.Route, c.start.Add(at), cut, present, o.Share)
			}
		}
	}
	if whole != 6 || len(c.outages) != 10 {
		t.Errorf("%d whole ones of %d, want 6 of 10", whole, len(c.outages))
	}
	for _, m := range c.machines {
		var end time.Duration = math.MinInt64
		for _, s := range m.shifts {
			if s.from < end || s.legs[0].from != s.from || s.legs[len(s.legs)-1].to != s.to {
				t.Fatalf("machine %s: shift %+v after one that ends at %v", m.id, s, end)
			}
			for i, l := range s.legs {
				if l.to <= l.from || i > 0 && l.from != s.legs[i-1].to {
					t.Fatalf("machine %s: leg %+v", m.id, l)
				}
			}
			end = s.to
		}
	}
}

func TestThresholdIsTheRulesOwn(t *testing.T) {
	set := rules.Default(time.UTC)
	rule := set.Rule("1", time.Unix(0, 0), "timetable")
	for n := range 60 {
		in := rules.RouteInput{Route: "1", Online: n, Known: n, Expected: n + 1, ExpectedNow: n, Lowest: n, Source: "timetable"}
		if _, v := set.EvaluateRoute(time.Unix(0, 0), in, rules.RouteState{}); v.Threshold != threshold(rule, n) {
			t.Errorf("of %d: the rule's threshold is %d, by its words it is %d", n, v.Threshold, threshold(rule, n))
		}
	}
}

func TestBadOptions(t *testing.T) {
	for _, o := range []options{{days: 0, availability: 0.9}, {days: 7, outages: -1, availability: 0.9}, {days: 7, availability: 1}, {days: 7, availability: math.NaN()}} {
		if o.check() == nil {
			t.Errorf("%+v was taken", o)
		}
	}
	_, err := newCity(t.Context(), options{days: 1, outages: 1000, availability: 0.97, seed: 1})
	if err == nil || !strings.Contains(err.Error(), "too short") {
		t.Errorf("a thousand outages of one day: %v", err)
	}
}
