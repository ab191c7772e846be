package hci_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/farebeat/farebeat/edge/ble/hci"
	"github.com/farebeat/farebeat/edge/ble/hci/hcitest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// both starts two hosts that hear each other.
func both(t *testing.T, o hcitest.Options, test func(t *testing.T, central, peripheral *hci.Host, c, p *hcitest.Controller)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		air := hcitest.NewAir()
		defer air.Close()
		c, p := air.Add(o), air.Add(o)
		var hosts [2]*hci.Host
		for i, controller := range []*hcitest.Controller{c, p} {
			h, err := hci.Start(t.Context(), controller, hci.Params{Name: fmt.Sprint("hci", i)})
			if err != nil {
				t.Fatal(err)
			}
			defer h.Close()
			hosts[i] = h
		}
		test(t, hosts[0], hosts[1], c, p)
	})
}

// link connects two hosts.
func link(t *testing.T, central, peripheral *hci.Host) (there, here *hci.Conn) {
	t.Helper()
	if err := peripheral.Advertise(t.Context(), []byte{2, 1, 6}, nil); err != nil {
		t.Fatal(err)
	}
	there, err := central.Dial(t.Context(), peripheral.Address())
	if err != nil {
		t.Fatal(err)
	}
	return there, <-peripheral.Accepted()
}

// Packets of every length arrive whole and in order over buffers of every size, both ways at once.
func TestPackets(t *testing.T) {
	for _, o := range []hcitest.Options{{}, {BufferSize: 27, Buffers: 1}, {BufferSize: 27, Buffers: 200}, {BufferSize: 64, Buffers: 2}} {
		both(t, o, func(t *testing.T, central, peripheral *hci.Host, _, _ *hcitest.Controller) {
			there, here := link(t, central, peripheral)
			var wg sync.WaitGroup
			for _, ends := range [][2]*hci.Conn{{there, here}, {here, there}} {
				ahead := make(chan struct{}, 200) // no more than the receiving end queues
				wg.Go(func() {
					for n := 1; n <= 517; n++ {
						ahead <- struct{}{}
						if err := ends[0].Send(bytes.Repeat([]byte{byte(n)}, n)); err != nil {
							t.Errorf("send %d: %v", n, err)
							return
						}
					}
				})
				wg.Go(func() {
					for n := 1; n <= 517; n++ {
						if p, err := ends[1].Receive(); err != nil || !bytes.Equal(p, bytes.Repeat([]byte{byte(n)}, n)) {
							t.Errorf("%+v: packet %d: %d bytes, %v", o, n, len(p), err)
							return
						}
						<-ahead
					}
				})
			}
			wg.Wait()
			for _, n := range []int{0, 518} {
				if err := there.Send(make([]byte, n)); err == nil {
					t.Errorf("a packet of %d bytes was sent", n)
				}
			}
		})
	}
}

