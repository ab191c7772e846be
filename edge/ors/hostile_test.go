package ors

import (
	"bytes"
	"context"
	"crypto/rand"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/farebeat/farebeat/edge/ble"
)

// scripted is a link to a machine that says what a script wants: some chunks of it after each message of the gateway, and then it is
// gone. An insider knows the key and seals what it says.
type scripted struct {
	t       *testing.T
	c       Credentials
	info    []byte
	script  []byte
	insider bool

	heard  assembler
	out    *outgoing // of an insider, once it shook hands
	cut    [6]segmenter
	notify [6]func([]byte)
	closed chan struct{}
	once   sync.Once
}

func (l *scripted) MTU() int                                 { return 64 }
func (l *scripted) ReadInfo(context.Context) ([]byte, error) { return l.info, nil }
func (l *scripted) Closed() <-chan struct{}                  { return l.closed }
func (l *scripted) Close() error                             { l.once.Do(func() { close(l.closed) }); return nil }

func (l *scripted) Subscribe(_ context.Context, c ble.Char, notify func([]byte)) error {
	l.notify[c] = notify
	return nil
}

func (l *scripted) Write(_ context.Context, c ble.Char, v []byte) error {
	if c == ble.CharSession && l.insider && l.out == nil {
		m, err := l.heard.add(v)
		if err != nil {
			l.t.Fatal(err)
		}
		if m != nil {
			l.welcome(m)
		}
	}
	for range 4 {
		l.chunk()
	}
	return nil
}

// welcome shakes hands as the machine does.
func (l *scripted) welcome(m []byte) {
	h, err := decodeHello(m)
	if err != nil {
		l.t.Fatal(err)
	}
	state, err := shake(false, rand.Reader, l.info, h.sealed, l.c.Secret)
	if err != nil {
		l.t.Fatal(err)
	}
	if _, _, _, err := state.ReadMessage(nil, h.noise); err != nil {
		l.t.Fatal(err)
	}
	answer, _, ours, err := state.WriteMessage([]byte{typeWelcome, Major, Minor, suiteNoise}, nil)
	if err != nil {
		l.t.Fatal(err)
	}
	l.out = &outgoing{sealer: sealer{ours.Cipher()}}
	for _, v := range l.cut[ble.CharSession].cut(answer, 61) {
		l.notify[ble.CharSession](v)
	}
}

// chunk plays one piece of the script: characteristic and type, length, bytes.
func (l *scripted) chunk() {
	if len(l.script) < 2 {
		if !l.insider || l.out != nil {
			_ = l.Close()
		}
		return
	}
	head, n := l.script[0], int(l.script[1])
	body := l.script[2:min(len(l.script), 2+n)]
	l.script = l.script[2+len(body):]
	c := []ble.Char{ble.CharSession, ble.CharControl, ble.CharData, ble.CharData}[head&3]
	if l.notify[c] == nil {
		return
	}
	if l.out == nil || head&0x80 != 0 {
		l.notify[c](bytes.Clone(body))
		return
	}
	m, err := l.out.message([]byte{typeResponse, typeRecord}[head>>2&1], body)
	if err != nil {
		l.t.Fatal(err)
	}
	for _, v := range l.cut[c].cut(m, 61) {
		l.notify[c](v)
	}
}

// FuzzHostileMachine: whatever a device says, before the handshake or as one that knows the key, the gateway does not panic or hang, and takes no
// record that it did not ask for, none twice, and none without those before it.
func FuzzHostileMachine(f *testing.F) {
	info := encodeInfo(ble.IDHint("m1"))
	answer := func(transaction byte, op, code byte, detail ...byte) []byte {
		b := append([]byte{transaction, 0, opResponse, op, code}, detail...)
		return append([]byte{1, byte(len(b))}, b...)
	}
	record := func(seq uint32) []byte {
		b := encodeRecord(Record{Epoch: 3, Seq: seq, Payload: []byte("x")})
		return append([]byte{2 | 4, byte(len(b))}, b...)
	}
	status := encodeStatus(Status{Machine: "m1", Epochs: []EpochRange{{3, 1, 21}}})
	good := bytes.Join([][]byte{answer(1, opStatus, codeSuccess, status...), record(1), record(2), record(3), answer(2, opReport, codeSuccess, appendU32(nil, 3, 3)...)}, nil)
	f.Add(info, good, true)
	f.Add(info, bytes.Join([][]byte{answer(1, opStatus, codeSuccess, status...), record(1), record(3)}, nil), true)
	f.Add(info, bytes.Join([][]byte{answer(1, opStatus, codeSuccess, status...), record(1), record(1), answer(2, opReport, codeSuccess, appendU32(nil, 1<<32-1, 9)...)}, nil), true)
	f.Add(info, []byte{0x80, 3, 0xc0, typeRefused, 5, 0x80, 1, 0xc1}, false)
	f.Add([]byte{1, 0, 0, 0, 1}, []byte{0, 20, 0x80, 2, 1, 0, 1, 1, 2, 3}, false)
	f.Add([]byte{1}, []byte{}, false)
	f.Fuzz(func(t *testing.T, info, script []byte, insider bool) {
		if len(script) > 4096 || len(info) > 512 {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			l := &scripted{t: t, c: credentials(t), info: info, script: script, insider: insider, closed: make(chan struct{})}
			s, err := Open(t.Context(), l, l.c, Options{})
			if err != nil {
				return
			}
			if !insider {
				t.Fatalf("a session with a device that does not know the key: %x", script)
			}
			if _, err := s.Status(t.Context()); err != nil {
				return
			}
			next := uint32(1)
			_ = s.Report(t.Context(), 3, 1, 20, func(list []Record) error {
				for _, r := range list {
					if r.Epoch != 3 || r.Seq != next || r.Seq > 20 {
						t.Errorf("record %d-%d in the place of 3-%d", r.Epoch, r.Seq, next)
					}
					next++
				}
				return nil
			})
		})
	})
}
