package broker

import (
	"fmt"
	"sync"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/farebeat/farebeat/topics"
)

// holdings reckon what is retained below the id of each gateway, and in all. What a gateway published and is not stored yet is reserved.
type holdings struct {
	mu       sync.Mutex
	bytes    int64 // of all, reserved ones too
	gateways map[string]*holding
}

// holding is what the topics of one gateway hold, with what is reserved.
type holding struct {
	messages int
	bytes    int64
}

// perRetained is what a retained message costs beside its topic and payload, in bytes.
const perRetained = 200

func (m *message) cost() int64 { return int64(len(m.topic) + len(m.payload) + perRetained) }

// gatewayOf is the gateway whose topic it is, "" for none. What is stored does not say who wrote it, but a gateway writes below its own
// id only, and of what it may write is retained what nobody else writes but in its stead.
func gatewayOf(t topics.Tree, topic string) string {
	a, err := t.Parse(topic)
	if err != nil {
		return ""
	}
	switch a.Kind {
	case topics.Gateway, topics.Recovery, topics.Transactions:
		return a.Vehicle
	}
	return ""
}

// add changes what a gateway holds, and what all do.
func (s *holdings) add(gateway string, messages int, bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.change(gateway, messages, bytes)
}

// change is add with the lock held.
func (s *holdings) change(gateway string, messages int, bytes int64) {
	s.bytes += bytes
	if gateway == "" {
		return
	}
	g := s.gateways[gateway]
	if g == nil {
		g = &holding{}
		s.gateways[gateway] = g
	}
	g.messages += messages
	g.bytes += bytes
	if *g == (holding{}) {
		delete(s.gateways, gateway)
	}
}

// stored reckons that m took the place of old, nil for none, and lets go of what was reserved for it.
func (r *retained) stored(old, m *message) {
	messages, bytes := 0, int64(0)
	if old != nil {
		messages, bytes = -1, -old.cost()
	}
	if len(m.payload) > 0 && !m.reserved {
		messages, bytes = messages+1, bytes+m.cost()
	}
	if messages != 0 || bytes != 0 {
		r.holdings.add(gatewayOf(r.tree, m.topic), messages, bytes)
	}
}

// reserve makes room for a message of a gateway, or says which limit it would be beyond. What takes the place of another of
// its topic needs no more room than it is larger; what clears a topic always passes.
func (l *limits) reserve(id topics.Identity, m *message) error {
	if id.Role != topics.RoleGateway || !m.retain || len(m.payload) == 0 {
		return nil
	}
	r := l.h.retained
	messages, bytes := 1, m.cost()
	r.get(m.topic, func(old *message) { messages, bytes = 0, bytes-old.cost() })
	s := &r.holdings
	s.mu.Lock()
	defer s.mu.Unlock()
	var have holding
	if g := s.gateways[id.Name]; g != nil {
		have = *g
	}
	switch {
	case have.messages+messages > l.RetainedPerGateway && messages > 0:
		l.met[limitRetainedGateway].Add(1)
		return fmt.Errorf("topic %q: %d messages are retained for the gateway, as many as broker.limits.retained_per_gateway says", m.topic, have.messages)
	case have.bytes+bytes > l.RetainedBytesPerGateway && bytes > 0:
		l.met[limitRetainedGateway].Add(1)
		return fmt.Errorf("topic %q: %d bytes are retained for the gateway, and more than broker.limits.retained_bytes_per_gateway with this message", m.topic, have.bytes)
	case s.bytes+bytes > l.RetainedBytes && bytes > 0:
		l.met[limitRetainedBytes].Add(1)
		return fmt.Errorf("topic %q: %d bytes are retained in all, and more than broker.limits.retained_bytes with this message", m.topic, s.bytes)
	}
	m.reserved = true
	s.change(id.Name, 1, m.cost()) // what it takes the place of is let go when it is stored
	return nil
}

// release lets go of what was reserved for a message that will not be stored.
func (l *limits) release(id topics.Identity, m *message) {
	if m.reserved {
		l.h.retained.holdings.add(id.Name, -1, -m.cost())
	}
}

// refuseQuota drops a publish for which there is no room. A writer that cannot be told is disconnected, as in refuseForm.
func (h *hook) refuseQuota(c *conn, pk packets.Packet, err error) error {
	h.counters.refusedWrite.Add(1)
	h.refuse(c.identity.Name, "publish refused", err)
	if pk.FixedHeader.Qos > 0 && pk.ProtocolVersion == 5 {
		return packets.ErrQuotaExceeded
	}
	if pk.FixedHeader.Qos > 0 {
		c.closeFor("there is no room for what it published")
	}
	return packets.ErrRejectPacket
}
