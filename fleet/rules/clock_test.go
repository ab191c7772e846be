package rules

import (
	"testing"
	"time"
)

// Our clock was a day ahead and was set right: what fires goes on and ends as ever, and the next silence is found.
func TestAClockThatWasADayAhead(t *testing.T) {
	l := newLine(t, 15*time.Second, 3, "timetable")
	l.until("07:20:00")
	l.until("07:30:00", silentSince("07:19:50"))
	l.state.Seen, l.state.Since = l.state.Seen.Add(24*time.Hour), l.state.Since.Add(24*time.Hour)
	l.state.Sampled, l.state.Hour = l.state.Sampled.Add(24*time.Hour), l.state.Hour.Add(24*time.Hour)
	l.until("07:32:00", silentSince("07:19:50"))
	l.until("07:50:00", online(3))
	l.until("08:10:00", silentSince("07:50:00"))
	l.want("07:20:45 route_silent", "07:37:00 ", "07:50:45 route_silent")
}
