package session

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"time"
)

// Sentinels to branch on.
var (
	// ErrNotConnected says that nothing was sent: there is no connection now.
	ErrNotConnected = errors.New("not connected to the broker")
	// ErrUnconfirmed says that the message may or may not have arrived: the connection ended, or the
	// caller stopped waiting, before the acknowledgement. Publish it again.
	ErrUnconfirmed = errors.New("not acknowledged")
)

// Message is what is published.
type Message struct {
	Topic   string
	QoS     byte // 0 or 1; Farebeat does not use 2
	Retain  bool
	Payload []byte // empty and retained: clears the topic
}

// Announcer makes a message when it is needed, so that its session number and as_of are of this
// connection. An error (a counter that could not be stored) gives up this attempt to connect; the next comes
// after the back-off.
type Announcer = func(ctx context.Context) (Message, error)

// Backoff is the pause between attempts: from Min, doubling up to Max, each give or take a
// half at random, so that a fleet does not come back in one instant.
type Backoff struct{ Min, Max time.Duration }

// Options configures a Session. Zero values mean the default in brackets.
type Options struct {
	ClientID string // required unless CleanSession
	Username string
	Password string

	// Servers are tried in order: tcp://, mqtt://, tls://, mqtts://, ws:// or wss://host:port. Credentials do not
	// belong into them.
	Servers []string
	// Dial, if set, replaces Servers: an in-process broker's Dial, for example.
	Dial func(ctx context.Context) (net.Conn, error)
	TLS  *tls.Config // for tls, mqtts and wss; nil: the system's certificates

	KeepAlive      time.Duration // whole seconds; [30 s]; also how soon a dead line is noticed, at 10 s more
	ConnectTimeout time.Duration // for one attempt, up to the subscriptions [10 s]
	WriteTimeout   time.Duration // for one packet to leave, then the connection is given up [10 s]
	CloseTimeout   time.Duration // for the farewell when Run ends [2 s]
	Backoff        Backoff       // [1 s to 30 s]
	HandlerRetry   Backoff       // between calls of a handler that fails [200 ms to 10 s]

	// CleanSession tells the broker to forget this client between connections. Without it the broker
	// keeps QoS-1 messages for it while it is away.
	CleanSession bool

	Will     Announcer // asked before each attempt to connect: what the broker says if we die
	Birth    Announcer // asked, and published, once the subscriptions stand
	Farewell Announcer // asked, and published, before the clean disconnect: that suppresses the will

	// Up and Down are called in turns by Run's goroutine, and hold it up. Handlers may be called before Up.
	Up   func()
	Down func(reason error)

	// MaxWaiting and MaxWaitingBytes bound what was received and not yet handled; beyond, nothing more is
	// read from the broker until there is room, except while an acknowledgement is awaited. [65,536 and 64 MiB]
	MaxWaiting      int
	MaxWaitingBytes int

	Logger *slog.Logger // [none]
}

func (o *Options) fill() {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&o.KeepAlive, 30*time.Second)
	def(&o.ConnectTimeout, 10*time.Second)
	def(&o.WriteTimeout, 10*time.Second)
	def(&o.CloseTimeout, 2*time.Second)
	def(&o.Backoff.Min, time.Second)
	def(&o.Backoff.Max, max(30*time.Second, o.Backoff.Min))
	def(&o.HandlerRetry.Min, 200*time.Millisecond)
	def(&o.HandlerRetry.Max, max(10*time.Second, o.HandlerRetry.Min))
	if o.MaxWaiting <= 0 {
		o.MaxWaiting = 1 << 16
	}
	if o.MaxWaitingBytes <= 0 {
		o.MaxWaitingBytes = 64 << 20
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
}

func (o *Options) check() error {
	if o.ClientID == "" && !o.CleanSession {
		return errors.New("mqtt session: a session that the broker keeps needs a ClientID; give one or set CleanSession")
	}
	if o.KeepAlive%time.Second != 0 || o.KeepAlive > 12*time.Hour {
		return fmt.Errorf("mqtt session: KeepAlive %s: want whole seconds, at most 12h", o.KeepAlive)
	}
	if o.Dial != nil {
		return nil
	}
	if len(o.Servers) == 0 {
		return errors.New("mqtt session: no server; give Servers, such as tcp://localhost:1883, or Dial")
	}
	for _, s := range o.Servers {
		if err := checkServer(s); err != nil {
			return err
		}
	}
	return nil
}

func checkServer(server string) error {
	u, err := url.Parse(server)
	if err != nil {
		return errors.New("mqtt session: a server address is not a URL; want scheme://host:port, such as tcp://localhost:1883")
	}
	if u.User != nil {
		return fmt.Errorf("mqtt session: server %q: user name and password go into Username and Password, not into the address", u.Redacted())
	}
	switch u.Scheme {
	case "tcp", "mqtt", "tls", "mqtts", "ssl", "ws", "wss":
	default:
		return fmt.Errorf("mqtt session: server %q: scheme %q; want tcp, mqtt, tls, mqtts, ws or wss", server, u.Scheme)
	}
	if u.Hostname() == "" {
		return fmt.Errorf("mqtt session: server %q: no host; want %s://host:port", server, u.Scheme)
	}
	return nil
}

func checkPublish(m Message) error {
	switch {
	case m.Topic == "" || len(m.Topic) > 65535:
		return fmt.Errorf("publish: topic of %d bytes", len(m.Topic))
	case strings.ContainsAny(m.Topic, "+#\x00"):
		return fmt.Errorf("publish %q: a topic has no + or #; those are for filters", m.Topic)
	case m.QoS > 1:
		return fmt.Errorf("publish %q: QoS %d; want 0 or 1", m.Topic, m.QoS)
	}
	return nil
}

func checkFilter(filter string, qos byte) error {
	if filter == "" || len(filter) > 65535 || strings.ContainsRune(filter, 0) {
		return fmt.Errorf("subscribe: filter of %d bytes", len(filter))
	}
	levels := strings.Split(filter, "/")
	for i, l := range levels {
		if l == "#" && i != len(levels)-1 || len(l) > 1 && strings.ContainsAny(l, "+#") {
			return fmt.Errorf("subscribe %q: + and # each stand alone in a level, # only in the last", filter)
		}
	}
	if qos > 1 {
		return fmt.Errorf("subscribe %q: QoS %d; want 0 or 1", filter, qos)
	}
	return nil
}

// matches reports whether an MQTT filter matches a topic (MQTT 3.1.1, section 4.7).
func matches(filter, topic string) bool {
	if topic != "" && topic[0] == '$' && filter != "" && (filter[0] == '+' || filter[0] == '#') {
		return false
	}
	for {
		f, fRest, fMore := strings.Cut(filter, "/")
		if f == "#" {
			return true
		}
		t, tRest, tMore := strings.Cut(topic, "/")
		if f != "+" && f != t {
			return false
		}
		if !fMore && !tMore {
			return true
		}
		if !tMore {
			return fRest == "#"
		}
		if !fMore {
			return false
		}
		filter, topic = fRest, tRest
	}
}
