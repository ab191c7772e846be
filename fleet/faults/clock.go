package faults

import "time"

// clockSlack is by how much a time may be ahead of ours and still be believed: heartbeats come during a round, and
// gateways have clocks of their own.
const clockSlack = time.Minute

// ahead reports whether the fault has a time that is still to come: our clock was ahead when it was noted, or a
// gateway's was.
func (f *Fault) ahead(now time.Time) bool {
	limit := now.Add(clockSlack)
	if f.OpenedAt.After(limit) || f.SuspectedAt.After(limit) || f.WellSince.After(limit) {
		return true
	}
	if n := len(f.Reports); n > 0 && f.Reports[n-1].At.After(limit) {
		return true
	}
	m := f.Machine
	if m == nil {
		return false
	}
	if n := len(m.Onsets); n > 0 && m.Onsets[n-1].After(limit) {
		return true
	}
	return m.LastHeartbeat.After(limit) || m.HeardSince.After(limit) || m.Recovery != nil && m.Recovery.AsOf.After(limit)
}

// notAhead takes what is still to come for now. To wait for it would stop the fault's life, and with it the collecting
// of money, for as long as the clock was off.
func (s *step) notAhead() {
	f := &s.fault
	if !f.ahead(s.now) {
		return
	}
	times := []*time.Time{&f.OpenedAt, &f.SuspectedAt, &f.WellSince}
	for i := range f.Reports {
		times = append(times, &f.Reports[i].At)
	}
	if m := f.Machine; m != nil {
		times = append(times, &m.LastHeartbeat, &m.HeardSince)
		for i := range m.Onsets {
			times = append(times, &m.Onsets[i])
		}
		if m.Recovery != nil {
			times = append(times, &m.Recovery.AsOf)
		}
	}
	for _, t := range times {
		if t.After(s.now) {
			*t = s.now
		}
	}
	s.dirty = true
}
