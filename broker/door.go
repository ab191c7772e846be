package broker

import (
	"container/list"
	"crypto/tls"
	"fmt"
	"hash/maphash"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Bounds of what is remembered of addresses.
const (
	maxAddresses   = 65_536 // told apart; those that come then share the rate of others
	sharedRates    = 64
	sweepAddresses = time.Second // between two looks for addresses that may be forgotten, while there are too many
)

// door is what is known of who is connected from where. A connection passes before a byte of it is read and before TLS begins, so that
// one too many costs next to nothing.
type door struct {
	mu     sync.Mutex
	seed   maphash.Seed
	known  map[netip.Prefix]*address
	shared []*rate.Limiter
	swept  time.Time
	coming list.List // of *place, the oldest first: connections whose CONNECT was not accepted yet
}

// address is one IPv4 address or one /64 of IPv6.
type address struct {
	prefix netip.Prefix
	open   int
	coming list.List // of *place, as door.coming
	opened *rate.Limiter
}

// place is that of one connection in the door's books. Leave may be called again.
type place struct {
	d        *door
	conn     net.Conn // below TLS
	from     *address
	all, own *list.Element // in the lists of those who come; nil for one that has come or left
	left     bool
}

func (d *door) init() {
	d.seed, d.known = maphash.MakeSeed(), map[netip.Prefix]*address{}
}

// prefixOf is the part of an address that one owner can change at will.
func prefixOf(a net.Addr) netip.Prefix {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Prefix{} // no IP: all such are one
	}
	ip := ap.Addr().Unmap().WithZone("")
	bits := ip.BitLen()
	if ip.Is6() {
		bits = 64
	}
	p, _ := ip.Prefix(bits) // the bits are right
	return p
}

// enter lets a connection in, or says why not. The caller closes one that is refused.
func (l *limits) enter(c net.Conn) (*place, error) {
	prefix, now := prefixOf(c.RemoteAddr()), time.Now()
	d := &l.door
	d.mu.Lock()
	a := d.address(l, prefix, now)
	bound := l.loopback || !prefix.Addr().IsLoopback()
	var err error
	switch {
	case bound && a.open >= l.ConnectionsPerAddress:
		l.met[limitAddressConnections].Add(1)
		err = fmt.Errorf("it has %d connections, as many as broker.limits.connections_per_address says", a.open)
	case bound && !a.opened.AllowN(now, 1):
		l.met[limitAddressConnects].Add(1)
		err = fmt.Errorf("it connects more than %d times a second, broker.limits.connects_per_address", l.ConnectsPerAddress)
	}
	if err != nil {
		d.mu.Unlock()
		l.h.counters.refusedConnect.Add(1)
		l.h.refuse(prefix.String(), "connection refused", err)
		return nil, err
	}
	var victim *place
	if d.coming.Len() >= l.Handshakes {
		victim = d.oldest(a, l.Handshakes)
		victim.came()
	}
	t := &place{d: d, conn: c, from: a}
	a.open++
	t.all, t.own = d.coming.PushBack(t), a.coming.PushBack(t)
	d.mu.Unlock()
	if victim != nil {
		l.hit(limitHandshakes, victim.from.prefix.String(), "connection closed",
			fmt.Errorf("%d connections are on their way to CONNECT, and this was the oldest", l.Handshakes))
		victim.conn.Close()
	}
	return t, nil
}

// oldest is who makes room for a newcomer: one from its own address where many of them are, so that one address cannot
// push out all the others.
func (d *door) oldest(newcomer *address, most int) *place {
	if newcomer.coming.Len() > 0 && newcomer.coming.Len() >= most/8 {
		return newcomer.coming.Front().Value.(*place)
	}
	return d.coming.Front().Value.(*place)
}

// address finds or makes what is known of an address. The lock is held.
func (d *door) address(l *limits, prefix netip.Prefix, now time.Time) *address {
	if a := d.known[prefix]; a != nil {
		return a
	}
	if len(d.known) >= maxAddresses && now.Sub(d.swept) >= sweepAddresses {
		d.swept = now
		for p, a := range d.known {
			if a.open == 0 && a.opened.TokensAt(now) >= float64(l.ConnectBurst) { // as one that never came
				delete(d.known, p)
			}
		}
	}
	a := &address{prefix: prefix}
	if len(d.known) < maxAddresses {
		a.opened = rate.NewLimiter(rate.Limit(l.ConnectsPerAddress), l.ConnectBurst)
	} else {
		if d.shared == nil {
			for range sharedRates {
				d.shared = append(d.shared, rate.NewLimiter(rate.Limit(l.ConnectsPerAddress), l.ConnectBurst))
			}
		}
		a.opened = d.shared[maphash.Comparable(d.seed, prefix)%sharedRates]
	}
	d.known[prefix] = a // beyond maxAddresses for as long as it is connected, see leave
	return a
}

// came takes a connection off the lists of those who come. The lock is held.
func (t *place) came() {
	if t.all != nil {
		t.d.coming.Remove(t.all)
		t.from.coming.Remove(t.own)
		t.all, t.own = nil, nil
	}
}

// arrived notes that CONNECT was accepted.
func (t *place) arrived() {
	if t == nil {
		return
	}
	t.d.mu.Lock()
	t.came()
	t.d.mu.Unlock()
}

// leave notes that the connection was closed.
func (t *place) leave() {
	if t == nil {
		return
	}
	t.d.mu.Lock()
	defer t.d.mu.Unlock()
	if t.left {
		return
	}
	t.left = true
	t.came()
	t.from.open--
	if t.from.open == 0 && len(t.d.known) > maxAddresses {
		delete(t.d.known, t.from.prefix) // its rate is shared and stays
	}
}

// gate is a listener's socket whose connections pass the door.
type gate struct {
	net.Listener
	l *limits
}

// Accept implements net.Listener.
func (g gate) Accept() (net.Conn, error) {
	for {
		c, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		t, err := g.l.enter(c)
		if err == nil {
			return &gated{Conn: c, place: t}, nil
		}
		if tc, ok := c.(*net.TCPConn); ok {
			_ = tc.SetLinger(0) // it is told at once, and the port is not kept
		}
		c.Close()
	}
}

// gated is a connection that passed the door.
type gated struct {
	net.Conn
	place *place
}

// Close implements net.Conn.
func (g *gated) Close() error {
	g.place.leave()
	return g.Conn.Close()
}

// pass gives a connection the place that it got by one of our listeners, or a new one if it came by another's HTTP server. False if it
// is turned away.
func (l *limits) pass(c *conn) bool {
	if c.known != nil {
		return true
	}
	c.meter.l = l
	raw := c.raw
	if t, ok := raw.(*tls.Conn); ok {
		raw = t.NetConn()
	}
	if g, ok := raw.(*gated); ok {
		c.place = g.place
		return true
	}
	var err error
	c.place, err = l.enter(raw)
	return err == nil
}
