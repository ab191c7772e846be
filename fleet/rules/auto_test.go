package rules

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// drawRule draws a rule whose threshold follows the demand.
func drawRule(t *rapid.T) *readyRule {
	r, _, _, _ := defaults()
	if rapid.Bool().Draw(t, "ratio") {
		r.MinRatio = rapid.Float64Range(0.01, 1).Draw(t, "min_ratio")
	} else {
		r.Availability = rapid.Float64Range(0.5, 0.999).Draw(t, "availability")
		r.FalseAlarms = rapid.Float64Range(0.000001, 0.2).Draw(t, "false_alarms")
	}
	return newReadyRules().of(r)
}

func TestThresholdGrowsWithTheDemandAndStaysBelowIt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := drawRule(t)
		low := rapid.IntRange(0, 60).Draw(t, "low")
		last := 0
		for demand := range rapid.IntRange(1, 2*tabled).Draw(t, "demand") + 1 {
			got := r.threshold(demand, true, low)
			if got < last {
				t.Fatalf("demand %d: threshold %d after %d", demand, got, last)
			}
			if got > demand {
				t.Fatalf("demand %d: threshold %d is above it", demand, got)
			}
			if r.MinRatio == 0 && low > 0 && got > low {
				t.Fatalf("demand %d: threshold %d is above the learned %d", demand, got, low)
			}
			last = got
		}
	})
}

// What is worked out at once and what is worked out again are the same.
func TestTheTableOfThresholds(t *testing.T) {
	r, _, _, _ := defaults()
	ready := newReadyRules().of(r)
	for n := range 2 * tabled {
		if got, want := ready.threshold(n, true, 0), autoThreshold(n, r.Availability, r.FalseAlarms); got != want {
			t.Errorf("demand %d: %d, want %d", n, got, want)
		}
	}
}

// The definition itself, summed in another way: the largest k with P(online <= k) below the budget is one less
// than the threshold.
func TestAutoIsTheLargestUnderTheBudget(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 120).Draw(t, "n")
		p := rapid.Float64Range(0.5, 0.999).Draw(t, "p")
		budget := rapid.Float64Range(0.000001, 0.2).Draw(t, "budget")
		atMost := func(k int) float64 { // P(online <= k)
			sum := 0.0
			for i := 0; i <= k; i++ {
				logC, _ := math.Lgamma(float64(n + 1))
				a, _ := math.Lgamma(float64(i + 1))
				b, _ := math.Lgamma(float64(n - i + 1))
				sum += math.Exp(logC - a - b + float64(i)*math.Log(p) + float64(n-i)*math.Log1p(-p))
			}
			return sum
		}
		k := autoThreshold(n, p, budget) - 1
		const slack = 1e-9 // two ways to sum
		if k >= 0 && atMost(k) >= budget*(1+slack) {
			t.Errorf("n %d p %v: P(online <= %d) is %v, not under %v", n, p, k, atMost(k), budget)
		}
		if k+1 < n && atMost(k+1) < budget*(1-slack) {
			t.Errorf("n %d p %v: P(online <= %d) is %v, under %v: the threshold %d is too low", n, p, k+1, atMost(k+1), budget, k+1)
		}
	})
}

// Healthy machines, each heard for its share of the time: a look finds fewer than the threshold
// no oftener than the budget says.
func TestFalseAlarmsOfHealthyMachinesStayUnderTheBudget(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 40).Draw(t, "n")
		p := rapid.Float64Range(0.8, 0.99).Draw(t, "p")
		budget := rapid.Float64Range(0.001, 0.1).Draw(t, "budget")
		threshold := autoThreshold(n, p, budget)
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		const looks = 10_000
		alarms := 0
		for range looks {
			online := 0
			for range n {
				if random.Float64() < p {
					online++
				}
			}
			if online < threshold {
				alarms++
			}
		}
		// Six standard deviations over the budget happen to nobody.
		limit := looks*budget + 6*math.Sqrt(looks*budget*(1-budget))
		if float64(alarms) > limit {
			t.Errorf("%d of %d looks at %d machines heard for %v alarm, budget %v", alarms, looks, n, p, budget)
		}
	})
}

// The learned low quantile bounds what is worked out, and not what a person set.
func TestTheLearnedLowBoundsAuto(t *testing.T) {
	at := day.Add(90 * time.Minute)
	in := RouteInput{Route: "a", Online: 10, Known: 12, Expected: 12, ExpectedNow: 12, Lowest: 12, Source: "hand"}
	for _, tt := range []struct {
		text      string
		low, want int
	}{
		{"", 0, 9},
		{"", 7, 7},
		{"", 9, 9},
		{"", 30, 9},
		{"route: {min_ratio: 0.9}", 7, 11},
		{"route: {min_online: 11}", 7, 11},
	} {
		in.Low = tt.low
		if _, v := parsed(t, tt.text).EvaluateRoute(at, in, RouteState{}); v.Threshold != tt.want {
			t.Errorf("%q with low %d: threshold %d, want %d", tt.text, tt.low, v.Threshold, tt.want)
		}
	}
}
