package ors

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/farebeat/farebeat/edge/ble"
	"github.com/farebeat/farebeat/schemas"
)

// However early the link is lost, in whichever direction, at the smallest MTU: resuming gives every
// record once, in order.
func TestCutAtEveryPacketOfEitherSide(t *testing.T) {
	const n = 12
	j := newJournal(n, 100)
	for _, side := range []struct {
		name string
		cut  func(i int) ble.Faults
	}{
		{"machine", func(i int) ble.Faults { return ble.Faults{MTU: 23, CutAfter: i} }},
		{"gateway", func(i int) ble.Faults { return ble.Faults{MTU: 23, CutAfterGateway: i} }},
	} {
		t.Run(side.name, func(t *testing.T) {
			clean, during := false, false
			for cut := 1; !clean; cut++ {
				onAir(t, j, side.cut(cut), func(b *bench) {
					var got []uint32
					sink := func(list []Record) error {
						for _, r := range list {
							got = append(got, r.Seq)
						}
						return nil
					}
					err := b.collect(1, n, sink)
					clean = err == nil
					during = during || (err != nil && len(got) > 0)
					if err != nil && !errors.Is(err, ble.ErrClosed) {
						t.Errorf("cut after %d: %v", cut, err)
					}
					b.air.Spoil("m1", ble.Faults{MTU: 23})
					if len(got) < n {
						if err := b.collect(uint32(len(got))+1, n, sink); err != nil {
							t.Errorf("cut after %d, resumed: %v", cut, err)
						}
					}
					if want := []uint32{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}; !slices.Equal(got, want) {
						t.Errorf("cut after %d: records %v", cut, got)
					}
				})
				if t.Failed() {
					return
				}
			}
			if !during {
				t.Error("no cut was within the report")
			}
		})
	}
}

// collect opens a session, reports once and closes the link.
func (b *bench) collect(from, to uint32, sink func([]Record) error) error {
	s, link, err := b.open()
	if err != nil {
		return err
	}
	defer link.Close()
	return s.Report(b.t.Context(), 3, from, to, sink)
}

// A sink that waits for minutes, as one does whose disk is full, holds the machine back and keeps the
// link.
func TestSinkThatTakesMinutes(t *testing.T) {
	onAir(t, newJournal(30, 200), ble.Faults{}, func(b *bench) {
		got, calls := 0, 0
		err := b.collect(1, 30, func(r []Record) error {
			if calls++; calls == 2 {
				time.Sleep(10 * time.Minute)
			}
			got += len(r)
			return nil
		})
		if err != nil || got != 30 {
			t.Errorf("%d records, %v", got, err)
		}
	})
}

// The link goes while the sink takes its time: what the sink kept stays, and the caller hears of it.
func TestLinkGoesDuringSink(t *testing.T) {
	onAir(t, newJournal(30, 200), ble.Faults{}, func(b *bench) {
		got := 0
		err := b.collect(1, 30, func(r []Record) error {
			b.air.Disconnect("m1")
			time.Sleep(time.Minute)
			got += len(r)
			return nil
		})
		if !errors.Is(err, ble.ErrClosed) || got == 0 || got == 30 {
			t.Errorf("%d records, %v", got, err)
		}
	})
}

// spy is a machine whose ports count the values under way: sent, and not yet credited.
type spy struct {
	ble.Peripheral
	mu       sync.Mutex
	sent     int
	credited int
	most     int
	credits  int
}

type spyPort struct {
	ble.Port
	s *spy
}

func (p spyPort) Notify(c ble.Char, v []byte) error {
	p.s.mu.Lock()
	if c == ble.CharData {
		p.s.sent++
		p.s.most = max(p.s.most, p.s.sent-p.s.credited)
	}
	p.s.mu.Unlock()
	return p.Port.Notify(c, v)
}

type spyHandler struct {
	*server
	s *spy
}

func (h spyHandler) Write(c ble.Char, v []byte) {
	if c == ble.CharCredit { // one segment: next seq, values received, grant
		body, err := h.in[c].sealer.open(v[1:])
		h.s.mu.Lock()
		h.s.credits++
		if err == nil {
			h.s.credited = int(binary.LittleEndian.Uint32(body[4:]))
		}
		h.s.mu.Unlock()
	}
	h.server.Write(c, v)
}

type spied struct {
	*spy
	window byte
}

func (s spied) Connect(p ble.Port) ble.Handler {
	h := s.spy.Peripheral.Connect(spyPort{p, s.spy}).(*server)
	if s.window > 0 {
		h.info[4] = s.window
	}
	return spyHandler{h, s.spy}
}

func TestNeverMoreUnderWayThanTheWindow(t *testing.T) {
	for _, tc := range []struct {
		window byte // of the machine; 0: its own
		most   int
	}{{0, Window}, {4, 4}, {1, 1}} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			b := &bench{t: t, air: ble.NewAir()}
			s := &spy{Peripheral: OnAir(ctx, newJournal(60, 200))}
			b.air.Set("m1", spied{s, tc.window})
			got := 0
			if err := b.collect(1, 60, func(r []Record) error { time.Sleep(time.Second); got += len(r); return nil }); err != nil || got != 60 {
				t.Errorf("%d records, %v", got, err)
			}
			b.air.Set("m1", nil)
			cancel()
			b.air.Wait()
			if s.most != tc.most || s.credits < s.sent/tc.most {
				t.Errorf("window %d: %d values under way, want %d; %d credits for %d values", tc.window, s.most, tc.most, s.credits, s.sent)
			}
		})
	}
}

