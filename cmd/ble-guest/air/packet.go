package air

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// HCI packet types, Core Specification, vol. 4, part A, section 2.
const (
	typeCommand = 0x01
	typeData    = 0x02
	typeEvent   = 0x04
)

// Events, vol. 4, part E, section 7.7.
const (
	eventDisconnected    = 0x05
	eventCommandComplete = 0x0e
	eventCommandStatus   = 0x0f
	eventCompleted       = 0x13
	eventLE              = 0x3e

	leConnected = 0x01
	leReport    = 0x02
	leUpdated   = 0x03
)

// Status codes, vol. 1, part F.
const (
	statusOK             = 0x00
	statusUnknownCommand = 0x01
	statusNoConnection   = 0x02
	statusTimeout        = 0x08
	statusDisallowed     = 0x0c
	statusParameters     = 0x12
	statusLocalEnded     = 0x16
)

// errPacket says that a host's packet cannot be read.
var errPacket = errors.New("not an HCI packet of a host")

// hostPacket is a command or a data packet of a host.
type hostPacket struct {
	command    bool
	opcode     uint16 // of a command
	handle     uint16 // of data
	continuing bool   // data that goes on with the packet before
	body       []byte // parameters or data; aliases what was parsed
}

// parseHostPacket reads a packet with its type byte.
func parseHostPacket(b []byte) (hostPacket, error) {
	switch {
	case len(b) >= 4 && b[0] == typeCommand:
		if int(b[3]) != len(b)-4 {
			return hostPacket{}, fmt.Errorf("%w: a command of %d bytes with %d", errPacket, b[3], len(b)-4)
		}
		return hostPacket{command: true, opcode: binary.LittleEndian.Uint16(b[1:]), body: b[4:]}, nil
	case len(b) >= 5 && b[0] == typeData:
		if n := binary.LittleEndian.Uint16(b[3:]); int(n) != len(b)-5 || n == 0 {
			return hostPacket{}, fmt.Errorf("%w: data of %d bytes with %d", errPacket, n, len(b)-5)
		}
		head := binary.LittleEndian.Uint16(b[1:])
		return hostPacket{handle: head & 0x0fff, continuing: head>>12&3 == 1, body: b[5:]}, nil
	}
	return hostPacket{}, fmt.Errorf("%w: %d bytes", errPacket, len(b))
}

// IsData reports whether a host's packet carries data, or is none at all: it has nothing happen at once.
func IsData(packet []byte) bool { return len(packet) == 0 || packet[0] != typeCommand }

// event encodes an event.
func event(code byte, parts ...[]byte) []byte {
	out := []byte{typeEvent, code, 0}
	for _, p := range parts {
		out = append(out, p...)
	}
	out[2] = byte(len(out) - 3)
	return out
}

func word(v uint16) []byte { return binary.LittleEndian.AppendUint16(nil, v) }

func commandComplete(opcode uint16, ret ...byte) []byte {
	return event(eventCommandComplete, []byte{1}, word(opcode), ret)
}

func commandStatus(opcode uint16, status byte) []byte {
	return event(eventCommandStatus, []byte{status, 1}, word(opcode))
}

func report(kind byte, addr Address, data []byte, rssi int8) []byte {
	return event(eventLE, []byte{leReport, 1, kind, 0}, addr[:], []byte{byte(len(data))}, data, []byte{byte(rssi)})
}

func disconnected(handle uint16, reason byte) []byte {
	return event(eventDisconnected, []byte{statusOK}, word(handle), []byte{reason})
}

// data encodes a data packet for a host.
func data(handle uint16, continuing bool, body []byte) []byte {
	boundary := uint16(2) // the first fragment
	if continuing {
		boundary = 1
	}
	out := append([]byte{typeData}, word(handle|boundary<<12)...)
	out = append(out, word(uint16(len(body)))...)
	return append(out, body...)
}
