package expect

import (
	"time"

	"github.com/farebeat/farebeat/fleet/expect/gtfs"
)

// DayType is a kind of day whose days are alike. Days of one type are compared with each other.
type DayType int

// The types of days. Special is a day that is like none: nothing is known of it and
// nothing is learned from it.
const (
	Workday DayType = iota // Monday to Friday
	Saturday
	Sunday // and holidays
	Special
)

// dayTypes is how many types are learned.
const dayTypes = int(Special)

// String is the type's name.
func (t DayType) String() string {
	return [...]string{"workday", "saturday", "sunday", "special"}[t]
}

func typeOf(d time.Weekday) DayType {
	switch d {
	case time.Saturday:
		return Saturday
	case time.Sunday:
		return Sunday
	}
	return Workday
}

// Days says what type of day a date is. The zero value knows weekdays only. It is immutable.
type Days struct {
	Holidays map[gtfs.Date]bool // judged as a Sunday
	Feed     *gtfs.Feed         // whose service says which weekday a date is like; may be nil
}

// Type gives the type that a date is judged as: Sunday for a holiday that is named, else
// that of the weekday whose service the feed runs on it, else that of its weekday.
func (d Days) Type(date gtfs.Date) DayType {
	if d.Holidays[date] {
		return Sunday
	}
	if d.Feed == nil || !d.Feed.Covers(date) {
		return typeOf(date.Weekday())
	}
	like, ok := d.Feed.Like(date)
	if !ok {
		return Special
	}
	return typeOf(like)
}

// Ordinary reports whether a date is what its weekday is: only then it says something of others.
func (d Days) Ordinary(date gtfs.Date) bool {
	return !d.Holidays[date] && d.Type(date) == typeOf(date.Weekday())
}
