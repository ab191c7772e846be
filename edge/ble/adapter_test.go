package ble

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/farebeat/farebeat/edge/ble/hci"
	"github.com/farebeat/farebeat/edge/ble/hci/hcitest"
)

// pair is a gateway's adapter and a machine's, which hear each other.
type pair struct {
	air              *hcitest.Air
	gateway, machine *hcitest.Controller
	radio            *Adapter
	addr             string
}

// start makes a host of a controller.
func start(t *testing.T, c *hcitest.Controller, mtu int) *Adapter {
	t.Helper()
	host, err := hci.Start(t.Context(), c, hci.Params{Name: "hci9"})
	if err != nil {
		t.Fatal(err)
	}
	return NewAdapter(host, mtu)
}

// paired runs a test in virtual time with a machine on air over an adapter.
func paired(t *testing.T, machine Peripheral, o hcitest.Options, mtu int, test func(t *testing.T, p *pair)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := &pair{air: hcitest.NewAir()}
		defer p.air.Close()
		p.gateway, p.machine = p.air.Add(o), p.air.Add(o)
		p.radio = start(t, p.gateway, mtu)
		p.addr = hci.Address{Bytes: p.machine.Address()}.String()
		defer p.radio.Close()
		off := p.serve(t, machine, mtu)
		defer off()
		test(t, p)
	})
}

// serve puts the machine on air until off.
func (p *pair) serve(t *testing.T, machine Peripheral, mtu int) (off func()) {
	t.Helper()
	a := start(t, p.machine, mtu)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := errors.Join(a.Serve(ctx, machine), a.Close()); err != nil && !errors.Is(err, hci.ErrGone) && !errors.Is(err, hci.ErrStuck) {
			t.Error(err)
		}
	}()
	return sync.OnceFunc(func() { cancel(); <-done })
}

// onAdapters is the part of eachRadio for adapters.
func onAdapters(t *testing.T, machine Peripheral, test func(t *testing.T, e ether)) {
	synctest.Test(t, func(t *testing.T) {
		p := &pair{air: hcitest.NewAir()}
		defer p.air.Close()
		p.gateway, p.machine = p.air.Add(hcitest.Options{}), p.air.Add(hcitest.Options{})
		p.radio = start(t, p.gateway, 0)
		defer p.radio.Close()
		p.addr = hci.Address{Bytes: p.machine.Address()}.String()
		off := p.serve(t, machine, 0)
		defer off()
		test(t, ether{Radio: alias{p.radio, p.addr}, off: off, unpaced: true, single: true})
	})
}

// ask has the machine send n numbers and returns how many came in order.
func (p *pair) ask(t *testing.T, n uint16) (got uint16, err error) {
	t.Helper()
	l, err := p.radio.Dial(t.Context(), p.addr)
	if err != nil {
		return 0, err
	}
	defer l.Close()
	heard := make(chan uint16, n)
	if err := l.Subscribe(t.Context(), CharData, func(b []byte) { heard <- binary.LittleEndian.Uint16(b) }); err != nil {
		return 0, err
	}
	if err := l.Write(t.Context(), CharCredit, binary.LittleEndian.AppendUint16(nil, n)); err != nil {
		return 0, err
	}
	for got < n {
		select {
		case i := <-heard:
			if i != got {
				t.Errorf("number %d in the place of %d", i, got)
			}
			got++
		case <-time.After(time.Minute):
			return got, l.Write(t.Context(), CharCredit, []byte{0, 0})
		}
	}
	return got, nil
}

func TestAdapterSizes(t *testing.T) {
	for _, tc := range []struct{ mtu, size, buffers int }{{23, 27, 1}, {23, 251, 8}, {247, 27, 2}, {247, 251, 1}, {515, 251, 8}, {515, 27, 3}, {100, 64, 4}} {
		paired(t, &parrot{}, hcitest.Options{BufferSize: tc.size, Buffers: tc.buffers}, tc.mtu, func(t *testing.T, p *pair) {
			for range 3 {
				if got, err := p.ask(t, 100); got != 100 || err != nil {
					t.Errorf("%+v: %d of 100, %v", tc, got, err)
				}
			}
			synctest.Wait()
			if n := p.gateway.Links() + p.machine.Links(); n != 0 {
				t.Errorf("%+v: %d ends of links are left", tc, n)
			}
		})
	}
}

