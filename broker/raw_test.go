package broker_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/farebeat/farebeat/broker"
	"github.com/farebeat/farebeat/topics"
)

const root = "farebeat/v1/tampa/"

func tampa(t testing.TB) topics.Tree {
	t.Helper()
	tree, err := topics.New("tampa")
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// start runs a broker until the test ends, of Tampa where its options do not say.
func start(t testing.TB, o broker.Options) *broker.Broker {
	t.Helper()
	if o.Tree.Root() == "" {
		o.Tree = tampa(t)
	}
	if onDisk {
		o.Store = openStore(t, filepath.Join(t.TempDir(), "broker.db"))
		t.Cleanup(func() { o.Store.Close() }) // after the broker
	}
	b, err := broker.New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeBroker(t, b) })
	return b
}

func closeBroker(t testing.TB, b *broker.Broker) {
	t.Helper()
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

// raw is a client that speaks MQTT packet by packet, so that it can also do what a proper one does not.
type raw struct {
	t       testing.TB
	net     net.Conn
	in      *bufio.Reader
	version byte
	lastID  uint16
}

type will struct {
	topic, payload string
	qos            byte
	retain         bool
}

type connect struct {
	id, user, password string
	keep               bool // the session
	version            byte // 4 if 0
	keepAlive          uint16
	will               *will
	willDelay          uint32
	receiveMaximum     uint16
}

// join connects and returns the client and the reason code of the CONNACK.
func join(t testing.TB, c net.Conn, o connect) (*raw, byte) {
	t.Helper()
	r, _, code := connectRaw(t, c, o)
	return r, code
}

// connectRaw also returns whether the session was present.
func connectRaw(t testing.TB, c net.Conn, o connect) (*raw, bool, byte) {
	t.Helper()
	if o.version == 0 {
		o.version = 4
	}
	r := &raw{t: t, net: c, version: o.version}
	r.start(o)
	ack, err := r.read()
	if err != nil || ack.FixedHeader.Type != packets.Connack {
		t.Fatalf("client %q: %v instead of a CONNACK: %v", o.id, ack.FixedHeader.Type, err)
	}
	return r, ack.SessionPresent, ack.ReasonCode
}

// start sends CONNECT.
func (r *raw) start(o connect) {
	r.t.Helper()
	r.in = bufio.NewReader(r.net)
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Connect}, Connect: packets.ConnectParams{
		ProtocolName: []byte("MQTT"), Clean: !o.keep, ClientIdentifier: o.id, Keepalive: o.keepAlive,
		UsernameFlag: o.user != "", Username: []byte(o.user), PasswordFlag: o.password != "", Password: []byte(o.password),
	}}
	if o.will != nil {
		pk.Connect.WillFlag, pk.Connect.WillTopic, pk.Connect.WillPayload = true, o.will.topic, []byte(o.will.payload)
		pk.Connect.WillQos, pk.Connect.WillRetain = o.will.qos, o.will.retain
		pk.Connect.WillProperties.WillDelayInterval = o.willDelay
	}
	if o.version == 5 && o.keep {
		pk.Properties.SessionExpiryInterval, pk.Properties.SessionExpiryIntervalFlag = 3600, true
	}
	pk.Properties.ReceiveMaximum = o.receiveMaximum
	if err := r.trySend(pk); err != nil {
		r.t.Fatal(err)
	}
}

// tryStart connects, without a test that ends if that fails.
func (r *raw) tryStart(o connect) error {
	r.in = bufio.NewReader(r.net)
	err := r.trySend(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Connect}, Connect: packets.ConnectParams{
		ProtocolName: []byte("MQTT"), Clean: true, ClientIdentifier: o.id, UsernameFlag: true, Username: []byte(o.user), PasswordFlag: true, Password: []byte(o.password),
	}})
	if err != nil {
		return err
	}
	ack, err := r.read()
	if err == nil && ack.ReasonCode != 0 {
		err = fmt.Errorf("refused with %d", ack.ReasonCode)
	}
	return err
}

