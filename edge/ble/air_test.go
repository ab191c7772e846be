package ble

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// spoilt runs a test in virtual time with a machine whose links are spoilt.
func spoilt(t *testing.T, machine Peripheral, f Faults, test func(t *testing.T, air *Air)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		air := NewAir()
		air.Set("m1", machine)
		air.Spoil("m1", f)
		test(t, air)
		air.Set("m1", nil)
		air.Wait()
	})
}

// receive asks for n numbers and returns how many came, in order, until the link was quiet or gone.
func receive(t *testing.T, l Link, n uint16) (numbers []uint16) {
	t.Helper()
	got := make(chan uint16, n)
	if err := l.Subscribe(t.Context(), CharData, func(b []byte) { got <- binary.LittleEndian.Uint16(b) }); err != nil {
		t.Fatal(err)
	}
	if err := l.Write(t.Context(), CharCredit, binary.LittleEndian.AppendUint16(nil, n)); err != nil {
		t.Fatal(err)
	}
	for {
		select {
		case i := <-got:
			numbers = append(numbers, i)
		case <-time.After(time.Hour):
			return numbers
		}
	}
}

func TestMTUIsWhatBothTake(t *testing.T) {
	for most, want := range map[int]int{0: UsualMTU, 23: 23, 24: 24, 100: 100, 247: 247, 248: 247, 515: 247} {
		spoilt(t, &parrot{}, Faults{MTU: most}, func(t *testing.T, air *Air) {
			l := dial(t, air)
			defer l.Close()
			if got := l.MTU(); got != want {
				t.Errorf("a machine that takes %d: MTU %d, want %d", most, got, want)
			}
			if got := receive(t, l, 30); len(got) != 30 {
				t.Errorf("MTU %d: %d of 30 numbers", want, len(got))
			}
		})
	}
}

// However early the link is lost, the gateway has an error and nothing hangs.
func TestCutAtEveryPacket(t *testing.T) {
	for _, fromGateway := range []bool{false, true} {
		opened := 0
		for cut := 1; cut <= 40; cut++ {
			f := Faults{MTU: 23, CutAfter: cut}
			if fromGateway {
				f = Faults{MTU: 23, CutAfterGateway: cut}
			}
			spoilt(t, &parrot{info: []byte("i")}, f, func(t *testing.T, air *Air) {
				l, err := air.Dial(t.Context(), "m1")
				if err != nil {
					if !errors.Is(err, ErrClosed) {
						t.Errorf("cut after %d: dial: %v", cut, err)
					}
					return
				}
				defer l.Close()
				opened++
				if err := l.Subscribe(t.Context(), CharControl, func([]byte) {}); err == nil {
					for err == nil {
						err = l.Write(t.Context(), CharControl, []byte("x"))
						synctest.Wait()
					}
					if !errors.Is(err, ErrClosed) {
						t.Errorf("cut after %d: %v", cut, err)
					}
				}
				<-l.Closed()
			})
		}
		if opened == 0 || opened == 40 {
			t.Errorf("%d of 40 links opened: the cuts do not cover dialling and use", opened)
		}
	}
}

func TestLossAndCorruption(t *testing.T) {
	data := func(spoil func(i uint16, p []byte) []byte) func(int, []byte) []byte {
		return func(_ int, p []byte) []byte {
			if p[0] != attNotification {
				return p
			}
			return spoil(binary.LittleEndian.Uint16(p[attHeader:]), p)
		}
	}
	for name, tc := range map[string]struct {
		corrupt func(int, []byte) []byte
		want    int
		closed  bool
	}{
		"a notification is lost": {corrupt: data(func(i uint16, p []byte) []byte {
			if i == 7 {
				return nil
			}
			return p
		}), want: 19},
		"every other is lost": {corrupt: data(func(i uint16, p []byte) []byte {
			if i%2 == 0 {
				return nil
			}
			return p
		}), want: 10},
		"of a handle that was not subscribed": {corrupt: data(func(i uint16, p []byte) []byte {
			if i == 7 {
				p[1] ^= 0x40
			}
			return p
		}), want: 19},
		"shorter than its header": {corrupt: data(func(i uint16, p []byte) []byte {
			if i == 7 {
				return p[:2]
			}
			return p
		}), want: 7, closed: true},
		"an empty packet": {corrupt: data(func(i uint16, p []byte) []byte {
			if i == 7 {
				return []byte{}
			}
			return p
		}), want: 7, closed: true},
		"longer than any": {corrupt: data(func(i uint16, p []byte) []byte {
			if i == 7 {
				return make([]byte, MaxMTU+1)
			}
			return p
		}), want: 7, closed: true},
	} {
		t.Run(name, func(t *testing.T) {
			spoilt(t, &parrot{}, Faults{Corrupt: tc.corrupt}, func(t *testing.T, air *Air) {
				l := dial(t, air)
				defer l.Close()
				if got := receive(t, l, 20); len(got) < min(tc.want, 7) || len(got) > tc.want {
					t.Errorf("%d numbers, want %d", len(got), tc.want)
				}
				select {
				case <-l.Closed():
					if !tc.closed {
						t.Error("the link is gone")
					}
				default:
					if tc.closed {
						t.Error("the link is still there")
					}
				}
			})
		})
	}
}

