package presence

import (
	"time"

	"github.com/farebeat/farebeat/fleet/counts"
)

// wheel keeps the machines of a shard by the next time at which silence may change
// their state. A machine is in one slot or in none.
type wheel struct {
	grain time.Duration
	slots []*machine // power of two
	swept int64      // number of the slot that was swept last
}

func newWheel(limit, grain time.Duration) wheel {
	n := int64(64)
	for n < int64(limit/grain)+2 {
		n *= 2
	}
	return wheel{grain: grain, slots: make([]*machine, n)}
}

// add lets m wait until just after at. A time beyond the wheel's reach waits in its
// last slot and is judged early, which costs a look and decides nothing.
func (w *wheel) add(m *machine, at time.Duration) {
	slot := int64(at / w.grain)
	slot = max(w.swept, min(slot, w.swept+int64(len(w.slots))-1))
	i := slot & int64(len(w.slots)-1)
	m.next, m.queued = w.slots[i], true
	w.slots[i] = m
}

// sweep takes out every machine whose slot began by now and calls judge for it, which
// may add it again.
func (w *wheel) sweep(now time.Duration, judge func(*machine)) {
	to := int64(now / w.grain)
	from := max(w.swept, to-int64(len(w.slots))+1)
	w.swept = max(w.swept, to)
	for slot := from; slot <= to; slot++ {
		i := slot & int64(len(w.slots)-1)
		m := w.slots[i]
		w.slots[i] = nil
		for m != nil {
			next := m.next
			m.next, m.queued = nil, false
			judge(m)
			m = next
		}
	}
}

// settle judges m at r, files the change and the next look. The caller holds the
// shard's lock.
func (p *Presence) settle(sh *shard, m *machine, now time.Time, r counts.Reading) {
	v := p.limits.judge(m, r)
	if v.state == parked && m.dutyOver {
		m.atRest = true
	}
	if v.state != m.state {
		at := now
		if ago := r.Seeing - v.since; ago > 0 {
			at = now.Add(-ago)
		}
		if at.Before(m.since) {
			at = m.since
		}
		p.become(sh, m, v.state, at)
	}
	if !m.queued && v.check != never {
		// Nobody waits longer than a fresh heartbeat would: so a heartbeat never has to
		// move a machine to an earlier slot.
		sh.wheel.add(m, min(v.check, r.Seeing+p.limits.late))
	}
}

// become changes the state of m as of at and moves it on the board.
func (p *Presence) become(sh *shard, m *machine, s state, at time.Time) {
	sh.states[m.state]--
	sh.states[s]++
	m.state, m.since = s, at
	p.board.Put(at, &m.place, m.route, s.standing())
	sh.mark(m)
}
