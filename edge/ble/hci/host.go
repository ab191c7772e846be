// Package hci is a Bluetooth Low Energy host over one controller: it scans, dials, advertises and
// carries ATT packets. It takes go-ble's command encodings, but not go-ble's own host (linux/hci), whose dialling,
// sending and advertisement parsing hang or panic on what any device nearby may send or leave out: here nothing
// waits without an end, every packet is checked before it is read, and every queue has a bound.
package hci

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/go-ble/ble/linux/hci/cmd"
)

const (
	// commandTimeout is how long a controller may take over a command. Resets take the longest, about 1 s.
	commandTimeout = 3 * time.Second
	// MaxAdvertising is the size of advertising data and of a scan response, in bytes.
	MaxAdvertising = 31
	maxPacket      = 4096 // bytes of an HCI packet that is read
	maxBuffers     = 64   // of the controller that are used
)

var errShort = errors.New("a truncated HCI packet")

// Transport carries HCI packets, type byte first: one packet a Read or Write. Close ends both.
type Transport interface {
	io.ReadWriteCloser
}

// Params are what a Host asks of its controller. The zero value stands for the defaults.
type Params struct {
	Name string // of the adapter, for errors
}

// Host is a controller in use. Its methods are safe for concurrent use, but scanning and dialling
// take turns.
type Host struct {
	transport Transport
	name      string
	address   Address
	size      int           // bytes of data that an ACL packet takes
	buffers   chan struct{} // one for each free ACL buffer of the controller
	radio     chan struct{} // holds one while scanning or dialling
	turn      chan struct{} // holds one while a command is under way
	allowed   chan struct{} // holds one when the controller takes a command
	accepted  chan *Conn
	writing   sync.Mutex
	done      chan struct{}
	stopped   sync.WaitGroup
	spawning  sync.Mutex
	over      bool // nothing more is spawned

	mu        sync.Mutex
	err       error // why done is closed
	answer    chan []byte
	awaited   uint16 // opcode that answer is for
	conns     map[uint16]*Conn
	dialling  chan dialled
	listening func(Report)
	malformed uint64
}

type dialled struct {
	conn *Conn
	err  error
}

// Start resets the controller behind a transport and makes a host of it. It closes the transport where it fails.
func Start(ctx context.Context, t Transport, p Params) (*Host, error) {
	h := &Host{
		transport: t, name: p.Name, radio: make(chan struct{}, 1), turn: make(chan struct{}, 1), allowed: make(chan struct{}, 1),
		accepted: make(chan *Conn, 1), done: make(chan struct{}), conns: map[uint16]*Conn{},
	}
	h.allowed <- struct{}{}
	h.stopped.Go(h.read)
	if err := h.init(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("set up Bluetooth adapter %s: %w", p.Name, err), h.Close())
	}
	return h, nil
}

func (h *Host) init(ctx context.Context) error {
	if _, err := h.command(ctx, &cmd.Reset{}); err != nil {
		return fmt.Errorf("reset: %w", err)
	}
	address, err := h.command(ctx, &cmd.ReadBDADDR{})
	if err != nil || len(address) < 6 {
		return fmt.Errorf("read the address: %w", cmpErr(err, errShort))
	}
	h.address = Address{Bytes: [6]byte(address[:6])}
	if h.address == (Address{}) {
		if err := h.chooseAddress(ctx); err != nil {
			return err
		}
	}
	size, count, err := h.bufferSize(ctx)
	if err != nil {
		return err
	}
	h.size = size
	h.buffers = make(chan struct{}, count)
	for range count {
		h.buffers <- struct{}{}
	}
	for _, c := range []command{
		&cmd.SetEventMask{EventMask: 1<<4 | 1<<13 | 1<<14 | 1<<15 | 1<<18 | 1<<61}, // disconnected, command complete and status, hardware error, completed packets, LE
		&cmd.LESetEventMask{LEEventMask: 1<<(leConnected-1) | 1<<(leReport-1)},
	} {
		if _, err := h.command(ctx, c); err != nil {
			return fmt.Errorf("set the event mask: %w", err)
		}
	}
	// Both only help, and old controllers do not know them: LE on a dual-mode controller, long link layer packets.
	for _, c := range []command{&cmd.WriteLEHostSupport{LESupportedHost: 1}, suggestDataLength{}} {
		var refused StatusError
		if _, err := h.command(ctx, c); err != nil && !errors.As(err, &refused) {
			return err
		}
	}
	return nil
}

