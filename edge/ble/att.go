package ble

import (
	"encoding/binary"
	"fmt"
)

// ATT opcodes, Core Specification, vol. 3, part F, section 3.4.8.
const (
	attError              = 0x01
	attMTURequest         = 0x02
	attMTUResponse        = 0x03
	attFindInfoRequest    = 0x04
	attFindInfoResponse   = 0x05
	attFindByTypeRequest  = 0x06
	attReadByTypeRequest  = 0x08
	attReadByTypeResponse = 0x09
	attReadRequest        = 0x0a
	attReadResponse       = 0x0b
	attReadByGroupRequest = 0x10
	attReadByGroupReply   = 0x11
	attWriteRequest       = 0x12
	attWriteResponse      = 0x13
	attNotification       = 0x1b
	attIndication         = 0x1d
	attConfirmation       = 0x1e
	attWriteCommand       = 0x52
)

// ATT error codes, section 3.4.1.1.
const (
	attWriteNotPermitted = 0x03
	attInvalidPDU        = 0x04
	attNotSupported      = 0x06
	attNotFound          = 0x0a
	attUnsupportedGroup  = 0x10
)

// attHeader is the length of the opcode and handle before the value of a notification or a write.
const attHeader = 3

// isRequest reports whether an opcode wants an answer: even, and without the command flag.
func isRequest(opcode byte) bool {
	return opcode != 0 && opcode&0x41 == 0 && opcode != attConfirmation
}

// attErrorResponse is the answer that refuses a request.
func attErrorResponse(opcode byte, handle uint16, code byte) []byte {
	return append(binary.LittleEndian.AppendUint16([]byte{attError, opcode}, handle), code)
}

// guard reads the packets that come in before go-ble does, which panics on malformed ones in
// goroutines of its own, where nothing can recover. It belongs to the goroutine that reads the link,
// but for what it says of itself.
type guard interface {
	// in judges a packet of at least one byte: whether go-ble may have it, and what to answer in go-ble's
	// stead. An error ends the link.
	in(p []byte) (pass bool, answer []byte, err error)
	// out is told of every packet that goes out, before it does. It may be called from any goroutine.
	out(p []byte)
}

// malformed is the error of a packet that no device should send.
func malformed(p []byte) error {
	return fmt.Errorf("%w: opcode %#02x, %d bytes", errMalformed, p[0], len(p))
}

// entries checks a list of equally long entries that begin with a handle or a range of handles. step
// returns the first and the last handle of an entry; both must grow, since go-ble asks on from the
// last, for ever if need be.
func entries(list []byte, size int, from uint16, step func(entry []byte) (first, last uint16)) bool {
	if size == 0 || len(list) == 0 || len(list)%size != 0 {
		return false
	}
	for next := uint32(from); len(list) > 0; list = list[size:] {
		first, last := step(list[:size])
		if uint32(first) < next || last < first {
			return false
		}
		next = uint32(last) + 1
	}
	return true
}

func le16(b []byte) uint16 { return binary.LittleEndian.Uint16(b) }
