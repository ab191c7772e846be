package rules

import (
	"fmt"
	"slices"
	"time"

	"github.com/farebeat/farebeat/fleet/faults"
)

// PlatformState is what the platform rule remembers: the zero value is a start.
type PlatformState struct {
	Recent []PlatformSample `json:"recent,omitempty"` // oldest first, no older than PlatformRule.Within
	Firing bool             `json:"firing,omitempty"`
	Before int              `json:"before,omitempty"` // machines online before the drop that fires
	Base   int              `json:"base,omitempty"`   // machines missing before it
	Frozen bool             `json:"frozen,omitempty"`
}

// PlatformSample is one look back.
type PlatformSample struct {
	At      time.Time `json:"at"`
	Online  int       `json:"online"`
	Missing int       `json:"missing"`
	Routes  int       `json:"routes"`
}

// EvaluatePlatform decides whether so many machines were lost at once that it is one cause. It
// resolves when half of the lost are back.
func (s *Set) EvaluatePlatform(now time.Time, in PlatformInput, st PlatformState) (PlatformState, Verdict) {
	rule := s.platform
	if in.Blind {
		st.Frozen = true
		return st, st.verdict("We cannot hear; nothing is decided.")
	}
	if st.Frozen { // what was counted before the blindness is no measure of a drop
		st.Recent, st.Frozen = nil, false
	}
	oldest := now.Add(-rule.Within)
	recent := slices.Clone(st.Recent)
	st.Recent = slices.DeleteFunc(recent, func(p PlatformSample) bool { return p.At.Before(oldest) || p.At.After(now) })
	st.Recent = append(st.Recent, PlatformSample{now, in.Online, in.Missing, in.Routes})
	base := slices.MinFunc(st.Recent, func(a, b PlatformSample) int { return a.Missing - b.Missing })
	if !st.Firing {
		lost, before := in.Missing-base.Missing, base.Online
		if lost < rule.Machines || in.Routes < rule.Routes ||
			float64(lost) < rule.Share*float64(max(before, lost)) {
			return st, st.verdict("")
		}
		st.Firing, st.Before, st.Base = true, before, base.Missing
	}
	lost := in.Missing - st.Base
	if float64(lost) < rule.Share*float64(st.Before)/2 {
		st.Firing = false
		return st, st.verdict(fmt.Sprintf("Most machines are heard again, %d are online.", in.Online))
	}
	return st, st.verdict(fmt.Sprintf("%d machines fell silent within %s, over %d routes; %d are online.", lost, rule.Within, in.Routes, in.Online))
}

func (st PlatformState) verdict(reason string) Verdict {
	return Verdict{Kind: faults.Platform, Firing: st.Firing, Reason: reason}
}
