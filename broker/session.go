package broker

import (
	"cmp"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// Bounds of what waits for one client. Mochi's own queue is a channel made in full for each connection, and
// what does not fit into it is dropped, the state that a newcomer asks for included; so delivery is ours.
const (
	maxQueued      = 16_384   // messages that wait for a slow or absent client; what is beyond is dropped and counted
	maxQueuedBytes = 32 << 20 // of their payloads
	replayBatch    = 64       // a newcomer's retained messages are queued as long as fewer wait
	windowOrdinary = 4_096    // messages sent and not acknowledged
	windowInside   = 32_768   // of the fleet, which acknowledges after its disk did
	highWater      = 8_192    // messages that wait for the fleet before its publishers wait, too
	highWaterBytes = 64 << 20
)

// queued is a message on its way to one client.
type queued struct {
	m      *message
	qos    byte
	retain bool
	subs   []int  // MQTT 5 subscription identifiers
	id     uint16 // packet identifier, 0 until it was sent
	dup    bool   // it was sent before, or may have been
	order  uint64 // of sending
	row    int64  // its number in the store, 0: it is not there
}

// replay is the retained messages of one filter on their way to a newcomer, a stripe of the
// store at a time.
type replay struct {
	filter string
	qos    byte
	subs   []int
	stripe int
	topics []string
}

func newReplay(filter string, qos byte, identifier int) *replay {
	r := &replay{filter: filter, qos: min(qos, 1)}
	if !strings.ContainsAny(filter, "+#") {
		r.topics, r.stripe = []string{filter}, stripes // no need to look through them all
	}
	if identifier > 0 {
		r.subs = []int{identifier}
	}
	return r
}

// session is what waits for one client, beyond the connection if it asked for that. It has a goroutine only while there
// is something to write.
type session struct {
	h       *hook
	id      string
	inside  bool            // in process: its publishers wait instead of its messages being dropped
	number  int64           // in the store, 0: it does not outlive the broker
	settled <-chan struct{} // closed when its subscriptions are on disk; used by the goroutine of the connection

	left   int64  // when its client left, Unix seconds; 0 before that. Guarded by hook.attach
	keptAs string // whose it is among hook.kept, "" if it is not there. Likewise

	mu       sync.Mutex
	owner    *conn        // nil: away
	client   *mqtt.Client // of owner, once CONNACK is out
	window   int
	queue    []queued
	bytes    int
	unacked  map[uint16]queued
	lastID   uint16
	sent     uint64
	replays  []*replay
	news     map[string]*message // retained messages queued as they came, while there are replays
	replayed []string            // filters whose replay was queued to its end
	acks     []byte              // PUBACKs for owner
	writing  bool
	room     chan struct{} // closed when there is room again, nil if nobody waits
	full     time.Time     // since when messages are dropped because the client reads too slowly; zero while it keeps up
}

// push queues a message. Beyond the bounds it is dropped and counted.
func (s *session) push(q queued) {
	s.mu.Lock()
	away := s.owner == nil
	if away && q.qos == 0 {
		s.mu.Unlock()
		return // MQTT keeps only QoS 1 for those who are away
	}
	full := len(s.queue) >= maxQueued || s.bytes+len(q.m.payload) > maxQueuedBytes && len(s.queue) > 0
	if full && (away || !s.inside) {
		owner, since := s.owner, s.full
		if !away {
			owner.dropped.Add(1)
			if since.IsZero() {
				since = time.Now()
				s.full = since
			}
		}
		s.mu.Unlock()
		s.dequeue(q)
		s.h.dropped(s.id, q.m.topic, away)
		if !away {
			s.h.limits.slow(owner, since)
		}
		return
	}
	s.queue = append(s.queue, q)
	s.bytes += len(q.m.payload)
	if q.m.retain && len(s.replays) > 0 {
		if s.news == nil {
			s.news = map[string]*message{}
		}
		s.news[q.m.topic] = q.m
	}
	s.start()
	s.mu.Unlock()
}

// start makes the writer run if there is a client to write to. The lock is held.
func (s *session) start() {
	if s.writing || s.client == nil || len(s.queue)+len(s.replays)+len(s.acks) == 0 {
		return
	}
	s.writing = true
	s.h.writers.Go(s.write)
}

func (s *session) write() {
	for {
		s.feed()
		q, acks, cl, ok := s.next()
		if !ok {
			return
		}
		var err error
		if len(acks) > 0 {
			err = connOf(cl).acknowledge(acks)
		} else {
			if err = cl.WritePacket(q.packet()); err == nil {
				connOf(cl).out.Add(1)
			}
		}
		if err == nil {
			continue
		}
		if errors.Is(err, packets.ErrPacketTooLarge) { // for this client, which said so
			s.h.counters.qosDropped.Add(1)
			connOf(cl).dropped.Add(1)
			s.ack(q.id)
			continue
		}
		s.lost(cl)
		connOf(cl).closeFor("it could not be written to")
	}
}

// next takes the acknowledgements or the message to write next; not ok ends the writer.
func (s *session) next() (q queued, acks []byte, cl *mqtt.Client, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client != nil && len(s.acks) > 0 {
		acks, s.acks = s.acks, nil
		return q, acks, s.client, true
	}
	for s.client != nil && len(s.queue) > 0 {
		q = s.queue[0]
		_, waits := s.unacked[q.id]
		if q.qos > 0 && q.id == 0 && len(s.unacked) >= s.window {
			break // an acknowledgement starts the writer again
		}
		s.queue[0] = queued{}
		s.queue = s.queue[1:]
		s.bytes -= len(q.m.payload)
		if !s.full.IsZero() && len(s.queue) < maxQueued/2 && s.bytes < maxQueuedBytes/2 {
			s.full = time.Time{}
		}
		if s.room != nil && len(s.queue) < highWater/2 && s.bytes < highWaterBytes/2 {
			s.release()
		}
		if q.id != 0 && !waits {
			continue // acknowledged in the meantime
		}
		if q.qos > 0 {
			if q.id != 0 {
				q.dup = true
			} else {
				q.id = s.freeID()
			}
			s.sent++
			q.order = s.sent
			s.unacked[q.id] = q
		}
		return q, nil, s.client, true
	}
	if len(s.queue) == 0 {
		s.queue = nil
	}
	s.writing = false
	if len(s.queue) == 0 {
		s.start() // a replay that came just now
	}
	s.rest()
	return queued{}, nil, nil, false
}

func (s *session) freeID() uint16 {
	for {
		s.lastID++
		if _, taken := s.unacked[s.lastID]; !taken && s.lastID != 0 {
			return s.lastID
		}
	}
}

func (s *session) release() {
	if s.room != nil {
		close(s.room)
		s.room = nil
	}
}

// feed queues retained messages while few others wait.
func (s *session) feed() {
	for {
		s.mu.Lock()
		if s.client == nil || len(s.replays) == 0 || len(s.queue) >= replayBatch {
			s.mu.Unlock()
			return
		}
		r := s.replays[0]
		if len(r.topics) == 0 && r.stripe == stripes {
			s.replays = s.replays[1:]
			s.replayed = append(s.replayed, r.filter)
			if len(s.replays) == 0 {
				s.news = nil
			}
			s.mu.Unlock()
			continue
		}
		s.mu.Unlock()
		if len(r.topics) == 0 {
			r.topics = s.h.retained.matching(r.stripe, r.filter)
			r.stripe++
			continue
		}
		topic := r.topics[0]
		r.topics = r.topics[1:]
		if !s.h.mayReceive(s.id, topic) {
			continue
		}
		s.h.retained.get(topic, func(m *message) {
			s.mu.Lock()
			defer s.mu.Unlock()
			if slices.Contains(s.replays, r) && s.news[topic] != m { // else it unsubscribed, or has it
				s.queue = append(s.queue, queued{m: m, qos: min(m.qos, r.qos), retain: true, subs: r.subs})
				s.bytes += len(m.payload)
			}
		})
	}
}

// replay begins to send what is retained under a filter, anew if it was being sent.
func (s *session) replay(r *replay) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.replays = append(slices.DeleteFunc(s.replays, func(o *replay) bool { return o.filter == r.filter }), r)
}

