package hci

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/go-ble/ble/linux/hci/cmd"
)

// Sizes and channels of L2CAP on LE, Core Specification, vol. 3, part A.
const (
	l2capHeader = 4
	minATT      = 23
	maxATT      = 517 // the longest ATT packet that any device sends
	maxSignal   = 64  // bytes of a signalling or security packet that is read
	cidATT      = 0x0004
	cidSignal   = 0x0005
	cidSecurity = 0x0006
)

// packet boundary flags of ACL data, vol. 4, part E, section 5.4.2
const (
	boundaryFirst    = 0 // from the host
	boundaryContinue = 1
	boundaryStart    = 2 // from the controller
)

// maxQueued is how many packets a device may send ahead of whoever reads them. A device that sends more loses the link.
const maxQueued = 256

var errFlood = errors.New("the device sends more than is read")

// Conn is a connection to one device. Its methods are safe for concurrent use.
type Conn struct {
	host    *Host
	handle  uint16
	peer    Address
	sending chan struct{} // holds one while a packet is sent
	queue   chan []byte   // ATT packets that came in
	done    chan struct{} // closed when the connection is of no more use
	gone    chan struct{} // closed when the controller has ended it, too

	mu     sync.Mutex
	err    error  // why done is closed
	used   int    // buffers of the controller that hold packets of this connection
	freed  bool   // they were given back
	part   []byte // of a packet, with its L2CAP header
	wanted int    // bytes that part is to have; 0: there is none
}

func newConn(h *Host, e connected) *Conn {
	return &Conn{
		host: h, handle: e.handle, peer: e.peer, sending: make(chan struct{}, 1), queue: make(chan []byte, maxQueued),
		done: make(chan struct{}), gone: make(chan struct{}),
	}
}

// Peer is the other device.
func (c *Conn) Peer() Address { return c.peer }

// Done is closed when the connection is gone or Close was called.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Gone is closed when the controller has ended the connection, too. It is not where the host ended.
func (c *Conn) Gone() <-chan struct{} { return c.gone }

// Err is why Done is closed.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Receive returns the next ATT packet, which is the caller's to keep. Those that came before the connection ended are returned first.
func (c *Conn) Receive() ([]byte, error) {
	select {
	case p := <-c.queue:
		return p, nil
	default:
	}
	select {
	case p := <-c.queue:
		return p, nil
	case <-c.done:
		select {
		case p := <-c.queue:
			return p, nil
		default:
			return nil, c.Err()
		}
	}
}

// Send sends an ATT packet, and returns when the controller has all of it. It waits while the controller's buffers are full.
func (c *Conn) Send(p []byte) error {
	if len(p) == 0 || len(p) > maxATT {
		return fmt.Errorf("send an ATT packet of %d bytes: want 1 to %d", len(p), maxATT)
	}
	return c.send(cidATT, p)
}

func (c *Conn) send(cid uint16, p []byte) error {
	select {
	case c.sending <- struct{}{}:
	case <-c.done:
		return c.Err()
	}
	defer func() { <-c.sending }()
	b := make([]byte, 0, l2capHeader+len(p))
	b = binary.LittleEndian.AppendUint16(b, uint16(len(p)))
	b = binary.LittleEndian.AppendUint16(b, cid)
	b = append(b, p...)
	boundary := uint16(boundaryFirst)
	for len(b) > 0 {
		n := min(len(b), c.host.size)
		if err := c.fragment(boundary, b[:n]); err != nil {
			return err
		}
		b, boundary = b[n:], boundaryContinue
	}
	return nil
}

// fragment sends one ACL packet once the controller has room.
func (c *Conn) fragment(boundary uint16, data []byte) error {
	select {
	case <-c.host.buffers:
	case <-c.done:
		return c.Err()
	}
	c.mu.Lock()
	if c.freed {
		c.mu.Unlock()
		c.host.buffers <- struct{}{} // there is room: it was just taken
		return c.Err()
	}
	c.used++
	c.mu.Unlock()
	p := make([]byte, 0, 5+len(data))
	p = append(p, packetACL)
	p = binary.LittleEndian.AppendUint16(p, c.handle|boundary<<12)
	p = binary.LittleEndian.AppendUint16(p, uint16(len(data)))
	return c.host.write(append(p, data...))
}

// completed frees buffers that the controller is done with. A controller that counts too many frees no more than were used.
func (h *Host) completed(handle uint16, packets int) {
	h.mu.Lock()
	c := h.conns[handle]
	h.mu.Unlock()
	if c != nil {
		c.free(packets)
	}
}

func (c *Conn) free(n int) {
	c.mu.Lock()
	n = min(n, c.used)
	c.used -= n
	c.mu.Unlock()
	for range n {
		c.host.buffers <- struct{}{} // there is room: each was taken
	}
}

// Close ends the connection at once for this side; the controller tells the other one.
func (c *Conn) Close() error {
	c.close()
	return nil
}

