package ors

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/flynn/noise"

	"github.com/farebeat/farebeat/schemas"
)

// suiteNoise is suite 1: Noise_NNpsk0_25519_AESGCM_SHA256 with the ticket's secret as the pre-shared key.
const suiteNoise = 1

// noiseMessage is the length of each of the two messages of the handshake: an ephemeral key, and the tag of nothing.
const noiseMessage = 32 + 16

// SESSION carries messages without counter and tag:
//
//	HELLO    u8 0x01, u8 major, u8 suite, u16 length and sealed ticket, Noise message 1
//	WELCOME  u8 0x02, u8 major, u8 minor, u8 suite, Noise message 2
//	REFUSED  u8 0x03, u8 refusal
const (
	typeHello   = 0x01
	typeWelcome = 0x02
	typeRefused = 0x03
)

// prologue begins what both sides must have seen alike.
const prologue = "farebeat ors v1"

// Credentials are what a gateway opens a session with one machine with.
type Credentials struct {
	Machine string // its id
	Sealed  []byte // the half of the ticket that the machine can open
	Secret  [schemas.TicketKeySize]byte
}

// String keeps the secret out of logs.
func (c Credentials) String() string { return "credentials for machine " + c.Machine }

// GoString keeps the secret out of %#v.
func (c Credentials) GoString() string { return c.String() }

// shake begins a handshake. info is the value of INFO, sealed the ticket that is shown.
func shake(initiator bool, random io.Reader, info, sealed []byte, secret [schemas.TicketKeySize]byte) (*noise.HandshakeState, error) {
	seen := append([]byte(prologue), Major, suiteNoise)
	for _, b := range [][]byte{info, sealed} {
		seen = append(binary.LittleEndian.AppendUint16(seen, uint16(len(b))), b...)
	}
	return noise.NewHandshakeState(noise.Config{
		CipherSuite: noise.NewCipherSuite(noise.DH25519, noise.CipherAESGCM, noise.HashSHA256), Random: random,
		Pattern: noise.HandshakeNN, Initiator: initiator, Prologue: seen, PresharedKey: append([]byte(nil), secret[:]...),
	})
}

// hello is a HELLO that was read.
type hello struct {
	major, suite  byte
	sealed, noise []byte
}

func (h hello) encode() []byte {
	b := binary.LittleEndian.AppendUint16([]byte{typeHello, h.major, h.suite}, uint16(len(h.sealed)))
	return append(append(b, h.sealed...), h.noise...)
}

func decodeHello(m []byte) (hello, error) {
	r := reader{b: m}
	kind := r.u8()
	h := hello{major: r.u8(), suite: r.u8()}
	if kind != typeHello || r.bad {
		return hello{}, fmt.Errorf("hello: %w", ErrFormat)
	}
	if h.major != Major || h.suite != suiteNoise {
		return h, nil // what follows is of another form
	}
	n := int(r.u16())
	if n > schemas.MaxSealedTicket {
		return hello{}, fmt.Errorf("hello with a ticket of %d bytes: %w", n, ErrFormat)
	}
	h.sealed, h.noise = r.take(n), r.take(noiseMessage)
	return h, r.end("hello")
}

// decodeWelcome returns Noise message 2, or a *RefusedError.
func decodeWelcome(m []byte) ([]byte, error) {
	r := reader{b: m}
	switch kind := r.u8(); {
	case kind == typeRefused && !r.bad:
		code := Refusal(r.u8())
		if err := r.end("refusal"); err != nil {
			return nil, err
		}
		return nil, &RefusedError{code}
	case kind != typeWelcome || r.bad:
		return nil, fmt.Errorf("answer to hello: %w", ErrFormat)
	}
	major, _, suite := r.u8(), r.u8(), r.u8()
	answer := r.take(noiseMessage)
	if err := r.end("welcome"); err != nil {
		return nil, err
	}
	if major != Major || suite != suiteNoise {
		return nil, fmt.Errorf("welcome of version %d, suite %d: %w", major, suite, ErrFormat)
	}
	return answer, nil
}

// sealer protects the messages of one direction with the key that the handshake gave it. The counter of a message is its
// nonce, type and counter are additional data.
type sealer struct{ cipher noise.Cipher }

// seal returns head, which is type and counter, and the sealed body with its tag.
func (s sealer) seal(head, body []byte) []byte {
	m := make([]byte, len(head), len(head)+len(body)+tagSize)
	copy(m, head)
	return s.cipher.Encrypt(m, uint64(binary.LittleEndian.Uint32(head[1:])), head, body)
}

// open returns the body of a message, or ErrForged. The message is at least messageHead+tagSize long.
func (s sealer) open(m []byte) ([]byte, error) {
	head := m[:messageHead]
	body, err := s.cipher.Decrypt(nil, uint64(binary.LittleEndian.Uint32(head[1:])), head, m[messageHead:])
	if err != nil {
		return nil, ErrForged
	}
	return body, nil
}
