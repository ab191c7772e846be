package schemas_test

import (
	"bytes"
	"crypto/ed25519"
	"testing"

	"github.com/farebeat/farebeat/schemas"
)

// FuzzOpenCertificate: whatever bytes come, only what was signed is a certificate.
func FuzzOpenCertificate(f *testing.F) {
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
	public := key.Public().(ed25519.PublicKey)
	f.Add(golden(f, "certificate", "complete"))
	f.Add([]byte(`{}`))
	f.Add([]byte("{\"signature\":\"\"}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := schemas.OpenCertificate(public, b); err == nil {
			t.Errorf("nobody signed %+v", c)
		}
	})
}
