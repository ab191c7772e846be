// Package fleet is the background service: it hears machines, counts them, decides what is a
// fault, tells the vehicle that carries the machine, and proves that what comes back arrived
// once. Engine decides and does no I/O; Fleet does the I/O; flow.go reads forward, from
// heartbeat to receipt.
package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/farebeat/farebeat/fleet/counts"
	"github.com/farebeat/farebeat/fleet/dispatch"
	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/keys"
	"github.com/farebeat/farebeat/fleet/ledger"
	"github.com/farebeat/farebeat/fleet/limit"
	"github.com/farebeat/farebeat/fleet/presence"
	"github.com/farebeat/farebeat/fleet/rules"
	"github.com/farebeat/farebeat/fleet/store"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
	"github.com/farebeat/farebeat/topics/session"
)

// Options say what a fleet service is made of. All but Listen, Watch, Turned, FaultsSaved, CountsSaved and Logger are required.
type Options struct {
	Tree    topics.Tree
	Session session.Options // how to reach the broker; what it announces is the fleet's
	Store   *store.Store    // the caller closes it after Run
	Keys    keys.Keys
	Engine  EngineConfig
	Tick    time.Duration    // between two rounds, by the clock on the wall
	Now     func() time.Time // the clock that everything is decided by
	// SlotGrace is how long a gateway has, after the receipt, to clear a slot itself; 0: 10 minutes.
	SlotGrace time.Duration
	// Listen takes heartbeats from the broker by subscription. Without it they come by the methods of
	// the broker's tap, in this process.
	Listen bool
	// BrokerFailure is what keeps the broker of this process from its disk, nil if nothing does. Asked each round; may be nil.
	BrokerFailure func() error
	// Parts are other parts of Farebeat whose failure is a fault.
	Parts []Part
	// Rules are the rules in force, asked before each round; nil: those of Engine. It may give others from one round to the next.
	Rules func() *rules.Set
	// FaultsSaved is called after each saving of faults, in the goroutine of rounds; may be nil.
	FaultsSaved func()
	// CountsSaved is called after each saving of counts, likewise; may be nil.
	CountsSaved func()
	Watch       func(Round) // called after each round, in its goroutine; may be nil
	// Turned is called at the end of each round, also of one whose changes could not be saved, in its goroutine; may be nil.
	Turned func()
	Logger *slog.Logger
	// TicketValidity is for how long a gateway's ticket holds, tickets.MinValidity at least; 0: tickets.DefaultValidity.
	TicketValidity time.Duration
	// Orders is the folder in which the command line leaves orders about tickets and faults; empty for none.
	Orders string
}

// Part is a part of Farebeat that can fail while the rest goes on.
type Part struct {
	Name    string       // of the fault's subject, such as the name of a sink
	Kind    faults.Kind  // SeriesSink, NotifyChannel or TimetableOver
	Failure func() error // what keeps it from its work, nil if nothing does. Asked each round
}

// Fleet is the running service.
type Fleet struct {
	o        Options
	engine   *Engine
	ledger   *ledger.Ledger
	dispatch *dispatch.Dispatcher
	session  *session.Session
	out      *publisher
	stats    Stats
	log      *limit.Table // what is logged once a minute
	slots    slots
	tickets  *ticketing

	unticketed unticketed

	number  atomic.Uint64 // of the session with the broker
	link    atomic.Pointer[Link]
	since   time.Time
	ready   atomic.Bool // the ledger takes transactions in
	mu      sync.Mutex
	inputs  []faults.Input
	unsaved []faults.Change // of rounds whose saving failed
	taken   []string        // files of orders that are followed, but not on disk yet
	minute  time.Time       // last begun
	frames  []counts.Frame  // minutes that are not on disk yet
	hours   []counts.HourRow
	shown   map[string]shownRoute
}

