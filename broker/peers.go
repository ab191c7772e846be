package broker

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"golang.org/x/time/rate"

	"github.com/farebeat/farebeat/topics"
)

// peers are the identities that are bounded.
type peers struct {
	mu    sync.Mutex
	known map[string]*peer
	swept time.Time
}

// peer is one identity. What it used up outlives its connections, so that to connect again wins nothing.
type peer struct {
	conns      []member // the oldest first; guarded by peers.mu
	connects   *rate.Limiter
	messages   *rate.Limiter
	bytes      *rate.Limiter
	heartbeats *rate.Limiter
}

// member is one connection of an identity.
type member struct {
	conn     *conn
	clientID string // as the client says it
}

// sweepPeers is how often it is looked for identities that may be forgotten.
const sweepPeers = time.Minute

// Work that may be done at once, in seconds of the rate.
const (
	publishBurst   = 4
	heartbeatBurst = 10
	connectBurst   = 8 // times its connections, once a minute
)

func isDevice(r topics.Role) bool { return r == topics.RoleMachine || r == topics.RoleGateway }

// unbounded reports whether a client speaks for everyone.
func unbounded(c *conn, id topics.Identity) bool {
	return c.known != nil || id.Role == topics.RoleFleet || id.Role == topics.RoleSimulator
}

// identityKey is the same for all who are one identity, however they proved it.
func identityKey(id topics.Identity) string { return string(id.Role) + "/" + id.Name }

func (l *limits) connectionsOf(r topics.Role) int {
	if isDevice(r) {
		return l.ConnectionsPerDevice
	}
	return l.ConnectionsPerUser
}

// join counts a connection as one of its identity's, or says why not. One that takes over the session of another does not count twice. The oldest
// connection of a device makes room for a new one: it may be one whose end nobody noticed, and a device must not lock itself out.
func (l *limits) join(c *conn, id topics.Identity, clientID string) error {
	if unbounded(c, id) {
		return nil
	}
	most, now := l.connectionsOf(id.Role), time.Now()
	l.peers.mu.Lock()
	p := l.peers.get(l, id, now)
	if !p.connects.AllowN(now, 1) {
		l.peers.mu.Unlock()
		l.met[limitIdentityConnects].Add(1)
		return busyf(packets.ErrConnectionRateExceeded, "%s %q connects more than %d times a minute", id.Role, id.Name, connectBurst*most)
	}
	others := len(p.conns)
	for _, m := range p.conns {
		if m.clientID == clientID && clientID != "" {
			others--
		}
	}
	var victim *conn
	if others >= most {
		if !isDevice(id.Role) {
			l.peers.mu.Unlock()
			l.met[limitIdentityConnections].Add(1)
			return busyf(packets.ErrQuotaExceeded, "%s %q has %d connections, as many as broker.limits.connections_per_user says", id.Role, id.Name, others)
		}
		victim = p.conns[0].conn
		p.conns = slices.Delete(p.conns, 0, 1)
	}
	p.conns = append(p.conns, member{c, clientID})
	c.peer = p
	l.peers.mu.Unlock()
	if victim != nil {
		l.hit(limitIdentityConnections, id.Name, "connection closed", fmt.Errorf("it has more than %d connections, and this was the oldest", most))
		l.sendAway(victim, packets.ErrQuotaExceeded, "its identity has too many connections, and it was the oldest")
	}
	return nil
}

// sendAway ends another's connection without waiting for that.
func (l *limits) sendAway(c *conn, code packets.Code, cause string) {
	l.h.writers.Go(func() {
		if c.keepAlive.Load() >= 0 { // CONNECT was accepted: the client is set
			c.sendAway(c.client, code, cause)
			return
		}
		c.closeFor(cause)
	})
}

// part is called when a connection has ended.
func (l *limits) part(c *conn) {
	c.place.leave()
	if c.peer == nil {
		return
	}
	l.peers.mu.Lock()
	defer l.peers.mu.Unlock()
	c.peer.conns = slices.DeleteFunc(c.peer.conns, func(m member) bool { return m.conn == c })
}

