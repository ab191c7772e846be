package presence

import (
	"errors"
	"fmt"
	"time"

	"github.com/farebeat/farebeat/fleet/counts"
	"github.com/farebeat/farebeat/schemas"
)

func (p *Presence) reading() counts.Reading {
	p.asOfMu.RLock()
	defer p.asOfMu.RUnlock()
	return p.asOf
}

// View gives a machine; false if it is not known.
func (p *Presence) View(id string) (View, bool) {
	r := p.reading()
	sh := p.shardOf(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	m := sh.machines[id]
	if m == nil {
		return View{}, false
	}
	return p.view(m, r), true
}

// Each calls f for every machine, in no order, without holding a lock meanwhile.
func (p *Presence) Each(f func(View)) {
	r := p.reading()
	var views []View
	for i := range p.shards {
		views = views[:0]
		sh := &p.shards[i]
		sh.mu.Lock()
		for _, m := range sh.machines {
			views = append(views, p.view(m, r))
		}
		sh.mu.Unlock()
		for _, v := range views {
			f(v)
		}
	}
}

func (p *Presence) view(m *machine, r counts.Reading) View {
	v := View{
		Machine: m.id, State: m.state.condition(), Since: m.since, Reason: p.reason(m, r),
		Vehicle: m.vehicle, Route: m.route, Trip: m.trip,
		Run: m.run, Fault: m.fault, Firmware: m.named(ByFirmware), Depot: m.named(ByDepot), Network: m.named(ByNetwork),
		LastHeartbeat: m.lastAt, Silence: m.silence(r), Skew: m.skew, Session: m.sessions > 0,
		Pending: m.pending, PendingMinor: m.pendingMinor, Currency: m.currency, OldestPending: m.oldest, UnsentSince: m.unsentSince,
		Epoch: m.epoch, LastSeq: m.lastSeq,
		LedgerEpoch: m.ledgerEpoch, LedgerComplete: m.ledgerTo,
		SeenAt: m.seenAt, RSSI: int(m.rssi),
	}
	if m.seenBy != nil {
		v.SeenBy = m.seenBy.id
	}
	if m.out {
		v.OutOfService = orUnknown(m.outWhy)
	}
	return v
}

// silence is the seeing time since the latest heartbeat.
func (m *machine) silence(r counts.Reading) time.Duration { return max(0, r.Seeing-m.last) }

// reason says in one sentence why m is in its state.
func (p *Presence) reason(m *machine, r counts.Reading) string {
	if m.state == up {
		return "heartbeats arrive" // most machines, at every round: without making a sentence
	}
	silent := "no heartbeat yet"
	if m.heard() {
		silent = fmt.Sprintf("no heartbeat for %s", m.silence(r).Round(time.Second))
	}
	switch m.state {
	case late:
		if m.lost {
			return "its session with the broker was lost: " + orUnknown(m.why)
		}
		return fmt.Sprintf("%s, one is due every %s", silent, p.cfg.Interval)
	case stranded:
		if m.seenBy == nil {
			return silent + ", but a gateway saw it over BLE"
		}
		return fmt.Sprintf("%s, but the gateway of vehicle %s sees it over BLE at %d dBm: recovery works now", silent, m.seenBy.id, m.rssi)
	case dark:
		return silent + " and no gateway sees it"
	case parked:
		why := "it said readyForShutdown"
		if m.dutyOver {
			why = "it fell silent after its duty ended"
		}
		if m.pending > 0 {
			why += fmt.Sprintf(", with %d transactions not yet sent", m.pending)
		}
		return why
	case outOfService:
		return "taken out of service: " + orUnknown(m.outWhy)
	}
	return ""
}

func orUnknown(why string) string {
	if why == "" {
		return "no reason given"
	}
	return why
}

// ErrNotEmpty says that Restore came too late.
var ErrNotEmpty = errors.New("presence holds machines already: restore before the first heartbeat")

// Snapshot gives every machine as of now, fit for Restore. It locks one shard at a time.
func (p *Presence) Snapshot(now time.Time) []Saved {
	r := p.sight.Read(now)
	var out []Saved
	for i := range p.shards {
		sh := &p.shards[i]
		sh.mu.Lock()
		for _, m := range sh.machines {
			if m.state != none {
				out = append(out, p.save(m, now, r))
			}
		}
		sh.mu.Unlock()
	}
	return out
}

func (p *Presence) save(m *machine, now time.Time, r counts.Reading) Saved {
	s := Saved{
		Machine: m.id, State: m.state.condition(), Since: m.since, LastHeartbeat: m.lastAt, Silence: m.silence(r),
		Vehicle: m.vehicle, Route: m.route, Trip: m.trip, Run: m.run, Fault: m.fault, Firmware: m.named(ByFirmware), Depot: m.named(ByDepot), Network: m.named(ByNetwork),
		Skew: m.skew, Boot: m.boot, Seq: m.seq,
		Pending: m.pending, PendingMinor: m.pendingMinor, Currency: m.currency, OldestPending: m.oldest, UnsentSince: m.unsentSince,
		Epoch: m.epoch, LastSeq: m.lastSeq, LedgerEpoch: m.ledgerEpoch, LedgerComplete: m.ledgerTo,
		SeenAt: m.seenAt, RSSI: int(m.rssi), OutOfService: m.out, OutWhy: m.outWhy, Lost: m.lost, Why: m.why, DutyOver: m.dutyOver,
	}
	if m.seenBy != nil {
		s.SeenBy = m.seenBy.id
	}
	s.CountedIn, s.Counted = p.board.Counted(now, &m.place)
	return s
}

// Restore takes up a snapshot after a restart: the time between is our blindness, and
// nobody's silence. Nothing of it is reported as a change. The presence must be empty;
// restore the board's state before it. After an error nothing has changed.
func (p *Presence) Restore(now time.Time, saved []Saved) error {
	if p.Stats().Machines > 0 {
		return ErrNotEmpty
	}
	ids := make(map[string]bool, len(saved))
	for i, s := range saved {
		if _, ok := stateOf(s.State); !ok || s.Machine == "" {
			return fmt.Errorf("presence: restore: entry %d, machine %q: state %q is none of the six", i, s.Machine, s.State)
		}
		if ids[s.Machine] {
			return fmt.Errorf("presence: restore: entry %d: machine %q is there twice", i, s.Machine)
		}
		ids[s.Machine] = true
	}
	r := p.sight.Read(now)
	for _, s := range saved {
		p.restore(now, r, s)
	}
	return nil
}

func (p *Presence) restore(now time.Time, r counts.Reading, s Saved) {
	sh := p.shardOf(s.Machine)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	m := p.ensure(sh, s.Machine, r.Seeing)
	if m == nil {
		return
	}
	m.last, m.lastAt, m.since = r.Seeing-s.Silence, s.LastHeartbeat, s.Since
	m.vehicle, m.route, m.trip, m.run, m.fault = s.Vehicle, s.Route, s.Trip, s.Run, s.Fault
	for d, name := range [Dimensions]string{ByVehicle: s.Vehicle, ByDepot: s.Depot, ByNetwork: s.Network, ByFirmware: s.Firmware} {
		p.join(m, Dimension(d), name)
	}
	m.skew, m.boot, m.seq = s.Skew, s.Boot, s.Seq
	m.pending, m.pendingMinor, m.currency, m.oldest, m.unsentSince = s.Pending, s.PendingMinor, s.Currency, s.OldestPending, s.UnsentSince
	m.epoch, m.lastSeq = s.Epoch, s.LastSeq
	if newer(m.ledgerEpoch, m.ledgerTo, s.LedgerEpoch, s.LedgerComplete) {
		m.ledgerEpoch, m.ledgerTo = s.LedgerEpoch, s.LedgerComplete
	}
	m.out, m.outWhy, m.lost, m.why, m.dutyOver = s.OutOfService, s.OutWhy, s.Lost, s.Why, s.DutyOver
	st, _ := stateOf(s.State)
	m.atRest = st == parked || st == outOfService && s.Run == schemas.ReadyForShutdown
	if v := p.vehicle(s.SeenBy); v != nil {
		v.saw(s.Machine)
		m.seenBy, m.seenAt, m.seen, m.rssi = v, s.SeenAt, r.Seeing, int8(max(-128, min(s.RSSI, 127)))
	}
	sh.states[m.state]--
	sh.states[st]++
	m.state, m.reported = st, st
	p.board.Recount(now, &m.place, s.CountedIn, s.Counted)
	p.board.Put(now, &m.place, m.route, st.standing())
	if m.heard() {
		m.place.Heard(m.last)
	}
	if !m.queued && !m.out && !m.atRest && st != dark {
		sh.wheel.add(m, r.Seeing)
	}
}
