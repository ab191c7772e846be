package rules

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/farebeat/farebeat/fleet/faults"
)

// Maintenance is a window in which faults of some subjects are expected: they are kept, and nobody is told of those that open in it
// unless they still stand when it ends.
type Maintenance struct {
	Name string

	// Whom it concerns; all empty: everything.
	Machines, Routes, Vehicles, Depots []string

	// When: once, From (inclusive) to Until (exclusive); or on each of Days (all, if none is named) from Start for Length.
	From, Until time.Time
	Days        []time.Weekday
	Start       time.Duration // after midnight by the local clock
	Length      time.Duration // at most 24 h; zero: not recurring
}

// Place is where a subject is, as far as is known.
type Place struct{ Machine, Route, Vehicle, Depot string }

// PlaceOf is where the subject of a cause is.
func PlaceOf(s faults.Subject) Place {
	return Place{Machine: s.Machine, Route: s.Route, Vehicle: s.Vehicle, Depot: s.Depot}
}

// Maintenance is the name of the first window that holds for a subject at an instant, empty for none.
func (s *Set) Maintenance(now time.Time, at Place) string {
	for i := range s.maintenance {
		if w := &s.maintenance[i]; w.concerns(at) && w.holds(now, s.location) {
			return w.Name
		}
	}
	return ""
}

func (w *Maintenance) concerns(at Place) bool {
	if len(w.Machines)+len(w.Routes)+len(w.Vehicles)+len(w.Depots) == 0 {
		return true
	}
	in := func(list []string, v string) bool { return v != "" && slices.Contains(list, v) }
	return in(w.Machines, at.Machine) || in(w.Routes, at.Route) || in(w.Vehicles, at.Vehicle) || in(w.Depots, at.Depot)
}

func (w *Maintenance) holds(now time.Time, loc *time.Location) bool {
	if w.Length == 0 {
		return !now.Before(w.From) && now.Before(w.Until)
	}
	local := now.In(loc)
	for back := range 2 { // today's, or yesterday's over midnight
		day := time.Date(local.Year(), local.Month(), local.Day()-back, 0, 0, 0, 0, loc)
		if len(w.Days) > 0 && !slices.Contains(w.Days, day.Weekday()) {
			continue
		}
		// By the local clock: on the days when it is changed the window begins and ends at the times that were written.
		from, until := atClock(day, w.Start), atClock(day, w.Start+w.Length)
		if !now.Before(from) && now.Before(until) {
			return true
		}
	}
	return false
}

// atClock is the instant at which the local clock shows so much after the midnight that begins day.
func atClock(day time.Time, after time.Duration) time.Time {
	return time.Date(day.Year(), day.Month(), day.Day(), 0, int(after/time.Minute), 0, 0, day.Location())
}

// maintenanceLayer is a window in a file.
type maintenanceLayer struct {
	Name     string   `yaml:"name"`
	Machines []string `yaml:"machines,omitempty"`
	Routes   []string `yaml:"routes,omitempty"`
	Vehicles []string `yaml:"vehicles,omitempty"`
	Depots   []string `yaml:"depots,omitempty"`
	Days     []string `yaml:"days,omitempty"`  // mon, tue, wed, thu, fri, sat, sun; empty: every day
	Hours    string   `yaml:"hours,omitempty"` // "22:00-04:30", over midnight too
	From     string   `yaml:"from,omitempty"`  // once: "2026-11-28 22:00" by the local clock
	Until    string   `yaml:"until,omitempty"`
}

// window checks a window of a file.
func (l *maintenanceLayer) window(loc *time.Location) (Maintenance, error) {
	w := Maintenance{Name: l.Name, Machines: l.Machines, Routes: l.Routes, Vehicles: l.Vehicles, Depots: l.Depots}
	if strings.TrimSpace(l.Name) == "" {
		return w, errors.New("name is missing; it tells people why a fault is quiet")
	}
	once, recurring := l.From != "" || l.Until != "", l.Hours != "" || len(l.Days) > 0
	if once == recurring {
		return w, fmt.Errorf("%s: give either from and until, or hours and days", l.Name)
	}
	for _, list := range [][]string{l.Machines, l.Routes, l.Vehicles, l.Depots} {
		if slices.Contains(list, "") {
			return w, fmt.Errorf("%s: an id is empty", l.Name)
		}
	}
	if once {
		return w, w.once(l, loc)
	}
	return w, w.recurring(l)
}

func (w *Maintenance) once(l *maintenanceLayer, loc *time.Location) error {
	for _, v := range []struct {
		key, text string
		into      *time.Time
	}{{"from", l.From, &w.From}, {"until", l.Until, &w.Until}} {
		var err error
		if *v.into, err = time.ParseInLocation("2006-01-02 15:04", v.text, loc); err != nil {
			return fmt.Errorf(`%s: %s %q: want a local time such as "2026-11-28 22:00"`, l.Name, v.key, v.text)
		}
	}
	if !w.Until.After(w.From) {
		return fmt.Errorf("%s: until %s is not after from %s", l.Name, l.Until, l.From)
	}
	return nil
}

func (w *Maintenance) recurring(l *maintenanceLayer) error {
	names := []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}
	for _, d := range l.Days {
		i := slices.Index(names, d)
		if i < 0 {
			return fmt.Errorf("%s: days: %q is none of mon, tue, wed, thu, fri, sat, sun", l.Name, d)
		}
		w.Days = append(w.Days, time.Weekday(i))
	}
	a, b, _ := strings.Cut(l.Hours, "-")
	from, errA := time.Parse("15:04", a)
	until, errB := time.Parse("15:04", b)
	if b == "24:00" {
		until, errB = from.Truncate(24*time.Hour), nil
	}
	if errA != nil || errB != nil {
		return fmt.Errorf(`%s: hours %q: want a span such as "22:00-04:30"`, l.Name, l.Hours)
	}
	w.Start = time.Duration(from.Hour())*time.Hour + time.Duration(from.Minute())*time.Minute
	end := time.Duration(until.Hour())*time.Hour + time.Duration(until.Minute())*time.Minute
	if end <= w.Start {
		end += 24 * time.Hour
	}
	w.Length = end - w.Start
	return nil
}

// Window is a maintenance window, and whether it holds.
type Window struct {
	Maintenance
	Now bool
}

// Windows lists the maintenance windows in the order of their file.
func (s *Set) Windows(now time.Time) []Window {
	out := make([]Window, len(s.maintenance))
	for i := range s.maintenance {
		out[i] = Window{s.maintenance[i], s.maintenance[i].holds(now, s.location)}
	}
	return out
}
