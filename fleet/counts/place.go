package counts

import (
	"slices"
	"time"
)

// Standing is how a machine counts on its route.
type Standing uint8

// The standings. Only Late and Up are online.
const (
	Absent  Standing = iota // parked or out of service: not counted at all
	Missing                 // known on the route, not online
	Late                    // online, heartbeat overdue
	Up                      // online
)

func (s Standing) online() bool { return s >= Late }

// Place is where one machine stands on a board; the zero value is nowhere. It belongs
// to the machine's keeper, who lets one goroutine at a time use it, with one board.
type Place struct {
	line     *line
	entered  int64  // Unix nanoseconds: online here since
	hour     int64  // begin of the hour that marks speak of
	marks    *marks // more than len(first) routes in that hour, else nil
	first    [3]uint32
	n        uint8 // used of first
	standing Standing
	fresh    bool // this stay on the line was the first in its hour
}

// marks are the further routes that counted a machine in one hour.
type marks []uint32

// Route is where the machine stands; empty for nowhere.
func (p *Place) Route() string {
	if p.line == nil {
		return ""
	}
	return p.line.name
}

// Put moves a machine to a route and standing at now. It leaves the old route before it
// is on the new one and is never on two. An empty route is nowhere, and so is a route
// beyond Config.MaxRoutes. An event that is told late, after a later one of its route,
// counts as of the later.
func (b *Board) Put(now time.Time, p *Place, route string, s Standing) {
	at := now.UnixNano()
	if p.line != nil && p.line.name == route {
		if p.standing != s {
			p.line.change(b, at, p, s)
		}
		return
	}
	if p.line != nil {
		p.line.change(b, at, p, Absent)
		p.line.refs.Add(-1)
		p.line = nil
	}
	p.standing = Absent
	if route == "" {
		return
	}
	if p.line = b.take(at, route); p.line != nil && s != Absent {
		p.line.change(b, at, p, s)
	}
}

// heardGrain spares the line of a busy route a write at every heartbeat.
const heardGrain = int64(250 * time.Millisecond)

// Heard notes a heartbeat of the machine on its route at the given seeing time. It
// takes no lock and, for a busy route, mostly only reads: SilentFor is up to 250 ms too
// long for it.
func (p *Place) Heard(seeing time.Duration) {
	if p.line == nil {
		return
	}
	for {
		last := p.line.lastHeard.Load()
		if last != neverHeard && int64(seeing)-last < heardGrain {
			return
		}
		if p.line.lastHeard.CompareAndSwap(last, int64(seeing)) {
			return
		}
	}
}

// change counts the machine on this line with a new standing.
func (l *line) change(b *Board, at int64, p *Place, s Standing) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.settle(b, at)
	at = l.at // an event told late happens now
	was := p.standing
	p.standing = s
	l.known += count(s >= Missing) - count(was >= Missing)
	l.late += count(s == Late) - count(was == Late)
	l.online += count(s.online()) - count(was.online())
	switch {
	case s.online() && !was.online():
		l.enter(at, p)
	case was.online() && !s.online():
		l.leave(at, p)
	}
}

// enter marks the machine as one of this hour's.
func (l *line) enter(at int64, p *Place) {
	p.entered = at
	p.fresh = !p.marked(l.hour.start, l.id)
	if p.fresh {
		p.mark(l.hour.start, l.id)
		l.distinct++
	}
}

// leave takes back the mark of a machine that was there for no time at all: it left at
// the instant it came, or at the instant the hour began.
func (l *line) leave(at int64, p *Place) {
	if p.hour != l.hour.start {
		// It came in an earlier hour and was carried into this one.
		p.mark(l.hour.start, l.id)
		p.entered, p.fresh = l.hour.start, true
	}
	if p.fresh && at == p.entered {
		p.unmark(l.id)
		l.distinct--
	}
}

func (p *Place) marked(hour int64, id uint32) bool {
	return p.hour == hour && (slices.Contains(p.first[:p.n], id) || p.marks != nil && slices.Contains(*p.marks, id))
}

func (p *Place) mark(hour int64, id uint32) {
	if p.hour != hour {
		p.hour, p.n, p.marks = hour, 0, nil
	}
	if int(p.n) < len(p.first) {
		p.first[p.n] = id
		p.n++
		return
	}
	if p.marks == nil {
		p.marks = &marks{}
	}
	*p.marks = append(*p.marks, id)
}

// unmark removes the latest mark, which is id's.
func (p *Place) unmark(id uint32) {
	if p.marks != nil && len(*p.marks) > 0 {
		*p.marks = slices.DeleteFunc(*p.marks, func(m uint32) bool { return m == id })
		return
	}
	if p.n > 0 && p.first[p.n-1] == id {
		p.n--
	}
}

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}
