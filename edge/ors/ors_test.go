package ors

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flynn/noise"
	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/edge/ble"
	"github.com/farebeat/farebeat/schemas"
)

// journal is a machine's store in memory.
type journal struct {
	mu      sync.Mutex
	records []Record
	receipt []schemas.EpochReceipt
	notices []Notice
	cleared int
	clock   time.Time
	refuse  error
	mark    TicketMark
	kept    int   // marks that were written
	worn    error // why no mark can be written
}

func newJournal(n, size int) *journal {
	j := &journal{}
	for i := range n {
		body := bytes.Repeat([]byte{byte(i)}, size)
		j.records = append(j.records, Record{Epoch: 3, Seq: uint32(i + 1), UTCMillis: int64(i) * 1000, ClockGen: 2, Kind: KindTransaction, Payload: body})
	}
	return j
}

func (j *journal) Advertise() ble.Advertisement {
	return ble.Advertisement{IDHint: ble.IDHint("m1"), Pending: uint16(len(j.records)), State: ble.StatePending}
}

func (j *journal) Status(context.Context) (Status, error) {
	return Status{Machine: "m1", Epochs: []EpochRange{{2, 5, 5}, {3, 1, uint32(len(j.records)) + 1}}, UTC: time.UnixMilli(77).UTC(), ClockGen: 2, Pending: uint32(len(j.records)), PendingMinor: -5, Currency: "USD"}, j.refuse
}

func (j *journal) Records(_ context.Context, epoch, from uint32, most int) ([]Record, error) {
	if epoch != 3 || int(from) > len(j.records) {
		return nil, j.refuse
	}
	list := j.records[from-1:]
	return list[:min(len(list), most)], j.refuse
}

func (j *journal) Receipt(_ context.Context, e []schemas.EpochReceipt) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.receipt = e
	return j.refuse
}

func (j *journal) FaultNotice(_ context.Context, n Notice) error {
	j.notices = append(j.notices, n)
	return nil
}
func (j *journal) FaultCleared(context.Context) error { j.cleared++; return nil }
func (j *journal) SetTime(_ context.Context, utc time.Time, _ time.Duration) error {
	j.clock = utc
	return nil
}

// bench is a machine on air and a gateway that dials it.
type bench struct {
	t   *testing.T
	air *ble.Air
	j   *journal
}

// onAir runs do in virtual time and checks that nothing is left running.
func onAir(t *testing.T, j *journal, f ble.Faults, do func(b *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		b := &bench{t: t, air: ble.NewAir(), j: j}
		b.air.Set("m1", OnAir(ctx, j))
		b.air.Spoil("m1", f)
		do(b)
		b.air.Set("m1", nil)
		cancel()
		b.air.Wait()
	})
}

func (b *bench) open() (*Session, ble.Link, error) {
	link, err := b.air.Dial(b.t.Context(), "m1")
	if err != nil {
		return nil, nil, err
	}
	s, err := Open(b.t.Context(), link, credentials(b.t), Options{})
	if err != nil {
		link.Close()
		return nil, nil, err
	}
	return s, link, nil
}

