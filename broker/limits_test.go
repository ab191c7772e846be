package broker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/farebeat/farebeat/broker"
	"github.com/farebeat/farebeat/topics"
)

// town is a broker on TCP with n machines, two gateways, a viewer and somebody of the fleet, who all have one secret.
type town struct {
	*broker.Broker
	secret string
	log    *warnings
}

// warnings is a log whose warnings are kept.
type warnings struct {
	mu   sync.Mutex
	list []string
}

func (l *warnings) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }
func (l *warnings) WithAttrs([]slog.Attr) slog.Handler               { return l }
func (l *warnings) WithGroup(string) slog.Handler                    { return l }
func (l *warnings) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, r.Message)
	return nil
}

func (l *warnings) any() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.list) > 0
}

func newTown(t testing.TB, n int, o broker.Options, before ...func(*broker.Broker)) town {
	t.Helper()
	secret, hash := broker.NewSecret()
	list := []broker.User{
		{Name: "v1", Role: topics.RoleGateway, ID: "v1", Hash: hash},
		{Name: "v2", Role: topics.RoleGateway, ID: "v2", Hash: hash},
		{Name: "ann", Role: topics.RoleViewer, Hash: hash},
		{Name: "fleet", Role: topics.RoleFleet, Hash: hash},
	}
	for i := range n {
		id := fmt.Sprint("m", i)
		list = append(list, broker.User{Name: id, Role: topics.RoleMachine, ID: id, Hash: hash})
	}
	var err error
	if o.Users, err = broker.NewUsers(list); err != nil {
		t.Fatal(err)
	}
	if o.Listeners == nil {
		o.Listeners = []broker.Listener{{Name: "tcp", Kind: "tcp", Address: "127.0.0.1:0"}}
	}
	o.Tree = tampa(t)
	log := &warnings{}
	o.Logger = slog.New(log)
	b, err := broker.New(o)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range before {
		f(b)
	}
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeBroker(t, b) })
	return town{b, secret, log}
}

// join connects a user under a client id and returns the reason code.
func (w town) join(t testing.TB, user string, o connect) (*raw, byte) {
	t.Helper()
	o.user, o.password = user, w.secret
	return join(t, tcp(t, w.Broker, "tcp"), o)
}

// in is join for who is let in.
func (w town) in(t testing.TB, user string, o connect) *raw {
	t.Helper()
	r, code := w.join(t, user, o)
	if code != 0 {
		t.Fatalf("%s is refused with %d", user, code)
	}
	return r
}

// met wants limits to have been met so often, and no others; and that whoever looks after the broker was told.
func (w town) met(t testing.TB, want map[string]uint64) {
	t.Helper()
	got := w.Limited()
	for k, n := range got {
		if n == 0 {
			delete(got, k)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("limits met: %s", diff)
	}
	if len(want) > 0 && !w.log.any() {
		t.Errorf("nothing stands in the log of %v", want)
	}
}

// until waits for something that another goroutine does. The test's own deadline bounds it.
func until(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not within a minute: ", what)
		}
	}
}

// closed waits until the broker has closed a connection.
func closed(t testing.TB, c net.Conn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := io.Copy(io.Discard, c); isTimeout(err) {
		t.Fatal("still open after a minute")
	}
}

