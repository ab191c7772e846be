package notify

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/farebeat/farebeat/fleet/dispatch"
	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/store"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
)

// Store is what is needed of the fleet's store; *store.Store is one.
type Store interface {
	Events(ctx context.Context, after int64, limit int) ([]store.NumberedEvent, error)
	EventsOf(ctx context.Context, fault string) ([]store.NumberedEvent, error)
	LastEvent(ctx context.Context) (int64, error)
	Meta(ctx context.Context, name string) ([]byte, error)
	SetMeta(ctx context.Context, values map[string][]byte) error
	Faults() faults.Store
}

// Webhook is one receiver of events.
type Webhook struct {
	Name    string // the cursor is kept under it
	URL     string
	Secrets []Secret // each request is signed with all of them; at least one
	// A zero filter lets all events pass. After one of a fault's events passed, all later ones do: who hears of a fault
	// hears of its end.
	MinSeverity schemas.Severity
	Kinds       []faults.Kind
	Routes      []string // of the fault, or of its machine at the time
}

// Alertmanager is one instance; of a cluster each is given.
type Alertmanager struct {
	Name          string // the cursor is kept under it
	URL           string // without /api/v2
	Authorization string // value of the header; empty for none
}

// Options say whom to tell, and how. Store, Tree and Now are required.
type Options struct {
	Store         Store // the caller closes it after Run
	Tree          topics.Tree
	Webhooks      []Webhook
	Alertmanagers []Alertmanager
	// Resend is how often an Alertmanager is sent all faults that stand; three times that after we are gone it takes them
	// for resolved. 0: DefaultResend.
	Resend time.Duration
	// MaxAge is how old an event may be and still be sent to a webhook; 0: DefaultMaxAge.
	MaxAge time.Duration
	// RefusedFor is how old an event must be to be set aside when a receiver refuses it; 0: DefaultRefusedFor.
	RefusedFor time.Duration
	Transport  http.RoundTripper // nil: one of its own over the network
	Now        func() time.Time
	Logger     *slog.Logger // nil: none
}

// The defaults of Options.
const (
	DefaultResend     = time.Minute
	DefaultMaxAge     = 7 * 24 * time.Hour
	DefaultRefusedFor = 24 * time.Hour
)

// Notifier is all channels. Its methods are safe for concurrent use.
type Notifier struct {
	o        Options
	channels []*channel
}

// New makes the channels and notes for one that is new that it begins now: call it before anything is saved that is to
// be told. Run starts them.
func New(ctx context.Context, o Options) (*Notifier, error) {
	n, err := build(o)
	if err != nil {
		return nil, err
	}
	for _, c := range n.channels {
		if err := c.recall(ctx); err != nil {
			return nil, fmt.Errorf("notify: %w", err)
		}
	}
	return n, nil
}

// build makes the channels; they do not know yet how far they have come.
func build(o Options) (*Notifier, error) {
	o.Resend, o.MaxAge, o.RefusedFor = cmp.Or(o.Resend, DefaultResend), cmp.Or(o.MaxAge, DefaultMaxAge), cmp.Or(o.RefusedFor, DefaultRefusedFor)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Transport == nil {
		o.Transport = &http.Transport{
			Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, TLSHandshakeTimeout: 10 * time.Second, IdleConnTimeout: 90 * time.Second,
		}
	}
	n := &Notifier{o: o}
	for _, w := range o.Webhooks {
		if len(w.Secrets) == 0 {
			return nil, fmt.Errorf("notify: webhook %s has no secret", w.Name)
		}
		c := n.channel("webhook", w.Name)
		c.maxWait = maxWait
		c.sender = &webhook{Webhook: w, o: &n.o, c: c, post: newPoster(o.Transport, o.Now), events: dispatch.New(o.Tree, dispatch.Config{})}
	}
	for _, a := range o.Alertmanagers {
		c := n.channel("alertmanager", a.Name)
		// What is sent later than this would have ended there meanwhile.
		c.maxWait = o.Resend
		c.sender = &alertmanager{Alertmanager: a, o: &n.o, c: c, post: newPoster(o.Transport, o.Now), origins: map[string]origin{}}
	}
	for _, c := range n.channels {
		c.begin()
	}
	return n, nil
}

func (n *Notifier) channel(kind, name string) *channel {
	c := &channel{kind: kind, name: name, store: n.o.Store, now: n.o.Now, log: n.o.Logger.With("channel", kind+" "+name)}
	n.channels = append(n.channels, c)
	return c
}

// Run tells until ctx ends.
func (n *Notifier) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for _, c := range n.channels {
		wg.Go(func() { c.worker.Run(ctx) })
	}
	wg.Wait()
	if t, ok := n.o.Transport.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
	return nil
}

// Poke says that faults were saved. It does not wait.
func (n *Notifier) Poke() {
	for _, c := range n.channels {
		c.worker.Poke()
	}
}

// Status is what a channel has done since the start.
type Status struct {
	Kind     string // webhook or alertmanager
	Name     string
	Sent     uint64 // events or alerts that the receiver took
	Failed   uint64 // requests that it did not take
	Skipped  uint64 // events that were too old to be sent
	SetAside uint64 // events that the receiver refused for too long
	// Lag is the age of the oldest event that is still to be told, 0 where there is none.
	Lag time.Duration
	// Failure is non-nil once the channel has failed for longer than FailureAfter.
	Failure error
}

// FailureAfter is for how long a channel fails before it counts as a fault.
const FailureAfter = 15 * time.Minute

// Status lists the channels as they are configured.
func (n *Notifier) Status() []Status {
	out := make([]Status, len(n.channels))
	for i, c := range n.channels {
		out[i] = c.status()
	}
	return out
}

// Failure joins what keeps channels from telling for longer than FailureAfter; nil where nothing does.
func (n *Notifier) Failure() error {
	var errs []error
	for _, s := range n.Status() {
		errs = append(errs, s.Failure)
	}
	return errors.Join(errs...)
}

// ErrUnknown is returned by Test for a name that no channel has.
var ErrUnknown = errors.New("no such channel")

// Test sends something that says that it is a test to the channel of this name, and returns what it answered. It needs
// no Store, and no cursor moves.
func Test(ctx context.Context, o Options, name string) (Answer, error) {
	n, err := build(o)
	if err != nil {
		return Answer{}, err
	}
	for _, c := range n.channels {
		if c.name == name {
			return c.sender.test(ctx)
		}
	}
	return Answer{}, fmt.Errorf("%w: %q", ErrUnknown, name)
}
