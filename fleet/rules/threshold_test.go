package rules

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestAThresholdSaysWhatSetsIt(t *testing.T) {
	text := `
overrides:
  - {routes: [b], hours: ["08-09"], min_online: 3}
  - {routes: [c], min_ratio: 0.5}
  - {routes: [d], off: true}
`
	set := parsed(t, text)
	hand := func(route string, n, low int) RouteInput {
		return RouteInput{Route: route, Expected: n, ExpectedNow: n, Lowest: n, Low: low, Source: "hand"}
	}
	for _, tt := range []struct {
		name   string
		at     time.Duration // after 07:00
		in     RouteInput
		demand int
		below  int
		basis  Basis
	}{
		{"auto", 30 * time.Minute, hand("a", 12, 0), 12, 9, BasisAuto},
		{"learned", 30 * time.Minute, hand("a", 12, 7), 12, 7, BasisLearned},
		{"a learned number above it changes nothing", 30 * time.Minute, hand("a", 12, 9), 12, 9, BasisAuto},
		{"a number of its own", 90 * time.Minute, hand("b", 12, 1), 12, 3, BasisMinOnline},
		{"the lower of two for ten minutes", 55 * time.Minute, hand("b", 12, 0), 12, 3, BasisMinOnline},
		{"and no longer", 45 * time.Minute, hand("b", 12, 0), 12, 9, BasisAuto},
		{"a share", 30 * time.Minute, hand("c", 11, 1), 11, 6, BasisMinRatio},
		{"off", 30 * time.Minute, hand("d", 11, 0), 11, 0, BasisOff},
		{"nobody expected", 30 * time.Minute, hand("a", 0, 0), 0, 0, BasisNobody},
		{"nobody knows", 30 * time.Minute, RouteInput{Route: "a", Source: "none"}, 0, 0, BasisUnknown},
		{"nobody knows, and a number of its own", 90 * time.Minute, RouteInput{Route: "b", Source: "none"}, 0, 3, BasisMinOnline},
		{"the lower of now and around", 30 * time.Minute, RouteInput{Route: "a", Expected: 12, ExpectedNow: 12, Lowest: 2, Source: "hand"}, 2, 1, BasisAuto},
	} {
		got := set.Threshold(day.Add(tt.at), tt.in)
		if got.Below != tt.below || got.Basis != tt.basis || got.Demand != tt.demand {
			t.Errorf("%s: fewer than %d by %s of %d, want %d by %s of %d", tt.name, got.Below, got.Basis, got.Demand, tt.below, tt.basis, tt.demand)
		}
	}
}

// What is shown is what is decided by.
func TestAThresholdIsThatOfAnEvaluation(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ready := drawRule(t).Rule
		set, err := compile(time.UTC, ready, MachineRules{}, PlatformRule{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		n := rapid.IntRange(0, 200).Draw(t, "expected")
		in := RouteInput{
			Route: "a", Online: n, Known: n, Expected: n, ExpectedNow: n, Lowest: rapid.IntRange(0, n).Draw(t, "lowest"), Exact: true,
			Low: rapid.IntRange(0, 60).Draw(t, "low"), Source: rapid.SampledFrom(Sources()).Draw(t, "source"),
		}
		at := day.Add(time.Duration(rapid.IntRange(0, 24*3600).Draw(t, "second")) * time.Second)
		_, v := set.EvaluateRoute(at, in, RouteState{})
		if got := set.Threshold(at, in); got.Below != v.Threshold {
			t.Fatalf("%+v at %s: shown %d, decided by %d", in, at, got.Below, v.Threshold)
		}
	})
}
