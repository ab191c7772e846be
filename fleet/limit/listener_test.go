package limit_test

import (
	"errors"
	"io"
	"net"
	"slices"
	"testing"

	"github.com/farebeat/farebeat/fleet/limit"
	"github.com/farebeat/farebeat/fleet/limit/limittest"
)

func TestConnectionsOfOneAddressAreBounded(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	from := []string{"192.0.2.1", "192.0.2.1", "192.0.2.1", "2001:db8::1", "2001:db8::2", "2001:db8::3", "192.0.2.2", "192.0.2.1", "127.0.0.1", "127.0.0.1", "127.0.0.1"}
	var refused []string
	l := limit.Connections{All: 5, PerAddress: 2, Refused: func(address string) { refused = append(refused, address) }}.Bound(
		limittest.Elsewhere(inner, func(n int) string { return from[n] }))
	defer l.Close()
	var clients []net.Conn
	dial := func(n int) {
		for range n {
			c, err := net.Dial("tcp", inner.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = c.Close() })
			clients = append(clients, c)
		}
	}
	accept := func() net.Conn {
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	dial(7)
	var open []net.Conn
	for range 5 { // two of .1, two of the IPv6 network, one of .2; what is too many is closed on the way
		open = append(open, accept())
	}
	if want := []string{"192.0.2.1", "2001:db8::/64"}; !slices.Equal(refused, want) {
		t.Errorf("closed: %q, want %q", refused, want)
	}
	for _, i := range []int{2, 5} {
		if _, err := clients[i].Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("client %d: %v, want the end", i, err)
		}
	}
	// Who left makes room, once, however often it is closed; loopback has no bound of its own, but that of all.
	for range 2 {
		_ = open[0].Close()
	}
	dial(4)
	open[0] = accept() // of .1
	for _, c := range open {
		_ = c.Close()
	}
	for range 3 {
		accept()
	}
	if len(refused) != 2 {
		t.Errorf("closed too many: %q", refused)
	}
}

// What is beyond the bound of all waits, and is taken when somebody leaves.
func TestConnectionsOfAllWait(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := limit.Connections{All: 1, PerAddress: 1, Refused: func(string) { t.Error("closed") }}.Bound(inner)
	defer l.Close()
	accepted := make(chan net.Conn, 2)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				close(accepted)
				return
			}
			accepted <- c
		}
	}()
	for range 2 {
		c, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	first := <-accepted
	select {
	case <-accepted:
		t.Error("two at once")
	default:
	}
	_ = first.Close()
	_ = (<-accepted).Close()
	_ = l.Close()
	if _, more := <-accepted; more {
		t.Error("a third")
	}
}
