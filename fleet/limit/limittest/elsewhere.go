// Package limittest gives tests clients from other computers, where there is loopback only.
package limittest

import (
	"net"
	"sync"
)

// Elsewhere is a listener whose clients seem to come from an IP address that from names, by how many came before. It is safe for concurrent use.
func Elsewhere(l net.Listener, from func(n int) string) net.Listener {
	return &elsewhere{Listener: l, from: from}
}

type elsewhere struct {
	net.Listener
	from func(n int) string

	mu sync.Mutex
	n  int
}

// Accept implements net.Listener.
func (e *elsewhere) Accept() (net.Conn, error) {
	c, err := e.Listener.Accept()
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.n++
	return stranger{c, &net.TCPAddr{IP: net.ParseIP(e.from(e.n - 1)), Port: 50_000}}, nil
}

type stranger struct {
	net.Conn
	from *net.TCPAddr
}

// RemoteAddr implements net.Conn.
func (s stranger) RemoteAddr() net.Addr { return s.from }
