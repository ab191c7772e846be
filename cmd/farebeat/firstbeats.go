package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/farebeat/farebeat/topics/session"
)

// firstBeats tells whether a broker takes what a city sends. Heartbeats have QoS 0, and a broker drops those that a user
// may not send without a word; so the first of each connection goes out with QoS 1 until one is acknowledged, which the
// topic takes as well: a refused one has no acknowledgement, and ends the connection. Its methods are safe for
// concurrent use.
type firstBeats struct {
	taken   atomic.Uint64 // acknowledged
	refused atomic.Uint64 // sent, and the connection ended in place of an acknowledgement
	failed  atomic.Uint64 // neither: no connection, or no answer in time
	// giveUp is called when refusals are all that ever came; it may be called more than once.
	giveUp func(error)
}

// enoughRefusals is how many first heartbeats are refused, and none taken, before a city gives up: fewer may be a
// broker that was stopped.
const enoughRefusals = 3

// errNotTaken is how a city ends of which the broker takes nothing.
var errNotTaken = errors.New("the broker took no heartbeat")

// errOver is the cause with which a city's time is over.
var errOver = errors.New("the time of --for is over")

// sent counts one first heartbeat. ctx is what it was sent under.
func (f *firstBeats) sent(ctx context.Context, err error) {
	switch {
	case err == nil:
		f.taken.Add(1)
	case ctx.Err() == nil && errors.Is(err, session.ErrUnconfirmed):
		if f.refused.Add(1) >= enoughRefusals && f.taken.Load() == 0 {
			f.giveUp(errNotTaken)
		}
	default:
		f.missed(ctx)
	}
}

// unconnected counts a machine that did not get a connection within the time that the city gives it; attempts is how
// many were refused.
func (f *firstBeats) unconnected(ctx context.Context, attempts uint64) {
	if attempts > 0 {
		f.failed.Add(attempts)
		return
	}
	f.missed(ctx)
}

// missed counts what did not come to an end, unless the city's own end is the reason.
func (f *firstBeats) missed(ctx context.Context) {
	if cause := context.Cause(ctx); cause == nil || errors.Is(cause, context.DeadlineExceeded) {
		f.failed.Add(1)
	}
}

// verdict is an error if heartbeats or connections were tried and nothing was taken.
func (f *firstBeats) verdict(server, user string) error {
	refused, failed := f.refused.Load(), f.failed.Load()
	if f.taken.Load() > 0 || refused+failed == 0 {
		return nil
	}
	return fmt.Errorf("%w at %s: %d were refused, and %d times there was no connection or no answer; check client.server and the password, "+
		"that user %q has the role simulator, and that the broker admits it (broker.allow_simulator: true). The broker's log says what it refused",
		errNotTaken, server, refused, failed, user)
}