func (c *Conn) close() {
	if c.end(ErrClosed) {
		c.host.spawn(c.disconnect)
	}
}

// disconnect has the controller end the connection.
func (c *Conn) disconnect() {
	_, err := c.host.command(context.Background(), &cmd.Disconnect{ConnectionHandle: c.handle, Reason: reasonRemoteEnded})
	if errors.Is(err, StatusUnknownConnection) { // it was gone already
		c.host.mu.Lock()
		defer c.host.mu.Unlock()
		if c.host.conns[c.handle] == c {
			c.host.drop(c, StatusUnknownConnection)
		}
	}
}

// end makes the connection useless for this side. It reports whether it was not so before.
func (c *Conn) end(err error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return false
	}
	c.err = err
	close(c.done)
	return true
}

// closing reports whether this side ended the connection.
func (c *Conn) closing() bool { return c.Err() != nil }

// disconnected takes the end of a connection from the controller.
func (h *Host) disconnected(handle uint16, reason StatusError) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c := h.conns[handle]; c != nil {
		h.drop(c, reason)
	}
}

// drop forgets a connection and gives its buffers back. The host's lock is held.
func (h *Host) drop(c *Conn, reason StatusError) {
	delete(h.conns, c.handle)
	c.end(reason)
	c.mu.Lock()
	n := c.used
	c.used, c.freed = 0, true
	c.mu.Unlock()
	for range n {
		h.buffers <- struct{}{}
	}
	close(c.gone)
}

// acl takes a data packet and puts ATT packets together.
func (h *Host) acl(b []byte) error {
	if len(b) < 4 || int(binary.LittleEndian.Uint16(b[2:])) != len(b)-4 {
		return errShort
	}
	head := binary.LittleEndian.Uint16(b)
	h.mu.Lock()
	c := h.conns[head&0x0fff]
	h.mu.Unlock()
	if c == nil {
		return nil // of a connection that just ended
	}
	if err := c.recombine(head>>12&3 == boundaryContinue, b[4:]); err != nil {
		if c.end(err) {
			h.spawn(c.disconnect)
		}
		return err
	}
	return nil
}

// recombine takes a fragment. It is called from the host's reader only. An error is the other device's fault.
func (c *Conn) recombine(more bool, data []byte) error {
	switch {
	case more && c.wanted == 0:
		return nil // the rest of what was not begun
	case !more:
		if len(data) < l2capHeader {
			return errShort
		}
		size, cid := int(binary.LittleEndian.Uint16(data)), binary.LittleEndian.Uint16(data[2:])
		if (cid == cidATT && (size == 0 || size > maxATT)) || size > maxATT {
			return fmt.Errorf("an L2CAP packet of %d bytes on channel %d", size, cid)
		}
		c.part, c.wanted = append(make([]byte, 0, l2capHeader+size), data...), l2capHeader+size
	default:
		c.part = append(c.part, data...)
	}
	if len(c.part) < c.wanted {
		return nil
	}
	p, whole := c.part, len(c.part) == c.wanted
	c.part, c.wanted = nil, 0
	if !whole {
		return fmt.Errorf("an L2CAP packet of %d bytes too many", len(p))
	}
	return c.dispatch(binary.LittleEndian.Uint16(p[2:]), p[l2capHeader:])
}

func (c *Conn) dispatch(cid uint16, p []byte) error {
	switch cid {
	case cidATT:
		select {
		case c.queue <- p:
		default:
			return errFlood
		}
	case cidSignal, cidSecurity:
		if answer := refuse(cid, p); answer != nil {
			// Not here: sending waits for this goroutine. A device that asks again while one answer waits gets one.
			select {
			case c.sending <- struct{}{}:
				<-c.sending
				c.host.spawn(func() { _ = c.send(cid, answer) }) // the link is gone if it fails
			default:
			}
		}
	}
	return nil // channels that nobody opened
}

// refuse is the answer to what is asked on the signalling and security channels, where nothing is offered: parameters of the
// link stay, and there is no pairing, since the session above ATT seals what it carries. nil: no answer is due.
func refuse(cid uint16, p []byte) []byte {
	const (
		signalReject, signalUpdateRequest, signalUpdateResponse = 0x01, 0x12, 0x13
		pairingRequest, pairingFailed, securityRequest          = 0x01, 0x05, 0x0b
		pairingNotSupported                                     = 0x05
	)
	if cid == cidSecurity {
		if len(p) > 0 && (p[0] == pairingRequest || p[0] == securityRequest) {
			return []byte{pairingFailed, pairingNotSupported}
		}
		return nil
	}
	if len(p) < 4 || len(p) > maxSignal {
		return nil
	}
	switch code, id := p[0], p[1]; {
	case code == signalUpdateRequest:
		return []byte{signalUpdateResponse, id, 2, 0, 1, 0} // rejected
	case code&1 == 0 && id != 0: // a request
		return []byte{signalReject, id, 2, 0, 0, 0} // not understood
	}
	return nil
}
