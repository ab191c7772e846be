package ble

import (
	"errors"
	"slices"
	"sync"
)

var errMalformed = errors.New("malformed ATT packet")

// centralGuard is the guard of the gateway's end. Only answers to what was asked, and notifications
// that were subscribed to, reach go-ble.
type centralGuard struct {
	mu         sync.Mutex
	pending    byte              // opcode of the request under way, 0 if none
	from       uint16            // its starting handle, where it discovers
	awaited    map[uint16]uint16 // value handles by that of their configuration
	subscribed []uint16          // value handles
}

// subscribe lets the notifications of a value handle through as soon as its configuration is
// written: go-ble has a handler for them then.
func (g *centralGuard) subscribe(config, value uint16) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.awaited == nil {
		g.awaited = map[uint16]uint16{}
	}
	g.awaited[config] = value
}

func (g *centralGuard) out(p []byte) {
	if len(p) == 0 || !isRequest(p[0]) {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pending, g.from = p[0], 0
	if len(p) >= 3 {
		g.from = le16(p[1:])
	}
	if value, ok := g.awaited[g.from]; ok && p[0] == attWriteRequest {
		g.subscribed = append(g.subscribed, value)
	}
}

func (g *centralGuard) in(p []byte) (pass bool, answer []byte, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch opcode := p[0]; {
	case opcode == attNotification:
		if len(p) < attHeader {
			return false, nil, malformed(p)
		}
		// While a request waits, a machine has no reason to notify, and go-ble's client would wait with its lock held.
		return g.pending == 0 && slices.Contains(g.subscribed, le16(p[1:])), nil, nil
	case opcode == attIndication:
		return false, []byte{attConfirmation}, nil // nobody asked for it; unconfirmed, it would cost the link
	case isRequest(opcode):
		return false, attErrorResponse(opcode, 0, attNotSupported), nil
	case opcode == attError && g.pending != 0 && len(p) == 5 && p[1] == g.pending:
	case opcode == attError || opcode != g.pending+1 || g.pending == 0:
		return false, nil, nil // an answer that nobody waits for would stop go-ble's reader for ever
	case !g.sound(p):
		return false, nil, malformed(p)
	}
	g.pending = 0
	return true, nil, nil
}

// sound checks the shape of an answer.
func (g *centralGuard) sound(p []byte) bool {
	switch p[0] {
	case attMTUResponse:
		return len(p) == 3 && le16(p[1:]) >= MinMTU
	case attReadResponse:
		return true
	case attWriteResponse:
		return len(p) == 1
	}
	if len(p) < 2 {
		return false
	}
	format, list := int(p[1]), p[2:]
	switch p[0] {
	case attFindInfoResponse: // handle, UUID
		size := map[int]int{1: 2 + 2, 2: 2 + 16}[format]
		return entries(list, size, g.from, func(e []byte) (uint16, uint16) { return le16(e), le16(e) })
	case attReadByTypeResponse: // handle, properties, value handle, UUID
		return (format == 7 || format == 21) && entries(list, format, g.from, func(e []byte) (uint16, uint16) {
			if le16(e[3:]) == 0xffff || le16(e[3:]) == le16(e) {
				return 1, 0 // no handle is left for a value behind its declaration
			}
			return le16(e), le16(e[3:])
		})
	case attReadByGroupReply: // handle, last handle, UUID
		return (format == 6 || format == 20) && entries(list, format, g.from, func(e []byte) (uint16, uint16) { return le16(e), le16(e[2:]) })
	}
	return false
}

// peripheralGuard is the guard of the machine's end. It answers what go-ble's server would answer
// wrongly, and keeps to the service's own handles what is written.
type peripheralGuard struct {
	writable []uint16 // value handles that take write commands
	configs  []uint16 // handles of client characteristic configurations
	mtuDone  bool
}

func (g *peripheralGuard) out([]byte) {}

func (g *peripheralGuard) in(p []byte) (pass bool, answer []byte, err error) {
	opcode := p[0]
	handle := uint16(0)
	if len(p) >= 3 && opcode != attMTURequest {
		handle = le16(p[1:])
	}
	refuse := func(code byte) (bool, []byte, error) { return false, attErrorResponse(opcode, handle, code), nil }
	switch {
	case opcode == attWriteCommand:
		return len(p) > attHeader && slices.Contains(g.writable, handle), nil, nil
	case !isRequest(opcode):
		return false, nil, nil // a confirmation that nobody waits for, an answer, an unknown command
	case !soundRequest(p):
		return refuse(attInvalidPDU)
	}
	switch opcode {
	case attMTURequest:
		if g.mtuDone { // once per link, section 3.4.2.1
			return refuse(attNotSupported)
		}
		g.mtuDone = true
	case attReadByGroupRequest:
		if len(p) != 7 || le16(p[5:]) != 0x2800 {
			return refuse(attUnsupportedGroup)
		}
		if handle > 1 { // the one service begins at 1; go-ble would take any attribute for a service
			return refuse(attNotFound)
		}
	case attWriteRequest:
		if !slices.Contains(g.configs, handle) {
			return refuse(attWriteNotPermitted)
		}
	case attFindInfoRequest, attFindByTypeRequest, attReadByTypeRequest, attReadRequest:
	default:
		return refuse(attNotSupported)
	}
	return true, nil, nil
}

// soundRequest checks the length of a request, and of an MTU its size.
func soundRequest(p []byte) bool {
	switch n := len(p); p[0] {
	case attMTURequest:
		return n == 3 && le16(p[1:]) >= MinMTU
	case attFindInfoRequest:
		return n == 5
	case attFindByTypeRequest:
		return n >= 7
	case attReadByTypeRequest, attReadByGroupRequest:
		return n == 7 || n == 21
	case attReadRequest:
		return n == 3
	case attWriteRequest:
		return n == 5 // the two bytes of a client characteristic configuration
	}
	return true
}
