package broker

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/farebeat/farebeat/broker/store"
	"github.com/farebeat/farebeat/topics"
)

// OnPublish implements mqtt.Hook: a topic's QoS, retain flag and size are part of the contract. What is accepted is
// delivered here. Without a store Mochi acknowledges it, after that; with one, QoS 1 is delivered and acknowledged once it
// is on disk, and this goroutine goes on reading meanwhile, so that publishes of one connection share a transaction.
func (h *hook) OnPublish(cl *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	c := connOf(cl)
	h.counters.published.Add(1)
	c.in.Add(1)
	if machine, ok := h.b.o.Tree.HeartbeatMachine(pk.TopicName); ok {
		if pk.FixedHeader.Retain || len(pk.Payload) > maxHeartbeat {
			if len(pk.Payload) > maxHeartbeat {
				h.limits.met[limitPayload].Add(1)
			}
			return pk, h.refuseForm(c, pk, fmt.Errorf("topic %q: a heartbeat has at most %d bytes and is not retained", pk.TopicName, maxHeartbeat))
		}
		if !h.limits.beats(c, pk.FixedHeader.Qos) {
			return pk, h.delivered
		}
		h.counters.heartbeats.Add(1)
		if h.b.o.Tap != nil {
			h.b.o.Tap.Heartbeat(machine, pk.Payload)
		}
		if pk.FixedHeader.Qos > 0 && h.commits != nil {
			return pk, h.commit(c, pk.PacketID, newMessage(pk))
		}
		if readers := h.b.server.Topics.Subscribers(pk.TopicName).Subscriptions; len(readers) > 0 {
			h.queue(readers, cl.ID, newMessage(pk), nil)
		}
		return pk, h.delivered
	}
	m := newMessage(pk)
	if err := h.checkForm(m); err != nil {
		return pk, h.refuseForm(c, pk, err)
	}
	if err := h.limits.reserve(c.identity, m); err != nil {
		return pk, h.refuseQuota(c, pk, err)
	}
	if s := h.fleet.Load(); s != nil {
		s.wait(c)
	}
	if h.commits != nil {
		return pk, h.commit(c, pk.PacketID, m)
	}
	h.deliver(cl.ID, m, nil)
	return pk, h.delivered
}

// commit sends a publish on its way to the disk. What it returns keeps Mochi from acknowledging: that is for later.
func (h *hook) commit(c *conn, id uint16, m *message) error {
	if len(c.slots) == cap(c.slots) {
		h.limits.hit(limitInflight, c.identity.Name, "publisher slowed down", fmt.Errorf("%d of its publishes wait for the disk", cap(c.slots)))
	}
	select {
	case c.slots <- struct{}{}:
		if h.commits.putSlowly(c.gone, work{change: m.change(), m: m, origin: c.client.ID, conn: c, id: id}) {
			return packets.ErrRejectPacket
		}
	case <-c.gone:
	}
	h.limits.release(c.identity, m)
	return packets.ErrRejectPacket
}

// change is what a message changes on disk by itself.
func (m *message) change() store.Change {
	if !m.retain {
		return nil
	}
	return store.Retain(m.stored(nil))
}

// stored is the message for the disk, with the identifiers of the subscriptions that it goes to.
func (m *message) stored(subs []int) store.Message {
	s := store.Message{Topic: m.topic, Payload: m.payload, QoS: m.qos}
	if m.props == nil && subs == nil {
		return s
	}
	var p packets.Properties
	if m.props != nil {
		p = *m.props
	}
	p.SubscriptionIdentifier = subs
	var b bytes.Buffer
	p.Encode(packets.Publish, packets.Mods{AllowResponseInfo: true}, &b, 0)
	s.Props = b.Bytes()
	return s
}

// restored is a message from the disk, and the identifiers of the subscriptions that it goes to.
func restored(s store.Message, retain bool) (*message, []int, error) {
	m := &message{topic: s.Topic, payload: s.Payload, qos: s.QoS, retain: retain}
	if s.Props == nil {
		return m, nil, nil
	}
	var p packets.Properties
	if _, err := p.Decode(packets.Publish, bytes.NewBuffer(s.Props)); err != nil {
		return nil, nil, fmt.Errorf("properties of a message on %q: %w", s.Topic, err)
	}
	subs := slices.DeleteFunc(p.SubscriptionIdentifier, func(id int) bool { return id == 0 }) // none is 0, see MQTT 5, 3.3.2.3.8
	p.SubscriptionIdentifier = nil
	m.props = &p
	return m, subs, nil
}

