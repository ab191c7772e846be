package rules

import (
	"fmt"
	"time"

	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/schemas"
)

// EvaluateMachine lists the verdicts that fire for one machine, none while blind. It
// remembers nothing: how long a fault must be gone before it closes is the fault's.
func (s *Set) EvaluateMachine(now time.Time, in MachineInput) []Verdict {
	if in.Blind {
		return nil
	}
	var out []Verdict
	fire := func(kind faults.Kind, reason string) {
		out = append(out, Verdict{Kind: kind, Firing: true, Since: now, Reason: reason})
	}
	m := s.machine
	silent := !planned(in.State) && in.Silence >= m.Silence
	if silent {
		fire(faults.MachineSilent, fmt.Sprintf("No heartbeat for %s; %d transactions were declared unsent.", in.Silence.Round(time.Second), in.Pending))
	}
	if in.State == schemas.Parked && in.Pending > 0 {
		fire(faults.MachineParked, fmt.Sprintf("Parked with %d unsent transactions.", in.Pending))
	}
	if v, ok := m.storage(in.Pending); ok {
		v.Firing, v.Since = true, now
		out = append(out, v)
	}
	if silent {
		return out // what it said of itself before it fell silent is old
	}
	if in.Fault != "" || in.RunState == schemas.Defective {
		fire(faults.MachineCode, fmt.Sprintf("The machine says it is %s, code %q.", in.RunState, in.Fault))
	}
	if m.ClockSkew > 0 && in.Skew.Abs() > m.ClockSkew {
		way := "ahead"
		if in.Skew < 0 {
			way = "behind"
		}
		off := in.Skew.Abs().Round(time.Second).String()
		if in.Skew.Abs() > maxSkewSaid {
			off = "more than a year" // the difference of two times ends at 292 years
		}
		fire(faults.MachineClock, fmt.Sprintf("The machine's clock is %s %s.", off, way))
	}
	if m.UnsentAfter > 0 && in.Pending > 0 && !in.OldestPending.IsZero() && !planned(in.State) {
		if age := in.unsentFor(now); age >= m.UnsentAfter {
			fire(faults.MachineUnsent, fmt.Sprintf("%d transactions unsent, the oldest for %s.", in.Pending, age.Round(time.Second)))
		}
	}
	return out
}

// unsentFor is the age of the oldest unsent transaction. Its machine's clock set the time, so that clock tells the age; unless it was
// set back since, and would tell it only when the time comes.
func (in *MachineInput) unsentFor(now time.Time) time.Duration {
	age := now.Add(in.Skew).Sub(in.OldestPending)
	if age < -clockSlack {
		age = now.Sub(in.UnsentSince)
	}
	return age
}

const maxSkewSaid = 365 * 24 * time.Hour

func (m MachineRules) storage(pending uint32) (Verdict, bool) {
	if m.Cap == 0 || pending == 0 {
		return Verdict{}, false
	}
	percent := int(uint64(pending) * 100 / uint64(m.Cap))
	if percent >= m.Full {
		return Verdict{Kind: faults.MachineFull, Threshold: m.Full, Reason: fmt.Sprintf("%d of %d transactions stored, over %d %%.", pending, m.Cap, m.Full)}, true
	}
	for i := len(m.Filling) - 1; i >= 0; i-- {
		if percent >= m.Filling[i] {
			return Verdict{Kind: faults.MachineFilling, Threshold: m.Filling[i], Reason: fmt.Sprintf("%d of %d transactions stored, over %d %%.", pending, m.Cap, m.Filling[i])}, true
		}
	}
	return Verdict{}, false
}

// Lost reports whether a machine counts as missing in EvaluateCauses: unheard for as long as
// makes a route silent, and not by plan.
func (s *Set) Lost(in *MachineInput) bool {
	return !planned(in.State) && in.Silence >= s.platform.SilentAfter
}

// Attention reports, without allocating, whether a machine needs EvaluateMachine at all:
// false means that no machine rule can fire.
func (s *Set) Attention(in *MachineInput) bool {
	return in.Silence >= s.machine.Silence || in.Pending > 0 || in.Fault != "" || in.RunState == schemas.Defective ||
		s.machine.ClockSkew > 0 && in.Skew.Abs() > s.machine.ClockSkew
}
