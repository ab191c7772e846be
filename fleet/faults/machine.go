package faults

import (
	"fmt"
	"slices"
	"time"

	"github.com/farebeat/farebeat/schemas"
)

// machineCheck is one look at the machine of a fault.
func (s *step) machineCheck(in MachineCheck) {
	f := &s.fault
	if in.Blind {
		return
	}
	s.context(in.Context)
	family := f.Family()
	top, firing := strongest(in.Verdicts, family)
	if f.ID == "" || f.Ended() {
		if !firing || f.Ended() && !s.reopenable(s.now, *f) {
			return
		}
		s.begin(top.Kind, top.Since, top.Reason)
	}
	silent := slices.ContainsFunc(in.Verdicts, func(v Verdict) bool { return v.Kind == MachineSilent && v.Firing })
	s.facts(in)
	s.hear(in, silent, silent || firing && family != FamilyCustody)
	heard := s.heard(in.State, silent)
	if !s.live(heard && !firing) {
		return
	}
	s.firing(firing)
	if family != FamilyCustody {
		if !firing && heard && !s.reported() && s.now.Sub(f.WellSince) >= s.ClearFor {
			s.close("The machine's heartbeats are clean again.")
		}
		return
	}
	if firing {
		s.escalate(top)
	}
	s.advance(heard && !firing, silent)
}

// facts takes over what the machine says of itself. Only a heartbeat that is new declares
// anything: what was read over BLE meanwhile is younger than an old one.
func (s *step) facts(in MachineCheck) {
	f := &s.fault
	first := f.Machine == nil
	if first {
		f.Machine, s.dirty = &MachineFacts{}, true
	}
	m := f.Machine
	if in.Vehicle != "" && in.Vehicle != m.Vehicle {
		m.Vehicle, s.dirty = in.Vehicle, true
	}
	if in.Route != "" && in.Route != m.Route {
		m.Route, s.dirty = in.Route, true
	}
	if m.Depot != in.Depot || m.Network != in.Network || m.Firmware != in.Firmware {
		m.Depot, m.Network, m.Firmware, s.dirty = in.Depot, in.Network, in.Firmware, true
	}
	if in.State != m.State {
		m.State, s.dirty = in.State, true
	}
	if fresh := in.LastHeartbeat.After(m.LastHeartbeat); first || fresh {
		if m.Pending != in.Pending || m.PendingMinor != in.PendingMinor || m.Currency != in.Currency {
			m.Pending, m.PendingMinor, m.Currency, s.dirty = in.Pending, in.PendingMinor, in.Currency, true
		}
		s.declare(in.Epoch, in.LastSeq)
	}
	s.hold(in.Epoch, in.CompleteTo)
}

// hear counts heartbeats since the machine last fell silent, or since its own fault was last
// seen, and remembers each silence.
func (s *step) hear(in MachineCheck, silent, unwell bool) {
	m := s.fault.Machine
	fresh := in.LastHeartbeat.After(m.LastHeartbeat)
	began := m.LastHeartbeat.IsZero() && m.HeardSince.IsZero() && m.Heard == 0 && len(m.Onsets) == 0
	if fresh {
		m.LastHeartbeat = in.LastHeartbeat
	}
	if silent && (began || m.Heard > 0 || len(m.Onsets) == 0) {
		m.Onsets = append(m.Onsets, s.now)
		if n := len(m.Onsets); n > maxOnsets {
			m.Onsets = m.Onsets[n-maxOnsets:]
		}
		if m.Recovery != nil {
			m.Recovery.Declared = false // it may have stored more since
		}
		m.RecoveredTold = time.Time{}
		s.dirty = true
	}
	switch {
	case unwell:
		if m.Heard != 0 || !m.HeardSince.IsZero() {
			m.Heard, m.HeardSince, s.dirty = 0, time.Time{}, true
		}
	case fresh && !began && m.Heard < s.HeardAgain:
		m.Heard++
		if m.HeardSince.IsZero() {
			m.HeardSince = s.now
		}
		s.dirty = true
	}
}

// heard reports whether the machine counts as heard again: enough heartbeats, or the one
// with which it announced its shutdown.
func (s *step) heard(state schemas.MachineCondition, silent bool) bool {
	m := s.fault.Machine
	if silent {
		return false
	}
	if state == schemas.Parked && (m.Heard > 0 || len(m.Onsets) == 0) {
		return true
	}
	return m.Heard >= s.HeardAgain
}

// escalate names the fault by its gravest kind so far.
func (s *step) escalate(top Verdict) {
	f := &s.fault
	m := f.Machine
	recent := 0
	for _, at := range m.Onsets {
		if s.now.Sub(at) <= s.FlapWindow {
			recent++
		}
	}
	if recent >= s.Flaps {
		top.Kind = MachineUnstable
		top.Reason = fmt.Sprintf("It fell silent %d times within %s.", recent, s.FlapWindow)
	}
	if top.Kind.Entry().Rank > f.Kind.Entry().Rank {
		s.name(top.Kind, top.Reason)
	}
	if (top.Kind == MachineFilling || top.Kind == MachineFull) && top.Threshold > m.Level {
		m.Level, f.Reason = top.Threshold, top.Reason
		s.tell(ChangeUpdated)
	}
}