// chooseAddress gives a controller that was made without a public address a static random one, vol. 6, part B, section 1.3.2.1.
func (h *Host) chooseAddress(ctx context.Context) error {
	h.address.Random = true
	_, _ = rand.Read(h.address.Bytes[:]) // never fails
	h.address.Bytes[5] |= 0xc0
	c := &cmd.LESetRandomAddress{RandomAddress: h.address.Bytes}
	if _, err := h.command(ctx, c); err != nil {
		return fmt.Errorf("set a random address: %w", err)
	}
	return nil
}

// addressType is the type of the host's own address in commands.
func (h *Host) addressType() uint8 {
	if h.address.Random {
		return 1
	}
	return 0
}

// bufferSize asks for the controller's buffers for LE, which it may share with BR/EDR.
func (h *Host) bufferSize(ctx context.Context) (size, count int, err error) {
	b, err := h.command(ctx, &cmd.LEReadBufferSize{})
	if err != nil || len(b) < 3 {
		return 0, 0, fmt.Errorf("read the buffer size: %w", cmpErr(err, errShort))
	}
	size, count = int(binary.LittleEndian.Uint16(b)), int(b[2])
	if size == 0 || count == 0 {
		if b, err = h.command(ctx, &cmd.ReadBufferSize{}); err != nil || len(b) < 7 {
			return 0, 0, fmt.Errorf("read the buffer size: %w", cmpErr(err, errShort))
		}
		size, count = int(binary.LittleEndian.Uint16(b)), int(binary.LittleEndian.Uint16(b[3:]))
	}
	if size < l2capHeader+minATT || count == 0 {
		return 0, 0, fmt.Errorf("the controller has %d buffers of %d bytes: it cannot carry LE data", count, size)
	}
	return size, min(count, maxBuffers), nil
}

func cmpErr(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

// Address is the controller's own.
func (h *Host) Address() Address { return h.address }

// Done is closed when the host is closed, or its controller is gone or stuck.
func (h *Host) Done() <-chan struct{} { return h.done }

// Err is why Done is closed: ErrClosed, ErrGone or ErrStuck, wrapped.
func (h *Host) Err() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.err
}

// partingTime is how long Close waits for connections to end, so that the other devices need not find out by themselves.
const partingTime = time.Second

// Close ends the connections and the host and waits until nothing of it runs. It may be called again.
func (h *Host) Close() error {
	h.part()
	h.fail(ErrClosed)
	h.spawning.Lock()
	h.over = true
	h.spawning.Unlock()
	h.stopped.Wait()
	return nil
}

// part ends all connections.
func (h *Host) part() {
	h.mu.Lock()
	open := slices.Collect(maps.Values(h.conns))
	h.mu.Unlock()
	if len(open) == 0 {
		return
	}
	timer := time.NewTimer(partingTime)
	defer timer.Stop()
	for _, c := range open {
		c.close()
		select {
		case <-c.gone:
		case <-h.done:
			return
		case <-timer.C:
			return
		}
	}
}

// spawn runs f in a goroutine that Close waits for.
func (h *Host) spawn(f func()) {
	h.spawning.Lock()
	defer h.spawning.Unlock()
	if !h.over {
		h.stopped.Go(f)
	}
}

// fail ends the host.
func (h *Host) fail(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err != nil {
		return
	}
	h.err = lost(h.name, err)
	close(h.done)
	for _, c := range h.conns {
		c.end(h.err)
	}
	clear(h.conns)
	h.transport.Close()
}

// command is one of go-ble's command encodings, or alike.
type command interface {
	OpCode() int
	Len() int
	Marshal(b []byte) error
}

// suggestDataLength is LE Write Suggested Default Data Length, vol. 4, part E, section 7.8.34, with the longest packet.
type suggestDataLength struct{}

func (suggestDataLength) OpCode() int { return 0x08<<10 | 0x0024 }
func (suggestDataLength) Len() int    { return 4 }
func (suggestDataLength) Marshal(b []byte) error {
	binary.LittleEndian.PutUint16(b, 251)      // bytes
	binary.LittleEndian.PutUint16(b[2:], 2120) // µs on air
	return nil
}

