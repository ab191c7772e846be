package broker

import (
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/farebeat/farebeat/broker/store"
	"github.com/farebeat/farebeat/topics"
)

// hook is our side of Mochi: who may connect, write and read, what the fleet sees, and the delivery of messages.
// Mochi is left with the protocol and the index of subscriptions.
type hook struct {
	mqtt.HookBase
	b        *Broker
	retained *retained
	counters counters
	refusals refusalLog
	limits   *limits
	closing  atomic.Bool
	// delivered tells Mochi to acknowledge a publish and to do nothing else: once, for it is 24 bytes in an interface.
	delivered error
	writers   sync.WaitGroup
	commits   *commits // nil without a store

	sessions sync.Map // id to *session
	attach   sync.Mutex
	kept     map[string][]*session   // of each identity, those that outlive their connections; guarded by attach
	fleet    atomic.Pointer[session] // the one in process, which loses nothing

	machines  [stripes]sync.Mutex // held while the tap is told of a machine's sessions
	connected sync.Map            // machine to *int, how many of its connections are up
}

// counters are everything that is dropped or refused. On a healthy system they are all 0.
type counters struct {
	published, heartbeats                     atomic.Uint64
	publishDropped, qosDropped, inflightFull  atomic.Uint64
	refusedConnect, refusedWrite, refusedRead atomic.Uint64
	refusedForm                               atomic.Uint64
}

func newHook(b *Broker) *hook {
	h := &hook{
		b: b, delivered: packets.CodeSuccessIgnore, retained: newRetained(b.o.Tree), refusals: refusalLog{last: map[string]time.Time{}},
		kept: map[string][]*session{},
	}
	h.limits = newLimits(h, b.o.Limits)
	return h
}

// ID implements mqtt.Hook.
func (h *hook) ID() string { return "farebeat" }

// Provides implements mqtt.Hook.
func (h *hook) Provides(b byte) bool {
	switch b {
	case mqtt.OnConnectAuthenticate, mqtt.OnACLCheck, mqtt.OnSessionEstablish, mqtt.OnSessionEstablished, mqtt.OnDisconnect,
		mqtt.OnPacketRead, mqtt.OnPacketProcessed, mqtt.OnPublish, mqtt.OnSubscribe, mqtt.OnSubscribed, mqtt.OnUnsubscribed,
		mqtt.OnWill, mqtt.OnClientExpired:
		return true
	}
	return false
}

func connOf(cl *mqtt.Client) *conn { return cl.Net.Conn.(*conn) }

// OnConnectAuthenticate implements mqtt.Hook.
func (h *hook) OnConnectAuthenticate(cl *mqtt.Client, pk packets.Packet) bool {
	c := connOf(cl)
	identity, err := h.limits.identified(c, pk, h.identify)
	if err == nil {
		err = h.admit(c, pk, identity)
	}
	if err == nil {
		err = h.limits.join(c, identity, cl.ID)
	}
	if err == nil && identity.Role == topics.RoleMachine && !c.readOnly() {
		c.heartbeat, err = h.b.o.Tree.Build(topics.Address{Kind: topics.Heartbeat, Machine: identity.Name})
	}
	if err != nil {
		c.refused = true
		h.counters.refusedConnect.Add(1)
		h.refuse(host(cl.Net.Remote), "connection refused", fmt.Errorf("client %q, user %q: %w", cl.ID, pk.Connect.Username, err))
		h.turnAway(c, cl, err)
		return false
	}
	c.identity, c.client = identity, cl
	c.keepAlive.Store(int64(time.Duration(pk.Connect.Keepalive) * time.Second))
	_ = c.SetDeadline(time.Time{})
	cl.ID = c.sessionID(cl.ID)
	c.place.arrived()
	c.meter.most = h.limits.packetBytes(identity.Role)
	return true
}

// host is who is logged: a stranger's next attempt comes from another port.
func host(remote string) string { return hostOnly(remote) }

