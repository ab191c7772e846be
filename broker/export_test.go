package broker

import "github.com/farebeat/farebeat/broker/store"

// Journal is what a test may put between the broker and its store.
type Journal = journal

// SetJournal replaces where changes go. Call it before Start.
func (b *Broker) SetJournal(wrap func(Journal) Journal) {
	b.hook.commits.journal = wrap(b.hook.commits.journal)
}

// StoredAndBack is a message to the disk and back.
func StoredAndBack(props []byte) (again []byte, subs []int, err error) {
	m, subs, err := restored(store.Message{Topic: "t", Payload: []byte("p"), QoS: 1, Props: props}, true)
	if err != nil {
		return nil, nil, err
	}
	return m.stored(subs).Props, subs, nil
}

// BoundLoopback bounds loopback addresses as others. Call it before Start.
func (b *Broker) BoundLoopback() { b.hook.limits.loopback = true }

// Open is how many connections have not ended yet.
func (b *Broker) Open() int {
	b.conns.mu.Lock()
	defer b.conns.mu.Unlock()
	return len(b.conns.open)
}

// Held is what is reckoned of what is retained, and what that is by looking at it.
func (b *Broker) Held() (gateways map[string][2]int64, bytes int64, really map[string][2]int64, reallyBytes int64) {
	r := b.hook.retained
	gateways, really = map[string][2]int64{}, map[string][2]int64{}
	r.holdings.mu.Lock()
	for id, g := range r.holdings.gateways {
		gateways[id] = [2]int64{int64(g.messages), g.bytes}
	}
	bytes = r.holdings.bytes
	r.holdings.mu.Unlock()
	for i := range r.stripes {
		s := &r.stripes[i]
		s.mu.Lock()
		for _, m := range s.messages {
			reallyBytes += m.cost()
			if id := gatewayOf(r.tree, m.topic); id != "" {
				really[id] = [2]int64{really[id][0] + 1, really[id][1] + m.cost()}
			}
		}
		s.mu.Unlock()
	}
	return gateways, bytes, really, reallyBytes
}
