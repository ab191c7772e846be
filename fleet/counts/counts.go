// Package counts knows how many machines are online on every route: now, inside the
// minute, and over the local hour.
//
// A Board holds one line per route. A machine stands on the line of its latest
// heartbeat's route and on no other. Numbers are exact at the level of single
// events: a machine is on a route from (inclusive) to (exclusive), so one that leaves
// and one that comes at the same instant are never there together, in whichever order
// the two are told. Routes on the roster that have no machine give rows with 0.
package counts

import (
	"context"
	"time"
)

// RouteMinute is one route at one tick. Board fills all but Expected, Threshold and
// Missing, which are the caller's.
type RouteMinute struct {
	Route     string
	Online    int           // machines UP or LATE at the tick
	Late      int           // those of Online that are LATE
	Min, Max  int           // smallest and greatest Online since the minute began; Min <= Online <= Max
	Known     int           // machines whose latest heartbeat named this route, neither parked nor taken out of service
	SilentFor time.Duration // since the last heartbeat on this route, in time that we could hear; 0 if never heard
	Heard     bool          // a machine was heard on this route since the start
	OnRoster  bool          // the route is expected to have machines
	Expected  int           // the greatest number expected in this hour; 0 for none
	Threshold int           // fewer than this is a fault; 0 for no rule
}

// Frame is what every route had at one tick. A store writes it as one BLOB, see
// AppendFrame.
type Frame struct {
	At    time.Time // the tick, whole seconds
	Blind bool      // we could not hear: the numbers are no evidence
	Rows  []RouteMinute
}

// HourRow is one route over one hour of the local clock. On the day with 25 hours
// two rows have the same local hour and differ in Start; where a zone shifts by half
// an hour, a row is shorter than 60 minutes. Numbers weigh the time that we could
// hear only; a row with Heard 0 is no evidence.
type HourRow struct {
	Start         time.Time     // begin of the hour
	Length        time.Duration // of the hour by the clock, almost always 1 h
	Heard         time.Duration // of Length: running and not blind
	Route         string
	Distinct      int           // machines that were online for any time
	Peak          int           // greatest number online at once
	Lowest        int           // smallest number online at once
	P10, P50, P90 int           // quantiles of the number online, by time
	Online        time.Duration // machines times time online
}

// Mean is the number online on average over the time heard; 0 where nothing was heard.
func (r HourRow) Mean() float64 {
	if r.Heard <= 0 {
		return 0
	}
	return float64(r.Online) / float64(r.Heard)
}

// Local gives the calendar date (YYYY-MM-DD) and hour (0 to 23) of
// the row in loc.
func (r HourRow) Local(loc *time.Location) (date string, hour int) {
	t := r.Start.In(loc)
	return t.Format(time.DateOnly), t.Hour()
}

// Store keeps counts. Implementations are safe for concurrent use, return only after
// the data is durable, and name the operation in their errors. Saving the same thing
// twice leaves one.
type Store interface {
	// SaveFrame keeps a tick; a frame with the same At replaces the older. Expected and
	// Threshold are kept; SilentFor, Heard and OnRoster need not be.
	SaveFrame(ctx context.Context, f Frame) error
	// Frames calls each for the frames with from <= At < to, oldest first, rows sorted by
	// route, until each returns an error, which is returned.
	Frames(ctx context.Context, from, to time.Time, each func(Frame) error) error
	// SaveHours keeps rows; a row with the same Start and Route replaces the older.
	SaveHours(ctx context.Context, rows []HourRow) error
	// Hours gives the rows with from <= Start < to, by Start then Route. Route "" is all.
	Hours(ctx context.Context, from, to time.Time, route string) ([]HourRow, error)
	// SaveState keeps the open hour of the board (Board.AppendState) in place of the last.
	SaveState(ctx context.Context, state []byte) error
	// State gives what SaveState kept, nil if nothing was.
	State(ctx context.Context) ([]byte, error)
}
