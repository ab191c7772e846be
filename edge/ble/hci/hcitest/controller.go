// Package hcitest has Bluetooth controllers in memory, which hear each other, for tests of hosts.
package hcitest

import (
	"encoding/binary"
	"io"
	"sync"
	"syscall"
	"time"
)

// advertisingEvery is how often a controller that advertises is heard.
const advertisingEvery = 20 * time.Millisecond

// Air is what controllers share.
type Air struct {
	mu          sync.Mutex
	controllers []*Controller
	nextHandle  uint16
	stop        chan struct{}
	stopped     sync.WaitGroup
}

// NewAir makes an air without controllers.
func NewAir() *Air {
	a := &Air{nextHandle: 0x40, stop: make(chan struct{})}
	a.stopped.Go(a.advertise)
	return a
}

// Close ends the air; its controllers end with it.
func (a *Air) Close() {
	close(a.stop)
	a.stopped.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.controllers {
		c.unplug()
	}
}

// Options are what a controller has. Zero stands for its default.
type Options struct {
	BufferSize int  // bytes of an ACL packet's data; 251
	Buffers    int  // ACL packets; 8
	NoAddress  bool // no public address
}

// Controller is a Bluetooth controller as its host sees it: a packet a Read or Write.
type Controller struct {
	air       *Air
	options   Options
	address   [6]byte
	noAddress bool // of its own; random once it was given one
	out       chan []byte
	gone      chan struct{}
	once      sync.Once

	// Of the air's lock.
	advertising, scanning  bool
	data, response         []byte
	dialling               []byte // parameters of the connection that is wanted
	links                  map[uint16]*link
	silent                 bool // answers nothing
	deaf                   bool // carries no data
	mangle                 func(p []byte) []byte
	refused                map[uint16]byte
	commands               []uint16
	loseAfter, transferred int // lose the links after so many data packets from this controller; 0: never
}

type link struct {
	peer       *Controller
	peerHandle uint16
}

