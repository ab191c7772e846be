package limit

import (
	"net"
	"sync"

	"golang.org/x/net/netutil"
)

// Connections says how many connections a listener may have open at once. All fields are required.
type Connections struct {
	All        int // more wait to be accepted
	PerAddress int // more are closed before a byte is read, TLS included; not for loopback, where a proxy speaks for everybody
	// Refused is told of each that is closed; it must not wait. address is as Address has it.
	Refused func(address string)
}

// Bound is a listener whose connections are bounded.
func (c Connections) Bound(l net.Listener) net.Listener {
	return netutil.LimitListener(&listener{Listener: l, c: c, open: map[string]int{}}, c.All)
}

type listener struct {
	net.Listener
	c Connections

	mu   sync.Mutex
	open map[string]int // connections by address
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if isLoopback(conn.RemoteAddr()) {
			return conn, nil
		}
		address := Address(conn.RemoteAddr().String())
		if l.enter(address) {
			return &counted{Conn: conn, leave: sync.OnceFunc(func() { l.leave(address) })}, nil
		}
		_ = conn.Close() // nothing was said yet
		l.c.Refused(address)
	}
}

func isLoopback(a net.Addr) bool {
	tcp, ok := a.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}

func (l *listener) enter(address string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[address] >= l.c.PerAddress {
		return false
	}
	l.open[address]++
	return true
}

func (l *listener) leave(address string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[address]--; l.open[address] == 0 {
		delete(l.open, address)
	}
}

// counted is a connection that leaves when it is closed.
type counted struct {
	net.Conn
	leave func()
}

// Close implements net.Conn.
func (c *counted) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