// Links are lost at every point of a conversation: each side sees it, and the next link works.
func TestAdapterLosesLinks(t *testing.T) {
	for after := 1; after <= 60; after += 3 {
		machine := &parrot{}
		paired(t, machine, hcitest.Options{Buffers: 2}, 0, func(t *testing.T, p *pair) {
			p.machine.LoseAfter(after)
			if got, err := p.ask(t, 200); got == 200 || err == nil {
				t.Errorf("lost after %d packets: %d of 200, %v", after, got, err)
			}
			p.machine.LoseAfter(0)
			if got, err := p.ask(t, 200); got != 200 || err != nil {
				t.Errorf("afterwards: %d of 200, %v", got, err)
			}
		})
	}
}

func TestAdapterGone(t *testing.T) {
	for name, tc := range map[string]struct {
		spoil func(p *pair)
		want  error
	}{
		"unplugged":        {func(p *pair) { p.gateway.Unplug() }, hci.ErrGone},
		"hangs":            {func(p *pair) { p.gateway.Silence() }, hci.ErrStuck},
		"fails in silicon": {func(p *pair) { p.gateway.Inject([]byte{4, 0x10, 1, 0x42}) }, hci.ErrStuck},
	} {
		t.Run(name, func(t *testing.T) {
			paired(t, &parrot{}, hcitest.Options{}, 0, func(t *testing.T, p *pair) {
				l, err := p.radio.Dial(t.Context(), p.addr)
				if err != nil {
					t.Fatal(err)
				}
				tc.spoil(p)
				if err := p.radio.Scan(t.Context(), func(Advertisement) {}); !errors.Is(err, tc.want) {
					t.Errorf("scan: %v, want %v", err, tc.want)
				}
				<-l.Closed()
				<-p.radio.Done()
				if !errors.Is(p.radio.Err(), tc.want) {
					t.Errorf("the adapter ended with %v", p.radio.Err())
				}
			})
		})
	}
}

// The adapter of a machine that hangs while nobody is near is noticed; what the machine says of itself is on air within seconds.
func TestAdapterAdvertises(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		air := hcitest.NewAir()
		defer air.Close()
		gateway, machine := start(t, air.Add(hcitest.Options{}), 0), air.Add(hcitest.Options{})
		defer gateway.Close()
		a := start(t, machine, 0)
		served := make(chan error, 1)
		var pending atomic.Int32
		go func() {
			served <- errors.Join(a.Serve(t.Context(), sayer{&parrot{}, &pending}), a.Close())
		}()
		for n := range int32(5) {
			pending.Store(n)
			time.Sleep(refreshEvery + advertisingInterval)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			err := gateway.Scan(ctx, func(ad Advertisement) {
				if ad.Pending != uint16(n) {
					t.Errorf("%d pending, want %d", ad.Pending, n)
				}
				cancel()
			})
			if err != nil || !errors.Is(ctx.Err(), context.Canceled) {
				t.Errorf("scan: %v, %v", err, ctx.Err())
			}
		}
		machine.Silence()
		if err := <-served; !errors.Is(err, hci.ErrStuck) {
			t.Errorf("served until %v", err)
		}
	})
}

// sayer is a machine that says how much it holds.
type sayer struct {
	*parrot
	pending *atomic.Int32
}

func (s sayer) Advertise() Advertisement {
	ad := s.parrot.Advertise()
	ad.Pending = uint16(s.pending.Load())
	return ad
}