// command sends a command and returns what its completion carries behind the status, nil if the controller only
// acknowledges it. The error is a StatusError if the controller refuses. A controller that does not answer ends the host.
func (h *Host) command(ctx context.Context, c command) ([]byte, error) {
	p := make([]byte, 4+c.Len())
	p[0] = packetCommand
	binary.LittleEndian.PutUint16(p[1:], uint16(c.OpCode()))
	p[3] = byte(c.Len())
	if err := c.Marshal(p[4:]); err != nil {
		return nil, err
	}
	select {
	case h.turn <- struct{}{}:
	case <-h.done:
		return nil, h.Err()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-h.turn }()
	timer := time.NewTimer(commandTimeout)
	defer timer.Stop()
	stuck := func() ([]byte, error) {
		h.fail(fmt.Errorf("%w: command %#04x took over %s", ErrStuck, c.OpCode(), commandTimeout))
		return nil, h.Err()
	}
	select {
	case <-h.allowed:
	case <-h.done:
		return nil, h.Err()
	case <-timer.C:
		return stuck()
	}
	answer := make(chan []byte, 1)
	h.await(uint16(c.OpCode()), answer)
	defer h.await(0, nil)
	if err := h.write(p); err != nil {
		return nil, err
	}
	select {
	case b := <-answer: // from here on ctx does not count: a command that was sent is not unsent
		if len(b) > 0 && b[0] != 0 {
			return nil, StatusError(b[0])
		}
		return b[min(1, len(b)):], nil
	case <-h.done:
		return nil, h.Err()
	case <-timer.C:
		return stuck()
	}
}

func (h *Host) await(opcode uint16, answer chan []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.awaited, h.answer = opcode, answer
}

// write sends one packet. Packets do not mix.
func (h *Host) write(p []byte) error {
	h.writing.Lock()
	_, err := h.transport.Write(p)
	h.writing.Unlock()
	if err != nil {
		h.fail(err)
		return h.Err()
	}
	return nil
}

// read handles what the controller sends until the transport ends.
func (h *Host) read() {
	buf := make([]byte, maxPacket)
	for {
		n, err := h.transport.Read(buf)
		if err != nil {
			h.fail(err)
			return
		}
		if err := h.packet(buf[:n]); err != nil {
			h.mu.Lock()
			h.malformed++
			h.mu.Unlock()
		}
	}
}

// Malformed counts the packets of the controller that could not be read.
func (h *Host) Malformed() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.malformed
}

// packet handles one packet of the controller. p is only valid within.
func (h *Host) packet(p []byte) error {
	if len(p) < 3 {
		return errShort
	}
	switch p[0] {
	case packetACL:
		return h.acl(p[1:])
	case packetEvent:
		if int(p[2]) != len(p)-3 {
			return errShort
		}
		return h.event(p[1], p[3:])
	}
	return nil // audio and the like are not for us
}

func (h *Host) event(code byte, b []byte) error {
	switch code {
	case eventCommandComplete:
		if len(b) < 3 {
			return errShort
		}
		h.answered(b[0], binary.LittleEndian.Uint16(b[1:]), b[3:])
	case eventCommandStatus:
		if len(b) < 4 {
			return errShort
		}
		h.answered(b[1], binary.LittleEndian.Uint16(b[2:]), b[:1])
	case eventHardwareError:
		h.fail(fmt.Errorf("%w: it reports a hardware error", ErrStuck))
	case eventDisconnected:
		if len(b) < 4 {
			return errShort
		}
		if b[0] == 0 {
			h.disconnected(binary.LittleEndian.Uint16(b[1:])&0x0fff, StatusError(b[3]))
		}
	case eventCompleted:
		return completed(b, h.completed)
	case eventLE:
		return h.meta(b)
	}
	return nil
}

func (h *Host) meta(b []byte) error {
	if len(b) < 1 {
		return errShort
	}
	switch b[0] {
	case leReport:
		h.mu.Lock()
		hear := h.listening
		h.mu.Unlock()
		if hear != nil {
			return reports(b[1:], hear)
		}
	case leConnected:
		e, err := parseConnected(b[1:])
		if err != nil {
			return err
		}
		h.connected(e)
	}
	return nil
}

// answered takes a command's completion or status.
func (h *Host) answered(allowed byte, opcode uint16, b []byte) {
	if allowed > 0 {
		select {
		case h.allowed <- struct{}{}:
		default:
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.answer != nil && opcode == h.awaited {
		h.answer <- append([]byte(nil), b...)
		h.answer = nil
	}
}
