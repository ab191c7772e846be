// Package broker is the embedded MQTT broker: Mochi behind our own hook. Who may do what
// comes from package topics, deny by default; what does not keep to a topic's QoS, retain
// flag or size is refused, counted and logged once per writer and minute. Heartbeats are
// taken in the hook, without a second trip through a socket. It is the only importer of
// Mochi.
//
// Retained messages live in memory: whoever owns a topic publishes its state again when it
// connects.
package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"sync"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/farebeat/farebeat/topics"
)

// Tap takes what the fleet must not miss, in the goroutine of the connection that
// brought it: it must not block. The payload is good during the call only.
type Tap interface {
	Heartbeat(machine string, payload []byte)
	SessionUp(machine string)
	SessionDown(machine, reason string)
}

// Listener is one address that takes connections.
type Listener struct {
	Name    string
	Kind    string // tcp, tls, ws, wss
	Address string // host:port; port 0 picks one, see Addr
	TLS     *tls.Config
	// AnonymousReaders admits clients without a user name as viewers. The address must be
	// loopback.
	AnonymousReaders bool
}

// Options say what a broker is made of. Tree is required.
type Options struct {
	Tree           topics.Tree
	Listeners      []Listener
	Users          *Users // nil: nobody but anonymous readers and Dial
	AllowSimulator bool   // admit users of the role simulator
	Tap            Tap    // may be nil
	MaxClients     int    // 100,000 if 0
	Now            func() time.Time
	Logger         *slog.Logger
	Registry       prometheus.Registerer // may be nil
}

// Broker is an MQTT broker. Start it once; Close ends it.
type Broker struct {
	o      Options
	server *mqtt.Server
	hook   *hook

	mu    sync.Mutex
	pipes map[net.Conn]bool // server ends of Dial
	wg    sync.WaitGroup    // their goroutines
	open  bool
}

// inProcess is the listener name of connections made by Dial.
const inProcess = "in-process"

// maxPending bounds the messages that wait for one slow client; what is beyond is dropped and
// counted. It holds a newcomer's retained messages of a large city.
const maxPending = 1 << 18

// New makes a broker and checks its options. It does not listen yet.
func New(o Options) (*Broker, error) {
	if o.Tree.Root() == "" {
		return nil, errors.New("broker: the topic tree is required")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.MaxClients == 0 {
		o.MaxClients = 100_000
	}
	caps := mqtt.NewDefaultServerCapabilities()
	caps.MaximumMessageExpiryInterval = 0 // else retained messages vanish after a day
	caps.MaximumInflight = math.MaxUint16
	caps.ReceiveMaximum = math.MaxUint16
	caps.MaximumClientWritesPending = maxPending
	caps.MaximumPacketSize = 2 << 20
	caps.MaximumClients = int64(o.MaxClients)
	caps.MaximumQos = 1
	caps.SharedSubAvailable = 0 // access of $share filters is not computed
	server := mqtt.New(&mqtt.Options{
		Capabilities:             caps,
		ClientNetReadBufferSize:  4096,
		ClientNetWriteBufferSize: 4096,
		SysTopicResendInterval:   86400, // nobody reads $SYS: figures are on /metrics
		Logger:                   slog.New(slog.DiscardHandler),
	})
	b := &Broker{o: o, server: server, pipes: map[net.Conn]bool{}}
	b.hook = newHook(b)
	if err := server.AddHook(b.hook, nil); err != nil {
		return nil, fmt.Errorf("broker: %w", err)
	}
	for _, l := range o.Listeners {
		if err := b.addListener(l); err != nil {
			return nil, fmt.Errorf("broker: listener %q: %w", l.Name, err)
		}
	}
	if o.Registry != nil {
		if err := o.Registry.Register(collector{b}); err != nil {
			return nil, fmt.Errorf("broker: register metrics: %w", err)
		}
	}
	return b, nil
}

func (b *Broker) addListener(l Listener) error {
	if l.AnonymousReaders && !isLoopback(l.Address) {
		return fmt.Errorf("anonymous readers are admitted on a loopback address only, not on %q", l.Address)
	}
	secure := l.Kind == "tls" || l.Kind == "wss"
	if secure && l.TLS == nil {
		return errors.New("a certificate is required")
	}
	cfg := listeners.Config{ID: l.Name, Address: l.Address}
	if secure {
		cfg.TLSConfig = l.TLS
	}
	switch l.Kind {
	case "tcp", "tls":
		return b.server.AddListener(listeners.NewTCP(cfg))
	case "ws", "wss":
		return b.server.AddListener(listeners.NewWebsocket(cfg))
	}
	return fmt.Errorf("kind %q: want tcp, tls, ws or wss", l.Kind)
}

func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Start listens. The broker runs until Close.
func (b *Broker) Start(_ context.Context) error {
	if err := b.server.Serve(); err != nil {
		return fmt.Errorf("start broker: %w", err)
	}
	b.mu.Lock()
	b.open = true
	b.mu.Unlock()
	return nil
}

// Close ends every connection and waits for them. It may be called again.
func (b *Broker) Close() error {
	b.mu.Lock()
	was := b.open
	b.open = false
	for c := range b.pipes {
		c.Close()
	}
	b.mu.Unlock()
	if !was {
		return nil
	}
	b.wg.Wait()
	if err := b.server.Close(); err != nil {
		return fmt.Errorf("close broker: %w", err)
	}
	return nil
}

// ErrClosed is returned by Dial before Start and after Close.
var ErrClosed = errors.New("the broker is not running")

// Dial connects inside the process, as id, without a password.
func (b *Broker) Dial(_ context.Context, id topics.Identity) (net.Conn, error) {
	client, server := net.Pipe()
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.open {
		return nil, fmt.Errorf("dial broker: %w", ErrClosed)
	}
	c := &identified{Conn: server, identity: id}
	b.pipes[c] = true
	b.wg.Go(func() {
		_ = b.server.EstablishConnection(inProcess, c) // how it ended is the hook's to tell
		c.Close()
		b.mu.Lock()
		delete(b.pipes, c)
		b.mu.Unlock()
	})
	return client, nil
}

// identified is the server end of a connection whose identity is known without a password.
type identified struct {
	net.Conn
	identity topics.Identity
}

// Addr is where a listener really listens, "" for an unknown one.
func (b *Broker) Addr(name string) string {
	l, ok := b.server.Listeners.Get(name)
	if !ok {
		return ""
	}
	return l.Address()
}