// New makes a service that recalls what it knew before. Run starts it.
func New(ctx context.Context, o Options) (*Fleet, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	now := o.Now()
	f := &Fleet{
		o:        o,
		engine:   NewEngine(o.Engine, now),
		ledger:   ledger.New(o.Store.Ledger(), o.Keys, o.Now),
		dispatch: dispatch.New(o.Tree, dispatch.Config{}),
		since:    now,
		minute:   now.Truncate(time.Minute),
		shown:    map[string]shownRoute{},
		log:      limit.EachMinute(),
		slots:    slots{grace: cmp.Or(o.SlotGrace, slotGrace), held: map[string]time.Time{}},
	}
	f.ready.Store(true)
	f.link.Store(&Link{Since: now, Why: "not connected yet"})
	if err := f.recall(ctx, now); err != nil {
		return nil, err
	}
	so := o.Session
	so.Will, so.Birth, so.Farewell = f.will, f.birth, f.farewell
	so.Up, so.Down = f.up, f.down
	s, err := session.New(so)
	if err != nil {
		return nil, fmt.Errorf("fleet: %w", err)
	}
	f.session = s
	f.out = newPublisher(s.Publish)
	if f.tickets, err = newTicketing(ctx, o, f.out, &f.stats, f.log); err != nil {
		return nil, fmt.Errorf("fleet: recall tickets: %w", err)
	}
	if f.unticketed.pairs, err = recallUnticketed(ctx, o.Store.Tickets()); err != nil {
		return nil, fmt.Errorf("fleet: %w", err)
	}
	if err := f.subscribe(); err != nil {
		return nil, fmt.Errorf("fleet: %w", err)
	}
	contract, err := o.Tree.Build(topics.Address{Kind: topics.AsyncAPI})
	if err != nil {
		return nil, fmt.Errorf("fleet: %w", err)
	}
	f.out.set(contract, topics.AsyncAPIDocument())
	// The broker may have lost what stood there, and what happened just before the last end may never have come there.
	f.engine.presence.Each(func(v presence.View) { f.tellMachine(now, v.Machine) })
	if o.Listen {
		f.engine.SetBlind(now, true) // until the first connection
	}
	return f, nil
}

// Run serves until ctx ends, then writes down what a restart needs.
func (f *Fleet) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	sessionCtx, stopSession := context.WithCancel(ctx)
	defer stopSession()
	var sessionErr error
	wg.Go(func() { sessionErr = f.session.Run(sessionCtx) })
	wg.Go(func() { f.out.run(sessionCtx) })
	wg.Go(func() { f.tickets.run(sessionCtx) })
	wg.Go(func() { f.certify(sessionCtx) })
	f.rounds(ctx)
	stopSession()
	wg.Wait()
	// ctx has ended; what is written now must still be written.
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return errors.Join(sessionErr, f.remember(last, f.o.Now()))
}

func (f *Fleet) rounds(ctx context.Context) {
	ticker := time.NewTicker(f.o.Tick)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			f.round(ctx, f.o.Now())
			if f.o.Turned != nil {
				f.o.Turned()
			}
		}
	}
}

// Ledger is the service's ledger.
func (f *Fleet) Ledger() *ledger.Ledger { return f.ledger }

// Engine is the service's engine. Only its methods that are safe for concurrent use may be called.
func (f *Fleet) Engine() *Engine { return f.engine }

const (
	metaRules   = "rules"   // name of the rules' states in the store
	metaSession = "session" // name of the session counter in the store
)

