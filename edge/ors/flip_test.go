package ors

import (
	"bytes"
	"context"
	"encoding/hex"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/farebeat/farebeat/edge/ble"
	"github.com/farebeat/farebeat/schemas"
)

// flipStep is between two bits that are flipped; FAREBEAT_FLIP_ALL=1 tries every one.
func flipStep() int {
	if os.Getenv("FAREBEAT_FLIP_ALL") != "" {
		return 1
	}
	return 11
}

// attHeader is before a value in an ATT packet: opcode and handle.
const attHeader = 3

// isValue reports whether an ATT packet carries a value of the service: a notification or a write without response.
func isValue(p []byte) bool { return len(p) > attHeader && (p[0] == 0x1b || p[0] == 0x52) }

// conversation is a whole session at the smallest MTU; what the machine gave is returned, as far as it went.
func conversation(ctx context.Context, b *bench, c Credentials) (status Status, records []Record, err error) {
	link, err := b.air.Dial(ctx, "m1")
	if err != nil {
		return status, nil, err
	}
	defer link.Close()
	s, err := Open(ctx, link, c, Options{})
	if err != nil {
		return status, nil, err
	}
	if status, err = s.Status(ctx); err != nil {
		return status, nil, err
	}
	r := schemas.EpochReceipt{Epoch: 3, CompleteTo: 1, Highest: 1}
	r.MAC = schemas.ReceiptMAC(testKey(), "m1", r)
	if err = s.Receipt(ctx, []schemas.EpochReceipt{r}); err == nil {
		err = s.Report(ctx, 3, 1, 5, func(list []Record) error { records = append(records, list...); return nil })
	}
	return status, records, err
}

// TestFlippedBits flips single bits of every value of either side. Whatever becomes of the session, nothing wrong is taken for
// true, neither a record nor a status nor a receipt, and the machine serves the next gateway.
func TestFlippedBits(t *testing.T) {
	for _, side := range []string{"machine", "gateway"} {
		t.Run(side, func(t *testing.T) {
			flips, noticed := 0, 0
			for value, more := 0, true; more; value++ {
				more = false
				for bit := value % flipStep(); ; bit += flipStep() {
					hit := false
					flip(t, side, value, bit, &hit, &noticed)
					if t.Failed() {
						t.Fatalf("bit %d of value %d of the %s", bit, value, side)
					}
					if !hit {
						break
					}
					flips++
					more = true
				}
			}
			if flips < 100 || noticed < flips*9/10 {
				t.Errorf("%d bits flipped, %d noticed: the test does not do what it should", flips, noticed)
			}
			t.Logf("%d bits flipped one by one, %d ended the session", flips, noticed)
		})
	}
}

func flip(t *testing.T, side string, value, bit int, hit *bool, noticed *int) {
	j := newJournal(5, 20)
	seen := 0
	spoil := func(_ int, p []byte) []byte {
		if !isValue(p) {
			return p
		}
		if seen++; seen-1 == value && bit/8 < len(p)-attHeader {
			*hit = true
			p = bytes.Clone(p)
			p[attHeader+bit/8] ^= 1 << (bit % 8)
		}
		return p
	}
	f := ble.Faults{MTU: 23, Corrupt: spoil}
	if side == "gateway" {
		f = ble.Faults{MTU: 23, CorruptGateway: spoil}
	}
	onAir(t, j, f, func(b *bench) {
		want, _ := j.Status(b.t.Context())
		status, records, err := conversation(b.t.Context(), b, credentials(b.t))
		if err != nil {
			*noticed++
		}
		if status.Machine != "" && (status.Machine != want.Machine || status.Pending != want.Pending || !slices.Equal(status.Epochs, want.Epochs)) {
			t.Errorf("a wrong status is believed: %+v", status)
		}
		for i, r := range records {
			if r.Seq != uint32(i+1) || !bytes.Equal(r.Payload, j.records[i].Payload) {
				t.Errorf("a wrong record is believed: %+v", r)
			}
		}
		for _, e := range j.receipt {
			if err := schemas.VerifyReceipt(testKey(), "m1", e); err != nil || e.Highest != 1 {
				t.Errorf("the machine took the receipt %+v", e)
			}
		}
		b.air.Spoil("m1", ble.Faults{MTU: 23})
		if _, records, err := conversation(b.t.Context(), b, credentials(b.t)); err != nil || len(records) != 5 {
			t.Errorf("the next gateway: %d records, %v", len(records), err)
		}
	})
}

