package broker_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/farebeat/farebeat/broker"
)

// street is a town whose broker listens in all ways.
type street struct {
	town
	client *tls.Config
}

var ways = []string{"tcp", "tls", "ws", "wss"}

func newStreet(t *testing.T, n int, o broker.Options) street {
	t.Helper()
	cert := certificate(t, x509.Certificate{
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}, true)
	for _, kind := range ways {
		l := broker.Listener{Name: kind, Kind: kind, Address: "127.0.0.1:0"}
		if kind == "tls" || kind == "wss" {
			l.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
		}
		o.Listeners = append(o.Listeners, l)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert.Leaf)
	return street{newTown(t, n, o), &tls.Config{RootCAs: roots, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS12}}
}

// outside opens the bare connection of a way in, and inside what MQTT is spoken over.
func (s street) outside(kind string) (net.Conn, error) { return net.Dial("tcp", s.Addr(kind)) }

func (s street) inside(kind string) (net.Conn, error) {
	switch kind {
	case "tcp":
		return s.outside(kind)
	case "tls":
		return tls.Dial("tcp", s.Addr(kind), s.client)
	}
	d := websocket.Dialer{Subprotocols: []string{"mqtt"}, TLSClientConfig: s.client}
	ws, resp, err := d.Dial(kind+"://"+s.Addr(kind), nil)
	if resp != nil {
		resp.Body.Close()
	}
	if err != nil {
		return nil, err
	}
	return &webClient{Conn: ws}, nil
}

// packet is a proper packet, to be spoilt.
func (s street) packet(rng *rand.Rand, user string, version byte) []byte {
	var b bytes.Buffer
	pk := packets.Packet{ProtocolVersion: version, PacketID: uint16(1 + rng.IntN(100))}
	switch pk.FixedHeader.Qos = 1; rng.IntN(6) {
	case 0:
		pk.FixedHeader.Type, pk.Filters = packets.Subscribe, packets.Subscriptions{{Filter: root + "vehicle/#", Qos: 1}, {Filter: root + "fleet", Qos: 1}}
		_ = pk.SubscribeEncode(&b) // what comes of it is garbage anyway, here and below
	case 1:
		pk.FixedHeader.Type, pk.Filters = packets.Unsubscribe, packets.Subscriptions{{Filter: root + "vehicle/#"}}
		_ = pk.UnsubscribeEncode(&b)
	case 2:
		pk.FixedHeader.Type, pk.FixedHeader.Retain = packets.Publish, true
		pk.TopicName, pk.Payload = root+"vehicle/"+user+"/gateway", []byte(`{"state":"ONLINE"}`)
		pk.Properties.User = []packets.UserProperty{{Key: "k", Val: "v"}}
		_ = pk.PublishEncode(&b)
	case 3:
		pk.FixedHeader.Type = packets.Puback
		_ = pk.PubackEncode(&b)
	case 4:
		pk.FixedHeader.Type, pk.FixedHeader.Qos = packets.Disconnect, 0
		_ = pk.DisconnectEncode(&b)
	default:
		b.Write(s.connect(rng, user, version))
	}
	return b.Bytes()
}

func (s street) connect(rng *rand.Rand, user string, version byte) []byte {
	var b bytes.Buffer
	pk := packets.Packet{ProtocolVersion: version, FixedHeader: packets.FixedHeader{Type: packets.Connect}, Connect: packets.ConnectParams{
		ProtocolName: []byte("MQTT"), Clean: rng.IntN(2) == 0, ClientIdentifier: fmt.Sprint("g", rng.IntN(20)), Keepalive: 5,
		UsernameFlag: true, Username: []byte(user), PasswordFlag: true, Password: []byte(s.secret),
	}}
	_ = pk.ConnectEncode(&b)
	return b.Bytes()
}

// spoil changes a few bytes, or cuts the end off.
func spoil(rng *rand.Rand, b []byte) []byte {
	b = slices.Clone(b)
	if rng.IntN(3) == 0 {
		return b[:rng.IntN(len(b))]
	}
	for range 1 + rng.IntN(3) {
		b[rng.IntN(len(b))] = byte(rng.Uint32())
	}
	return b
}

