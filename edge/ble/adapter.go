package ble

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/farebeat/farebeat/edge/ble/hci"
)

const (
	dialTimeout  = 15 * time.Second // for a connection, before the service is looked for
	refreshEvery = 2 * time.Second  // how old a machine's advertisement may be
	idleTimeout  = 2 * time.Minute  // a gateway that says nothing for so long loses the machine, which others want
	maxAwaited   = 256              // devices whose scan response is waited for
)

// Adapter is a radio over a Bluetooth adapter of this host: go-ble's GATT client and ATT server over package hci, each behind
// its guard. One device's rubbish ends that device's link. It is safe for concurrent use.
type Adapter struct {
	host *hci.Host
	mtu  int
}

// OpenAdapter takes an adapter, such as hci0. mtu is the largest ATT_MTU that is asked for or taken, MinMTU to MaxMTU; 0: UsualMTU
// for a gateway, MaxMTU for a machine. For errors see hci.Open.
func OpenAdapter(ctx context.Context, name string, mtu int) (*Adapter, error) {
	host, err := hci.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	return NewAdapter(host, mtu), nil
}

// NewAdapter makes a radio of a host, which it owns.
func NewAdapter(host *hci.Host, mtu int) *Adapter { return &Adapter{host: host, mtu: mtu} }

// Close ends all links and gives the adapter back.
func (a *Adapter) Close() error { return a.host.Close() }

// Done is closed when the adapter is gone, stuck or closed; Err says which.
func (a *Adapter) Done() <-chan struct{} { return a.host.Done() }

// Err is why Done is closed.
func (a *Adapter) Err() error { return a.host.Err() }

// Scan implements Radio.
func (a *Adapter) Scan(ctx context.Context, found func(Advertisement)) error {
	return a.host.Scan(ctx, newListener(found).hear)
}

// listener puts advertisements and their scan responses together.
type listener struct {
	awaited map[hci.Address][]byte // advertising data of our kind of device
	found   func(Advertisement)
}

func newListener(found func(Advertisement)) *listener {
	return &listener{awaited: map[hci.Address][]byte{}, found: found}
}

// hear takes a report. Only devices that advertise the service are remembered; whoever floods the table only has the others
// advertise once more.
func (l *listener) hear(r hci.Report) {
	if !r.Response {
		if !advertisesService(r.Data) {
			return
		}
		if len(l.awaited) >= maxAwaited {
			clear(l.awaited)
		}
		l.awaited[r.Address] = append([]byte(nil), r.Data...)
		return
	}
	advertising, ok := l.awaited[r.Address]
	if !ok {
		return
	}
	ad, err := ParseAdvertisement(advertising, r.Data)
	if err != nil {
		return
	}
	ad.Address, ad.RSSI = r.Address.String(), r.RSSI
	l.found(ad)
}

// Dial implements Radio.
func (a *Adapter) Dial(ctx context.Context, addr string) (Link, error) {
	peer, err := hci.ParseAddress(addr)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	dialCtx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := a.host.Dial(dialCtx, peer)
	switch {
	case err == nil:
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, hci.StatusNotEstablished), errors.Is(err, hci.StatusTimeout):
		return nil, fmt.Errorf("dial %s: %w: %w", addr, ErrNotFound, err)
	default:
		return nil, fmt.Errorf("dial %s: %w", addr, err)
	}
	ask := a.mtu
	if ask == 0 {
		ask = UsualMTU
	}
	l, err := newLink(ctx, &hciEnd{conn: conn}, addr, ask)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", addr, err)
	}
	return l, nil
}

// Serve has a machine on air until ctx ends, and returns nil then, or until the adapter is lost. It serves one gateway after
// the other, and advertises while it serves none.
func (a *Adapter) Serve(ctx context.Context, machine Peripheral) error {
	for {
		conn, err := a.accept(ctx, machine)
		switch {
		case ctx.Err() != nil:
			if conn != nil {
				conn.Close()
			}
			return nil
		case err != nil:
			return err
		}
		end := &hciEnd{conn: conn, idle: time.AfterFunc(idleTimeout, func() { conn.Close() })}
		stop := context.AfterFunc(ctx, func() { conn.Close() })
		most := a.mtu
		if most == 0 {
			most = MaxMTU
		}
		_ = servePeripheral(end, a.host.Address().String(), most, machine) // a gateway that breaks the rules loses the link, no more
		end.idle.Stop()
		stop()
		select { // a controller may refuse to advertise before
		case <-conn.Gone():
		case <-a.host.Done():
		}
	}
}

