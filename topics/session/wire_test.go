package session

import (
	"net"
	"strings"
	"testing"
	"time"
)

// paho passes over a read error of this text in silence, see errClosedHere.
func TestWireHidesClosedText(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	w := newWire(c, time.Second)
	w.Close()
	_, err = w.Read(make([]byte, 1))
	if err == nil || strings.Contains(err.Error(), "use of closed network connection") {
		t.Errorf("read after close: %v, want an error that paho does not swallow", err)
	}
}