// TestARecordedSession is kept off the air: it tells a listener nothing, and played again it opens nothing.
func TestARecordedSession(t *testing.T) {
	j := newJournal(5, 40)
	for i := range j.records {
		j.records[i].Payload = []byte("the money of passenger number 000" + string(rune('0'+i)))
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		b := &bench{t: t, air: ble.NewAir(), j: j}
		b.air.Set("m1", OnAir(ctx, j))
		var mu sync.Mutex
		var heard bytes.Buffer
		var said []input // by the gateway
		record := func(_ int, p []byte) []byte {
			mu.Lock()
			defer mu.Unlock()
			if isValue(p) {
				heard.Write(p[attHeader+1:]) // without the segments' heads
			}
			return p
		}
		chars := map[uint16]ble.Char{}
		b.air.Spoil("m1", ble.Faults{Corrupt: record, CorruptGateway: func(n int, p []byte) []byte {
			if isValue(p) {
				handle := uint16(p[1]) | uint16(p[2])<<8
				if _, ok := chars[handle]; !ok { // in the order of a session: SESSION, CONTROL, CREDIT
					chars[handle] = []ble.Char{ble.CharSession, ble.CharControl, ble.CharCredit}[len(chars)]
				}
				said = append(said, input{chars[handle], bytes.Clone(p[attHeader:])})
			}
			return record(n, p)
		}})
		c := credentials(t)
		if _, records, err := conversation(ctx, b, c); err != nil || len(records) != 5 {
			t.Fatalf("%d records, %v", len(records), err)
		}
		for name, secret := range map[string][]byte{
			"a payload": []byte("passenger number"), "the secret": c.Secret[:], "the machine's key": testKey(), "a part of the secret": c.Secret[:8],
		} {
			if bytes.Contains(heard.Bytes(), secret) {
				t.Errorf("%s is on the air: %s", name, hex.EncodeToString(secret))
			}
		}
		// Played again: WELCOME at most, then the link ends, and nothing was done.
		b.air.Spoil("m1", ble.Faults{})
		j.receipt = nil
		link, err := b.air.Dial(ctx, "m1")
		if err != nil {
			t.Fatal(err)
		}
		answers := map[ble.Char]int{}
		for _, char := range []ble.Char{ble.CharSession, ble.CharControl, ble.CharData} {
			if err := link.Subscribe(ctx, char, func([]byte) { mu.Lock(); answers[char]++; mu.Unlock() }); err != nil {
				t.Fatal(err)
			}
		}
		for _, v := range said {
			_ = link.Write(ctx, v.char, v.value)
			time.Sleep(100 * time.Millisecond) // an answer is lost where the machine ends the link before it left
		}
		<-link.Closed()
		synctest.Wait()
		mu.Lock()
		if answers[ble.CharControl]+answers[ble.CharData] > 0 || j.receipt != nil {
			t.Errorf("a session that was played again: answers %v, receipt %v", answers, j.receipt)
		}
		if answers[ble.CharSession] == 0 {
			t.Error("the machine did not even answer HELLO: the test shows nothing")
		}
		mu.Unlock()
		b.air.Set("m1", nil)
		cancel()
		b.air.Wait()
	})
}

// A session that has used up its counters ends: no nonce comes twice.
func TestCountersAreUsedUp(t *testing.T) {
	onAir(t, newJournal(5, 20), ble.Faults{}, func(b *bench) {
		s := quiet(b, t)
		defer s.link.Close()
		s.out.last = 1<<32 - 2
		if _, err := s.Status(b.t.Context()); err != nil {
			t.Errorf("the last message: %v", err)
		}
		if _, err := s.Status(b.t.Context()); err == nil {
			t.Error("a message after the last")
		}
		o := outgoing{last: 1<<32 - 1}
		if _, err := o.message(typeRequest, nil); err == nil {
			t.Error("a counter comes twice")
		}
	})
}
