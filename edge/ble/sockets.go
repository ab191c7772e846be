package ble

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
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
// with a little-endian 16-bit length before each.
type Sockets struct{ dir string }

const (
	askAdvertisement = 'A'
	askLink          = 'L'
	socketSuffix     = ".sock"
	socketTimeout    = 2 * time.Second
)

// NewSockets is the radio over a folder.
func NewSockets(dir string) *Sockets { return &Sockets{dir: dir} }

func (s *Sockets) path(address string) string {
	return filepath.Join(s.dir, url.PathEscape(address)+socketSuffix)
}

// Listen puts a machine on air at an address until ctx ends.
func (s *Sockets) Listen(ctx context.Context, addr string, machine Peripheral) error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("radio folder: %w", err)
	}
	path := s.path(addr)
	if conn, err := net.Dial("unix", path); err == nil {
		return errors.Join(fmt.Errorf("radio: a machine listens at %s already", path), conn.Close())
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) { // of a machine that was killed
		return fmt.Errorf("radio: %w", err)
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return fmt.Errorf("radio: %w: a socket's path may have about 100 bytes", err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	for {
		conn, err := listener.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("radio: %w", err)
		}
		wg.Go(func() { serveSocket(ctx, conn, addr, machine) })
	}
}

func serveSocket(ctx context.Context, conn net.Conn, addr string, machine Peripheral) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	_ = conn.SetReadDeadline(time.Now().Add(socketTimeout))
	ask := []byte{0}
	if _, err := io.ReadFull(conn, ask); err != nil {
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	switch ask[0] {
	case askAdvertisement:
		advertising, scanResponse := machine.Advertise().Encode()
		_ = writePacket(conn, advertising) // a gateway that is gone does not matter
		_ = writePacket(conn, scanResponse)
	case askLink:
		_ = servePeripheral(newL2CAP(&socketEnd{conn: conn}, address(addr), "gateway", MaxMTU), machine)
	}
}

// Scan implements Radio.
func (s *Sockets) Scan(ctx context.Context, found func(Advertisement)) error {
	ticker := time.NewTicker(advertisingInterval)
	defer ticker.Stop()
	for {
		entries, err := os.ReadDir(s.dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("radio: %w", err)
		}
		for _, e := range entries {
			name, ok := strings.CutSuffix(e.Name(), socketSuffix)
			addr, err := url.PathUnescape(name)
			if !ok || err != nil || ctx.Err() != nil {
				continue
			}
			if ad, err := s.ask(ctx, addr); err == nil {
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
	conn, err := s.dial(ctx, addr, askAdvertisement)
	if err != nil {
		return Advertisement{}, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(socketTimeout))
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
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", s.path(addr))
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
	l, err := newLink(ctx, newL2CAP(&socketEnd{conn: conn}, "gateway", address(addr), MinMTU), UsualMTU)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", addr, err)
	}
	return l, nil
}

// socketEnd is one end of a link over a socket.
type socketEnd struct {
	conn net.Conn
	mu   sync.Mutex // one packet at a time
}

func (e *socketEnd) receive() ([]byte, error) { return readPacket(e.conn) }

func (e *socketEnd) send(p []byte) error {
	e.mu.Lock()
	defer e.mu.Unlock()
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
		return nil, fmt.Errorf("radio: a packet of %d bytes", n)
	}
	p := make([]byte, n)
	_, err := io.ReadFull(r, p)
	return p, err
}

func writePacket(w io.Writer, p []byte) error {
	_, err := w.Write(append(binary.LittleEndian.AppendUint16(nil, uint16(len(p))), p...))
	return err
}
