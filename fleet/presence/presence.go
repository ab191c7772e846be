package presence

import (
	"hash/maphash"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/farebeat/farebeat/fleet/counts"
	"github.com/farebeat/farebeat/schemas"
)

const (
	defaultInterval    = 15 * time.Second
	defaultLate        = 2
	defaultDeadline    = 4
	defaultSeenFor     = 2 * time.Minute
	defaultShards      = 64
	defaultMaxMachines = 2_000_000
)

// withDefaults fills what is not set, and rounds Shards up to a power of two.
func (c Config) withDefaults() Config {
	if c.Interval <= 0 {
		c.Interval = defaultInterval
	}
	if c.LateIntervals <= 0 {
		c.LateIntervals = defaultLate
	}
	if c.DeadlineIntervals <= 0 {
		c.DeadlineIntervals = defaultDeadline
	}
	c.DeadlineIntervals = max(c.DeadlineIntervals, c.LateIntervals)
	if c.SeenFor <= 0 {
		c.SeenFor = defaultSeenFor
	}
	if c.Shards <= 0 {
		c.Shards = defaultShards
	}
	for c.Shards&(c.Shards-1) != 0 {
		c.Shards++
	}
	if c.MaxMachines <= 0 {
		c.MaxMachines = defaultMaxMachines
	}
	return c
}

// Deadline is the silence after which a machine is STRANDED or DARK. It is also the
// right warm-up for the board.
func (c Config) Deadline() time.Duration {
	c = c.withDefaults()
	return c.Interval * time.Duration(c.DeadlineIntervals)
}

// Presence holds every machine. Safe for concurrent use; what concerns one machine
// must be told in its order. Tick must be called about once a second.
type Presence struct {
	cfg    Config
	limits limits
	board  *counts.Board
	sight  *counts.Sight
	seed   maphash.Seed
	shards []shard
	perSh  int // machines a shard may hold

	vehiclesMu sync.RWMutex
	vehicles   map[string]*vehicle

	groupsMu sync.RWMutex
	groups   map[Group]*group

	tickMu  sync.Mutex
	surveys uint64 // made so far
	asOfMu  sync.RWMutex
	asOf    counts.Reading // at the last Tick
}

// shard is a part of the machines under one lock.
type shard struct {
	mu       sync.Mutex
	machines map[string]*machine
	list     []*machine // all of them
	room     []machine  // made together, so that a survey walks through memory in order
	wheel    wheel
	changed  []*machine
	ledger   map[string]progress // of machines that nothing else is known of
	states   [numStates]int
	tally    tally
	_        [64]byte // shards do not share a cache line
}

// progress is what the ledger holds of a machine: 1..to of epoch.
type progress struct{ epoch, to uint32 }

type tally struct{ heartbeats, stale, refused uint64 }

// New makes an empty presence whose machines stand on board and whose clock of
// silence is the board's.
func New(cfg Config, board *counts.Board) *Presence {
	cfg = cfg.withDefaults()
	p := &Presence{
		cfg: cfg,
		limits: limits{
			late: cfg.Interval * time.Duration(cfg.LateIntervals),
			dark: cfg.Interval * time.Duration(cfg.DeadlineIntervals),
			seen: cfg.SeenFor,
		},
		board:    board,
		sight:    board.Sight(),
		seed:     maphash.MakeSeed(),
		shards:   make([]shard, cfg.Shards),
		perSh:    max(1, cfg.MaxMachines/cfg.Shards+cfg.MaxMachines/cfg.Shards/8+8),
		vehicles: map[string]*vehicle{},
		groups:   map[Group]*group{},
	}
	for i := range p.shards {
		p.shards[i].machines = map[string]*machine{}
		p.shards[i].wheel = newWheel(p.limits.late, max(cfg.Interval/15, 1))
	}
	return p
}

// Config is the configuration in force, defaults filled in.
func (p *Presence) Config() Config { return p.cfg }

func (p *Presence) shardOf(id string) *shard {
	return &p.shards[maphash.String(p.seed, id)&uint64(len(p.shards)-1)]
}

// ensure finds a machine or makes it, silent since seeing; nil if there is no room.
// The caller holds the shard's lock.
func (p *Presence) ensure(sh *shard, id string, seeing time.Duration) *machine {
	if m := sh.machines[id]; m != nil {
		return m
	}
	if id == "" || len(sh.machines) >= p.perSh {
		sh.tally.refused++
		return nil
	}
	if len(sh.room) == 0 {
		sh.room = make([]machine, madeTogether)
	}
	m := &sh.room[0]
	sh.room = sh.room[1:]
	m.id, m.last, m.index = strings.Clone(id), seeing, len(sh.list)
	sh.list = append(sh.list, m)
	if l, ok := sh.ledger[id]; ok {
		m.ledgerEpoch, m.ledgerTo = l.epoch, l.to
		delete(sh.ledger, id)
	}
	sh.machines[m.id] = m
	sh.states[none]++
	return m
}

// madeTogether is how many machines a shard makes room for at a time.
const madeTogether = 16