// A link that is lost frees whoever sends, and the buffers that its packets held: however often, the next link works.
func TestBuffersComeBack(t *testing.T) {
	both(t, hcitest.Options{Buffers: 3}, func(t *testing.T, central, peripheral *hci.Host, c, p *hcitest.Controller) {
		for range 50 {
			there, here := link(t, central, peripheral)
			p.Deafen(true)
			sent := make(chan error)
			for range 3 {
				go func() {
					var err error
					for err == nil {
						err = here.Send(make([]byte, 100))
					}
					sent <- err
				}()
			}
			synctest.Wait()
			p.Lose()
			for range 3 {
				if err := <-sent; !errors.Is(err, hci.StatusTimeout) {
					t.Fatalf("send: %v", err)
				}
			}
			<-there.Done()
			p.Deafen(false)
		}
		there, here := link(t, central, peripheral)
		for range 20 {
			if err := here.Send([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := there.Receive(); err != nil {
				t.Fatal(err)
			}
		}
		c.Silence()
	})
}

// What came before the end of a link is received, then the end.
func TestReceiveBeforeTheEnd(t *testing.T) {
	both(t, hcitest.Options{}, func(t *testing.T, central, peripheral *hci.Host, c, _ *hcitest.Controller) {
		there, here := link(t, central, peripheral)
		for i := range 5 {
			if err := here.Send([]byte{byte(i)}); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		c.Lose()
		synctest.Wait()
		for i := range 5 {
			if p, err := there.Receive(); err != nil || p[0] != byte(i) {
				t.Errorf("packet %d: %v, %v", i, p, err)
			}
		}
		if _, err := there.Receive(); !errors.Is(err, hci.StatusTimeout) {
			t.Errorf("the end: %v", err)
		}
	})
}

// A controller that does not answer, or refuses, has an error in bounded time wherever it happens.
func TestControllerRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		opcode uint16
		setUp  bool // needed for the start
	}{
		"reset": {0x0c03, true}, "address": {0x1009, true}, "buffers": {0x2002, true}, "event mask": {0x0c01, true}, "LE event mask": {0x2001, true},
		"host support": {0x0c6d, false}, "data length": {0x2024, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			air := hcitest.NewAir()
			defer air.Close()
			c := air.Add(hcitest.Options{})
			c.Refuse(tc.opcode, 0x1f)
			h, err := hci.Start(t.Context(), c, hci.Params{Name: "hci0"})
			var status hci.StatusError
			switch {
			case tc.setUp && (!errors.As(err, &status) || status != 0x1f):
				t.Errorf("%s: %v", name, err)
			case !tc.setUp && err != nil:
				t.Errorf("%s: %v", name, err)
			}
			if err == nil {
				h.Close()
			}
		})
	}
	for _, opcode := range []uint16{0x200b, 0x200c, 0x200d, 0x2006, 0x2008, 0x2009, 0x200a} {
		both(t, hcitest.Options{}, func(t *testing.T, central, peripheral *hci.Host, c, p *hcitest.Controller) {
			c.Refuse(opcode, 0x07)
			p.Refuse(opcode, 0x07)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			errs := []error{central.Scan(ctx, func(hci.Report) {}), peripheral.Advertise(t.Context(), nil, nil)}
			dialCtx, stop := context.WithTimeout(t.Context(), time.Minute)
			defer stop()
			_, err := central.Dial(dialCtx, hci.Address{})
			errs = append(errs, err)
			found := false
			for _, err := range errs {
				found = found || errors.Is(err, hci.StatusMemoryExceeded)
			}
			if !found {
				t.Errorf("command %#04x: %v", opcode, errs)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		air := hcitest.NewAir()
		defer air.Close()
		c := air.Add(hcitest.Options{})
		c.Silence()
		begun := time.Now()
		if _, err := hci.Start(t.Context(), c, hci.Params{Name: "hci0"}); !errors.Is(err, hci.ErrStuck) {
			t.Errorf("a mute controller: %v", err)
		}
		if took := time.Since(begun); took > 5*time.Second {
			t.Errorf("took %s", took)
		}
	})
}

// A cancelled dial leaves nothing behind, even when the connection comes at that very moment.
func TestDialIsCancelled(t *testing.T) {
	for after := time.Duration(0); after < 60*time.Millisecond; after += time.Millisecond {
		both(t, hcitest.Options{}, func(t *testing.T, central, peripheral *hci.Host, c, p *hcitest.Controller) {
			if err := peripheral.Advertise(t.Context(), []byte{2, 1, 6}, nil); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), after)
			conn, err := central.Dial(ctx, peripheral.Address())
			cancel()
			if err == nil {
				conn.Close()
			} else if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("after %s: %v", after, err)
			}
			time.Sleep(time.Second)
			if c.Links()+p.Links() != 0 {
				t.Errorf("after %s: links are left", after)
			}
			select {
			case <-peripheral.Accepted():
			default:
			}
			there, _ := link(t, central, peripheral)
			if _, err := central.Dial(t.Context(), peripheral.Address()); !errors.Is(err, hci.StatusConnectionExists) {
				t.Errorf("a second link: %v", err)
			}
			there.Close()
		})
	}
}

