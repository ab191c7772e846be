package ble

import (
	"context"
	"io"
	"sync"
	"sync/atomic"

	goble "github.com/go-ble/ble"
)

// pdus carries whole ATT packets one way and the other.
type pdus interface {
	// receive returns the next packet; an error ends the link.
	receive() ([]byte, error)
	send(p []byte) error
	close() error
}

// address is a device address as go-ble wants it.
type address string

func (a address) String() string { return string(a) }

// l2cap is one end of a link as go-ble's GATT client and ATT server see it: a ble.Conn.
type l2cap struct {
	pdus
	local, remote address
	rx, tx        atomic.Int32
	once          sync.Once
	done          chan struct{}
	mu            sync.Mutex
	ctx           context.Context //nolint:containedctx // go-ble's interface wants it
}

func newL2CAP(p pdus, local, remote address, rxMTU int) *l2cap {
	c := &l2cap{pdus: p, local: local, remote: remote, done: make(chan struct{}), ctx: context.Background()}
	c.rx.Store(int32(rxMTU))
	c.tx.Store(goble.DefaultMTU)
	return c
}

// Read implements ble.Conn: one packet a call.
func (c *l2cap) Read(b []byte) (int, error) {
	p, err := c.receive()
	if err != nil {
		_ = c.Close()
		return 0, err
	}
	if len(p) == 0 || len(p) > len(b) {
		// go-ble panics on an empty packet and truncates a long one: a peer that sends such is gone.
		_ = c.Close()
		return 0, io.ErrShortBuffer
	}
	return copy(b, p), nil
}

// Write implements ble.Conn: one packet a call.
func (c *l2cap) Write(p []byte) (int, error) {
	if err := c.send(append([]byte(nil), p...)); err != nil {
		_ = c.Close()
		return 0, err
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