// trySubscribe sends SUBSCRIBE.
func (r *raw) trySubscribe(filter string) error {
	r.lastID++
	return r.trySend(packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, PacketID: max(1, r.lastID), Filters: packets.Subscriptions{{Filter: filter}},
	})
}

// dial joins in process.
func dial(t testing.TB, b *broker.Broker, id topics.Identity, o connect) *raw {
	t.Helper()
	c, err := b.Dial(context.Background(), id)
	if err != nil {
		t.Fatal(err)
	}
	r, code := join(t, c, o)
	if code != 0 {
		t.Fatalf("client %q of %v: refused with %d", o.id, id, code)
	}
	return r
}

func (r *raw) send(pk packets.Packet) {
	r.t.Helper()
	if err := r.trySend(pk); err != nil {
		r.t.Fatal(err)
	}
}

func (r *raw) trySend(pk packets.Packet) error {
	pk.ProtocolVersion, pk.Mods.AllowResponseInfo = r.version, true
	var b bytes.Buffer
	var err error
	switch pk.FixedHeader.Type {
	case packets.Connect:
		pk.ProtocolVersion = r.version
		err = pk.ConnectEncode(&b)
	case packets.Publish:
		err = pk.PublishEncode(&b)
	case packets.Puback:
		err = pk.PubackEncode(&b)
	case packets.Subscribe:
		err = pk.SubscribeEncode(&b)
	case packets.Unsubscribe:
		err = pk.UnsubscribeEncode(&b)
	case packets.Pingreq:
		err = pk.PingreqEncode(&b)
	case packets.Disconnect:
		err = pk.DisconnectEncode(&b)
	}
	if err == nil {
		_, err = r.net.Write(b.Bytes())
	}
	return err
}

func (r *raw) read() (packets.Packet, error) {
	_ = r.net.SetReadDeadline(time.Now().Add(time.Minute))
	pk := packets.Packet{ProtocolVersion: r.version}
	first, err := r.in.ReadByte()
	if err != nil {
		return pk, err
	}
	if err := pk.FixedHeader.Decode(first); err != nil {
		return pk, err
	}
	if pk.FixedHeader.Remaining, _, err = packets.DecodeLength(r.in); err != nil {
		return pk, err
	}
	b := make([]byte, pk.FixedHeader.Remaining)
	if _, err := io.ReadFull(r.in, b); err != nil {
		return pk, err
	}
	switch pk.FixedHeader.Type {
	case packets.Connack:
		err = pk.ConnackDecode(b)
	case packets.Publish:
		err = pk.PublishDecode(b)
	case packets.Puback:
		err = pk.PubackDecode(b)
	case packets.Suback:
		err = pk.SubackDecode(b)
	case packets.Disconnect:
		err = pk.DisconnectDecode(b)
	}
	return pk, err
}

// subscribe returns the reason code of each filter, and what came before the SUBACK.
func (r *raw) subscribe(qos byte, filters ...string) ([]byte, []packets.Packet) {
	r.t.Helper()
	r.lastID++
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, PacketID: r.lastID}
	for _, f := range filters {
		pk.Filters = append(pk.Filters, packets.Subscription{Filter: f, Qos: qos})
	}
	r.send(pk)
	var early []packets.Packet
	for {
		got, err := r.read()
		if err != nil {
			r.t.Fatalf("subscribe %q: %v", filters, err)
		}
		if got.FixedHeader.Type == packets.Suback {
			return got.ReasonCodes, early
		}
		early = append(early, got)
	}
}

func (r *raw) unsubscribe(filter string) {
	r.t.Helper()
	r.lastID++
	r.send(packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Unsubscribe, Qos: 1}, PacketID: r.lastID, Filters: packets.Subscriptions{{Filter: filter}},
	})
	if pk, err := r.read(); err != nil || pk.FixedHeader.Type != packets.Unsuback {
		r.t.Fatalf("unsubscribe %q: %v %v", filter, pk.FixedHeader.Type, err)
	}
}

