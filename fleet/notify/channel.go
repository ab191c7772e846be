package notify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/farebeat/farebeat/fleet/steps"
)

const (
	maxWait  = 5 * time.Minute // between two attempts, unless the receiver asks for more
	idlePoll = time.Minute     // a webhook looks at the store at least this often
	// writeTimeout is for how long an end waits for the disk.
	writeTimeout = 10 * time.Second
	warnAge      = time.Hour // between two lines in the log about one failure
)

// sender is what one kind of receiver needs.
type sender interface {
	// step delivers some of what is due. more: there may be more at once. After an error it is called again later.
	step(ctx context.Context) (more bool, err error)
	// idle is how long nothing is due unless something happens.
	idle() time.Duration
	// test sends a test.
	test(ctx context.Context) (Answer, error)
}

// cursor is what is durable of a channel.
type cursor struct {
	N      int64     `json:"n"`                // all events up to it are done with
	Gone   string    `json:"gone,omitempty"`   // the configuration that the receiver ended for ever
	GoneAt time.Time `json:"gone_at,omitzero"` // when it did
}

// channel is one receiver. Its goroutine owns cursor and saved.
type channel struct {
	kind, name string
	store      Store
	now        func() time.Time
	log        *slog.Logger
	sender     sender
	maxWait    time.Duration // between two attempts, unless the receiver asks for more
	worker     *steps.Worker

	cursor, saved cursor

	mu      sync.Mutex
	counted Status
	oldest  time.Time // of the event that is tried, zero for none
	since   time.Time // since when it fails, zero if it does not
	failure error
	warned  time.Time
}

func (c *channel) meta() string { return "notify." + c.kind + "." + c.name }

// recall reads the cursor. A channel without one begins behind the newest event.
func (c *channel) recall(ctx context.Context) error {
	value, err := c.store.Meta(ctx, c.meta())
	if err != nil {
		return err
	}
	if value != nil {
		if err := json.Unmarshal(value, &c.cursor); err != nil {
			return fmt.Errorf("the cursor %s in the store is not one: %w; give the channel another name to begin anew", c.meta(), err)
		}
		c.saved = c.cursor
		return nil
	}
	if c.cursor.N, err = c.store.LastEvent(ctx); err != nil {
		return err
	}
	return c.write(ctx)
}

// save writes the cursor if it moved.
func (c *channel) save(ctx context.Context) error {
	if c.cursor == c.saved {
		return nil
	}
	return c.write(ctx)
}

// write keeps the cursor on the disk. What was taken before the end of ctx must not be told again for want of that.
func (c *channel) write(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	value, err := json.Marshal(c.cursor)
	if err != nil {
		return err
	}
	if err := c.store.SetMeta(ctx, map[string][]byte{c.meta(): value}); err != nil {
		return err
	}
	c.saved = c.cursor
	return nil
}

// begin makes what runs the channel, for whoever gave it a sender.
func (c *channel) begin() {
	pause := *backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.Multiplier, pause.MaxInterval = time.Second, 2, c.maxWait
	c.worker = steps.New(steps.Work{Step: c.sender.step, Note: c.note, Wait: c.wait, Idle: c.sender.idle, Pause: pause})
}

// wait is how long to wait after err.
func (c *channel) wait(next time.Duration, err error) time.Duration {
	var e *sendError
	next = min(next, c.maxWait)
	if errors.As(err, &e) {
		next = max(next, e.retryAfter)
	}
	return next
}

// note takes down how a step ended.
func (c *channel) note(err error) {
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		if !c.since.IsZero() {
			c.log.Info("the receiver takes notifications again", "failed_for", now.Sub(c.since).Round(time.Second))
		}
		c.since, c.failure, c.warned = time.Time{}, nil, time.Time{}
		return
	}
	c.counted.Failed++
	c.failure = err
	if c.since.IsZero() {
		c.since = now
	}
	if c.warned.IsZero() || now.Sub(c.warned) >= warnAge {
		c.warned = now
		c.log.Warn("the receiver does not take notifications; they wait and are tried again", "since", c.since.UTC().Format(time.RFC3339), "error", err)
	}
}

// count changes the counters.
func (c *channel) count(change func(*Status)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.counted)
}

// trying notes the time of the oldest event that is to be told, zero for none.
func (c *channel) trying(at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.oldest = at
}

// gone says that the receiver ended for ever.
func (c *channel) gone(at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.since, c.failure = at, errGone
}

var errGone = errors.New("it answered 410 Gone; nothing is sent to it until its configuration changes")

func (c *channel) status() Status {
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.counted
	s.Kind, s.Name = c.kind, c.name
	if !c.oldest.IsZero() {
		s.Lag = max(0, now.Sub(c.oldest))
	}
	if c.failure != nil && now.Sub(c.since) > FailureAfter {
		s.Failure = fmt.Errorf("%s %s has taken no notification since %s: %w", c.kind, c.name, c.since.UTC().Format(time.RFC3339), c.failure)
	}
	return s
}
