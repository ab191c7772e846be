package ble

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// parrot is a machine that says back what it hears on SESSION and CONTROL, and after u16 n on CREDIT
// sends n numbers on DATA, as fast as the link takes them.
type parrot struct {
	mu    sync.Mutex
	ended int // links
	errs  []error
	info  []byte
}

func (p *parrot) Advertise() Advertisement {
	return Advertisement{IDHint: IDHint("m1"), Pending: 12, State: StatePending}
}

func (p *parrot) Connect(port Port) Handler {
	h := &parrotLink{p: p, port: port, heard: make(chan func() error, 256), done: make(chan struct{})}
	go func() {
		defer close(h.done)
		for say := range h.heard {
			if err := say(); err != nil {
				p.mu.Lock()
				p.errs = append(p.errs, err)
				p.mu.Unlock()
			}
		}
	}()
	return h
}

func (p *parrot) links() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ended
}

type parrotLink struct {
	p     *parrot
	port  Port
	heard chan func() error
	done  chan struct{}
}

func (h *parrotLink) Read(Char) []byte { return h.p.info }

func (h *parrotLink) Write(c Char, value []byte) {
	h.heard <- func() error {
		if c != CharCredit {
			return h.port.Notify(c, value)
		}
		for i := range binary.LittleEndian.Uint16(value) {
			number := binary.LittleEndian.AppendUint16(nil, i)
			if err := h.port.Notify(CharData, append(number, make([]byte, h.port.MTU()-attHeader-2)...)); err != nil {
				return err
			}
		}
		return nil
	}
}

func (h *parrotLink) Closed() {
	close(h.heard)
	<-h.done
	h.p.mu.Lock()
	h.p.ended++
	h.p.mu.Unlock()
}

// ether is a radio with a machine on it.
type ether struct {
	Radio
	off     func() // takes the machine away and waits for its links
	unpaced bool   // a gateway that does not read loses the link
	single  bool   // one link to a machine at a time
}

// eachRadio runs a test on every radio.
func eachRadio(t *testing.T, machine Peripheral, test func(t *testing.T, e ether)) {
	t.Run("air", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			air := NewAir()
			air.Set("m1", machine)
			off := sync.OnceFunc(func() { air.Set("m1", nil); air.Wait() })
			defer off()
			test(t, ether{Radio: air, off: off})
		})
	})
	t.Run("adapters", func(t *testing.T) { onAdapters(t, machine, test) })
	t.Run("sockets", func(t *testing.T) {
		s := NewSockets(shortDir(t))
		off, err := s.Put("m1", machine)
		if err != nil {
			t.Fatal(err)
		}
		off = sync.OnceFunc(off)
		defer off()
		test(t, ether{Radio: s, off: off})
	})
}

// alias is a radio on which the machine of an address is called m1.
type alias struct {
	Radio
	addr string
}

func (a alias) Scan(ctx context.Context, found func(Advertisement)) error {
	return a.Radio.Scan(ctx, func(ad Advertisement) {
		if ad.Address == a.addr {
			ad.Address = "m1"
		}
		found(ad)
	})
}

func (a alias) Dial(ctx context.Context, addr string) (Link, error) {
	if addr == "m1" {
		addr = a.addr
	}
	l, err := a.Radio.Dial(ctx, addr)
	if err != nil {
		err = fmt.Errorf("dial m1: %w", err)
	}
	return l, err
}

// shortDir is a folder whose path leaves room for a socket's name.
func shortDir(t *testing.T) string {
	dir, err := os.MkdirTemp("", "ble")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "radio")
}

func dial(t *testing.T, r Radio) Link {
	t.Helper()
	l, err := r.Dial(t.Context(), "m1")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestScan(t *testing.T) {
	eachRadio(t, &parrot{}, func(t *testing.T, e ether) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		seen := 0
		err := e.Scan(ctx, func(a Advertisement) {
			if want := (Advertisement{Address: "m1", RSSI: airRSSI, IDHint: IDHint("m1"), Pending: 12, State: StatePending}); a != want {
				t.Errorf("%+v, want %+v", a, want)
			}
			if seen++; seen == 3 {
				cancel()
			}
		})
		if err != nil || seen != 3 {
			t.Errorf("seen %d times, %v", seen, err)
		}
		e.off()
		ctx, cancel = context.WithTimeout(t.Context(), 3*advertisingInterval)
		defer cancel()
		if err := e.Scan(ctx, func(a Advertisement) { t.Errorf("%+v after it was off", a) }); err != nil {
			t.Error(err)
		}
		if _, err := e.Dial(t.Context(), "m1"); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "dial m1") {
			t.Errorf("dial: %v", err)
		}
	})
}

