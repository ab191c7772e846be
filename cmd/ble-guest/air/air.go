// Package air is a model of Bluetooth LE controllers that hear each other. A controller speaks HCI
// with its host, as a USB adapter does. On air it has advertising events, connection events with a
// budget of time, link layer packets of 27 to 251 bytes and supervision timeouts. Faults are put in
// from outside. The model takes its time from the caller and does nothing by itself: a test turns
// its clock, the guest runs it by the kernel's.
package air

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// Address is a public device address as on air: little endian.
type Address [6]byte

// String writes c0:ff:ee:00:00:01.
func (a Address) String() string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", a[5], a[4], a[3], a[2], a[1], a[0])
}

// MakeAddress is the address of a device by its number.
func MakeAddress(n uint16) Address { return Address{byte(n), byte(n >> 8), 0xee, 0xff, 0xc0, 0x02} }

// Settings are what a controller has. Zero stands for the default.
type Settings struct {
	Address     Address
	LinkPayload int  // bytes of a link layer packet, 27 to 251; 251
	Buffers     int  // data packets that it holds for its host, 1 to 255; 8
	BufferSize  int  // bytes of each, 27 to 251; 251
	RSSI        int8 // dBm, as others hear it; -60
}

// Counts count since the air was made.
type Counts struct {
	Malformed uint64 // packets of hosts that could not be read
	Unknown   uint64 // commands that no controller knows
	Overrun   uint64 // data packets of hosts that no buffer was free for
	Delivered uint64 // data packets
	Bytes     uint64 // in them
	LinksLost uint64 // by faults, not by a host's wish
}

// Request is a wish of a host to connect.
type Request struct {
	At      time.Time
	Central Address // who wants it
	Peer    Address
}

// Air is the model. It is not safe for concurrent use.
type Air struct {
	send        func(id int, packet []byte)
	rng         *rand.Rand
	commands    map[uint16]command
	controllers map[int]*controller
	order       []int // of controllers, so that a seed gives one course of events
	beacons     []*beacon
	links       []*link
	nextID      int
	requests    []Request
	counts      Counts
	faults      faults
}

// New makes an air without devices. send gets what controllers say to their hosts; it must not call the air.
func New(seed uint64, send func(id int, packet []byte)) *Air {
	return &Air{
		send: send, rng: rand.New(rand.NewPCG(seed, 0x61697221)), commands: commands(),
		controllers: map[int]*controller{}, faults: noFaults(),
	}
}

// Plug adds a controller and returns its number, which is not used again.
func (a *Air) Plug(s Settings) int {
	set := func(v *int, usual, low, high int) {
		if *v == 0 {
			*v = usual
		}
		*v = min(max(*v, low), high)
	}
	set(&s.LinkPayload, 251, 27, 251)
	set(&s.Buffers, 8, 1, 255)
	set(&s.BufferSize, 251, 27, 251)
	if s.RSSI == 0 {
		s.RSSI = -60
	}
	id := a.nextID
	a.nextID++
	a.controllers[id] = &controller{id: id, s: s, nextHandle: firstHandle, suggested: minPayload}
	a.order = append(a.order, id)
	return id
}

// Unplug takes a controller away. Its links are lost: the other ends find out by their supervision timeout.
func (a *Air) Unplug(id int) {
	c := a.controllers[id]
	if c == nil {
		return
	}
	a.abandon(c)
	delete(a.controllers, id)
	a.order = slices.DeleteFunc(a.order, func(o int) bool { return o == id })
}

// abandon has the links of a controller end without its host hearing of it.
func (a *Air) abandon(c *controller) {
	for _, l := range a.links {
		for side, e := range l.ends {
			if e.c == c {
				l.silent, l.ends[side].deaf = true, true
			}
		}
	}
}

