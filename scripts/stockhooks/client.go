package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
)

// client speaks just enough MQTT 3.1.1.
type client struct {
	net net.Conn
	in  *bufio.Reader
}

func (c *client) connect(id string) error {
	pk := packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Connect}, ProtocolVersion: 4,
		Connect: packets.ConnectParams{
			ProtocolName: []byte("MQTT"), Clean: true, ClientIdentifier: id,
			UsernameFlag: true, Username: []byte(user), PasswordFlag: true, Password: []byte(secret),
		},
	}
	var b bytes.Buffer
	if err := pk.ConnectEncode(&b); err != nil {
		return err
	}
	if _, err := c.net.Write(b.Bytes()); err != nil {
		return err
	}
	h, body, err := c.read()
	if err == nil && (h.Type != packets.Connack || body[1] != 0) {
		err = fmt.Errorf("client %q was refused", id)
	}
	return err
}

func (c *client) read() (packets.FixedHeader, []byte, error) {
	var h packets.FixedHeader
	first, err := c.in.ReadByte()
	if err != nil {
		return h, nil, err
	}
	if err := h.Decode(first); err != nil {
		return h, nil, err
	}
	if h.Remaining, _, err = packets.DecodeLength(c.in); err != nil {
		return h, nil, err
	}
	body := make([]byte, h.Remaining)
	_, err = io.ReadFull(c.in, body)
	return h, body, err
}

func topic(i, n int) string { return fmt.Sprintf("%smachine/m%d-%d/state", root, i, n) }

// publishUntilCut publishes to topic after topic and returns how many were acknowledged, all from the first.
func (c *client) publishUntilCut(i, flying int) int {
	defer c.net.Close()
	window := make(chan struct{}, flying)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		for n := 0; ; n++ {
			select {
			case window <- struct{}{}:
			case <-time.After(5 * time.Second): // nothing is acknowledged any more
				return
			}
			pk := packets.Packet{
				FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: 1, Retain: true}, ProtocolVersion: 4,
				PacketID: uint16(n%65_535 + 1), TopicName: topic(i, n), Payload: bytes.Repeat([]byte("x"), 300),
			}
			var b bytes.Buffer
			if pk.PublishEncode(&b) != nil {
				return
			}
			if _, err := c.net.Write(b.Bytes()); err != nil {
				return
			}
		}
	}()
	acked := 0
	for {
		h, _, err := c.read()
		if err != nil {
			c.net.Close()
			<-gone
			return acked
		}
		if h.Type == packets.Puback {
			acked++
			<-window
		}
	}
}

// some is how many topics are asked for at a time: few enough that no broker drops any.
const some = 500

// count asks for each topic of a publisher from one to before another by name, and counts those that hold a message.
func count(address string, i, from, to int) (int, error) {
	c, err := dial(address, fmt.Sprint("r", i))
	if err != nil {
		return 0, err
	}
	defer c.net.Close()
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, ProtocolVersion: 4, PacketID: 1}
	for k := from; k < to; k++ {
		pk.Filters = append(pk.Filters, packets.Subscription{Filter: topic(i, k)})
	}
	var b bytes.Buffer
	if err := pk.SubscribeEncode(&b); err != nil {
		return 0, err
	}
	if _, err := c.net.Write(b.Bytes()); err != nil {
		return 0, err
	}
	found := map[string]bool{}
	for len(found) < to-from {
		_ = c.net.SetReadDeadline(time.Now().Add(2 * time.Second)) // nothing for so long: the rest is not there
		h, body, err := c.read()
		var late net.Error
		if errors.As(err, &late) && late.Timeout() {
			break
		}
		if err != nil {
			return 0, err
		}
		if h.Type == packets.Publish {
			found[string(body[2:2+binary.BigEndian.Uint16(body)])] = true
		}
	}
	return len(found), nil
}
