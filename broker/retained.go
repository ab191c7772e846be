package broker

import (
	"hash/maphash"
	"strings"
	"sync"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/farebeat/farebeat/topics"
)

// message is what was published. It is shared and never changed.
type message struct {
	topic   string
	payload []byte
	qos     byte
	retain  bool
	props   *packets.Properties // MQTT 5, nil for none
	// reserved says that there is room for it among what its gateway holds.
	reserved bool
}

const stripes = 64

// retained holds the last message of each topic that keeps one. Storing a message and queueing it for
// its readers is one step under the lock of the topic's stripe; so is queueing a stored message for a newcomer. A
// queue therefore never holds an older message of a topic behind a newer one.
type retained struct {
	seed     maphash.Seed
	stripes  [stripes]stripe
	tree     topics.Tree
	holdings holdings
}

type stripe struct {
	mu       sync.Mutex
	messages map[string]*message
}

func newRetained(tree topics.Tree) *retained {
	r := &retained{seed: maphash.MakeSeed(), tree: tree, holdings: holdings{gateways: map[string]*holding{}}}
	for i := range r.stripes {
		r.stripes[i].messages = map[string]*message{}
	}
	return r
}

func (r *retained) stripe(topic string) *stripe {
	return &r.stripes[maphash.String(r.seed, topic)%stripes]
}

// put stores m, or forgets the topic if m is empty, and calls then within the same step.
func (r *retained) put(m *message, then func()) {
	s := r.stripe(m.topic)
	s.mu.Lock()
	defer s.mu.Unlock()
	r.stored(s.messages[m.topic], m)
	if len(m.payload) == 0 {
		delete(s.messages, m.topic)
	} else {
		s.messages[m.topic] = m
	}
	then()
}

// get calls then with what the topic holds, if anything, within the same step.
func (r *retained) get(topic string, then func(*message)) {
	s := r.stripe(topic)
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := s.messages[topic]; m != nil {
		then(m)
	}
}

// matching lists the topics of one stripe that filter matches.
func (r *retained) matching(stripe int, filter string) []string {
	s := &r.stripes[stripe]
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []string
	for topic := range s.messages {
		if matches(filter, topic) {
			found = append(found, topic)
		}
	}
	return found
}

func (r *retained) len() int {
	n := 0
	for i := range r.stripes {
		s := &r.stripes[i]
		s.mu.Lock()
		n += len(s.messages)
		s.mu.Unlock()
	}
	return n
}

// matches reports whether an MQTT filter matches a topic (MQTT 3.1.1, section 4.7); topics that begin with $ are
// not ours.
func matches(filter, topic string) bool {
	for {
		f, fRest, fMore := strings.Cut(filter, "/")
		if f == "#" {
			return true
		}
		t, tRest, tMore := strings.Cut(topic, "/")
		switch {
		case f != "+" && f != t:
			return false
		case !fMore && !tMore:
			return true
		case !tMore:
			return fRest == "#"
		case !fMore:
			return false
		}
		filter, topic = fRest, tRest
	}
}
