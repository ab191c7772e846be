package ble

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	goble "github.com/go-ble/ble"
	"github.com/go-ble/ble/linux/att"
)

// notifyPatience is how long a notification waits for its subscription, which go-ble puts in place in
// a goroutine of its own.
const notifyPatience = 5 * time.Second

// port is the machine's end: go-ble's ATT server over an l2cap. The handler is called from the
// goroutine of servePeripheral only.
type port struct {
	conn          *l2cap
	handler       Handler
	subscriptions map[Char]*subscription
}

// subscription is what notifies on one characteristic, once the gateway wants it.
type subscription struct {
	once     sync.Once
	ready    chan struct{} // closed once notifier is set
	notifier goble.Notifier
}

// servePeripheral runs a machine's end of a link until it is gone. It returns why, where the gateway
// broke the rules.
func servePeripheral(p pdus, local string, mtu int, machine Peripheral) error {
	g := &peripheralGuard{}
	conn := newL2CAP(p, g, address(local), "gateway", mtu)
	defer conn.Close()
	pt := &port{conn: conn, subscriptions: map[Char]*subscription{}}
	service := goble.NewService(uuidOf(0))
	for _, c := range allChars() {
		pt.addCharacteristic(service, c)
	}
	// Not gatt.Server: its own services print to the standard log, and nobody needs them.
	db := att.NewDB([]*goble.Service{service}, 1)
	for _, char := range service.Characteristics {
		if char.WriteHandler != nil {
			g.writable = append(g.writable, char.ValueHandle)
		}
		if char.CCCD != nil {
			g.configs = append(g.configs, char.ValueHandle+1) // go-ble puts it there, and does not say so
		}
	}
	conn.SetContext(context.WithValue(conn.Context(), goble.ContextKeyCCC, make(map[uint16]uint16)))
	server, err := att.NewServer(db, conn)
	if err != nil {
		return fmt.Errorf("ATT server: %w", err)
	}
	pt.handler = machine.Connect(pt)
	defer pt.handler.Closed()
	defer conn.Close()
	return errors.Join(loop(server), conn.cause())
}

// allChars lists the characteristics in the order in which the machine's attributes hold them.
func allChars() []Char { return []Char{CharInfo, CharSession, CharControl, CharData, CharCredit} }

// loop runs go-ble's server until the link is gone. The guard keeps from it what it panics on; should
// it still, the link ends and the machine goes on.
func loop(a *att.Server) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("go-ble panicked: %v", p)
		}
	}()
	a.Loop()
	return nil
}

func (p *port) addCharacteristic(service *goble.Service, c Char) {
	char := service.NewCharacteristic(uuidOf(c))
	if c == CharInfo {
		char.HandleRead(goble.ReadHandlerFunc(func(_ goble.Request, rsp goble.ResponseWriter) {
			_, _ = rsp.Write(p.handler.Read(c)) // a value that does not fit reads as empty
		}))
	}
	if c == CharSession || c == CharControl || c == CharCredit {
		char.HandleWrite(goble.WriteHandlerFunc(func(req goble.Request, _ goble.ResponseWriter) {
			p.handler.Write(c, bytes.Clone(req.Data())) // go-ble uses the buffer again
		}))
	}
	if c == CharSession || c == CharControl || c == CharData {
		s := &subscription{ready: make(chan struct{})}
		p.subscriptions[c] = s
		char.HandleNotify(goble.NotifyHandlerFunc(func(_ goble.Request, n goble.Notifier) {
			s.once.Do(func() { // a later one of the same link sends the same way
				s.notifier = n
				close(s.ready)
			})
			select {
			case <-n.Context().Done():
			case <-p.conn.Disconnected():
			}
		}))
	}
}

// MTU implements Port.
func (p *port) MTU() int { return p.conn.mtu() }

// Notify implements Port.
func (p *port) Notify(c Char, value []byte) error {
	if most := p.MTU() - attHeader; len(value) > most {
		return fmt.Errorf("notify %d bytes on %04x: the link takes %d", len(value), uint16(c), most)
	}
	s := p.subscriptions[c]
	if s == nil {
		return fmt.Errorf("notify on %04x: the characteristic does not notify", uint16(c))
	}
	if err := p.subscribed(c, s); err != nil {
		return err
	}
	if _, err := s.notifier.Write(value); err != nil {
		return fmt.Errorf("notify: %w", errors.Join(ErrClosed, err))
	}
	return nil
}

// subscribed waits until the gateway has subscribed.
func (p *port) subscribed(c Char, s *subscription) error {
	select {
	case <-s.ready:
		return nil
	default:
	}
	timer := time.NewTimer(notifyPatience)
	defer timer.Stop()
	select {
	case <-s.ready:
		return nil
	case <-p.conn.Disconnected():
		return fmt.Errorf("notify: %w", ErrClosed)
	case <-timer.C:
		return fmt.Errorf("notify on %04x: the gateway did not subscribe within %s", uint16(c), notifyPatience)
	}
}

// Close implements Port.
func (p *port) Close() error { return p.conn.Close() }
