// Package act carries out what people order in the console and through the HTTP API. Each order is refused to whoever may not give it, and
// each, done or refused, stands in the audit log before anything is answered.
//
// Orders about faults go the way of those of the command line: a file in the service's folder, which the next round takes. What is asked of
// a gateway goes over MQTT, as an operator's.
package act

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/farebeat/farebeat/fleet"
	"github.com/farebeat/farebeat/fleet/console/access"
	"github.com/farebeat/farebeat/fleet/console/audit"
	"github.com/farebeat/farebeat/fleet/console/draft"
	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/ledger"
	"github.com/farebeat/farebeat/fleet/orders"
	"github.com/farebeat/farebeat/topics"
	"github.com/farebeat/farebeat/topics/session"
)

// Errors to branch on.
var (
	// ErrForbidden says that whoever ordered it may not.
	ErrForbidden = errors.New("not allowed")
	// ErrUsage says that the order is none; the error that wraps it says what is wrong with it.
	ErrUsage = errors.New("not understood")
	// ErrNotFound says that what the order is about does not exist.
	ErrNotFound = errors.New("not found")
	// ErrConflict says that it cannot be done as things stand; the error that wraps it says why.
	ErrConflict = errors.New("not as things stand")
	// ErrWaits says that the order is on disk and was not followed yet; it will be.
	ErrWaits = errors.New("noted, and not done yet")
)

// Actor is who orders, and from where.
type Actor struct {
	access.Identity
	Remote string // address of the client
}

// Options say what Actions act on. All but Rules and Logger are required.
type Options struct {
	Orders  string // the service's folder for orders
	Store   faults.Store
	Ledger  func() *ledger.Ledger // asked once Run began
	Audit   audit.Log
	Rules   *draft.Desk // where the rules are changed; nil: nowhere
	Tree    topics.Tree
	Session session.Options // how to reach the broker as an operator
	Now     func() time.Time
	// Patience is for how long, by Now, a gateway may take before a command is void.
	Patience time.Duration
	Logger   *slog.Logger
}

// Actions carries orders out. It is safe for concurrent use.
type Actions struct {
	o        Options
	session  *session.Session
	commands commands
	prover   prover

	mu      sync.Mutex
	running context.Context // of Run; nil before
	jobs    sync.WaitGroup
}

// New makes Actions. Run keeps its connection.
func New(o Options) (*Actions, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	a := &Actions{o: o}
	so := o.Session
	so.CleanSession = true
	var err error
	if a.session, err = session.New(so); err != nil {
		return nil, fmt.Errorf("console: %w", err)
	}
	filter, err := o.Tree.Filter(topics.Address{Kind: topics.CommandResult})
	if err != nil {
		return nil, fmt.Errorf("console: %w", err)
	}
	a.session.Handle(filter, 1, a.onResult)
	return a, nil
}

// Run keeps the connection with the broker until ctx ends, and waits for what goes on in the background.
func (a *Actions) Run(ctx context.Context) error {
	a.mu.Lock()
	a.running = ctx
	a.mu.Unlock()
	defer a.jobs.Wait()
	return a.session.Run(ctx)
}

// work is the context of what goes on in the background.
func (a *Actions) work() (context.Context, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.running == nil || a.running.Err() != nil {
		return nil, errors.New("the service is starting or ending; try again")
	}
	return a.running, nil
}

// do audits an order, whatever becomes of it. An order that cannot be audited is not followed.
func (a *Actions) do(ctx context.Context, who Actor, need access.Role, action, subject, detail string, follow func() error) error {
	e := audit.Entry{
		At: a.o.Now(), By: who.Name, Role: string(who.Role), Via: who.Via, Action: action, Subject: subject, Detail: detail, Remote: who.Remote,
	}
	if !who.Role.Covers(need) {
		e.Outcome = audit.Refused
		err := fmt.Errorf("%s: %w: it needs the role %s, %s has the role %s", action, ErrForbidden, need, who.Name, who.Role)
		return errors.Join(err, a.o.Audit.Append(ctx, e))
	}
	// It stands there before it is done: what was done without a trace cannot be found again.
	e.Outcome = audit.Asked
	if err := a.o.Audit.Append(ctx, e); err != nil {
		return fmt.Errorf("%s: it could not be written into the audit log, so it was not done: %w", action, err)
	}
	err := follow()
	e.Outcome = audit.Done
	switch {
	case errors.Is(err, ErrWaits):
		e.Outcome = audit.Waits
	case err != nil:
		e.Outcome, e.Detail = audit.Failed, detail+": "+err.Error()
	}
	e.At = a.o.Now()
	// The order was followed or not whatever becomes of the one who waits for the answer.
	if told := a.o.Audit.Append(context.WithoutCancel(ctx), e); told != nil {
		err = errors.Join(err, fmt.Errorf("%s: the outcome could not be written into the audit log: %w", action, told))
	}
	return err
}

// takenWithin is how long is waited for the service to take an order.
const takenWithin = 8 * time.Second

// Attend orders something about a fault: o.Fault, o.Verb, o.Until and o.Note are the caller's.
func (a *Actions) Attend(ctx context.Context, who Actor, o faults.Order) error {
	o.ID, o.At, o.By = rand.Text(), a.o.Now().UTC().Truncate(time.Millisecond), who.Name
	detail := o.Note
	if !o.Until.IsZero() {
		detail = "until " + o.Until.UTC().Format(time.RFC3339) + ": " + detail
	}
	return a.do(ctx, who, access.Operator, string(o.Verb), "fault "+o.Fault, detail, func() error {
		if err := o.Validate(); err != nil {
			return fmt.Errorf("%w: %w", ErrUsage, err)
		}
		f, _, err := a.o.Store.Get(ctx, o.Fault)
		switch {
		case errors.Is(err, faults.ErrNotFound):
			return fmt.Errorf("fault %s: %w", o.Fault, ErrNotFound)
		case err != nil:
			return err
		case f.Ended() && o.Verb != faults.VerbAcknowledge && o.Verb != faults.VerbNote:
			return fmt.Errorf("%w: fault %s ended at %s", ErrUsage, o.Fault, f.ClosedAt.UTC().Format(time.RFC3339))
		}
		path, err := orders.Leave(fleet.FaultOrders(a.o.Orders), o)
		if err != nil {
			return err
		}
		return taken(ctx, path)
	})
}

// taken waits until the service took an order.
func taken(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, takenWithin)
	defer cancel()
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for {
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			if _, err := os.Stat(orders.Refused(path)); err == nil {
				return fmt.Errorf("%w: the service refused it, see its log", ErrUsage)
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: the service has not followed it within %s; it will with one of its next rounds", ErrWaits, takenWithin)
		case <-poll.C:
		}
	}
}

// Note writes something that was done elsewhere into the audit log, such as an export, and refuses it to whoever may not.
func (a *Actions) Note(ctx context.Context, who Actor, need access.Role, action, subject, detail string) error {
	return a.do(ctx, who, need, action, subject, detail, func() error { return nil })
}
