package rules

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/farebeat/farebeat/schemas"
)

// Rule is what holds for one route in one hour. It is a plain value; two equal rules are ==.
type Rule struct {
	Off       bool    // nothing is ever a fault
	MinOnline int     // fewer than this many is a fault; 0: see MinRatio
	MinRatio  float64 // fewer than this share of the demand is a fault; 0: auto

	// Auto: the threshold is the largest that a binomial of the demand and Availability stays
	// under with a probability below FalseAlarms, but never above RouteInput.Low.
	Availability float64 // the share of time that a healthy machine is heard, in (0, 1)
	FalseAlarms  float64 // the probability of a breach while all is well, in (0, 0.5)

	For             For
	KeepFiring      time.Duration // the breach must be over for this long before it resolves
	SilentAfter     time.Duration // all machines of a route, two or more, fell silent at once and are unheard for this long: it is silent
	NeverHeardAfter time.Duration // none online for this long, by the number that should be: it is silent
}

// For says how long a breach must last: M of the last Of samples, one sample Every.
type For struct {
	M, Of int // 1 <= M <= Of <= MaxWindow
	Every time.Duration
}

// MaxWindow is the greatest number of samples that a For may look back on.
const MaxWindow = 64

// Duration is how long an unbroken breach takes to fire.
func (f For) Duration() time.Duration { return time.Duration(f.M) * f.Every }

// MachineRules are the rules for single machines.
type MachineRules struct {
	// Silence since the last heartbeat that is a fault. With a tick every 5 s the fault
	// is open at most 5 s later.
	Silence     time.Duration
	Cap         uint32        // transactions that a machine can store; 0: unknown, then no storage rule
	Filling     []int         // percent of Cap at which storage is filling, ascending; each step tells again
	Full        int           // percent of Cap at which storage is nearly full
	ClockSkew   time.Duration // a clock further off than this is wrong; 0: no rule
	UnsentAfter time.Duration // transactions held for longer than this while heard; 0: no rule
}

// PlatformRule says when many lost machines are one fault, whatever they have in common, and what lost means to all causes.
type PlatformRule struct {
	Machines int           // at least this many lost ...
	Share    float64       // ... that are at least this share of those heard before ...
	Routes   int           // ... over at least this many routes ...
	Within   time.Duration // ... that fell silent within this time

	SilentAfter time.Duration // a machine unheard for this long is lost
}

func (r Rule) check() error {
	switch {
	case r.MinOnline < 0:
		return fmt.Errorf("min_online: %d is negative", r.MinOnline)
	case r.MinRatio < 0 || r.MinRatio > 1 || math.IsNaN(r.MinRatio):
		return fmt.Errorf("min_ratio: %v is not between 0 and 1", r.MinRatio)
	case !(r.Availability > 0 && r.Availability < 1):
		return fmt.Errorf("auto.availability: %v is not between 0 and 1", r.Availability)
	case !(r.FalseAlarms > 0 && r.FalseAlarms < 0.5):
		return fmt.Errorf("auto.false_alarms: %v is not between 0 and 0.5", r.FalseAlarms)
	case r.For.Of < 1 || r.For.Of > MaxWindow:
		return fmt.Errorf("for.of: %d is not between 1 and %d", r.For.Of, MaxWindow)
	case r.For.M < 1 || r.For.M > r.For.Of:
		return fmt.Errorf("for.m: %d is not between 1 and for.of, which is %d", r.For.M, r.For.Of)
	case r.For.Every < time.Second || r.For.Every > time.Hour:
		return fmt.Errorf("for.every: %v is not between 1s and 1h", r.For.Every)
	case r.KeepFiring < 0 || r.KeepFiring > 24*time.Hour:
		return fmt.Errorf("keep_firing_for: %v is not between 0s and 24h", r.KeepFiring)
	case r.SilentAfter < time.Second || r.SilentAfter > 24*time.Hour:
		return fmt.Errorf("silent_after: %v is not between 1s and 24h", r.SilentAfter)
	case r.NeverHeardAfter < time.Second || r.NeverHeardAfter > 24*time.Hour:
		return fmt.Errorf("never_heard_after: %v is not between 1s and 24h", r.NeverHeardAfter)
	}
	return nil
}

func (m MachineRules) check() error {
	if m.Silence < time.Second || m.Silence > 24*time.Hour {
		return fmt.Errorf("silence: %v is not between 1s and 24h", m.Silence)
	}
	if m.ClockSkew < 0 || m.UnsentAfter < 0 {
		return errors.New("clock_skew and unsent_after must not be negative")
	}
	last := 0
	for _, p := range append(append([]int(nil), m.Filling...), m.Full) {
		if p <= last || p > 100 {
			return fmt.Errorf("pending: %d %% is not above %d and at most 100; list the steps upwards, the last is full", p, last)
		}
		last = p
	}
	return nil
}

func (p PlatformRule) check() error {
	switch {
	case p.Machines < 2:
		return fmt.Errorf("machines: %d is not at least 2", p.Machines)
	case !(p.Share > 0 && p.Share <= 1):
		return fmt.Errorf("share: %v is not above 0 and at most 1", p.Share)
	case p.Routes < 1:
		return fmt.Errorf("routes: %d is not at least 1", p.Routes)
	case p.Within < 10*time.Second || p.Within > time.Hour:
		return fmt.Errorf("within: %v is not between 10s and 1h", p.Within)
	case p.SilentAfter < time.Second || p.SilentAfter > time.Hour:
		return fmt.Errorf("silent_after: %v is not between 1s and 1h", p.SilentAfter)
	}
	return nil
}

// threshold is the number below which a route with this demand is in breach, 0 for none. What was
// learned, low, bounds what is worked out and not what a person set; 0 is not known.
func (r *readyRule) threshold(demand int, known bool, low int) int {
	switch {
	case r.Off || known && demand <= 0:
		return 0
	case r.MinOnline > 0:
		return r.MinOnline
	case !known:
		return 0
	case r.MinRatio > 0:
		return int(math.Ceil(r.MinRatio*float64(demand) - 1e-9))
	}
	var auto int
	if demand < len(r.auto) {
		auto = r.auto[demand]
	} else {
		auto = autoThreshold(demand, r.Availability, r.FalseAlarms)
	}
	if low > 0 {
		auto = min(auto, low)
	}
	return auto
}

// autoThreshold is k+1 for the largest k with P(X <= k) < budget, X binomial(n, p); 0 if even
// P(X = 0) is not below the budget.
func autoThreshold(n int, p, budget float64) int {
	if n <= 0 {
		return 0
	}
	// In logarithms, because (1-p)^n of a big route is below the smallest float64.
	logP, logQ := math.Log(p), math.Log1p(-p)
	logTerm := float64(n) * logQ // P(X = 0)
	sum := 0.0
	for k := 0; k < n; k++ {
		sum += math.Exp(logTerm)
		if sum >= budget {
			return k
		}
		logTerm += math.Log(float64(n-k)) - math.Log(float64(k+1)) + logP - logQ
	}
	return n
}

func planned(s schemas.MachineCondition) bool {
	return s == schemas.Parked || s == schemas.OutOfService
}
