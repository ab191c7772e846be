package schemas_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/farebeat/farebeat/schemas"
)

// certificateKey is the public key of the good examples.
func certificateKey(t *testing.T) ed25519.PublicKey {
	t.Helper()
	b, err := hex.DecodeString("8bf0177534e0e87eca5b331e03b8402e8ada66a447690357812ad6f6d3c5c4b3")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestCertificatesOfTheExamplesHold is the test vector for whoever checks certificates with a program of their own.
func TestCertificatesOfTheExamplesHold(t *testing.T) {
	files, err := filepath.Glob("testdata/good/certificate/*.json")
	if err != nil || len(files) < 3 {
		t.Fatalf("%d certificates (%v)", len(files), err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		b = bytes.TrimSuffix(b, []byte("\n"))
		if _, err := schemas.OpenCertificate(certificateKey(t), b); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		for i := range b { // no bit of it can change
			changed := bytes.Clone(b)
			changed[i] ^= 1
			if _, err := schemas.OpenCertificate(certificateKey(t), changed); err == nil {
				t.Fatalf("%s: byte %d changed from %q to %q and it holds", file, i, b[i], changed[i])
			}
		}
		other := bytes.Clone(certificateKey(t))
		other[0] ^= 1
		for name, c := range map[string]struct {
			key ed25519.PublicKey
			b   []byte
		}{
			"another key": {other, b}, "no key": {nil, b},
			"a space after":  {certificateKey(t), append(bytes.Clone(b), ' ')},
			"a space before": {certificateKey(t), append([]byte(" "), b...)},
			"a member after": {certificateKey(t), append(bytes.Clone(b[:len(b)-1]), `,"x":1}`...)},
		} {
			if _, err := schemas.OpenCertificate(c.key, c.b); err == nil {
				t.Errorf("%s with %s holds", file, name)
			}
		}
	}
}

func TestSealingNeedsASignature(t *testing.T) {
	c := schemas.Certificate{Machine: "m", ServiceDate: "2018-06-12", IssuedAt: time.UnixMilli(1528779600000), Epochs: []schemas.CertifiedEpoch{}, RecordsHash: schemas.NewRecordsHash().String()}
	boom := errors.New("boom")
	if _, err := schemas.SealCertificate(&c, func([]byte) ([]byte, error) { return nil, boom }); !errors.Is(err, boom) {
		t.Errorf("the signer's error became %v", err)
	}
	if _, err := schemas.SealCertificate(&c, func([]byte) ([]byte, error) { return []byte("short"), nil }); err == nil {
		t.Error("a signature of 5 bytes was taken")
	}
	c.Machine = ""
	if _, err := schemas.SealCertificate(&c, func([]byte) ([]byte, error) { return make([]byte, 64), nil }); err == nil {
		t.Error("a certificate of nobody was sealed")
	}
}