// mark files m for the next Tick.
func (sh *shard) mark(m *machine) {
	if !m.dirty {
		m.dirty = true
		sh.changed = append(sh.changed, m)
	}
}

// SessionUp says that a machine's session with the broker began.
func (p *Presence) SessionUp(now time.Time, id string) {
	r := p.sight.Read(now)
	sh := p.shardOf(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if m := p.ensure(sh, id, r.Seeing); m != nil {
		m.sessionsOf(r)
		m.sessions = min(m.sessions+1, maxSessions)
		p.settle(sh, m, now, r)
	}
}

// maxSessions bounds the count of one machine's sessions: during a takeover there are
// two for a moment.
const maxSessions = 8

// sessionsOf forgets sessions from before our sight was lost: their end was not heard.
func (m *machine) sessionsOf(r counts.Reading) {
	if m.sessionSight != r.Returned {
		m.sessions, m.sessionSight = 0, r.Returned
	}
}

// SessionDown says that a machine's session with the broker ended: at once, a machine
// that is UP becomes LATE with this reason, unless it has another session. While we
// are blind it decides nothing, for then it was we who went: say SetBlind before the
// broker closes its sessions.
func (p *Presence) SessionDown(now time.Time, id, reason string) {
	r := p.sight.Read(now)
	sh := p.shardOf(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	m := sh.machines[id]
	if m == nil {
		return
	}
	m.sessionsOf(r)
	m.sessions = max(m.sessions-1, 0)
	if m.sessions > 0 || r.Deaf {
		return
	}
	m.lost, m.why = true, strings.Clone(reason)
	p.settle(sh, m, now, r)
}

// SetBlind says that we cannot hear from now on, or can again: the broker is down, or
// our session with it, or this process was.
func (p *Presence) SetBlind(now time.Time, blind bool) { p.board.SetBlind(now, blind) }

// Blind reports that silence at now is no evidence: we cannot hear, or could not less
// than the warm-up ago.
func (p *Presence) Blind(now time.Time) bool { return p.sight.Blind(now) }

// clockSlack is how much later than another a sighting may be and be taken for newer; beyond, our clock was ahead.
const clockSlack = time.Minute

// Seen says that the gateway of a vehicle saw the machine over BLE at now, our clock,
// with rssi in dBm.
func (p *Presence) Seen(now time.Time, vehicleID, id string, rssi int) {
	r := p.sight.Read(now)
	v := p.vehicle(vehicleID)
	if v == nil {
		return
	}
	v.saw(id)
	sh := p.shardOf(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	m := p.ensure(sh, id, r.Seeing)
	if m == nil || now.Before(m.seenAt) && m.seenAt.Sub(now) < clockSlack {
		return
	}
	m.seenBy, m.seenAt, m.seen = v, now, r.Seeing
	m.rssi = int8(max(-128, min(rssi, 127)))
	p.settle(sh, m, now, r)
}

// saw notes a machine.
func (v *vehicle) saw(id string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, ok := v.seen[id]; ok {
		return
	}
	if len(v.seen) >= maxSeen {
		clear(v.seen)
	}
	v.seen[strings.Clone(id)] = struct{}{}
}

// vehicle finds or makes a vehicle; nil for no name and beyond MaxMachines of them.
func (p *Presence) vehicle(id string) *vehicle {
	p.vehiclesMu.RLock()
	v := p.vehicles[id]
	p.vehiclesMu.RUnlock()
	if v != nil || id == "" {
		return v
	}
	p.vehiclesMu.Lock()
	defer p.vehiclesMu.Unlock()
	if v = p.vehicles[id]; v == nil && len(p.vehicles) < p.cfg.MaxMachines {
		v = &vehicle{id: strings.Clone(id), seen: map[string]struct{}{}}
		p.vehicles[v.id] = v
	}
	return v
}

// Gateway says that the gateway of a vehicle came or went. When it goes, what it saw
// can be reached no more: STRANDED becomes DARK.
func (p *Presence) Gateway(now time.Time, vehicleID string, up bool) {
	v := p.vehicle(vehicleID)
	if v == nil || v.down.Swap(!up) == !up {
		return
	}
	v.mu.Lock()
	ids := make([]string, 0, len(v.seen))
	for id := range v.seen {
		ids = append(ids, id)
	}
	if !up {
		clear(v.seen)
	}
	v.mu.Unlock()
	r := p.sight.Read(now)
	for _, id := range ids {
		sh := p.shardOf(id)
		sh.mu.Lock()
		if m := sh.machines[id]; m != nil && m.seenBy == v {
			if !up {
				m.seenBy = nil
			}
			p.settle(sh, m, now, r)
		}
		sh.mu.Unlock()
	}
}

// LedgerProgress says that the ledger holds 1..completeTo of a machine's epoch. Older
// epochs and smaller numbers change nothing.
func (p *Presence) LedgerProgress(_ time.Time, id string, epoch, completeTo uint32) {
	sh := p.shardOf(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	m := sh.machines[id]
	if m == nil {
		if l := sh.ledger[id]; newer(l.epoch, l.to, epoch, completeTo) && len(sh.ledger) < p.perSh {
			if sh.ledger == nil {
				sh.ledger = map[string]progress{}
			}
			sh.ledger[strings.Clone(id)] = progress{epoch, completeTo}
		}
		return
	}
	if newer(m.ledgerEpoch, m.ledgerTo, epoch, completeTo) {
		m.ledgerEpoch, m.ledgerTo = epoch, completeTo
	}
}

// newer reports that (epoch, to) is beyond (haveEpoch, have).
func newer(haveEpoch, have, epoch, to uint32) bool {
	return epoch > haveEpoch || epoch == haveEpoch && to > have
}

// SetOutOfService takes a machine out of service for the stated reason, or back in.
// Out of service it is counted nowhere, whatever it sends.
func (p *Presence) SetOutOfService(now time.Time, id string, out bool, why string) {
	r := p.sight.Read(now)
	sh := p.shardOf(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	m := p.ensure(sh, id, r.Seeing)
	if m == nil || m.out == out {
		return
	}
	m.out, m.outWhy = out, strings.Clone(why)
	p.settle(sh, m, now, r)
}

// DutyEnded says that the machine's duty is over. If it falls silent from UP or LATE
// without a heartbeat later than one deadline from now, that is rest and not a fault.
// A machine that was lost before stays lost.
func (p *Presence) DutyEnded(now time.Time, id string) {
	r := p.sight.Read(now)
	sh := p.shardOf(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if m := sh.machines[id]; m != nil {
		m.dutyOver, m.dutyOverAt = true, r.Seeing
	}
}

// Forget drops a machine that is gone for good, and reports whether it was there.
func (p *Presence) Forget(now time.Time, id string) bool {
	sh := p.shardOf(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	m := sh.machines[id]
	if m == nil {
		return false
	}
	delete(sh.machines, id)
	last := sh.list[len(sh.list)-1]
	sh.list[m.index], last.index = last, m.index
	sh.list = sh.list[:len(sh.list)-1]
	sh.states[m.state]--
	m.gone = true // it may still wait in the wheel or in changed
	p.board.Put(now, &m.place, "", counts.Absent)
	return true
}

// Tick lets time pass up to now and gives the changes of state since the last Tick, by
// time then machine: at most one per machine, its last. In a recording, call it before
// the events of that instant.
func (p *Presence) Tick(now time.Time) []Transition {
	p.tickMu.Lock()
	defer p.tickMu.Unlock()
	r := p.sight.Read(now)
	p.asOfMu.Lock()
	p.asOf = r
	p.asOfMu.Unlock()
	var out []Transition
	for i := range p.shards {
		out = p.tickShard(&p.shards[i], out, now, r)
	}
	slices.SortFunc(out, func(a, b Transition) int {
		if c := a.At.Compare(b.At); c != 0 {
			return c
		}
		return strings.Compare(a.Machine, b.Machine)
	})
	return out
}

func (p *Presence) tickShard(sh *shard, out []Transition, now time.Time, r counts.Reading) []Transition {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.wheel.sweep(r.Seeing, func(m *machine) {
		if !m.gone {
			p.settle(sh, m, now, r)
		}
	})
	for i, m := range sh.changed {
		sh.changed[i] = nil
		if t, ok := p.report(m, now, r); ok {
			out = append(out, t)
		}
	}
	sh.changed = sh.changed[:0]
	return out
}

// report turns a marked machine into its transition; false if nothing is left to say.
func (p *Presence) report(m *machine, now time.Time, r counts.Reading) (Transition, bool) {
	moved := m.moved && p.cfg.ReportMoves
	m.dirty, m.moved = false, false
	if m.gone || m.state == m.reported && !moved {
		return Transition{}, false
	}
	t := Transition{
		Machine: m.id, From: m.reported.condition(), To: m.state.condition(), Reason: p.reason(m, r),
		Vehicle: m.carrier(), Route: m.route, At: m.since, Pending: m.pending,
	}
	if m.state == m.reported {
		t.At = now
	}
	m.reported = m.state
	return t, true
}

// carrier is the vehicle that has the machine, as far as anyone said.
func (m *machine) carrier() string {
	if m.vehicle == "" && m.seenBy != nil {
		return m.seenBy.id
	}
	return m.vehicle
}

// Stats are totals since the start.
type Stats struct {
	Machines   int
	States     map[schemas.MachineCondition]int // machines in each
	Heartbeats uint64                           // taken
	Stale      uint64                           // old or repeated, ignored
	Refused    uint64                           // of machines beyond MaxMachines
}

// Stats sums up.
func (p *Presence) Stats() Stats {
	s := Stats{States: make(map[schemas.MachineCondition]int, numStates)}
	for i := range p.shards {
		sh := &p.shards[i]
		sh.mu.Lock()
		s.Machines += len(sh.machines)
		s.Heartbeats += sh.tally.heartbeats
		s.Stale += sh.tally.stale
		s.Refused += sh.tally.refused
		for st := up; st < numStates; st++ {
			s.States[st.condition()] += sh.states[st]
		}
		sh.mu.Unlock()
	}
	return s
}