func (s *session) stopReplay(filter string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.replays = slices.DeleteFunc(s.replays, func(o *replay) bool { return o.filter == filter })
}

func (s *session) owned() *conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.owner
}

// kick starts the writer if there is something to write.
func (s *session) kick() {
	s.mu.Lock()
	s.start()
	s.mu.Unlock()
}

// ack takes note of a client's acknowledgement.
func (s *session) ack(id uint16) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dequeue(s.unacked[id])
	delete(s.unacked, id)
	s.start()
	s.rest()
}

// dequeue lets the store forget a message.
func (s *session) dequeue(q queued) {
	if q.row != 0 {
		s.h.commits.dequeue(s.number, q.row)
	}
}

// rest lets the store know of replays whose messages were all acknowledged. The lock is held.
func (s *session) rest() {
	if len(s.replayed) == 0 || len(s.queue)+len(s.unacked)+len(s.replays) > 0 {
		return
	}
	if s.number != 0 {
		s.h.commits.replayed(s.number, s.replayed)
	}
	s.replayed = nil
}

// acknowledge answers publishes of the session's connection c, in the order of ids.
func (s *session) acknowledge(c *conn, ids []uint16) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.owner != c {
		return // the connection has ended: its client sends them again
	}
	for _, id := range ids {
		s.acks = append(s.acks, packets.Puback<<4, 2, byte(id>>8), byte(id))
	}
	s.start()
}

