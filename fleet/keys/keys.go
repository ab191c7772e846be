// Package keys holds the fleet's secrets towards the machines. Every payment
// machine has a 32-byte key of its own, with which it MACs its transactions and
// with which the ledger MACs its receipts. By default all of them are derived from
// one master key in a file; a site with a hardware security module implements Keys.
package keys

import (
	"context"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/farebeat/farebeat/fleet/durable"
	"github.com/farebeat/farebeat/schemas"
)

// Size is the length of the master key and of every machine key in bytes.
const Size = 32

// infoPrefix separates machine keys from any other use of the master key.
const infoPrefix = "farebeat v1 machine "

// Keys are the keys of machines. Its methods may wait (for a hardware module, say) until ctx ends. It must be safe
// for concurrent use and keep the same key for the same identifier for ever: old records are verified with it years later.
type Keys interface {
	// Machine is the key of a machine, with which its records and receipts are verified.
	Machine(ctx context.Context, machine string) ([Size]byte, error)
	// SealTicket is schemas.SealTicket under the key of the machine of g, so that the key need not be exported for it.
	SealTicket(ctx context.Context, g schemas.TicketGrant) ([]byte, error)
	// OpenTicket is schemas.OpenTicket under the key of machine, with its errors.
	OpenTicket(ctx context.Context, machine string, sealed []byte) (schemas.TicketGrant, error)
}

// ErrUnsafe says that a file with a secret can be read or written by others than its owner.
var ErrUnsafe = errors.New("it is a secret, and open to others")

// Master derives machine keys from one secret: HKDF-SHA-256 (RFC 5869) without salt,
// with info "farebeat v1 machine " and the machine identifier. It is safe for concurrent
// use, and prints as a mask.
type Master struct {
	prk []byte // the extracted pseudorandom key: the master itself is not kept
}

var _ Keys = (*Master)(nil)

// NewMaster returns the keys derived from secret, which must have Size bytes and
// is not kept.
func NewMaster(secret []byte) (*Master, error) {
	if len(secret) != Size {
		return nil, fmt.Errorf("master key: want %d bytes, got %d", Size, len(secret))
	}
	prk, err := hkdf.Extract(sha256.New, secret, nil)
	if err != nil {
		return nil, fmt.Errorf("master key: %w", err)
	}
	return &Master{prk: prk}, nil
}

// Machine implements Keys. It never waits.
func (m *Master) Machine(_ context.Context, machine string) ([Size]byte, error) {
	var key [Size]byte
	if machine == "" {
		return key, errors.New("machine key: the machine identifier is empty")
	}
	out, err := hkdf.Expand(sha256.New, m.prk, infoPrefix+machine, Size)
	if err != nil {
		return key, fmt.Errorf("machine key of %q: %w", machine, err)
	}
	copy(key[:], out)
	return key, nil
}

// SealTicket implements Keys. It never waits.
func (m *Master) SealTicket(ctx context.Context, g schemas.TicketGrant) ([]byte, error) {
	key, err := m.Machine(ctx, g.Machine)
	if err != nil {
		return nil, err
	}
	return schemas.SealTicket(key[:], rand.Reader, g)
}

// OpenTicket implements Keys. It never waits.
func (m *Master) OpenTicket(ctx context.Context, machine string, sealed []byte) (schemas.TicketGrant, error) {
	key, err := m.Machine(ctx, machine)
	if err != nil {
		return schemas.TicketGrant{}, err
	}
	return schemas.OpenTicket(key[:], machine, sealed)
}

// String hides the key from logs.
func (m *Master) String() string { return "keys.Master(secret)" }

// GoString hides the key from %#v.
func (m *Master) GoString() string { return m.String() }

// Load reads a master key file: 64 hexadecimal digits, a line end after them allowed. A file
// that its group or others may read or write is refused with ErrUnsafe; one that does
// not exist gives an error for which errors.Is(err, fs.ErrNotExist) holds.
func Load(path string) (*Master, error) {
	f, err := os.Open(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("read master key: %w; make one with 64 hexadecimal digits and mode 0600, or restore it from its backup", err)
		}
		return nil, fmt.Errorf("read master key: %w", err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read master key: %w", err)
	}
	if err := checkFile(path, info); err != nil {
		return nil, err
	}
	const longest = 2*Size + len("\r\n")
	text, err := io.ReadAll(io.LimitReader(f, int64(longest)+1))
	if err != nil {
		return nil, fmt.Errorf("read master key %s: %w", path, err)
	}
	secret, err := parse(string(text))
	if err != nil {
		return nil, fmt.Errorf("read master key %s: %w", path, err)
	}
	return NewMaster(secret)
}

func checkFile(path string, info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return fmt.Errorf("read master key %s: not a regular file", path)
	}
	if err := Private(path, info); err != nil {
		return fmt.Errorf("read master key %w", err)
	}
	return nil
}

// ParseMaster reads a master key from text, 64 hexadecimal digits, a line end after them allowed. The error shows no part of it.
func ParseMaster(text string) (*Master, error) {
	secret, err := parse(text)
	if err != nil {
		return nil, fmt.Errorf("master key: %w", err)
	}
	return NewMaster(secret)
}

// Same reports whether both derive the same keys.
func (m *Master) Same(o *Master) bool { return subtle.ConstantTimeCompare(m.prk, o.prk) == 1 }

// parse takes care that no part of a secret ends up in an error.
func parse(text string) ([]byte, error) {
	text = strings.TrimSuffix(strings.TrimSuffix(text, "\n"), "\r")
	if len(text) != 2*Size {
		return nil, fmt.Errorf("want %d hexadecimal digits, got %d characters", 2*Size, len(text))
	}
	secret, err := hex.DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("want %d hexadecimal digits, found another character", 2*Size)
	}
	return secret, nil
}

// Create makes a new random master key file at path with mode 0600, durable before it
// returns. An existing file is never overwritten (fs.ErrExist): without the old key
// no record of the past can be proved any more. The folder must exist.
func Create(path string) (*Master, error) {
	secret := make([]byte, Size)
	if _, err := rand.Read(secret); err != nil {
		return nil, fmt.Errorf("create master key: %w", err)
	}
	if err := durable.Create(path, []byte(hex.EncodeToString(secret)+"\n"), 0o600); err != nil {
		return nil, fmt.Errorf("create master key %s: %w", path, err)
	}
	return NewMaster(secret)
}

// LoadOrCreate reads the master key at path, or makes one where there is no file. Of
// two processes that create it at once, both end up with the same key.
func LoadOrCreate(path string) (m *Master, created bool, err error) {
	m, err = Load(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return m, false, err
	}
	m, err = Create(path)
	if errors.Is(err, fs.ErrExist) {
		m, err = Load(path)
		return m, false, err
	}
	return m, err == nil, err
}
