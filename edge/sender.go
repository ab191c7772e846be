package edge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/farebeat/farebeat/edge/outbox"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
)

// sender brings to the broker what waits for it: answers, progress, and the
// outbox's batches. It is the only one who writes or clears a transactions slot,
// so that the clearing of a slot never overtakes its writing. What it has not got
// acknowledged it sends again, for ever.
type sender struct {
	bus     Bus
	box     *outbox.Outbox
	tree    topics.Tree
	vehicle string
	log     *slog.Logger
	pace    senderPace
	wake    chan struct{} // holds one: something is to be sent now
	revive  chan struct{} // holds one: a new connection ends a pause

	mu       sync.Mutex
	up       bool   // the broker is there
	ready    bool   // the ledger takes batches
	fleet    uint64 // session of the fleet's last birth
	dirty    bool   // the outbox may hold something to send or to clear
	round    int    // grows when all open batches are to be sent again
	reading  string // the machine that is being read: its records are not sealed in part
	answers  []schemas.CommandResult
	progress map[string]*progress // by machine
	gateway  *schemas.Gateway     // nil: published
}

// senderPace holds the sender's durations. They are real time: they pace traffic
// and decide nothing.
type senderPace struct {
	progress time.Duration // between two progress messages of one machine in the same phase
	publish  time.Duration // after this long without an acknowledgement, it is tried again
	retryMin time.Duration
	retryMax time.Duration
	resend   time.Duration // an open batch is sent again after this long without a receipt
}

// progress is what is to be said of one recovery.
type progress struct {
	recovery *schemas.Recovery // nil: clear the topic
	urgent   bool
}

func newSender(o Options, bus Bus, log *slog.Logger) *sender {
	return &sender{
		bus: bus, box: o.Outbox, tree: o.Tree, vehicle: o.Vehicle, log: log,
		wake: make(chan struct{}, 1), revive: make(chan struct{}, 1), progress: map[string]*progress{},
		pace: senderPace{
			progress: o.Limits.Progress, publish: o.Limits.Publish, retryMin: o.Limits.SendMin, retryMax: o.Limits.SendMax, resend: o.Limits.Resend,
		},
	}
}

func (s *sender) poke() {
	select {
	case s.wake <- struct{}{}:
	default: // it is awake already
	}
}

// update changes what is to be sent and wakes the sender.
func (s *sender) update(change func()) {
	s.mu.Lock()
	change()
	s.mu.Unlock()
	s.poke()
}

// stock is update for what concerns the outbox.
func (s *sender) stock(change func()) { s.update(func() { s.dirty = true; change() }) }

// stored tells the sender that records came in or slots are to be cleared.
func (s *sender) stored() { s.stock(func() {}) }

// connected lets the sender send. All open batches are sent again, into the same
// slots, as soon as this connection says that the ledger is ready.
func (s *sender) connected() {
	s.stock(func() { s.up = true })
	select {
	case s.revive <- struct{}{}:
	default:
	}
}

// disconnected also forgets that the ledger is ready: the next connection says so anew.
func (s *sender) disconnected() { s.update(func() { s.up, s.ready = false, false }) }

// fleetSays takes in the fleet's own state. A death that belongs to an earlier
// birth is late news and ignored.
func (s *sender) fleetSays(f schemas.Fleet) {
	s.stock(func() {
		if f.Status != schemas.Online {
			if s.fleet == 0 || f.Session == s.fleet {
				s.ready = false
			}
			return
		}
		if f.LedgerReady && (!s.ready || f.Session != s.fleet) {
			s.round++ // this ledger may not have seen what the one before it was sent
		}
		s.fleet, s.ready = f.Session, f.LedgerReady
	})
}

// readingMachine says which machine is being read, empty for none.
func (s *sender) readingMachine(machine string) { s.stock(func() { s.reading = machine }) }

func (s *sender) answer(r schemas.CommandResult) {
	s.update(func() {
		// Only the latest word on a command matters, and the number of commands is bounded.
		s.answers = slices.DeleteFunc(s.answers, func(o schemas.CommandResult) bool { return o.ID == r.ID })
		if len(s.answers) >= maxKnownResults {
			s.answers = s.answers[1:]
		}
		s.answers = append(s.answers, r)
	})
}

