package fleet

import (
	"testing"
	"time"

	"github.com/farebeat/farebeat/fleet/expect"
	"github.com/farebeat/farebeat/fleet/expect/gtfs"
	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/rules"
	"github.com/farebeat/farebeat/schemas"
)

// A route that a new timetable has no more leaves no fault behind, given up or not; one that only rests today keeps its fault.
func TestARouteThatIsGoneHasNoFault(t *testing.T) {
	now := time.Date(2026, 11, 27, 8, 0, 0, 0, time.UTC) // a Friday
	weekdays := func(routes ...string) expect.Chain {
		var rows []expect.RouteHour
		for _, r := range routes {
			for h := range 24 {
				for d := range 14 {
					date := gtfs.DateOf(time.Date(2026, 11, 20+d, 0, 0, 0, 0, time.UTC))
					if wd := date.Weekday(); wd != time.Saturday && wd != time.Sunday {
						rows = append(rows, expect.RouteHour{Date: date, Route: r, Hour: h, Vehicles: 3})
					}
				}
			}
		}
		return expect.Chain{expect.NewByHand(rows, time.UTC)}
	}
	live := expect.NewLive(weekdays("A", "B", "C"))
	e := NewEngine(EngineConfig{Location: time.UTC, Interval: 15 * time.Second, Expect: live, Rules: rules.Default(time.UTC)}, now)
	pass := func(d time.Duration, inputs ...faults.Input) map[string]schemas.FaultCondition {
		for end := now.Add(d); now.Before(end); now = now.Add(5 * time.Second) {
			e.Round(now, inputs)
			inputs = nil
			if now.Second() == 0 {
				e.Minute(now)
				e.Hours(now)
			}
		}
		standing := map[string]schemas.FaultCondition{}
		for _, f := range e.OpenFaults() {
			standing[f.Subject.Route] = f.Condition
		}
		return standing
	}
	pass(4 * time.Hour)
	open := e.OpenFaults()
	if len(open) != 3 {
		t.Fatalf("%d faults, want those of three silent routes", len(open))
	}
	var given string
	for _, f := range open {
		if f.Subject.Route == "C" {
			given = f.ID
		}
	}
	pass(time.Minute, faults.Abandon{Fault: given, By: "anna", Reason: "the line is closed"})
	if got := pass(24 * time.Hour); len(got) != 3 {
		t.Errorf("on Saturday stand %v, want all three", got)
	}
	live.Swap(now, weekdays("A"))
	if got := pass(time.Minute); len(got) != 1 || got["A"] != schemas.Open {
		t.Errorf("of B and C, which the new timetable has not, stands %v", got)
	}
}