type pub struct {
	topic, payload string
	qos            byte
	retain         bool
}

func (r *raw) publish(p pub) error {
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: p.qos, Retain: p.retain}, TopicName: p.topic, Payload: []byte(p.payload)}
	if p.qos > 0 {
		r.lastID++
		pk.PacketID = r.lastID
	}
	return r.trySend(pk)
}

// mustPublish publishes and waits for the acknowledgement.
func (r *raw) mustPublish(p pub) {
	r.t.Helper()
	if err := r.publish(p); err != nil {
		r.t.Fatal(err)
	}
	if p.qos == 0 {
		r.ping()
		return
	}
	if pk, err := r.read(); err != nil || pk.FixedHeader.Type != packets.Puback || pk.ReasonCode >= 0x80 {
		r.t.Fatalf("publish %s: %v %d %v instead of a PUBACK", p.topic, pk.FixedHeader.Type, pk.ReasonCode, err)
	}
}

// ping waits until the broker has dealt with all before, and returns what it sent meanwhile.
func (r *raw) ping() []packets.Packet {
	r.t.Helper()
	r.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pingreq}})
	var got []packets.Packet
	for {
		pk, err := r.read()
		if err != nil {
			r.t.Fatal(err)
		}
		if pk.FixedHeader.Type == packets.Pingresp {
			return got
		}
		got = append(got, pk)
	}
}

// next is the next message, acknowledged.
func (r *raw) next() packets.Packet {
	r.t.Helper()
	pk, err := r.read()
	if err != nil || pk.FixedHeader.Type != packets.Publish {
		r.t.Fatalf("%v %v instead of a message", pk.FixedHeader.Type, err)
	}
	r.acknowledge(pk)
	return pk
}

func (r *raw) acknowledge(pk packets.Packet) {
	r.t.Helper()
	if pk.FixedHeader.Qos > 0 {
		r.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: pk.PacketID})
	}
}

func (r *raw) expect(want ...string) {
	r.t.Helper()
	for _, w := range want {
		if pk := r.next(); text(pk) != w {
			r.t.Fatalf("got %s, want %s", text(pk), w)
		}
	}
}

func text(pk packets.Packet) string {
	return strings.TrimPrefix(pk.TopicName, root) + "=" + string(pk.Payload)
}

func (r *raw) bye() {
	r.t.Helper()
	r.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Disconnect}})
	_, _ = io.Copy(io.Discard, r.in) // until the broker has closed it
	r.net.Close()
}

// notes is a Tap that writes down.
type notes struct {
	mu    sync.Mutex
	lines []string
}

func (n *notes) add(s string) { n.mu.Lock(); n.lines = append(n.lines, s); n.mu.Unlock() }
func (n *notes) Heartbeat(machine string, payload []byte) {
	n.add("beat " + machine + " " + string(payload))
}
func (n *notes) SessionUp(machine string)           { n.add("up " + machine) }
func (n *notes) SessionDown(machine, reason string) { n.add("down " + machine + ": " + reason) }
func (n *notes) want(t testing.TB, want ...string) {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	if !slices.Equal(n.lines, want) {
		t.Errorf("the tap saw %q, want %q", n.lines, want)
	}
}

var (
	fleetID  = topics.Identity{Role: topics.RoleFleet, Name: "fleet"}
	viewerID = topics.Identity{Role: topics.RoleViewer, Name: "ann"}
)

func machineID(id string) topics.Identity { return topics.Identity{Role: topics.RoleMachine, Name: id} }

func gatewayID(id string) topics.Identity { return topics.Identity{Role: topics.RoleGateway, Name: id} }

func dialer(b *broker.Broker) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) { return b.Dial(ctx, viewerID) }
}
