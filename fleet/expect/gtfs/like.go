package gtfs

import (
	"slices"
	"time"
)

// likeness is what Like answers.
type likeness struct {
	weekday time.Weekday
	ok      bool
}

const (
	likeWeeks = 5    // before and after a date are looked at for what its weekdays run
	alike     = 0.5  // share of trips in common from which on two services are like each other
	asMany    = 0.75 // share of trips from which on two services are as large as each other
)

// Like gives the weekday whose ordinary service is most like the service of a date: on a holiday on which the
// weekday's service is removed and that of Sundays added, Sunday. What a weekday runs ordinarily is what most of its dates within
// five weeks run. Where no weekday shares half of the date's trips, as with a service_id for each date, the number of trips
// decides. At a tie the date's own weekday is preferred, then Sunday. False if the date is like none of them. It is safe for
// concurrent use, and remembers.
func (f *Feed) Like(d Date) (time.Weekday, bool) {
	if known, ok := f.likes.Load(d); ok {
		l := known.(likeness)
		return l.weekday, l.ok
	}
	var l likeness
	l.weekday, l.ok = f.like(d)
	f.likes.Store(d, l)
	return l.weekday, l.ok
}

func (f *Feed) like(d Date) (time.Weekday, bool) {
	runs, own := f.running(d), d.Weekday()
	ordinary := map[time.Weekday][]int{}
	for w := range time.Weekday(7) {
		if other, ok := f.ordinary(d, w); ok {
			ordinary[w] = other
		}
	}
	if _, ok := ordinary[own]; !ok {
		return own, true // there is nothing to compare with
	}
	nearest := func(share func(a, b []int) float64) (time.Weekday, float64) {
		best, most := own, share(runs, ordinary[own])
		for w := range time.Weekday(7) {
			other, ok := ordinary[w]
			if !ok {
				continue
			}
			if s := share(runs, other); s > most {
				best, most = w, s
			}
		}
		return best, most
	}
	if best, share := nearest(f.common); share >= alike {
		return best, true
	}
	best, share := nearest(f.size)
	return best, share >= asMany
}

// running lists what runs on a date, by index in f.ordered.
func (f *Feed) running(d Date) []int {
	var runs []int
	for i, s := range f.ordered {
		if s.trips > 0 && s.runs(d) {
			runs = append(runs, i)
		}
	}
	return runs
}

// ordinary is what most dates of a weekday around d run; d itself is not asked. False if the feed has no such date.
func (f *Feed) ordinary(d Date, w time.Weekday) (runs []int, ok bool) {
	nearest := d.AddDays(int(w - d.Weekday()))
	type variant struct {
		runs  []int
		times int
	}
	var variants []variant
	most := 0
	for week := -likeWeeks; week <= likeWeeks; week++ {
		date := nearest.AddDays(7 * week)
		if date == d || !f.Covers(date) {
			continue
		}
		runs := f.running(date)
		i := slices.IndexFunc(variants, func(v variant) bool { return slices.Equal(v.runs, runs) })
		if i < 0 {
			i = len(variants)
			variants = append(variants, variant{runs: runs})
		}
		variants[i].times++
		if variants[i].times > variants[most].times {
			most = i
		}
	}
	if len(variants) == 0 {
		return nil, false
	}
	return variants[most].runs, true
}

func (f *Feed) tripsOf(runs []int) (n int) {
	for _, i := range runs {
		n += f.ordered[i].trips
	}
	return n
}

// common is the share of trips that two lists of services have in common: 1 for the same, also for two empty ones.
func (f *Feed) common(a, b []int) float64 {
	both := 0
	for _, i := range a {
		if _, found := slices.BinarySearch(b, i); found {
			both += f.ordered[i].trips
		}
	}
	return ratio(both, f.tripsOf(a)+f.tripsOf(b)-both)
}

// size is the share that the smaller of two services has of the larger one's trips.
func (f *Feed) size(a, b []int) float64 {
	n, m := f.tripsOf(a), f.tripsOf(b)
	return ratio(min(n, m), max(n, m))
}

func ratio(part, whole int) float64 {
	if whole == 0 {
		return 1
	}
	return float64(part) / float64(whole)
}