// Nobody answers, or the other side takes the connection and says nothing.
func TestAdapterDialsInVain(t *testing.T) {
	paired(t, &parrot{}, hcitest.Options{}, 0, func(t *testing.T, p *pair) {
		for _, addr := range []string{"c0:bb:aa:00:00:77", "c0:bb:aa:00:00:77/random"} {
			begun := time.Now()
			if _, err := p.radio.Dial(t.Context(), addr); !errors.Is(err, ErrNotFound) {
				t.Errorf("%s: %v", addr, err)
			}
			if took := time.Since(begun); took != dialTimeout {
				t.Errorf("gave up after %s", took)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if _, err := p.radio.Dial(ctx, "c0:bb:aa:00:00:77"); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
		if _, err := p.radio.Dial(t.Context(), "m1"); err == nil || !strings.Contains(err.Error(), "not a Bluetooth address") {
			t.Errorf("a wrong address: %v", err)
		}
		p.machine.Deafen(true)
		if _, err := p.radio.Dial(t.Context(), p.addr); err == nil || !strings.Contains(err.Error(), "no answer within 5s") {
			t.Errorf("a mute machine: %v", err)
		}
	})
}

// What any device nearby may send ends its own link at most.
func TestAdapterTakesRubbish(t *testing.T) {
	machine := &parrot{}
	flood := bytes.Repeat([]byte{1}, 27)
	for name, data := range map[string][]byte{
		"an empty ATT packet":          {0, 0, 4, 0},
		"a header and nothing":         {1, 0},
		"too long a packet":            append([]byte{0xff, 0xff, 4, 0}, flood...),
		"more than announced":          append([]byte{1, 0, 4, 0}, flood...),
		"a notification of one byte":   {1, 0, 4, 0, 0x1b},
		"an MTU of nothing":            {3, 0, 4, 0, 3, 0, 0},
		"pairing":                      {7, 0, 6, 0, 1, 0, 0, 0, 0, 0, 0},
		"an empty security packet":     {0, 0, 6, 0},
		"other link parameters":        {12, 0, 5, 0, 0x12, 1, 8, 0, 6, 0, 6, 0, 0, 0, 0xc8, 0},
		"a truncated signal":           {1, 0, 5, 0, 0x12},
		"a channel that nobody opened": {1, 0, 0x40, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			paired(t, machine, hcitest.Options{}, 0, func(t *testing.T, p *pair) {
				for _, to := range []*hcitest.Controller{p.gateway, p.machine} {
					l, err := p.radio.Dial(t.Context(), p.addr)
					if err != nil {
						t.Fatal(err)
					}
					to.InjectData(data)
					synctest.Wait()
					l.Close()
					if got, err := p.ask(t, 20); got != 20 || err != nil {
						t.Errorf("afterwards: %d of 20, %v", got, err)
					}
				}
			})
		})
	}
	paired(t, machine, hcitest.Options{}, 0, func(t *testing.T, p *pair) {
		l, err := p.radio.Dial(t.Context(), p.addr)
		if err != nil {
			t.Fatal(err)
		}
		blocked := make(chan struct{})
		if err := l.Subscribe(t.Context(), CharData, func([]byte) { <-blocked }); err != nil {
			t.Fatal(err)
		}
		if err := l.Write(t.Context(), CharCredit, []byte{0xff, 0x0f}); err != nil {
			t.Fatal(err)
		}
		for p.machine.Links() > 0 { // a machine that floods is cut off, though nobody reads
			time.Sleep(time.Second)
		}
		close(blocked)
		<-l.Closed()
	})
}

// A device that sends anything but what it should costs its own link at most, on whichever side it is.
func TestAdapterMangled(t *testing.T) {
	for seed := range uint64(60) {
		paired(t, &parrot{info: []byte("i")}, hcitest.Options{Buffers: 4}, 0, func(t *testing.T, p *pair) {
			random := rand.New(rand.NewPCG(seed, 4))
			mangle := func(b []byte) []byte {
				switch random.IntN(10) {
				case 0:
					return b[:random.IntN(len(b)+1)]
				case 1:
					b[random.IntN(len(b))] = byte(random.Uint32())
				case 2: // an ATT packet of random bytes, sound below
					b = []byte{byte(1 + random.IntN(40)), 0, 4, 0}
					for range b[0] {
						b = append(b, byte(random.Uint32()))
					}
				case 3:
					return nil
				}
				return b
			}
			hostile := p.machine
			if seed%2 == 0 {
				hostile = p.gateway
			}
			hostile.Mangle(mangle)
			for range 10 {
				if l, err := p.radio.Dial(t.Context(), p.addr); err == nil {
					_, _ = l.ReadInfo(t.Context())
					_ = l.Subscribe(t.Context(), CharData, func([]byte) {})
					_ = l.Write(t.Context(), CharCredit, []byte{20, 0})
					synctest.Wait() // no request meets a notification: go-ble's mutex stops virtual time
					l.Close()
				}
			}
			hostile.Mangle(nil)
			if got, err := p.ask(t, 20); got != 20 || err != nil {
				t.Errorf("seed %d, afterwards: %d of 20, %v", seed, got, err)
			}
		})
	}
}

func TestAdvertisementsOfOthers(t *testing.T) {
	var found []Advertisement
	l := newListener(func(a Advertisement) { found = append(found, a) })
	ours, response := Advertisement{IDHint: IDHint("m1"), Pending: 3}.Encode()
	from := func(n int) hci.Address { return hci.Address{Bytes: [6]byte{byte(n), byte(n >> 8)}, Random: true} }
	for i, data := range [][]byte{nil, {0}, {255, 7}, {2, 7, 1}, {3, 3, 0xaa, 0xfe}, bytes.Repeat([]byte{255}, 31), response} {
		l.hear(hci.Report{Address: from(i), Data: data})
		l.hear(hci.Report{Address: from(i), Data: response, Response: true})
	}
	if len(found) != 0 || len(l.awaited) != 0 {
		t.Errorf("found %v, awaiting %d", found, len(l.awaited))
	}
	for i := range 10 * maxAwaited {
		l.hear(hci.Report{Address: from(i), Data: ours})
	}
	if len(l.awaited) > maxAwaited {
		t.Errorf("awaiting %d", len(l.awaited))
	}
	l.hear(hci.Report{Address: from(1), Data: ours})
	l.hear(hci.Report{Address: from(1), Data: response, Response: true, RSSI: -70})
	if want := (Advertisement{Address: "00:00:00:00:00:01/random", RSSI: -70, IDHint: IDHint("m1"), Pending: 3}); len(found) != 1 || found[0] != want {
		t.Errorf("found %+v", found)
	}
}

// A station is on air again after its adapter was unplugged, and says what a machine says.
func TestStation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		air := hcitest.NewAir()
		defer air.Close()
		gateway := start(t, air.Add(hcitest.Options{}), 0)
		defer gateway.Close()
		plugged := make(chan *hcitest.Controller, 10)
		opened := 0
		s := Station{Adapter: "hci1", Log: slog.New(slog.NewTextHandler(io.Discard, nil)), open: func(ctx context.Context) (*Adapter, error) {
			if opened++; opened == 2 {
				return nil, hci.ErrNoAdapter
			}
			c := air.Add(hcitest.Options{})
			host, err := hci.Start(ctx, c, hci.Params{Name: "hci1"})
			if err != nil {
				return nil, err
			}
			plugged <- c
			return NewAdapter(host, 0), nil
		}}
		machine := &parrot{}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { s.Run(ctx, machine) })
		for range 3 {
			current := <-plugged
			p := &pair{radio: gateway, addr: hci.Address{Bytes: current.Address()}.String()}
			if got, err := p.ask(t, 20); got != 20 || err != nil {
				t.Errorf("%d of 20, %v", got, err)
			}
			current.Unplug()
		}
		cancel()
		wg.Wait()
		if opened < 4 {
			t.Errorf("opened %d times", opened)
		}
	})
}

