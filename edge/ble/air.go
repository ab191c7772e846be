package ble

import (
	"context"
	"fmt"
	"io"
	"slices"
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
	MTU      int                          // the most that the machine takes; MaxMTU if 0
	CutAfter int                          // the link is lost after so many packets from the machine; 0: never
	Pace     time.Duration                // each packet from the machine takes so long
	Corrupt  func(n int, p []byte) []byte // what becomes of the nth packet from the machine; nil drops it
	Hidden   bool                         // out of reach: neither seen nor dialled
}

// airRSSI is how strong everybody on Air is, in dBm.
const airRSSI int8 = -60

// advertisingInterval is how often a machine is seen while somebody scans.
const advertisingInterval = 200 * time.Millisecond

// NewAir makes an empty air.
func NewAir() *Air { return &Air{machines: map[string]*onAir{}} }

// Set puts a machine on air at an address, in place of the one that was there; nil takes it away. Its
// links end.
func (a *Air) Set(address string, p Peripheral) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if old := a.machines[address]; old != nil {
		for end := range old.links {
			_ = end.close()
		}
	}
	if p == nil {
		delete(a.machines, address)
		return
	}
	a.machines[address] = &onAir{peripheral: p, links: map[*airEnd]bool{}}
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
	slices.SortFunc(list, func(x, y Advertisement) int {
		if x.Address < y.Address {
			return -1
		}
		return 1
	})
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
	m.links[peripheral] = true
	mtu := m.faults.MTU
	if mtu == 0 {
		mtu = MaxMTU
	}
	a.wg.Go(func() {
		_ = servePeripheral(newL2CAP(peripheral, address(addr), "gateway", mtu), m.peripheral) // the other end sees how it ends
		a.mu.Lock()
		delete(m.links, peripheral)
		a.mu.Unlock()
	})
	a.mu.Unlock()
	l, err := newLink(ctx, newL2CAP(central, "gateway", address(addr), MinMTU), UsualMTU)
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
	faults  Faults // of the machine's end
	sent    int    // packets; one writer at a time, since ATT serializes
	mu      sync.Mutex
}

// underWay is how many packets may be between two ends.
const underWay = 64

func newAirPair(f Faults) (central, peripheral *airEnd) {
	x, y := make(chan []byte, underWay), make(chan []byte, underWay)
	done, once := make(chan struct{}), &sync.Once{}
	return &airEnd{in: x, out: y, done: done, once: once}, &airEnd{in: y, out: x, done: done, once: once, faults: f}
}

func (e *airEnd) receive() ([]byte, error) {
	select {
	case <-e.done:
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
	e.mu.Lock()
	defer e.mu.Unlock()
	e.sent++
	if e.faults.CutAfter > 0 && e.sent > e.faults.CutAfter {
		_ = e.close()
		return ErrClosed
	}
	if e.faults.Pace > 0 {
		select {
		case <-time.After(e.faults.Pace):
		case <-e.done:
			return ErrClosed
		}
	}
	if e.faults.Corrupt != nil {
		if p = e.faults.Corrupt(e.sent, p); p == nil {
			return nil
		}
	}
	select {
	case <-e.done:
		return ErrClosed
	default:
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
