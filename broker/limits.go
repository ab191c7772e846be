package broker

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/farebeat/farebeat/topics"
)

// Limits bound what clients may take. A field that is 0 means its default; New refuses what is out of its range. Docs/decisions/0019 says why
// the defaults are what they are.
//
// An identity is a role and a name, however many connections it has. Not bounded per identity are connections in process, and the
// roles fleet and simulator, which speak for everyone; not bounded per address is loopback.
type Limits struct {
	// ConnectionsPerAddress is how many connections one address may have, an IPv6 /64 being one: 20,000; 1 to 1,000,000.
	ConnectionsPerAddress int
	// ConnectsPerAddress is how many connections one address may open in a second once ConnectBurst, which it may open at once, is used up: 200 and
	// 10,000; 1 to 1,000,000.
	ConnectsPerAddress int
	ConnectBurst       int
	// Handshakes is how many connections may be on their way to an accepted CONNECT, TLS and WebSocket counted. Beyond, the oldest is closed,
	// of the newcomer's address if that has many: 8,192; 1 to 1,000,000.
	Handshakes int
	// ConnectionsPerDevice is how many connections a machine or gateway may have; the oldest makes room: 8; 1 to 1,000,000.
	ConnectionsPerDevice int
	// ConnectionsPerUser is how many connections any other identity may have; more are refused: 256; 1 to 1,000,000.
	ConnectionsPerUser int
	// SessionsPerIdentity is how many sessions are kept for clients of an identity, here or away; the one that left the longest ago makes room:
	// 32; 1 to 1,000,000.
	SessionsPerIdentity int
	// ConnectBytes is how long a CONNECT may be, all before the first byte is kept: 16,384; 1,024 to 262,144.
	ConnectBytes int
	// PacketBytes is how long any packet may be. A client that writes less is held to less, see packetBytes: 2 MiB; 1 MiB + 64 KiB to 16 MiB.
	PacketBytes int
	// Subscriptions is how many one client may have: 1,024; 1 to 65,535.
	Subscriptions int
	// Messages is how many packets an identity may send in a second, acknowledgements not counted, and Bytes how many bytes, a packet
	// counting as 64 at least; four seconds' worth at once. Beyond, it is read from more slowly. 1,000 and 4 MiB; 10 to 1,000,000, and 64 KiB to 256 MiB.
	Messages int
	Bytes    int
	// Heartbeats is how many of a machine count in a second; ten seconds' worth at once. What is beyond is dropped if its QoS is 0: 10; 1 to 100,000.
	Heartbeats int
	// SlowReader is for how long a client's queue may be full before the client is disconnected: 1 min; 1 s to 24 h.
	SlowReader time.Duration
	// RetainedPerGateway is how many retained messages the topics of one gateway may hold, and RetainedBytesPerGateway how many bytes, topics
	// counted: 70,000 and 512 MiB; 1 to 10,000,000, and 1 MiB to 1 TiB.
	RetainedPerGateway      int
	RetainedBytesPerGateway int64
	// RetainedBytes is how much may be retained of all topics before gateways may add no more: 4 GiB; 1 MiB to 16 TiB.
	RetainedBytes int64
}

// DefaultLimits are the limits of a broker that is told none.
func DefaultLimits() Limits {
	return Limits{
		ConnectionsPerAddress: 20_000, ConnectsPerAddress: 200, ConnectBurst: 10_000, Handshakes: 8_192,
		ConnectionsPerDevice: 8, ConnectionsPerUser: 256, SessionsPerIdentity: 32,
		ConnectBytes: 16 << 10, PacketBytes: 2 << 20, Subscriptions: 1_024,
		Messages: 1_000, Bytes: 4 << 20, Heartbeats: 10, SlowReader: time.Minute,
		RetainedPerGateway: 70_000, RetainedBytesPerGateway: 512 << 20, RetainedBytes: 4 << 30,
	}
}

