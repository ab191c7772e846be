package ble

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	goble "github.com/go-ble/ble"
	"github.com/go-ble/ble/linux/gatt"
)

// callTimeout bounds one GATT procedure. ATT's own is 30 s, after which a link must be dropped.
const callTimeout = 5 * time.Second

// link is the gateway's end: go-ble's GATT client over an l2cap.
type link struct {
	conn   *l2cap
	guard  *centralGuard
	client *gatt.Client
	mtu    int
	chars  map[Char]*goble.Characteristic
}

// uuidOf is the full UUID of a characteristic or, for 0, of the service.
func uuidOf(c Char) goble.UUID {
	u := serviceUUID()
	u[12], u[13] = byte(c), byte(c>>8)
	return goble.UUID(u[:])
}

// newLink makes a link over the gateway's end of p: MTU, then the service and its characteristics. It
// closes p where it fails.
func newLink(ctx context.Context, p pdus, peer string, mtu int) (*link, error) {
	g := &centralGuard{}
	// MaxMTU is what go-ble's client reads at most; what is asked of the machine is mtu.
	conn := newL2CAP(p, g, "gateway", address(peer), MaxMTU)
	client, err := gatt.NewClient(conn)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("GATT client: %w", err), conn.Close())
	}
	l := &link{conn: conn, guard: g, client: client, mtu: MinMTU, chars: map[Char]*goble.Characteristic{}}
	if err := l.call(ctx, "discover the service", func() error { return l.discover(mtu) }); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return l, nil
}

func (l *link) discover(mtu int) error {
	if mtu > MinMTU {
		answer, err := l.client.ExchangeMTU(mtu)
		if err != nil {
			return fmt.Errorf("exchange the MTU: %w", err)
		}
		l.mtu = max(MinMTU, min(mtu, answer)) // go-ble gives the server's, which may be more than we take
	}
	services, err := l.client.DiscoverServices([]goble.UUID{uuidOf(0)})
	if err != nil {
		return err
	}
	if len(services) != 1 {
		return errors.New("the device does not have the Offline Record Service")
	}
	found, err := l.client.DiscoverCharacteristics(nil, services[0])
	if err != nil {
		return err
	}
	for _, c := range found {
		for _, want := range allChars() {
			if bytes.Equal(c.UUID, uuidOf(want)) && c.ValueHandle != 0 {
				l.chars[want] = c
			}
		}
	}
	for _, c := range []Char{CharSession, CharControl, CharData} {
		if l.chars[c] == nil {
			return fmt.Errorf("the device lacks characteristic %04x", uint16(c))
		}
		if _, err := l.client.DiscoverDescriptors(nil, l.chars[c]); err != nil {
			return err
		}
	}
	if l.chars[CharInfo] == nil || l.chars[CharCredit] == nil {
		return errors.New("the device lacks a characteristic of the service")
	}
	return nil
}

// call runs a GATT procedure with a deadline. go-ble's client may hang in it with its lock held, so an
// overrun closes the link, which frees the procedure.
func (l *link) call(ctx context.Context, what string, do func() error) error {
	done := make(chan error, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				done <- fmt.Errorf("go-ble panicked: %v", p)
			}
		}()
		done <- do()
	}()
	timer := time.NewTimer(callTimeout)
	defer timer.Stop()
	var cause error
	select {
	case err := <-done:
		if err == nil {
			return nil
		}
		select {
		case <-l.conn.Disconnected():
			err = errors.Join(ErrClosed, l.conn.cause(), err)
		default:
		}
		return fmt.Errorf("%s: %w", what, err)
	case <-ctx.Done():
		cause = ctx.Err()
	case <-timer.C:
		cause = fmt.Errorf("no answer within %s", callTimeout)
	case <-l.conn.Disconnected():
		cause = errors.Join(ErrClosed, l.conn.cause())
	}
	_ = l.conn.Close()
	<-done //nolint:errcheck // the cause is known
	return fmt.Errorf("%s: %w", what, cause)
}

// MTU implements Link.
func (l *link) MTU() int { return l.mtu }

// ReadInfo implements Link.
func (l *link) ReadInfo(ctx context.Context) ([]byte, error) {
	var value []byte
	err := l.call(ctx, "read INFO", func() (err error) {
		value, err = l.client.ReadCharacteristic(l.chars[CharInfo])
		return err
	})
	return bytes.Clone(value), err
}

// Subscribe implements Link.
func (l *link) Subscribe(ctx context.Context, c Char, notify func([]byte)) error {
	char := l.chars[c]
	if char == nil || char.CCCD == nil {
		return fmt.Errorf("subscribe to %04x: the device does not notify on it", uint16(c))
	}
	l.guard.subscribe(char.CCCD.Handle, char.ValueHandle)
	return l.call(ctx, "subscribe", func() error {
		return l.client.Subscribe(char, false, func(b []byte) {
			defer l.conn.handled()
			notify(bytes.Clone(b))
		})
	})
}

// Write implements Link.
func (l *link) Write(ctx context.Context, c Char, value []byte) error {
	if len(value) > l.mtu-attHeader {
		return fmt.Errorf("write %d bytes to %04x: the link takes %d", len(value), uint16(c), l.mtu-attHeader)
	}
	return l.call(ctx, "write", func() error { return l.client.WriteCharacteristic(l.chars[c], value, true) })
}

// Closed implements Link.
func (l *link) Closed() <-chan struct{} { return l.conn.Disconnected() }

// Close implements Link.
func (l *link) Close() error { return l.conn.Close() }
