package hci

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"syscall"
)

// Why an adapter cannot be used. Errors of Open wrap one of them and say which command mends it.
var (
	ErrNoBluetooth = errors.New("this kernel has no Bluetooth")
	ErrNoAdapter   = errors.New("there is no such Bluetooth adapter")
	ErrBusy        = errors.New("another program has the Bluetooth adapter")
	ErrPermission  = errors.New("the capability CAP_NET_ADMIN is missing")
	ErrBlocked     = errors.New("the Bluetooth adapter is switched off by rfkill")
	ErrGone        = errors.New("the Bluetooth adapter is gone")         // unplugged while in use
	ErrStuck       = errors.New("the Bluetooth adapter does not answer") // its firmware hangs
	ErrUnsupported = errors.New("only Linux lets programs use a Bluetooth adapter")
)

// ErrClosed says that a connection or the host was closed on this side.
var ErrClosed = errors.New("closed")

// lost says why an adapter in use stopped. err is what reading or writing it said.
func lost(adapter string, err error) error {
	switch {
	case errors.Is(err, ErrClosed), errors.Is(err, fs.ErrClosed), errors.Is(err, io.ErrClosedPipe):
		return ErrClosed
	case errors.Is(err, ErrStuck):
		return fmt.Errorf("use Bluetooth adapter %s: %w: it is reset; if that does not help, unplug it or `hciconfig %s reset`", adapter, err, adapter)
	case errors.Is(err, io.EOF), errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ENODEV), errors.Is(err, syscall.ENXIO), errors.Is(err, syscall.ENETDOWN), errors.Is(err, syscall.ENETRESET):
		return fmt.Errorf("use Bluetooth adapter %s: %w: plug it in again, it is tried until it is back", adapter, ErrGone)
	}
	return fmt.Errorf("use Bluetooth adapter %s: %w", adapter, err)
}

// StatusError is the error code of a controller, Core Specification, vol. 1, part F.
type StatusError byte

// The codes that are told apart.
const (
	StatusUnknownCommand    StatusError = 0x01
	StatusUnknownConnection StatusError = 0x02
	StatusMemoryExceeded    StatusError = 0x07
	StatusTimeout           StatusError = 0x08
	StatusConnectionLimit   StatusError = 0x09
	StatusConnectionExists  StatusError = 0x0b
	StatusDisallowed        StatusError = 0x0c
	StatusRemoteEnded       StatusError = 0x13
	StatusLocalEnded        StatusError = 0x16
	StatusNotEstablished    StatusError = 0x3e
)

func (s StatusError) Error() string {
	text := map[StatusError]string{
		StatusUnknownCommand: "unknown command", StatusUnknownConnection: "unknown connection",
		StatusMemoryExceeded: "out of memory", StatusTimeout: "the connection timed out", StatusConnectionLimit: "too many connections",
		StatusConnectionExists: "the connection exists already", StatusDisallowed: "the command is disallowed now",
		StatusRemoteEnded: "the other device ended the connection", StatusLocalEnded: "this device ended the connection",
		StatusNotEstablished: "the connection could not be established",
	}[s]
	if text == "" {
		return fmt.Sprintf("HCI error %#02x", byte(s))
	}
	return fmt.Sprintf("%s (HCI error %#02x)", text, byte(s))
}
