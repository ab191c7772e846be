package schemas

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// NameTicket is the name of the ticket's schema.
const NameTicket = "ticket"

// TicketKeySize is the length of a machine's key and of a ticket's secret in bytes.
const TicketKeySize = 32

// MaxSealedTicket bounds the sealed half of a ticket, in bytes.
const MaxSealedTicket = 512

// Ticket lets the gateway of one vehicle open sessions with one machine over BLE until it expires. The
// gateway uses Secret; Sealed holds the same secret under the machine's key, for the gateway to show. It
// is on vehicle/{vehicle}/ticket/{machine}, which nobody but that gateway reads, and replaces the one before it.
type Ticket struct {
	Machine   string    `json:"machine"`
	Vehicle   string    `json:"vehicle"`
	AsOf      time.Time `json:"as_of"` // when it was issued
	ExpiresAt time.Time `json:"expires_at"`
	Secret    string    `json:"secret"` // 32 bytes as unpadded base64url
	Sealed    string    `json:"sealed"` // see SealTicket, as unpadded base64url
}

// Validate implements Message.
func (t *Ticket) Validate() error {
	c := checker{message: NameTicket}
	c.id("machine", t.Machine)
	c.id("vehicle", t.Vehicle)
	c.time("as_of", t.AsOf)
	c.time("expires_at", t.ExpiresAt)
	c.that(t.ExpiresAt.After(t.AsOf), "expires_at", "is not after as_of")
	c.hash("secret", t.Secret)
	sealed, err := base64.RawURLEncoding.Strict().DecodeString(t.Sealed)
	c.that(err == nil && len(sealed) > 0 && len(sealed) <= MaxSealedTicket, "sealed", fmt.Sprintf("is not 1 to %d bytes as unpadded base64url", MaxSealedTicket))
	return c.err
}

// String keeps the secret out of logs.
func (t *Ticket) String() string {
	return fmt.Sprintf("ticket of vehicle %s for machine %s until %s", t.Vehicle, t.Machine, t.ExpiresAt.UTC().Format(time.RFC3339))
}

// GoString keeps the secret out of %#v.
func (t *Ticket) GoString() string { return t.String() }

// TicketGrant is what the sealed half of a ticket says to its machine.
type TicketGrant struct {
	Machine   string
	Vehicle   string // whose gateway it was given to
	Reason    string // fault or command that it was issued for; at most 64 bytes are kept
	Counter   uint64 // grows with every ticket for this machine: the order in which the fleet issued them
	IssuedAt  time.Time
	ExpiresAt time.Time
	Secret    [TicketKeySize]byte
}

// String keeps the secret out of logs.
func (g TicketGrant) String() string {
	return fmt.Sprintf("ticket %d of vehicle %s for machine %s", g.Counter, g.Vehicle, g.Machine)
}

// GoString keeps the secret out of %#v.
func (g TicketGrant) GoString() string { return g.String() }

// Errors of a sealed ticket.
var (
	// ErrTicketForm says that bytes are not a sealed ticket of version 1.
	ErrTicketForm = errors.New("not a sealed ticket")
	// ErrTicketForeign says that a ticket is for another machine.
	ErrTicketForeign = errors.New("the ticket is for another machine")
	// ErrTicketForged says that a ticket was not sealed with the machine's key, or was changed since.
	ErrTicketForged = errors.New("the ticket is not sealed with the machine's key")
)

// The layout of a sealed ticket, all numbers little endian: u8 version 1; u8 length and the machine's id; 12-byte
// nonce; AES-256-GCM ciphertext of u64 counter, i64 issued and i64 expires in ms since 1970, the 32-byte secret,
// u8 length and vehicle, u8 length and reason; 16-byte tag. The key is HKDF-SHA-256 of the machine's key without
// salt and with info "farebeat v1 ticket"; what comes before the nonce is additional data.
const (
	ticketVersion = 1
	ticketInfo    = "farebeat v1 ticket"
	ticketNonce   = 12
	ticketFixed   = 8 + 8 + 8 + TicketKeySize
)