// get finds or makes an identity. The lock is held.
func (s *peers) get(l *limits, id topics.Identity, now time.Time) *peer {
	if now.Sub(s.swept) >= sweepPeers {
		s.swept = now
		for k, p := range s.known {
			if p.isNew(now) {
				delete(s.known, k)
			}
		}
	}
	key := identityKey(id)
	p := s.known[key]
	if p == nil {
		n := connectBurst * l.connectionsOf(id.Role)
		p = &peer{
			connects:   rate.NewLimiter(rate.Limit(float64(n)/60), n),
			messages:   rate.NewLimiter(rate.Limit(l.Messages), publishBurst*l.Messages),
			bytes:      rate.NewLimiter(rate.Limit(l.Bytes), publishBurst*l.Bytes),
			heartbeats: rate.NewLimiter(rate.Limit(l.Heartbeats), heartbeatBurst*l.Heartbeats),
		}
		s.known[key] = p
	}
	return p
}

// isNew reports whether an identity is as one that never was here.
func (p *peer) isNew(now time.Time) bool {
	if len(p.conns) > 0 {
		return false
	}
	for _, r := range []*rate.Limiter{p.connects, p.messages, p.bytes, p.heartbeats} {
		if r.TokensAt(now) < float64(r.Burst()) {
			return false
		}
	}
	return true
}

// beats reports whether a heartbeat of a connection counts. One with QoS 1 always does: its writer is slowed down instead.
func (l *limits) beats(c *conn, qos byte) bool {
	if c.peer == nil || qos > 0 || c.peer.heartbeats.Allow() {
		return true
	}
	l.hit(limitHeartbeats, c.identity.Name, "heartbeats dropped", fmt.Errorf("more than %d a second", l.Heartbeats))
	return false
}

// addSession keeps a session in mind that outlives its connection; beyond the bound the one whose client left the longest ago is dropped. The lock
// hook.attach is held.
func (l *limits) addSession(s *session, id topics.Identity) {
	if id.Role == topics.RoleFleet || id.Role == topics.RoleSimulator || strings.HasPrefix(s.id, byDial+"/") {
		return
	}
	key := identityKey(id)
	kept := l.h.kept[key]
	for len(kept) >= l.SessionsPerIdentity {
		var oldest *session
		for _, k := range kept {
			if k.owned() == nil && (oldest == nil || k.left < oldest.left) {
				oldest = k
			}
		}
		if oldest == nil {
			break // all are here: their connections are bounded
		}
		l.hit(limitSessions, id.Name, "session dropped", fmt.Errorf("client %q left the longest ago of %d whose sessions are kept", oldest.id, len(kept)))
		l.h.drop(oldest) // and removeSession
		kept = l.h.kept[key]
	}
	l.h.kept[key] = append(kept, s)
	s.keptAs = key
}

// removeSession forgets one. The lock hook.attach is held.
func (l *limits) removeSession(s *session) {
	if s.keptAs == "" {
		return
	}
	rest := slices.DeleteFunc(l.h.kept[s.keptAs], func(k *session) bool { return k == s })
	if len(rest) == 0 {
		delete(l.h.kept, s.keptAs)
	} else {
		l.h.kept[s.keptAs] = rest
	}
	s.keptAs = ""
}

// slow is called for a session whose queue is full, with since when. A client that does not catch up within the bound is disconnected: what it
// misses grows, and it had better begin anew.
func (l *limits) slow(c *conn, since time.Time) {
	if time.Since(since) < l.SlowReader || !c.slow.CompareAndSwap(false, true) {
		return
	}
	l.hit(limitSlowReader, c.identity.Name, "client disconnected", fmt.Errorf("client %q reads so slowly that its queue has been full for %s", c.client.ID, l.SlowReader))
	l.sendAway(c, packets.ErrQuotaExceeded, "it reads too slowly")
}
