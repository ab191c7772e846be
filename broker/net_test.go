package broker_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/farebeat/farebeat/broker"
	"github.com/farebeat/farebeat/topics"
	"github.com/farebeat/farebeat/topics/session"
)

func tcp(t testing.TB, b *broker.Broker, name string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", b.Addr(name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestPasswordsOverTheNetwork(t *testing.T) {
	secret, hash := broker.NewSecret()
	bcrypted, err := broker.HashPassword("correct horse")
	if err != nil {
		t.Fatal(err)
	}
	users, err := broker.NewUsers([]broker.User{
		{Name: "box", Role: topics.RoleMachine, ID: "m1", Hash: hash},
		{Name: "ann", Role: topics.RoleViewer, Hash: bcrypted},
		{Name: "sim", Role: topics.RoleSimulator, Hash: hash},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, allow := range []bool{false, true} {
		b := start(t, broker.Options{Users: users, AllowSimulator: allow, Listeners: []broker.Listener{
			{Name: "tcp", Kind: "tcp", Address: "127.0.0.1:0"},
			{Name: "ws", Kind: "ws", Address: "127.0.0.1:0"},
			{Name: "open", Kind: "tcp", Address: "127.0.0.1:0", AnonymousReaders: true},
			{Name: "open-ws", Kind: "ws", Address: "localhost:0", AnonymousReaders: true},
		}})
		for _, c := range []struct {
			user, password string
			want           map[string]bool
		}{
			{"box", secret, map[string]bool{"tcp": true, "ws": true, "open": true, "open-ws": true}},
			{"ann", "correct horse", map[string]bool{"tcp": true, "ws": true, "open": true, "open-ws": true}},
			{"ann", "wrong", nil},
			{"box", "", nil},
			{"nobody", "x", nil},
			{"sim", secret, map[string]bool{"tcp": allow, "ws": allow, "open": allow, "open-ws": allow}},
			{"", "", map[string]bool{"open": true, "open-ws": true}},
		} {
			for name, scheme := range map[string]string{"tcp": "tcp", "ws": "ws", "open": "tcp", "open-ws": "ws"} {
				before := b.Stats().RefusedConnect
				up := connects(t, session.Options{
					ClientID: "x", Username: c.user, Password: c.password, CleanSession: true, Servers: []string{scheme + "://" + b.Addr(name)},
				})
				if up != c.want[name] {
					t.Errorf("allow simulator %t: user %q, password %.8q, %s: connected %t", allow, c.user, c.password, name, up)
				}
				if refused := b.Stats().RefusedConnect > before; refused == up {
					t.Errorf("user %q, %s: connected %t, counted as refused %t", c.user, name, up, refused)
				}
			}
		}
	}
}

// notConnected ends a session that was refused once: it is logged then.
type notConnected struct {
	slog.Handler
	end func()
}

func (n notConnected) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }
func (n notConnected) Handle(context.Context, slog.Record) error    { n.end(); return nil }

// connects reports whether the session comes up at its first attempt.
func connects(t *testing.T, o session.Options) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var up atomic.Bool
	o.Up = func() { up.Store(true); cancel() }
	o.Logger = slog.New(notConnected{slog.DiscardHandler, cancel})
	s, err := session.New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(ctx); err != nil {
		t.Fatal(err)
	}
	return up.Load()
}

