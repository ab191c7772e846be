package broker

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/farebeat/farebeat/topics"
)

// hook is our side of Mochi: who may connect, write and read, and what the fleet sees.
type hook struct {
	mqtt.HookBase
	b        *Broker
	clients  sync.Map // *mqtt.Client to *client
	counters counters
	refusals refusalLog
}

// client is what is known of a connection that was let in.
type client struct {
	identity  topics.Identity
	heartbeat string // the topic of a machine's heartbeat, "" for other roles
	readsAll  bool
}

// counters are everything that is dropped or refused. On a healthy system they are all 0.
type counters struct {
	published, heartbeats                             atomic.Uint64
	publishDropped, qosDropped, idsExhausted, expired atomic.Uint64
	refusedConnect, refusedWrite, refusedRead         atomic.Uint64
	refusedForm                                       atomic.Uint64
}

func newHook(b *Broker) *hook {
	return &hook{b: b, refusals: refusalLog{last: map[string]time.Time{}}}
}

// ID implements mqtt.Hook.
func (h *hook) ID() string { return "farebeat" }

// Provides implements mqtt.Hook.
func (h *hook) Provides(b byte) bool {
	return slices.Contains([]byte{
		mqtt.OnConnectAuthenticate, mqtt.OnACLCheck, mqtt.OnSessionEstablished, mqtt.OnDisconnect, mqtt.OnPublish,
		mqtt.OnPublishDropped, mqtt.OnQosDropped, mqtt.OnPacketIDExhausted, mqtt.OnRetainedExpired,
	}, b)
}

// OnConnectAuthenticate implements mqtt.Hook.
func (h *hook) OnConnectAuthenticate(cl *mqtt.Client, pk packets.Packet) bool {
	identity, err := h.identify(cl, pk)
	if err == nil {
		err = h.admit(cl, pk, identity)
	}
	if err != nil {
		h.counters.refusedConnect.Add(1)
		h.refuse(cl.Net.Remote, "connection refused", fmt.Errorf("client %q, user %q: %w", cl.ID, pk.Connect.Username, err))
		return false
	}
	c := &client{identity: identity}
	switch identity.Role {
	case topics.RoleMachine:
		c.heartbeat, err = h.b.o.Tree.Build(topics.Address{Kind: topics.Heartbeat, Machine: identity.Name})
		if err != nil {
			h.counters.refusedConnect.Add(1)
			h.refuse(cl.Net.Remote, "connection refused", err)
			return false
		}
	case topics.RoleFleet, topics.RoleOperator, topics.RoleViewer:
		c.readsAll = true
	}
	h.clients.Store(cl, c)
	return true
}

// identify says who a client is.
func (h *hook) identify(cl *mqtt.Client, pk packets.Packet) (topics.Identity, error) {
	if c, ok := cl.Net.Conn.(*identified); ok {
		return c.identity, nil
	}
	if len(pk.Connect.Username) == 0 {
		for _, l := range h.b.o.Listeners {
			if l.Name == cl.Net.Listener && l.AnonymousReaders {
				return topics.Identity{Role: topics.RoleViewer, Name: "anonymous"}, nil
			}
		}
		return topics.Identity{}, errors.New("a user name is required")
	}
	if h.b.o.Users == nil {
		return topics.Identity{}, errors.New("there is no users file")
	}
	return h.b.o.Users.Check(string(pk.Connect.Username), pk.Connect.Password)
}

// admit refuses identities that may not be here, wills that their owner may not write, and
// client ids that another identity is connected with, which MQTT would let it push out.
func (h *hook) admit(cl *mqtt.Client, pk packets.Packet, id topics.Identity) error {
	if _, inProcess := cl.Net.Conn.(*identified); id.Role == topics.RoleSimulator && !h.b.o.AllowSimulator && !inProcess {
		return errors.New("the role simulator is not admitted; broker.allow_simulator says so")
	}
	if pk.Connect.WillFlag {
		if err := h.b.o.Tree.MayWrite(id, pk.Connect.WillTopic); err != nil {
			return fmt.Errorf("will: %w", err)
		}
	}
	if other, ok := h.b.server.Clients.Get(cl.ID); ok {
		if c, ok := h.clients.Load(other); ok {
			if theirs := c.(*client).identity; theirs.Role != id.Role || theirs.Name != id.Name {
				return errors.New("another user is connected with this client id")
			}
		}
	}
	return nil
}

func (h *hook) client(cl *mqtt.Client) *client {
	if c, ok := h.clients.Load(cl); ok {
		return c.(*client)
	}
	return nil
}

// OnACLCheck implements mqtt.Hook. Mochi asks for every publish, subscription and delivery.
func (h *hook) OnACLCheck(cl *mqtt.Client, topic string, write bool) bool {
	c := h.client(cl)
	if c == nil {
		// A session whose client is away: what it subscribed to was allowed then. Nobody writes.
		return !write
	}
	if write {
		if c.heartbeat != "" && topic == c.heartbeat {
			return true
		}
		err := h.b.o.Tree.MayWrite(c.identity, topic)
		if err != nil {
			h.counters.refusedWrite.Add(1)
			h.refuse(c.identity.Name, "publish refused", err)
		}
		return err == nil
	}
	if c.readsAll && strings.HasPrefix(topic, h.b.o.Tree.Root()) {
		return true
	}
	err := h.b.o.Tree.MayRead(c.identity, topic)
	if err != nil {
		h.counters.refusedRead.Add(1)
		h.refuse(c.identity.Name, "subscription refused", err)
	}
	return err == nil
}

