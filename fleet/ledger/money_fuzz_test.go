package ledger

import "testing"

// FuzzParseMajor: an amount that is taken is the amount that Major writes, but for zeros before it and a minus before nothing.
func FuzzParseMajor(f *testing.F) {
	for _, s := range []string{"2.25", "-0.05", "00.10", "9223372036854775807", "92233720368547758.08", "1e3", "--1", ".5", "5."} {
		f.Add(s, "USD")
		f.Add(s, "JPY")
	}
	f.Fuzz(func(t *testing.T, text, currency string) {
		minor, err := ParseMajor(text, currency)
		if err != nil {
			return
		}
		if again, err := ParseMajor(Major(minor, currency), currency); err != nil || again != minor {
			t.Errorf("%q of %q is %d, and %s is %d: %v", text, currency, minor, Major(minor, currency), again, err)
		}
	})
}
