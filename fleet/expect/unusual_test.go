package expect

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// workday is a network of about 300 vehicles with two peaks, each hour off by some per cent.
func workday(rng *rand.Rand, noise float64) profile {
	var p profile
	for h, n := range []float64{20, 10, 5, 5, 20, 80, 200, 290, 300, 260, 220, 220, 230, 230, 250, 280, 300, 300, 260, 200, 150, 110, 70, 40} {
		p[h] = math.Round(n * (1 + noise*rng.NormFloat64()))
	}
	return p
}

func TestDaysThatDoNotLookLikeTheirType(t *testing.T) {
	scale := func(from, to int, by float64) func(*profile) {
		return func(p *profile) {
			for h := from; h < to; h++ {
				p[h] *= by
			}
		}
	}
	for name, tc := range map[string]struct {
		noise  float64
		change map[int]func(*profile) // by day
		days   int
		want   map[int]verdict
	}{
		"forty days that are alike": {noise: 0.02, days: 40},
		"exactly alike":             {days: 40},
		"a strike":                  {noise: 0.02, days: 40, change: map[int]func(*profile){13: scale(0, 24, 0.4)}, want: map[int]verdict{13: unusual}},
		"snow from five to ten":     {noise: 0.02, days: 40, change: map[int]func(*profile){30: scale(5, 11, 0.6)}, want: map[int]verdict{30: unusual}},
		"an event in the evening":   {noise: 0.02, days: 40, change: map[int]func(*profile){2: scale(18, 24, 1.6)}, want: map[int]verdict{2: unusual}},
		"all three": {
			noise: 0.02, days: 40,
			change: map[int]func(*profile){0: scale(0, 24, 0.1), 7: scale(5, 11, 0.6), 39: scale(18, 24, 1.6)},
			want:   map[int]verdict{0: unusual, 7: unusual, 39: unusual},
		},
		"one Saturday of eight": {noise: 0.03, days: 8, change: map[int]func(*profile){4: scale(0, 24, 0.5)}, want: map[int]verdict{4: unusual}},
		"a noisy network":       {noise: 0.15, days: 40},
		"a part of a day is judged by that part": {
			noise: 0.02, days: 40,
			change: map[int]func(*profile){
				5: scale(0, 20, math.NaN()),
				6: func(p *profile) { scale(0, 18, math.NaN())(p); scale(18, 24, 0.3)(p) },
			},
			want: map[int]verdict{6: unusual},
		},
		"a day that nobody heard": {noise: 0.02, days: 40, change: map[int]func(*profile){5: scale(0, 24, math.NaN())}},
		"Fridays are longer": {
			noise: 0.02, days: 40,
			change: map[int]func(*profile){
				4: scale(18, 24, 1.6), 9: scale(18, 24, 1.6), 14: scale(18, 24, 1.6), 19: scale(18, 24, 1.6), 24: scale(18, 24, 1.6),
				29: scale(0, 24, 0.6), 34: scale(18, 24, 1.6), 39: scale(18, 24, 1.6),
			},
			want: map[int]verdict{29: unusual},
		},
		"two Saturdays in a row may be an accident": {
			noise: 0.02, days: 8, change: map[int]func(*profile){6: scale(0, 24, 0.8), 7: scale(0, 24, 0.8)},
			want: map[int]verdict{6: unusual, 7: unusual},
		},
		"three Saturdays in a row are none": {
			noise: 0.02, days: 8, change: map[int]func(*profile){5: scale(0, 24, 0.8), 6: scale(0, 24, 0.8), 7: scale(0, 24, 0.8)},
			want: map[int]verdict{0: superseded, 1: superseded, 2: superseded, 3: superseded, 4: superseded},
		},
		"three days cannot be compared": {days: 3, change: map[int]func(*profile){1: scale(0, 24, 0.1)}},
	} {
		t.Run(name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(7, 7))
			days := make([]dayProfile, tc.days)
			want := make([]verdict, tc.days)
			for i := range days {
				days[i] = dayProfile{time.Weekday(1 + i%5), workday(rng, tc.noise)}
				if tc.days == 8 {
					days[i].weekday = time.Saturday
				}
				if change := tc.change[i]; change != nil {
					change(&days[i].profile)
				}
				want[i] = tc.want[i]
			}
			if got := judge(days); !slices.Equal(got, want) {
				t.Errorf("\n got %v\nwant %v\ndistances %.3f", got, want, distances(days))
			}
		})
	}
}

// With a new timetable every day is unusual, until it is the rule: then the days before it are no
// evidence any more, and its own strike day is none either.
func TestALastingChangeIsTheNewNormal(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	days := make([]dayProfile, 40)
	for i := range days {
		days[i] = dayProfile{time.Weekday(1 + i%5), workday(rng, 0.02)}
	}
	reduce := func(day int, by float64) {
		for h := range days[day].profile {
			days[day].profile[h] *= by
		}
	}
	count := func() (n [3]int) {
		for _, v := range judge(days) {
			n[v]++
		}
		return n
	}
	for day := 36; day < 40; day++ {
		reduce(day, 0.8)
	}
	if got := count(); got != [3]int{36, 4, 0} {
		t.Errorf("four days of a new timetable: %v", got)
	}
	for day := 30; day < 36; day++ {
		reduce(day, 0.8)
	}
	if got := count(); got != [3]int{10, 0, 30} {
		t.Errorf("ten days of a new timetable: %v", got)
	}
	reduce(35, 0.3)
	if got := count(); got != [3]int{9, 1, 30} {
		t.Errorf("ten days of a new timetable with a strike: %v", got)
	}
}
