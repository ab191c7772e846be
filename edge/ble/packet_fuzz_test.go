package ble

import (
	"bytes"
	"testing"
)

// FuzzReadPacket: a packet is 1 to MaxMTU bytes, and what is read is what a packet of it would be.
func FuzzReadPacket(f *testing.F) {
	f.Add([]byte{1, 0, 7})
	f.Add([]byte{0, 0})
	f.Add([]byte{0xff, 0xff, 1})
	f.Add([]byte{3, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := readPacket(bytes.NewReader(b))
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := writePacket(&again, p); err != nil || len(p) == 0 || len(p) > MaxMTU || !bytes.HasPrefix(b, again.Bytes()) {
			t.Errorf("%x is %x: %v", b, p, err)
		}
	})
}
