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
	"github.com/go-ble/ble/linux/gatt"
)

// notifyPatience is how long a notification waits for its subscription, which go-ble puts in place in
// a goroutine of its own.
const notifyPatience = 5 * time.Second

// port is the machine's end: go-ble's ATT server over an l2cap.
type port struct {
	conn *l2cap

	mu        sync.Mutex // serializes the handler
	handler   Handler
	notifiers map[Char]chan goble.Notifier // one token each, once subscribed
}

// servePeripheral runs a machine's end of a link until it is gone.
func servePeripheral(conn *l2cap, machine Peripheral) error {
	p := &port{conn: conn, notifiers: map[Char]chan goble.Notifier{}}
	service := goble.NewService(uuidOf(0))
	for _, c := range []Char{CharInfo, CharSession, CharControl, CharData, CharCredit} {
		p.addCharacteristic(service, c)
	}
	server, err := gatt.NewServer()
	if err == nil {
		err = server.SetServices([]*goble.Service{service})
	}
	if err != nil {
		return errors.Join(fmt.Errorf("GATT server: %w", err), conn.Close())
	}
	conn.SetContext(context.WithValue(conn.Context(), goble.ContextKeyCCC, make(map[uint16]uint16)))
	a, err := att.NewServer(server.DB(), conn)
	if err != nil {
		return errors.Join(fmt.Errorf("ATT server: %w", err), conn.Close())
	}
	p.handler = machine.Connect(p)
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.handler.Closed()
	}()
	defer conn.Close()
	return loop(a)
}

// loop runs go-ble's server, which panics on some malformed packets.
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
			p.mu.Lock()
			defer p.mu.Unlock()
			_, _ = rsp.Write(p.handler.Read(c)) // a value that does not fit is cut by ATT
		}))
	}
	if c == CharSession || c == CharControl || c == CharCredit {
		char.HandleWrite(goble.WriteHandlerFunc(func(req goble.Request, _ goble.ResponseWriter) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.handler.Write(c, bytes.Clone(req.Data())) // go-ble uses the buffer again
		}))
	}
	if c == CharSession || c == CharControl || c == CharData {
		slot := make(chan goble.Notifier, 1)
		p.notifiers[c] = slot
		char.HandleNotify(goble.NotifyHandlerFunc(func(_ goble.Request, n goble.Notifier) {
			select {
			case slot <- n:
			default: // subscribed before: the same link, the same notifier
			}
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
	if len(value) > p.MTU()-attHeader {
		return fmt.Errorf("notify %d bytes on %04x: the link takes %d", len(value), uint16(c), p.MTU()-attHeader)
	}
	slot := p.notifiers[c]
	timer := time.NewTimer(notifyPatience)
	defer timer.Stop()
	select {
	case n := <-slot:
		slot <- n
		if _, err := n.Write(value); err != nil {
			return fmt.Errorf("notify: %w", errors.Join(ErrClosed, err))
		}
		return nil
	case <-p.conn.Disconnected():
		return fmt.Errorf("notify: %w", ErrClosed)
	case <-timer.C:
		return fmt.Errorf("notify on %04x: the gateway did not subscribe", uint16(c))
	}
}

// Close implements Port.
func (p *port) Close() error { return p.conn.Close() }
