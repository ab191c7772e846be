package ble

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"
)

// Air is a radio inside a process: gateways and machines that share one are in reach of each
// other. It is safe for concurrent use by any number of gateways.
type Air struct {
	mu       sync.Mutex
	machines map[string]*onAir
	wg       sync.WaitGroup // machines' ends of links
}

type onAir struct {
	peripheral Peripheral
	faults     Faults
	links      map[*airEnd]bool
}

// Faults spoil the links to one machine. The zero value spoils nothing.
type Faults struct {
	MTU             int                          // the most that the machine takes, MinMTU to MaxMTU; MaxMTU if 0
	GatewayMTU      int                          // what the gateway asks for; UsualMTU if 0
	CutAfter        int                          // the link is lost after so many packets from the machine; 0: never
	CutAfterGateway int                          // and after so many from the gateway
	Pace            time.Duration                // air time of each packet from the machine
	Corrupt         func(n int, p []byte) []byte // what becomes of the nth packet from the machine; nil drops it
	CorruptGateway  func(n int, p []byte) []byte // and of the nth from the gateway
	Hidden          bool                         // out of reach: neither seen nor dialled
}

// airRSSI is how strong everybody on Air is, in dBm.
const airRSSI int8 = -60

// advertisingInterval is how often a machine is seen while somebody scans.
const advertisingInterval = 200 * time.Millisecond

// NewAir makes an empty air.
func NewAir() *Air { return &Air{machines: map[string]*onAir{}} }

// Set puts a machine on air at an address, in place of the one that was there; nil takes it away. The
// links of the one that was there end, and its faults are gone.
func (a *Air) Set(address string, p Peripheral) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.disconnect(address)
	if p == nil {
		delete(a.machines, address)
		return
	}
	a.machines[address] = &onAir{peripheral: p, links: map[*airEnd]bool{}}
}

// Disconnect ends the links to a machine, which stays on air.
func (a *Air) Disconnect(address string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.disconnect(address)
}

// disconnect ends the links to a machine. The lock is held.
func (a *Air) disconnect(address string) {
	if m := a.machines[address]; m != nil {
		for end := range m.links {
			_ = end.close()
		}
	}
}

// Spoil sets what goes wrong on links to a machine that are made from now on.
func (a *Air) Spoil(address string, f Faults) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if m := a.machines[address]; m != nil {
		m.faults = f
	}
}

// Wait returns when every machine's end of every link is gone.
func (a *Air) Wait() { a.wg.Wait() }

// Scan implements Radio.
func (a *Air) Scan(ctx context.Context, found func(Advertisement)) error {
	ticker := time.NewTicker(advertisingInterval)
	defer ticker.Stop()
	for {
		for _, ad := range a.inSight() {
			if ctx.Err() != nil {
				return nil
			}
			found(ad)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// inSight lists who advertises, by address. Each goes through the bytes that a real radio would carry.
func (a *Air) inSight() []Advertisement {
	a.mu.Lock()
	shown := make(map[string]Peripheral, len(a.machines))
	for addr, m := range a.machines {
		if !m.faults.Hidden {
			shown[addr] = m.peripheral
		}
	}
	a.mu.Unlock()
	var list []Advertisement
	for addr, p := range shown {
		ad, err := ParseAdvertisement(p.Advertise().Encode())
		if err != nil {
			continue // as on air: what is not ours is not seen
		}
		ad.Address, ad.RSSI = addr, airRSSI
		list = append(list, ad)
	}
	slices.SortFunc(list, func(x, y Advertisement) int { return strings.Compare(x.Address, y.Address) })
	return list
}

// Dial implements Radio.
func (a *Air) Dial(ctx context.Context, addr string) (Link, error) {
	a.mu.Lock()
	m := a.machines[addr]
	if m == nil || m.faults.Hidden {
		a.mu.Unlock()
		return nil, fmt.Errorf("dial %s: %w", addr, ErrNotFound)
	}
	central, peripheral := newAirPair(m.faults)
	ask := m.faults.GatewayMTU
	if ask == 0 {
		ask = UsualMTU
	}
	m.links[peripheral] = true
	mtu := m.faults.MTU
	if mtu == 0 {
		mtu = MaxMTU
	}
	a.wg.Go(func() {
		_ = servePeripheral(peripheral, addr, mtu, m.peripheral) // a gateway that breaks the rules loses the link, no more
		a.mu.Lock()
		delete(m.links, peripheral)
		a.mu.Unlock()
	})
	a.mu.Unlock()
	l, err := newLink(ctx, central, addr, ask)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", addr, err)
	}
	return l, nil
}

// airEnd is one end of a pair of packet queues.
type airEnd struct {
	in, out chan []byte
	done    chan struct{}
	once    *sync.Once
	turn    chan struct{} // holds one while a packet is sent; no mutex, since air time passes under it
	sent    int           // packets
	cut     int           // the link is lost after so many; 0: never
	pace    time.Duration
	spoil   func(n int, p []byte) []byte
}

// underWay is how many packets may be between two ends.
const underWay = 64

func newAirPair(f Faults) (central, peripheral *airEnd) {
	x, y := make(chan []byte, underWay), make(chan []byte, underWay)
	done, once := make(chan struct{}), &sync.Once{}
	central = &airEnd{in: x, out: y, done: done, once: once, turn: make(chan struct{}, 1), cut: f.CutAfterGateway, spoil: f.CorruptGateway}
	peripheral = &airEnd{in: y, out: x, done: done, once: once, turn: make(chan struct{}, 1), cut: f.CutAfter, pace: f.Pace, spoil: f.Corrupt}
	return central, peripheral
}

func (e *airEnd) receive() ([]byte, error) {
	select {
	case <-e.done: // first: what was under way when the link was lost does not arrive
		return nil, io.EOF
	default:
	}
	select {
	case p := <-e.in:
		return p, nil
	case <-e.done:
		return nil, io.EOF
	}
}

func (e *airEnd) send(p []byte) error {
	select {
	case e.turn <- struct{}{}:
	case <-e.done:
		return ErrClosed
	}
	defer func() { <-e.turn }()
	e.sent++
	if e.cut > 0 && e.sent > e.cut {
		_ = e.close()
		return ErrClosed
	}
	if e.pace > 0 {
		select {
		case <-time.After(e.pace):
		case <-e.done:
			return ErrClosed
		}
	}
	if e.spoil != nil {
		p = e.spoil(e.sent, p)
	}
	select {
	case <-e.done:
		return ErrClosed
	default:
	}
	if p == nil {
		return nil // lost on air; the sender does not know
	}
	select {
	case e.out <- p:
		return nil
	case <-e.done:
		return ErrClosed
	}
}

func (e *airEnd) close() error {
	e.once.Do(func() { close(e.done) })
	return nil
}
