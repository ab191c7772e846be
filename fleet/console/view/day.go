package view

import (
	"fmt"
	"time"
)

// Day is a calendar date in the operator's zone.
type Day struct {
	Date     string    `json:"date"` // YYYY-MM-DD
	From, To time.Time `json:"-"`    // its begin and that of the next
	Today    bool      `json:"today"`
}

// Day reads a date, today's for "".
func (r *Reader) Day(text string) (Day, error) {
	today := r.o.Now().In(r.o.Zone).Format(time.DateOnly)
	if text == "" {
		text = today
	}
	at, err := time.ParseInLocation(time.DateOnly, text, r.o.Zone)
	if err != nil {
		return Day{}, fmt.Errorf("%w: day %q: want a date such as 2026-11-28", ErrUsage, text)
	}
	return Day{Date: text, From: at, To: at.AddDate(0, 0, 1), Today: text == today}, nil
}

// Before and After are the dates beside it.
func (d Day) Before() string { return d.From.AddDate(0, 0, -1).Format(time.DateOnly) }

// After is the next date; empty where the day is today, of which there is none yet.
func (d Day) After() string {
	if d.Today {
		return ""
	}
	return d.To.Format(time.DateOnly)
}

// hours are the beginnings of the day's hours by the local clock: 23, 24 or 25 of them.
func (d Day) hours() []time.Time {
	var out []time.Time
	for at := d.From; at.Before(d.To); at = at.Add(time.Hour) {
		out = append(out, at)
	}
	return out
}
