// Package broker is the embedded MQTT broker: Mochi behind our own hook. Who may do what
// comes from package topics, deny by default; what does not keep to a topic's QoS, retain
// flag or size is refused, counted and logged once per writer and minute. Heartbeats are
// taken in the hook, without a second trip through a socket. It is the only importer of
// Mochi.
//
// With a store, a QoS-1 publish is acknowledged and delivered once it is on disk, and retained messages,
// sessions and wills outlive the broker. Without one all that is in memory: whoever owns a topic
// publishes its state again when it connects.
package broker

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/farebeat/farebeat/broker/store"
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
	// TLS is required for tls and wss. Where it asks for client certificates and verifies them, one that names an identity of the tree
	// (topics.Tree.CertificateIdentity), or by its common name a user, is that, without a password.
	TLS *tls.Config
	// Leaves are the certificates that TLS shows now; nil: those in TLS.
	Leaves func() []*x509.Certificate
	// AnonymousReaders admits clients without a user name as viewers. The address must be
	// loopback.
	AnonymousReaders bool
	// ReadOnly refuses every publish, and connections that bring a will. Who may read what is as elsewhere; a machine
	// that reads here is not taken for one that is heard.
	ReadOnly bool
}

// Options say what a broker is made of. Tree is required.
type Options struct {
	Tree      topics.Tree
	Listeners []Listener
	Users     *Users // nil: nobody but anonymous readers and Dial. Sessions of users that change there are ended
	// Void says why a client's certificate, which was verified, is good no more; nil: all are good. It is asked at each CONNECT, and of whoever is
	// connected in CertificatesChanged. It must not block.
	Void           func(*x509.Certificate) error
	AllowSimulator bool // admit users of the role simulator
	Tap            Tap  // may be nil
	MaxClients     int  // 100,000 if 0
	Now            func() time.Time
	Logger         *slog.Logger
	Registry       prometheus.Registerer // may be nil
	Limits         Limits                // of what clients may take; zero fields mean defaults
	// Store keeps what must outlive the broker; nil: nothing does. The caller closes it after Close.
	Store *store.Store
}

// Broker is an MQTT broker. Start it once; Close ends it.
type Broker struct {
	o         Options
	server    *mqtt.Server
	hook      *hook
	listeners []*listener
	conns     conns

	mu    sync.Mutex
	state int // 0 new, 1 started, 2 closed
}

// inProcess is the listener name of connections made by Dial.
const inProcess = "in-process"

// unfinished is how many connections beyond MaxClients and Limits.Handshakes may be on their way from being clients.
const unfinished = 1_024

// sessionDays bounds how long the broker keeps the session of a client that is away.
const sessionDays = 7

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
	if err := o.Limits.fill(); err != nil {
		return nil, fmt.Errorf("broker: %w", err)
	}
	b := &Broker{o: o, server: newServer(o), conns: conns{open: map[*conn]bool{}}}
	b.hook = newHook(b)
	if err := b.server.AddHook(b.hook, nil); err != nil {
		return nil, fmt.Errorf("broker: %w", err)
	}
	if o.Store != nil {
		b.restore(o.Store.Take(), time.Now())
	}
	if o.Registry != nil {
		if err := o.Registry.Register(collector{b}); err != nil {
			return nil, fmt.Errorf("broker: register metrics: %w", err)
		}
	}
	for _, l := range o.Listeners {
		if err := b.addListener(l); err != nil {
			b.closeListeners()
			if o.Registry != nil {
				o.Registry.Unregister(collector{b})
			}
			return nil, fmt.Errorf("broker: listener %q: %w", l.Name, err)
		}
	}
	if o.Users != nil {
		o.Users.join(b)
	}
	return b, nil
}

func newServer(o Options) *mqtt.Server {
	caps := mqtt.NewDefaultServerCapabilities()
	caps.MaximumMessageExpiryInterval = 0
	caps.MaximumSessionExpiryInterval = sessionDays * 86400
	caps.ReceiveMaximum = 1024          // QoS-1 publishes of one client at once
	caps.MaximumClientWritesPending = 1 // delivery is ours, see session
	caps.TopicAliasMaximum = 0          // access is checked before an alias is looked up
	caps.MaximumPacketSize = uint32(o.Limits.PacketBytes)
	caps.MaximumClients = int64(o.MaxClients)
	caps.MaximumQos = 1
	caps.SharedSubAvailable = 0 // access of $share filters is not computed
	return mqtt.New(&mqtt.Options{
		Capabilities:             caps,
		ClientNetReadBufferSize:  4096,
		ClientNetWriteBufferSize: 4096,
		SysTopicResendInterval:   86400, // nobody reads $SYS: figures are on /metrics
		Logger:                   slog.New(slog.DiscardHandler),
	})
}

func (b *Broker) addListener(l Listener) error {
	n, err := newListener(b, l)
	if err != nil {
		return err
	}
	if err := b.server.AddListener(n); err != nil {
		return err
	}
	b.listeners = append(b.listeners, n)
	return nil
}

func (b *Broker) closeListeners() {
	for _, l := range b.listeners {
		l.Close(nil)
	}
}

// Start listens. The broker runs until Close.
func (b *Broker) Start(_ context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state != 0 {
		return errors.New("start broker: it was started or closed before; make another")
	}
	if b.hook.commits != nil {
		go b.hook.commits.run() // the wills of the last run go out before anything new
	}
	if err := b.server.Serve(); err != nil {
		if b.hook.commits != nil {
			b.hook.commits.close()
		}
		b.state = 2
		return fmt.Errorf("start broker: %w", err)
	}
	b.state = 1
	return nil
}

// Close ends every connection and waits for them. It may be called again.
func (b *Broker) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	was := b.state
	b.state = 2
	if was == 2 {
		return nil
	}
	if b.o.Users != nil {
		b.o.Users.leave(b)
	}
	b.hook.closing.Store(true)
	if b.hook.commits != nil {
		close(b.hook.commits.closing)
	}
	b.closeListeners()
	b.conns.close()
	b.hook.writers.Wait()
	if b.hook.commits != nil && was == 1 {
		b.hook.commits.close()
	}
	if was == 0 {
		return nil
	}
	if err := b.server.Close(); err != nil {
		return fmt.Errorf("close broker: %w", err)
	}
	return nil
}

// ErrClosed is returned by Dial before Start and after Close.
var ErrClosed = errors.New("the broker is not running")

// Dial connects inside the process, as id, without a password.
func (b *Broker) Dial(_ context.Context, id topics.Identity) (net.Conn, error) {
	b.mu.Lock()
	running := b.state == 1
	b.mu.Unlock()
	client, server := net.Pipe()
	if !running || !b.serve(newConn(server, server, &id, nil)) {
		return nil, fmt.Errorf("dial broker: %w", ErrClosed)
	}
	return client, nil
}

// serve begins to serve a connection; false if it was turned away.
func (b *Broker) serve(c *conn) bool {
	name := inProcess
	if c.listener != nil {
		name = c.listener.Name
	}
	if !b.hook.limits.pass(c) {
		c.Close()
		return false
	}
	ran := b.conns.run(c, b.o.MaxClients+b.o.Limits.Handshakes+unfinished, func() {
		defer b.hook.ended(c)
		b.establish(name, c) // how it ended is the hook's to tell
	})
	if !ran {
		c.place.leave()
		b.hook.limits.met[limitClients].Add(1)
	}
	return ran
}

// Addr is where a listener really listens, "" for an unknown one.
func (b *Broker) Addr(name string) string {
	l, ok := b.server.Listeners.Get(name)
	if !ok {
		return ""
	}
	return l.Address()
}