func TestConversation(t *testing.T) {
	receipt := []schemas.EpochReceipt{{Epoch: 3, CompleteTo: 10, Highest: 20, Gaps: [][2]uint32{{11, 12}, {14, 14}}}}
	receipt[0].MAC = schemas.ReceiptMAC(make([]byte, 32), "m1", receipt[0])
	for _, mtu := range []int{23, 247, 515} {
		j := newJournal(40, 200)
		onAir(t, j, ble.Faults{MTU: mtu, GatewayMTU: ble.MaxMTU}, func(b *bench) {
			ctx := b.t.Context()
			s, link, err := b.open()
			if err != nil {
				t.Fatal(err)
			}
			defer link.Close()
			if got := link.MTU(); got != mtu {
				t.Errorf("MTU %d, want %d", got, mtu)
			}
			status, err := s.Status(ctx)
			if err != nil {
				t.Fatal(err)
			}
			want, _ := j.Status(ctx)
			if diff := cmp.Diff(want, status); diff != "" {
				t.Error(diff)
			}
			opened := time.UnixMilli(1_700_000_000_000).UTC()
			if err := errors.Join(s.Receipt(ctx, receipt), s.FaultNotice(ctx, Notice{"M-1", "machine_silent", opened}), s.SetTime(ctx, opened, time.Second), s.FaultCleared(ctx)); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(receipt, j.receipt); diff != "" {
				t.Error(diff)
			}
			if len(j.notices) != 1 || j.notices[0] != (Notice{"M-1", "machine_silent", opened}) || !j.clock.Equal(opened) || j.cleared != 1 {
				t.Errorf("the machine was told %+v, %v, %d", j.notices, j.clock, j.cleared)
			}
			for _, tc := range []struct{ from, to, want uint32 }{{1, 40, 40}, {7, 9, 3}, {39, 400, 2}, {41, 50, 0}} {
				var got []Record
				if err := s.Report(ctx, 3, tc.from, tc.to, func(r []Record) error { got = append(got, r...); return nil }); err != nil {
					t.Fatalf("MTU %d, %d to %d: %v", mtu, tc.from, tc.to, err)
				}
				end := min(int(tc.from-1+tc.want), len(j.records))
				if diff := cmp.Diff(append([]Record(nil), j.records[min(int(tc.from-1), end):end]...), got); diff != "" {
					t.Errorf("MTU %d, %d to %d: %s", mtu, tc.from, tc.to, diff)
				}
			}
		})
	}
}

// A link that is cut in the handshake, at any record or at the end: whoever resumes behind what it has gets every record once, in
// order.
func TestCutAtEveryRecordAndResume(t *testing.T) {
	const n = 300
	j := newJournal(n, 120) // a packet each
	for cut := 1; cut <= n+30; cut++ {
		onAir(t, j, ble.Faults{CutAfter: cut}, func(b *bench) {
			var got []Record
			sink := func(r []Record) error { got = append(got, r...); return nil }
			for try := 0; len(got) < n && try < 3; try++ {
				if try == 1 {
					b.air.Spoil("m1", ble.Faults{})
				}
				s, link, err := b.open()
				if err != nil {
					continue // cut in the handshake
				}
				err = s.Report(b.t.Context(), 3, uint32(len(got))+1, n, sink)
				link.Close()
				if err == nil && len(got) < n {
					t.Fatalf("cut after %d: a report without an error gave %d records", cut, len(got))
				}
			}
			if !slices.EqualFunc(got, j.records, func(a, b Record) bool { return a.Seq == b.Seq && bytes.Equal(a.Payload, b.Payload) }) {
				t.Fatalf("cut after %d packets: %d records", cut, len(got))
			}
		})
	}
}

func TestLostAndCorruptPackets(t *testing.T) {
	j := newJournal(50, 200)
	first := func(spoil func(p []byte) []byte) func(int, []byte) []byte {
		done := false
		return func(n int, p []byte) []byte {
			if done || n < 50 || len(p) < 20 {
				return p
			}
			done = true
			return spoil(bytes.Clone(p))
		}
	}
	for name, corrupt := range map[string]func(int, []byte) []byte{
		"drop":        first(func([]byte) []byte { return nil }),
		"flip":        first(func(p []byte) []byte { p[15] ^= 1; return p }),
		"shorten":     first(func(p []byte) []byte { return p[:10] }),
		"old counter": first(func(p []byte) []byte { p[3]--; return p }),
	} {
		t.Run(name, func(t *testing.T) {
			onAir(t, j, ble.Faults{Corrupt: corrupt}, func(b *bench) {
				s, link, err := b.open()
				if err != nil {
					t.Fatal(err)
				}
				defer link.Close()
				var got []Record
				err = s.Report(b.t.Context(), 3, 1, 50, func(r []Record) error { got = append(got, r...); return nil })
				if err == nil {
					t.Error("nothing was noticed")
				}
				for i, r := range got {
					if r.Seq != uint32(i+1) || !bytes.Equal(r.Payload, j.records[i].Payload) {
						t.Errorf("record %d is %d", i+1, r.Seq)
					}
				}
			})
		})
	}
}

