package hci_test

import (
	"testing"

	"github.com/farebeat/farebeat/edge/ble/hci"
)

// FuzzParseAddress: an address that is taken is the one that is written.
func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{"", "c0:ff:ee:00:00:01", "c0:ff:ee:00:00:01/random", "c0-ff-ee-00-00-01", "00:00:00:00:00:00:00:00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := hci.ParseAddress(s)
		if err != nil {
			return
		}
		if again, err := hci.ParseAddress(a.String()); err != nil || again != a {
			t.Errorf("%q is %v, and that %v: %v", s, a, again, err)
		}
	})
}