func TestRestartDelay(t *testing.T) {
	for failures, want := range map[int]time.Duration{0: time.Second, 1: time.Second, 2: 2 * time.Second, 5: 16 * time.Second, 6: 30 * time.Second, 1000: 30 * time.Second} {
		if got := RestartDelay(failures, 0.5); got != want {
			t.Errorf("after %d failures %s, want %s", failures, got, want)
		}
		if low, high := RestartDelay(failures, 0), RestartDelay(failures, 1); low != want*3/4 || high != want*5/4 {
			t.Errorf("after %d failures %s to %s", failures, low, high)
		}
	}
}

func TestAdapterName(t *testing.T) {
	for s, want := range map[string]struct {
		name string
		mtu  int
	}{"hci0": {"hci0", 0}, "hci12": {"hci12", 0}, "hci1,mtu=23": {"hci1", 23}, "hci1,mtu=515": {"hci1", 515}} {
		if name, mtu, err := AdapterName(s); name != want.name || mtu != want.mtu || err != nil {
			t.Errorf("%s: %s %d, %v", s, name, mtu, err)
		}
	}
	for _, s := range []string{"", "hci", "hcix", "usb0", "hci0,", "hci0,mtu=", "hci0,mtu=22", "hci0,mtu=516", "hci0,mtu=23x", "hci0,x=1", "../hci0"} {
		if _, _, err := AdapterName(s); err == nil {
			t.Errorf("%q is taken", s)
		}
	}
}
