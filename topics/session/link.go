package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"sort"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
)

// link is one connection, with a paho client of its own: paho may panic when a client is
// used again, and with AutoReconnect it completes publish tokens without an acknowledgement.
type link struct {
	s        *Session
	client   paho.Client
	wire     *wire         // set once connected
	lost     chan error    // paho's reason, once
	ready    chan struct{} // closed when the subscriptions stand
	kept     bool          // the broker remembers an earlier connection
	dispatch *dispatcher
}

// connect makes one attempt: network and MQTT handshake.
func (s *Session) connect(ctx context.Context, will *Message) (*link, error) {
	l := &link{s: s, lost: make(chan error, 1), ready: make(chan struct{})}
	opts := l.pahoOptions(will)
	var attempt *wire
	closeAttempt := func() bool { return true }
	opts.SetCustomOpenConnectionFn(func(server *url.URL, _ paho.ClientOptions) (net.Conn, error) {
		c, err := open(ctx, server, &s.o)
		if err != nil {
			return nil, err
		}
		attempt = newWire(c, s.o.WriteTimeout)
		l.dispatch = newDispatcher(s, attempt.gone)
		w := attempt
		closeAttempt()
		closeAttempt = context.AfterFunc(ctx, func() { w.Close() })
		return w, nil
	})
	l.client = paho.NewClient(opts)
	token := l.client.Connect()
	<-token.Done() // bounded by ConnectTimeout, and by ctx through open and closeAttempt
	closeAttempt()
	if err := token.Error(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("connect to %s as %q: %w", s.target(), s.o.ClientID, err)
	}
	l.wire = attempt
	if t, ok := token.(*paho.ConnectToken); ok {
		l.kept = t.SessionPresent()
	}
	return l, nil
}

func (l *link) pahoOptions(will *Message) *paho.ClientOptions {
	o := &l.s.o
	opts := paho.NewClientOptions().
		SetClientID(o.ClientID).SetUsername(o.Username).SetPassword(o.Password).
		SetCleanSession(o.CleanSession || len(l.s.routes) == 0).
		SetKeepAlive(o.KeepAlive).SetPingTimeout(10 * time.Second).
		SetConnectTimeout(o.ConnectTimeout).SetWriteTimeout(o.WriteTimeout).
		SetProtocolVersion(4). // else paho tries 3.1 after every refusal, and hides the reason
		SetAutoReconnect(false).SetConnectRetry(false).SetResumeSubs(false).
		SetOrderMatters(true).SetAutoAckDisabled(true)
	opts.SetDefaultPublishHandler(func(_ paho.Client, m paho.Message) {
		l.dispatch.accept(&Delivery{
			Message:   Message{Topic: m.Topic(), QoS: m.Qos(), Retain: m.Retained(), Payload: m.Payload()},
			Retained:  m.Retained(),
			Duplicate: m.Duplicate(),
		}, m.Ack)
	})
	opts.SetConnectionLostHandler(func(_ paho.Client, err error) { l.lost <- err })
	if will != nil {
		opts.SetBinaryWill(will.Topic, will.Payload, will.QoS, will.Retain)
	}
	if o.Dial != nil {
		return opts.AddBroker("tcp://in-process")
	}
	for _, s := range o.Servers {
		opts.AddBroker(s)
	}
	return opts
}

// subscribe asks for every handler's filter. On a session that the broker kept it asks more than once: Mochi
// v2.7.9 has one table of packet identifiers for both directions and refuses a SUBSCRIBE whose identifier
// one of its own unacknowledged deliveries bears, as the first ones of a new connection do. The next attempt
// bears another, and meanwhile the handlers acknowledge.
func (l *link) subscribe(ctx context.Context) error {
	defer close(l.ready)
	if len(l.s.routes) == 0 {
		return nil
	}
	defer l.dispatch.await()()
	filters := make(map[string]byte)
	for _, r := range l.s.routes {
		filters[r.filter] = max(filters[r.filter], r.qos)
	}
	ctx, cancel := context.WithTimeout(ctx, l.s.o.ConnectTimeout)
	defer cancel()
	pause := newBackoff(Backoff{Min: 20 * time.Millisecond, Max: time.Second})
	for {
		err := l.ask(ctx, filters)
		if !l.kept || !errors.Is(err, errRefused) || !sleep(ctx, pause.NextBackOff()) {
			return err
		}
	}
}

// errRefused marks a filter that the broker refused.
var errRefused = errors.New("refused")

// ask subscribes once and looks at each answer: paho reports no error for a filter that was refused.
func (l *link) ask(ctx context.Context, filters map[string]byte) error {
	token, ok := l.client.SubscribeMultiple(filters, nil).(*paho.SubscribeToken)
	if !ok {
		return errors.New("subscribe: paho gave another token than it documents")
	}
	if err := l.wait(ctx, token); err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	granted := token.Result()
	var refused []string
	for f, want := range filters {
		if got, ok := granted[f]; !ok || got != want {
			refused = append(refused, f)
		}
	}
	if len(refused) > 0 {
		sort.Strings(refused)
		return fmt.Errorf("subscribe: %w: %q to user %q; look for the reason in the broker's log, and for the user's role and grants", errRefused, refused, l.s.o.Username)
	}
	return nil
}

// publish sends a message and waits for what its QoS promises.
func (l *link) publish(ctx context.Context, m Message) error {
	select {
	case <-l.ready: // see Session.Publish
	case <-l.wire.gone:
		return ErrNotConnected
	case <-ctx.Done():
		return ctx.Err()
	}
	if m.QoS > 0 {
		defer l.dispatch.await()()
	}
	payload := bytes.Clone(m.Payload) // paho may still hold it when the caller has stopped waiting
	if payload == nil {
		payload = []byte{}
	}
	sent := make(chan paho.Token, 1)
	go func() { sent <- l.client.Publish(m.Topic, m.QoS, m.Retain, payload) }() // blocks up to WriteTimeout without regard to ctx
	select {
	case token := <-sent:
		return l.wait(ctx, token)
	case <-l.wire.gone:
		return ErrUnconfirmed
	case <-ctx.Done():
		return errors.Join(ErrUnconfirmed, ctx.Err())
	}
}

func (l *link) wait(ctx context.Context, token paho.Token) error {
	select {
	case <-token.Done():
	case <-l.wire.gone:
		select {
		case <-token.Done(): // it was just in time
		default:
			return ErrUnconfirmed
		}
	case <-ctx.Done():
		return errors.Join(ErrUnconfirmed, ctx.Err())
	}
	if err := token.Error(); err != nil {
		return fmt.Errorf("%w: %w", ErrUnconfirmed, err)
	}
	return nil
}

// untilLost waits for the end of the connection and returns the reason; nil when ctx ended first.
func (l *link) untilLost(ctx context.Context) error {
	select {
	case err := <-l.lost:
		return err
	case <-l.wire.gone:
		t := time.NewTimer(l.s.o.WriteTimeout)
		defer t.Stop()
		select {
		case err := <-l.lost:
			return err
		case <-t.C:
			return errClosedHere
		}
	case <-ctx.Done():
		return nil
	}
}

// close ends the connection with a DISCONNECT, as far as it still can; the broker then drops the will.
func (l *link) close() {
	l.client.Disconnect(250) // milliseconds
	l.wire.Close()
}