// Add puts a controller on air.
func (a *Air) Add(o Options) *Controller {
	if o.BufferSize == 0 {
		o.BufferSize = 251
	}
	if o.Buffers == 0 {
		o.Buffers = 8
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	c := &Controller{
		air: a, options: o, address: [6]byte{byte(len(a.controllers) + 1), 0, 0, 0xaa, 0xbb, 0xc0},
		noAddress: o.NoAddress, out: make(chan []byte, 4096), gone: make(chan struct{}), links: map[uint16]*link{}, refused: map[uint16]byte{},
	}
	a.controllers = append(a.controllers, c)
	return c
}

// Address is the controller's, little endian.
func (c *Controller) Address() [6]byte { return c.address }

// Read gives the host one packet.
func (c *Controller) Read(p []byte) (int, error) {
	select {
	case b := <-c.out:
		return copy(p, b), nil
	case <-c.gone:
		return 0, syscall.EPIPE
	}
}

// Write takes one packet of the host.
func (c *Controller) Write(p []byte) (int, error) {
	select {
	case <-c.gone:
		return 0, syscall.ENODEV
	default:
	}
	if len(p) < 3 {
		return 0, io.ErrShortWrite
	}
	c.air.mu.Lock()
	defer c.air.mu.Unlock()
	switch p[0] {
	case 1:
		c.command(binary.LittleEndian.Uint16(p[1:]), append([]byte(nil), p[4:]...))
	case 2:
		c.carry(append([]byte(nil), p[1:]...))
	}
	return len(p), nil
}

// Close is the host's.
func (c *Controller) Close() error {
	c.air.mu.Lock()
	defer c.air.mu.Unlock()
	c.unplug()
	return nil
}

// Unplug takes the controller away from its host.
func (c *Controller) Unplug() { _ = c.Close() }

func (c *Controller) unplug() {
	c.once.Do(func() {
		close(c.gone)
		c.advertising, c.scanning = false, false
		for h := range c.links {
			c.lose(h)
		}
	})
}

// Silence has the controller answer nothing from now on, as one whose firmware hangs.
func (c *Controller) Silence() { c.set(func() { c.silent = true }) }

// Deafen has it carry no data and complete none, or do so again.
func (c *Controller) Deafen(deaf bool) { c.set(func() { c.deaf = deaf }) }

// Mangle sets what becomes of each data packet from this controller's host, behind the handle and length; nil drops it.
func (c *Controller) Mangle(f func([]byte) []byte) { c.set(func() { c.mangle = f }) }

// Refuse has a command fail with a status.
func (c *Controller) Refuse(opcode uint16, status byte) { c.set(func() { c.refused[opcode] = status }) }

// Lose ends the controller's links without a word to the other side first.
func (c *Controller) Lose() {
	c.set(func() {
		for h := range c.links {
			c.lose(h)
		}
	})
}

// Links counts the controller's links.
func (c *Controller) Links() int {
	c.air.mu.Lock()
	defer c.air.mu.Unlock()
	return len(c.links)
}

// Inject gives the host a packet.
func (c *Controller) Inject(p []byte) { c.set(func() { c.send(p) }) }

// InjectData gives the host data on its first link, with an L2CAP header that is the caller's to make.
func (c *Controller) InjectData(b []byte) {
	c.set(func() {
		for h := range c.links {
			c.acl(h, 2, b)
			return
		}
	})
}

func (c *Controller) set(f func()) {
	c.air.mu.Lock()
	defer c.air.mu.Unlock()
	f()
}

func (c *Controller) send(p []byte) {
	select {
	case <-c.gone:
	case c.out <- p:
	default: // a host that reads nothing
	}
}

func (c *Controller) event(code byte, b ...byte) {
	c.send(append([]byte{4, code, byte(len(b))}, b...))
}

func (c *Controller) complete(opcode uint16, b ...byte) {
	c.event(0x0e, append([]byte{1, byte(opcode), byte(opcode >> 8)}, b...)...)
}

func (c *Controller) acl(handle, boundary uint16, b []byte) {
	p := binary.LittleEndian.AppendUint16([]byte{2}, handle|boundary<<12)
	p = binary.LittleEndian.AppendUint16(p, uint16(len(b)))
	c.send(append(p, b...))
}

// lose ends a link on both sides.
func (c *Controller) lose(handle uint16) {
	l := c.links[handle]
	if l == nil {
		return
	}
	delete(c.links, handle)
	delete(l.peer.links, l.peerHandle)
	c.event(0x05, 0, byte(handle), byte(handle>>8), 0x08)
	l.peer.event(0x05, 0, byte(l.peerHandle), byte(l.peerHandle>>8), 0x08)
}

// carry carries a data packet to the other side of a link.
func (c *Controller) carry(p []byte) {
	if len(p) < 4 || c.deaf {
		return
	}
	head := binary.LittleEndian.Uint16(p)
	l := c.links[head&0x0fff]
	if l == nil {
		return
	}
	boundary, b := head>>12&3, p[4:]
	if boundary == 0 {
		boundary = 2
	}
	if c.mangle != nil {
		b = c.mangle(b)
	}
	if b != nil {
		l.peer.acl(l.peerHandle, boundary, b)
	}
	c.event(0x13, 1, byte(head), byte(head>>8)&0x0f, 1, 0)
	if c.transferred++; c.loseAfter > 0 && c.transferred%c.loseAfter == 0 {
		c.lose(head & 0x0fff)
	}
}

func (c *Controller) command(opcode uint16, p []byte) {
	c.commands = append(c.commands, opcode)
	if c.silent {
		return
	}
	if status, ok := c.refused[opcode]; ok {
		c.complete(opcode, status)
		return
	}
	switch opcode {
	case 0x0c03: // reset
		c.advertising, c.scanning, c.dialling = false, false, nil
		c.complete(opcode, 0)
	case 0x1009: // address
		if c.noAddress {
			c.complete(opcode, make([]byte, 7)...)
			return
		}
		c.complete(opcode, append([]byte{0}, c.address[:]...)...)
	case 0x2005: // random address
		c.address = [6]byte(p)
		c.complete(opcode, 0)
	case 0x2002: // buffers
		c.complete(opcode, 0, byte(c.options.BufferSize), byte(c.options.BufferSize>>8), byte(c.options.Buffers))
	case 0x0c01, 0x2001, 0x2006, 0x200b:
		c.complete(opcode, 0)
	case 0x2008:
		c.data = p[1 : 1+p[0]]
		c.complete(opcode, 0)
	case 0x2009:
		c.response = p[1 : 1+p[0]]
		c.complete(opcode, 0)
	case 0x200a:
		if len(c.links) > 0 { // as controllers that have but one link
			c.complete(opcode, 0x0c)
			return
		}
		c.advertising = p[0] == 1
		c.complete(opcode, 0)
	case 0x200c:
		c.scanning = p[0] == 1
		c.complete(opcode, 0)
	case 0x200d:
		c.dialling = p
		c.event(0x0f, 0, 1, byte(opcode), byte(opcode>>8))
	case 0x200e:
		if c.dialling == nil {
			c.complete(opcode, 0x0c)
			return
		}
		c.dialling = nil
		c.complete(opcode, 0)
		c.event(0x3e, append([]byte{1, 2}, make([]byte, 17)...)...)
	case 0x0406:
		c.event(0x0f, 0, 1, byte(opcode), byte(opcode>>8))
		c.lose(binary.LittleEndian.Uint16(p))
	default:
		c.event(0x0f, 1, 1, byte(opcode), byte(opcode>>8))
	}
}

// advertise has those who scan and dial hear who advertises.
func (a *Air) advertise() {
	ticker := time.NewTicker(advertisingEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-a.stop:
			return
		}
		a.mu.Lock()
		for _, c := range a.controllers {
			if c.advertising {
				a.heard(c)
			}
		}
		a.mu.Unlock()
	}
}

func (a *Air) heard(c *Controller) {
	for _, o := range a.controllers {
		if o == c || o.silent {
			continue
		}
		if o.dialling != nil && o.dialling[5] == c.addressType() && [6]byte(o.dialling[6:12]) == c.address {
			a.connect(o, c)
			return
		}
		if o.scanning {
			o.report(0, c, c.data)
			o.report(4, c, c.response)
		}
	}
}

func (c *Controller) addressType() byte {
	if c.noAddress {
		return 1
	}
	return 0
}

func (c *Controller) report(kind byte, from *Controller, data []byte) {
	b := append([]byte{2, 1, kind, from.addressType()}, from.address[:]...)
	b = append(append(b, byte(len(data))), data...)
	c.event(0x3e, append(b, 0xc4)...)
}

func (a *Air) connect(central, peripheral *Controller) {
	central.dialling, peripheral.advertising = nil, false
	h := [2]uint16{a.nextHandle, a.nextHandle + 1}
	a.nextHandle += 2
	both := [2]*Controller{central, peripheral}
	for i, c := range both {
		c.links[h[i]] = &link{peer: both[1-i], peerHandle: h[1-i]}
		b := []byte{1, 0, byte(h[i]), byte(h[i] >> 8), byte(i), both[1-i].addressType()}
		b = append(b, both[1-i].address[:]...)
		c.event(0x3e, append(b, 24, 0, 0, 0, 0x90, 1, 0)...)
	}
}

// LoseAfter has the controller's links lost after each n data packets of its host from now on; 0: never.
func (c *Controller) LoseAfter(n int) { c.set(func() { c.loseAfter, c.transferred = n, 0 }) }
