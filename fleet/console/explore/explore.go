// Package explore shows the topic tree to people: which topics there are, how often and when something came, what stands there and whether it
// is what its schema says. It listens to the broker as a viewer only while somebody looks, so that a fleet which nobody explores pays nothing.
package explore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/farebeat/farebeat/topics"
	"github.com/farebeat/farebeat/topics/session"
)

// Options configure an Explorer. Tree and Session are required; zero values mean the default in brackets.
type Options struct {
	Tree topics.Tree
	// Session says how to reach the broker as a viewer. CleanSession, Up and Down are the explorer's own.
	Session session.Options
	Now     func() time.Time // the service's clock, for times of arrival and rates [time.Now]
	// Idle is how long after the last look listening ends, and with it all that was heard is forgotten; on the wall. [1 min]
	Idle       time.Duration
	MaxTopics  int // kept at once [50,000]
	MaxPayload int // bytes kept of a message; the rest is cut, and said so [64 kB]
	MaxBytes   int // of payloads and names over all topics, and 1,000 for each topic [64 MiB]
	Logger     *slog.Logger
}

func (o *Options) fill() {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Idle <= 0 {
		o.Idle = time.Minute
	}
	if o.MaxTopics <= 0 {
		o.MaxTopics = 50_000
	}
	if o.MaxPayload <= 0 {
		o.MaxPayload = 64 << 10
	}
	if o.MaxBytes <= 0 {
		o.MaxBytes = 64 << 20
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
}

// ErrUsage says that what was asked cannot be answered: a filter that is none, for example.
var ErrUsage = errors.New("not understood")

// Explorer listens while somebody looks. Run it; it is safe for concurrent use.
type Explorer struct {
	o       Options
	running atomic.Bool
	wake    chan struct{} // one token: somebody looks

	mu        sync.Mutex
	heard     *heard
	looked    time.Time // on the wall
	listening bool
	connected bool
	stale     bool // what is held is of a connection that is no more: it goes when the next one brings something
	since     time.Time
	keptBack  uint64
}

// New makes an explorer that does not listen yet.
func New(o Options) (*Explorer, error) {
	if o.Tree.Root() == "" {
		return nil, errors.New("topic explorer: the topic tree is required")
	}
	o.fill()
	e := &Explorer{o: o, wake: make(chan struct{}, 1)}
	e.heard = newHeard(o)
	if _, err := e.session(); err != nil {
		return nil, fmt.Errorf("topic explorer: %w", err)
	}
	return e, nil
}

// session makes the session of one time of listening.
func (e *Explorer) session() (*session.Session, error) {
	o := e.o.Session
	o.CleanSession, o.Will, o.Birth, o.Farewell = true, nil, nil, nil
	o.Up, o.Down = e.up, e.down
	if o.Logger == nil {
		o.Logger = e.o.Logger
	}
	s, err := session.New(o)
	if err != nil {
		return nil, err
	}
	s.Handle(e.o.Tree.Root()+"#", 1, e.deliver)
	return s, nil
}

// Run listens whenever somebody looks, until ctx ends. It is called once.
func (e *Explorer) Run(ctx context.Context) error {
	if !e.running.CompareAndSwap(false, true) {
		return errors.New("topic explorer: Run was called before")
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-e.wake:
		}
		if err := e.listen(ctx); err != nil {
			return fmt.Errorf("topic explorer: %w", err)
		}
	}
}

// listen keeps a session until nobody looks any more.
func (e *Explorer) listen(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	s, err := e.session()
	if err != nil {
		return err
	}
	e.mu.Lock()
	e.listening = true
	e.forget()
	e.mu.Unlock()
	var watch sync.WaitGroup
	watch.Go(func() { e.watchIdle(ctx, stop) })
	err = s.Run(ctx)
	stop()
	watch.Wait()

	e.mu.Lock()
	defer e.mu.Unlock()
	e.forget()
	e.listening, e.connected, e.keptBack = false, false, 0
	if time.Since(e.looked) < e.o.Idle { // somebody came while the session ended
		e.poke()
	}
	return err
}

// watchIdle calls stop when nobody has looked for a while.
func (e *Explorer) watchIdle(ctx context.Context, stop context.CancelFunc) {
	left := time.NewTimer(e.o.Idle)
	defer left.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-left.C:
		}
		e.mu.Lock()
		quiet := time.Since(e.looked)
		e.mu.Unlock()
		if quiet >= e.o.Idle {
			stop()
			return
		}
		left.Reset(e.o.Idle - quiet)
	}
}

// look notes that somebody looks. The caller holds the lock.
func (e *Explorer) look() {
	e.looked = time.Now()
	if !e.listening {
		e.poke()
	}
}

func (e *Explorer) poke() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// forget begins anew. The caller holds the lock.
func (e *Explorer) forget() {
	e.heard, e.since, e.stale = newHeard(e.o), e.o.Now(), false
}

func (e *Explorer) up() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.stale {
		e.forget()
	}
	e.connected = true
}

// down keeps what was heard to be seen, but only until there is a connection again: what was cleared meanwhile nobody tells.
func (e *Explorer) down(error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.connected, e.stale = false, true
}

// Bounds of a topic that is kept, well above those of the tree: what is not in the tree is shown as that.
const (
	maxName   = 1024 // bytes
	maxLevels = 32
)

// judgedAtOnce is up to how many bytes a message is judged as it comes, which takes some 5 µs. What is longer is judged when somebody looks at
// its topic, but for what is too long to be kept whole: a full batch of transactions takes some 1.5 ms.
const judgedAtOnce = 2 << 10

// deliver takes a message from the broker.
func (e *Explorer) deliver(_ context.Context, d *session.Delivery) error {
	if e.o.Tree.Confidential(d.Topic) || len(d.Topic) > maxName || strings.Count(d.Topic, "/") >= maxLevels {
		e.mu.Lock()
		e.keptBack++ // the broker gives none to a viewer; if one came, nobody is to read it here
		e.mu.Unlock()
		return nil
	}
	m := &message{payload: d.Payload, size: len(d.Payload), qos: d.QoS, stood: d.Retained, at: e.o.Now()}
	if m.size <= judgedAtOnce || m.size > e.o.MaxPayload { // of the latter only a part is kept, and it can be judged only whole
		m.judge(e.o.Tree, d.Topic)
	}
	if m.size > e.o.MaxPayload {
		m.cut(e.o.MaxPayload)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.stale {
		e.forget()
	}
	e.heard.put(d.Topic, m)
	return nil
}

// Status says what the explorer knows at all.
type Status struct {
	Root      string    `json:"root"` // of the topic tree, with its slash
	Listening bool      `json:"listening"`
	Since     time.Time `json:"since,omitzero"` // of listening; zero while nobody does
	Connected bool      `json:"connected"`      // to the broker, and told what stands there
	Topics    int       `json:"topics"`         // held
	Bytes     int       `json:"bytes"`          // held, as MaxBytes counts them
	// Dropped is how many topics had to make room for others since listening began, Confidential how many messages were
	// not kept because of their topic.
	Dropped      uint64 `json:"dropped"`
	Confidential uint64 `json:"confidential"`
}

// status is asked with the lock held.
func (e *Explorer) status() Status {
	s := Status{Root: e.o.Tree.Root(), Listening: e.listening, Connected: e.connected, Topics: len(e.heard.topics), Bytes: e.heard.bytes, Dropped: e.heard.dropped, Confidential: e.keptBack}
	if e.listening {
		s.Since = e.since
	}
	return s
}

// Status tells it without counting as a look.
func (e *Explorer) Status() Status {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.status()
}
