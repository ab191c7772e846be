package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// MQTT 3.1.1 packet types, section 2.2.1.
const (
	packetConnect    = 1
	packetConnack    = 2
	packetPublish    = 3
	packetPuback     = 4
	packetSubscribe  = 8
	packetSuback     = 9
	packetPingreq    = 12
	packetPingresp   = 13
	packetDisconnect = 14
)

// link is one MQTT 3.1.1 connection that costs the load generator next to nothing: packets are bytes made
// beforehand. It reads only what a broker sends to a client that behaves. Not for any other use.
type link struct {
	net net.Conn
	in  *bufio.Reader
	out *bufio.Writer
}

// patience bounds every wait for a broker.
const patience = 5 * time.Minute

// dial connects with a clean session.
func dial(t target, id string) (*link, error) {
	c, err := net.Dial("tcp", t.address)
	if err != nil {
		return nil, err
	}
	l := &link{c, bufio.NewReaderSize(c, 1<<16), bufio.NewWriterSize(c, 1<<16)}
	_ = c.SetDeadline(time.Now().Add(patience))
	flags := byte(0x02)
	body := appendText(nil, "MQTT")
	if t.user != "" {
		flags |= 0xC0
	}
	body = append(body, 4, flags, 0, 0) // version 4, no keep-alive
	body = appendText(body, id)
	if t.user != "" {
		body = appendText(appendText(body, t.user), t.password)
	}
	if _, err := l.out.Write(packet(packetConnect<<4, body)); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	kind, answer, err := l.ask()
	if err == nil && (kind != packetConnack || len(answer) != 2 || answer[1] != 0) {
		err = fmt.Errorf("packet type %d, % x in the place of CONNACK", kind, answer)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("connect to %s: %w", t.name, err), c.Close())
	}
	return l, nil
}

func (l *link) close() {
	_, _ = l.out.Write(packet(packetDisconnect<<4, nil))
	_ = l.out.Flush()
	_ = l.net.Close()
}

// ask flushes and reads one packet.
func (l *link) ask() (kind byte, body []byte, err error) {
	if err := l.out.Flush(); err != nil {
		return 0, nil, err
	}
	return l.read()
}

func (l *link) read() (kind byte, body []byte, err error) {
	first, err := l.in.ReadByte()
	if err != nil {
		return 0, nil, err
	}
	n, err := binary.ReadUvarint(l.in) // remaining length has the same form
	if err != nil {
		return 0, nil, err
	}
	if n > 1<<21 {
		return 0, nil, fmt.Errorf("a packet of %d bytes", n)
	}
	body = make([]byte, n)
	_, err = io.ReadFull(l.in, body)
	return first >> 4, body, err
}

// drain waits until the broker has read all that was sent: it answers in order.
func (l *link) drain() error {
	if _, err := l.out.Write(packet(packetPingreq<<4, nil)); err != nil {
		return err
	}
	kind, _, err := l.ask()
	if err == nil && kind != packetPingresp {
		err = fmt.Errorf("packet type %d in the place of PINGRESP", kind)
	}
	return err
}

// acknowledged reads one PUBACK.
func (l *link) acknowledged() error {
	kind, _, err := l.ask()
	if err == nil && kind != packetPuback {
		err = fmt.Errorf("packet type %d in the place of PUBACK", kind)
	}
	return err
}

func (l *link) subscribe(filter string) error {
	body := append(appendText([]byte{0, 1}, filter), 1)
	if _, err := l.out.Write(packet(packetSubscribe<<4|2, body)); err != nil {
		return err
	}
	kind, answer, err := l.ask()
	if err == nil && (kind != packetSuback || len(answer) != 3 || answer[2] > 1) {
		err = fmt.Errorf("packet type %d, % x in the place of SUBACK", kind, answer)
	}
	return err
}

// publish makes a PUBLISH packet; id 0 means QoS 0.
func publish(topic string, payload []byte, id uint16, retain bool) []byte {
	first := byte(packetPublish << 4)
	if retain {
		first |= 1
	}
	body := appendText(nil, topic)
	if id > 0 {
		first |= 2
		body = binary.BigEndian.AppendUint16(body, id)
	}
	return packet(first, append(body, payload...))
}

func packet(first byte, body []byte) []byte {
	return append(binary.AppendUvarint([]byte{first}, uint64(len(body))), body...)
}

func appendText(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}
