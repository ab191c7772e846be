package ble

import (
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	goble "github.com/go-ble/ble"
)

// pdus carries whole ATT packets one way and the other. Its methods may be called from any goroutine.
type pdus interface {
	// receive returns the next packet; an error ends the link.
	receive() ([]byte, error)
	send(p []byte) error
	close() error
}

// address is a device address as go-ble wants it.
type address string

func (a address) String() string { return string(a) }

// l2cap is one end of a link as go-ble's GATT client and ATT server see it: a ble.Conn, with a guard
// before it.
type l2cap struct {
	pdus
	guard         guard
	local, remote address
	rx, tx        atomic.Int32
	once          sync.Once
	done          chan struct{}
	room          chan struct{} // one for each notification that go-ble holds
	mu            sync.Mutex
	ctx           context.Context //nolint:containedctx // go-ble's interface wants it
	err           error           // why the link ended, if the other side broke the rules
}

func newL2CAP(p pdus, g guard, local, remote address, rxMTU int) *l2cap {
	c := &l2cap{pdus: p, guard: g, local: local, remote: remote, done: make(chan struct{}), room: make(chan struct{}, MaxPending), ctx: context.Background()}
	c.rx.Store(int32(rxMTU))
	c.tx.Store(goble.DefaultMTU)
	return c
}

// Read implements ble.Conn: one packet a call, of those that the guard lets through.
func (c *l2cap) Read(b []byte) (int, error) {
	for {
		p, err := c.receive()
		if err != nil {
			return 0, c.fail(nil, err)
		}
		if len(p) == 0 || len(p) > len(b) {
			// go-ble panics on an empty packet, and stops reading with the link up at a long one.
			return 0, c.fail(fmt.Errorf("%w: %d bytes, at most %d are taken", errMalformed, len(p), len(b)), io.ErrShortBuffer)
		}
		pass, answer, err := c.guard.in(p)
		if err == nil && answer != nil {
			_, err = c.Write(answer)
		}
		if err != nil {
			return 0, c.fail(err, err)
		}
		if pass && c.admit(p) {
			return copy(b, p), nil
		}
	}
}

// admit waits with a notification until go-ble has room for it, which would drop it otherwise.
func (c *l2cap) admit(p []byte) bool {
	if p[0] != attNotification {
		return true
	}
	select {
	case c.room <- struct{}{}:
		return true
	case <-c.done:
		return false // the next receive says so
	}
}

// handled is called when a notification went through go-ble.
func (c *l2cap) handled() { <-c.room }

// fail ends the link and returns err. why is kept if it is the other side's fault.
func (c *l2cap) fail(why, err error) error {
	c.mu.Lock()
	if c.err == nil {
		c.err = why
	}
	c.mu.Unlock()
	_ = c.Close()
	return err
}

// cause is what the other side did that ended the link, nil if nothing.
func (c *l2cap) cause() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Write implements ble.Conn: one packet a call.
func (c *l2cap) Write(p []byte) (int, error) {
	c.guard.out(p)
	if err := c.send(append([]byte(nil), p...)); err != nil {
		return 0, c.fail(nil, err)
	}
	return len(p), nil
}

// Close implements ble.Conn.
func (c *l2cap) Close() error {
	var err error
	c.once.Do(func() {
		close(c.done)
		err = c.pdus.close()
	})
	return err
}

// Context implements ble.Conn.
func (c *l2cap) Context() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ctx
}

// SetContext implements ble.Conn.
func (c *l2cap) SetContext(ctx context.Context) {
	c.mu.Lock()
	c.ctx = ctx
	c.mu.Unlock()
}

// LocalAddr implements ble.Conn.
func (c *l2cap) LocalAddr() goble.Addr { return c.local }

// RemoteAddr implements ble.Conn.
func (c *l2cap) RemoteAddr() goble.Addr { return c.remote }

// RxMTU implements ble.Conn.
func (c *l2cap) RxMTU() int { return int(c.rx.Load()) }

// SetRxMTU implements ble.Conn.
func (c *l2cap) SetRxMTU(n int) { c.rx.Store(int32(n)) }

// TxMTU implements ble.Conn.
func (c *l2cap) TxMTU() int { return int(c.tx.Load()) }

// SetTxMTU implements ble.Conn.
func (c *l2cap) SetTxMTU(n int) { c.tx.Store(int32(n)) }

// ReadRSSI implements ble.Conn.
func (c *l2cap) ReadRSSI() int { return int(airRSSI) }

// Disconnected implements ble.Conn.
func (c *l2cap) Disconnected() <-chan struct{} { return c.done }

// mtu is what a value on this end may use: neither side takes more than it said.
func (c *l2cap) mtu() int { return max(MinMTU, min(c.RxMTU(), c.TxMTU(), MaxMTU)) }
