package broker

import (
	"crypto/x509"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/farebeat/farebeat/topics"
)

const (
	connectTimeout = 10 * time.Second // from accept to the end of CONNECT
	writeTimeout   = 20 * time.Second // for one write to a client of the network
	partingTime    = time.Second      // for the last word to a client that is sent away
)

// conn is one connection from accept to its end, and all that is known of who is behind it.
// Mochi's client holds it as its network connection.
type conn struct {
	net.Conn
	raw       net.Conn         // below WebSocket framing
	known     *topics.Identity // in process: who it is, without a password
	listener  *listener        // nil in process
	keepAlive atomic.Int64     // nanoseconds; below 0 until CONNECT was accepted
	lastWord  atomic.Int64     // no write may last beyond; Unix nanoseconds, 0 for none
	gone      chan struct{}    // closed with the connection
	done      chan struct{}    // closed when nothing of it runs any more
	once      sync.Once
	cause     atomic.Pointer[string] // why we closed it
	since     atomic.Int64           // when it was established, Unix nanoseconds; 0 until then. What is set in CONNECT may be read by others after it

	// Of messages; each is written by one goroutine at a time.
	in, out, dropped atomic.Uint64

	// Set in CONNECT, by the goroutine of the connection.
	identity  topics.Identity
	how       string            // how it is known, see owner
	user      *User             // as the users file said; nil for anonymous readers, in process, and for most certificates
	cert      *x509.Certificate // that it showed; nil for none
	heartbeat string            // the topic of a machine's heartbeat, "" for other roles
	client    *mqtt.Client
	session   *session
	window    int                    // messages that it takes before it acknowledges one
	up        bool                   // the tap was told
	goodbye   bool                   // it sent DISCONNECT
	before    []packets.Subscription // by filter of the SUBSCRIBE in hand: what stood, or zero
	slots     chan struct{}          // filled by publishes that are not acknowledged yet; nil without a store
	will      int64                  // its number in the store, 0 for none

	// Of limits.
	place   *place // at the door; nil in process
	meter   meter
	peer    *peer       // its identity's account, nil if it has none
	refused bool        // CONNECT was, and that was counted
	slow    atomic.Bool // it is disconnected because it reads too slowly
}

func newConn(c, raw net.Conn, known *topics.Identity, l *listener) *conn {
	k := &conn{Conn: c, raw: raw, known: known, listener: l, gone: make(chan struct{}), done: make(chan struct{})}
	k.keepAlive.Store(-1)
	_ = c.SetReadDeadline(time.Now().Add(connectTimeout)) // fails only where Read will
	return k
}

// SetDeadline is how Mochi says that something was received. It reckons one and a half keep-alives in 16 bits,
// which long ones overflow, and for both directions; so the deadline is reckoned here.
func (c *conn) SetDeadline(time.Time) error {
	switch k := c.keepAlive.Load(); {
	case k < 0:
		return nil // CONNECT is not accepted yet: its deadline stands
	case k == 0:
		return c.SetReadDeadline(time.Time{}) // TCP's own keep-alive finds the dead
	default:
		return c.SetReadDeadline(time.Now().Add(time.Duration(k + k/2)))
	}
}

// Write gives up a connection whose other end reads nothing. In process there is no bound: the
// fleet reads when it has room.
func (c *conn) Write(p []byte) (int, error) {
	if last := c.lastWord.Load(); last != 0 {
		_ = c.SetWriteDeadline(time.Unix(0, last))
	} else if c.known == nil {
		_ = c.SetWriteDeadline(time.Now().Add(writeTimeout))
	}
	n, err := c.Conn.Write(p)
	if err != nil {
		if l := c.meter.l; l != nil && isTimeout(err) && c.lastWord.Load() == 0 {
			l.hit(limitSlowReader, c.identity.Name, "client disconnected", err)
		}
		c.closeFor("it reads nothing any more") // half a packet may be out
	}
	return n, err
}

// Close implements net.Conn.
func (c *conn) Close() error {
	var err error
	c.once.Do(func() {
		close(c.gone)
		err = c.Conn.Close()
	})
	return err
}

// closeFor closes the connection and keeps the first reason. Mochi sees a broken line: the will is sent.
func (c *conn) closeFor(cause string) {
	c.cause.CompareAndSwap(nil, &cause)
	c.Close()
}

// sendAway closes a connection, with a word to a client that knows it (MQTT 5).
func (c *conn) sendAway(cl *mqtt.Client, code packets.Code, cause string) {
	by := time.Now().Add(partingTime)
	c.lastWord.CompareAndSwap(0, by.UnixNano())
	_ = c.raw.SetWriteDeadline(by) // frees a writer that is stuck
	if cl != nil && cl.Properties.ProtocolVersion == 5 {
		_ = cl.WritePacket(packets.Packet{
			FixedHeader: packets.FixedHeader{Type: packets.Disconnect}, ReasonCode: code.Code,
			Properties: packets.Properties{ReasonString: code.Reason},
		})
	}
	c.closeFor(cause)
}

// acknowledge writes PUBACKs, many at once: Mochi writes each by itself. In MQTT 5, too, four bytes say success.
func (c *conn) acknowledge(acks []byte) error {
	c.client.Lock() // held by all who write to it
	_, err := c.Write(acks)
	c.client.Unlock()
	for range len(acks) / 4 {
		<-c.slots
	}
	return err
}

// sessionID is the client id within its owner's own space: nobody can take over another's session, by guess or
// by chance.
func (c *conn) sessionID(clientID string) string {
	return owner(c.how, c.identity) + clientID
}

// How the owner of a session is known.
const (
	byUser        = "user"
	byCertificate = "certificate"
	byDial        = "in-process"
	byNobody      = "anonymous"
)

// owner is what the ids of the sessions of an identity begin with.
func owner(how string, id topics.Identity) string {
	return how + "/" + string(id.Role) + "/" + url.PathEscape(id.Name) + "/"
}

// readOnly reports whether the client came in where nobody publishes.
func (c *conn) readOnly() bool { return c.listener != nil && c.listener.ReadOnly }

// identityOf reads the owner out of a session's id, also of one whose client is away.
func identityOf(sessionID string) topics.Identity {
	parts := strings.SplitN(sessionID, "/", 4)
	if len(parts) < 4 {
		return topics.Identity{}
	}
	name, err := url.PathUnescape(parts[2])
	if err != nil {
		return topics.Identity{}
	}
	return topics.Identity{Role: topics.Role(parts[1]), Name: name}
}

// conns are the connections that are open.
type conns struct {
	mu     sync.Mutex
	open   map[*conn]bool
	closed bool
	wg     sync.WaitGroup
}

// run calls serve in a goroutine for a connection, unless there are too many or the broker closes.
func (s *conns) run(c *conn, limit int, serve func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.open) >= limit {
		c.Close()
		return false
	}
	s.open[c] = true
	s.wg.Go(func() {
		serve()
		c.Close()
		s.mu.Lock()
		delete(s.open, c)
		s.mu.Unlock()
	})
	return true
}

// close ends all connections at once and waits for them.
func (s *conns) close() {
	s.mu.Lock()
	s.closed = true
	var parting sync.WaitGroup
	for c := range s.open {
		parting.Go(func() {
			var cl *mqtt.Client
			if c.keepAlive.Load() >= 0 { // CONNECT was accepted: the client is set
				cl = c.client
			}
			c.sendAway(cl, packets.ErrServerShuttingDown, "the broker closes")
		})
	}
	s.mu.Unlock()
	parting.Wait()
	s.wg.Wait()
}