// OnPublish implements mqtt.Hook: a topic's QoS, retain flag and size are part of the contract.
func (h *hook) OnPublish(cl *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	c := h.client(cl)
	if c == nil {
		return pk, packets.ErrRejectPacket
	}
	h.counters.published.Add(1)
	if machine, ok := h.b.o.Tree.HeartbeatMachine(pk.TopicName); ok {
		if pk.FixedHeader.Retain || len(pk.Payload) > maxHeartbeat {
			return pk, h.refuseForm(cl, c, pk, fmt.Errorf("topic %q: a heartbeat has at most %d bytes and is not retained", pk.TopicName, maxHeartbeat))
		}
		h.counters.heartbeats.Add(1)
		if h.b.o.Tap != nil {
			h.b.o.Tap.Heartbeat(machine, pk.Payload)
		}
		return pk, nil
	}
	if err := h.checkForm(pk); err != nil {
		return pk, h.refuseForm(cl, c, pk, err)
	}
	return pk, nil
}

// maxHeartbeat is MaxBytes of the heartbeat topic; a test keeps them equal.
const maxHeartbeat = 1024

func (h *hook) checkForm(pk packets.Packet) error {
	a, err := h.b.o.Tree.Parse(pk.TopicName)
	if err != nil {
		return err
	}
	spec, _ := topics.Lookup(a.Kind)
	switch {
	case pk.FixedHeader.Qos < spec.QoS:
		return fmt.Errorf("topic %q: QoS %d, want %d", pk.TopicName, pk.FixedHeader.Qos, spec.QoS)
	case pk.FixedHeader.Retain != spec.Retain:
		return fmt.Errorf("topic %q: retain is %t, want %t", pk.TopicName, pk.FixedHeader.Retain, spec.Retain)
	case len(pk.Payload) > spec.MaxBytes:
		return fmt.Errorf("topic %q: %d bytes, at most %d", pk.TopicName, len(pk.Payload), spec.MaxBytes)
	case len(pk.Payload) == 0 && !spec.Retain:
		return fmt.Errorf("topic %q: the payload is empty", pk.TopicName)
	}
	return nil
}

// refuseForm drops a publish. MQTT 3.1.1 knows no negative acknowledgement: a QoS-1 writer is
// disconnected, as it is for a topic that it may not write, lest it send the same for ever.
func (h *hook) refuseForm(cl *mqtt.Client, c *client, pk packets.Packet, err error) error {
	h.counters.refusedForm.Add(1)
	h.refuse(c.identity.Name, "publish refused", err)
	if pk.FixedHeader.Qos == 0 {
		return packets.ErrRejectPacket
	}
	if cl.Properties.ProtocolVersion == 5 {
		return packets.ErrPayloadFormatInvalid
	}
	cl.Stop(packets.ErrPayloadFormatInvalid)
	return packets.ErrRejectPacket
}

// OnSessionEstablished implements mqtt.Hook.
func (h *hook) OnSessionEstablished(cl *mqtt.Client, _ packets.Packet) {
	if c := h.client(cl); c != nil && c.identity.Role == topics.RoleMachine && h.b.o.Tap != nil {
		h.b.o.Tap.SessionUp(c.identity.Name)
	}
}

// OnDisconnect implements mqtt.Hook.
func (h *hook) OnDisconnect(cl *mqtt.Client, err error, _ bool) {
	c := h.client(cl)
	h.clients.Delete(cl)
	if c == nil || c.identity.Role != topics.RoleMachine || h.b.o.Tap == nil {
		return
	}
	if err == nil || cl.IsTakenOver() {
		return // it said goodbye, or it is here again already
	}
	h.b.o.Tap.SessionDown(c.identity.Name, sessionEnd(err))
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

// OnPublishDropped implements mqtt.Hook.
func (h *hook) OnPublishDropped(cl *mqtt.Client, pk packets.Packet) {
	h.counters.publishDropped.Add(1)
	h.refuse(cl.ID, "message dropped", fmt.Errorf("client %q reads too slowly for %s", cl.ID, pk.TopicName))
}

// OnQosDropped implements mqtt.Hook.
func (h *hook) OnQosDropped(*mqtt.Client, packets.Packet) { h.counters.qosDropped.Add(1) }

// OnPacketIDExhausted implements mqtt.Hook.
func (h *hook) OnPacketIDExhausted(*mqtt.Client, packets.Packet) { h.counters.idsExhausted.Add(1) }

// OnRetainedExpired implements mqtt.Hook.
func (h *hook) OnRetainedExpired(string) { h.counters.expired.Add(1) }

// refuse logs once per writer and minute.
func (h *hook) refuse(who, what string, err error) {
	if h.refusals.due(who+"\x00"+what, h.b.o.Now()) {
		h.b.o.Logger.Warn(what, "who", who, "error", err)
	}
}

// refusalLog remembers when something was logged, for a bounded number of writers.
type refusalLog struct {
	mu   sync.Mutex
	last map[string]time.Time
}

const maxRefusals = 10_000

func (l *refusalLog) due(key string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t, ok := l.last[key]; ok && now.Sub(t) < time.Minute {
		return false
	}
	if len(l.last) >= maxRefusals {
		clear(l.last)
	}
	l.last[key] = now
	return true
}