// advance moves a custody fault along its condition.
func (s *step) advance(well, silent bool) {
	f := &s.fault
	m := f.Machine
	left := f.Outstanding()
	stable := f.Kind != MachineUnstable || !m.HeardSince.IsZero() && s.now.Sub(m.HeardSince) >= s.StableFor
	if well && left == 0 && m.Pending == 0 && stable && !s.reported() {
		s.close("The machine is heard again and the ledger has all it declared.")
		return
	}
	declared := m.Recovery != nil && m.Recovery.Declared
	switch {
	case declared && left == 0:
		if f.Condition != schemas.Recovered {
			f.Condition = schemas.Recovered
			f.Reason = "The ledger has all that the machine declared over BLE; the machine is not heard yet."
			if !silent {
				f.Reason = "The ledger has all that the machine declared; the machine has not released it yet."
			}
			s.tellRecovery(ChangeRecovered)
		}
	case declared:
		if f.Condition != schemas.Recovering {
			f.Condition = schemas.Recovering
			f.Reason = fmt.Sprintf("The gateway reads the machine over BLE; %d transactions are not in the ledger yet.", left)
			s.tellRecovery(ChangeUpdated)
		}
	case f.Condition == schemas.Recovered, f.Condition == schemas.Recovering:
		f.Condition, f.Reason = schemas.Open, "The machine fell silent again."
		s.tell(ChangeUpdated)
	}
}

// tellRecovery tells that a recovery goes on or is complete. A machine without an uplink that goes on selling is read again and again; that the ledger
// has all is told once, and then now and again.
func (s *step) tellRecovery(change string) {
	m, alone := s.fault.Machine, s.event == ""
	recent := !m.RecoveredTold.IsZero() && s.now.Sub(m.RecoveredTold).Abs() < s.TellAgain
	s.tell(change)
	s.hush = alone && recent
	if change == ChangeRecovered && !recent {
		m.RecoveredTold = s.now
	}
}

// recoveryReport takes over the gateway's progress, once and in order.
func (s *step) recoveryReport(in RecoveryReport) {
	f := &s.fault
	if f.ID == "" || f.Ended() || f.Condition == schemas.Abandoned || in.Fault != f.ID && in.AsOf.Before(f.OpenedAt) {
		return
	}
	if f.Machine == nil {
		f.Machine = &MachineFacts{}
	}
	m := f.Machine
	if m.Recovery != nil && !in.AsOf.After(m.Recovery.AsOf) {
		return
	}
	next := Progress{
		State: in.State, AsOf: in.AsOf, Read: in.Read, Total: in.Total, Receipted: in.Receipted, PerSecond: in.PerSecond, LastError: in.LastError,
		NextStep: in.NextAction,
	}
	switch in.State {
	case schemas.RecoveryReading, schemas.RecoverySending, schemas.RecoveryComplete:
		next.Declared = true
		s.declare(in.Epoch, in.LastSeq)
		m.Pending = in.Total - min(in.Receipted, in.Total)
	default:
		next.Declared = m.Recovery != nil && m.Recovery.Declared
	}
	m.Recovery, s.dirty = &next, true
	s.advance(false, m.Heard == 0)
}

func (s *step) ledgerProgress(in LedgerProgress) {
	f := &s.fault
	if f.ID == "" || f.Ended() || f.Machine == nil || !s.hold(in.Epoch, in.CompleteTo) || f.Condition == schemas.Abandoned {
		return
	}
	s.advance(false, f.Machine.Heard == 0)
}

// declare notes that the machine has written records up to lastSeq.
func (s *step) declare(epoch, lastSeq uint32) {
	if epoch == 0 {
		return
	}
	m := s.fault.Machine
	i := slices.IndexFunc(m.Custody, func(c Custody) bool { return c.Epoch == epoch })
	switch {
	case i < 0:
		m.Custody = append(m.Custody, Custody{Epoch: epoch, LastSeq: lastSeq})
		slices.SortFunc(m.Custody, func(a, b Custody) int { return int(int64(b.Epoch) - int64(a.Epoch)) })
		m.Custody = m.Custody[:min(len(m.Custody), MaxEpochs)]
		s.dirty = true
	case lastSeq > m.Custody[i].LastSeq:
		m.Custody[i].LastSeq, s.dirty = lastSeq, true
	}
}

// hold notes what the ledger has, and reports whether that is news. It may come before the
// machine declared the epoch.
func (s *step) hold(epoch, completeTo uint32) bool {
	if completeTo == 0 {
		return false
	}
	s.declare(epoch, 0)
	m := s.fault.Machine
	i := slices.IndexFunc(m.Custody, func(c Custody) bool { return c.Epoch == epoch })
	if i < 0 || completeTo <= m.Custody[i].CompleteTo {
		return false
	}
	m.Custody[i].CompleteTo, s.dirty = completeTo, true
	return true
}
