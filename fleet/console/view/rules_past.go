package view

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/farebeat/farebeat/fleet/counts"
)

// Past is what one hour of the clock was on the days of the last weeks, in machines online.
type Past struct {
	Days int `json:"days"` // that were heard in the hour
	// Quantiles of the most at once in the hour, over Days; of P10 and P90 the nearest rank below.
	Least  int `json:"min"`
	P10    int `json:"p10"`
	Median int `json:"p50"`
	P90    int `json:"p90"`
	Most   int `json:"max"`
	// Below is on how many of Days fewer than the threshold were online for a tenth of the hour or longer; of an expectation that
	// knows hours only, for the whole hour, as it is judged live. Whole is on how many all hour.
	Below int `json:"below"`
	Whole int `json:"below_all_hour"`
}

// pastSample is one hour of one route on one day.
type pastSample struct{ peak, p10 int }

// pastOf sums up samples beside a threshold.
func pastOf(samples []pastSample, threshold int, hourly bool) Past {
	p := Past{Days: len(samples)}
	if p.Days == 0 {
		return p
	}
	peaks := make([]int, 0, len(samples))
	for _, s := range samples {
		peaks = append(peaks, s.peak)
		if s.peak < threshold {
			p.Whole++
		}
		if s.p10 < threshold {
			p.Below++
		}
	}
	if hourly {
		p.Below = p.Whole
	}
	slices.Sort(peaks)
	rank := func(q float64) int { return peaks[int(q*float64(len(peaks)-1))] }
	p.Least, p.P10, p.Median, p.P90, p.Most = peaks[0], rank(0.1), rank(0.5), rank(0.9), peaks[len(peaks)-1]
	return p
}

// leastHeard is for how much of an hour we must have heard for its row to be evidence.
const leastHeard = 45 * time.Minute

func (p *pastSample) take(row counts.HourRow) bool {
	p.peak, p.p10 = row.Peak, row.P10
	return row.Heard >= leastHeard || row.Length < time.Hour && row.Heard >= row.Length*3/4
}

// pastOfRoute reads the hours of one route, by the hour of the clock.
func (r *Reader) pastOfRoute(ctx context.Context, span RuleSpan, route string) (past [24][]pastSample, err error) {
	if len(span.dates) == 0 {
		return past, nil
	}
	among := map[string]bool{}
	for _, d := range span.dates {
		among[d.Date] = true
	}
	rows, err := r.o.Store.Counts().Hours(ctx, span.dates[len(span.dates)-1].From, span.dates[0].To, route)
	if err != nil {
		return past, fmt.Errorf("read the last weeks of route %s: %w", route, err)
	}
	for _, row := range rows {
		date, hour := row.Local(r.o.Zone)
		var s pastSample
		if among[date] && s.take(row) {
			past[hour] = append(past[hour], s)
		}
	}
	return past, nil
}

// pastKey names an hour of the clock on the days before one.
type pastKey struct {
	today, days string
	hour        int
}

// maxPastHours bounds the hours that are remembered: each of every type of day.
const maxPastHours = 3 * 24

// pastSettled is how long after midnight the last hour of the day before may still come.
const pastSettled = 15 * time.Minute

// pastOfAll reads an hour of all routes, at most once a day each. The map is shared and not to be changed.
func (r *Reader) pastOfAll(ctx context.Context, span RuleSpan, hour int) (map[string][]pastSample, error) {
	now := r.o.Now().In(r.o.Zone)
	today, err := r.Day("")
	if err != nil {
		return nil, err
	}
	key := pastKey{today.Date, span.Type, hour}
	r.weeksMu.Lock()
	past, ok := r.weeks[key]
	r.weeksMu.Unlock()
	if ok {
		return past, nil
	}
	past = map[string][]pastSample{}
	for _, d := range span.dates {
		for _, start := range d.at(hour) {
			rows, err := r.o.Store.Counts().Hours(ctx, start, start.Add(time.Hour), "")
			if err != nil {
				return nil, fmt.Errorf("read the hour %d of the last weeks: %w", hour, err)
			}
			for _, row := range rows {
				var s pastSample
				if s.take(row) {
					past[row.Route] = append(past[row.Route], s)
				}
			}
		}
	}
	if now.Sub(today.From) >= pastSettled {
		r.weeksMu.Lock()
		defer r.weeksMu.Unlock()
		if r.weeks == nil || len(r.weeks) >= maxPastHours {
			r.weeks = map[pastKey]map[string][]pastSample{} // what goes is of the day before, mostly
		}
		r.weeks[key] = past
	}
	return past, nil
}
