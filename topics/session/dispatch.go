package session

import (
	"context"
	"errors"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// Delivery is a message that was received. It and its payload belong to the handlers it is given to;
// with several, none may change it.
type Delivery struct {
	Message
	Retained  bool // the state that a newcomer is told, not news; equals Message.Retain
	Duplicate bool // the broker sent it before, perhaps
}

// Handler takes one message. See the package comment for what its error means. ctx ends with the
// connection that the message came by; a handler must then return soon, because the session does not connect
// again before.
type Handler func(ctx context.Context, d *Delivery) error

type route struct {
	filter  string
	qos     byte
	handler Handler
	workers int
}

// job is one delivery on its way through its handlers.
type job struct {
	delivery *Delivery
	left     atomic.Int32 // handlers that have not yet returned nil
	ack      func()
}

// dispatcher queues the deliveries of one connection and runs the handlers.
type dispatcher struct {
	s      *Session
	gone   <-chan struct{} // the connection is closed
	routes []*route
	queues [][]*queue // by route, by worker
	seed   maphash.Seed

	mu       sync.Mutex
	waiting  int
	bytes    int
	awaiting int           // acknowledgements that someone waits for, and that are behind what we do not read
	change   chan struct{} // one token: look again
}

func newDispatcher(s *Session, gone <-chan struct{}) *dispatcher {
	d := &dispatcher{s: s, gone: gone, routes: s.routes, seed: maphash.MakeSeed(), change: make(chan struct{}, 1)}
	for _, r := range s.routes {
		qs := make([]*queue, r.workers)
		for i := range qs {
			qs[i] = &queue{wake: make(chan struct{}, 1)}
		}
		d.queues = append(d.queues, qs)
	}
	return d
}

// run starts the workers; the wait group ends with them, soon after ctx.
func (d *dispatcher) run(ctx context.Context) *sync.WaitGroup {
	wg := new(sync.WaitGroup)
	for i, qs := range d.queues {
		for _, q := range qs {
			wg.Go(func() {
				for {
					j := q.pop(ctx)
					if j == nil {
						return
					}
					d.handle(ctx, d.routes[i], j)
				}
			})
		}
	}
	return wg
}

// accept queues a delivery for its handlers. It is called by paho's one router goroutine and blocks it, and with it the
// reading of the network, while there is no room.
func (d *dispatcher) accept(delivery *Delivery, ack func()) {
	j := &job{delivery: delivery, ack: ack}
	var to []*queue
	for i, r := range d.routes {
		if matches(r.filter, delivery.Topic) {
			n := 0
			if r.workers > 1 {
				n = int(maphash.String(d.seed, delivery.Topic) % uint64(r.workers))
			}
			to = append(to, d.queues[i][n])
		}
	}
	d.s.stats.received.Add(1)
	if len(to) == 0 { // left over from an earlier subscription of a kept session
		d.s.stats.unrouted.Add(1)
		ack()
		return
	}
	if !d.take(len(delivery.Payload)) {
		return // the connection is gone: the broker sends it again
	}
	j.left.Store(int32(len(to)))
	for _, q := range to {
		q.push(j)
	}
}

func (d *dispatcher) take(size int) bool {
	for {
		d.mu.Lock()
		room := d.waiting < d.s.o.MaxWaiting && d.bytes+size <= d.s.o.MaxWaitingBytes
		if room || d.waiting == 0 || d.awaiting > 0 {
			d.waiting++
			d.bytes += size
			d.mu.Unlock()
			return true
		}
		d.mu.Unlock()
		select {
		case <-d.change:
		case <-d.gone:
			return false
		}
	}
}

// await says that an acknowledgement is awaited, until the returned function is called. Reading must not
// stop meanwhile: a handler that waits for its acknowledgement would wait for itself.
func (d *dispatcher) await() func() {
	d.update(func() { d.awaiting++ })
	return func() { d.update(func() { d.awaiting-- }) }
}

func (d *dispatcher) update(f func()) {
	d.mu.Lock()
	f()
	d.mu.Unlock()
	select {
	case d.change <- struct{}{}:
	default:
	}
}

// handle calls a handler until it succeeds; QoS 0 has one chance.
func (d *dispatcher) handle(ctx context.Context, r *route, j *job) {
	pause := newBackoff(d.s.o.HandlerRetry)
	for {
		err := r.handler(ctx, j.delivery)
		if err == nil || j.delivery.QoS == 0 {
			d.s.stats.handled.Add(1)
		}
		if err != nil && !(ctx.Err() != nil && errors.Is(err, ctx.Err())) {
			d.s.stats.failed.Add(1)
			d.s.o.Logger.Warn("message not handled", "filter", r.filter, "topic", j.delivery.Topic, "qos", j.delivery.QoS, "error", err)
		}
		if err == nil || j.delivery.QoS == 0 {
			break
		}
		if !sleep(ctx, pause.NextBackOff()) {
			return // not acknowledged: the broker sends it again
		}
	}
	if j.left.Add(-1) == 0 {
		j.ack()
		d.update(func() { d.waiting--; d.bytes -= len(j.delivery.Payload) })
	}
}

func newBackoff(b Backoff) *backoff.ExponentialBackOff {
	e := backoff.NewExponentialBackOff()
	e.InitialInterval, e.MaxInterval, e.Multiplier = b.Min, b.Max, 2
	return e
}

// sleep reports whether the whole pause passed before ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// queue is an unbounded queue of one reader; the dispatcher bounds the whole.
type queue struct {
	mu   sync.Mutex
	jobs []*job
	wake chan struct{}
}

func (q *queue) push(j *job) {
	q.mu.Lock()
	q.jobs = append(q.jobs, j)
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// pop waits for a job; nil when ctx has ended.
func (q *queue) pop(ctx context.Context) *job {
	for {
		if ctx.Err() != nil {
			return nil
		}
		q.mu.Lock()
		if len(q.jobs) > 0 {
			j := q.jobs[0]
			q.jobs[0] = nil
			q.jobs = q.jobs[1:]
			q.mu.Unlock()
			return j
		}
		q.jobs = nil
		q.mu.Unlock()
		select {
		case <-q.wake:
		case <-ctx.Done():
			return nil
		}
	}
}
