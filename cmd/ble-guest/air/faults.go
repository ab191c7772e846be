package air

import (
	"math/rand/v2"
	"time"
)

// losses say when links of a device are lost.
type losses struct {
	least, most int // data packets that go over a link before it is lost, drawn anew for each
	links       int // so many links are lost, then no more
}

// faults are what is put in from outside.
type faults struct {
	retry     float64 // chance that a packet is not heard and sent again
	muteUntil time.Time
	between   map[Address]losses // by either end
	hidden    map[Address]bool   // advertisements of these are not heard
}

func noFaults() faults { return faults{between: map[Address]losses{}, hidden: map[Address]bool{}} }

func (f *faults) muted(now time.Time) bool { return now.Before(f.muteUntil) }

func (f *faults) repeat(rng *rand.Rand) bool { return f.retry > 0 && rng.Float64() < f.retry }

// begin says when a new link is lost.
func (f *faults) begin(rng *rand.Rand, l *link) {
	for _, e := range l.ends {
		plan, ok := f.between[e.c.s.Address]
		if !ok || plan.links == 0 {
			continue
		}
		plan.links--
		f.between[e.c.s.Address] = plan
		l.loseAt = plan.least + rng.IntN(plan.most-plan.least+1)
		return
	}
}

// Mute has nothing heard until a time. Links that are silent for longer than their supervision timeout end.
func (a *Air) Mute(until time.Time) { a.faults.muteUntil = until }

// LosePackets has each packet on air lost by a chance of 0 to 0.9. The link layer sends it again: nothing but time is lost.
func (a *Air) LosePackets(chance float64) { a.faults.retry = min(max(chance, 0), 0.9) }

// LoseLinks has the next links of a device lost for good, each after least to most data packets, by chance. Both ends
// find out by their supervision timeout.
func (a *Air) LoseLinks(device Address, links, least, most int) {
	least = max(least, 1)
	a.faults.between[device] = losses{least: least, most: max(most, least), links: max(links, 0)}
}

// LoseNow loses every link of a device.
func (a *Air) LoseNow(device Address) {
	for _, l := range a.links {
		if l.ends[0].c.s.Address == device || l.ends[1].c.s.Address == device {
			a.lose(l)
		}
	}
}

// Heal ends all faults that are still to come.
func (a *Air) Heal() { a.faults = noFaults() }

// Hide has a device advertise in vain, as if it were out of reach, or no longer so. Its links stay.
func (a *Air) Hide(device Address, hidden bool) { a.faults.hidden[device] = hidden }
