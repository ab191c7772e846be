package edge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/farebeat/farebeat/edge/outbox"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
)

// Agent is the gateway of one vehicle. Make it with New and run it once.
type Agent struct {
	o       Options
	log     *slog.Logger
	bus     Bus
	sender  *sender
	visitor *visitor
	state   *state // owned by decide

	inputs  chan input
	link    chan bool     // the broker connection came up, or went
	running chan struct{} // closed when decide has ended
	refusal refusals

	mu      sync.Mutex
	session uint64             // number of the latest connection
	seen    []schemas.Sighting // as published last
}

// Stats counts what an agent did since it was made. Custody is counted by the
// outbox itself.
type Stats struct {
	Refused  uint64 // messages from the broker that were malformed or misplaced
	Contacts uint64 // Bluetooth contacts that found a machine
	Failed   uint64 // of these, the ones that ended early
	Read     uint64 // records that were new to the outbox
	Damaged  uint64 // records that machines handed out and no ledger could take
}

// New makes an agent. Errors name the option that is wrong.
func New(o Options) (*Agent, error) {
	if err := o.complete(); err != nil {
		return nil, fmt.Errorf("edge agent: %w", err)
	}
	a := &Agent{
		o: o, log: o.Logger.With("vehicle", o.Vehicle),
		inputs: make(chan input), link: make(chan bool), running: make(chan struct{}),
		refusal: refusals{last: map[topics.Kind]time.Time{}},
		state: newState(o.Vehicle, o.Machines, timings{
			recollect: o.Timing.Recollect, backoffMin: o.Timing.RetryMin, backoffMax: o.Timing.RetryMax,
			listen: o.Timing.Listen, sightings: o.Timing.Sightings, forget: o.Timing.Forget,
		}),
	}
	bus, err := o.Connect(BusHooks{Will: a.will, Birth: a.birth, Farewell: a.farewell, Up: a.connected, Down: a.disconnected})
	if err != nil {
		return nil, fmt.Errorf("edge agent: make the MQTT session: %w", err)
	}
	a.bus = bus
	a.sender = newSender(a.o, bus, a.log)
	a.visitor = &visitor{
		radio: o.Radio, box: o.Outbox, now: o.Now, log: a.log, limits: o.Limits, uncertainty: o.Timing.ClockUncertainty,
		room: make(chan struct{}, 1), post: a.tell, sender: a.sender,
		suspects: newSuspects(),
	}
	return a, a.subscribe()
}

// subscribe registers the gateway's own topics.
func (a *Agent) subscribe() error {
	for _, to := range []topics.Address{
		{Kind: topics.VehicleFault, Vehicle: a.o.Vehicle},
		{Kind: topics.Receipt, Vehicle: a.o.Vehicle},
		{Kind: topics.Ticket, Vehicle: a.o.Vehicle},
		{Kind: topics.Command, Vehicle: a.o.Vehicle},
		{Kind: topics.Fleet},
	} {
		filter, err := a.o.Tree.Filter(to)
		if err != nil {
			return fmt.Errorf("edge agent: %w", err)
		}
		a.bus.Handle(filter, 1, a.receive)
	}
	return nil
}

// Run works until ctx ends, and returns nil then. It returns an error only where
// the MQTT session ends by itself for good; everything else is tried again. It
// says goodbye on the gateway's topic before it disconnects.
func (a *Agent) Run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	// The session outlives the rest by a moment, to say farewell.
	busCtx, disconnect := context.WithCancel(context.WithoutCancel(ctx))
	defer disconnect()
	var (
		wg     sync.WaitGroup
		busErr error
		ended  = make(chan struct{})
	)
	go func() {
		defer close(ended)
		busErr = a.bus.Run(busCtx)
		stop()
	}()
	wg.Go(func() { a.sender.run(ctx) })
	a.decide(ctx)
	wg.Wait()
	disconnect()
	<-ended
	if busErr != nil && !errors.Is(busErr, context.Canceled) {
		return fmt.Errorf("edge agent of vehicle %s: MQTT session: %w", a.o.Vehicle, busErr)
	}
	return nil
}

// decide owns the state: one input after the other, until ctx ends and the radio
// is at rest.
func (a *Agent) decide(ctx context.Context) {
	var (
		radio   sync.WaitGroup
		settle  <-chan time.Time
		tick    = time.NewTicker(a.o.Limits.Tick)
		perform = func(in input) {
			for _, e := range a.state.step(a.o.Now(), in) {
				a.perform(ctx, &radio, e)
			}
		}
	)
	defer tick.Stop()
	defer close(a.running)
	defer radio.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case in := <-a.inputs:
			perform(in)
		case up := <-a.link:
			settle = nil
			if up {
				settle = time.After(a.o.Limits.Confirm)
			}
		case <-settle:
			settle = nil
			perform(settled{})
		case <-tick.C:
			perform(ticked{})
			if a.o.Turned != nil {
				a.o.Turned()
			}
		}
	}
}

// perform does what was decided. It never waits: what takes time runs beside.
func (a *Agent) perform(ctx context.Context, radio *sync.WaitGroup, e effect) {
	switch e := e.(type) {
	case contact:
		radio.Go(func() {
			r := a.visitor.visit(ctx, e)
			a.tell(ctx, contactEnded{r})
		})
	case listen:
		radio.Go(func() { a.tell(ctx, listened{a.visitor.listen(ctx, e.names)}) })
	case publishRecovery:
		a.sender.recovery(e.recovery.Machine, &e.recovery, e.urgent)
	case clearRecovery:
		a.sender.recovery(e.machine, nil, true)
	case publishResult:
		a.sender.answer(e.result)
	case publishGateway:
		a.mu.Lock()
		a.seen = e.seen
		g := a.gateway(schemas.Online)
		a.mu.Unlock()
		a.sender.near(g)
	case refused:
		a.log.Error("refused", "what", e.why)
	}
}

