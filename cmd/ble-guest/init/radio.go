//go:build linux

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/farebeat/farebeat/cmd/ble-guest/air"
)

// maxPacket is the size of the largest HCI packet, in bytes.
const maxPacket = 4096

// radio runs an air by the clock. Its controllers are adapters of the kernel, or have a host in this process. Hosts are written
// to under the lock: the kernel and pipes queue what they get.
type radio struct {
	ctx    context.Context //nolint:containedctx // its end is the radio's
	sooner chan struct{}   // something is due before what the clock waits for
	done   chan struct{}

	mu    sync.Mutex
	air   *air.Air
	next  time.Time              // what the clock waits for
	hosts map[int]io.WriteCloser // by controller
}

// newRadio begins an air, whose time stops when ctx ends.
func newRadio(ctx context.Context, seed uint64) *radio {
	r := &radio{ctx: ctx, sooner: make(chan struct{}, 1), done: make(chan struct{}), hosts: map[int]io.WriteCloser{}}
	r.air = air.New(seed, r.toHost)
	go r.run()
	return r
}

func (r *radio) run() {
	defer close(r.done)
	timer := time.NewTimer(0)
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-timer.C:
			r.mu.Lock()
			r.next = r.air.Advance(time.Now())
			timer.Reset(time.Until(r.next))
			r.mu.Unlock()
		case <-r.sooner:
			r.mu.Lock()
			timer.Reset(time.Until(r.next))
			r.mu.Unlock()
		}
	}
}

// toHost hands a packet over. The lock is held. A host that is gone hears nothing.
func (r *radio) toHost(id int, packet []byte) {
	if h := r.hosts[id]; h != nil {
		_, _ = h.Write(packet)
	}
}

// do runs f with the air, and what is due by then.
func (r *radio) do(f func(*air.Air)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(r.air)
	if next := r.air.Advance(time.Now()); next.Before(r.next) {
		r.next = next
		select {
		case r.sooner <- struct{}{}:
		default:
		}
	}
}

// take hands a host's packet to the air. Data is sent with the next connection event and moves nothing that is due.
func (r *radio) take(id int, packet []byte) {
	if air.IsData(packet) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.air.Host(time.Now(), id, packet)
		return
	}
	r.do(func(a *air.Air) { a.Host(time.Now(), id, packet) })
}

// attach joins a controller and its host, whose packets are read until it ends.
func (r *radio) attach(s air.Settings, host io.ReadWriteCloser) int {
	var id int
	r.do(func(a *air.Air) {
		id = a.Plug(s)
		r.hosts[id] = host
	})
	go func() {
		buf := make([]byte, maxPacket)
		for {
			n, err := host.Read(buf)
			if err != nil {
				r.detach(id)
				return
			}
			r.take(id, buf[:n])
		}
	}()
	return id
}

// detach takes a controller off the air and ends its host's side.
func (r *radio) detach(id int) {
	var h io.Closer
	r.do(func(a *air.Air) {
		a.Unplug(id)
		if host := r.hosts[id]; host != nil {
			h = host
		}
		delete(r.hosts, id)
	})
	if h != nil {
		_ = h.Close() // nobody is left to hear of it
	}
}

// close takes all controllers away.
func (r *radio) close() {
	r.mu.Lock()
	ids := slices.Collect(maps.Keys(r.hosts))
	r.mu.Unlock()
	for _, id := range ids {
		r.detach(id)
	}
}

// adapter is a controller that the kernel has as hciN.
type adapter struct {
	name string // hci0
	id   int
	air.Settings
}

// plug makes an adapter through /dev/vhci, as if one were plugged in. The kernel tries it out for some milliseconds before others may use it.
func (r *radio) plug(s air.Settings) (adapter, error) {
	f, err := os.OpenFile("/dev/vhci", os.O_RDWR, 0)
	if err != nil {
		return adapter{}, fmt.Errorf("plug in a Bluetooth adapter: %w", err)
	}
	if _, err := f.Write([]byte{0xff, 0}); err != nil { // the type byte of the driver, and: a primary controller
		return adapter{}, errors.Join(fmt.Errorf("plug in a Bluetooth adapter: %w", err), f.Close())
	}
	answer := make([]byte, 4)
	if n, err := f.Read(answer); err != nil || n != 4 || answer[0] != 0xff {
		return adapter{}, errors.Join(fmt.Errorf("plug in a Bluetooth adapter: the driver answers % x: %w", answer, err), f.Close())
	}
	a := adapter{name: fmt.Sprintf("hci%d", binary.LittleEndian.Uint16(answer[2:])), Settings: s}
	a.id = r.attach(s, f)
	return a, nil
}

// ready waits until the kernel has tried an adapter out.
func (a adapter) ready(ctx context.Context) error {
	var number uint16
	if _, err := fmt.Sscanf(a.name, "hci%d", &number); err != nil {
		return err
	}
	return until(ctx, time.Minute, "adapter "+a.name+" can be used", func() bool {
		fd, err := unix.Socket(unix.AF_BLUETOOTH, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.BTPROTO_HCI)
		if err != nil {
			return false
		}
		err = unix.Bind(fd, &unix.SockaddrHCI{Dev: number, Channel: unix.HCI_CHANNEL_USER})
		return errors.Join(err, unix.Close(fd)) == nil
	})
}

// unplug takes an adapter away.
func (r *radio) unplug(a adapter) { r.detach(a.id) }

// until waits for a condition, asking often.
func until(ctx context.Context, patience time.Duration, what string, is func() bool) error {
	enough := time.NewTimer(patience)
	defer enough.Stop()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for !is() {
		select {
		case <-ticker.C:
		case <-enough.C:
			return fmt.Errorf("waited %s in vain until %s", patience, what)
		case <-ctx.Done():
			return fmt.Errorf("waited until %s: %w", what, ctx.Err())
		}
	}
	return nil
}
