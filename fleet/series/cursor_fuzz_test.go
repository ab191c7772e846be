package series

import "testing"

// FuzzReadCursor: what a store keeps is a cursor or an error.
func FuzzReadCursor(f *testing.F) {
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"minute":"2026-11-23T12:00:00Z","dropped":-1}`))
	f.Add([]byte(`{"dropped":1e99}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := ReadCursor(b); err != nil && c != (Cursor{}) {
			t.Errorf("%+v beside %v", c, err)
		}
	})
}
