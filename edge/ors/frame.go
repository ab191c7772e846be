package ors

import (
	"encoding/binary"
	"fmt"
	"math"
)

// A segment is one ATT value: a byte FIRST|LAST|counter mod 64, then bytes of a message. A
// counter that is not the one before it plus one means that a segment was lost.
const (
	segmentFirst   = 0x80
	segmentLast    = 0x40
	segmentCounter = 0x3f
)

// maxMessage bounds a message: the largest is a record of schemas.MaxRecordBytes.
const maxMessage = 8192

// segmenter cuts messages into values of one characteristic.
type segmenter struct{ next byte }

// cut returns the values of a message, each at most size bytes; size is at least 2.
func (s *segmenter) cut(message []byte, size int) [][]byte {
	var values [][]byte
	for first := true; first || len(message) > 0; first = false {
		n := min(len(message), size-1)
		head := s.next
		s.next = (s.next + 1) & segmentCounter
		if first {
			head |= segmentFirst
		}
		if n == len(message) {
			head |= segmentLast
		}
		values = append(values, append([]byte{head}, message[:n]...))
		message = message[n:]
	}
	return values
}

// assembler joins the values of one characteristic to messages.
type assembler struct {
	next    byte
	open    bool
	message []byte
}

// add takes one value and returns the message that it ends, nil if it ends none. After an error the
// link is of no more use.
func (a *assembler) add(value []byte) ([]byte, error) {
	if len(value) == 0 {
		return nil, fmt.Errorf("empty segment: %w", ErrFormat)
	}
	head := value[0]
	if head&segmentCounter != a.next {
		return nil, fmt.Errorf("segment %d in the place of %d: %w", head&segmentCounter, a.next, ErrLost)
	}
	a.next = (a.next + 1) & segmentCounter
	switch first := head&segmentFirst != 0; {
	case first:
		a.message = nil // the sender gave up the message before, as after an abort
	case !a.open:
		return nil, fmt.Errorf("a message that begins in its middle: %w", ErrFormat)
	}
	if len(a.message)+len(value)-1 > maxMessage {
		return nil, fmt.Errorf("a message of more than %d bytes: %w", maxMessage, ErrFormat)
	}
	a.open = true
	a.message = append(a.message, value[1:]...)
	if head&segmentLast == 0 {
		return nil, nil
	}
	m := a.message
	a.message, a.open = nil, false
	return m, nil
}

// A message after the handshake is u8 type, u32 counter, sealed body, 16-byte tag; all numbers little endian. The counter
// grows with every message of a direction, so that a replay is refused.
const (
	messageHead = 5
	tagSize     = 16
)

// The types of sealed messages.
const (
	typeRequest  = 0x10 // CONTROL, gateway
	typeResponse = 0x11 // CONTROL, machine
	typeRecord   = 0x20 // DATA, machine
	typeCredit   = 0x30 // CREDIT, gateway
)

// outgoing makes the messages of one direction.
type outgoing struct {
	sealer sealer
	last   uint32
}

// message seals the next message. When the counter is used up the session ends: no nonce comes twice.
func (o *outgoing) message(kind byte, body []byte) ([]byte, error) {
	if o.last == math.MaxUint32 {
		return nil, fmt.Errorf("the session has sent all the messages that it may: %w", ErrLost)
	}
	o.last++
	return o.sealer.seal(binary.LittleEndian.AppendUint32([]byte{kind}, o.last), body), nil
}

// incoming opens the messages of one characteristic.
type incoming struct {
	sealer sealer
	last   uint32
	assembler
}

// take adds a value and returns the type and body of the message that it ends; done is false while
// there is none.
func (i *incoming) take(value []byte) (kind byte, body []byte, done bool, err error) {
	m, err := i.add(value)
	if err != nil || m == nil {
		return 0, nil, false, err
	}
	if len(m) < messageHead+tagSize {
		return 0, nil, false, fmt.Errorf("a message of %d bytes: %w", len(m), ErrFormat)
	}
	if body, err = i.sealer.open(m); err != nil {
		return 0, nil, false, err
	}
	counter := binary.LittleEndian.Uint32(m[1:])
	if counter <= i.last {
		return 0, nil, false, fmt.Errorf("message %d after %d: %w", counter, i.last, ErrForged)
	}
	i.last = counter
	return m[0], body, true, nil
}
