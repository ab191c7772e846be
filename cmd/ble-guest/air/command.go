package air

import (
	"encoding/binary"
	"time"
)

const (
	minPayload     = 27 // bytes of a link layer packet that every device takes
	maxAdvertising = 31
	firstHandle    = 0x40
	lastHandle     = 0x0eff
)

// dialDelay is the least time from a request to connect to its completion. A controller needs an advertisement
// first; go-ble's own host takes a completion that comes at once for one that nobody asked for.
const dialDelay = 3 * time.Millisecond

// controller is one device with a host.
type controller struct {
	id             int
	s              Settings
	suggested      int // bytes of a link layer packet that the host wants, of new links
	advertising    bool
	advertiseAt    time.Time
	advertiseEvery time.Duration
	data, response []byte
	scanning       bool
	active, unique bool
	seen           []Address // where unique
	dial           *dial     // a connection that is wanted
	nextHandle     uint16
}

type dial struct {
	peer        Address
	at          time.Time
	interval    uint16 // 1.25 ms
	supervision uint16 // 10 ms
}

// wants reports whether the controller answers an advertisement with a request to connect.
func (c *controller) wants(now time.Time, addr Address) bool {
	return c.dial != nil && c.dial.peer == addr && now.Sub(c.dial.at) >= dialDelay
}

// command is how a command is carried out: its parameters' size, and what to do.
type command struct {
	size int
	run  func(a *Air, now time.Time, c *controller, opcode uint16, p []byte)
}

// answer is a command without parameters that returns the same bytes each time, the status first.
func answer(ret ...byte) command {
	return command{0, func(a *Air, _ time.Time, c *controller, opcode uint16, _ []byte) {
		a.send(c.id, commandComplete(opcode, ret...))
	}}
}

// set is a command that changes the controller and returns a status.
func set(size int, f func(c *controller, now time.Time, p []byte) byte) command {
	return command{size, func(a *Air, now time.Time, c *controller, opcode uint16, p []byte) {
		a.send(c.id, commandComplete(opcode, f(c, now, p)))
	}}
}

// commands are those that the kernel's bring-up and LE hosts use, by opcode: vol. 4, part E, section 7.
func commands() map[uint16]command {
	nothing := func(*controller, time.Time, []byte) byte { return statusOK }
	zeros := func(n int) []byte { return make([]byte, n) }
	return map[uint16]command{
		0x0406: {3, (*Air).disconnect},
		0x0c01: set(8, nothing), // Set Event Mask
		0x0c03: {0, (*Air).reset},
		0x0c13: set(248, nothing),                       // Write Local Name
		0x0c14: answer(zeros(249)...),                   // Read Local Name
		0x0c6d: set(2, nothing),                         // Write LE Host Support
		0x1001: answer(0, 9, 0, 0, 9, 0xff, 0xff, 0, 0), // Read Local Version: 5.0
		0x1002: answer(zeros(65)...),                    // Read Local Supported Commands
		0x1003: answer(0, 0, 0, 0, 0, 0x60, 0, 0, 0),    // Read Local Supported Features: LE, no BR/EDR
		0x1005: answer(zeros(8)...),                     // Read Buffer Size: LE has its own
		0x1009: {0, (*Air).readAddress},
		0x1405: {2, (*Air).readRSSI},
		0x2001: set(8, nothing), // LE Set Event Mask
		0x2002: {0, (*Air).readBuffers},
		0x2003: {0, (*Air).readFeatures},
		0x2005: set(6, nothing), // LE Set Random Address
		0x2006: set(15, (*controller).setAdvertising),
		0x2007: answer(0, 8), // LE Read Advertising Channel Tx Power
		0x2008: set(32, (*controller).setData),
		0x2009: set(32, (*controller).setResponse),
		0x200a: set(1, (*controller).advertise),
		0x200b: set(7, (*controller).setScanning),
		0x200c: set(2, (*controller).scan),
		0x200d: {25, (*Air).createConnection},
		0x200e: {0, (*Air).cancelConnection},
		0x200f: answer(0, 8),    // LE Read Filter Accept List Size
		0x2010: set(0, nothing), // LE Clear Filter Accept List
		0x2013: {14, (*Air).updateConnection},
		0x201c: answer(0, 0xff, 0xff, 0xff, 0xff, 0xff, 3, 0, 0), // LE Read Supported States
		0x2023: {0, (*Air).readSuggested},
		0x2024: set(4, (*controller).suggest),
		0x202f: {0, (*Air).readLongest},
	}
}

// command carries out a host's command.
func (a *Air) command(now time.Time, c *controller, opcode uint16, p []byte) {
	spec, ok := a.commands[opcode]
	switch {
	case !ok:
		a.counts.Unknown++
		a.send(c.id, commandStatus(opcode, statusUnknownCommand))
	case len(p) != spec.size:
		a.counts.Malformed++
		a.send(c.id, commandComplete(opcode, statusParameters))
	default:
		spec.run(a, now, c, opcode, p)
	}
}

// reset forgets all that the host wanted.
func (a *Air) reset(_ time.Time, c *controller, opcode uint16, _ []byte) {
	a.abandon(c)
	*c = controller{id: c.id, s: c.s, nextHandle: c.nextHandle, suggested: minPayload}
	a.send(c.id, commandComplete(opcode, statusOK))
}

