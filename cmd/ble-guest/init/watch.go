//go:build linux

package main

import (
	"context"
	"sync"
	"time"

	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
	"github.com/farebeat/farebeat/topics/session"
)

// progress is how far a machine's recovery was seen to be.
type progress struct {
	faulted   time.Time // when its vehicle was told of the fault
	contacted time.Time // when it was first read
	read      int       // records that the outbox or the ledger has
	readAt    time.Time // when read grew last
	receipted int       // records that the ledger has
	homeAt    time.Time // when receipted grew last
	last      schemas.Recovery
}

// watcher follows faults and recoveries at the broker, as a console does.
type watcher struct {
	mu       sync.Mutex
	machines map[string]*progress
}

// watch joins the broker until ctx ends.
func watch(ctx context.Context, password string) (*watcher, error) {
	tree, err := topics.New(operator)
	if err != nil {
		return nil, err
	}
	w := &watcher{machines: map[string]*progress{}}
	s, err := session.New(session.Options{
		ClientID: "watcher", Username: "watcher", Password: password, Servers: []string{"tcp://" + broker}, CleanSession: true,
		Backoff: session.Backoff{Min: 200 * time.Millisecond, Max: time.Second},
	})
	if err != nil {
		return nil, err
	}
	for kind, handle := range map[topics.Kind]func(*progress, []byte){topics.VehicleFault: faulted, topics.Recovery: (*progress).recovery} {
		filter, err := tree.Filter(topics.Address{Kind: kind})
		if err != nil {
			return nil, err
		}
		s.Handle(filter, 1, func(_ context.Context, d *session.Delivery) error {
			a, err := tree.Parse(d.Topic)
			if err != nil || len(d.Payload) == 0 {
				return nil //nolint:nilerr // what others write is not ours to mend
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			handle(w.of(a.Machine), d.Payload)
			return nil
		})
	}
	go func() { _ = s.Run(ctx) }() // it ends with ctx
	return w, until(ctx, time.Minute, "the broker takes connections", s.Connected)
}

// of is the progress of a machine. The lock is held.
func (w *watcher) of(machine string) *progress {
	p := w.machines[machine]
	if p == nil {
		p = &progress{}
		w.machines[machine] = p
	}
	return p
}

// machine is how far a machine's recovery is.
func (w *watcher) machine(id string) progress {
	w.mu.Lock()
	defer w.mu.Unlock()
	return *w.of(id)
}

func faulted(p *progress, _ []byte) {
	if p.faulted.IsZero() {
		p.faulted = time.Now()
	}
}

func (p *progress) recovery(payload []byte) {
	var r schemas.Recovery
	if err := schemas.Decode(payload, schemas.NameRecovery, &r); err != nil {
		return
	}
	now := time.Now()
	if r.Total > 0 && p.contacted.IsZero() {
		p.contacted = now
	}
	if int(r.Read) > p.read {
		p.read, p.readAt = int(r.Read), now
	}
	if int(r.Receipted) > p.receipted {
		p.receipted, p.homeAt = int(r.Receipted), now
	}
	p.last = r
}