// A controller without a public address gets a static random one, under which it scans, dials and is dialled.
func TestNoPublicAddress(t *testing.T) {
	both(t, hcitest.Options{NoAddress: true}, func(t *testing.T, central, peripheral *hci.Host, _, _ *hcitest.Controller) {
		there, here := link(t, central, peripheral)
		if a := here.Peer(); a != central.Address() || !a.Random || a.Bytes[5]&0xc0 != 0xc0 || a == there.Peer() {
			t.Errorf("the central's address is %s", a)
		}
	})
}

func TestAddress(t *testing.T) {
	for _, s := range []string{"c0:ff:ee:00:00:01", "00:11:22:33:44:55/random"} {
		a, err := hci.ParseAddress(s)
		if err != nil || a.String() != s {
			t.Errorf("%s: %s, %v", s, a, err)
		}
	}
	for _, s := range []string{"", "c0:ff:ee:00:00", "c0:ff:ee:00:00:0g", "c0:ff:ee:00:00:01:02", "c0-ff-ee-00-00-01", "c0:ff:ee:00:00:01/public", "m1"} {
		if a, err := hci.ParseAddress(s); err == nil {
			t.Errorf("%q is taken for %s", s, a)
		}
	}
}

// Whatever a controller sends, and any device sends through it, the host goes on.
func FuzzController(f *testing.F) {
	for _, seed := range [][]byte{
		{4, 0x0e, 4, 1, 3, 0x0c, 0},
		{4, 0x0f, 4, 0, 1, 0x0d, 0x20},
		{4, 5, 4, 0, 0x40, 0, 8},
		{4, 0x13, 5, 1, 0x40, 0, 1, 0},
		{4, 0x13, 5, 1, 0x41, 0, 0xff, 0xff},
		append([]byte{4, 0x3e, 19, 1, 0, 0x42, 0, 1}, make([]byte, 15)...), append([]byte{4, 0x3e, 19, 1, 0, 0x41, 0, 1}, make([]byte, 15)...),
		{4, 0x3e, 13, 2, 1, 0, 0, 1, 2, 3, 4, 5, 6, 1, 0, 0xc4},
		{4, 0x3e, 2, 2, 0xff},
		{4, 0x10, 1, 0},
		{2, 0x41, 0x20, 5, 0, 1, 0, 4, 0, 0x1b},
		{2, 0x41, 0x20, 4, 0, 9, 0, 4, 0},
		{2, 0x41, 0x10, 1, 0, 7},
		{2, 0x41, 0x20, 0, 0},
		{2, 0x41, 0x20, 8, 0, 4, 0, 5, 0, 0x12, 1, 0, 0},
		{1},
		{},
		{255, 1, 2, 3},
		{2, 0x41, 0x20, 5, 0, 1, 0, 6, 0, 1},
	} {
		f.Add(append([]byte{byte(len(seed))}, seed...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		both(t, hcitest.Options{}, func(t *testing.T, central, peripheral *hci.Host, _, p *hcitest.Controller) {
			there, here := link(t, central, peripheral)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go func() { _ = peripheral.Scan(ctx, func(r hci.Report) { _ = r.Address.String() }) }()
			go func() {
				for {
					if _, err := here.Receive(); err != nil {
						return
					}
				}
			}()
			synctest.Wait()
			for len(b) > 0 {
				n := min(int(b[0]), len(b)-1)
				p.Inject(b[1 : 1+n])
				b = b[1+n:]
			}
			synctest.Wait()
			_ = here.Send([]byte("x"))
			select {
			case <-peripheral.Done():
				if err := peripheral.Err(); !errors.Is(err, hci.ErrStuck) { // a hardware error was reported
					t.Errorf("the host ended: %v", err)
				}
			default:
			}
			there.Close()
		})
	})
}