// A slow sink holds the machine back, and nothing is lost: go-ble's client would drop what is beyond
// its queue.
func TestSlowSinkLosesNothing(t *testing.T) {
	j := newJournal(100, 200)
	onAir(t, j, ble.Faults{}, func(b *bench) {
		s, link, err := b.open()
		if err != nil {
			t.Fatal(err)
		}
		defer link.Close()
		got := 0
		err = s.Report(b.t.Context(), 3, 1, 100, func(r []Record) error {
			time.Sleep(time.Second)
			got += len(r)
			return nil
		})
		if err != nil || got != 100 {
			t.Errorf("%d records, %v", got, err)
		}
	})
}

func TestSinkErrorAbortsAndTheSessionGoesOn(t *testing.T) {
	j := newJournal(100, 200)
	full := errors.New("the disk is full")
	onAir(t, j, ble.Faults{MTU: 23}, func(b *bench) {
		s, link, err := b.open()
		if err != nil {
			t.Fatal(err)
		}
		defer link.Close()
		if err := s.Report(b.t.Context(), 3, 1, 100, func([]Record) error { return full }); !errors.Is(err, full) {
			t.Errorf("report: %v", err)
		}
		got := 0
		if err := s.Report(b.t.Context(), 3, 1, 10, func(r []Record) error { got += len(r); return nil }); err != nil || got != 10 {
			t.Errorf("after the abort: %d records, %v", got, err)
		}
	})
}

func TestRefusals(t *testing.T) {
	j := newJournal(5, 20)
	j.refuse = errors.New("the flash is worn out")
	onAir(t, j, ble.Faults{}, func(b *bench) {
		s, link, err := b.open()
		if err != nil {
			t.Fatal(err)
		}
		defer link.Close()
		ctx := b.t.Context()
		_, statusErr := s.Status(ctx)
		for what, err := range map[string]error{
			"status": statusErr, "receipt": s.Receipt(ctx, nil),
			"report": s.Report(ctx, 3, 1, 5, func([]Record) error { return nil }),
		} {
			if !errors.Is(err, ErrRefused) || !bytes.Contains([]byte(fmt.Sprint(err)), []byte("the flash is worn out")) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if err := s.Report(ctx, 3, 9, 5, nil); !errors.Is(err, ErrRefused) {
			t.Errorf("a report from 9 to 5: %v", err)
		}
	})
}

// Nothing but INFO and SESSION answers before the handshake, and nonsense ends the link without harm.
func TestMachineAgainstARudeGateway(t *testing.T) {
	good := helloOf(t, issue(t, testKey(), testGrant(6, time.Now(), time.Hour)))
	request := append([]byte{typeRequest, 1, 0, 0, 0, 1, 0, opStatus}, make([]byte, tagSize)...)
	whole := func(c ble.Char, counter byte, m []byte) input { return input{c, append([]byte{0xc0 | counter}, m...)} }
	for name, tc := range map[string]struct {
		values  []input
		answers int32
	}{
		"request before hello": {[]input{whole(ble.CharControl, 0, request)}, 0},
		"credit before hello":  {[]input{whole(ble.CharCredit, 0, request)}, 0},
		"hello on control":     {[]input{whole(ble.CharControl, 0, good)}, 0},
		"counter gap":          {[]input{whole(ble.CharSession, 5, good)}, 0},
		"middle first":         {[]input{{ble.CharSession, append([]byte{0x40}, good...)}}, 0},
		"empty hello":          {[]input{whole(ble.CharSession, 0, nil)}, 0},
		"short hello":          {[]input{whole(ble.CharSession, 0, good[:len(good)-1])}, 0},
		"long hello":           {[]input{whole(ble.CharSession, 0, append(bytes.Clone(good), 0))}, 0},
		"hello again":          {[]input{whole(ble.CharSession, 0, good), whole(ble.CharSession, 1, good)}, 1},
		"forged request":       {[]input{whole(ble.CharSession, 0, good), whole(ble.CharControl, 0, request)}, 1},
		"unknown suite":        {[]input{whole(ble.CharSession, 0, []byte{typeHello, Major, 9}), whole(ble.CharSession, 1, good)}, 1},
		"unknown version":      {[]input{whole(ble.CharSession, 0, []byte{typeHello, 2, suiteNoise, 1, 2, 3}), whole(ble.CharSession, 1, good)}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			onAir(t, newJournal(5, 20), ble.Faults{}, func(b *bench) {
				link, err := b.air.Dial(b.t.Context(), "m1")
				if err != nil {
					t.Fatal(err)
				}
				var answers atomic.Int32
				for _, c := range []ble.Char{ble.CharSession, ble.CharControl, ble.CharData} {
					if err := link.Subscribe(b.t.Context(), c, func([]byte) { answers.Add(1) }); err != nil {
						t.Fatal(err)
					}
				}
				for _, v := range tc.values {
					_ = link.Write(b.t.Context(), v.char, v.value)
				}
				<-link.Closed()
				if got := answers.Load(); got > tc.answers {
					t.Errorf("%d answers, want %d", got, tc.answers)
				}
				if _, second, err := b.open(); err != nil {
					t.Errorf("the machine does not answer the next gateway: %v", err)
				} else {
					second.Close()
				}
			})
		})
	}
}

