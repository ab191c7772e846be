package worker

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/farebeat/farebeat/edge/ble"
	"github.com/farebeat/farebeat/edge/ble/hci"
)

// The two processes exchange frames, little endian: u16 length of the rest, u8 kind, u32 id, body. An id is that of a request for
// requests and what answers them, and that of a link for what happens on it.
const (
	frameHeader = 5    // kind and id
	maxBody     = 1024 // bytes
	maxText     = 512  // bytes of an error's text
	maxAddress  = 64
)

type kind uint8

// What the agent asks.
const (
	kindScan      kind = 1 + iota // body: none
	kindDial                      // address
	kindRead                      // u32 link
	kindSubscribe                 // u32 link, u16 characteristic
	kindWrite                     // u32 link, u16 characteristic, value
	kindCancel                    // none; the request of this id
	kindClose                     // none; the link of this id; there is no answer
	kindPing                      // none
)

// What the worker answers.
const (
	kindReady  kind = 0x81 + iota // none: the adapter is open
	kindFailed                    // u16 sentinels, text: the adapter is not, or of no more use; the last frame
	kindFound                     // i8 RSSI, 8 bytes hint, u16 pending, u8 state, address; for the scan of this id
	kindDone                      // value; the request succeeded
	kindError                     // u16 sentinels, text; the request failed
	kindNotify                    // u16 characteristic, value; on the link of this id
	kindClosed                    // none; the link of this id is gone
	kindPong                      // none
)

type frame struct {
	kind kind
	id   uint32
	body []byte
}

// errProtocol says that the other process sent what it should not.
var errProtocol = errors.New("the other process broke the protocol")

// append writes a frame behind b.
func (f frame) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint16(b, uint16(frameHeader+len(f.body)))
	b = append(b, byte(f.kind))
	b = binary.LittleEndian.AppendUint32(b, f.id)
	return append(b, f.body...)
}

// readFrame reads one frame whose body is the caller's to keep.
func readFrame(r io.Reader) (frame, error) {
	var head [2 + frameHeader]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return frame{}, err
	}
	n := int(binary.LittleEndian.Uint16(head[:]))
	f := frame{kind: kind(head[2]), id: binary.LittleEndian.Uint32(head[3:])}
	if n < frameHeader || n > frameHeader+maxBody {
		return frame{}, fmt.Errorf("%w: a frame of %d bytes", errProtocol, n)
	}
	if n > frameHeader {
		f.body = make([]byte, n-frameHeader)
		if _, err := io.ReadFull(r, f.body); err != nil {
			return frame{}, err
		}
	}
	return f, nil
}

// request is what the agent asks, checked.
type request struct {
	kind    kind
	id      uint32
	link    uint32
	char    ble.Char
	value   []byte
	address string
}

func (f frame) request() (request, error) {
	r := request{kind: f.kind, id: f.id}
	bad := func() (request, error) {
		return request{}, fmt.Errorf("%w: kind %#02x with %d bytes", errProtocol, uint8(f.kind), len(f.body))
	}
	b := f.body
	switch f.kind {
	case kindScan, kindCancel, kindClose, kindPing:
		if len(b) != 0 {
			return bad()
		}
		return r, nil
	case kindDial:
		if len(b) == 0 || len(b) > maxAddress {
			return bad()
		}
		r.address = string(b)
		return r, nil
	case kindRead, kindSubscribe, kindWrite:
	default:
		return bad()
	}
	if len(b) < 4 {
		return bad()
	}
	r.link, b = binary.LittleEndian.Uint32(b), b[4:]
	if f.kind != kindRead {
		if len(b) < 2 {
			return bad()
		}
		r.char, b = ble.Char(binary.LittleEndian.Uint16(b)), b[2:]
	}
	if f.kind == kindWrite {
		if len(b) > ble.MaxMTU {
			return bad()
		}
		r.value = b
		return r, nil
	}
	if len(b) != 0 {
		return bad()
	}
	return r, nil
}

func (r request) frame() frame {
	f := frame{kind: r.kind, id: r.id}
	switch r.kind {
	case kindDial:
		f.body = []byte(r.address)
	case kindRead, kindSubscribe, kindWrite:
		f.body = binary.LittleEndian.AppendUint32(make([]byte, 0, 6+len(r.value)), r.link)
		if r.kind != kindRead {
			f.body = binary.LittleEndian.AppendUint16(f.body, uint16(r.char))
		}
		f.body = append(f.body, r.value...)
	}
	return f
}

