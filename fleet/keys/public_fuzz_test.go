package keys

import (
	"encoding/hex"
	"strings"
	"testing"
)

// FuzzParsePublic: a key that is taken is the one that was written.
func FuzzParsePublic(f *testing.F) {
	for _, s := range []string{"", strings.Repeat("0f", 32), strings.Repeat("0F", 32), strings.Repeat("g", 64), strings.Repeat("0", 63)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		key, err := ParsePublic(text)
		if err == nil && hex.EncodeToString(key) != strings.ToLower(text) {
			t.Errorf("%q is %x", text, key)
		}
	})
}