// fill puts defaults where nothing is set, and says what is out of its range.
func (l *Limits) fill() error {
	d := DefaultLimits()
	for _, f := range []struct {
		name     string
		field    *int
		standard int
		min, max int
	}{
		{"connections per address", &l.ConnectionsPerAddress, d.ConnectionsPerAddress, 1, 1e6},
		{"connects per address", &l.ConnectsPerAddress, d.ConnectsPerAddress, 1, 1e6},
		{"connect burst", &l.ConnectBurst, d.ConnectBurst, 1, 1e6},
		{"handshakes", &l.Handshakes, d.Handshakes, 1, 1e6},
		{"connections per device", &l.ConnectionsPerDevice, d.ConnectionsPerDevice, 1, 1e6},
		{"connections per user", &l.ConnectionsPerUser, d.ConnectionsPerUser, 1, 1e6},
		{"sessions per identity", &l.SessionsPerIdentity, d.SessionsPerIdentity, 1, 1e6},
		{"CONNECT bytes", &l.ConnectBytes, d.ConnectBytes, 1 << 10, 256 << 10},
		{"packet bytes", &l.PacketBytes, d.PacketBytes, 1<<20 + 64<<10, 16 << 20},
		{"subscriptions", &l.Subscriptions, d.Subscriptions, 1, 65_535},
		{"messages", &l.Messages, d.Messages, 10, 1e6},
		{"bytes", &l.Bytes, d.Bytes, 64 << 10, 256 << 20},
		{"heartbeats", &l.Heartbeats, d.Heartbeats, 1, 100_000},
		{"retained per gateway", &l.RetainedPerGateway, d.RetainedPerGateway, 1, 1e7},
	} {
		if err := within(f.name, f.field, f.standard, f.min, f.max); err != nil {
			return err
		}
	}
	return errors.Join(
		within("retained bytes per gateway", &l.RetainedBytesPerGateway, d.RetainedBytesPerGateway, 1<<20, 1<<40),
		within("retained bytes", &l.RetainedBytes, d.RetainedBytes, 1<<20, 1<<44),
		within("slow readers", &l.SlowReader, d.SlowReader, time.Second, 24*time.Hour),
	)
}

func within[T int | int64 | time.Duration](name string, field *T, standard, low, high T) error {
	if *field == 0 {
		*field = standard
	}
	if *field < low || *field > high {
		return fmt.Errorf("limit of %s: %v, want %v to %v", name, *field, low, high)
	}
	return nil
}

// limit names one of the limits in metrics.
type limit int

const (
	limitClients limit = iota
	limitAddressConnections
	limitAddressConnects
	limitHandshakes
	limitIdentityConnections
	limitIdentityConnects
	limitPasswords
	limitSessions
	limitConnectBytes
	limitPacketBytes
	limitSubscriptions
	limitFilter
	limitPayload
	limitInflight
	limitPublishRate
	limitHeartbeats
	limitSlowReader
	limitRetainedGateway
	limitRetainedBytes
	limitCount
)

func (k limit) String() string {
	return [limitCount]string{
		"clients", "address_connections", "address_connects", "handshakes", "identity_connections", "identity_connects", "passwords", "sessions", "connect_bytes",
		"packet_bytes", "subscriptions", "filter", "payload", "inflight", "publish_rate", "heartbeats", "slow_reader", "retained_gateway", "retained_bytes",
	}[k]
}

// limits is what of a broker stands against its Limits.
type limits struct {
	Limits
	h        *hook
	met      [limitCount]atomic.Uint64
	door     door
	peers    peers
	loopback bool // bound loopback addresses as others, for tests

	checking chan struct{} // filled by password checks that take their time
	waiting  atomic.Int64  // connections that wait for one
}

func newLimits(h *hook, l Limits) *limits {
	n := &limits{Limits: l, h: h, checking: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))}
	n.door.init()
	n.peers.known = map[string]*peer{}
	return n
}