// established begins to write to a client. What it did not acknowledge is sent again, first and in order.
func (s *session) established(cl *mqtt.Client, window int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	again := make([]queued, 0, len(s.unacked))
	for _, q := range s.unacked {
		again = append(again, q)
		s.bytes += len(q.m.payload)
	}
	slices.SortFunc(again, func(a, b queued) int { return cmp.Compare(a.order, b.order) })
	s.queue = append(again, slices.DeleteFunc(s.queue, func(q queued) bool {
		if q.id != 0 { // from an earlier return, and among again
			s.bytes -= len(q.m.payload)
		}
		return q.id != 0
	})...)
	s.client, s.window = cl, window
	s.start()
}

// lost stops writing to a client whose connection failed.
func (s *session) lost(cl *mqtt.Client) {
	s.mu.Lock()
	if s.client == cl {
		s.client = nil
	}
	s.mu.Unlock()
}

// leave is called when the owner's connection has ended. QoS 0 is for those who are here.
func (s *session) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.owner, s.client, s.acks, s.full = nil, nil, nil, time.Time{}
	s.queue = slices.DeleteFunc(s.queue, func(q queued) bool {
		if q.qos == 0 {
			s.bytes -= len(q.m.payload)
		}
		return q.qos == 0
	})
	s.release()
}

// wait returns when a session in process has room, or gave up: a publisher is slowed down so that the fleet
// loses nothing.
func (s *session) wait(publisher *conn) {
	for {
		s.mu.Lock()
		if !s.inside || s.owner == nil || s.owner == publisher || len(s.queue) < highWater && s.bytes < highWaterBytes {
			s.mu.Unlock()
			return
		}
		if s.room == nil {
			s.room = make(chan struct{})
		}
		room := s.room
		s.mu.Unlock()
		select {
		case <-room:
		case <-publisher.gone:
			return
		}
	}
}

func (q queued) packet() packets.Packet {
	pk := packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: q.qos, Retain: q.retain, Dup: q.dup},
		TopicName:   q.m.topic, Payload: q.m.payload, PacketID: q.id,
	}
	if q.m.props != nil {
		pk.Properties = *q.m.props
	}
	pk.Properties.SubscriptionIdentifier = q.subs
	return pk
}
