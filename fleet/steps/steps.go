// Package steps runs work that comes in steps for as long as its service lives, such as telling a receiver or shipping to a store: the next step at once
// while there is more, after a growing pause where one failed, and else when somebody says that there is something to do, or an idle time is over.
package steps

import (
	"context"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// Work is what a Worker does. Its functions are called by Run's goroutine only.
type Work struct {
	// Step does some of what is to be done. more: there may be more at once.
	Step func(ctx context.Context) (more bool, err error)
	// Note is told how each step ended, but for one that ctx cut short.
	Note func(err error)
	// Wait says how long to pause after a step that failed. next is what the growing pause comes to.
	Wait func(next time.Duration, err error) time.Duration
	// Idle says how long nothing is to be done unless somebody pokes.
	Idle func() time.Duration
	// Pause grows from one failure to the next, and begins anew after a success.
	Pause backoff.ExponentialBackOff
}

// Worker runs one Work.
type Worker struct {
	work Work
	wake chan struct{}
}

// New makes a worker; Run starts it.
func New(w Work) *Worker { return &Worker{work: w, wake: make(chan struct{}, 1)} }

// Poke says that there is something to do. It does not wait, and does not shorten the pause after a failure. It is safe for concurrent use.
func (w *Worker) Poke() {
	select {
	case w.wake <- struct{}{}:
	default: // it was said already
	}
}

// Run takes steps until ctx ends.
func (w *Worker) Run(ctx context.Context) {
	pause := w.work.Pause
	pause.Reset()
	for ctx.Err() == nil {
		more, err := w.work.Step(ctx)
		if ctx.Err() != nil {
			return
		}
		w.work.Note(err)
		if err != nil {
			sleep(ctx, w.work.Wait(pause.NextBackOff(), err), nil)
			continue
		}
		pause.Reset()
		if !more {
			sleep(ctx, w.work.Idle(), w.wake)
		}
	}
}

// sleep waits for d, wake or the end of ctx.
func sleep(ctx context.Context, d time.Duration, wake <-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-wake:
	case <-t.C:
	}
}
