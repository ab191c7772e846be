package presence

import (
	"time"

	"github.com/farebeat/farebeat/fleet/counts"
	"github.com/farebeat/farebeat/schemas"
)

// Dimension is what machines can have in common, so that one cause can take them all.
type Dimension uint8

// The dimensions.
const (
	ByVehicle  Dimension = iota // the vehicle that carries them, and its gateway
	ByDepot                     // where the vehicle is stabled
	ByNetwork                   // the mobile network of their SIM cards
	ByFirmware                  // their software
	Dimensions                  // how many there are
)

// Group is what machines have in common: one value of one dimension. It is comparable.
type Group struct {
	Dimension Dimension
	Name      string
}

// Tally counts the machines of a group, parked ones and those out of service left out.
type Tally struct {
	Known int // those that should be heard
	Lost  int // those of Known that are silent for longer than asked
	Fresh int // those of Lost that fell silent lately
	Since int // those of Lost that were heard since the group's own outage began, see Question.Outages
}

// Missing is one machine that is lost.
type Missing struct {
	Route     string
	Groups    [Dimensions]*Group // nil where the machine does not say
	Fresh     bool
	LastHeard time.Time // zero if never
}

// Question is what a survey asks. Durations are in time that we could hear.
type Question struct {
	LostAfter  time.Duration // a machine unheard for this long is lost
	FreshUntil time.Duration // and freshly so until it is unheard for this long
	// Outages are when the outage of a group began, for groups of which Tally.Since is wanted; Everyone is when that of all
	// machines began, zero for none.
	Outages  map[Group]time.Time
	Everyone time.Time
	Names    int // name up to so many machines per route that are STRANDED or DARK
	// Want is asked of every machine whether each wants its View, while a lock is held: it must be quick, and keep nothing.
	Want func(*Brief) bool
}

// Brief is what is asked first of a machine. What it says is good during the call only.
type Brief struct {
	Machine string
	Parked  bool // or out of service: silence is planned
	Run     schemas.RunState
	Fault   string
	Silence time.Duration
	Skew    time.Duration
	Pending uint32
}

// Survey is what all machines together are.
type Survey struct {
	All     Tally
	Groups  map[Group]Tally     // those with a machine that is lost, and those of Question.Outages that have a machine
	Missing []Missing           // every machine that is lost, in no order
	Names   map[string][]string // machines that are STRANDED or DARK, by route, in no order
}

// group is a Group with the machines counted in the running survey. Only Survey touches the counters.
type group struct {
	Group
	tally  Tally
	begun  time.Time
	number uint64 // of the survey that the counters belong to
}

// groupOf finds or makes a group; nil for no name and beyond MaxMachines of them.
func (p *Presence) groupOf(d Dimension, name string) *group {
	if name == "" {
		return nil
	}
	key := Group{d, name}
	p.groupsMu.RLock()
	g := p.groups[key]
	p.groupsMu.RUnlock()
	if g != nil {
		return g
	}
	p.groupsMu.Lock()
	defer p.groupsMu.Unlock()
	if g = p.groups[key]; g == nil && len(p.groups) < p.cfg.MaxMachines {
		g = &group{Group: key}
		p.groups[key] = g
	}
	return g
}

// join puts the machine into a group of a dimension, and into no other of it.
func (p *Presence) join(m *machine, d Dimension, name string) {
	if name == "" || m.groups[d] != nil && m.groups[d].Name == name {
		return
	}
	m.groups[d] = p.groupOf(d, name)
}

// named is the name of the machine's group.
func (m *machine) named(d Dimension) string {
	if m.groups[d] == nil {
		return ""
	}
	return m.groups[d].Name
}

// Survey looks at every machine once, and calls each for those that q wants, in no order and without a lock. It is for
// the goroutine that calls Tick.
func (p *Presence) Survey(q Question, each func(View)) Survey {
	p.tickMu.Lock()
	defer p.tickMu.Unlock()
	p.surveys++
	s := surveyor{q: q, reading: p.reading(), number: p.surveys, all: group{begun: q.Everyone, number: p.surveys}, names: map[string][]string{}}
	for key, begun := range q.Outages {
		if g := p.groupOf(key.Dimension, key.Name); g != nil {
			g.number, g.tally, g.begun = s.number, Tally{}, begun
			s.told = append(s.told, g)
		}
	}
	var views []View
	for i := range p.shards {
		views = p.surveyShard(&p.shards[i], &s, views[:0])
		for _, v := range views {
			each(v)
		}
	}
	out := Survey{All: s.all.tally, Groups: make(map[Group]Tally, len(s.told)), Missing: s.missing, Names: s.names}
	for _, g := range s.told {
		if g.tally.Known > 0 {
			out.Groups[g.Group] = g.tally
		}
		g.begun = time.Time{}
	}
	return out
}

// surveyor is a survey under way.
type surveyor struct {
	q       Question
	reading counts.Reading
	number  uint64
	all     group
	told    []*group // those of which there is something to say
	missing []Missing
	names   map[string][]string
	brief   Brief
}

func (p *Presence) surveyShard(sh *shard, s *surveyor, views []View) []View {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for _, m := range sh.list {
		silence, planned := m.silence(s.reading), m.state == parked || m.state == outOfService
		if !planned && m.state != none {
			s.count(m, silence)
		}
		if m.state.standing() == counts.Missing && m.route != "" && len(s.names[m.route]) < s.q.Names {
			s.names[m.route] = append(s.names[m.route], m.id)
		}
		s.brief = Brief{Machine: m.id, Parked: planned, Run: m.run, Fault: m.fault, Silence: silence, Skew: m.skew, Pending: m.pending}
		if s.q.Want(&s.brief) {
			views = append(views, p.view(m, s.reading))
		}
	}
	return views
}

// count puts one machine into the tallies.
func (s *surveyor) count(m *machine, silence time.Duration) {
	lost := silence >= s.q.LostAfter
	fresh := lost && silence < s.q.FreshUntil
	s.all.add(m, lost, fresh)
	for _, g := range m.groups {
		if g == nil {
			continue
		}
		if g.number != s.number {
			g.number, g.tally = s.number, Tally{}
		}
		if lost && g.tally.Lost == 0 && g.begun.IsZero() {
			s.told = append(s.told, g)
		}
		g.add(m, lost, fresh)
	}
	if !lost {
		return
	}
	missing := Missing{Route: m.route, Fresh: fresh, LastHeard: m.lastAt}
	for d, g := range m.groups {
		if g != nil {
			missing.Groups[d] = &g.Group
		}
	}
	s.missing = append(s.missing, missing)
}

func (g *group) add(m *machine, lost, fresh bool) {
	g.tally.Known++
	if !lost {
		return
	}
	g.tally.Lost++
	if fresh {
		g.tally.Fresh++
	}
	if !g.begun.IsZero() && m.lastAt.After(g.begun) {
		g.tally.Since++
	}
}
