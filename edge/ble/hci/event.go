package hci

import (
	"encoding/binary"
	"fmt"
	"net"
	"slices"
	"strings"
)

// HCI packet types, Core Specification, vol. 4, part A, section 2.
const (
	packetCommand = 0x01
	packetACL     = 0x02
	packetEvent   = 0x04
)

// Events and LE meta events that are handled, Core Specification, vol. 4, part E, section 7.7.
const (
	eventDisconnected    = 0x05
	eventCommandComplete = 0x0e
	eventCommandStatus   = 0x0f
	eventHardwareError   = 0x10
	eventCompleted       = 0x13
	eventLE              = 0x3e
	leConnected          = 0x01
	leReport             = 0x02
)

// Address is a device address and its type.
type Address struct {
	Bytes  [6]byte // as on air: little endian
	Random bool    // not an IEEE address
}

const randomSuffix = "/random"

// String writes c0:ff:ee:00:00:01, with /random behind a random address.
func (a Address) String() string {
	b := a.Bytes
	s := fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", b[5], b[4], b[3], b[2], b[1], b[0])
	if a.Random {
		s += randomSuffix
	}
	return s
}

// ParseAddress reads what String writes.
func ParseAddress(s string) (Address, error) {
	digits, random := strings.CutSuffix(s, randomSuffix)
	mac, err := net.ParseMAC(digits)
	if err != nil || len(mac) != 6 || strings.Count(digits, ":") != 5 {
		return Address{}, fmt.Errorf("%q is not a Bluetooth address such as c0:ff:ee:00:00:01", s)
	}
	slices.Reverse(mac)
	return Address{Bytes: [6]byte(mac), Random: random}, nil
}

// Report is one advertisement or scan response that was heard.
type Report struct {
	Address  Address
	Response bool // a scan response
	Data     []byte
	RSSI     int8 // dBm; 127: unknown
}

// advertising report types, section 7.7.65.2
const (
	reportConnectable = 0x00
	reportResponse    = 0x04
)

// reports reads an LE advertising report event behind its subevent code, as far as it is sound. Kinds other than
// connectable advertisements and scan responses are left out. Data aliases b.
func reports(b []byte, each func(Report)) error {
	if len(b) < 1 {
		return errShort
	}
	n, b := int(b[0]), b[1:]
	for range n {
		if len(b) < 10 || len(b) < 10+int(b[8]) {
			return errShort
		}
		size := int(b[8])
		r := Report{Address: Address{Bytes: [6]byte(b[2:8]), Random: b[1]&1 == 1}, Response: b[0] == reportResponse, Data: b[9 : 9+size], RSSI: int8(b[9+size])}
		if (b[0] == reportConnectable || r.Response) && size <= MaxAdvertising {
			each(r)
		}
		b = b[10+size:]
	}
	return nil
}

// connected is an LE connection complete event.
type connected struct {
	status   StatusError // 0: there is a connection
	handle   uint16
	central  bool // this side is
	peer     Address
	interval uint16 // of connection events, in 1.25 ms
}

func parseConnected(b []byte) (connected, error) {
	if len(b) < 18 {
		return connected{}, errShort
	}
	return connected{
		status: StatusError(b[0]), handle: binary.LittleEndian.Uint16(b[1:]) & 0x0fff, central: b[3] == 0,
		peer: Address{Bytes: [6]byte(b[5:11]), Random: b[4]&1 == 1}, interval: binary.LittleEndian.Uint16(b[11:]),
	}, nil
}

// completed reads a number of completed packets event.
func completed(b []byte, each func(handle uint16, packets int)) error {
	if len(b) < 1 || len(b) < 1+4*int(b[0]) {
		return errShort
	}
	n := int(b[0])
	for i := range n {
		e := b[1+4*i:]
		each(binary.LittleEndian.Uint16(e)&0x0fff, int(binary.LittleEndian.Uint16(e[2:])))
	}
	return nil
}