// An answer that does not come ends the link: a late one would be taken for the next.
func TestLostAnswer(t *testing.T) {
	lose := func(_ int, p []byte) []byte {
		if p[0] == attReadResponse {
			return nil
		}
		return p
	}
	spoilt(t, &parrot{info: []byte("i")}, Faults{Corrupt: lose}, func(t *testing.T, air *Air) {
		l := dial(t, air)
		start := time.Now()
		_, err := l.ReadInfo(t.Context())
		if err == nil || !strings.Contains(err.Error(), "read INFO: no answer within 5s") {
			t.Errorf("read: %v", err)
		}
		if took := time.Since(start); took != callTimeout {
			t.Errorf("after %s", took)
		}
		<-l.Closed()
	})
	spoilt(t, &parrot{info: []byte("i")}, Faults{Corrupt: lose}, func(t *testing.T, air *Air) {
		l := dial(t, air)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := l.ReadInfo(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("read: %v", err)
		}
		<-l.Closed()
	})
}

func TestLostRequestOfTheGateway(t *testing.T) {
	spoilt(t, &parrot{}, Faults{CorruptGateway: func(n int, p []byte) []byte {
		if n == 2 {
			return nil
		}
		return p
	}}, func(t *testing.T, air *Air) {
		if _, err := air.Dial(t.Context(), "m1"); err == nil || !strings.Contains(err.Error(), "dial m1: discover the service: no answer within 5s") {
			t.Errorf("dial: %v", err)
		}
	})
}

func TestPaceIsAirTime(t *testing.T) {
	spoilt(t, &parrot{}, Faults{Pace: 10 * time.Millisecond}, func(t *testing.T, air *Air) {
		l := dial(t, air)
		defer l.Close()
		var last time.Time
		n := 0
		if err := l.Subscribe(t.Context(), CharData, func([]byte) { last = time.Now(); n++ }); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if err := l.Write(t.Context(), CharCredit, []byte{100, 0}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if took := last.Sub(start); n != 100 || took != time.Second {
			t.Errorf("%d numbers in %s", n, took)
		}
	})
}

func TestOutOfReach(t *testing.T) {
	spoilt(t, &parrot{}, Faults{Hidden: true}, func(t *testing.T, air *Air) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := air.Scan(ctx, func(a Advertisement) { t.Errorf("seen: %+v", a) }); err != nil {
			t.Error(err)
		}
		if _, err := air.Dial(t.Context(), "m1"); !errors.Is(err, ErrNotFound) {
			t.Errorf("dial: %v", err)
		}
		air.Spoil("m1", Faults{})
		l := dial(t, air)
		air.Disconnect("m1")
		<-l.Closed()
		dial(t, air).Close()
	})
}

// rude is the other end of a link that answers every packet with the next of a list.
func rude(end *airEnd, answers [][]byte) {
	for _, a := range answers {
		if _, err := end.receive(); err != nil {
			return
		}
		if end.send(a) != nil {
			return
		}
	}
	for {
		if _, err := end.receive(); errors.Is(err, io.EOF) {
			return
		}
	}
}

// Devices that are not what they seem: go-ble alone panics or loops for ever at most of these.
func TestRudeMachines(t *testing.T) {
	mtu, none := []byte{attMTUResponse, 247, 0}, []byte{attError, attReadByGroupRequest, 1, 0, attNotFound}
	uuid := serviceUUID()
	service := append([]byte{attReadByGroupReply, 20, 1, 0, 0xff, 0xff}, uuid[:]...)
	for name, tc := range map[string]struct {
		answers [][]byte
		want    string
	}{
		"MTU 0":                          {[][]byte{{attMTUResponse, 0, 0}}, "malformed ATT packet: opcode 0x03, 3 bytes"},
		"short MTU":                      {[][]byte{{attMTUResponse}}, "malformed ATT packet"},
		"no service":                     {[][]byte{mtu, none}, "does not have the Offline Record Service"},
		"entries of length 0":            {[][]byte{mtu, {attReadByGroupReply, 0, 1, 0, 5, 0, 0, 0x18}}, "malformed ATT packet"},
		"entries of length 2":            {[][]byte{mtu, {attReadByGroupReply, 2, 1, 0, 5, 0}}, "malformed ATT packet"},
		"services that go backwards":     {[][]byte{mtu, {attReadByGroupReply, 6, 1, 0, 0, 0, 0, 0x18}}, "malformed ATT packet"},
		"value handle 0":                 {[][]byte{mtu, service, {attReadByTypeResponse, 7, 2, 0, 2, 0, 0, 0, 0x2a}}, "malformed ATT packet"},
		"no characteristics":             {[][]byte{mtu, service, {attError, attReadByTypeRequest, 1, 0, attNotFound}}, "lacks characteristic"},
		"a notification without handle":  {[][]byte{{attNotification, 3}}, "malformed ATT packet"},
		"an answer to another question":  {[][]byte{{attWriteResponse}}, "no answer within 5s"},
		"an error about another request": {[][]byte{{attError, attReadRequest, 0, 0, 1}}, "no answer within 5s"},
		"a long packet":                  {[][]byte{make([]byte, 600)}, "malformed ATT packet: 600 bytes, at most 515 are taken"},
		"silence":                        {nil, "no answer within 5s"},
		"refuses the MTU":                {[][]byte{{attError, attMTURequest, 0, 0, attNotSupported}}, "exchange the MTU: Request Not Supported"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				central, peripheral := newAirPair(Faults{})
				go rude(peripheral, tc.answers)
				_, err := newLink(t.Context(), central, "m1", UsualMTU)
				if err == nil || !strings.Contains(strings.ToLower(err.Error()), strings.ToLower(tc.want)) {
					t.Errorf("%v, want %q", err, tc.want)
				}
			})
		})
	}
}
