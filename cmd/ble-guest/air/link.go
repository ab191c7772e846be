package air

import (
	"encoding/binary"
	"time"
)

// Times of a connection event at 1 Mbit/s: a packet, the pause, the empty packet that acknowledges it, the pause.
const (
	pauseMicros = 150
	emptyMicros = 80
)

// link is a connection between two controllers.
type link struct {
	ends        [2]end // the central first
	interval    time.Duration
	supervision time.Duration
	at          time.Time // of the next connection event
	lastHeard   time.Time // when both ends heard each other last
	silent      bool      // nothing goes over any more
	over        bool
	ending      byte // the reason, where a host wants it to end
	by          int  // the side that wants it
	delivered   int  // data packets
	loseAt      int  // lost after so many; 0: not so
	starts      int  // the side that sends first in the next event
}

// end is one side of a link.
type end struct {
	c       *controller
	handle  uint16
	payload int // bytes of a link layer packet that it sends
	queue   []queued
	sent    int  // bytes of the first of queue that are over
	deaf    bool // its host forgot the link
	done    int  // packets that are over and that the host was not told of
}

type queued struct {
	continuing bool
	body       []byte
}

// connect makes a link, as c wanted it, to a controller that advertises.
func (a *Air) connect(now time.Time, c, target *controller) {
	d := c.dial
	c.dial, target.advertising = nil, false
	l := &link{interval: time.Duration(d.interval) * 1250 * time.Microsecond, supervision: time.Duration(d.supervision) * 10 * time.Millisecond, lastHeard: now}
	l.at = now.Add(l.interval)
	for i, pair := range [2][2]*controller{{c, target}, {target, c}} {
		self, other := pair[0], pair[1]
		l.ends[i] = end{c: self, handle: self.nextHandle, payload: min(self.suggested, self.s.LinkPayload, other.s.LinkPayload)}
		if self.nextHandle++; self.nextHandle > lastHandle {
			self.nextHandle = firstHandle
		}
	}
	a.links = append(a.links, l)
	a.faults.begin(a.rng, l)
	for i, e := range l.ends {
		peer := l.ends[1-i].c.s.Address
		a.send(e.c.id, event(eventLE, []byte{leConnected, statusOK}, word(e.handle), []byte{byte(i), 0}, peer[:], word(d.interval), word(0), word(d.supervision), []byte{0}))
	}
}

// find returns the link of a controller's handle and the controller's side of it, nil where there is none.
func (a *Air) find(c *controller, handle uint16) (*link, int) {
	for _, l := range a.links {
		for side := range l.ends {
			if e := &l.ends[side]; e.c == c && e.handle == handle && !l.over && !e.deaf {
				return l, side
			}
		}
	}
	return nil, 0
}

// enqueue takes a data packet of a host. One that comes too late for its link is dropped, as a controller does.
func (a *Air) enqueue(c *controller, p hostPacket) {
	l, side := a.find(c, p.handle)
	if l == nil {
		return
	}
	held := 0
	for _, o := range a.links {
		for i := range o.ends {
			if o.ends[i].c == c && !o.ends[i].deaf && !o.over {
				held += len(o.ends[i].queue)
			}
		}
	}
	if held >= c.s.Buffers || len(p.body) > c.s.BufferSize {
		a.counts.Overrun++
		return
	}
	e := &l.ends[side]
	e.queue = append(e.queue, queued{p.continuing, append([]byte(nil), p.body...)})
}