func TestListenerErrors(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for name, c := range map[string]struct {
		l    broker.Listener
		want string
	}{
		"kind":          {broker.Listener{Kind: "udp", Address: "127.0.0.1:0"}, `broker: listener "x": kind "udp": want tcp, tls, ws or wss`},
		"certificate":   {broker.Listener{Kind: "wss", Address: "127.0.0.1:0"}, `broker: listener "x": a certificate is required`},
		"anonymous":     {broker.Listener{Kind: "ws", Address: "0.0.0.0:0", AnonymousReaders: true}, `broker: listener "x": anonymous readers are admitted on a loopback address only, not on "0.0.0.0:0"`},
		"anonymous any": {broker.Listener{Kind: "tcp", Address: ":0", AnonymousReaders: true}, `broker: listener "x": anonymous readers are admitted on a loopback address only, not on ":0"`},
		"taken tcp":     {broker.Listener{Kind: "tcp", Address: taken.Addr().String()}, "address already in use"},
		"taken ws":      {broker.Listener{Kind: "ws", Address: taken.Addr().String()}, "address already in use"},
	} {
		t.Run(name, func(t *testing.T) {
			c.l.Name = "x"
			_, err := broker.New(broker.Options{Tree: tampa(t), Listeners: []broker.Listener{{Name: "first", Kind: "tcp", Address: "127.0.0.1:0"}, c.l}})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

// A web page of elsewhere may not read what is on this machine, nor by a name of its own for our address.
func TestWebSocketOrigin(t *testing.T) {
	b := start(t, broker.Options{Listeners: []broker.Listener{{Name: "ws", Kind: "ws", Address: "127.0.0.1:0", AnonymousReaders: true}}})
	address := b.Addr("ws")
	if address == "" || strings.HasSuffix(address, ":0") || b.Addr("none") != "" {
		t.Fatalf("listens on %q", address)
	}
	for _, c := range []struct {
		origin, host string
		ok           bool
	}{
		{"", address, true},
		{"http://" + address, address, true},
		{"https://evil.example", address, false},
		{"null", address, false},
		{"http://evil.example", "evil.example", false},
		{"", "evil.example", false},
	} {
		header := http.Header{"Host": {c.host}}
		if c.origin != "" {
			header.Set("Origin", c.origin)
		}
		d := websocket.Dialer{Subprotocols: []string{"mqtt"}}
		ws, resp, err := d.Dial("ws://"+address, header)
		if resp != nil {
			resp.Body.Close()
		}
		if ws != nil {
			ws.Close()
		}
		if (err == nil) != c.ok {
			t.Errorf("origin %q, host %q: %v, want ok %t", c.origin, c.host, err, c.ok)
		}
	}
	if n := b.Stats().RefusedConnect; n != 4 {
		t.Errorf("%d refusals counted", n)
	}
}

// Connections that never say CONNECT, or half of it, do not keep the broker from closing.
func TestCloseWithSilentConnections(t *testing.T) {
	b := start(t, broker.Options{Listeners: []broker.Listener{
		{Name: "tcp", Kind: "tcp", Address: "127.0.0.1:0"}, {Name: "ws", Kind: "ws", Address: "127.0.0.1:0", AnonymousReaders: true},
	}})
	silent := tcp(t, b, "tcp")
	half := tcp(t, b, "tcp")
	if _, err := half.Write([]byte{0x10, 60, 0, 4}); err != nil {
		t.Fatal(err)
	}
	tcp(t, b, "ws")
	ws, resp, err := websocket.DefaultDialer.Dial("ws://"+b.Addr("ws"), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	defer ws.Close()
	dial(t, b, viewerID, connect{id: "r"})
	closeBroker(t, b)
	for _, c := range []net.Conn{silent, half} {
		_ = c.SetReadDeadline(time.Now().Add(time.Minute))
		if _, err := io.Copy(io.Discard, c); isTimeout(err) {
			t.Error("still open")
		}
	}
	if _, err := b.Dial(context.Background(), viewerID); err == nil {
		t.Error("dialled after Close")
	}
}

func isTimeout(err error) bool {
	n, ok := err.(net.Error)
	return ok && n.Timeout()
}

// counting is a bare hook that counts publishes.
type counting struct {
	mqtt.HookBase
	n atomic.Int64
}

func (c *counting) ID() string { return "counting" }
func (c *counting) Provides(b byte) bool {
	return b == mqtt.OnConnectAuthenticate || b == mqtt.OnACLCheck || b == mqtt.OnPublish
}
func (c *counting) OnConnectAuthenticate(*mqtt.Client, packets.Packet) bool { return true }
func (c *counting) OnACLCheck(*mqtt.Client, string, bool) bool              { return true }
func (c *counting) OnPublish(_ *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	c.n.Add(1)
	return pk, nil
}

type countingTap struct{ n atomic.Int64 }

func (c *countingTap) Heartbeat(string, []byte)   { c.n.Add(1) }
func (c *countingTap) SessionUp(string)           {}
func (c *countingTap) SessionDown(string, string) {}

// BenchmarkHeartbeats sends heartbeats over loopback TCP, to the tap and to bare Mochi with a hook that counts.
func BenchmarkHeartbeats(b *testing.B) {
	b.Run("bare mochi", func(b *testing.B) {
		caps := mqtt.NewDefaultServerCapabilities()
		s := mqtt.New(&mqtt.Options{Capabilities: caps, Logger: slog.New(slog.DiscardHandler), ClientNetReadBufferSize: 4096, SysTopicResendInterval: 86400})
		hook := &counting{}
		l := listeners.NewTCP(listeners.Config{ID: "tcp", Address: "127.0.0.1:0"})
		if err := s.AddHook(hook, nil); err != nil {
			b.Fatal(err)
		}
		if err := s.AddListener(l); err != nil {
			b.Fatal(err)
		}
		if err := s.Serve(); err != nil {
			b.Fatal(err)
		}
		defer s.Close()
		beat(b, l.Address(), "", "")
		if hook.n.Load() != int64(b.N) {
			b.Errorf("%d of %d", hook.n.Load(), b.N)
		}
	})
	b.Run("tap", func(b *testing.B) {
		secret, hash := broker.NewSecret()
		users, err := broker.NewUsers([]broker.User{{Name: "m1", Role: topics.RoleMachine, ID: "m1", Hash: hash}})
		if err != nil {
			b.Fatal(err)
		}
		tap := &countingTap{}
		br := start(b, broker.Options{Tap: tap, Users: users, Listeners: []broker.Listener{{Name: "tcp", Kind: "tcp", Address: "127.0.0.1:0"}}})
		beat(b, br.Addr("tcp"), "m1", secret)
		if tap.n.Load() != int64(b.N) {
			b.Errorf("%d of %d", tap.n.Load(), b.N)
		}
	})
}

// beat sends b.N heartbeats of 200 bytes, in buffers of a hundred, and a ping, and waits for its answer.
func beat(b *testing.B, address, user, password string) {
	b.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	r, code := join(b, c, connect{id: "m1", user: user, password: password})
	if code != 0 {
		b.Fatal(fmt.Errorf("refused with %d", code))
	}
	topic := root + "machine/m1/heartbeat"
	one := []byte{0x30}
	one = binary.AppendUvarint(one, uint64(2+len(topic)+200))
	one = binary.BigEndian.AppendUint16(one, uint16(len(topic)))
	one = append(append(one, topic...), make([]byte, 200)...)
	var hundred []byte
	for range 100 {
		hundred = append(hundred, one...)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for left := b.N; left > 0; left -= 100 {
		if _, err := c.Write(hundred[:min(left, 100)*len(one)]); err != nil {
			b.Fatal(err)
		}
	}
	r.ping()
	b.StopTimer()
}

// TestABrokerMayCloseAsSoonAsItStarted: Mochi begins to serve in the background, maybe after Close. The race detector tells if that is not
// kept apart.
func TestABrokerMayCloseAsSoonAsItStarted(t *testing.T) {
	for range 50 {
		closeBroker(t, start(t, broker.Options{Listeners: []broker.Listener{
			{Name: "tcp", Kind: "tcp", Address: "127.0.0.1:0"}, {Name: "ws", Kind: "ws", Address: "127.0.0.1:0"},
		}}))
	}
}
