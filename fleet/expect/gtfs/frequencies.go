package gtfs

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// frequency is a row of frequencies.txt. Times are since ServiceStart.
type frequency struct {
	start, end, headway time.Duration
	exact               bool // exact_times=1: the departures are a timetable
}

// duties appends what a trip of length L that departs every H from start until before end needs, each
// duty with a vehicle of its own.
//
// With exact_times=1 each departure start, start+H, ... is one duty.
//
// With exact_times=0 no departure has a time, only their distance has. The service then needs
//
//	N = ceil(L / H) vehicles at once, and never has fewer than floor(L / H),
//
// or as many as it has departures, if they are fewer. The i-th of the N duties (from 0) lasts from start + i*H to the end of the trip
// of the last departure less i*H: with them come and go as many as with departures at start, start+H, ... Each has a Slack of H, and
// the last one of its whole length if H does not divide L: without the Slack at both ends they
// add up to what is there however late in its headway each departs.
func (fr frequency) duties(into []Duty, t *trip, origin time.Time) []Duty {
	length := t.last - t.first
	last := fr.start + (fr.end-1-fr.start)/fr.headway*fr.headway // the last departure
	if fr.exact {
		for at := fr.start; at <= last; at += fr.headway {
			into = append(into, Duty{Vehicle: t.id + "@" + clock(at), Route: t.route, Trip: t.id, From: origin.Add(at), To: origin.Add(at + length)})
		}
		return into
	}
	for from, to := fr.start, last+length; from <= last && from < fr.start+length; from, to = from+fr.headway, to-fr.headway {
		slack := fr.headway
		if from+fr.headway-fr.start > length {
			slack = to - from
		}
		into = append(into, Duty{
			Vehicle: t.id + "@" + clock(from), Route: t.route, Trip: t.id,
			From: origin.Add(from), To: origin.Add(to), Slack: slack,
		})
	}
	return into
}

func clock(d time.Duration) string {
	return fmt.Sprintf("%02d:%02d:%02d", int(d.Hours()), int(d.Minutes())%60, int(d.Seconds())%60)
}

func (l *loader) frequencies() error {
	err := l.each("frequencies.txt", true, []string{"trip_id", "start_time", "end_time", "headway_secs"}, func(t *table) error {
		i, ok := l.byID[t.get("trip_id")]
		if !ok {
			return t.bad("trip_id", fmt.Sprintf("%q: not in trips.txt", t.get("trip_id")))
		}
		fr, err := t.frequency()
		if err != nil {
			return err
		}
		l.feed.trips[i].frequencies = append(l.feed.trips[i].frequencies, fr)
		return nil
	})
	if err != nil {
		return err
	}
	for i := range l.feed.trips {
		t := &l.feed.trips[i]
		slices.SortFunc(t.frequencies, func(a, b frequency) int { return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(a.end, b.end)) })
		for j := 1; j < len(t.frequencies); j++ {
			if t.frequencies[j].start < t.frequencies[j-1].end {
				l.warn("frequencies.txt: two rows of trip_id %q overlap from %s on; the vehicles of both are expected", t.id, clock(t.frequencies[j].start))
			}
		}
	}
	return nil
}

// frequency reads the row at hand.
func (t *table) frequency() (fr frequency, err error) {
	if fr.start, err = parseTime(t.get("start_time")); err != nil {
		return fr, t.bad("start_time", err.Error())
	}
	if fr.end, err = parseTime(t.get("end_time")); err != nil {
		return fr, t.bad("end_time", err.Error())
	}
	if fr.end <= fr.start {
		return fr, t.bad("end_time", fmt.Sprintf("%q is not after start_time %q", t.get("end_time"), t.get("start_time")))
	}
	secs, err := strconv.Atoi(t.get("headway_secs"))
	if err != nil || secs < 1 || secs > maxServiceHours*3600 {
		return fr, t.bad("headway_secs", fmt.Sprintf("%q: want a whole number of seconds above 0", t.get("headway_secs")))
	}
	fr.headway = time.Duration(secs) * time.Second
	switch v := t.get("exact_times"); v {
	case "", "0":
	case "1":
		fr.exact = true
	default:
		return fr, t.bad("exact_times", fmt.Sprintf("%q: want 0 (by headway) or 1 (by timetable)", v))
	}
	return fr, nil
}
