//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/farebeat/farebeat/cmd/ble-guest/air"
	"github.com/farebeat/farebeat/edge/ble"
	"github.com/farebeat/farebeat/edge/ble/hci"
)

// packetPipe carries whole packets both ways between a controller and a host in this process.
type packetPipe struct {
	in, out chan []byte
	gone    chan struct{}
	once    *sync.Once
}

// newPipe returns the host's end and the controller's end.
func newPipe() (host, controller packetPipe) {
	a, b := make(chan []byte, 1024), make(chan []byte, 1024)
	gone, once := make(chan struct{}), &sync.Once{}
	return packetPipe{a, b, gone, once}, packetPipe{b, a, gone, once}
}

// Read implements io.Reader: one packet a call.
func (p packetPipe) Read(b []byte) (int, error) {
	select {
	case packet := <-p.in:
		return copy(b, packet), nil
	case <-p.gone:
		return 0, io.EOF
	}
}

// Write implements io.Writer. It drops what an end that does not read has no room for, rather than hold up the air.
func (p packetPipe) Write(b []byte) (int, error) {
	select {
	case p.out <- bytes.Clone(b):
	case <-p.gone:
		return 0, io.ErrClosedPipe
	default:
	}
	return len(b), nil
}

// Close implements io.Closer for both ends.
func (p packetPipe) Close() error {
	p.once.Do(func() { close(p.gone) })
	return nil
}

// nearer is the RSSI of impostors, which a gateway tries first.
const nearer = -40

// impostor advertises as a machine and answers every gateway with garbage.
type impostor struct {
	claim ble.Advertisement
	rng   *rand.Rand
	way   int // in which it misbehaves on its first link

	mu    sync.Mutex
	links int // that it had
}

func (i *impostor) next() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.links++
	return i.links - 1
}

func (i *impostor) met() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.links
}

// How many impostors there are: those that break the attribute protocol, each in its own way, and those that speak it well and
// lie in the session above.
const (
	breakers = 5
	liars    = 2
)

// plugRogues puts the impostors on air and the machine out of reach.
func plugRogues(ctx context.Context, st *stage) error {
	m := st.machines[0]
	st.radio.do(func(a *air.Air) { a.Hide(m.adapter.Address, true) })
	for n := range breakers + liars {
		host, controller := newPipe()
		st.radio.attach(air.Settings{Address: air.MakeAddress(uint16(0x100 + n)), RSSI: nearer}, controller)
		h, err := hci.Start(ctx, host, hci.Params{Name: fmt.Sprintf("impostor %d", n)})
		if err != nil {
			return err
		}
		i := &impostor{
			claim: ble.Advertisement{IDHint: ble.IDHint(m.id), Pending: uint16(m.stock), State: ble.StatePending},
			rng:   rand.New(rand.NewPCG(st.seed, uint64(n))),
			way:   n,
		}
		st.impostors = append(st.impostors, i)
		if n < breakers {
			go i.breakATT(ctx, h)
		} else {
			go func() { _ = ble.NewAdapter(h, 0).Serve(ctx, liar{i}) }() // it ends with the stage
		}
	}
	return nil
}

// meetRogues has the machine in reach once the gateway has met every impostor.
func meetRogues(ctx context.Context, st *stage) error {
	err := until(ctx, st.patience, "the gateway has met every impostor", func() bool { return len(metRogues(st)) == 0 })
	st.radio.do(func(a *air.Air) { a.Hide(st.machines[0].adapter.Address, false) })
	return err
}

func metRogues(st *stage) (findings []string) {
	links := 0
	for n, i := range st.impostors {
		links += i.met()
		if i.met() == 0 {
			findings = append(findings, fmt.Sprintf("the gateway never met impostor %d", n+1))
		}
	}
	st.notes = fmt.Sprintf("the gateway had %d links with them", links)
	return findings
}

// breakATT serves one gateway after the other until ctx ends.
func (i *impostor) breakATT(ctx context.Context, h *hci.Host) {
	advertising, response := i.claim.Encode()
	for ctx.Err() == nil {
		if err := h.Advertise(ctx, advertising, response); err != nil {
			return
		}
		select {
		case c := <-h.Accepted():
			i.assault(c, i.next())
			c.Close()
		case <-ctx.Done():
			return
		}
	}
}

// assault answers everything that a gateway asks with packets that are known to break ATT clients, another set on each link.
func (i *impostor) assault(c *hci.Conn, link int) {
	sets := [][][]byte{
		{{0x1b}, {0x1b, 0x03}, {0x1b, 0, 0}, {0x1d, 1}},                              // notifications and indications without a handle or a value
		{{0x03}, {0x03, 0}, {0x03, 0, 0}, {0x03, 22, 0}},                             // MTU answers that are too short or too small
		{{0x03, 247, 0}, {0x11}, {0x11, 0}, {0x11, 2, 1, 0}, {0x11, 20, 1, 0, 9, 0}}, // group answers with a length of 0 and others
		{{0x01}, {0x01, 0x10}, {0xff}, {0x00}, bytes.Repeat([]byte{0x1b}, 512)},
		{nil}, // random
	}
	set := sets[(i.way+link)%len(sets)]
	for range 64 {
		if _, err := c.Receive(); err != nil {
			return
		}
		for _, p := range set {
			if p == nil {
				p = make([]byte, 1+i.rng.IntN(246))
				for k := range p {
					p[k] = byte(i.rng.Uint32())
				}
			}
			if err := c.Send(p); err != nil {
				return
			}
		}
	}
}

