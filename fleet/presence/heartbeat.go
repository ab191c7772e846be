package presence

import (
	"time"

	"github.com/farebeat/farebeat/schemas"
)

// echoesToRestart is how many heartbeats in a row, each greater than the one before
// but none greater than the latest taken, show a machine whose counter began anew
// under the same boot. Fewer are old news that came late.
const echoesToRestart = 3

// Heartbeat takes a valid heartbeat that arrived at now. Presence keeps hb's strings,
// so they must not share memory with a buffer that is used again; it does not keep id
// or hb. Of a known machine that changes neither state nor route nor vehicle nothing
// is allocated. A heartbeat that is not newer than the latest of its boot, or of the
// boot just before, is counted as stale and changes nothing.
func (p *Presence) Heartbeat(now time.Time, id string, hb *schemas.Heartbeat) {
	seeing := p.sight.Seeing(now)
	sh := p.shardOf(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	m := sh.machines[id]
	if m == nil {
		if m = p.ensure(sh, id, seeing); m == nil {
			return
		}
	} else if m.heard() && p.stale(m, hb, seeing) {
		sh.tally.stale++
		return
	}
	sh.tally.heartbeats++
	if seeing-m.last > p.limits.late {
		// The gap counts even where no Tick fell into it.
		p.settle(sh, m, now, p.sight.Read(now))
	}
	if m.boot != hb.Boot {
		m.prevBoot, m.boot, m.bootSince = m.boot, hb.Boot, seeing
	}
	m.seq, m.echoes = hb.Seq, 0
	m.last, m.lastAt = max(m.last, seeing), now
	m.declare(hb, now)
	p.join(m, ByFirmware, hb.Firmware)
	p.join(m, ByDepot, hb.Depot)
	p.join(m, ByNetwork, hb.Network)
	if m.route != hb.Route || hb.Vehicle != "" && m.vehicle != hb.Vehicle {
		p.move(sh, m, hb, now)
	}
	p.alive(sh, m, hb.State, now, seeing)
	m.place.Heard(seeing)
}

// stale reports that hb is old news of m.
func (p *Presence) stale(m *machine, hb *schemas.Heartbeat, seeing time.Duration) bool {
	if hb.Boot != m.boot {
		// The boot before may still have a heartbeat on its way, but not for ever: were boot
		// names used again, the machine would go unheard.
		return hb.Boot == m.prevBoot && seeing-m.bootSince <= p.limits.dark
	}
	if hb.Seq > m.seq {
		return false
	}
	if m.echoes > 0 && hb.Seq > m.echoSeq {
		m.echoes++
	} else {
		m.echoes = 1
	}
	m.echoSeq = hb.Seq
	return m.echoes < echoesToRestart || seeing-m.last <= p.limits.late
}

// declare takes over what the machine says of itself.
func (m *machine) declare(hb *schemas.Heartbeat, now time.Time) {
	m.skew = hb.At.Sub(now)
	m.run, m.trip = hb.State, hb.Trip
	m.pending, m.pendingMinor = hb.Pending, hb.PendingMinor
	if hb.Pending == 0 {
		m.unsentSince = time.Time{}
	} else if m.unsentSince.IsZero() || m.unsentSince.After(now) {
		m.unsentSince = now
	}
	m.epoch, m.lastSeq = hb.Epoch, hb.LastSeq
	m.fault = hb.Fault
	m.oldest = time.Time{}
	if hb.OldestPending != nil {
		m.oldest = *hb.OldestPending
	}
	if hb.Currency != "" {
		m.currency = hb.Currency
	}
}

// move puts the machine on the route of hb, and on no other.
func (p *Presence) move(sh *shard, m *machine, hb *schemas.Heartbeat, now time.Time) {
	m.route = hb.Route
	if hb.Vehicle != "" {
		m.vehicle = hb.Vehicle
		p.join(m, ByVehicle, hb.Vehicle)
	}
	p.board.Put(now, &m.place, m.route, m.state.standing())
	m.moved = true
	sh.mark(m)
}

// alive judges a machine that was heard just now.
func (p *Presence) alive(sh *shard, m *machine, run schemas.RunState, now time.Time, seeing time.Duration) {
	if m.lost {
		m.lost, m.why = false, ""
	}
	shutdown := run == schemas.ReadyForShutdown
	if m.dutyOver && (shutdown || m.atRest || seeing-m.dutyOverAt > p.limits.dark) {
		m.dutyOver = false
	}
	m.atRest = shutdown
	to := up
	switch {
	case m.out:
		to = outOfService
	case m.atRest:
		to = parked
	}
	if m.state != to {
		p.become(sh, m, to, now)
	}
	if !m.queued && to == up {
		sh.wheel.add(m, seeing+p.limits.late)
	}
}