func TestLink(t *testing.T) {
	info := []byte("version 1 and more")
	machine := &parrot{info: info}
	eachRadio(t, machine, func(t *testing.T, e ether) {
		before := machine.links()
		l := dial(t, e)
		ctx := t.Context()
		if got := l.MTU(); got != UsualMTU {
			t.Errorf("MTU %d", got)
		}
		for range 2 {
			if got, err := l.ReadInfo(ctx); err != nil || !bytes.Equal(got, info) {
				t.Errorf("INFO %q, %v", got, err)
			}
		}
		heard := make(chan string, 10)
		for _, c := range []Char{CharSession, CharControl} {
			if err := l.Subscribe(ctx, c, func(b []byte) { heard <- fmt.Sprintf("%x %s", c, b) }); err != nil {
				t.Fatal(err)
			}
		}
		longest := strings.Repeat("x", UsualMTU-attHeader)
		for _, tc := range []struct {
			c   Char
			say string
		}{{CharSession, "hello"}, {CharControl, "status"}, {CharSession, longest}} {
			if err := l.Write(ctx, tc.c, []byte(tc.say)); err != nil {
				t.Fatal(err)
			}
			if got, want := <-heard, fmt.Sprintf("%x %s", tc.c, tc.say); got != want {
				t.Errorf("heard %q, want %q", got, want)
			}
		}
		if err := l.Write(ctx, CharSession, []byte(longest+"x")); err == nil || !strings.Contains(err.Error(), "write 245 bytes to 0002: the link takes 244") {
			t.Errorf("too long a value: %v", err)
		}
		if err := l.Subscribe(ctx, CharCredit, func([]byte) {}); err == nil || !strings.Contains(err.Error(), "does not notify") {
			t.Errorf("subscribe to CREDIT: %v", err)
		}
		if err := errors.Join(l.Close(), l.Close()); err != nil {
			t.Error(err)
		}
		<-l.Closed()
		if err := l.Write(ctx, CharSession, []byte("late")); !errors.Is(err, ErrClosed) {
			t.Errorf("write after the end: %v", err)
		}
		if _, err := l.ReadInfo(ctx); !errors.Is(err, ErrClosed) {
			t.Errorf("read after the end: %v", err)
		}
		e.off()
		if got := machine.links() - before; got != 1 {
			t.Errorf("the machine saw the end of %d links", got)
		}
	})
}

// go-ble's client queues 16 notifications and silently drops what is beyond. Nothing is lost here,
// whatever the machine sends and however slow the gateway is.
func TestNoNotificationIsLost(t *testing.T) {
	eachRadio(t, &parrot{}, func(t *testing.T, e ether) {
		if e.unpaced {
			t.Skip("an adapter cannot hold a machine back that sends without credits: it ends the link")
		}
		l := dial(t, e)
		defer l.Close()
		const n = 2000
		var next uint16
		done := make(chan struct{})
		err := l.Subscribe(t.Context(), CharData, func(b []byte) {
			if got := binary.LittleEndian.Uint16(b); got != next {
				t.Errorf("number %d in the place of %d", got, next)
			}
			if next%100 == 0 {
				time.Sleep(time.Millisecond)
			}
			if next++; next == n {
				close(done)
			}
		})
		if err == nil {
			err = l.Write(t.Context(), CharCredit, binary.LittleEndian.AppendUint16(nil, n))
		}
		if err != nil {
			t.Fatal(err)
		}
		<-done
	})
}

// The machine goes while it sends: the gateway sees it, and nobody hangs.
func TestMachineGoesWhileItSends(t *testing.T) {
	machine := &parrot{}
	eachRadio(t, machine, func(t *testing.T, e ether) {
		l := dial(t, e)
		defer l.Close()
		some := make(chan struct{})
		var once sync.Once
		if err := l.Subscribe(t.Context(), CharData, func([]byte) { once.Do(func() { close(some) }) }); err != nil {
			t.Fatal(err)
		}
		if err := l.Write(t.Context(), CharCredit, []byte{0xff, 0xff}); err != nil {
			t.Fatal(err)
		}
		<-some
		e.off()
		<-l.Closed()
		machine.mu.Lock()
		defer machine.mu.Unlock()
		if len(machine.errs) == 0 || !errors.Is(machine.errs[0], ErrClosed) {
			t.Errorf("the machine's errors: %v", machine.errs)
		}
		machine.errs = nil
	})
}

func TestSeveralGatewaysAtOnce(t *testing.T) {
	eachRadio(t, &parrot{info: []byte("i")}, func(t *testing.T, e ether) {
		if e.single {
			t.Skip("a machine over an adapter serves one gateway after the other")
		}
		var wg sync.WaitGroup
		for g := range 5 {
			wg.Go(func() {
				l, err := e.Dial(t.Context(), "m1")
				if err != nil {
					t.Error(err)
					return
				}
				defer l.Close()
				heard := make(chan string, 1)
				if err := l.Subscribe(t.Context(), CharControl, func(b []byte) { heard <- string(b) }); err != nil {
					t.Error(err)
					return
				}
				for i := range 50 {
					say := fmt.Sprint(g, " says ", i)
					if err := l.Write(t.Context(), CharControl, []byte(say)); err != nil {
						t.Error(err)
						return
					}
					if got := <-heard; got != say {
						t.Errorf("heard %q, want %q", got, say)
					}
				}
			})
		}
		wg.Wait()
	})
}

// A machine must not notify what does not fit or what nobody wants.
func TestPortRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		machine := &parrot{}
		air := NewAir()
		air.Set("m1", machine)
		l := dial(t, air)
		if err := l.Write(t.Context(), CharControl, []byte("nobody subscribed")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(notifyPatience + time.Second)
		l.Close()
		air.Wait()
		if len(machine.errs) != 1 || !strings.Contains(machine.errs[0].Error(), "notify on 0003: the gateway did not subscribe within 5s") {
			t.Errorf("errors %v", machine.errs)
		}
		p := &port{conn: newL2CAP(nil, nil, "", "", MinMTU), subscriptions: map[Char]*subscription{}}
		if err := p.Notify(CharData, make([]byte, 21)); err == nil || !strings.Contains(err.Error(), "notify 21 bytes on 0004: the link takes 20") {
			t.Errorf("too long a value: %v", err)
		}
		if err := p.Notify(CharCredit, nil); err == nil || !strings.Contains(err.Error(), "does not notify") {
			t.Errorf("CREDIT: %v", err)
		}
	})
}
