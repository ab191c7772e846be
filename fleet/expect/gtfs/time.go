package gtfs

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Date is a service date: a calendar day in the agency's time zone.
type Date struct {
	Year  int
	Month time.Month
	Day   int
}

// ParseDate reads YYYYMMDD, as in GTFS, or YYYY-MM-DD.
func ParseDate(s string) (Date, error) {
	layout := "20060102"
	if strings.Contains(s, "-") {
		layout = time.DateOnly
	}
	t, err := time.Parse(layout, s)
	if err != nil {
		return Date{}, fmt.Errorf("date %q: want YYYY-MM-DD or YYYYMMDD", s)
	}
	return DateOf(t), nil
}

// DateOf is the calendar date of t in t's own location.
func DateOf(t time.Time) Date {
	y, m, d := t.Date()
	return Date{y, m, d}
}

// String is YYYY-MM-DD.
func (d Date) String() string { return fmt.Sprintf("%04d-%02d-%02d", d.Year, int(d.Month), d.Day) }

// Sub is how many days d is after o; below 0 before it.
func (d Date) Sub(o Date) int {
	at := func(d Date) time.Time { return time.Date(d.Year, d.Month, d.Day, 0, 0, 0, 0, time.UTC) }
	return int(at(d).Sub(at(o)) / (24 * time.Hour))
}

// AddDays moves by n calendar days.
func (d Date) AddDays(n int) Date {
	return DateOf(time.Date(d.Year, d.Month, d.Day+n, 12, 0, 0, 0, time.UTC))
}

// Weekday of the date.
func (d Date) Weekday() time.Weekday {
	return time.Date(d.Year, d.Month, d.Day, 12, 0, 0, 0, time.UTC).Weekday()
}

// Before reports whether d is earlier than o.
func (d Date) Before(o Date) bool {
	if d.Year != o.Year {
		return d.Year < o.Year
	}
	if d.Month != o.Month {
		return d.Month < o.Month
	}
	return d.Day < o.Day
}

// Midnight is the first instant of the date in loc.
func (d Date) Midnight(loc *time.Location) time.Time {
	return time.Date(d.Year, d.Month, d.Day, 0, 0, 0, 0, loc)
}

// ServiceStart is the origin of the date's stop times: noon minus twelve hours, as
// the GTFS reference defines it, which on the nights when the clock changes is
// not midnight.
func (d Date) ServiceStart(loc *time.Location) time.Time {
	return time.Date(d.Year, d.Month, d.Day, 12, 0, 0, 0, loc).Add(-12 * time.Hour)
}

// maxServiceHours bounds stop times: three days, well beyond any night service.
const maxServiceHours = 72

// parseTime reads H:MM:SS or HH:MM:SS; hours may pass 24. The error says what is
// out of range and is meant to follow the name of the column.
func parseTime(s string) (time.Duration, error) {
	parts := strings.Split(s, ":")
	if len(parts) != 3 {
		return 0, fmt.Errorf("%q: want HH:MM:SS", s)
	}
	var n [3]int
	for i, part := range parts {
		v, err := strconv.Atoi(part)
		if err != nil || len(part) > 2 || len(part) == 0 || part[0] == '-' || part[0] == '+' {
			return 0, fmt.Errorf("%q: want HH:MM:SS", s)
		}
		n[i] = v
	}
	switch {
	case n[0] >= maxServiceHours:
		return 0, fmt.Errorf("%q: hours out of range, at most %d", s, maxServiceHours-1)
	case n[1] > 59:
		return 0, fmt.Errorf("%q: minutes out of range", s)
	case n[2] > 59:
		return 0, fmt.Errorf("%q: seconds out of range", s)
	}
	return time.Duration(n[0])*time.Hour + time.Duration(n[1])*time.Minute + time.Duration(n[2])*time.Second, nil
}