// Host takes a packet of a controller's host, with its type byte.
func (a *Air) Host(now time.Time, id int, packet []byte) {
	c := a.controllers[id]
	if c == nil {
		return
	}
	p, err := parseHostPacket(packet)
	if err != nil {
		a.counts.Malformed++
		return
	}
	if p.command {
		a.command(now, c, p.opcode, p.body)
		return
	}
	a.enqueue(c, p)
}

// Advance has happen what is due and returns when to call it next at the latest.
func (a *Air) Advance(now time.Time) time.Time {
	next := now.Add(time.Second)
	for _, id := range a.order {
		if c := a.controllers[id]; c.advertising {
			a.due(now, &next, &c.advertiseAt, c.advertiseEvery, func() {
				a.heard(now, advert{addr: c.s.Address, rssi: c.s.RSSI, data: c.data, response: c.response, target: c})
			})
		}
	}
	for _, b := range a.beacons {
		a.due(now, &next, &b.at, b.Every, func() { a.heard(now, b.next()) })
	}
	for _, l := range a.links {
		if !l.over {
			a.due(now, &next, &l.at, l.interval, func() { a.connectionEvent(now, l) })
		}
	}
	a.links = slices.DeleteFunc(a.links, func(l *link) bool { return l.over })
	return next
}

// due calls f if *at has come and sets the next time. A model that was not run for a while does not catch up.
func (a *Air) due(now time.Time, next, at *time.Time, every time.Duration, f func()) {
	if !now.Before(*at) {
		f()
		if *at = at.Add(every); !at.After(now) {
			*at = now.Add(every)
		}
	}
	if at.Before(*next) {
		*next = *at
	}
}

// advert is one advertising event.
type advert struct {
	addr           Address
	rssi           int8
	data, response []byte
	target         *controller // that can be connected to; nil: a beacon
}

// heard has one advertising event heard by every controller but the one that made it.
func (a *Air) heard(now time.Time, ad advert) {
	if a.faults.hidden[ad.addr] {
		return
	}
	for _, id := range a.order {
		c := a.controllers[id]
		if c == ad.target {
			continue
		}
		if ad.target != nil && c.wants(now, ad.addr) {
			a.connect(now, c, ad.target)
			return
		}
		if !c.scanning || (c.unique && slices.Contains(c.seen, ad.addr)) {
			continue
		}
		if c.unique {
			c.seen = append(c.seen, ad.addr)
		}
		a.send(c.id, report(reportConnectable, ad.addr, ad.data, ad.rssi))
		if c.active {
			a.send(c.id, report(reportResponse, ad.addr, ad.response, ad.rssi))
		}
	}
}

// advertising report types, vol. 4, part E, section 7.7.65.2
const (
	reportConnectable = 0x00
	reportResponse    = 0x04
)

// Beacon is a device that only advertises: it has no host, and a request to connect to it is
// counted and never answered.
type Beacon struct {
	Address Address
	RSSI    int8
	Every   time.Duration // between advertising events, at least 20 ms
	// Say gives the advertising data and the scan response of event n, from 0, at most 31 bytes of each.
	Say func(n int) (advertising, response []byte)
}

type beacon struct {
	Beacon
	at time.Time
	n  int
}

func (b *beacon) next() advert {
	data, response := b.Say(b.n)
	b.n++
	return advert{addr: b.Address, rssi: b.RSSI, data: data[:min(len(data), maxAdvertising)], response: response[:min(len(response), maxAdvertising)]}
}

// AddBeacon puts a beacon on air.
func (a *Air) AddBeacon(now time.Time, b Beacon) {
	b.Every = max(b.Every, 20*time.Millisecond)
	a.beacons = append(a.beacons, &beacon{Beacon: b, at: now.Add(time.Duration(a.rng.Int64N(int64(b.Every))))})
}

// RemoveBeacons takes all beacons away.
func (a *Air) RemoveBeacons() { a.beacons = nil }

// Requests lists the wishes to connect, in order.
func (a *Air) Requests() []Request { return slices.Clone(a.requests) }

// Counts counts what happened.
func (a *Air) Counts() Counts { return a.counts }
