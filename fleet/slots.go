package fleet

import (
	"sync"
	"time"

	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
)

// slotGrace is the default of Options.SlotGrace.
const slotGrace = 10 * time.Minute

// maxSlots bounds the slots that are remembered. Those beyond are seen again with the next session.
const maxSlots = 100_000

// slots remembers the transaction slots that stand at the broker although the ledger holds all that is in them.
// Their gateway clears them on the receipt. One that was replaced for good never will, and its successor
// does not know of them; what stands there is the record of nothing then, and is cleared for it.
type slots struct {
	grace time.Duration

	mu   sync.Mutex
	held map[string]time.Time // topic to when the ledger was known to hold its content
}

// stands takes note of a slot whose content the ledger has on disk.
func (s *slots) stands(topic string, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.held[topic]; !known && len(s.held) < maxSlots {
		s.held[topic] = now
	}
}

// cleared forgets a slot.
func (s *slots) cleared(topic string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.held, topic)
}

// overdue takes out the slots that nobody cleared within the grace.
func (s *slots) overdue(now time.Time) (list []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for topic, since := range s.held {
		if now.Sub(since) >= s.grace {
			list = append(list, topic)
			delete(s.held, topic)
		}
	}
	return list
}

// covers reports whether a receipt says that the ledger holds every record of a batch.
func covers(r schemas.Receipt, b topics.BatchID) bool {
	for _, e := range r.Epochs {
		if e.Epoch != b.Epoch {
			continue
		}
		for seq := uint64(b.First); seq <= uint64(b.Last); seq++ {
			if !e.Holds(uint32(seq)) {
				return false
			}
		}
		return true
	}
	return false
}
