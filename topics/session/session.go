package session

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"
)

// Session is one client's standing with a broker. Make it with New, name its handlers, then Run it.
// Publish, Connected and Stats may be called from any goroutine at any time.
type Session struct {
	o       Options
	routes  []*route
	running atomic.Bool
	link    atomic.Pointer[link]
	up      atomic.Bool
	stats   counters
}

type counters struct {
	connects, published, unconfirmed             atomic.Uint64
	received, handled, failed, unrouted, refused atomic.Uint64
}

// Stats counts what a session did since New.
type Stats struct {
	Connects    uint64 // times that it came up
	Refused     uint64 // attempts that did not get there
	Published   uint64 // messages sent, for QoS 1 with their acknowledgement
	Unconfirmed uint64 // publishes that returned an error
	Received    uint64 // messages from the broker
	Handled     uint64 // handler calls that returned nil, and those of QoS 0
	Failed      uint64 // handler calls that returned an error
	Unrouted    uint64 // messages that no handler asked for
}

// New checks the options and makes a session that is down.
func New(o Options) (*Session, error) {
	o.fill()
	if err := o.check(); err != nil {
		return nil, err
	}
	return &Session{o: o}, nil
}

// Handle names the handler of all topics that filter matches, with the greatest QoS that is wanted. It must be
// called before Run, which reports a filter that is none. Each of several handlers whose filters match
// a message gets it.
func (s *Session) Handle(filter string, qos byte, h Handler) { s.HandleParallel(filter, qos, 1, h) }

// HandleParallel is Handle for a handler that may take up to workers messages at a time. Those of one
// topic still come one after the other.
func (s *Session) HandleParallel(filter string, qos byte, workers int, h Handler) {
	s.routes = append(s.routes, &route{filter: filter, qos: qos, handler: h, workers: max(workers, 1)})
}

// Run connects, and connects again whenever the connection ends, until ctx ends; then it publishes the farewell,
// disconnects cleanly and returns nil. Another error says what is wrong with the handlers' filters, or that Run was
// called twice. A broker that is away, or refuses us, is logged and tried again.
func (s *Session) Run(ctx context.Context) error {
	for _, r := range s.routes {
		if err := checkFilter(r.filter, r.qos); err != nil {
			return err
		}
	}
	if !s.running.CompareAndSwap(false, true) {
		return errors.New("mqtt session: Run was called before; a session runs once")
	}
	pause := newBackoff(s.o.Backoff)
	for {
		began := time.Now()
		wasUp, err := s.serve(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the end of ctx is how a session ends
		}
		if wasUp && time.Since(began) > s.o.Backoff.Max {
			pause.Reset() // else a broker that drops us at once would be asked in a tight loop
		}
		if !wasUp {
			s.stats.refused.Add(1)
		}
		wait := pause.NextBackOff()
		s.o.Logger.Warn("broker connection down", "broker", s.target(), "client", s.o.ClientID, "error", err, "retry_in", wait.Round(time.Millisecond))
		if !sleep(ctx, wait) {
			return nil
		}
	}
}

// serve lives through one connection and returns why it ended.
func (s *Session) serve(ctx context.Context) (wasUp bool, err error) {
	will, err := announce(ctx, s.o.Will, "will")
	if err != nil {
		return false, err
	}
	l, err := s.connect(ctx, will)
	if err != nil {
		return false, err
	}
	defer l.close()
	s.link.Store(l)
	handling, stopHandling := context.WithCancel(ctx)
	workers := l.dispatch.run(handling)
	stop := func() {
		s.up.Store(false)
		s.link.Store(nil)
		stopHandling()
		workers.Wait()
	}
	defer stop()

	if err := l.subscribe(ctx); err != nil {
		return false, err
	}
	if err := s.say(ctx, l, s.o.Birth, "birth"); err != nil {
		return false, err
	}
	s.up.Store(true)
	s.stats.connects.Add(1)
	s.o.Logger.Info("broker connection up", "broker", s.target(), "client", s.o.ClientID)
	if s.o.Up != nil {
		s.o.Up()
	}
	err = l.untilLost(ctx)
	stop()
	if err == nil { // ctx ended: the only way out that is not a loss
		bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.o.CloseTimeout)
		defer cancel()
		if farewell := s.say(bye, l, s.o.Farewell, "farewell"); farewell != nil {
			s.o.Logger.Warn("no farewell", "client", s.o.ClientID, "error", farewell)
		}
		err = ctx.Err()
	}
	if s.o.Down != nil {
		s.o.Down(err)
	}
	return true, err
}

func announce(ctx context.Context, a Announcer, what string) (*Message, error) {
	if a == nil {
		return nil, nil
	}
	m, err := a(ctx)
	if err == nil {
		err = checkPublish(m)
	}
	if err != nil {
		return nil, fmt.Errorf("%s message: %w", what, err)
	}
	return &m, nil
}

func (s *Session) say(ctx context.Context, l *link, a Announcer, what string) error {
	m, err := announce(ctx, a, what)
	if err != nil || m == nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.o.ConnectTimeout)
	defer cancel()
	if err := l.publish(ctx, *m); err != nil {
		return fmt.Errorf("publish %s message on %q: %w", what, m.Topic, err)
	}
	return nil
}

// Publish sends a message. For QoS 1 it returns nil only after the broker's acknowledgement of this very
// message; for QoS 0 once the packet has left. Without a connection it fails at once with ErrNotConnected; while the
// subscriptions of a new connection are under way it waits for them, because only what comes after their
// acknowledgement is surely of this connection: a broker may first repeat acknowledgements that it owed to the
// last one, under the same packet identifiers. The payload may be reused when Publish has returned.
func (s *Session) Publish(ctx context.Context, m Message) error {
	if err := checkPublish(m); err != nil {
		return err
	}
	l := s.link.Load()
	if l == nil {
		s.stats.unconfirmed.Add(1)
		return fmt.Errorf("publish %q: %w", m.Topic, ErrNotConnected)
	}
	if err := l.publish(ctx, m); err != nil {
		s.stats.unconfirmed.Add(1)
		return fmt.Errorf("publish %q: %w", m.Topic, err)
	}
	s.stats.published.Add(1)
	return nil
}

// Connected reports whether the session stands: connected, subscribed, and the birth published.
func (s *Session) Connected() bool { return s.up.Load() }

// Stats returns the counters.
func (s *Session) Stats() Stats {
	c := &s.stats
	return Stats{
		Connects: c.connects.Load(), Refused: c.refused.Load(),
		Published: c.published.Load(), Unconfirmed: c.unconfirmed.Load(),
		Received: c.received.Load(), Handled: c.handled.Load(), Failed: c.failed.Load(), Unrouted: c.unrouted.Load(),
	}
}

func (s *Session) target() string {
	if s.o.Dial != nil {
		return "the broker in this process"
	}
	return strings.Join(s.o.Servers, ", ")
}