// quiet is a gateway that does no more than its test says.
func quiet(b *bench, t *testing.T) *Session {
	t.Helper()
	s, _, err := b.open()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A report that gets no credit ends with an answer that says so, never with one that looks complete, and
// the session goes on.
func TestReportWithoutCredit(t *testing.T) {
	onAir(t, newJournal(60, 200), ble.Faults{}, func(b *bench) {
		s := quiet(b, t)
		defer s.link.Close()
		transaction, _, err := s.begin(b.t.Context(), opReport, append(append([]byte{operatorGreaterOrEqual}, appendU32(nil, 3, 1, 60)...), 3))
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		body, err := s.await(b.t.Context(), ble.CharControl, typeResponse, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		if _, ours, err := response(body, transaction, opReport); !ours || !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "no credit for 10s") {
			t.Errorf("ours %v, %v", ours, err)
		}
		if took := time.Since(start); took != creditTimeout {
			t.Errorf("after %s", took)
		}
		got := 0
		if err := s.Report(b.t.Context(), 3, 1, 60, func(r []Record) error { got += len(r); return nil }); err != nil || got != 60 {
			t.Errorf("the next report: %d records, %v", got, err)
		}
	})
}

// A gateway that says nothing does not keep the machine from the next one.
func TestSilentGateways(t *testing.T) {
	onAir(t, newJournal(5, 20), ble.Faults{}, func(b *bench) {
		link, err := b.air.Dial(b.t.Context(), "m1")
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		<-link.Closed()
		if took := time.Since(start); took != helloTimeout {
			t.Errorf("without a handshake: %s", took)
		}
		s := quiet(b, t)
		start = time.Now()
		<-s.link.Closed()
		if took := time.Since(start); took != idleTimeout {
			t.Errorf("without a request: %s", took)
		}
		if _, err := s.Status(b.t.Context()); !errors.Is(err, ble.ErrClosed) {
			t.Errorf("status: %v", err)
		}
	})
}

// slow is a machine that takes longer for an answer than a gateway waits before it asks again.
type slow struct {
	*journal
	took time.Duration
}

func (s slow) SetTime(ctx context.Context, utc time.Time, u time.Duration) error {
	time.Sleep(s.took)
	s.notices = append(s.notices, Notice{})
	return s.journal.SetTime(ctx, utc, u)
}

// A request that is repeated is done once.
func TestRepeatedRequestIsDoneOnce(t *testing.T) {
	for _, tc := range []struct {
		took time.Duration
		err  bool
	}{{12 * time.Second, false}, {16 * time.Second, true}} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			j := newJournal(1, 1)
			b := &bench{t: t, air: ble.NewAir(), j: j}
			b.air.Set("m1", OnAir(ctx, slow{j, tc.took}))
			s := quiet(b, t)
			err := s.SetTime(t.Context(), time.UnixMilli(5), 0)
			if tc.err != (err != nil) {
				t.Errorf("%s: %v", tc.took, err)
			}
			time.Sleep(time.Minute)
			synctest.Wait()
			if len(j.notices) != 1 {
				t.Errorf("%s: done %d times", tc.took, len(j.notices))
			}
			if err := s.FaultCleared(t.Context()); err != nil || j.cleared != 1 {
				t.Errorf("the next request: %v, %d", err, j.cleared)
			}
			s.link.Close()
			b.air.Set("m1", nil)
			cancel()
			b.air.Wait()
		})
	}
}

// The bytes of version 1, for vendors of machines: a change here is a change of the service.
func TestBytesOfVersion1(t *testing.T) {
	var cut segmenter
	join := func(values [][]byte) string {
		list := make([]string, len(values))
		for i, v := range values {
			list[i] = hex.EncodeToString(v)
		}
		return strings.Join(list, " ")
	}
	receipt, err := encodeReceipt([]schemas.EpochReceipt{{Epoch: 3, CompleteTo: 10, Highest: 20, Gaps: [][2]uint32{{11, 12}}, MAC: strings.Repeat("A", 43)}})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ name, got, want string }{
		{"refusal at MTU 23", join(cut.cut([]byte{typeRefused, byte(RefusedExpired)}, 20)), "c00306"},
		{"record", hex.EncodeToString(encodeRecord(Record{Epoch: 3, Seq: 7, UTCMillis: 1_700_000_000_000, ClockGen: 2, Kind: KindTransaction, Payload: []byte("{}")})), goldenRecord},
		{"status", hex.EncodeToString(encodeStatus(Status{Machine: "1216-1", Epochs: []EpochRange{{3, 7, 9}}, UTC: time.UnixMilli(1_700_000_000_000), ClockGen: 2, Pending: 2, PendingMinor: 500, Currency: "USD"})), goldenStatus},
		{"receipt", hex.EncodeToString(receipt), goldenReceipt},
	} {
		if tc.got != tc.want {
			t.Errorf("%s:\n got %s\nwant %s", tc.name, tc.got, tc.want)
		}
	}
}

const (
	goldenRecord  = "03000000070000000068e5cf8b010000020102007b7df47ef3de"
	goldenStatus  = "06313231362d310068e5cf8b0100000202000000f4010000000000000355534401030000000700000009000000"
	goldenReceipt = "01030000000a00000014000000010b0000000c0000000000000000000000000000000000000000000000000000000000000000000000"
)
