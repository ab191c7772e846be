package ble

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// State is the byte in which a machine advertises how it is.
type State uint8

// The advertised states.
const (
	StateIdle    State = 0 // nothing stored
	StatePending State = 1 // transactions stored
	StateFault   State = 2 // it knows of a fault
)

// Advertisement is a machine seen over the air.
type Advertisement struct {
	Address string // of the device, as the radio names it
	RSSI    int8   // dBm
	IDHint  [8]byte
	Pending uint16 // stored transactions, at most 65,535
	State   State
}

// IDHint is how a machine names itself in an advertisement, where its id may not fit: the first
// eight bytes of the SHA-256 of its id. It is a hint: the session tells the id itself.
func IDHint(machine string) [8]byte {
	sum := sha256.Sum256([]byte(machine))
	return [8]byte(sum[:8])
}

// AD types, Bluetooth Assigned Numbers, section 2.3.
const (
	adFlags            = 0x01
	adSomeUUID128      = 0x06
	adAllUUID128       = 0x07
	adManufacturerData = 0xff
)

// companyID marks the scan response's manufacturer data: 0xFFFF is reserved for use without a
// registration (Assigned Numbers, section 7.1).
const companyID = 0xffff

// serviceUUID is b7e10000-4c2f-4d0a-9c61-5a3f0e7d2b48 as it goes over the air: little endian.
func serviceUUID() [16]byte {
	return [16]byte{0x48, 0x2b, 0x7d, 0x0e, 0x3f, 0x5a, 0x61, 0x9c, 0x0a, 0x4d, 0x2f, 0x4c, 0x00, 0x00, 0xe1, 0xb7}
}

// Encode returns the advertising data (flags and service UUID) and the scan response (id hint,
// pending count, state), each at most 31 bytes.
func (a Advertisement) Encode() (advertising, scanResponse []byte) {
	uuid := serviceUUID()
	advertising = []byte{2, adFlags, 0x06, 17, adAllUUID128} // LE General Discoverable, no BR/EDR
	advertising = append(advertising, uuid[:]...)
	scanResponse = []byte{14, adManufacturerData}
	scanResponse = binary.LittleEndian.AppendUint16(scanResponse, companyID)
	scanResponse = append(scanResponse, a.IDHint[:]...)
	scanResponse = binary.LittleEndian.AppendUint16(scanResponse, a.Pending)
	return advertising, append(scanResponse, byte(a.State))
}

// advertisesService reports whether advertising data names the service. It is what is asked first of whatever is heard.
func advertisesService(advertising []byte) bool {
	for data := advertising; len(data) > 1 && data[0] > 0 && int(data[0]) < len(data); data = data[data[0]+1:] {
		if data[1] != adAllUUID128 && data[1] != adSomeUUID128 {
			continue
		}
		for body := data[2 : data[0]+1]; len(body) >= 16; body = body[16:] {
			if [16]byte(body[:16]) == serviceUUID() {
				return true
			}
		}
	}
	return false
}

// ErrForeign says that an advertisement is of another kind of device.
var ErrForeign = errors.New("not a payment machine's advertisement")

// ParseAdvertisement reads what Encode writes. Any phone nearby sends advertisements: nothing of
// them is trusted, and what is not ours is ErrForeign.
func ParseAdvertisement(advertising, scanResponse []byte) (Advertisement, error) {
	var a Advertisement
	ours, named := false, false
	for _, data := range [][]byte{advertising, scanResponse} {
		for len(data) > 0 {
			n := int(data[0])
			if n == 0 {
				break // the rest is padding, Core Specification, vol. 3, part C, section 11
			}
			if n+1 > len(data) {
				return Advertisement{}, fmt.Errorf("advertisement: a structure of %d bytes in %d: %w", n, len(data)-1, ErrForeign)
			}
			kind, body := data[1], data[2:n+1]
			data = data[n+1:]
			switch {
			case (kind == adAllUUID128 || kind == adSomeUUID128) && len(body)%16 == 0:
				for ; len(body) > 0; body = body[16:] {
					ours = ours || [16]byte(body[:16]) == serviceUUID()
				}
			case kind == adManufacturerData && len(body) == 13 && binary.LittleEndian.Uint16(body) == companyID:
				copy(a.IDHint[:], body[2:10])
				a.Pending, a.State, named = binary.LittleEndian.Uint16(body[10:]), State(body[12]), true
			}
		}
	}
	if !ours || !named {
		return Advertisement{}, ErrForeign
	}
	return a, nil
}
