package broker

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	"github.com/mochi-mqtt/server/v2/listeners"
)

// listener is one address. Mochi's own count connections only once they sent CONNECT, and its WebSocket one
// neither says where it listens nor looks at the page that a connection comes from.
type listener struct {
	Listener
	b      *Broker
	leaves func() []*x509.Certificate
	net    net.Listener
	http   *http.Server
	wg     sync.WaitGroup

	mu     sync.Mutex
	closed bool
}

func newListener(b *Broker, l Listener) (*listener, error) {
	if l.AnonymousReaders && !isLoopback(l.Address) {
		return nil, fmt.Errorf("anonymous readers are admitted on a loopback address only, not on %q", l.Address)
	}
	switch l.Kind {
	case "tcp", "tls", "ws", "wss":
	default:
		return nil, fmt.Errorf("kind %q: want tcp, tls, ws or wss", l.Kind)
	}
	if l.secure() && l.TLS == nil {
		return nil, errors.New("a certificate is required")
	}
	n := &listener{Listener: l, b: b}
	if n.leaves = l.Leaves; n.leaves == nil && l.secure() {
		leaves, err := leavesOf(l.TLS)
		if err != nil {
			return nil, err
		}
		n.leaves = func() []*x509.Certificate { return leaves }
	}
	return n, nil
}

func (l Listener) secure() bool { return l.Kind == "tls" || l.Kind == "wss" }
func (l Listener) web() bool    { return l.Kind == "ws" || l.Kind == "wss" }

func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	return err == nil && isLoopbackHost(host)
}

func isLoopbackHost(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Init implements listeners.Listener: it opens the address.
func (l *listener) Init(*slog.Logger) error {
	n, err := net.Listen("tcp", l.Listener.Address)
	if err != nil {
		return err
	}
	n = gate{n, l.b.hook.limits}
	if l.secure() {
		c := l.TLS.Clone()
		if l.web() {
			c.NextProtos = []string{"http/1.1"} // WebSocket begins there
		}
		n = tls.NewListener(n, c)
	}
	l.net = n
	if l.web() {
		l.http = &http.Server{
			Handler: http.HandlerFunc(l.upgrade), ReadHeaderTimeout: connectTimeout, MaxHeaderBytes: 16 << 10,
			ReadTimeout: connectTimeout,             // of a body, which nobody asked for
			ErrorLog:    log.New(io.Discard, "", 0), // what browsers do wrong is theirs to see
		}
		l.http.SetKeepAlivesEnabled(false) // one request, which becomes a WebSocket or ends
	}
	return nil
}

// Serve implements listeners.Listener: it returns at once. Mochi calls it in a goroutine of its own, so that Close may have come before.
func (l *listener) Serve(listeners.EstablishFn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	l.wg.Go(func() {
		if l.web() {
			_ = l.http.Serve(l.net) // returns when the listener is closed
			return
		}
		l.accept()
	})
}

// accept goes on after errors that pass, such as too many open files.
func (l *listener) accept() {
	pause := time.Millisecond
	for {
		c, err := l.net.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			l.b.hook.refuse(l.Name, "connection not accepted", err)
			time.Sleep(pause)
			pause = min(2*pause, time.Second)
			continue
		}
		pause = time.Millisecond
		l.b.serve(newConn(c, c, nil, l))
	}
}

// ID implements listeners.Listener.
func (l *listener) ID() string { return l.Name }

// Address implements listeners.Listener: where it really listens.
func (l *listener) Address() string { return l.net.Addr().String() }

// Protocol implements listeners.Listener.
func (l *listener) Protocol() string { return l.Kind }

// Close implements listeners.Listener: it accepts no more. The connections are the broker's to close.
func (l *listener) Close(listeners.CloseFn) {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		if l.net != nil {
			l.net.Close()
		}
		if l.http != nil {
			l.http.Close()
		}
	}
	l.mu.Unlock()
	l.wg.Wait()
}

// upgrade makes a WebSocket of a request. A browser says which page asks: only pages of this very host
// may, and where readers are anonymous the host must be a loopback name, lest a page read
// what is there by giving its own name our address.
func (l *listener) upgrade(w http.ResponseWriter, r *http.Request) {
	up := websocket.Upgrader{Subprotocols: []string{"mqtt"}, HandshakeTimeout: connectTimeout} // checks Origin against Host
	if host := hostOnly(r.Host); l.AnonymousReaders && (!isLoopbackHost(host) || !cameByLoopback(r)) {
		l.b.hook.counters.refusedConnect.Add(1)
		l.b.hook.refuse(r.RemoteAddr, "connection refused", fmt.Errorf("host %q is not this machine's loopback", host))
		http.Error(w, "ask for localhost", http.StatusForbidden)
		return
	}
	c, err := up.Upgrade(w, r, nil)
	if err != nil {
		l.b.hook.counters.refusedConnect.Add(1)
		l.b.hook.refuse(r.RemoteAddr, "connection refused", fmt.Errorf("origin %q: %w", r.Header.Get("Origin"), err))
		return
	}
	c.SetReadLimit(int64(l.b.o.Limits.PacketBytes) + 16)
	web := &webConn{Conn: c}
	k := newConn(web, c.UnderlyingConn(), nil, l)
	web.frame = k.frame
	pong := c.PingHandler()
	c.SetPingHandler(func(data string) error { return errors.Join(k.frame(), pong(data)) })
	l.b.serve(k)
}

// cameByLoopback reports whether a request reached a loopback address of its server, as far as that is known.
func cameByLoopback(r *http.Request) bool {
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return !ok || isLoopback(local.String())
}

// webName is the listener name of connections that came by ReadOnlyHandler.
const webName = "http"

// ReadOnlyHandler takes MQTT over WebSocket at a path of another HTTP server, from clients that read as their role may and
// publish nothing. With anonymous those without a user name are viewers, where the request came to a loopback address and says a
// loopback host. The connections are the broker's: Close ends them.
func (b *Broker) ReadOnlyHandler(anonymous bool) http.Handler {
	l := &listener{Listener: Listener{Name: webName, Kind: "ws", AnonymousReaders: anonymous, ReadOnly: true}, b: b}
	return http.HandlerFunc(l.upgrade)
}

func hostOnly(hostport string) string {
	if host, _, err := net.SplitHostPort(hostport); err == nil {
		return host
	}
	return hostport
}

// webConn is a WebSocket as a stream of bytes: MQTT packets and messages need not begin together
// (MQTT 3.1.1, section 6).
type webConn struct {
	*websocket.Conn
	message io.Reader
	frame   func() error // asked for each message
}

// Read implements net.Conn.
func (c *webConn) Read(p []byte) (int, error) {
	for {
		if c.message == nil {
			kind, r, err := c.NextReader()
			if err != nil {
				return 0, err
			}
			if kind != websocket.BinaryMessage {
				return 0, errors.New("the WebSocket message is not binary")
			}
			if err := c.frame(); err != nil {
				return 0, err
			}
			c.message = r
		}
		n, err := c.message.Read(p)
		if err != nil {
			c.message = nil
		}
		if n > 0 || err != nil && !errors.Is(err, io.EOF) {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return n, err
		}
	}
}

// Write implements net.Conn.
func (c *webConn) Write(p []byte) (int, error) {
	if err := c.WriteMessage(websocket.BinaryMessage, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// SetDeadline implements net.Conn.
func (c *webConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}
