package broker

import (
	"errors"
	"fmt"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"golang.org/x/time/rate"
)

// meter follows the packets of one connection as their bytes are read, without keeping any. Before CONNECT it lets nothing long by, since Mochi makes
// room for a packet as soon as it has read its length; after it, it slows an identity down that sends too much. It is
// used by the goroutine of the connection only.
type meter struct {
	l     *limits // nil: nothing is bounded
	state byte
	kind  byte // type of the packet in hand
	shift uint
	left  int // of its bytes
	count int // packets that began

	most  int       // bytes of a packet; 0 until CONNECT was accepted
	until time.Time // nothing is read before
	bytes int64     // read so far

	control int // frames of a WebSocket that brought nothing, before CONNECT
}

// States of a meter.
const (
	atType byte = iota
	atLength
	atBody
)

// subscribeCost is how many packets each filter of a SUBSCRIBE or UNSUBSCRIBE counts for, beside its own: what is retained is looked through for it.
const subscribeCost = 3

// leastPacket is how many bytes a packet counts for at least: each costs work.
const leastPacket = 64

// errNoConnect and errLength are why a stranger's connection ends.
var (
	errNoConnect = errors.New("it does not begin with CONNECT")
	errLength    = errors.New("the length of a packet has more than four bytes")
)

// errTooLong is a packet that is longer than it may be.
type errTooLong struct {
	limit      limit
	bytes, max int
}

// Error implements error.
func (e errTooLong) Error() string {
	return fmt.Sprintf("a packet of %d bytes: at most %d", e.bytes, e.max)
}

// take follows what was read: how many packets began in it that count, and for how many bytes it counts.
func (m *meter) take(p []byte) (messages, bytes int, err error) {
	m.bytes += int64(len(p))
	bytes = len(p)
	for len(p) > 0 {
		switch m.state {
		case atType:
			m.kind, m.state, m.left, m.shift = p[0]>>4, atLength, 0, 0
			p = p[1:]
			if m.count++; m.count == 1 && m.kind != packets.Connect {
				return 0, 0, errNoConnect
			}
			if m.kind != packets.Puback {
				messages++
			}
		case atLength:
			b := p[0]
			p = p[1:]
			m.left |= int(b&0x7f) << m.shift
			if m.shift += 7; b&0x80 != 0 {
				if m.shift > 21 {
					return 0, 0, errLength
				}
				continue
			}
			if err := m.check(); err != nil {
				return 0, 0, err
			}
			if m.left < leastPacket {
				bytes += leastPacket - m.left
			}
			if m.state = atBody; m.left == 0 {
				m.state = atType
			}
		default:
			n := min(len(p), m.left)
			p = p[n:]
			if m.left -= n; m.left == 0 {
				m.state = atType
			}
		}
	}
	return messages, bytes, nil
}

// check looks at a packet's length before anything is kept of it. What comes right behind CONNECT is Mochi's to look at, once that was accepted.
func (m *meter) check() error {
	switch {
	case m.count == 1 && m.left > m.l.ConnectBytes:
		return errTooLong{limitConnectBytes, m.left, m.l.ConnectBytes}
	case m.most > 0 && m.left > m.most:
		return errTooLong{limitPacketBytes, m.left, m.most}
	case m.left > m.l.PacketBytes:
		return errTooLong{limitPacketBytes, m.left, m.l.PacketBytes}
	}
	return nil
}

// Read gives Mochi what comes, no faster than its identity may send.
func (c *conn) Read(p []byte) (int, error) {
	m := &c.meter
	if m.l == nil {
		return c.Conn.Read(p)
	}
	m.pause(c)
	n, err := c.Conn.Read(p)
	if n == 0 {
		return n, err
	}
	messages, bytes, wrong := m.take(p[:n])
	if wrong != nil {
		m.refuse(c, wrong)
		return 0, wrong
	}
	m.charge(c, messages, bytes)
	return n, err
}

// charge puts work on an identity's account.
func (m *meter) charge(c *conn, messages, bytes int) {
	if c.peer == nil {
		return
	}
	now := time.Now()
	if wait := max(reserve(c.peer.messages, now, messages), reserve(c.peer.bytes, now, bytes)); wait > 0 {
		m.until = now.Add(wait)
	}
}

// reserve takes n from a rate and says when they may be used.
func reserve(r *rate.Limiter, now time.Time, n int) (wait time.Duration) {
	for burst := r.Burst(); n > 0; n -= burst {
		wait = r.ReserveN(now, min(n, burst)).DelayFrom(now)
	}
	return wait
}

// pause waits until the connection may be read from. Its client is not late meanwhile.
func (m *meter) pause(c *conn) {
	if m.until.IsZero() {
		return
	}
	wait := time.Until(m.until)
	m.until = time.Time{}
	if wait <= 0 {
		return
	}
	m.l.hit(limitPublishRate, c.identity.Name, "publisher slowed down", fmt.Errorf("client %q sends more than %d packets or %d bytes a second", c.client.ID, m.l.Messages, m.l.Bytes))
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
	case <-c.gone:
	}
	_ = c.SetDeadline(time.Time{})
}

// refuse ends a connection whose packets are wrong. A stranger is told of by unheard.
func (m *meter) refuse(c *conn, err error) {
	var long errTooLong
	if errors.As(err, &long) {
		m.l.met[long.limit].Add(1)
	}
	if c.keepAlive.Load() < 0 {
		return
	}
	m.l.h.counters.refusedForm.Add(1)
	m.l.h.refuse(c.identity.Name, "client disconnected", err)
	c.sendAway(c.client, packets.ErrPacketTooLarge, err.Error())
}

// maxIdleFrames is how many WebSocket frames may come before CONNECT without a byte of it: browsers send none.
const maxIdleFrames = 64

// frame counts a frame of a WebSocket: pings, and messages with nothing in them, are work that no packet tells of.
func (c *conn) frame() error {
	if c.meter.l == nil {
		return nil
	}
	if c.keepAlive.Load() < 0 {
		if c.meter.control++; c.meter.control > maxIdleFrames {
			return errNoConnect
		}
		return nil
	}
	c.meter.charge(c, 1, leastPacket)
	c.meter.pause(c)
	return nil
}