// hit counts that a limit was met, and logs it once per writer and minute.
func (l *limits) hit(k limit, who, what string, err error) {
	l.met[k].Add(1)
	l.h.refuse(who, what, err)
}

// Limited says how often each limit was met since the start, by its name. What was refused for it is among Stats.Refused..., too. On a healthy
// system all are 0.
func (b *Broker) Limited() map[string]uint64 {
	m := make(map[string]uint64, limitCount)
	for k := range limitCount {
		m[k.String()] = b.hook.limits.met[k].Load()
	}
	return m
}

// maxPasswordQueue is how many connections may wait for the check of a chosen password.
const maxPasswordQueue = 256

// identified calls identify. The check of a chosen password is slow on purpose: it gets half of the processors, lest strangers who guess take them all from
// the heartbeats. Made secrets, which devices have, do not wait.
func (l *limits) identified(c *conn, pk packets.Packet, identify func(*conn, packets.Packet) (topics.Identity, error)) (topics.Identity, error) {
	u := l.h.b.o.Users
	if c.known != nil || u == nil || !u.table.Load().slow(string(pk.Connect.Username)) {
		return identify(c, pk)
	}
	defer l.waiting.Add(-1)
	if l.waiting.Add(1) > maxPasswordQueue {
		l.met[limitPasswords].Add(1)
		return topics.Identity{}, busyf(packets.ErrServerBusy, "%d passwords wait to be checked; try again", maxPasswordQueue)
	}
	select {
	case l.checking <- struct{}{}:
	case <-c.gone:
		return topics.Identity{}, errors.New("it left before its password was checked")
	}
	defer func() { <-l.checking }()
	return identify(c, pk)
}

// busyError is why somebody is refused who may connect, and may at another time.
type busyError struct {
	error
	code packets.Code
}

func busyf(code packets.Code, format string, args ...any) error {
	return busyError{fmt.Errorf(format, args...), code}
}

// turnAway tells a client that is refused for a limit so: Mochi would say that its password is wrong.
func (h *hook) turnAway(c *conn, cl *mqtt.Client, err error) {
	var busy busyError
	if !errors.As(err, &busy) {
		return
	}
	if cl.Properties.ProtocolVersion < 5 {
		busy.code = packets.ErrServerUnavailable
	}
	_ = h.b.server.SendConnack(cl, busy.code, false, nil) // it is closed whether it hears that or not
	c.closeFor(err.Error())
}

// packetBytes is how long a packet of an identity may be: as long as its largest message, or a SUBSCRIBE with all that one may have.
func (l *limits) packetBytes(role topics.Role) int {
	most := l.Subscriptions * (topics.MaxTopic + 3)
	for _, s := range topics.Specs() {
		if slices.Contains(s.Writers, role) {
			most = max(most, s.MaxBytes)
		}
	}
	return min(most+64<<10, l.PacketBytes) // properties and the topic
}

// checkSubscribe refuses a filter that is longer or deeper than any topic, and one too many. A filter that the client has already is none too many.
func (l *limits) checkSubscribe(have int, exists bool, filter string) error {
	// One level more than the deepest topic: a filter that ends with # matches the level above, too.
	deepest := strings.Count(l.h.b.o.Tree.Root(), "/") + topics.MaxLevels + 1
	switch levels := strings.Count(filter, "/") + 1; {
	case len(filter) > topics.MaxTopic || levels > deepest:
		l.met[limitFilter].Add(1)
		return fmt.Errorf("filter of %d bytes and %d levels: at most %d and %d", len(filter), levels, topics.MaxTopic, deepest)
	case have >= l.Subscriptions && !exists:
		l.met[limitSubscriptions].Add(1)
		return fmt.Errorf("filter %q: there are %d subscriptions; take wider ones", filter, l.Subscriptions)
	}
	return nil
}
