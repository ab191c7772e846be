package fleet

import (
	"context"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/farebeat/farebeat/fleet/dispatch"
	"github.com/farebeat/farebeat/topics/session"
)

// publisher keeps the broker's retained topics equal to what should stand there, and sends events.
// It remembers only the newest payload of a topic, so a broker that is away costs memory for
// the state, not for the time.
type publisher struct {
	publish func(context.Context, session.Message) error

	mu       sync.Mutex
	want     map[string][]byte          // all that should stand, by topic
	faults   map[string]bool            // topics of want that setFaults governs
	standing map[string]dispatch.Digest // what stands at the broker, as far as is known
	dirty    map[string]bool
	events   []session.Message
	dropped  uint64
	wake     chan struct{}
}

// maxEvents bounds the events that wait for a broker. They are history, kept in the store: the oldest go
// first.
const maxEvents = 10_000

func newPublisher(publish func(context.Context, session.Message) error) *publisher {
	return &publisher{
		publish: publish, want: map[string][]byte{}, faults: map[string]bool{}, standing: map[string]dispatch.Digest{},
		dirty: map[string]bool{}, wake: make(chan struct{}, 1),
	}
}

func (p *publisher) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// set says what should stand on a topic; nil clears it.
func (p *publisher) set(topic string, payload []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.setLocked(topic, payload)
	p.poke()
}

func (p *publisher) setLocked(topic string, payload []byte) {
	digest, stands := p.standing[topic]
	if payload == nil {
		delete(p.want, topic)
		p.dirty[topic] = stands
	} else {
		p.want[topic] = payload
		p.dirty[topic] = !stands || digest != dispatch.DigestOf(payload)
	}
	if !p.dirty[topic] {
		delete(p.dirty, topic)
	}
}

// setFaults says all that should stand on fault topics.
func (p *publisher) setFaults(want dispatch.Desired) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for topic := range p.faults {
		if _, ok := want[topic]; !ok {
			p.setLocked(topic, nil)
			delete(p.faults, topic)
		}
	}
	for topic, payload := range want {
		p.faults[topic] = true
		p.setLocked(topic, payload)
	}
	p.poke()
}

// wants reports whether something should stand on a topic.
func (p *publisher) wants(topic string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.want[topic] != nil
}

// stands notes what was seen to stand on a fault topic; what should not stand there is cleared.
func (p *publisher) stands(topic string, payload []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(payload) == 0 {
		delete(p.standing, topic)
	} else {
		p.standing[topic] = dispatch.DigestOf(payload)
	}
	p.setLocked(topic, p.want[topic])
	p.poke()
}

// clear empties a topic of which it is known that something stands there that should not.
func (p *publisher) clear(topic string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.standing[topic] = dispatch.Digest{}
	p.setLocked(topic, nil)
	p.poke()
}

func (p *publisher) event(m session.Message) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.events) >= maxEvents {
		p.events = p.events[1:]
		p.dropped++
	}
	p.events = append(p.events, m)
	p.poke()
}

// reconnected forgets what stands: the broker may be another, or have lost its memory.
func (p *publisher) reconnected() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.standing)
	for topic := range p.want {
		p.dirty[topic] = true
	}
	p.poke()
}

// run publishes until ctx ends. What could not be sent waits for the next wake, at the latest that of the
// next connection.
func (p *publisher) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		}
		for p.sendSome(ctx) {
		}
	}
}

// parallel is how many publishes wait for their acknowledgement at once.
const parallel = 64

// sendSome sends what is due now and reports whether to look again.
func (p *publisher) sendSome(ctx context.Context) bool {
	p.mu.Lock()
	events := p.events
	p.events = nil
	batch := make(map[string][]byte, len(p.dirty))
	for topic := range p.dirty {
		batch[topic] = p.want[topic]
	}
	clear(p.dirty)
	p.mu.Unlock()

	for i, e := range events { // in order
		if err := p.publish(ctx, e); err != nil {
			p.mu.Lock()
			p.events = append(events[i:], p.events...)
			for topic := range batch {
				p.dirty[topic] = true
			}
			p.mu.Unlock()
			return false
		}
	}
	var group errgroup.Group
	group.SetLimit(parallel)
	for topic, payload := range batch {
		group.Go(func() error { return p.send(ctx, topic, payload) })
	}
	err := group.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	return err == nil && len(p.dirty)+len(p.events) > 0
}

func (p *publisher) send(ctx context.Context, topic string, payload []byte) error {
	err := p.publish(ctx, session.Message{Topic: topic, QoS: 1, Retain: true, Payload: payload})
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.dirty[topic] = true
		return err
	}
	if payload == nil {
		delete(p.standing, topic)
	} else {
		p.standing[topic] = dispatch.DigestOf(payload)
	}
	// It may have changed while it was on its way.
	p.setLocked(topic, p.want[topic])
	return nil
}