// admit refuses identities that may not be here, and wills that would be refused as a publish.
func (h *hook) admit(c *conn, pk packets.Packet, id topics.Identity) error {
	if id.Role == topics.RoleSimulator && !h.b.o.AllowSimulator && c.known == nil {
		return errors.New("the role simulator is not admitted; broker.allow_simulator says so")
	}
	if !pk.Connect.WillFlag {
		return nil
	}
	if c.readOnly() {
		return fmt.Errorf("will: %w", errReadOnly)
	}
	will := &message{topic: pk.Connect.WillTopic, payload: pk.Connect.WillPayload, qos: pk.Connect.WillQos, retain: pk.Connect.WillRetain}
	if err := h.b.o.Tree.MayWrite(id, will.topic); err != nil {
		return fmt.Errorf("will: %w", err)
	}
	if err := h.checkForm(will); err != nil {
		return fmt.Errorf("will: %w", err)
	}
	if pk.Connect.WillProperties.WillDelayInterval > 0 {
		return errors.New("will: a delay is not supported; the fleet has its own")
	}
	return nil
}

// OnACLCheck implements mqtt.Hook. Mochi asks for every publish and subscription; delivery is ours.
func (h *hook) OnACLCheck(cl *mqtt.Client, topic string, write bool) bool {
	c := connOf(cl)
	if write {
		if c.heartbeat != "" && topic == c.heartbeat {
			return true
		}
		err := h.b.o.Tree.MayWrite(c.identity, topic)
		if c.readOnly() {
			err = fmt.Errorf("topic %q: %w", topic, errReadOnly)
		}
		if err != nil {
			h.counters.refusedWrite.Add(1)
			h.refuse(c.identity.Name, "publish refused", err)
		}
		return err == nil
	}
	_, exists := cl.State.Subscriptions.Get(topic)
	err := h.limits.checkSubscribe(cl.State.Subscriptions.Len(), exists, topic)
	if err == nil {
		err = h.b.o.Tree.MayRead(c.identity, topic)
	}
	if err != nil {
		h.counters.refusedRead.Add(1)
		h.refuse(c.identity.Name, "subscription refused", err)
	}
	return err == nil
}

// errReadOnly is why nothing is published over some listeners.
var errReadOnly = errors.New("whoever connects here may only read; publish over another listener")

// OnPacketRead implements mqtt.Hook. Acknowledgements are of our deliveries. QoS 2 is refused: Mochi would take it for
// QoS 1, and the client would wait for an answer that it does not get.
func (h *hook) OnPacketRead(cl *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	c := connOf(cl)
	if len(pk.Filters) > 0 {
		c.meter.charge(c, subscribeCost*len(pk.Filters), 0)
	}
	switch {
	case c.session == nil: // not connected yet
	case pk.FixedHeader.Type == packets.Puback:
		c.session.ack(pk.PacketID)
	case pk.FixedHeader.Type == packets.Publish && pk.FixedHeader.Qos > 1 && c.readOnly():
		h.counters.refusedWrite.Add(1)
		h.refuse(c.identity.Name, "publish refused", fmt.Errorf("topic %q: %w", pk.TopicName, errReadOnly))
		c.sendAway(cl, packets.ErrNotAuthorized, "it published where one only reads")
		return pk, packets.ErrRejectPacket
	case pk.FixedHeader.Type == packets.Publish && pk.FixedHeader.Qos > 1:
		h.counters.refusedForm.Add(1)
		h.refuse(c.identity.Name, "publish refused", fmt.Errorf("topic %q: QoS 2 is not supported", pk.TopicName))
		c.sendAway(cl, packets.ErrQosNotSupported, "it published with QoS 2")
		return pk, packets.ErrRejectPacket
	}
	return pk, nil
}

// OnSubscribe implements mqtt.Hook: it notes which subscriptions stood before.
func (h *hook) OnSubscribe(cl *mqtt.Client, pk packets.Packet) packets.Packet {
	c := connOf(cl)
	c.before = c.before[:0]
	for _, f := range pk.Filters {
		old, _ := cl.State.Subscriptions.Get(f.Filter)
		c.before = append(c.before, old)
	}
	return pk
}

// OnSubscribed implements mqtt.Hook. The retained messages come from our store; Mochi's is empty. A subscription of a session
// that outlives its connection is on disk before it is acknowledged.
func (h *hook) OnSubscribed(cl *mqtt.Client, pk packets.Packet, reasons []byte) {
	c := connOf(cl)
	var list []work
	for i, f := range pk.Filters {
		if reasons[i] > packets.CodeGrantedQos2.Code {
			continue
		}
		existed := c.before[i].Filter != ""
		replays := f.RetainHandling == 0 || f.RetainHandling == 1 && !existed
		if replays {
			c.session.replay(newReplay(f.Filter, f.Qos, f.Identifier))
		}
		if c.session.number != 0 && (!existed || !sameSubscription(c.before[i], f)) {
			list = append(list, work{change: store.Subscribe{
				Session: c.session.number, Filter: f.Filter, QoS: f.Qos, RetainHandling: f.RetainHandling, NoLocal: f.NoLocal,
				RetainAsPublished: f.RetainAsPublished, Identifier: f.Identifier, Replay: replays && !c.session.inside,
			}})
		}
	}
	h.settle(c, list)
}

