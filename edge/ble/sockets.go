package ble

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Sockets is a radio between processes of one host: every machine listens on a Unix socket in a
// folder that gateways know. A connection begins with one byte of the gateway: 'A' asks for the
// advertisement, after which the machine closes; 'L' begins a link, on which both send ATT packets
// with a little-endian 16-bit length before each. Who may open the folder may pose as a machine or
// a gateway: it is made with mode 0700. It is safe for concurrent use.
type Sockets struct{ dir string }

const (
	askAdvertisement = 'A'
	askLink          = 'L'
	socketSuffix     = ".sock"
	socketTimeout    = 2 * time.Second // for the first byte, and for an advertisement
	maxSocketPath    = 107             // bytes, sockaddr_un of Linux; other systems take less
)

// NewSockets is the radio over a folder.
func NewSockets(dir string) *Sockets { return &Sockets{dir: dir} }

// path is where the machine of an address listens.
func (s *Sockets) path(address string) (string, error) {
	name := url.PathEscape(address)
	if address == "" || name == "." || name == ".." {
		return "", fmt.Errorf("radio: %q is not an address: use a machine's id", address)
	}
	path := filepath.Join(s.dir, name+socketSuffix)
	if len(path) > maxSocketPath {
		return "", fmt.Errorf("radio: %s has %d bytes, a socket's path takes %d: use a folder with a shorter path", path, len(path), maxSocketPath)
	}
	return path, nil
}

// Put puts a machine on air at an address, until off is called, which ends its links and returns
// when all of them are gone. The error says what to do where the address is taken or the folder cannot be used.
func (s *Sockets) Put(addr string, machine Peripheral) (off func(), err error) {
	path, err := s.path(addr)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, fmt.Errorf("radio: %w", err)
	}
	if conn, err := net.DialTimeout("unix", path, socketTimeout); err == nil {
		return nil, errors.Join(fmt.Errorf("radio: a machine listens at %s already: stop it, or give this one another id", path), conn.Close())
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) { // of a machine that was killed
		return nil, fmt.Errorf("radio: %w", err)
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("radio: %w", err)
	}
	l := &listening{addr: addr, machine: machine, listener: listener, conns: map[net.Conn]bool{}}
	l.wg.Go(l.accept)
	return l.off, nil
}

// listening is a machine on air.
type listening struct {
	addr     string
	machine  Peripheral
	listener net.Listener
	wg       sync.WaitGroup

	mu    sync.Mutex
	ended bool
	conns map[net.Conn]bool
}

func (l *listening) off() {
	l.mu.Lock()
	l.ended = true
	l.listener.Close() // takes the socket's name away
	for conn := range l.conns {
		conn.Close()
	}
	l.mu.Unlock()
	l.wg.Wait()
}

// accept serves gateways until the machine is off.
func (l *listening) accept() {
	for {
		conn, err := l.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // no file descriptors: those of links come back
			time.Sleep(advertisingInterval)
			continue
		}
		l.mu.Lock()
		if l.ended {
			l.mu.Unlock()
			conn.Close()
			return
		}
		l.conns[conn] = true
		l.mu.Unlock()
		l.wg.Go(func() {
			l.serve(conn)
			conn.Close()
			l.mu.Lock()
			delete(l.conns, conn)
			l.mu.Unlock()
		})
	}
}

func (l *listening) serve(conn net.Conn) {
	_ = conn.SetDeadline(time.Now().Add(socketTimeout))
	ask := []byte{0}
	if _, err := io.ReadFull(conn, ask); err != nil {
		return
	}
	switch ask[0] {
	case askAdvertisement:
		advertising, scanResponse := l.machine.Advertise().Encode()
		_ = errors.Join(writePacket(conn, advertising), writePacket(conn, scanResponse)) // a gateway that is gone does not matter
	case askLink:
		_ = conn.SetDeadline(time.Time{})
		_ = servePeripheral(newSocketEnd(conn), l.addr, MaxMTU, l.machine) // a gateway that breaks the rules loses the link, no more
	}
}

// Scan implements Radio.
func (s *Sockets) Scan(ctx context.Context, found func(Advertisement)) error {
	ticker := time.NewTicker(advertisingInterval)
	defer ticker.Stop()
	for {
		entries, err := os.ReadDir(s.dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // no folder yet: no machine yet
			return fmt.Errorf("radio: %w", err)
		}
		for _, e := range entries {
			name, ok := strings.CutSuffix(e.Name(), socketSuffix)
			addr, err := url.PathUnescape(name)
			if !ok || err != nil {
				continue
			}
			if ad, err := s.ask(ctx, addr); err == nil && ctx.Err() == nil {
				found(ad)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// ask gets one machine's advertisement; one that is dead or not ours is not in sight.
func (s *Sockets) ask(ctx context.Context, addr string) (Advertisement, error) {
	ctx, cancel := context.WithTimeout(ctx, socketTimeout)
	defer cancel()
	conn, err := s.dial(ctx, addr, askAdvertisement)
	if err != nil {
		return Advertisement{}, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	advertising, err := readPacket(conn)
	if err != nil {
		return Advertisement{}, err
	}
	scanResponse, err := readPacket(conn)
	if err != nil {
		return Advertisement{}, err
	}
	ad, err := ParseAdvertisement(advertising, scanResponse)
	ad.Address, ad.RSSI = addr, airRSSI
	return ad, err
}

func (s *Sockets) dial(ctx context.Context, addr string, ask byte) (net.Conn, error) {
	path, err := s.path(addr)
	if err != nil {
		return nil, err
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, errors.Join(ErrNotFound, err)
	}
	if _, err := conn.Write([]byte{ask}); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// Dial implements Radio.
func (s *Sockets) Dial(ctx context.Context, addr string) (Link, error) {
	conn, err := s.dial(ctx, addr, askLink)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", addr, err)
	}
	l, err := newLink(ctx, newSocketEnd(conn), addr, UsualMTU)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", addr, err)
	}
	return l, nil
}

// socketEnd is one end of a link over a socket.
type socketEnd struct {
	conn net.Conn
	turn chan struct{} // holds one while a packet is sent
}

func newSocketEnd(conn net.Conn) *socketEnd {
	return &socketEnd{conn: conn, turn: make(chan struct{}, 1)}
}

func (e *socketEnd) receive() ([]byte, error) { return readPacket(e.conn) }

// send blocks while the other side does not read, until the link is closed.
func (e *socketEnd) send(p []byte) error {
	e.turn <- struct{}{}
	defer func() { <-e.turn }()
	return writePacket(e.conn, p)
}

func (e *socketEnd) close() error { return e.conn.Close() }

func readPacket(r io.Reader) ([]byte, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint16(head[:])
	if n == 0 || n > MaxMTU {
		return nil, fmt.Errorf("radio: a packet of %d bytes, want 1 to %d", n, MaxMTU)
	}
	p := make([]byte, n)
	_, err := io.ReadFull(r, p)
	return p, err
}

func writePacket(w io.Writer, p []byte) error {
	_, err := w.Write(append(binary.LittleEndian.AppendUint16(nil, uint16(len(p))), p...))
	return err
}