// liar is an impostor with a faultless attribute protocol.
type liar struct{ *impostor }

// Advertise implements ble.Peripheral.
func (l liar) Advertise() ble.Advertisement { return l.claim }

// Connect implements ble.Peripheral.
func (l liar) Connect(p ble.Port) ble.Handler { return &lie{liar: l, port: p, link: l.next()} }

// lie is the liar's end of one link.
type lie struct {
	liar
	port ble.Port
	link int
}

// Read implements ble.Handler: on the first links INFO is garbage, then what any machine could say.
func (l *lie) Read(ble.Char) []byte {
	if (l.way+l.link)%2 == 0 {
		return l.garbage(20)
	}
	return l.info()
}

// info is an INFO value that no gateway finds anything wrong with, but for a window and a record size beyond all reason.
func (l liar) info() []byte { return append([]byte{1, 0, 0xff, 0xff, 0xff}, l.claim.IDHint[:]...) }

// Write implements ble.Handler: whatever is asked, all characteristics notify garbage, more than the gateway gave credit for.
func (l *lie) Write(ble.Char, []byte) {
	go func() {
		for range 100 {
			for _, c := range []ble.Char{ble.CharSession, ble.CharControl, ble.CharData} {
				if err := l.port.Notify(c, l.garbage(1+l.link%l.port.MTU())); errors.Is(err, ble.ErrClosed) {
					return
				}
			}
		}
	}()
}

// Closed implements ble.Handler.
func (l *lie) Closed() {}

func (l *lie) garbage(n int) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := make([]byte, min(n, l.port.MTU()-3))
	for k := range b {
		b[k] = byte(l.rng.Uint32())
	}
	b[0] |= 0xc0 // a whole message in one segment
	return b
}

// sendGarbage has devices send advertisements that no parser expects, with the service's UUID in every second
// and a machine's scan response beside the others.
func sendGarbage(_ context.Context, st *stage) error {
	known, named := ble.Advertisement{IDHint: ble.IDHint("somebody else's"), Pending: 1}.Encode()
	bad := [][]byte{
		// structures of 255 bytes
		{0xff},
		{0xff, 0x07},
		{0xff, 0xff, 0xff},
		// lists of UUIDs of odd lengths
		{0x02, 0x03, 0x0f},
		{0x04, 0x05, 1, 2, 3},
		{0x06, 0x07, 1, 2, 3, 4, 5},
		// service data shorter than its UUID
		{0x02, 0x16, 0x01},
		{0x03, 0x20, 1, 2},
		{0x05, 0x21, 1, 2, 3, 4},
		// nothing, and what is cut
		{},
		{0x00, 0x00, 0x00},
		{0x01},
		{0x1f, 0x07},
		named[:5],
		named[:len(named)-1],
		slices.Concat(named, []byte{0x40}),
		known[:len(known)-1],
	}
	rng := rand.New(rand.NewPCG(st.seed, 7))
	for range 8 {
		b := make([]byte, 31)
		for k := range b {
			b[k] = byte(rng.Uint32())
		}
		bad = append(bad, b)
	}
	st.radio.do(func(a *air.Air) {
		for device := range 12 {
			a.AddBeacon(time.Now(), air.Beacon{
				Address: air.MakeAddress(uint16(0x200 + device)), RSSI: nearer, Every: 50 * time.Millisecond,
				Say: func(n int) (advertising, response []byte) {
					n += device
					if n%2 == 0 {
						return known, bad[n/2%len(bad)]
					}
					return bad[n/2%len(bad)], named
				},
			})
		}
	})
	return nil
}

// addCrowd adds devices that claim to be the machine, each of which costs the gateway the whole time of a dial.
func addCrowd(_ context.Context, st *stage) error {
	m := st.machines[0]
	advertising, response := ble.Advertisement{IDHint: ble.IDHint(m.id), Pending: uint16(m.stock), State: ble.StatePending}.Encode()
	st.radio.do(func(a *air.Air) {
		for n := range 12 {
			a.AddBeacon(time.Now(), air.Beacon{
				Address: air.MakeAddress(uint16(0x400 + n)), RSSI: nearer, Every: 20 * time.Millisecond,
				Say: func(int) ([]byte, []byte) { return advertising, response },
			})
		}
	})
	return nil
}

// addBystanders adds machines to a total of 20 that hold records and have no fault.
func addBystanders(_ context.Context, st *stage) error {
	st.radio.do(func(a *air.Air) {
		for n := len(st.machines); n < 20; n++ {
			advertising, response := ble.Advertisement{IDHint: ble.IDHint(fmt.Sprintf("bystander-%d", n)), Pending: 5, State: ble.StatePending}.Encode()
			a.AddBeacon(time.Now(), air.Beacon{
				Address: air.MakeAddress(uint16(0x300 + n)), RSSI: nearer, Every: 100 * time.Millisecond,
				Say: func(int) ([]byte, []byte) { return advertising, response },
			})
		}
	})
	return nil
}