func ticketCipher(machineKey []byte) (cipher.AEAD, error) {
	if len(machineKey) != TicketKeySize {
		return nil, fmt.Errorf("machine key of %d bytes, want %d", len(machineKey), TicketKeySize)
	}
	key, err := hkdf.Key(sha256.New, machineKey, nil, ticketInfo, TicketKeySize)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// SealTicket seals a grant under the machine's key, with a nonce of random.
func SealTicket(machineKey []byte, random io.Reader, g TicketGrant) ([]byte, error) {
	if len(g.Machine) == 0 || len(g.Machine) > 255 || len(g.Vehicle) > 255 {
		return nil, fmt.Errorf("seal a ticket for machine %.64q of vehicle %.64q: ids of 1 to 255 bytes fit", g.Machine, g.Vehicle)
	}
	aead, err := ticketCipher(machineKey)
	if err != nil {
		return nil, fmt.Errorf("seal a ticket for machine %q: %w", g.Machine, err)
	}
	head := append([]byte{ticketVersion, byte(len(g.Machine))}, g.Machine...)
	nonce := make([]byte, ticketNonce)
	if _, err := io.ReadFull(random, nonce); err != nil {
		return nil, fmt.Errorf("seal a ticket for machine %q: %w", g.Machine, err)
	}
	body := binary.LittleEndian.AppendUint64(nil, g.Counter)
	body = binary.LittleEndian.AppendUint64(body, uint64(g.IssuedAt.UnixMilli()))
	body = binary.LittleEndian.AppendUint64(body, uint64(g.ExpiresAt.UnixMilli()))
	body = append(body, g.Secret[:]...)
	body = append(append(body, byte(len(g.Vehicle))), g.Vehicle...)
	reason := g.Reason[:min(len(g.Reason), 64)]
	body = append(append(body, byte(len(reason))), reason...)
	sealed := aead.Seal(append(append([]byte(nil), head...), nonce...), nonce, body, head)
	if len(sealed) > MaxSealedTicket {
		return nil, fmt.Errorf("seal a ticket for machine %q: %d bytes, at most %d", g.Machine, len(sealed), MaxSealedTicket)
	}
	return sealed, nil
}

// OpenTicket reads what SealTicket made for a machine. It judges neither expiry nor order. The errors are
// ErrTicketForm, ErrTicketForeign and ErrTicketForged.
func OpenTicket(machineKey []byte, machine string, sealed []byte) (TicketGrant, error) {
	if len(sealed) < 2 || len(sealed) > MaxSealedTicket || sealed[0] != ticketVersion {
		return TicketGrant{}, ErrTicketForm
	}
	cut := 2 + int(sealed[1])
	if len(sealed) < cut+ticketNonce {
		return TicketGrant{}, ErrTicketForm
	}
	if string(sealed[2:cut]) != machine {
		return TicketGrant{}, ErrTicketForeign
	}
	aead, err := ticketCipher(machineKey)
	if err != nil {
		return TicketGrant{}, fmt.Errorf("open a ticket for machine %q: %w", machine, err)
	}
	body, err := aead.Open(nil, sealed[cut:cut+ticketNonce], sealed[cut+ticketNonce:], sealed[:cut])
	if err != nil {
		return TicketGrant{}, ErrTicketForged
	}
	return readGrant(machine, body)
}

// readGrant reads what was sealed. Its maker held the key; a body of another form is of another version.
func readGrant(machine string, body []byte) (TicketGrant, error) {
	if len(body) < ticketFixed {
		return TicketGrant{}, ErrTicketForm
	}
	g := TicketGrant{
		Machine: machine, Counter: binary.LittleEndian.Uint64(body),
		IssuedAt:  time.UnixMilli(int64(binary.LittleEndian.Uint64(body[8:]))).UTC(),
		ExpiresAt: time.UnixMilli(int64(binary.LittleEndian.Uint64(body[16:]))).UTC(),
		Secret:    [TicketKeySize]byte(body[24:]),
	}
	rest := body[ticketFixed:]
	for _, text := range []*string{&g.Vehicle, &g.Reason} {
		if len(rest) == 0 || len(rest) < 1+int(rest[0]) {
			return TicketGrant{}, ErrTicketForm
		}
		end := 1 + int(rest[0])
		*text, rest = string(rest[1:end]), rest[end:]
	}
	if len(rest) > 0 {
		return TicketGrant{}, ErrTicketForm
	}
	return g, nil
}
