package enrol

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
)

// Key is a device's public key, whose private half it proved to have.
type Key struct {
	Public      crypto.PublicKey
	Fingerprint string // SHA-256 of its SubjectPublicKeyInfo, hex
}

// ParseRequest takes the key out of a certificate request (PKCS #10 in PEM form) and proves that who made it has the private half. Names and
// extensions in it are not looked at. Keys are ECDSA on P-256 or P-384, Ed25519, or RSA of 2048 to 4096 bits.
func ParseRequest(text string) (Key, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return Key{}, errors.New("certificate request: it is not in PEM form")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return Key{}, fmt.Errorf("certificate request: %w", err)
	}
	if err := checkKey(csr.PublicKey); err != nil { // before its signature: checking that of a huge key takes long
		return Key{}, fmt.Errorf("certificate request: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return Key{}, fmt.Errorf("certificate request: it is not signed by the key that it names: %w", err)
	}
	sum := sha256.Sum256(csr.RawSubjectPublicKeyInfo)
	return Key{csr.PublicKey, hex.EncodeToString(sum[:])}, nil
}

func checkKey(pub any) error {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() || k.Curve == elliptic.P384() {
			return nil
		}
	case ed25519.PublicKey:
		return nil
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n >= 2048 && n <= 4096 {
			return nil
		}
	}
	return errors.New("its key is not ECDSA on P-256 or P-384, Ed25519, or RSA of 2048 to 4096 bits")
}
