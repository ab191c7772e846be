package worker

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/edge/ble"
	"github.com/farebeat/farebeat/edge/ble/hci"
)

func requests() []request {
	return []request{
		{kind: kindScan, id: 1},
		{kind: kindDial, id: 2, address: "c0:ff:ee:00:00:01/random"},
		{kind: kindRead, id: 3, link: 9},
		{kind: kindSubscribe, id: 4, link: 9, char: ble.CharData},
		{kind: kindWrite, id: 5, link: 1 << 31, char: ble.CharCredit, value: []byte("value")},
		{kind: kindCancel, id: 1},
		{kind: kindClose, id: 9},
		{kind: kindPing, id: 1<<32 - 1},
	}
}

func reports() []report {
	return []report{
		{kind: kindReady},
		{kind: kindFound, id: 1, ad: ble.Advertisement{Address: "m1", RSSI: -70, IDHint: ble.IDHint("m1"), Pending: 65535, State: ble.StateFault}},
		{kind: kindDone, id: 2, value: dialled(9, 247)},
		{kind: kindNotify, id: 9, char: ble.CharData, value: bytes.Repeat([]byte{7}, 512)},
		{kind: kindClosed, id: 9},
		{kind: kindPong, id: 5},
	}
}

func TestFramesRoundTrip(t *testing.T) {
	var stream bytes.Buffer
	for _, q := range requests() {
		stream.Write(q.frame().append(nil))
	}
	for _, want := range requests() {
		f, err := readFrame(&stream)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := f.request(); err != nil || !cmp.Equal(got, want, cmp.AllowUnexported(request{})) {
			t.Errorf("%+v, %v, want %+v", got, err, want)
		}
		if _, err := f.report(); !errors.Is(err, errProtocol) {
			t.Errorf("%+v is taken for a report: %v", f, err)
		}
	}
	for _, want := range reports() {
		stream.Write(want.frame().append(nil))
		f, err := readFrame(&stream)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := f.report(); err != nil || !cmp.Equal(got, want, cmp.AllowUnexported(report{})) {
			t.Errorf("%+v, %v, want %+v", got, err, want)
		}
		if _, err := f.request(); !errors.Is(err, errProtocol) {
			t.Errorf("%+v is taken for a request: %v", f, err)
		}
	}
	if _, err := readFrame(&stream); !errors.Is(err, io.EOF) {
		t.Errorf("behind the end: %v", err)
	}
}

// An error is on the agent's side what it was on the worker's.
func TestErrorsCross(t *testing.T) {
	for _, s := range sentinels() {
		sent := report{kind: kindError, id: 1, err: fmt.Errorf("do this: %w: so %w", s, hci.ErrGone)}
		r, err := sent.frame().report()
		if err != nil {
			t.Fatal(err)
		}
		if !errors.Is(r.err, s) || !errors.Is(r.err, hci.ErrGone) || r.err.Error() != sent.err.Error() {
			t.Errorf("%v became %v", sent.err, r.err)
		}
		for _, other := range sentinels() {
			if errors.Is(r.err, other) != errors.Is(sent.err, other) {
				t.Errorf("%v is %v", r.err, other)
			}
		}
	}
	if n := len(sentinels()); n > 16 {
		t.Errorf("%d sentinels do not fit into 16 bits", n)
	}
	long := report{kind: kindFailed, err: errors.New(strings.Repeat("x", 5000))}
	if r, err := long.frame().report(); err != nil || len(r.err.Error()) != maxText {
		t.Errorf("a long error: %v", err)
	}
}

func TestFramesRefused(t *testing.T) {
	for name, b := range map[string][]byte{"no bytes": {0, 0}, "too few": {4, 0, 1, 0, 0, 0, 0}, "too many": {0xff, 0xff, 1, 0, 0, 0, 0}} {
		if _, err := readFrame(bytes.NewReader(append(b, make([]byte, 70000)...))); !errors.Is(err, errProtocol) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, f := range []frame{
		{kind: 0},
		{kind: kindScan, body: []byte{1}},
		{kind: kindDial},
		{kind: kindDial, body: make([]byte, maxAddress+1)},
		{kind: kindRead, body: make([]byte, 3)},
		{kind: kindRead, body: make([]byte, 5)},
		{kind: kindSubscribe, body: make([]byte, 5)},
		{kind: kindWrite, body: make([]byte, 6+ble.MaxMTU+1)},
	} {
		if _, err := f.request(); !errors.Is(err, errProtocol) {
			t.Errorf("request %#02x with %d bytes: %v", uint8(f.kind), len(f.body), err)
		}
	}
	for _, f := range []frame{
		{kind: kindReady, body: []byte{1}},
		{kind: kindFailed},
		{kind: kindError, body: make([]byte, 3+maxText)},
		{kind: kindFound, body: make([]byte, foundHeader)},
		{kind: kindFound, body: make([]byte, foundHeader+maxAddress+1)},
		{kind: kindNotify, body: []byte{1}},
		{kind: kindNotify, body: make([]byte, ble.MaxMTU+3)},
		{kind: kindDone, body: make([]byte, ble.MaxMTU+1)},
		{kind: 0xff},
	} {
		if _, err := f.report(); !errors.Is(err, errProtocol) {
			t.Errorf("report %#02x with %d bytes: %v", uint8(f.kind), len(f.body), err)
		}
	}
}

// Whatever the other process sends, both ends read it without a panic, and what they take they write the same.
func FuzzFrames(f *testing.F) {
	for _, q := range requests() {
		f.Add(q.frame().append(nil))
	}
	for _, r := range append(reports(), report{kind: kindError, id: 3, err: ble.ErrClosed}) {
		f.Add(r.frame().append(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		for {
			fr, err := readFrame(r)
			if err != nil {
				return
			}
			if len(fr.body) > maxBody {
				t.Fatalf("a body of %d bytes", len(fr.body))
			}
			if q, err := fr.request(); err == nil && !bytes.Equal(q.frame().append(nil), fr.append(nil)) {
				t.Fatalf("%+v becomes %+v", fr, q.frame())
			}
			rep, err := fr.report()
			if err == nil && rep.err == nil && !bytes.Equal(rep.frame().append(nil), fr.append(nil)) {
				t.Fatalf("%+v becomes %+v", fr, rep.frame())
			}
			if err == nil && rep.kind == kindDone {
				if link, mtu, err := parseDialled(rep.value); err == nil && !bytes.Equal(dialled(link, mtu), rep.value) {
					t.Fatalf("%x becomes %d, %d", rep.value, link, mtu)
				}
			}
		}
	})
}
