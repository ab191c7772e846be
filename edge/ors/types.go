// Package ors is the Offline Record Service, version 1: how a gateway reads the stored
// transactions of a machine over a BLE link, and how the machine learns what it may release.
//
// Everything above ATT is segments and messages, see frame.go; a session begins with a ticket of the fleet and a handshake, see
// gate.go and handshake.go, and all that follows is sealed. The machine's side is OnAir over a Machine, the gateway's side a
// Session over a ble.Link. A link may end at any packet: what
// was given to the caller is whole and in order, and the caller resumes from its own cursor.
package ors

import (
	"context"
	"errors"
	"time"

	"github.com/farebeat/farebeat/edge/ble"
	"github.com/farebeat/farebeat/schemas"
)

// Version of the service, as INFO tells it. Another major version is not spoken to.
const (
	Major = 1
	Minor = 0
)

// Window is how many notifications a gateway lets be under way without credit; a machine that takes less says so in INFO, and the lesser
// holds. A gateway grants anew after half of it. Radio and link keep that many without loss: see package ble.
const Window = 48

// Errors to branch on.
var (
	// ErrLost says that a segment or message is missing: the session is of no more use.
	ErrLost = errors.New("a part of the transmission was lost")
	// ErrRefused says that the machine answered with a code other than success.
	ErrRefused = errors.New("the machine refused")
	// ErrForged says that the other side does not know the key: it is not the machine, or somebody changed a message.
	ErrForged = errors.New("the other side does not know the key")
	// ErrFormat says that a message is not of the service's form.
	ErrFormat = errors.New("not a message of the Offline Record Service")
)

// Record is one stored record of a machine.
type Record struct {
	Epoch     uint32
	Seq       uint32 // from 1
	UTCMillis int64  // machine's clock, ms since 1970
	ClockGen  uint8  // grows when the machine's clock is set
	Kind      uint8  // KindTransaction
	Payload   []byte // opaque, at most schemas.MaxRecordBytes
}

// KindTransaction is a record whose payload is a transaction as schemas.Transaction says.
const KindTransaction = 1

// EpochRange is the unreleased records of one epoch: First to Next-1. First equals Next where there
// are none.
type EpochRange struct{ Epoch, First, Next uint32 }

// Status is what a machine says of itself.
type Status struct {
	Machine      string
	Epochs       []EpochRange // oldest first, at most MaxEpochs; the newest is the one it writes
	UTC          time.Time    // its clock, ms
	ClockGen     uint8
	Pending      uint32 // unreleased records
	PendingMinor int64  // their sum in minor units of Currency
	Currency     string // ISO 4217, empty if nothing is pending
}

// MaxEpochs bounds the epochs of a Status and of a receipt.
const MaxEpochs = 8

// Notice tells a machine of its fault.
type Notice struct {
	Fault    string // id, at most 64 bytes
	Kind     string // at most 64 bytes
	OpenedAt time.Time
}

// Store is a machine's journal and what it does about notices. Its methods are called one after the
// other.
type Store interface {
	// Status says what is stored.
	Status(ctx context.Context) (Status, error)
	// Records returns stored records of an epoch from seq on, in order and without a hole, at most
	// most of them; none where there are none.
	Records(ctx context.Context, epoch, from uint32, most int) ([]Record, error)
	// Receipt releases what the ledger holds. An error says that a MAC is wrong; nothing is released then.
	Receipt(ctx context.Context, epochs []schemas.EpochReceipt) error
	FaultNotice(ctx context.Context, n Notice) error
	FaultCleared(ctx context.Context) error
	// SetTime sets the clock to utc, which is right to within uncertainty.
	SetTime(ctx context.Context, utc time.Time, uncertainty time.Duration) error
}

// Machine is a Store behind a Gate that is on air.
type Machine interface {
	Store
	Gate
	Advertise() ble.Advertisement
}
