package session

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"sync"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
)

// errClosedHere stands for "use of closed network connection": paho drops a read error with that
// text without a word and would notice the loss only by its ping, 40 s later.
var errClosedHere = errors.New("connection closed at our end")

// wire is the network connection under paho. It bounds every write (paho's ping has no
// bound), gives up after a failed write (half a packet may be out), and says when it is gone
// before paho does: paho waits for our callback first, which may wait for room.
type wire struct {
	net.Conn
	writeTimeout time.Duration
	once         sync.Once
	gone         chan struct{}
}

func newWire(c net.Conn, writeTimeout time.Duration) *wire {
	return &wire{Conn: c, writeTimeout: writeTimeout, gone: make(chan struct{})}
}

func (w *wire) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe) {
		err = errClosedHere
	}
	return n, err
}

func (w *wire) Write(p []byte) (int, error) {
	_ = w.Conn.SetWriteDeadline(time.Now().Add(w.writeTimeout)) // fails only on a closed connection, and so will Write
	n, err := w.Conn.Write(p)
	if err != nil {
		w.Close()
	}
	return n, err
}

// SetWriteDeadline does nothing: Write sets its own.
func (w *wire) SetWriteDeadline(time.Time) error { return nil }

func (w *wire) Close() error {
	var err error
	w.once.Do(func() {
		close(w.gone)
		err = w.Conn.Close()
	})
	return err
}

// open makes the network connection to one server.
func open(ctx context.Context, server *url.URL, o *Options) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, o.ConnectTimeout)
	defer cancel()
	if o.Dial != nil {
		return o.Dial(ctx)
	}
	host := server.Host
	if server.Port() == "" {
		host = net.JoinHostPort(server.Hostname(), defaultPort(server.Scheme))
	}
	switch server.Scheme {
	case "tcp", "mqtt":
		return new(net.Dialer).DialContext(ctx, "tcp", host)
	case "tls", "mqtts", "ssl":
		return (&tls.Dialer{Config: o.TLS}).DialContext(ctx, "tcp", host)
	case "ws", "wss":
		return paho.NewWebsocket(server.String(), o.TLS, o.ConnectTimeout, nil, nil)
	}
	return nil, fmt.Errorf("scheme %q", server.Scheme)
}

func defaultPort(scheme string) string {
	switch scheme {
	case "tcp", "mqtt":
		return "1883"
	case "ws":
		return "80"
	case "wss":
		return "443"
	}
	return "8883"
}
