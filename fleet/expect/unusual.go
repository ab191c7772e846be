package expect

import (
	"math"
	"slices"
	"time"
)

// profile is what the whole network had in each hour of a day: the sum over routes of the
// most at once. NaN where nothing is known.
type profile [24]float64

// verdict says of a day whether others of its type may be judged by it.
type verdict int

const (
	usable     verdict = iota
	unusual            // it does not look like its type: a strike, snow, a great event
	superseded         // it is from before a lasting change
)

const (
	// spread is how many standard deviations a day may lie further from its type than days usually do.
	spread = 5
	// tolerance is a distance that is never unusual, however alike the other days are.
	tolerance = 0.05
	// newNormal is how many of the latest days in a row, all unusual, are no accident but a
	// lasting change, as a new timetable makes; of a day that comes once a week fewer, so that it takes no month.
	newNormal       = 5
	newNormalWeekly = 3
)

// dayProfile is a day to be judged.
type dayProfile struct {
	weekday time.Weekday
	profile profile
}

// judge compares days of one type, oldest first, with the median of them all, and with that of their own
// weekday: what every Friday is like is not unusual. Fewer than MinDays cannot be compared and are all
// usable.
func judge(days []dayProfile) []verdict {
	verdicts := make([]verdict, len(days))
	if len(days) < MinDays {
		return verdicts
	}
	distances := distances(days)
	middle := median(distances)
	deviations := make([]float64, len(distances))
	for i, d := range distances {
		deviations[i] = math.Abs(d - middle)
	}
	// 1.4826 makes the median absolute deviation of a normal distribution its standard deviation.
	limit := max(tolerance, middle+spread*1.4826*median(deviations))
	latest := 0 // unusual days in a row at the end
	for i, d := range distances {
		latest++
		if d <= limit {
			latest = 0
			continue
		}
		verdicts[i] = unusual
	}
	enough := newNormal
	if len(days) <= HistoryDays/7 {
		enough = newNormalWeekly
	}
	if latest < enough {
		return verdicts
	}
	begin := len(days) - latest
	for i := range begin {
		verdicts[i] = superseded
	}
	copy(verdicts[begin:], judge(days[begin:]))
	return verdicts
}

// distances gives for each day how far it is from the median profile of all, or of its weekday if that is nearer.
func distances(days []dayProfile) []float64 {
	all := typical(days)
	own := map[time.Weekday]profile{}
	for w := range time.Weekday(7) {
		same := slices.DeleteFunc(slices.Clone(days), func(d dayProfile) bool { return d.weekday != w })
		if len(same) >= MinDays {
			own[w] = typical(same)
		}
	}
	out := make([]float64, len(days))
	for i, d := range days {
		out[i] = d.profile.distance(all)
		if o, ok := own[d.weekday]; ok {
			out[i] = min(out[i], d.profile.distance(o))
		}
	}
	return out
}

// typical is the median of what is known in each hour.
func typical(days []dayProfile) profile {
	var p profile
	for h := range p {
		var known []float64
		for _, d := range days {
			if !math.IsNaN(d.profile[h]) {
				known = append(known, d.profile[h])
			}
		}
		p[h] = median(known)
	}
	return p
}

// distance is how much p is off, as a share of what is typical in the hours of which p knows.
func (p profile) distance(typical profile) float64 {
	var off, all float64
	for h, v := range p {
		if !math.IsNaN(v) {
			off += math.Abs(v - typical[h])
			all += typical[h]
		}
	}
	if off == 0 {
		return 0
	}
	return off / max(all, 1)
}

// median of values, the lower of two in the middle; 0 for none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[(len(sorted)-1)/2]
}
