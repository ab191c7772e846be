package gtfs

import (
	"fmt"
)

// Info is what feed_info.txt says of a feed.
type Info struct {
	Publisher string // feed_publisher_name
	Version   string // feed_version
	Start     Date   // feed_start_date; zero if not given
	End       Date   // feed_end_date; zero if not given
}

func (l *loader) feedInfo() error {
	seen := false
	return l.each("feed_info.txt", true, nil, func(t *table) (err error) {
		if seen {
			l.warn("feed_info.txt line %d: only the first row counts", t.line)
			return nil
		}
		seen = true
		info := Info{Publisher: t.get("feed_publisher_name"), Version: t.get("feed_version")}
		if t.get("feed_start_date") != "" {
			if info.Start, err = t.date("feed_start_date"); err != nil {
				return err
			}
		}
		if t.get("feed_end_date") != "" {
			if info.End, err = t.date("feed_end_date"); err != nil {
				return err
			}
		}
		if info.Start != (Date{}) && info.End != (Date{}) && info.End.Before(info.Start) {
			return t.bad("feed_end_date", fmt.Sprintf("%s is before feed_start_date %s", info.End, info.Start))
		}
		l.feed.Info = info
		return nil
	})
}

// Range gives the first and the last date that the feed speaks of: those of its calendars, within those of
// feed_info.txt where that gives any. Of other dates it says nothing. It is false for a feed that speaks of no date.
func (f *Feed) Range() (first, last Date, ok bool) {
	return f.covered.first, f.covered.last, f.covered.ok
}

func (f *Feed) dates() (first, last Date, ok bool) {
	for _, s := range f.services {
		from, to, any := s.span()
		if !any {
			continue
		}
		if !ok || from.Before(first) {
			first = from
		}
		if !ok || last.Before(to) {
			last = to
		}
		ok = true
	}
	if f.Info.Start != (Date{}) && first.Before(f.Info.Start) {
		first = f.Info.Start
	}
	if f.Info.End != (Date{}) && f.Info.End.Before(last) {
		last = f.Info.End
	}
	return first, last, ok && !last.Before(first)
}

// span gives the first and the last date of a service.
func (s *service) span() (first, last Date, ok bool) {
	if s.start != (Date{}) && s.weekdays != [7]bool{} {
		first, last, ok = s.start, s.end, true
	}
	for d := range s.added {
		if !ok || d.Before(first) {
			first = d
		}
		if !ok || last.Before(d) {
			last = d
		}
		ok = true
	}
	return first, last, ok
}

// Covers reports whether the feed speaks of a date. Of one that it covers, it is an answer that nothing runs.
func (f *Feed) Covers(d Date) bool {
	return f.covered.ok && !d.Before(f.covered.first) && !f.covered.last.Before(d)
}

// Expiry says in a sentence that the feed does not cover today, or will not within the next days; "" if it does.
func (f *Feed) Expiry(today Date, days int) string {
	c := f.covered
	switch {
	case !c.ok:
		return "the timetable covers no date: nothing is expected by it; check calendar.txt, calendar_dates.txt and feed_info.txt"
	case c.last.Before(today):
		return fmt.Sprintf("the timetable has expired: its last date was %s, nothing is expected by it any more; put a newer feed in its place", c.last)
	case today.Before(c.first):
		return fmt.Sprintf("the timetable begins on %s: nothing is expected by it before", c.first)
	case f.DaysLeft(today) < days:
		return fmt.Sprintf("the timetable ends with %s, in %d days: put a newer feed in its place before", c.last, f.DaysLeft(today))
	}
	return ""
}

// DaysLeft is how many days the feed covers after today: 0 on its last date, below 0 after it.
func (f *Feed) DaysLeft(today Date) int { return f.covered.last.Sub(today) }
