package rules

import "time"

// Basis says what sets a threshold.
type Basis string

// What may set one.
const (
	BasisOff       Basis = "off"        // the rule is switched off
	BasisNobody    Basis = "nobody"     // none is expected
	BasisUnknown   Basis = "unknown"    // no source says how many, and the rule needs to know
	BasisMinOnline Basis = "min_online" // a number that a person set
	BasisMinRatio  Basis = "min_ratio"  // a share of the demand
	BasisAuto      Basis = "auto"       // worked out from the demand
	BasisLearned   Basis = "learned"    // auto, bounded by what past days reached at worst
)

// Threshold is from when on a route has too few online, and why.
type Threshold struct {
	Below  int   // fewer machines online than this is a breach; 0: nothing is
	Demand int   // machines that it is worked out from
	Basis  Basis // what sets it
	Rule   Rule  // the rule that does
}

// Threshold is that of a route at an instant, worked out as EvaluateRoute does. What only a running state knows, the hour
// before of an expectation that knows hours only, is taken to be as this one.
func (s *Set) Threshold(at time.Time, in RouteInput) Threshold {
	known := in.Source != "" && in.Source != "none"
	demand := 0
	if known {
		demand = max(min(in.ExpectedNow, in.Lowest), 0)
	}
	below, rule := s.lowest(at, in, demand, known)
	return Threshold{Below: below, Demand: demand, Basis: rule.basis(demand, known, in.Low), Rule: rule.Rule}
}

// basis says what threshold went by.
func (r *readyRule) basis(demand int, known bool, low int) Basis {
	switch {
	case r.Off:
		return BasisOff
	case known && demand <= 0:
		return BasisNobody
	case r.MinOnline > 0:
		return BasisMinOnline
	case !known:
		return BasisUnknown
	case r.MinRatio > 0:
		return BasisMinRatio
	case low > 0 && r.threshold(demand, known, 0) > low:
		return BasisLearned
	}
	return BasisAuto
}