func newMessage(pk packets.Packet) *message {
	m := &message{topic: pk.TopicName, payload: pk.Payload, qos: pk.FixedHeader.Qos, retain: pk.FixedHeader.Retain}
	if pk.ProtocolVersion == 5 {
		p := pk.Properties.Copy(false)
		p.MessageExpiryInterval = 0 // transactions do not expire
		m.props = &p
	}
	return m
}

// kept says under which number a message is on disk for a session, 0 for none.
type kept func(*session) int64

// deliver queues a message for everyone who subscribed, and keeps it if it is retained.
func (h *hook) deliver(origin string, m *message, on kept) {
	if m.retain {
		h.retained.put(m, func() { h.fanOut(origin, m, on) })
		return
	}
	h.fanOut(origin, m, on)
}

func (h *hook) fanOut(origin string, m *message, on kept) {
	h.queue(h.readers(m.topic), origin, m, on)
}

// readers lists who subscribed to a topic and may have what is on it, by session.
func (h *hook) readers(topic string) map[string]packets.Subscription {
	readers := h.b.server.Topics.Subscribers(topic).Subscriptions
	if h.b.o.Tree.Confidential(topic) {
		maps.DeleteFunc(readers, func(id string, _ packets.Subscription) bool { return !h.mayReceive(id, topic) })
	}
	return readers
}

// mayReceive reports whether the owner of a session may have what is on a topic.
func (h *hook) mayReceive(session, topic string) bool {
	return !h.b.o.Tree.Confidential(topic) || h.b.o.Tree.MayReceive(identityOf(session), topic) == nil
}

func (h *hook) queue(readers map[string]packets.Subscription, origin string, m *message, on kept) {
	for id, sub := range readers {
		s := h.session(id)
		if s == nil || sub.NoLocal && id == origin {
			continue
		}
		q := queued{m: m, qos: min(m.qos, sub.Qos), retain: m.retain && sub.RetainAsPublished, subs: identifiers(sub)}
		if on != nil {
			q.row = on(s)
		}
		s.push(q)
	}
}

func identifiers(sub packets.Subscription) []int {
	if len(sub.Identifiers) == 0 {
		return nil
	}
	return slices.Sorted(maps.Values(sub.Identifiers))
}

// maxHeartbeat is MaxBytes of the heartbeat topic; a test keeps them equal.
const maxHeartbeat = 1024

func (h *hook) checkForm(m *message) error {
	a, err := h.b.o.Tree.Parse(m.topic)
	if err != nil {
		return err
	}
	spec, _ := topics.Lookup(a.Kind)
	switch {
	case m.qos < spec.QoS || m.qos > 1:
		return fmt.Errorf("topic %q: QoS %d, want %d", m.topic, m.qos, spec.QoS)
	case m.retain != spec.Retain:
		return fmt.Errorf("topic %q: retain is %t, want %t", m.topic, m.retain, spec.Retain)
	case len(m.payload) > spec.MaxBytes:
		h.limits.met[limitPayload].Add(1)
		return fmt.Errorf("topic %q: %d bytes, at most %d", m.topic, len(m.payload), spec.MaxBytes)
	case len(m.payload) == 0 && !spec.Retain:
		return fmt.Errorf("topic %q: the payload is empty", m.topic)
	}
	return nil
}

// refuseForm drops a publish. MQTT 3.1.1 knows no negative acknowledgement: a QoS-1 writer is
// disconnected, as it is for a topic that it may not write, lest it send the same for ever.
func (h *hook) refuseForm(c *conn, pk packets.Packet, err error) error {
	h.counters.refusedForm.Add(1)
	h.refuse(c.identity.Name, "publish refused", err)
	if pk.FixedHeader.Qos == 0 {
		return packets.ErrRejectPacket
	}
	if pk.ProtocolVersion == 5 {
		return packets.ErrPayloadFormatInvalid
	}
	c.closeFor("it published what its topic does not take") // not cl.Stop, which Mochi takes for a goodbye
	return packets.ErrRejectPacket
}
