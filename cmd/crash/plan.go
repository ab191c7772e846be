//go:build unix

package main

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// Kind is what a step does.
type Kind string

// The kinds. Kill, Wipe, Replace and Jump each kill a process with SIGKILL and start it again.
const (
	Kill    Kind = "kill"
	Wipe    Kind = "wipe"    // of the broker's data; the ledger stays
	Replace Kind = "replace" // of a gateway by a new one that knows nothing
	Jump    Kind = "jump"    // of a process's clock by up to a day
	Fill    Kind = "fill"    // of a process's disk
	Cut     Kind = "cut"     // of all connections of a machine or gateway, once
	Refuse  Kind = "refuse"  // of a machine's or gateway's connections to the broker, for a while
	Deaf    Kind = "deaf"    // no radio contact with a machine, for a while
)

// Step is one thing that is done to the system.
type Step struct {
	Pause  time.Duration `json:"pause"` // before it
	Kind   Kind          `json:"kind"`
	Target string        `json:"target"`           // a process's name
	Down   time.Duration `json:"down,omitempty"`   // kills: how long the process stays dead
	For    time.Duration `json:"for,omitempty"`    // Fill, Refuse, Deaf: how long; Replace: how long the old one is cut off before
	Offset time.Duration `json:"offset,omitempty"` // Jump: of the clock from now on
	Room   int64         `json:"room,omitempty"`   // Fill: bytes that stay free
}

// String is the step for a person.
func (s Step) String() string {
	text := fmt.Sprintf("%s %s", s.Kind, s.Target)
	if s.Kind == Jump {
		text += fmt.Sprintf(" to %+gh", s.Offset.Hours())
	}
	if s.For > 0 {
		text += " for " + s.For.String()
	}
	return text
}

// kills reports whether the step kills a process.
func (s Step) kills() bool {
	return s.Kind == Kill || s.Kind == Wipe || s.Kind == Replace || s.Kind == Jump
}

// Plan draws the steps of a run. The same seed gives the same steps; how the system meets them differs from run to run,
// since its processes run as the kernel lets them.
type Plan struct {
	rng    *rand.Rand
	drawn  int
	offset map[string]time.Duration
}

// NewPlan begins a plan.
func NewPlan(seed uint64) *Plan {
	return &Plan{rng: rand.New(rand.NewPCG(seed, 0x6372617368)), offset: map[string]time.Duration{}}
}

// Of a hundred steps this many are of a kind; the rest kill.
const (
	ofWipe    = 1
	ofReplace = 2
	ofJump    = 3
	ofFill    = 3
	ofCut     = 6
	ofRefuse  = 14
	ofDeaf    = 4
)

// A storm of steps is followed by a calm in which recoveries get further.
const (
	storm     = 60
	stormMean = 150 * time.Millisecond
	calm      = 5 * time.Second
)

// Next draws the next step.
func (p *Plan) Next() Step {
	p.drawn++
	s := Step{Pause: min(time.Duration(p.rng.ExpFloat64()*float64(stormMean)), 4*stormMean).Round(time.Millisecond)}
	if p.drawn%storm == 0 {
		s.Pause += calm/2 + p.upTo(calm)
	}
	at := p.rng.IntN(100)
	under := func(n int) bool { at -= n; return at < 0 }
	switch {
	case under(ofWipe):
		s.Kind, s.Target = Wipe, serveName
	case under(ofReplace):
		s.Kind, s.Target = Replace, p.one(edgeNames())
		s.For = time.Second + p.upTo(6*time.Second)
	case under(ofJump):
		s.Kind, s.Target = Jump, p.one(processNames())
		s.Offset = p.jump(s.Target)
	case under(ofFill):
		s.Kind, s.Target = Fill, p.one(processNames())
		s.For, s.Room = time.Second+p.upTo(4*time.Second), p.rng.Int64N(64<<10)
	case under(ofCut):
		s.Kind, s.Target = Cut, p.one(append(edgeNames(), machineNames()...))
	case under(ofRefuse):
		s.Kind, s.Target = Refuse, p.one(append(edgeNames(), machineNames()...))
		s.For = 3*time.Second + p.upTo(15*time.Second)
	case under(ofDeaf):
		s.Kind, s.Target = Deaf, p.one(machineNames())
		s.For = 2*time.Second + p.upTo(8*time.Second)
	default:
		s.Kind, s.Target = Kill, p.one(processNames())
	}
	if s.kills() && p.rng.IntN(8) == 0 { // some stay away for longer
		s.Down = p.upTo(3 * time.Second)
	}
	return s
}

// jump is where a process's clock goes: a day off, or back.
func (p *Plan) jump(target string) time.Duration {
	now := p.offset[target]
	for {
		next := time.Duration(p.rng.IntN(3)-1) * 24 * time.Hour
		if next != now {
			p.offset[target] = next
			return next
		}
	}
}

// healed tells the plan that all clocks are right again.
func (p *Plan) healed() { clear(p.offset) }

func (p *Plan) upTo(d time.Duration) time.Duration {
	return time.Duration(p.rng.Int64N(int64(d))).Round(time.Millisecond)
}

func (p *Plan) one(names []string) string { return names[p.rng.IntN(len(names))] }

// The processes.
const (
	serveName   = "serve"
	vehicles    = 2
	perVehicle  = 3
	kindServe   = "serve"
	kindEdge    = "edge"
	kindMachine = "machine"
)

func edgeNames() []string {
	var out []string
	for v := 1; v <= vehicles; v++ {
		out = append(out, fmt.Sprintf("edge-%d", v))
	}
	return out
}

func machineNames() []string {
	var out []string
	for v := 1; v <= vehicles; v++ {
		for m := 1; m <= perVehicle; m++ {
			out = append(out, fmt.Sprintf("machine-%d-%d", v, m))
		}
	}
	return out
}

func processNames() []string {
	return append(append([]string{serveName}, edgeNames()...), machineNames()...)
}