// errEnded is why nothing more is taken in.
var errEnded = errors.New("the agent has ended")

// post hands an input to decide. It fails where ctx or the agent ends first.
func (a *Agent) post(ctx context.Context, in input) error {
	select {
	case a.inputs <- in:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-a.running:
		return errEnded
	}
}

// tell is post for the agent's own radio: when the agent ends, nobody needs to know.
func (a *Agent) tell(ctx context.Context, in input) {
	if err := a.post(ctx, in); err != nil {
		a.log.Debug("not taken in", "what", fmt.Sprintf("%T", in), "err", err)
	}
}

// receive takes in one message from the broker. What cannot be understood is
// counted and acknowledged, since it would not get better by coming again; an
// error is a disk that did not take a receipt, and brings the message back.
func (a *Agent) receive(ctx context.Context, topic string, payload []byte) error {
	m, err := parse(a.o.Tree, a.o.Vehicle, topic, payload)
	if err != nil {
		a.refuse(topic, err)
		return nil
	}
	switch m := m.(type) {
	case schemas.Fleet:
		a.sender.fleetSays(m)
	case schemas.Receipt:
		return a.receipt(ctx, topic, m)
	case input:
		return a.post(ctx, m)
	}
	return nil
}

// receipt lets the outbox give up what the ledger holds, before anything else
// hears of it.
func (a *Agent) receipt(ctx context.Context, topic string, r schemas.Receipt) error {
	ledger, err := outbox.Covered(r)
	if err != nil {
		a.refuse(topic, err)
		return nil
	}
	gone, err := a.o.Outbox.Receipt(ctx, r)
	if err != nil {
		a.log.Error("a receipt was not taken in; it comes again", "err", err)
		return err
	}
	held, err := a.o.Outbox.Held(ctx, r.Machine)
	if err != nil {
		return err
	}
	a.log.Debug("receipt", "machine", r.Machine, "batches", len(gone))
	a.sender.stored()
	a.visitor.roomMade()
	return a.post(ctx, receipted{r.Machine, ledger, held})
}

// will numbers the next connection and says what the broker publishes when it breaks.
func (a *Agent) will(ctx context.Context) (Message, error) {
	n, err := a.o.Outbox.NextSession(ctx)
	if err != nil {
		return Message{}, err
	}
	// The retained faults of this connection must find the state prepared.
	if err := a.post(ctx, connecting{}); err != nil {
		return Message{}, err
	}
	a.mu.Lock()
	a.session = n
	g := a.gateway(schemas.ConnectionBroken)
	a.mu.Unlock()
	return a.gatewayMessage(g)
}

func (a *Agent) birth(context.Context) (Message, error) {
	a.mu.Lock()
	g := a.gateway(schemas.Online)
	a.mu.Unlock()
	return a.gatewayMessage(g)
}

// farewell tells that the gateway goes on purpose.
func (a *Agent) farewell(context.Context) (Message, error) {
	a.mu.Lock()
	g := a.gateway(schemas.Offline)
	a.mu.Unlock()
	return a.gatewayMessage(g)
}

// gateway is what the gateway says of itself. a.mu is held.
func (a *Agent) gateway(status schemas.LinkStatus) schemas.Gateway {
	g := schemas.Gateway{AsOf: a.o.Now().UTC().Truncate(time.Millisecond), Vehicle: a.o.Vehicle, Status: status, Session: a.session}
	if status == schemas.Online {
		g.Seen = a.seen
	}
	return g
}

func (a *Agent) gatewayMessage(g schemas.Gateway) (Message, error) {
	topic, err := a.o.Tree.Build(topics.Address{Kind: topics.Gateway, Vehicle: a.o.Vehicle})
	if err != nil {
		return Message{}, err
	}
	payload, err := schemas.Encode(&g)
	return Message{Topic: topic, QoS: 1, Retain: true, Payload: payload}, err
}

func (a *Agent) connected() {
	a.sender.connected()
	a.linked(true)
}

func (a *Agent) disconnected(err error) {
	a.log.Debug("the broker is gone; reading goes on and the outbox keeps", "err", err)
	a.sender.disconnected()
	a.linked(false)
}

func (a *Agent) linked(up bool) {
	select {
	case a.link <- up:
	case <-a.running:
	}
}

// refusals counts refused messages, and lets one a minute and kind be logged.
type refusals struct {
	count atomic.Uint64
	mu    sync.Mutex
	last  map[topics.Kind]time.Time
}

func (a *Agent) refuse(topic string, why error) {
	a.refusal.count.Add(1)
	to, err := a.o.Tree.Parse(topic)
	if err != nil {
		to.Kind = "" // all unknown topics together
	}
	now := a.o.Now()
	a.refusal.mu.Lock()
	last, again := a.refusal.last[to.Kind]
	quiet := again && now.Sub(last) < time.Minute && !now.Before(last)
	if !quiet {
		a.refusal.last[to.Kind] = now
	}
	a.refusal.mu.Unlock()
	if !quiet {
		a.log.Warn("a message was refused", "topic", topic, "why", why, "refused_so_far", a.refusal.count.Load())
	}
}

// Stats returns the counts so far. It may be called at any time.
func (a *Agent) Stats() Stats {
	s := a.visitor.stats()
	s.Refused = a.refusal.count.Load()
	return s
}
