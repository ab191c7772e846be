package rules

import (
	"time"

	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/schemas"
)

// Verdict is what a rule says of its subject now.
type Verdict = faults.Verdict

// RouteInput is one route at one evaluation. Numbers are machines.
type RouteInput struct {
	Route        string
	Online       int           // distinct machines UP or LATE
	Known        int           // those whose latest heartbeat named this route and that are not parked
	Late         int           // those of Online that are LATE
	Expected     int           // the most at once in this hour
	ExpectedNow  int           // at this instant; Expected where the source knows hours only
	Exact        bool          // the source knows the minute, not hours only
	Lowest       int           // the least around this instant, so that a change of duty alarms nobody
	Low          int           // the low quantile of what was online on such days, learned; 0: not known
	Source       string        // of the expectation: "hand", "timetable", "history" or "none"
	Blind        bool          // we could not hear
	AllSilentFor time.Duration // the shortest silence among Known, in seeing time; 0 where none is known
}

// MachineInput is one machine at one evaluation.
type MachineInput struct {
	Machine       string
	State         schemas.MachineCondition
	Silence       time.Duration // since its last heartbeat, in seeing time: our own blindness does not count
	RunState      schemas.RunState
	Fault         string        // the machine's own fault code, empty for none
	Pending       uint32        // stored transactions without a receipt
	OldestPending time.Time     // event time of the oldest of them on the machine's clock; zero: not told
	UnsentSince   time.Time     // since when it declares unsent ones, our clock
	Skew          time.Duration // the machine's clock minus ours; positive: it is ahead
	Blind         bool          // we could not hear
}
