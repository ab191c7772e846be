package edge

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/farebeat/farebeat/edge/ble"
	"github.com/farebeat/farebeat/schemas"
)

// maxSuspects bounds the addresses at which no session could be opened; who sends garbage may change its own at will.
const maxSuspects = 256

// maxPerMachine bounds the devices that are kept with the hint of one machine: more than one is an impostor's doing.
const maxPerMachine = 32

// suspects remembers which devices that advertise as a machine are it. An id hint is no proof: any device may send that
// of a machine, from any number of addresses, and must not keep the true one from being served.
type suspects struct {
	mu     sync.Mutex
	failed map[string]int    // by address: how often in a row no session could be opened
	proven map[string]string // by machine: the address at which one was opened last; as many as the vehicle has machines
}

func newSuspects() suspects { return suspects{failed: map[string]int{}, proven: map[string]string{}} }

// rank orders the devices that advertise as a machine: first the one that proved to be it, then those of which nothing is
// known, then by failures.
func (s *suspects) rank(machine, address string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed[address] == 0 && s.proven[machine] == address {
		return -1
	}
	return s.failed[address]
}

func (s *suspects) failures(address string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed[address]
}

// note remembers how opening a session went.
func (s *suspects) note(machine, address string, failed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !failed:
		delete(s.failed, address)
		s.proven[machine] = address
	case len(s.failed) >= maxSuspects && s.failed[address] == 0:
		clear(s.failed) // a flood of new addresses says nothing about the old ones
		fallthrough
	default:
		s.failed[address]++
	}
}

// heard is what a scan brought: the devices that advertise as each machine that has a name.
type heard struct {
	mu  sync.Mutex
	ads map[string][]ble.Advertisement
}

// add keeps the latest advertisement of a device. Of more devices than fit it keeps those that are rather the machine, and among
// equals any: whoever sends from many addresses cannot choose which are looked at.
func (h *heard) add(name string, ad ble.Advertisement, s *suspects) {
	rank := s.rank(name, ad.Address)
	h.mu.Lock()
	defer h.mu.Unlock()
	list := h.ads[name]
	if i := slices.IndexFunc(list, func(o ble.Advertisement) bool { return o.Address == ad.Address }); i >= 0 {
		list[i] = ad
		return
	}
	if len(list) < maxPerMachine {
		h.ads[name] = append(list, ad)
		return
	}
	worst := rand.IntN(len(list))
	for i, o := range list {
		if s.rank(name, o.Address) > s.rank(name, list[worst].Address) {
			worst = i
		}
	}
	if rank <= s.rank(name, list[worst].Address) {
		list[worst] = ad
	}
}

// devices lists the devices that advertise as a machine, in the order in which to try them: by rank, then the nearest.
func (h *heard) devices(name string, s *suspects) []ble.Advertisement {
	h.mu.Lock()
	list := slices.Clone(h.ads[name])
	h.mu.Unlock()
	slices.SortStableFunc(list, func(a, b ble.Advertisement) int {
		return cmp.Or(cmp.Compare(s.rank(name, a.Address), s.rank(name, b.Address)), cmp.Compare(b.RSSI, a.RSSI), cmp.Compare(a.Address, b.Address))
	})
	return list
}

// sightings lists who was heard, each by the device that is tried first.
func (h *heard) sightings(now time.Time, s *suspects) []schemas.Sighting {
	h.mu.Lock()
	names := make([]string, 0, len(h.ads))
	for name := range h.ads {
		names = append(names, name)
	}
	h.mu.Unlock()
	slices.Sort(names)
	now = now.UTC().Truncate(time.Millisecond)
	var seen []schemas.Sighting
	for _, name := range names {
		ad := h.devices(name, s)[0]
		seen = append(seen, schemas.Sighting{Machine: name, RSSI: min(max(int(ad.RSSI), -127), 20), SeenAt: now, Pending: uint32(ad.Pending)})
	}
	return seen
}
