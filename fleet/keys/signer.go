package keys

import (
	"context"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// certificateInfo separates the key of day certificates from any other use of the master key.
const certificateInfo = "farebeat v1 certificates"

// Signer signs the ledger's day certificates. Who holds the public key can check them; nobody
// can make one with it. It must be safe for concurrent use and keep its key for ever.
type Signer interface {
	// Sign signs message with Ed25519. It may wait until ctx ends.
	Sign(ctx context.Context, message []byte) ([]byte, error)
	// Public is the key that checks what Sign signed.
	Public(ctx context.Context) (ed25519.PublicKey, error)
}

var _ Signer = (*Master)(nil)

// Sign implements Signer with the Ed25519 key whose seed is HKDF-SHA-256 of the master key with info
// "farebeat v1 certificates". It never waits.
func (m *Master) Sign(_ context.Context, message []byte) ([]byte, error) {
	key, err := m.certificateKey()
	if err != nil {
		return nil, err
	}
	return ed25519.Sign(key, message), nil
}

// Public implements Signer. It never waits.
func (m *Master) Public(context.Context) (ed25519.PublicKey, error) {
	key, err := m.certificateKey()
	if err != nil {
		return nil, err
	}
	return key.Public().(ed25519.PublicKey), nil
}

func (m *Master) certificateKey() (ed25519.PrivateKey, error) {
	seed, err := hkdf.Expand(sha256.New, m.prk, certificateInfo, ed25519.SeedSize)
	if err != nil {
		return nil, fmt.Errorf("key of certificates: %w", err)
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

// ParsePublic reads a public key as 64 hexadecimal digits.
func ParsePublic(text string) (ed25519.PublicKey, error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("public key %.80q: want %d hexadecimal digits", text, 2*ed25519.PublicKeySize)
	}
	return b, nil
}
