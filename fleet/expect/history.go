package expect

import (
	"slices"
	"time"

	"github.com/farebeat/farebeat/fleet/expect/gtfs"
)

const (
	// HistoryDays is how many days before today history is learned from: eight weeks.
	HistoryDays = 56
	// MinDays is the least number of days that say something.
	MinDays = 4
)

// What of the days of one type is taken, as shares of the days that lie below.
const (
	// The median: half of the days may be wrong and it holds.
	expectedQuantile = 0.5
	lowQuantile      = 0.1
)

// cell is what was learned of one route in one hour of one type of day.
type cell struct {
	expected, low uint16
	days          uint8 // behind both
}

// learned is what is known of one route.
type learned [dayTypes][24]cell

// History is a Source learned from the counts of the last HistoryDays days. Expected is the
// median over days of the same type of the most at once in the hour (counts.HourRow.Peak): the
// same that a timetable means by it, and what rules compare with where no more than the hour is
// known; a mean over the hour would be lower wherever a duty begins or ends inside it. It is
// immutable.
type History struct {
	location *time.Location
	days     Days
	routes   map[string]*learned
	silent   map[string]bool // routes that it says nothing of
	rosters  [dayTypes][]string
	first    gtfs.Date
	leftOut  []LeftOut
}

// LeftOut is a day that nothing was learned from.
type LeftOut struct {
	Date   gtfs.Date
	Reason string
}

// LeftOut lists the days with counts that nothing was learned from, oldest first. It is not to be
// changed.
func (h *History) LeftOut() []LeftOut { return h.leftOut }

// Len is how many routes history knows.
func (h *History) Len() int { return len(h.routes) }

// WithDays is the same history, asked with another calendar.
func (h *History) WithDays(days Days) *History {
	other := *h
	other.days = days
	return &other
}

func (h *History) cell(route string, at time.Time) (cell, bool) {
	of := h.routes[route]
	if of == nil || h.silent[route] {
		return cell{}, false
	}
	local := at.In(h.location)
	kind := h.days.Type(gtfs.DateOf(local))
	if kind == Special {
		return cell{}, false
	}
	c := of[kind][local.Hour()]
	return c, c.days >= MinDays
}

// Expect implements Source. It says nothing of an hour with fewer than MinDays days behind
// it. Lowest is the lower of two hours within DutyChange of the change between them.
func (h *History) Expect(route string, at time.Time) (Expectation, bool) {
	c, ok := h.cell(route, at)
	if !ok {
		return Expectation{}, false
	}
	n := int(c.expected)
	e := Expectation{
		Expected: n, Now: n, Lowest: n, Source: SourceHistory, SampleSize: int(c.days),
		Low: int(c.low), LowSample: int(c.days),
	}
	for _, near := range []time.Time{at.Add(-DutyChange), at.Add(DutyChange)} {
		other, _ := h.cell(route, near) // of an hour that is not known nothing may be demanded
		e.Lowest = min(e.Lowest, int(other.expected))
		e.Low = min(e.Low, int(other.low))
	}
	return e, true
}

// Sample is how many days are behind what history knows of the route in this hour; with fewer than MinDays it
// says nothing.
func (h *History) Sample(route string, at time.Time) int {
	c, _ := h.cell(route, at)
	return int(c.days)
}

// Routes implements Source.
func (h *History) Routes(at time.Time) []string {
	kind := h.days.Type(gtfs.DateOf(at.In(h.location)))
	if kind == Special {
		return nil
	}
	return slices.Clone(h.rosters[kind])
}
