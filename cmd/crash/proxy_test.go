//go:build unix

package main

import (
	"io"
	"net"
	"sync/atomic"
	"testing"
)

// echo sends back what it gets.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	return l.Addr().String()
}

// through sends n bytes through a proxy and returns how many came back.
func through(t *testing.T, p *proxy, n int) int {
	t.Helper()
	c, err := net.Dial("tcp", p.address())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go func() {
		_, _ = c.Write(make([]byte, n))
		_ = c.(*net.TCPConn).CloseWrite()
	}()
	got, _ := io.Copy(io.Discard, c)
	return int(got)
}

func TestAProxyLosesConnectionsInTheMiddle(t *testing.T) {
	var calm atomic.Bool
	p, err := newProxy("tcp", "127.0.0.1:0", echo(t), 1, 1, &calm)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	whole, cut := 0, 0
	for range 60 {
		switch n := through(t, p, maxBytes); {
		case n == maxBytes:
			whole++
		case n < maxBytes:
			cut++
		}
	}
	if whole < 10 || cut < 10 || p.cuts.Load() < int64(cut) {
		t.Errorf("%d whole, %d cut, %d counted", whole, cut, p.cuts.Load())
	}
	calm.Store(true)
	for range 20 {
		if n := through(t, p, maxBytes); n != maxBytes {
			t.Fatalf("%d bytes came through a calm proxy", n)
		}
	}
	p.refuse(true)
	if n := through(t, p, 10); n != 0 {
		t.Errorf("%d bytes came through a proxy that refuses", n)
	}
	p.refuse(false)
	if n := through(t, p, 10); n != 10 {
		t.Errorf("%d bytes came through after it refused", n)
	}
}
