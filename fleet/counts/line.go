package counts

import (
	"sync"
	"sync/atomic"
	"time"
)

// line is one route on the board.
type line struct {
	name      string
	id        uint32 // never used again on this board
	refs      atomic.Int64
	lastHeard atomic.Int64 // seeing time of the latest heartbeat, nanoseconds

	mu     sync.Mutex
	roster bool
	online int
	late   int // of online
	known  int
	at     int64 // up to here, Unix nanoseconds, everything below is accounted for

	min, max int // of online since the minute began; min is noMin before anything held

	hour     span
	distinct int
	held     []int64 // nanoseconds of evidence with so many online
	ended    []HourRow
}

// longestGap bounds the hours that are made up of nothing when the clock leaps.
const longestGap = 48 * int64(time.Hour)

// settle accounts for the time up to at, during which nothing changed. A number counts
// only once time has passed with it: that makes leaving and coming at one instant free
// of order. Time that goes back is no time. The caller holds l.mu.
func (l *line) settle(b *Board, at int64) {
	if at-l.at > longestGap {
		l.close(b)
		l.hour = b.hourAt(at)
		l.at = l.hour.start
	}
	for l.at < at {
		end := min(at, l.hour.end)
		l.min, l.max = min(l.min, l.online), max(l.max, l.online)
		if d := b.sight.heard(l.at, end); d > 0 {
			for len(l.held) <= l.online {
				l.held = append(l.held, 0)
			}
			l.held[l.online] += d
		}
		l.at = end
		if end == l.hour.end {
			l.close(b)
			l.hour = b.hourAt(end)
		}
	}
}

// close ends the hour: whoever is online is there in the next from its beginning.
func (l *line) close(b *Board) {
	if l.counts() {
		l.ended = append(l.ended, l.hourRow(b))
	}
	l.distinct = l.online
	clear(l.held)
	if cap(l.held) > 4*(l.online+16) {
		l.held = nil
	}
	l.held = l.held[:0]
}

// hourRow sums up the hour as far as it went.
func (l *line) hourRow(b *Board) HourRow {
	r := HourRow{
		Start:    time.Unix(0, l.hour.start).In(b.loc),
		Length:   time.Duration(l.hour.end - l.hour.start),
		Route:    l.name,
		Distinct: l.distinct,
		Lowest:   -1,
	}
	for n, d := range l.held {
		if d == 0 {
			continue
		}
		if r.Lowest < 0 {
			r.Lowest = n
		}
		r.Peak = n
		r.Heard += time.Duration(d)
		r.Online += time.Duration(int64(n) * d)
	}
	r.Lowest = max(r.Lowest, 0)
	// Where the open hour was not restored after a restart, the peak is the better bound.
	r.Distinct = max(r.Distinct, r.Peak)
	r.P10, r.P50, r.P90 = quantile(l.held, r.Heard, 10), quantile(l.held, r.Heard, 50), quantile(l.held, r.Heard, 90)
	return r
}

// quantile is the smallest number that held, it or fewer, for percent of total.
func quantile(held []int64, total time.Duration, percent int64) int {
	var sum int64
	for n, d := range held {
		sum += d
		if d > 0 && sum >= int64(total)/100*percent {
			return n
		}
	}
	return 0
}

// row gives the line as of at, and whether it is worth a row.
func (l *line) row(b *Board, at, seeing int64, reset bool) (RouteMinute, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.settle(b, at)
	r := RouteMinute{
		Route: l.name, Online: l.online, Late: l.late, Known: l.known, OnRoster: l.roster,
		Min: min(l.min, l.online), Max: max(l.max, l.online),
	}
	if heard := l.lastHeard.Load(); heard != neverHeard {
		r.Heard, r.SilentFor = true, time.Duration(max(0, seeing-heard))
	}
	if reset {
		l.min, l.max = noMin, 0
	}
	return r, l.counts()
}

// counts reports that the line is worth a row.
func (l *line) counts() bool { return l.roster || l.known > 0 || l.distinct > 0 }