// connectionEvent has both sides send in turn while there is time before the next event.
func (a *Air) connectionEvent(now time.Time, l *link) {
	if l.silent || a.faults.muted(now) {
		if now.Sub(l.lastHeard) >= l.supervision {
			a.end(l, statusTimeout, statusTimeout)
		}
		return
	}
	l.lastHeard = now
	if l.ending != 0 {
		reasons := [2]byte{l.ending, l.ending}
		reasons[l.by] = statusLocalEnded
		a.end(l, reasons[0], reasons[1])
		return
	}
	defer func() {
		for i := range l.ends {
			a.completed(&l.ends[i])
		}
	}()
	left := int(l.interval / time.Microsecond)
	side := l.starts
	l.starts = 1 - l.starts
	for idle := 0; idle < 2 && !l.silent; side = 1 - side {
		e := &l.ends[side]
		if len(e.queue) == 0 {
			idle++
			continue
		}
		n := min(e.payload, len(e.queue[0].body)-e.sent)
		left -= int(airMicros(n)) + emptyMicros + 2*pauseMicros
		if left < 0 {
			return
		}
		idle = 0
		if a.faults.repeat(a.rng) { // the packet was not heard: it is sent again
			continue
		}
		if e.sent += n; e.sent >= len(e.queue[0].body) {
			a.deliver(l, side)
		}
	}
}

// completed gives a host the buffers back that are free again.
func (a *Air) completed(e *end) {
	if e.done > 0 && !e.deaf {
		a.send(e.c.id, event(eventCompleted, []byte{1}, word(e.handle), word(uint16(e.done))))
	}
	e.done = 0
}

// tellAfter is after how many packets a host gets their buffers back, if the connection event does not end before.
const tellAfter = 4

// deliver hands a data packet to the other side's host.
func (a *Air) deliver(l *link, side int) {
	e, other := &l.ends[side], &l.ends[1-side]
	q := e.queue[0]
	e.queue, e.sent = e.queue[1:], 0
	a.send(other.c.id, data(other.handle, q.continuing, q.body))
	if e.done++; e.done >= tellAfter {
		a.completed(e)
	}
	a.counts.Delivered++
	a.counts.Bytes += uint64(len(q.body))
	if l.delivered++; l.loseAt > 0 && l.delivered >= l.loseAt {
		a.lose(l)
	}
}

// lose has nothing go over a link any more.
func (a *Air) lose(l *link) {
	if !l.silent {
		l.silent = true
		a.counts.LinksLost++
	}
}

// end ends a link: the hosts that still know of it are told.
func (a *Air) end(l *link, central, peripheral byte) {
	l.over = true
	for i, reason := range [2]byte{central, peripheral} {
		if e := l.ends[i]; !e.deaf {
			a.send(e.c.id, disconnected(e.handle, reason))
		}
	}
}

func (a *Air) disconnect(_ time.Time, c *controller, opcode uint16, p []byte) {
	l, side := a.find(c, binary.LittleEndian.Uint16(p)&0x0fff)
	if l == nil {
		a.send(c.id, commandStatus(opcode, statusNoConnection))
		return
	}
	a.send(c.id, commandStatus(opcode, statusOK))
	if l.ending == 0 {
		l.ending, l.by = max(p[2], 1), side
	}
}

func (a *Air) updateConnection(_ time.Time, c *controller, opcode uint16, p []byte) {
	interval, latency, supervision := binary.LittleEndian.Uint16(p[4:]), binary.LittleEndian.Uint16(p[6:]), binary.LittleEndian.Uint16(p[8:])
	l, _ := a.find(c, binary.LittleEndian.Uint16(p)&0x0fff)
	switch {
	case l == nil:
		a.send(c.id, commandStatus(opcode, statusNoConnection))
		return
	case !validTiming(interval, supervision):
		a.send(c.id, commandStatus(opcode, statusParameters))
		return
	}
	a.send(c.id, commandStatus(opcode, statusOK))
	l.interval, l.supervision = time.Duration(interval)*1250*time.Microsecond, time.Duration(supervision)*10*time.Millisecond
	for _, e := range l.ends {
		if !e.deaf {
			a.send(e.c.id, event(eventLE, []byte{leUpdated, statusOK}, word(e.handle), word(interval), word(latency), word(supervision)))
		}
	}
}