// OnPacketProcessed implements mqtt.Hook: after the SUBACK the retained messages may go.
func (h *hook) OnPacketProcessed(cl *mqtt.Client, pk packets.Packet, _ error) {
	if c := connOf(cl); pk.FixedHeader.Type == packets.Subscribe && c.session != nil {
		c.session.kick()
	}
}

// OnUnsubscribed implements mqtt.Hook. Mochi also calls it, without a packet identifier, for a session that ends.
func (h *hook) OnUnsubscribed(cl *mqtt.Client, pk packets.Packet) {
	c, ok := cl.Net.Conn.(*conn)
	if !ok || c.session == nil {
		return
	}
	var list []work
	for _, f := range pk.Filters {
		c.session.stopReplay(f.Filter)
		if c.session.number != 0 && pk.PacketID != 0 {
			list = append(list, work{change: store.Unsubscribe{Session: c.session.number, Filter: f.Filter}})
		}
	}
	h.settle(c, list)
}

// OnWill implements mqtt.Hook: it delivers the will as any other message, and gives Mochi one for nobody. With a store, the
// wills of a broker that closes stay there and are published by the next.
func (h *hook) OnWill(cl *mqtt.Client, will mqtt.Will) (mqtt.Will, error) {
	c := connOf(cl)
	m := &message{topic: will.TopicName, payload: will.Payload, qos: will.Qos, retain: will.Retain}
	switch {
	case h.closing.Load():
	case h.limits.reserve(c.identity, m) != nil:
		h.counters.refusedWrite.Add(1)
		h.refuse(c.identity.Name, "will dropped", fmt.Errorf("topic %q: there is no room for it", m.topic))
	case c.will != 0:
		if h.commits.putSlowly(nil, work{change: m.change(), m: m, origin: cl.ID}, work{change: store.DropWill{Number: c.will}}) {
			c.will = 0
		}
	default:
		h.deliver(cl.ID, m, nil)
	}
	return mqtt.Will{TopicName: mqtt.SysPrefix + "/will"}, nil
}

// OnSessionEstablish implements mqtt.Hook. A client id has one connection: the one before is closed and has ended, its
// will and the tap's notice included, before this one goes on.
func (h *hook) OnSessionEstablish(cl *mqtt.Client, pk packets.Packet) {
	c := connOf(cl)
	for {
		h.attach.Lock()
		s := h.session(cl.ID)
		if s == nil || s.owned() == nil {
			clean := pk.Connect.Clean
			if s != nil && !clean {
				if err := h.mayResume(s, cl, c); err != nil {
					h.refuse(c.identity.Name, "session not resumed", err)
					h.drop(s)
					s = nil
				}
			}
			c.session = h.take(s, c, clean)
			h.attach.Unlock()
			break
		}
		owner := s.owned()
		h.attach.Unlock()
		owner.sendAway(owner.client, packets.ErrSessionTakenOver, "another connection took its place")
		select {
		case <-owner.done:
		case <-c.gone:
			return
		}
	}
	// Mochi's own flow control is switched off, ours takes its place: Mochi v2.7.9 holds a lock and takes it again
	// where it looks for what may be sent next, and hangs if another goroutine asks in between.
	c.window = windowOrdinary
	if c.session.inside {
		c.window = windowInside
	}
	if n := int(cl.Properties.Props.ReceiveMaximum); n > 0 {
		c.window = min(c.window, n)
	}
	cl.Properties.Props.ReceiveMaximum = 0
	cl.State.Inflight.ResetSendQuota(0)
	if h.commits != nil {
		c.slots = make(chan struct{}, maxPending)
		h.keepWill(c)
	}
}

// take gives a session to a connection: the one that is kept, or a new one. The lock attach is held.
func (h *hook) take(s *session, c *conn, clean bool) *session {
	if s == nil || clean {
		old := s
		s = &session{h: h, id: c.client.ID, unacked: map[uint16]queued{}, inside: isInside(c.client.ID)}
		h.keepSession(old, s, c)
		if old != nil {
			h.limits.removeSession(old)
		}
		if h.sessions.Store(s.id, s); c.keptFor() > 0 {
			h.limits.addSession(s, c.identity)
		}
	} else {
		h.touch(s, c, 0)
	}
	s.mu.Lock()
	s.owner = c
	s.mu.Unlock()
	if s.inside {
		h.fleet.Store(s)
	}
	return s
}

