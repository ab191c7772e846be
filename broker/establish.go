package broker

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/mochi-mqtt/server/v2/packets"
)

// establish lets Mochi serve a connection until it ends, and counts those that never became a client's.
func (b *Broker) establish(name string, c *conn) {
	h := b.hook
	err := b.decoding(name, c)
	switch {
	case errors.Is(err, packets.ErrServerBusy):
		h.counters.refusedConnect.Add(1)
		h.limits.hit(limitClients, host(c.raw.RemoteAddr().String()), "connection refused", fmt.Errorf("%d clients are connected", b.o.MaxClients))
	case c.keepAlive.Load() < 0 && c.meter.bytes > 0 && !c.refused && !h.closing.Load():
		// Whoever said something and is no client. A probe that says nothing is none.
		h.counters.refusedConnect.Add(1)
		h.refuse(host(c.raw.RemoteAddr().String()), "connection refused", err)
	}
}

// decoding is Mochi's EstablishConnection, whose decoders of packets panic for some that are cut off (v2.7.9: a SUBSCRIBE of MQTT 5 without the options of
// its last filter). Such a packet ends its connection, as any other that is malformed. Panics of anything else are not caught: there locks may be held.
func (b *Broker) decoding(name string, c *conn) (err error) {
	defer func() {
		r := recover()
		if r == nil {
			return
		}
		if !inDecoder() {
			panic(fmt.Sprintf("%v\n\n%s", r, debug.Stack())) // the first stack would be lost
		}
		err = fmt.Errorf("malformed packet: %v", r)
		b.cutOff(c, err)
	}()
	return b.server.EstablishConnection(name, c)
}

// inDecoder reports, in a deferred function while there is a panic, whether it is one of Mochi's package packets.
func inDecoder() bool {
	pcs := make([]uintptr, 64)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs)])
	panicked := false
	for {
		f, more := frames.Next()
		panicked = panicked || f.Function == "runtime.gopanic"
		if panicked && strings.HasPrefix(f.Function, "github.com/") { // not of Go itself
			return strings.HasPrefix(f.Function, "github.com/mochi-mqtt/server/v2/packets.")
		}
		if !more {
			return false
		}
	}
}

// cutOff does for a client what Mochi does where a connection breaks.
func (b *Broker) cutOff(c *conn, err error) {
	h := b.hook
	cl := c.client
	if cl == nil || c.session == nil {
		return
	}
	h.counters.refusedForm.Add(1)
	h.refuse(c.identity.Name, "client disconnected", err)
	c.closeFor(err.Error())
	if cl.Properties.Will.Flag != 0 {
		_, _ = h.OnWill(cl, cl.Properties.Will) // it delivers the will itself
	}
	h.OnDisconnect(cl, err, c.keptFor() == 0)
	if c.keptFor() == 0 && !cl.IsTakenOver() {
		b.server.UnsubscribeClient(cl)
		b.server.Clients.Delete(cl.ID)
	}
}
