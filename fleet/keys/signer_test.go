package keys_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/farebeat/farebeat/fleet/keys"
)

// TestSignerIsDerivedForEver holds the key of certificates to a value that must never change.
func TestSignerIsDerivedForEver(t *testing.T) {
	m, err := keys.NewMaster([]byte("a master key that is not secret."))
	if err != nil {
		t.Fatal(err)
	}
	public, err := m.Public(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	const want = "8bf0177534e0e87eca5b331e03b8402e8ada66a447690357812ad6f6d3c5c4b3"
	if got := hex.EncodeToString(public); got != want {
		t.Errorf("the public key is %s, want %s: certificates issued before would no longer check", got, want)
	}
	signature, err := m.Sign(context.Background(), []byte("message"))
	if err != nil || !ed25519.Verify(public, []byte("message"), signature) || ed25519.Verify(public, []byte("massage"), signature) {
		t.Errorf("signature %x, %v", signature, err)
	}
	parsed, err := keys.ParsePublic(want)
	if err != nil || !bytes.Equal(parsed, public) {
		t.Errorf("parsed %x, %v", parsed, err)
	}
	for _, bad := range []string{"", "zz", want[2:], want + "00"} {
		if _, err := keys.ParsePublic(bad); err == nil || !strings.Contains(err.Error(), "want 64 hexadecimal digits") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
