// Package ble is the short-range radio between a vehicle's gateway and its machines: who is in
// sight, and a link to one of them. A Radio is the gateway's side, a Peripheral the machine's.
// Three radios carry real ATT packets through go-ble's GATT client and ATT server: Air inside a
// process, Sockets between processes of one host, Adapter over Bluetooth. Package hci is below Adapter, and
// package worker has a radio in a process of its own. Nobody else imports go-ble.
package ble

import (
	"context"
	"errors"
)

// Char is one characteristic of the Offline Record Service: the XXXX of its UUID.
type Char uint16

// The characteristics, see package ors for what they carry.
const (
	CharInfo    Char = 0x0001 // read
	CharSession Char = 0x0002 // write command, notify
	CharControl Char = 0x0003 // write command, notify
	CharData    Char = 0x0004 // notify
	CharCredit  Char = 0x0005 // write command
)

// Sizes of the attribute protocol, in bytes.
const (
	MinMTU     = 23  // every device
	UsualMTU   = 247 // what a gateway asks for
	MaxMTU     = 515 // the most that go-ble takes
	MaxPending = 16  // notifications that a gateway's Bluetooth stack may hold; go-ble drops what is beyond
)

// ErrClosed says that the link is gone: out of reach, closed, or the radio ended.
var ErrClosed = errors.New("the Bluetooth link is closed")

// ErrNotFound says that no machine answers at an address.
var ErrNotFound = errors.New("no machine answers")

// Radio is a gateway's Bluetooth adapter. Scanning and dialling do not mix: one call at a time.
type Radio interface {
	// Scan calls found for every advertisement until ctx ends, and then returns nil. found is called from one
	// goroutine at a time and must not block.
	Scan(ctx context.Context, found func(Advertisement)) error
	// Dial connects to an address that Scan reported. The error is ErrNotFound, wrapped, where
	// nobody answers. ctx bounds the dialling only.
	Dial(ctx context.Context, address string) (Link, error)
}

// Link is a connection to one machine. Its methods are safe for concurrent use.
type Link interface {
	// MTU is the ATT_MTU of the link; a value carries MTU-3 bytes.
	MTU() int
	// ReadInfo reads the INFO characteristic.
	ReadInfo(ctx context.Context) ([]byte, error)
	// Subscribe has notify called with each notification of a characteristic, from one goroutine. The bytes
	// are notify's to keep. It must only copy and queue: it must not block or call the link.
	Subscribe(ctx context.Context, c Char, notify func([]byte)) error
	// Write sends a write command, at most MTU-3 bytes. nil means that it was handed to the link.
	Write(ctx context.Context, c Char, value []byte) error
	// Closed is closed when the link is gone.
	Closed() <-chan struct{}
	// Close ends the link. It may be called again.
	Close() error
}

// Peripheral is a machine on air. Its methods are called from any goroutine.
type Peripheral interface {
	// Advertise is what the machine says of itself now. Address and RSSI are the radio's.
	Advertise() Advertisement
	// Connect makes the machine's end of a new link.
	Connect(p Port) Handler
}

// Handler is the machine's end of one link. Its methods are called one after the other and must
// not block.
type Handler interface {
	Read(c Char) []byte         // a readable characteristic's value
	Write(c Char, value []byte) // a write command; the bytes are the handler's to keep
	Closed()                    // the link is gone; called once, last
}

// Port is what a machine's end of a link can do.
type Port interface {
	MTU() int
	// Notify sends a notification, at most MTU-3 bytes; nil means that it was handed to the link.
	Notify(c Char, value []byte) error
	Close() error
}