func TestLimitsAreChecked(t *testing.T) {
	for want, l := range map[string]broker.Limits{
		"broker: limit of packet bytes: 1048576, want 1114112 to 16777216":   {PacketBytes: 1 << 20},
		"broker: limit of connections per device: -1, want 1 to 1000000":     {ConnectionsPerDevice: -1},
		"broker: limit of slow readers: 1ms, want 1s to 24h0m0s":             {SlowReader: time.Millisecond},
		"broker: limit of retained bytes: 1, want 1048576 to 17592186044416": {RetainedBytes: 1},
	} {
		if _, err := broker.New(broker.Options{Tree: tampa(t), Limits: l}); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func TestConnectionsPerAddress(t *testing.T) {
	w := newTown(t, 4, broker.Options{Limits: broker.Limits{ConnectionsPerAddress: 3}}, (*broker.Broker).BoundLoopback)
	var list []*raw
	for i := range 3 {
		list = append(list, w.in(t, fmt.Sprint("m", i), connect{id: "x"}))
	}
	if c, err := net.Dial("tcp", w.Addr("tcp")); err == nil { // it may be reset before Dial sees it
		closed(t, c)
		c.Close()
	}
	until(t, "it is counted", func() bool { return w.Limited()["address_connections"] > 0 })
	w.met(t, map[string]uint64{"address_connections": 1})
	if n := w.Stats().RefusedConnect; n != 1 {
		t.Errorf("%d refused connections are counted", n)
	}
	list[0].bye()
	until(t, "the end of a connection makes room", func() bool { return w.Open() == 2 })
	w.in(t, "m3", connect{id: "x"})
}

func TestConnectsPerAddress(t *testing.T) {
	w := newTown(t, 1, broker.Options{Limits: broker.Limits{ConnectBurst: 5, ConnectsPerAddress: 1}}, (*broker.Broker).BoundLoopback)
	first := w.in(t, "m0", connect{id: "x"})
	for w.Limited()["address_connects"] == 0 {
		if c, err := net.Dial("tcp", w.Addr("tcp")); err == nil { // it may be reset before Dial sees it
			c.Close()
		}
	}
	first.ping() // who is in stays
}

// Whoever is on the way to CONNECT and takes long makes room for those who do not.
func TestHandshakesInProgress(t *testing.T) {
	w := newTown(t, 1, broker.Options{Limits: broker.Limits{Handshakes: 4}})
	var silent []net.Conn
	for i := range 4 {
		silent = append(silent, tcp(t, w.Broker, "tcp"))
		until(t, "it is accepted", func() bool { return w.Open() == i+1 })
	}
	r := w.in(t, "m0", connect{id: "x"})
	closed(t, silent[0])
	w.met(t, map[string]uint64{"handshakes": 1})
	w.in(t, "v1", connect{id: "x"}) // for the first has arrived
	w.met(t, map[string]uint64{"handshakes": 1})
	r.ping()
}

func TestConnectionsPerIdentity(t *testing.T) {
	w := newTown(t, 1, broker.Options{Limits: broker.Limits{ConnectionsPerDevice: 2, ConnectionsPerUser: 2}})
	oldest := w.in(t, "m0", connect{id: "a"})
	kept := w.in(t, "m0", connect{id: "b"})
	newest := w.in(t, "m0", connect{id: "c"}) // a device does not lock itself out
	closed(t, oldest.net)
	kept.ping()
	newest.ping()
	w.met(t, map[string]uint64{"identity_connections": 1})

	w.in(t, "ann", connect{id: "a"})
	w.in(t, "ann", connect{id: "b"})
	for version, want := range map[byte]byte{4: 3, 5: packets.ErrQuotaExceeded.Code} { // not that the password is wrong
		if _, code := w.join(t, "ann", connect{id: "c", version: version}); code != want {
			t.Errorf("a third connection of a user is answered with %#x, want %#x", code, want)
		}
	}
	w.in(t, "ann", connect{id: "b"}) // takes the place of one
	w.met(t, map[string]uint64{"identity_connections": 3})
	for i := range 5 {
		w.in(t, "fleet", connect{id: fmt.Sprint(i)})
	}
}

func TestConnectsPerIdentity(t *testing.T) {
	w := newTown(t, 2, broker.Options{Limits: broker.Limits{ConnectionsPerDevice: 1}})
	for w.Limited()["identity_connects"] == 0 {
		r, code := w.join(t, "m0", connect{id: "x"})
		if refused := w.Limited()["identity_connects"] > 0; refused != (code != 0) {
			t.Fatalf("return code %d, counted %t", code, refused)
		}
		r.net.Close()
	}
	w.in(t, "m1", connect{id: "x"})
}

func TestAllClients(t *testing.T) {
	w := newTown(t, 2, broker.Options{MaxClients: 1})
	w.in(t, "m0", connect{id: "x"})
	if _, code := w.join(t, "m1", connect{id: "x"}); code != 3 {
		t.Errorf("return code %d, want 3: the server is unavailable", code)
	}
	until(t, "counted", func() bool { return w.Limited()["clients"] == 1 && w.Stats().RefusedConnect == 1 })
}

// header is the fixed header of a packet.
func header(first byte, length int) []byte {
	b := []byte{first}
	for {
		d := byte(length & 0x7f)
		if length >>= 7; length == 0 {
			return append(b, d)
		}
		b = append(b, d|0x80)
	}
}

// The broker makes no room for a packet that is too long: it ends the connection at the length.
func TestPacketBytes(t *testing.T) {
	w := newTown(t, 1, broker.Options{Listeners: []broker.Listener{{Name: "tcp", Kind: "tcp", Address: "127.0.0.1:0"}, {Name: "ws", Kind: "ws", Address: "127.0.0.1:0"}}})
	for _, c := range []net.Conn{tcp(t, w.Broker, "tcp"), web(t, "ws://"+w.Addr("ws"))} {
		if _, err := c.Write(header(0x10, 16<<10+1)); err != nil {
			t.Fatal(err)
		}
		closed(t, c)
	}
	until(t, "counted and told", func() bool { return w.Stats().RefusedConnect == 2 && w.log.any() })
	w.met(t, map[string]uint64{"connect_bytes": 2})

	m := w.in(t, "m0", connect{id: "x", version: 5})
	if _, err := m.net.Write(header(0x30, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if pk, err := m.read(); err != nil || pk.FixedHeader.Type != packets.Disconnect || pk.ReasonCode != packets.ErrPacketTooLarge.Code {
		t.Errorf("%v %#x, %v, want DISCONNECT 0x95", pk.FixedHeader.Type, pk.ReasonCode, err)
	}
	closed(t, m.net)
	w.met(t, map[string]uint64{"connect_bytes": 2, "packet_bytes": 1})

	g := w.in(t, "v1", connect{id: "x"})
	g.mustPublish(pub{root + "vehicle/v1/transactions/m/1-1-200", strings.Repeat("x", 1<<20), 1, true})
	g.mustPublish(pub{root + "vehicle/v1/gateway", strings.Repeat("x", 65536), 1, true})
	if err := g.publish(pub{root + "vehicle/v1/gateway", strings.Repeat("x", 65537), 1, true}); err != nil {
		t.Fatal(err)
	}
	closed(t, g.net)
	w.met(t, map[string]uint64{"connect_bytes": 2, "packet_bytes": 1, "payload": 1})
}

// Who says something that is no CONNECT is counted; who says nothing is a probe.
func TestStrangersAreCounted(t *testing.T) {
	w := newTown(t, 0, broker.Options{})
	tcp(t, w.Broker, "tcp").Close()
	for n, said := range [][]byte{[]byte("GET / HTTP/1.1\r\n\r\n"), {0x10, 0xff, 0xff, 0xff, 0xff, 0x01}, {0x10, 2, 0, 4}, {0xc0, 0}} {
		c := tcp(t, w.Broker, "tcp")
		if _, err := c.Write(said); err != nil {
			t.Fatal(err)
		}
		closed(t, c)
		until(t, fmt.Sprintf("counted %q", said), func() bool { return w.Stats().RefusedConnect == uint64(n+1) })
	}
	w.met(t, map[string]uint64{})
}

func TestSubscriptionsAndFilters(t *testing.T) {
	w := newTown(t, 0, broker.Options{Limits: broker.Limits{Subscriptions: 3}})
	r := w.in(t, "ann", connect{id: "x"})
	codes, _ := r.subscribe(1, root+"a", root+"b", root+"c", root+"d", root+"a", root+strings.Repeat("+/", 8)+"#", root+strings.Repeat("+/", 9)+"#", root+strings.Repeat("x", 256))
	if want := []byte{1, 1, 1, 0x80, 1, 0x80, 0x80, 0x80}; !bytes.Equal(codes, want) {
		t.Errorf("SUBACK %#x, want %#x", codes, want)
	}
	w.met(t, map[string]uint64{"subscriptions": 2, "filter": 2})
	r.unsubscribe(root + "a")
	if codes, _ := r.subscribe(1, root+strings.Repeat("+/", 8)+"#"); codes[0] != 1 {
		t.Errorf("the deepest filter is refused with %#x", codes[0])
	}
}

// A publisher that is too fast is read from more slowly. Nothing of it is lost, and others are not slowed down.
func TestPublishRate(t *testing.T) {
	const n = 300 // beyond the 200 that may come at once, by more than a slow computer is allowed meanwhile
	tap := &countingTap{}
	w := newTown(t, 2, broker.Options{Tap: tap, Limits: broker.Limits{Messages: 50}})
	r, other := w.in(t, "m0", connect{id: "x"}), w.in(t, "m1", connect{id: "x"})
	go func() {
		for range n {
			if r.publish(pub{root + "machine/m0/heartbeat", "{}", 1, false}) != nil {
				return
			}
		}
	}()
	for i := range n {
		if pk, err := r.read(); err != nil || pk.FixedHeader.Type != packets.Puback {
			t.Fatalf("acknowledgement %d: %v %v", i, pk.FixedHeader.Type, err)
		}
	}
	other.ping()
	if got := tap.n.Load(); got != n {
		t.Errorf("%d of %d", got, n)
	}
	if l := w.Limited(); l["publish_rate"] == 0 || l["heartbeats"] != 0 {
		t.Errorf("limits met: %v", l)
	}
}

func TestHeartbeatFlood(t *testing.T) {
	const n = 2_000
	tap := &countingTap{}
	w := newTown(t, 1, broker.Options{Tap: tap})
	r := w.in(t, "m0", connect{id: "x"})
	for range n {
		if err := r.publish(pub{topic: root + "machine/m0/heartbeat", payload: "{}"}); err != nil {
			t.Fatal(err)
		}
	}
	r.ping()
	got, dropped := tap.n.Load(), w.Limited()["heartbeats"]
	if got < 100 || dropped == 0 || uint64(got)+dropped != n || w.Stats().Heartbeats != uint64(got) {
		t.Errorf("%d heartbeats taken and %d dropped of %d", got, dropped, n)
	}
}

// A client that reads nothing is disconnected once its queue was full for a minute; one that is full for less is not.
func TestSlowReaderIsDisconnected(t *testing.T) {
	inBubble(t, broker.Options{}, func(t *testing.T, b *broker.Broker) {
		stuck := dial(t, b, viewerID, connect{id: "stuck"})
		stuck.subscribe(1, root+"machine/#")
		retain(t, b, 16_384+100, "1")
		time.Sleep(59 * time.Second)
		retain(t, b, 1, "2")
		synctest.Wait()
		if n := b.Limited()["slow_reader"]; n != 0 || b.Stats().Clients != 1 {
			t.Errorf("after 59 s: %d disconnected, %d clients", n, b.Stats().Clients)
		}
		time.Sleep(2 * time.Second)
		retain(t, b, 2, "3")
		time.Sleep(2 * time.Second)
		if n := b.Limited()["slow_reader"]; n != 1 || b.Stats().Clients != 0 {
			t.Errorf("after 61 s: %d disconnected, %d clients", n, b.Stats().Clients)
		}
	})
}

func TestSessionsPerIdentity(t *testing.T) {
	w := newTown(t, 2, broker.Options{Limits: broker.Limits{SessionsPerIdentity: 2}})
	session := func(user, id string) bool {
		r, present, code := connectRaw(t, tcp(t, w.Broker, "tcp"), connect{id: id, user: user, password: w.secret, keep: true})
		if code != 0 {
			t.Fatalf("refused with %d", code)
		}
		r.bye()
		until(t, "it has left", func() bool { return w.Open() == 0 })
		return present
	}
	session("m1", "other")
	for i := range 10 {
		if session("m0", fmt.Sprint("invented-", i)) {
			t.Error("a session of nobody")
		}
	}
	w.met(t, map[string]uint64{"sessions": 8})
	for id, want := range map[string]bool{"invented-8": true, "invented-9": true} {
		if session("m0", id) != want {
			t.Errorf("the session %s is there: %t", id, !want)
		}
	}
	if session("m0", "invented-0") || !session("m1", "other") {
		t.Error("the wrong sessions were dropped")
	}
}

// Mochi's decoder panics for this packet. It ends the connection as any broken line does, and nothing else.
func TestPacketThatPanicsMochi(t *testing.T) {
	var tap notes
	inBubble(t, broker.Options{Tap: &tap}, func(t *testing.T, b *broker.Broker) {
		reader := dial(t, b, viewerID, connect{id: "r"})
		reader.subscribe(1, root+"vehicle/v1/gateway")
		g := dial(t, b, gatewayID("v1"), connect{id: "g", version: 5, will: &will{root + "vehicle/v1/gateway", "dead", 1, true}})
		m := dial(t, b, machineID("m1"), connect{id: "m", version: 5})
		cutOff := []byte{0x82, 6, 0, 1, 0, 0, 1, 'a'}
		for _, r := range []*raw{g, m} {
			if _, err := r.net.Write(cutOff); err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, r.in); err != nil && !errors.Is(err, io.ErrClosedPipe) {
				t.Error(err)
			}
		}
		synctest.Wait()
		reader.expect("vehicle/v1/gateway=dead")
		if s := b.Stats(); s.Clients != 1 || s.RefusedForm != 2 {
			t.Errorf("stats %+v", s)
		}
		tap.mu.Lock()
		defer tap.mu.Unlock()
		if len(tap.lines) != 2 || !strings.HasPrefix(tap.lines[1], "down m1: malformed packet") {
			t.Errorf("the tap saw %q", tap.lines)
		}
	})
}

// A publisher of which more publishes wait for the disk than one may have waits, and is counted.
func TestInflightIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		withStore(t, filepath.Join(t.TempDir(), "broker.db"), broker.Options{}, func(b *broker.Broker, d *disk) {
			d.set(errNoSpace)
			f := dial(t, b, fleetID, connect{id: "f"})
			go func() {
				for range 1_030 {
					if f.publish(pub{root + "fleet", "{}", 1, true}) != nil {
						return
					}
				}
			}()
			synctest.Wait()
			if n := b.Limited()["inflight"]; n != 1 {
				t.Errorf("counted %d", n)
			}
			d.set(nil)
		})
	})
}

// Frames of a WebSocket that bring nothing are work, too: a stranger may send a few, and a client pays for them.
func TestEmptyFrames(t *testing.T) {
	w := newTown(t, 1, broker.Options{Limits: broker.Limits{Messages: 50}, Listeners: []broker.Listener{{Name: "ws", Kind: "ws", Address: "127.0.0.1:0"}}})
	for name, kind := range map[string]int{"messages": websocket.BinaryMessage, "pings": websocket.PingMessage} {
		stranger := web(t, "ws://"+w.Addr("ws"))
		for range 65 {
			if stranger.(*webClient).WriteMessage(kind, nil) != nil {
				break
			}
		}
		closed(t, stranger)
		c := web(t, "ws://"+w.Addr("ws"))
		r, code := join(t, c, connect{id: name, user: "m0", password: w.secret})
		if code != 0 {
			t.Fatalf("refused with %d", code)
		}
		before := w.Limited()["publish_rate"]
		for range 300 {
			if err := c.(*webClient).WriteMessage(kind, nil); err != nil {
				t.Fatal(err)
			}
		}
		r.ping()
		if w.Limited()["publish_rate"] == before {
			t.Errorf("%s: it was not slowed down", name)
		}
	}
}
