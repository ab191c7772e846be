package presence

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/farebeat/farebeat/fleet/counts"
	"github.com/farebeat/farebeat/schemas"
)

// state is schemas.MachineCondition in one byte.
type state uint8

const (
	none state = iota // not reported yet
	up
	late
	stranded
	dark
	parked
	outOfService
	numStates
)

// condition is the state's name on topics.
func (s state) condition() schemas.MachineCondition {
	return [numStates]schemas.MachineCondition{
		"", schemas.Up, schemas.Late, schemas.Stranded, schemas.Dark, schemas.Parked, schemas.OutOfService,
	}[s]
}

// stateOf is the inverse; false for a name that is not one of the six.
func stateOf(c schemas.MachineCondition) (state, bool) {
	for s := up; s < numStates; s++ {
		if s.condition() == c {
			return s, true
		}
	}
	return none, false
}

// standing is how a machine in this state counts on its route.
func (s state) standing() counts.Standing {
	switch s {
	case up:
		return counts.Up
	case late:
		return counts.Late
	case stranded, dark:
		return counts.Missing
	default:
		return counts.Absent
	}
}

// machine is one payment machine. Its shard's lock guards all of it. Durations named
// seeing are seeing time (counts.Sight); times are wall time.
type machine struct {
	// What a survey reads of every machine comes first, close together.
	id              string
	last            time.Duration      // seeing, latest heartbeat; of the first evidence if never heard
	lastAt          time.Time          // its arrival; zero if never heard
	groups          [Dimensions]*group // that of ByVehicle follows vehicle
	run             schemas.RunState
	fault           string
	skew            time.Duration
	pending         uint32
	state, reported state
	lost            bool // its session ended abruptly after the latest heartbeat
	atRest          bool // its latest word was readyForShutdown, or its duty ended and it fell silent

	place counts.Place
	next  *machine // in its slot of the wheel
	index int      // in the shard's list

	since time.Time // of state
	seq   uint64

	route, vehicle, trip  string
	boot, prevBoot        string
	currency              string
	pendingMinor          int64
	oldest                time.Time
	unsentSince           time.Time // since when it declares unsent ones, our clock
	epoch, lastSeq        uint32
	ledgerEpoch, ledgerTo uint32
	bootSince             time.Duration // seeing, first heartbeat of boot
	echoSeq               uint64        // last seq that was not greater, see stale
	why                   string        // of a session loss
	outWhy                string        // of being out of service
	sessionSight          time.Duration // Returned of the sight that sessions was counted in
	seenBy                *vehicle
	seenAt                time.Time
	seen                  time.Duration // seeing
	dutyOverAt            time.Duration // seeing
	rssi                  int8
	sessions              int8
	echoes                uint8
	dutyOver              bool // its duty ended; silence from here on is rest
	out                   bool // taken out of service
	queued                bool // in a slot
	dirty                 bool // in the shard's list of changes
	moved                 bool // route or vehicle changed since it was reported
	gone                  bool // forgotten
}

// heard reports that a heartbeat ever came.
func (m *machine) heard() bool { return !m.lastAt.IsZero() }

// vehicle is what a gateway says over BLE.
type vehicle struct {
	id   string
	down atomic.Bool // its gateway is gone

	mu   sync.Mutex
	seen map[string]struct{} // machines it saw, bounded by maxSeen
}

// maxSeen bounds what is kept of one gateway: in a depot it sees many machines. One
// that is not kept is judged at its next look, not at once, when the gateway goes.
const maxSeen = 256

// limits are the silences that matter, seeing time.
type limits struct {
	late, dark, seen time.Duration
}

// deadlines are the seeing times after which m is late, and gone. Whoever was silent
// when our own sight came back has the warm-up to be heard again.
func (l limits) deadlines(m *machine, r counts.Reading) (lateAt, goneAt time.Duration) {
	lateAt, goneAt = m.last+l.late, m.last+l.dark
	if m.last < r.Returned {
		lateAt, goneAt = max(lateAt, r.Returned+r.WarmUp), max(goneAt, r.Returned+r.WarmUp)
	}
	return lateAt, goneAt
}

// verdict is what the evidence says of a machine.
type verdict struct {
	state state
	since time.Duration // seeing time at which it became so, if it is a new state
	check time.Duration // seeing time after which to judge again; never where negative
}

const never = time.Duration(-1 << 62)

// judge is the pure rule of rules.md. Passing time makes a state worse, never better:
// only a heartbeat brings a machine back to UP.
func (l limits) judge(m *machine, r counts.Reading) verdict {
	switch {
	case m.out:
		return verdict{outOfService, r.Seeing, never}
	case m.atRest:
		return verdict{parked, r.Seeing, never}
	}
	lateAt, goneAt := l.deadlines(m, r)
	wasGone := m.state == stranded || m.state == dark
	if r.Seeing > goneAt || wasGone {
		since := goneAt
		if wasGone {
			since = r.Seeing
		}
		if m.dutyOver && !wasGone {
			return verdict{parked, since, never}
		}
		if v := m.seenBy; v != nil && !v.down.Load() && r.Seeing-m.seen <= l.seen {
			return verdict{stranded, since, m.seen + l.seen}
		}
		return verdict{dark, since, never}
	}
	if m.lost || !m.heard() || m.state == late {
		return verdict{late, r.Seeing, goneAt}
	}
	if r.Seeing > lateAt {
		return verdict{late, lateAt, goneAt}
	}
	return verdict{up, r.Seeing, lateAt}
}