// helloOf is the HELLO of a gateway that has credentials.
func helloOf(t testing.TB, c Credentials) []byte {
	t.Helper()
	_, m := begin(t, c)
	return m
}

// begin is a gateway's first step towards machine m1.
func begin(t testing.TB, c Credentials) (*noise.HandshakeState, []byte) {
	t.Helper()
	state, err := shake(true, rand.Reader, encodeInfo(ble.IDHint("m1")), c.Sealed, c.Secret)
	if err != nil {
		t.Fatal(err)
	}
	first, _, _, err := state.WriteMessage(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return state, hello{Major, suiteNoise, c.Sealed, first}.encode()
}

// FuzzMachine is a hostile gateway: what it writes before the handshake, and, as one that has a ticket, requests of any bytes.
func FuzzMachine(f *testing.F) {
	// The same in every process of the fuzzer.
	at := time.Date(2026, 11, 23, 5, 0, 0, 0, time.UTC)
	sealed, err := schemas.SealTicket(testKey(), bytes.NewReader(repeat(1, 12)), testGrant(7, at, 24*time.Hour))
	if err != nil {
		f.Fatal(err)
	}
	fixed := Credentials{Machine: "m1", Sealed: sealed}
	state, err := shake(true, bytes.NewReader(repeat(2, 32)), encodeInfo(ble.IDHint("m1")), fixed.Sealed, fixed.Secret)
	if err != nil {
		f.Fatal(err)
	}
	first, _, _, err := state.WriteMessage(nil, nil)
	if err != nil {
		f.Fatal(err)
	}
	good := append([]byte{0xc0}, hello{Major, suiteNoise, sealed, first}.encode()...)
	f.Add(good, byte(2), false, []byte{1, 0, opStatus})
	f.Add([]byte{0xc0, typeHello, 1, 1, 255, 255}, byte(2), false, []byte{})
	f.Add([]byte{0xc0, 1}, byte(5), true, append([]byte{2, 0, opReport, operatorGreaterOrEqual}, appendU32(nil, 3, 1, 5)...))
	f.Add([]byte{}, byte(3), true, []byte{3, 0, opReceipt, 1})
	f.Fuzz(func(t *testing.T, raw []byte, char byte, insider bool, request []byte) {
		j := newJournal(3, 10)
		port := &lastWord{}
		s := &server{store: j, gate: newGatekeeper(j), info: encodeInfo(ble.IDHint("m1")), port: port, queue: make(chan input, 1), cancel: func() {}, ended: make(chan struct{})}
		out := outgoing{}
		if insider {
			state, m := begin(t, credentials(t))
			if err := s.take(t.Context(), input{ble.CharSession, append([]byte{0xc0}, m...)}); err != nil || !s.open {
				t.Fatalf("a good ticket: %v", err)
			}
			welcome, err := decodeWelcome(port.message)
			if err != nil {
				t.Fatal(err)
			}
			_, ours, _, err := state.ReadMessage(nil, welcome)
			if err != nil {
				t.Fatal(err)
			}
			out.sealer = sealer{ours.Cipher()}
		}
		err := s.take(t.Context(), input{ble.Char(char % 6), raw})
		if !insider && s.open && !bytes.Equal(raw, good) {
			t.Fatalf("%x opens a session", raw)
		}
		if err != nil || !insider {
			return
		}
		m, err := out.message(typeRequest, request)
		if err != nil {
			t.Fatal(err)
		}
		cut := segmenter{next: s.in[ble.CharControl].assembler.next}
		for _, v := range cut.cut(m, 20) {
			if s.take(t.Context(), input{ble.CharControl, v}) != nil {
				return
			}
		}
		for range 100 {
			if s.report == nil || s.step(t.Context()) != nil {
				return
			}
		}
	})
}

// lastWord keeps the latest message of a machine.
type lastWord struct {
	assembler
	message []byte
}

func (*lastWord) MTU() int     { return ble.MinMTU }
func (*lastWord) Close() error { return nil }

func (w *lastWord) Notify(c ble.Char, value []byte) error {
	if c == ble.CharSession {
		if m, err := w.add(value); err == nil && m != nil {
			w.message = m
		}
	}
	return nil
}

func FuzzGatewayDecoders(f *testing.F) {
	f.Add(encodeRecord(Record{Epoch: 1, Seq: 2, Payload: []byte("x")}))
	f.Add(encodeStatus(Status{Machine: "m", Epochs: []EpochRange{{1, 1, 2}}}))
	f.Add([]byte{1, 0, opResponse, opStatus, codeSuccess})
	receipt, _ := encodeReceipt([]schemas.EpochReceipt{{Epoch: 1, CompleteTo: 1, Highest: 1, MAC: schemas.ReceiptMAC(nil, "m", schemas.EpochReceipt{})}})
	f.Add(receipt)
	f.Add(hello{Major, suiteNoise, []byte("sealed"), make([]byte, noiseMessage)}.encode())
	f.Add([]byte{typeRefused, 5})
	f.Add(append([]byte{typeWelcome, Major, Minor, suiteNoise}, make([]byte, noiseMessage)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := decodeRecord(b); err == nil && !bytes.Equal(encodeRecord(r), b) {
			t.Errorf("record %+v", r)
		}
		if s, err := decodeStatus(&reader{b: b}); err == nil && !bytes.Equal(encodeStatus(s), b) {
			t.Errorf("status %+v", s)
		}
		if e, err := decodeReceipt(&reader{b: b}); err == nil {
			if again, err := encodeReceipt(e); err != nil || !bytes.Equal(again, b) {
				t.Errorf("receipt %+v", e)
			}
		}
		_, _, _ = response(b, 1, opStatus)
		if h, err := decodeHello(b); err == nil && h.major == Major && h.suite == suiteNoise && !bytes.Equal(h.encode(), b) {
			t.Errorf("hello %+v", h)
		}
		if answer, err := decodeWelcome(b); err == nil && len(answer) != noiseMessage {
			t.Errorf("welcome with %d bytes", len(answer))
		}
		var a assembler
		for len(b) > 0 {
			n := min(len(b), 1+int(b[0])%20)
			if _, err := a.add(b[:n]); err != nil {
				return
			}
			b = b[n:]
		}
	})
}

func BenchmarkReport(b *testing.B) {
	for _, mtu := range []int{23, 247, 515} {
		b.Run(fmt.Sprint("MTU ", mtu), func(b *testing.B) {
			ctx, cancel := context.WithCancel(b.Context())
			defer cancel()
			air := ble.NewAir()
			air.Set("m1", OnAir(ctx, newJournal(1000, 200)))
			air.Spoil("m1", ble.Faults{MTU: mtu, GatewayMTU: ble.MaxMTU})
			link, err := air.Dial(ctx, "m1")
			if err != nil {
				b.Fatal(err)
			}
			s, err := Open(ctx, link, credentials(b), Options{})
			if err != nil {
				b.Fatal(err)
			}
			records := 0
			for b.Loop() {
				if err := s.Report(ctx, 3, 1, 1000, func(r []Record) error { records += len(r); return nil }); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(records)/b.Elapsed().Seconds(), "records/s")
			link.Close()
			air.Set("m1", nil)
			air.Wait()
		})
	}
}