func noise(rng *rand.Rand, n int) []byte {
	b := make([]byte, 1+rng.IntN(n))
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// say writes and then listens for a moment, so that an answer is not in the way.
func say(c net.Conn, b []byte) error {
	if _, err := c.Write(b); err != nil {
		return err
	}
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	_, err := io.Copy(io.Discard, io.LimitReader(c, 4096))
	return err
}

// kinds of garbage. Each gets a new connection and may hang on it until ctx ends.
var garbage = map[string]struct {
	inside bool
	throw  func(ctx context.Context, s street, rng *rand.Rand, c net.Conn)
}{
	"random bytes":         {false, func(_ context.Context, _ street, rng *rand.Rand, c net.Conn) { _ = say(c, noise(rng, 5_000)) }},
	"random bytes inside":  {true, func(_ context.Context, _ street, rng *rand.Rand, c net.Conn) { _ = say(c, noise(rng, 5_000)) }},
	"connect and go":       {false, func(context.Context, street, *rand.Rand, net.Conn) {}},
	"half a TLS handshake": {false, halfTLS},
	"a cut off CONNECT":    {true, cutConnect},
	"a huge CONNECT": {true, func(_ context.Context, _ street, _ *rand.Rand, c net.Conn) {
		_ = say(c, []byte{0x10, 0xff, 0xff, 0xff, 0x7f})
	}},
	"an endless length": {true, func(_ context.Context, _ street, _ *rand.Rand, c net.Conn) {
		_ = say(c, bytes.Repeat([]byte{0x90}, 4_000))
	}},
	"a huge packet":          {true, hugePacket},
	"HTTP requests":          {false, httpRequests},
	"HTTP requests inside":   {true, httpRequests},
	"one byte at a time":     {true, slowLoris},
	"HTTP, a byte at a time": {false, slowLoris},
	"spoilt packets":         {true, spoiltPackets},
}

func halfTLS(ctx context.Context, s street, rng *rand.Rand, c net.Conn) {
	near, far := net.Pipe()
	go func() { _ = tls.Client(near, s.client).HandshakeContext(ctx) }()
	defer near.Close()
	hello := make([]byte, 4096)
	n, err := far.Read(hello)
	if err != nil {
		return
	}
	if _, err := c.Write(hello[:1+rng.IntN(n)]); err != nil {
		return
	}
	hang(ctx, rng)
}

// hang waits for up to a second.
func hang(ctx context.Context, rng *rand.Rand) {
	select {
	case <-time.After(time.Duration(rng.IntN(1_000)) * time.Millisecond):
	case <-ctx.Done():
	}
}

func cutConnect(ctx context.Context, s street, rng *rand.Rand, c net.Conn) {
	b := s.connect(rng, "ann", 4+byte(rng.IntN(2)))
	if _, err := c.Write(b[:1+rng.IntN(len(b)-1)]); err == nil && rng.IntN(2) == 0 {
		hang(ctx, rng)
	}
}

func hugePacket(_ context.Context, s street, rng *rand.Rand, c net.Conn) {
	if _, err := c.Write(s.connect(rng, "ann", 4)); err == nil {
		_ = say(c, append([]byte{byte(rng.IntN(16)) << 4, 0xff, 0xff, 0xff, 0x7f}, noise(rng, 5_000)...))
	}
}

func httpRequests(_ context.Context, _ street, rng *rand.Rand, c net.Conn) {
	_ = say(c, []byte([]string{
		"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "POST /mqtt HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nabc",
		"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "CONNECT 127.0.0.1:1 HTTP/1.0\r\n\r\n",
	}[rng.IntN(5)]))
}

func slowLoris(ctx context.Context, s street, rng *rand.Rand, c net.Conn) {
	b := s.connect(rng, "ann", 4)
	if _, web := c.(*webClient); !web && rng.IntN(2) == 0 {
		b = []byte("GET / HTTP/1.1\r\nHost: x\r\nX: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n")
	}
	for i := 0; i < len(b) && ctx.Err() == nil; i++ {
		if _, err := c.Write(b[i : i+1]); err != nil {
			return
		}
		hang(ctx, rng)
	}
}

func spoiltPackets(ctx context.Context, s street, rng *rand.Rand, c net.Conn) {
	user := []string{"ann", "v1", "v2"}[rng.IntN(3)]
	version := 4 + byte(rng.IntN(2))
	first := s.connect(rng, user, version)
	if rng.IntN(3) == 0 {
		first = spoil(rng, first)
	}
	if say(c, first) == nil {
		return
	}
	for range 20 {
		b := s.packet(rng, user, version)
		if rng.IntN(2) == 0 {
			b = spoil(rng, b)
		}
		if _, err := c.Write(b); err != nil || ctx.Err() != nil {
			return
		}
	}
	_ = say(c, []byte{0xc0, 0})
}

// throwers throw garbage at every way in until ctx ends, and count by kind.
func throwers(ctx context.Context, s street, each int) (thrown map[string]*atomic.Int64, wait func()) {
	var wg sync.WaitGroup
	thrown = map[string]*atomic.Int64{}
	seed := uint64(0)
	for name, g := range garbage {
		count := &atomic.Int64{}
		thrown[name] = count
		for _, kind := range ways {
			for range each {
				seed++
				rng := rand.New(rand.NewPCG(seed, 1))
				open := s.outside
				if g.inside {
					open = s.inside
				}
				wg.Go(func() {
					for ctx.Err() == nil {
						c, err := open(kind)
						if err != nil {
							continue // pushed out: the next one
						}
						stop := context.AfterFunc(ctx, func() { c.Close() })
						g.throw(ctx, s, rng, c)
						c.Close()
						stop()
						count.Add(1)
					}
				})
			}
		}
	}
	return thrown, wg.Wait
}

// Raw garbage on every listener, inside and outside of TLS and WebSocket, while 1,000 machines send heartbeats: none is missed, and no machine loses its
// connection. It takes 3 s, or as long as FAREBEAT_GARBAGE says, such as 60s.
func TestGarbageOnEveryListener(t *testing.T) {
	const n = 1_000
	length := 3 * time.Second
	if v := os.Getenv("FAREBEAT_GARBAGE"); v != "" {
		var err error
		if length, err = time.ParseDuration(v); err != nil {
			t.Fatalf("FAREBEAT_GARBAGE: %v", err)
		}
	}
	tap := &beatTap{n: map[string]int{}}
	// Those who spoil packets come often: they are let in, so that the packets get further.
	s := newStreet(t, n, broker.Options{Tap: tap, Limits: broker.Limits{ConnectionsPerUser: 10_000, ConnectionsPerDevice: 10_000}})
	list := make([]*raw, n)
	for i := range list {
		c, err := s.inside(ways[i%len(ways)])
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		var code byte
		if list[i], code = join(t, c, connect{id: "x", user: fmt.Sprint("m", i), password: s.secret}); code != 0 {
			t.Fatalf("machine %d is refused with %d", i, code)
		}
	}
	ctx, stop := context.WithTimeout(t.Context(), length)
	defer stop()
	thrown, wait := throwers(ctx, s, 2)
	rounds := 0
	for tick := time.NewTicker(time.Second); ctx.Err() == nil; rounds++ {
		for i, r := range list {
			if err := r.publish(pub{topic: fmt.Sprint(root, "machine/m", i, "/heartbeat"), payload: "{}"}); err != nil {
				t.Fatalf("machine %d: %v", i, err)
			}
		}
		<-tick.C
	}
	wait()
	for _, r := range list {
		r.ping() // all before it was dealt with, on this very connection
	}
	missed := 0
	for i := range n {
		missed += rounds - tap.n[fmt.Sprint("m", i)]
	}
	if missed != 0 {
		t.Errorf("%d heartbeats of %d are missing", missed, rounds*n)
	}
	until(t, "only the machines are left", func() bool { return s.Open() == n })
	report(t, s, thrown, tap, rounds)
}

func report(t *testing.T, s street, thrown map[string]*atomic.Int64, tap *beatTap, rounds int) {
	t.Helper()
	total := int64(0)
	for _, name := range slices.Sorted(maps.Keys(thrown)) {
		if thrown[name].Load() == 0 {
			t.Errorf("nothing was thrown of %s", name)
		}
		total += thrown[name].Load()
		t.Logf("%s: %d", name, thrown[name].Load())
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	st := s.Stats()
	t.Logf("%d connections with garbage, %d rounds, %d heartbeats taken; refused: %d connects, %d forms, %d writes, %d reads; %d MiB of heap in use",
		total, rounds, tap.total.Load(), st.RefusedConnect, st.RefusedForm, st.RefusedWrite, st.RefusedRead, m.HeapInuse>>20)
	t.Logf("limits met: %v", s.Limited())
}