// report is what the worker says, checked.
type report struct {
	kind  kind
	id    uint32
	ad    ble.Advertisement
	char  ble.Char
	value []byte
	err   error
}

const foundHeader = 1 + 8 + 2 + 1

func (f frame) report() (report, error) {
	r := report{kind: f.kind, id: f.id}
	b := f.body
	sound := false
	switch f.kind {
	case kindReady, kindClosed, kindPong:
		sound = len(b) == 0
	case kindFailed, kindError:
		if sound = len(b) >= 2 && len(b) <= 2+maxText; sound {
			r.err = decodeError(binary.LittleEndian.Uint16(b), string(b[2:]))
		}
	case kindFound:
		if sound = len(b) > foundHeader && len(b) <= foundHeader+maxAddress; sound {
			r.ad = ble.Advertisement{
				RSSI: int8(b[0]), IDHint: [8]byte(b[1:9]), Pending: binary.LittleEndian.Uint16(b[9:]), State: ble.State(b[11]), Address: string(b[foundHeader:]),
			}
		}
	case kindNotify:
		if sound = len(b) >= 2 && len(b) <= 2+ble.MaxMTU; sound {
			r.char, r.value = ble.Char(binary.LittleEndian.Uint16(b)), b[2:]
		}
	case kindDone:
		sound, r.value = len(b) <= ble.MaxMTU, b
	}
	if !sound {
		return report{}, fmt.Errorf("%w: kind %#02x with %d bytes", errProtocol, uint8(f.kind), len(b))
	}
	return r, nil
}

func (r report) frame() frame {
	f := frame{kind: r.kind, id: r.id}
	switch r.kind {
	case kindFailed, kindError:
		bits, text := encodeError(r.err)
		f.body = append(binary.LittleEndian.AppendUint16(nil, bits), text...)
	case kindFound:
		f.body = append([]byte{byte(r.ad.RSSI)}, r.ad.IDHint[:]...)
		f.body = binary.LittleEndian.AppendUint16(f.body, r.ad.Pending)
		f.body = append(append(f.body, byte(r.ad.State)), r.ad.Address...)
	case kindNotify:
		f.body = binary.LittleEndian.AppendUint16(make([]byte, 0, 2+len(r.value)), uint16(r.char))
		f.body = append(f.body, r.value...)
	case kindDone:
		f.body = r.value
	}
	return f
}

// sentinels are the errors that callers tell apart, by their bit on the wire.
func sentinels() []error {
	return []error{
		ble.ErrClosed, ble.ErrNotFound, context.Canceled, context.DeadlineExceeded, hci.ErrNoBluetooth, hci.ErrNoAdapter, hci.ErrBusy,
		hci.ErrPermission, hci.ErrBlocked, hci.ErrGone, hci.ErrStuck, hci.ErrUnsupported,
	}
}

func encodeError(err error) (bits uint16, text string) {
	for i, s := range sentinels() {
		if errors.Is(err, s) {
			bits |= 1 << i
		}
	}
	if err == nil {
		return 0, ""
	}
	text = err.Error()
	return bits, text[:min(len(text), maxText)]
}

// remoteError is an error of the worker's side. It is what that one was, as far as callers ask.
type remoteError struct {
	text  string
	kinds []error
}

func (e *remoteError) Error() string   { return e.text }
func (e *remoteError) Unwrap() []error { return e.kinds }

func decodeError(bits uint16, text string) error {
	e := &remoteError{text: text}
	for i, s := range sentinels() {
		if bits&(1<<i) != 0 {
			e.kinds = append(e.kinds, s)
		}
	}
	return e
}

// dialled is the value of a dial that succeeded: u32 link, u16 MTU.
func dialled(link uint32, mtu int) []byte {
	return binary.LittleEndian.AppendUint16(binary.LittleEndian.AppendUint32(nil, link), uint16(mtu))
}

func parseDialled(b []byte) (link uint32, mtu int, err error) {
	if len(b) != 6 {
		return 0, 0, fmt.Errorf("%w: a link of %d bytes", errProtocol, len(b))
	}
	link, mtu = binary.LittleEndian.Uint32(b), int(binary.LittleEndian.Uint16(b[4:]))
	if mtu < ble.MinMTU || mtu > ble.MaxMTU {
		return 0, 0, fmt.Errorf("%w: an MTU of %d", errProtocol, mtu)
	}
	return link, mtu, nil
}