// OnSessionEstablished implements mqtt.Hook.
func (h *hook) OnSessionEstablished(cl *mqtt.Client, _ packets.Packet) {
	c := connOf(cl)
	if c.session == nil {
		return
	}
	c.session.established(cl, c.window)
	c.since.Store(h.b.o.Now().UnixNano())
	if cause := h.b.fallen(c); cause != "" { // something changed since it was let in, and whoever saw to that did not see it yet
		c.revoke(cause)
		return
	}
	h.tell(c, func(up *int, tap Tap) {
		*up++
		c.up = true
		tap.SessionUp(c.identity.Name)
	})
}

// tell calls f for a machine's connection, one at a time for each machine.
func (h *hook) tell(c *conn, f func(up *int, tap Tap)) {
	if c.identity.Role != topics.RoleMachine || c.readOnly() || h.b.o.Tap == nil || h.closing.Load() {
		return
	}
	lock := &h.machines[maphash.String(h.retained.seed, c.identity.Name)%stripes]
	lock.Lock()
	defer lock.Unlock()
	up, _ := h.connected.LoadOrStore(c.identity.Name, new(int))
	f(up.(*int), h.b.o.Tap)
	if *up.(*int) == 0 {
		h.connected.Delete(c.identity.Name)
	}
}

// OnDisconnect implements mqtt.Hook. A goodbye, or a machine that is here by another connection, is no loss.
func (h *hook) OnDisconnect(cl *mqtt.Client, err error, _ bool) {
	c := connOf(cl)
	c.goodbye = err == nil
	if !c.up {
		return
	}
	c.up = false
	h.tell(c, func(up *int, tap Tap) {
		if *up--; *up > 0 || err == nil {
			return
		}
		if cause := c.cause.Load(); cause != nil {
			tap.SessionDown(c.identity.Name, *cause)
			return
		}
		tap.SessionDown(c.identity.Name, sessionEnd(err))
	})
}

// ended is called when nothing of a connection runs any more.
func (h *hook) ended(c *conn) {
	c.Close()
	if s := c.session; s != nil {
		h.attach.Lock()
		s.leave()
		s.left = time.Now().Unix()
		switch {
		case c.keptFor() == 0:
			h.forget(s)
		case !h.b.mayReturn(c):
			h.drop(s)
		default:
			h.touch(s, c, time.Now().Unix())
		}
		h.attach.Unlock()
		if c.will != 0 && (c.goodbye || !h.closing.Load()) {
			h.commits.put(work{change: store.DropWill{Number: c.will}})
		}
	}
	h.limits.part(c)
	close(c.done)
}

func (h *hook) forget(s *session) {
	h.limits.removeSession(s)
	if h.sessions.CompareAndDelete(s.id, s) && s.number != 0 {
		h.commits.put(work{change: store.DropSession{Number: s.number}})
	}
	h.fleet.CompareAndSwap(s, nil)
}

// session is the session of a client id, nil if there is none.
func (h *hook) session(id string) *session {
	s, ok := h.sessions.Load(id)
	if !ok {
		return nil
	}
	return s.(*session)
}

// OnClientExpired implements mqtt.Hook: a client was away for too long.
func (h *hook) OnClientExpired(cl *mqtt.Client) {
	h.attach.Lock()
	defer h.attach.Unlock()
	if s := h.session(cl.ID); s != nil && s.owned() == nil {
		h.forget(s)
		h.b.server.UnsubscribeClient(cl)
	}
}

// dropped counts a message that did not fit into a queue.
func (h *hook) dropped(id, topic string, away bool) {
	err := fmt.Errorf("client %q reads too slowly for %s", id, topic)
	if away {
		h.counters.inflightFull.Add(1)
		err = fmt.Errorf("client %q is away, and its queue is full, for %s", id, topic)
	} else {
		h.counters.publishDropped.Add(1)
	}
	h.refuse(id, "message dropped", err)
}

func sessionEnd(err error) string {
	switch {
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrClosedPipe) || errors.Is(err, net.ErrClosed):
		return "the connection was closed without a goodbye"
	case isTimeout(err):
		return "nothing came within one and a half keep-alives"
	}
	return err.Error()
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}