func (a *Air) readAddress(_ time.Time, c *controller, opcode uint16, _ []byte) {
	a.send(c.id, commandComplete(opcode, append([]byte{statusOK}, c.s.Address[:]...)...))
}

func (a *Air) readRSSI(_ time.Time, c *controller, opcode uint16, p []byte) {
	a.send(c.id, commandComplete(opcode, statusOK, p[0], p[1], byte(c.s.RSSI)))
}

func (a *Air) readBuffers(_ time.Time, c *controller, opcode uint16, _ []byte) {
	a.send(c.id, commandComplete(opcode, statusOK, byte(c.s.BufferSize), 0, byte(c.s.Buffers)))
}

// readFeatures tells LE features: the data length extension, where the controller has it.
func (a *Air) readFeatures(_ time.Time, c *controller, opcode uint16, _ []byte) {
	features := make([]byte, 9)
	if c.s.LinkPayload > minPayload {
		features[1] = 1 << 5
	}
	a.send(c.id, commandComplete(opcode, features...))
}

// airMicros is how long a link layer packet is on air at 1 Mbit/s, in µs: preamble, access address, header and check are 14 bytes
// with the integrity code that it may have.
func airMicros(payload int) uint16 { return uint16(8 * (payload + 14)) }

func (a *Air) readSuggested(_ time.Time, c *controller, opcode uint16, _ []byte) {
	m := airMicros(c.suggested)
	a.send(c.id, commandComplete(opcode, statusOK, byte(c.suggested), 0, byte(m), byte(m>>8)))
}

func (a *Air) readLongest(_ time.Time, c *controller, opcode uint16, _ []byte) {
	n, m := byte(c.s.LinkPayload), airMicros(c.s.LinkPayload)
	a.send(c.id, commandComplete(opcode, statusOK, n, 0, byte(m), byte(m>>8), n, 0, byte(m), byte(m>>8)))
}

// suggest is LE Write Suggested Default Data Length.
func (c *controller) suggest(_ time.Time, p []byte) byte {
	n := int(binary.LittleEndian.Uint16(p))
	if n < minPayload || n > 251 {
		return statusParameters
	}
	c.suggested = n
	return statusOK
}

func (c *controller) setAdvertising(_ time.Time, p []byte) byte {
	if c.advertising {
		return statusDisallowed
	}
	low, high := binary.LittleEndian.Uint16(p), binary.LittleEndian.Uint16(p[2:])
	if low < 0x20 || low > 0x4000 || high < low || high > 0x4000 {
		return statusParameters
	}
	c.advertiseEvery = time.Duration(low) * 625 * time.Microsecond
	return statusOK
}

func (c *controller) setData(_ time.Time, p []byte) byte {
	if p[0] > maxAdvertising {
		return statusParameters
	}
	c.data = append([]byte(nil), p[1:1+p[0]]...)
	return statusOK
}

func (c *controller) setResponse(_ time.Time, p []byte) byte {
	if p[0] > maxAdvertising {
		return statusParameters
	}
	c.response = append([]byte(nil), p[1:1+p[0]]...)
	return statusOK
}

func (c *controller) advertise(now time.Time, p []byte) byte {
	if c.advertiseEvery == 0 {
		c.advertiseEvery = 1280 * time.Millisecond
	}
	c.advertising = p[0] == 1
	c.advertiseAt = now.Add(c.advertiseEvery)
	return statusOK
}

func (c *controller) setScanning(_ time.Time, p []byte) byte {
	if c.scanning {
		return statusDisallowed
	}
	c.active = p[0] == 1
	return statusOK
}

func (c *controller) scan(_ time.Time, p []byte) byte {
	c.scanning, c.unique, c.seen = p[0] == 1, p[1] == 1, nil
	return statusOK
}

func (a *Air) createConnection(now time.Time, c *controller, opcode uint16, p []byte) {
	if c.dial != nil {
		a.send(c.id, commandStatus(opcode, statusDisallowed))
		return
	}
	d := &dial{peer: Address(p[6:12]), at: now, interval: binary.LittleEndian.Uint16(p[13:]), supervision: binary.LittleEndian.Uint16(p[19:])}
	if !validTiming(d.interval, d.supervision) {
		a.send(c.id, commandStatus(opcode, statusParameters))
		return
	}
	c.dial = d
	a.requests = append(a.requests, Request{At: now, Central: c.s.Address, Peer: d.peer})
	a.send(c.id, commandStatus(opcode, statusOK))
}

// validTiming checks a connection interval of 7.5 ms to 4 s and a supervision timeout of 100 ms to 32 s.
func validTiming(interval, supervision uint16) bool {
	return interval >= 6 && interval <= 3200 && supervision >= 10 && supervision <= 3200
}

func (a *Air) cancelConnection(_ time.Time, c *controller, opcode uint16, _ []byte) {
	if c.dial == nil {
		a.send(c.id, commandComplete(opcode, statusDisallowed))
		return
	}
	c.dial = nil
	a.send(c.id, commandComplete(opcode, statusOK))
	a.send(c.id, event(eventLE, []byte{leConnected, statusNoConnection}, make([]byte, 17)))
}