func (s *sender) recovery(machine string, r *schemas.Recovery, urgent bool) {
	s.mu.Lock()
	before := s.progress[machine]
	s.progress[machine] = &progress{r, urgent || (before != nil && before.urgent)}
	s.mu.Unlock()
	if urgent {
		s.poke()
	}
}

func (s *sender) near(g schemas.Gateway) { s.update(func() { s.gateway = &g }) }

// run sends until ctx ends.
func (s *sender) run(ctx context.Context) {
	var (
		resend   = time.NewTicker(s.pace.resend)
		calm     = time.NewTicker(s.pace.progress)
		sent     = sentBatches{}
		failures = 0
	)
	defer resend.Stop()
	defer calm.Stop()
	for {
		all := false
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-calm.C:
			all = true
		case <-resend.C:
			s.stock(func() { s.round++ })
		}
		err := s.flush(ctx, all, sent)
		if err == nil {
			failures = 0
			continue
		}
		if ctx.Err() != nil {
			return
		}
		failures++
		wait := backoff(s.pace.retryMin, s.pace.retryMax, failures)
		s.log.Warn("sending failed; it is tried again", "err", err, "in", wait)
		select {
		case <-ctx.Done():
			return
		case <-s.revive:
		case <-time.After(wait):
		}
		s.poke()
	}
}

// flush sends what waits, small things first. Progress of a recovery that goes on
// as before is sent only where all is set.
func (s *sender) flush(ctx context.Context, all bool, sent sentBatches) error {
	s.mu.Lock()
	up, ready, round, reading, dirty := s.up, s.ready, s.round, s.reading, s.dirty
	s.dirty = s.dirty && !up
	s.mu.Unlock()
	if !up {
		return nil
	}
	err := s.small(ctx, all)
	if err == nil && dirty {
		err = s.clearSlots(ctx)
		if err == nil && ready {
			err = s.batches(ctx, round, reading, sent)
		}
	}
	if err != nil {
		s.mu.Lock()
		s.dirty = s.dirty || dirty
		s.mu.Unlock()
	}
	return err
}

// small sends answers, who is near, and progress.
func (s *sender) small(ctx context.Context, all bool) error {
	s.mu.Lock()
	answers, gateway := slices.Clone(s.answers), s.gateway
	due := map[string]*progress{}
	for machine, p := range s.progress {
		if p.urgent || all {
			due[machine] = p
		}
	}
	s.mu.Unlock()
	for _, r := range answers {
		if err := s.message(ctx, topics.Address{Kind: topics.CommandResult, Vehicle: s.vehicle, Command: r.ID}, false, &r); err != nil {
			return err
		}
		s.mu.Lock()
		s.answers = slices.DeleteFunc(s.answers, func(o schemas.CommandResult) bool { return o.ID == r.ID && o.State == r.State })
		s.mu.Unlock()
	}
	if gateway != nil {
		if err := s.message(ctx, topics.Address{Kind: topics.Gateway, Vehicle: s.vehicle}, true, gateway); err != nil {
			return err
		}
		s.mu.Lock()
		if s.gateway == gateway {
			s.gateway = nil
		}
		s.mu.Unlock()
	}
	for machine, p := range due {
		var m schemas.Message
		if p.recovery != nil {
			m = p.recovery
		}
		if err := s.message(ctx, topics.Address{Kind: topics.Recovery, Vehicle: s.vehicle, Machine: machine}, true, m); err != nil {
			return err
		}
		s.mu.Lock()
		if s.progress[machine] == p {
			delete(s.progress, machine)
		}
		s.mu.Unlock()
	}
	return nil
}

// message publishes m, or clears the topic where m is nil. A message that breaks
// its own schema can never be sent; it is logged and left out.
func (s *sender) message(ctx context.Context, to topics.Address, retain bool, m schemas.Message) error {
	var payload []byte
	topic, err := s.tree.Build(to)
	if err == nil && m != nil {
		payload, err = schemas.Encode(m)
	}
	if err != nil {
		s.log.Error("a message cannot be sent", "topic", topic, "err", err)
		return nil
	}
	return s.publish(ctx, Message{Topic: topic, QoS: 1, Retain: retain, Payload: payload})
}