// accept advertises until a gateway connects.
func (a *Adapter) accept(ctx context.Context, machine Peripheral) (*hci.Conn, error) {
	said := machine.Advertise()
	advertising, scanResponse := said.Encode()
	if err := a.host.Advertise(ctx, advertising, scanResponse); err != nil {
		return nil, err
	}
	refresh := time.NewTicker(refreshEvery)
	defer refresh.Stop()
	for {
		select {
		case conn := <-a.host.Accepted():
			return conn, nil
		case <-refresh.C:
			if err := a.refresh(ctx, machine, &said); err != nil {
				return nil, err
			}
		case <-a.host.Done():
			return nil, a.host.Err()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// refresh changes what is advertised if the machine says something else than it said. If not, the adapter is asked whether it is
// alive: one that hangs while it advertises says nothing.
func (a *Adapter) refresh(ctx context.Context, machine Peripheral, said *Advertisement) error {
	ad := machine.Advertise()
	if ad == *said {
		return a.host.Check(ctx)
	}
	*said = ad
	advertising, scanResponse := ad.Encode()
	return a.host.SetAdvertising(ctx, advertising, scanResponse)
}

// hciEnd is one end of a link over an adapter.
type hciEnd struct {
	conn *hci.Conn
	idle *time.Timer // ends a link on which nothing comes in; nil: none
}

func (e *hciEnd) receive() ([]byte, error) {
	p, err := e.conn.Receive()
	if err == nil && e.idle != nil {
		e.idle.Reset(idleTimeout)
	}
	return p, err
}

func (e *hciEnd) send(p []byte) error { return e.conn.Send(p) }
func (e *hciEnd) close() error        { return e.conn.Close() }

// RestartDelay is how long to wait before an adapter is tried again after so many failures in a row, at least one: 1 s that doubles to 30 s,
// more or less a quarter by random, 0 to 1, so that vehicles that were switched on together do not stay in step.
func RestartDelay(failures int, random float64) time.Duration {
	d := min(time.Second<<min(max(failures-1, 0), 5), 30*time.Second)
	return time.Duration(float64(d) * (0.75 + random/2))
}

// settled is how long an adapter must have worked for a failure to count as the first.
const settled = time.Minute

// Station keeps a machine on air over an adapter that may be unplugged, stuck or taken.
type Station struct {
	Adapter string       // such as hci0
	MTU     int          // see OpenAdapter
	Log     *slog.Logger // required

	open func(ctx context.Context) (*Adapter, error) // of tests
}

// Run has the machine on air until ctx ends. What goes wrong is logged with what mends it, and tried again.
func (s Station) Run(ctx context.Context, machine Peripheral) {
	open := s.open
	if open == nil {
		open = func(ctx context.Context) (*Adapter, error) { return OpenAdapter(ctx, s.Adapter, s.MTU) }
	}
	for failures := 0; ctx.Err() == nil; {
		begun := time.Now()
		err := s.serve(ctx, open, machine)
		if ctx.Err() != nil {
			return
		}
		if time.Since(begun) >= settled {
			failures = 0
		}
		failures++
		wait := RestartDelay(failures, rand.Float64())
		s.Log.Error("the machine is not on air", "adapter", s.Adapter, "err", err, "again_in", wait.Round(time.Millisecond))
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

func (s Station) serve(ctx context.Context, open func(context.Context) (*Adapter, error), machine Peripheral) error {
	a, err := open(ctx)
	if err != nil {
		return err
	}
	s.Log.Info("the machine is on air", "adapter", s.Adapter, "address", a.host.Address().String())
	return errors.Join(a.Serve(ctx, machine), a.Close())
}

// AdapterName reads hci0 or hci0,mtu=23 as radio keys have it behind "ble:".
func AdapterName(s string) (name string, mtu int, err error) {
	name, option, more := strings.Cut(s, ",")
	if digits, ok := strings.CutPrefix(name, "hci"); !ok || digits == "" || strings.Trim(digits, "0123456789") != "" {
		return "", 0, fmt.Errorf("%q is not a Bluetooth adapter: want hci0 or hci1 and so on, see `ls /sys/class/bluetooth`", name)
	}
	if more {
		if n, scanErr := fmt.Sscanf(option, "mtu=%d", &mtu); n != 1 || scanErr != nil || option != fmt.Sprintf("mtu=%d", mtu) || mtu < MinMTU || mtu > MaxMTU {
			return "", 0, fmt.Errorf("%q: want mtu=%d to mtu=%d behind the adapter", option, MinMTU, MaxMTU)
		}
	}
	return name, mtu, nil
}