// recall takes up what the last run left in the store.
func (f *Fleet) recall(ctx context.Context, now time.Time) error {
	var m Memory
	var err error
	if m.Roster, err = f.o.Store.Roster(ctx); err != nil {
		return fmt.Errorf("fleet: recall the roster: %w", err)
	}
	if m.Board, err = f.o.Store.Counts().State(ctx); err != nil {
		return fmt.Errorf("fleet: recall the open hour: %w", err)
	}
	if m.Rules, err = f.o.Store.Meta(ctx, metaRules); err != nil {
		return fmt.Errorf("fleet: recall the rules' states: %w", err)
	}
	if m.Faults, err = f.o.Store.Faults().Open(ctx); err != nil {
		return fmt.Errorf("fleet: recall faults: %w", err)
	}
	recent, err := f.o.Store.Faults().List(ctx, faults.Query{From: now.Add(-time.Hour), Conditions: []schemas.FaultCondition{schemas.Closed}, Limit: faults.MaxLimit})
	if err != nil {
		return fmt.Errorf("fleet: recall faults: %w", err)
	}
	m.Faults = append(m.Faults, recent...)
	if err := f.engine.Recall(now, m); err != nil {
		// Counts of the running hour are worth less than a service that starts.
		f.o.Logger.Warn("a part of the last run could not be recalled", "error", err)
	}
	err = f.ledger.Complete(ctx, func(machine string, epoch, completeTo uint32) error {
		f.engine.LedgerProgress(now, machine, epoch, completeTo)
		return nil
	})
	if err != nil {
		return fmt.Errorf("fleet: %w", err)
	}
	return nil
}

// remember writes down what recall reads.
func (f *Fleet) remember(ctx context.Context, now time.Time) error {
	m, err := f.engine.Remember(now)
	if err != nil {
		return err
	}
	return errors.Join(
		f.o.Store.SaveRoster(ctx, m.Roster, m.Board),
		f.o.Store.SetMeta(ctx, map[string][]byte{metaRules: m.Rules}),
		f.unticketed.save(ctx, f.o.Store.Tickets()),
	)
}

// status is the retained message of the fleet topic.
func (f *Fleet) status(s schemas.LinkStatus, ready bool) (session.Message, error) {
	topic, err := f.o.Tree.Build(topics.Address{Kind: topics.Fleet})
	if err != nil {
		return session.Message{}, err
	}
	payload, err := schemas.Encode(&schemas.Fleet{
		AsOf: milli(f.o.Now()), Status: s, LedgerReady: ready, Since: milli(f.since), Session: f.number.Load(),
	})
	if err != nil {
		return session.Message{}, err
	}
	return session.Message{Topic: topic, QoS: 1, Retain: true, Payload: payload}, nil
}

func (f *Fleet) will(ctx context.Context) (session.Message, error) {
	n, err := f.o.Store.Next(ctx, metaSession)
	if err != nil {
		return session.Message{}, err
	}
	f.number.Store(n)
	return f.status(schemas.ConnectionBroken, false)
}

func (f *Fleet) birth(context.Context) (session.Message, error) {
	return f.status(schemas.Online, f.ready.Load())
}

func (f *Fleet) farewell(context.Context) (session.Message, error) {
	return f.status(schemas.Offline, false)
}

// Link is how the service stands with the broker.
type Link struct {
	Up    bool
	Since time.Time // by the service's clock
	Why   string    // of a link that is not up: what broke it
}

// Link tells whether the service is connected with the broker, and since when. It is safe for concurrent use.
func (f *Fleet) Link() Link { return *f.link.Load() }

// Ready reports whether the ledger takes transactions in and faults can be saved. It is safe for concurrent use.
func (f *Fleet) Ready() bool { return f.ready.Load() }

func (f *Fleet) up() {
	f.link.Store(&Link{Up: true, Since: f.o.Now()})
	f.out.reconnected()
	if f.o.Listen {
		f.engine.SetBlind(f.o.Now(), false)
	}
}

func (f *Fleet) down(reason error) {
	l := Link{Since: f.o.Now(), Why: "the connection ended"}
	if reason != nil {
		l.Why = reason.Error()
	}
	f.link.Store(&l)
	if f.o.Listen {
		f.engine.SetBlind(f.o.Now(), true)
	}
}

// milli is a time as all messages carry it.
func milli(t time.Time) time.Time { return t.UTC().Truncate(time.Millisecond) }