func (s *sender) publish(ctx context.Context, m Message) error {
	ctx, cancel := context.WithTimeout(ctx, s.pace.publish)
	defer cancel()
	if err := s.bus.Publish(ctx, m); err != nil {
		return fmt.Errorf("publish on %s: %w", m.Topic, err)
	}
	return nil
}

// clearSlots clears the slots of receipted batches at the broker.
func (s *sender) clearSlots(ctx context.Context) error {
	slots, err := s.box.SlotsToClear(ctx)
	if err != nil {
		return err
	}
	for _, id := range slots {
		topic, err := s.tree.Build(s.slot(id))
		if err != nil {
			return err
		}
		if err := s.publish(ctx, Message{Topic: topic, QoS: 1, Retain: true}); err != nil {
			return err
		}
		if err := s.box.SlotCleared(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

func (s *sender) slot(id outbox.BatchID) topics.Address {
	return topics.Address{
		Kind: topics.Transactions, Vehicle: s.vehicle, Machine: id.Machine,
		Batch: topics.BatchID{Epoch: id.Epoch, First: id.First, Last: id.Last},
	}
}

// sentBatches is what the sender remembers of the open batches.
type sentBatches map[outbox.BatchID]sentBatch

type sentBatch struct {
	round    int // in which it was last acknowledged by the broker
	failures int // since then
}

// batches seals what is stored and sends every open batch that was not sent in
// this round. One that the broker will not take does not hold up the others: it
// is tried after them.
func (s *sender) batches(ctx context.Context, round int, reading string, sent sentBatches) error {
	machines, err := s.box.Unsealed(ctx)
	if err != nil {
		return err
	}
	for _, machine := range machines {
		mode := outbox.Everything
		if machine == reading {
			mode = outbox.FullBatches
		}
		if _, err := s.box.Seal(ctx, machine, mode); err != nil {
			return err
		}
	}
	open, err := s.box.OpenBatches(ctx)
	if err != nil {
		return err
	}
	sent.keep(open)
	slices.SortStableFunc(open, func(a, b outbox.BatchID) int { return cmp.Compare(sent[a].failures, sent[b].failures) })
	var failed []error
	for _, id := range open {
		if sent[id].round == round {
			continue
		}
		err := s.batch(ctx, id)
		if err == nil {
			sent[id] = sentBatch{round: round}
			// Answers and progress do not wait for a long queue.
			if err := s.small(ctx, false); err != nil {
				return errors.Join(append(failed, err)...)
			}
			continue
		}
		sent[id] = sentBatch{failures: sent[id].failures + 1}
		if failed = append(failed, err); len(failed) == maxFailedBatches || ctx.Err() != nil {
			break
		}
	}
	return errors.Join(failed...)
}

// maxFailedBatches is how many batches may fail before the sender pauses: by then
// it is not the batch.
const maxFailedBatches = 3

// keep forgets the batches that are no longer open.
func (b sentBatches) keep(open []outbox.BatchID) {
	still := make(map[outbox.BatchID]bool, len(open))
	for _, id := range open {
		still[id] = true
	}
	for id := range b {
		if !still[id] {
			delete(b, id)
		}
	}
}

// batch sends one open batch to its slot.
func (s *sender) batch(ctx context.Context, id outbox.BatchID) error {
	b, err := s.box.Load(ctx, id)
	if errors.Is(err, outbox.ErrNotFound) {
		return nil // receipted meanwhile
	}
	if err != nil {
		return err
	}
	m := schemas.Batch{Machine: id.Machine, Vehicle: s.vehicle, Epoch: id.Epoch, First: id.First, Last: id.Last, AsOf: b.SealedAt}
	for _, r := range b.Records {
		m.Records = append(m.Records, r)
	}
	payload, err := schemas.EncodeBatch(&m)
	if err != nil {
		return fmt.Errorf("batch %v: %w", id, err)
	}
	topic, err := s.tree.Build(s.slot(id))
	if err != nil {
		return err
	}
	return s.publish(ctx, Message{Topic: topic, QoS: 1, Retain: true, Payload: payload})
}
