package act

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/farebeat/farebeat/fleet/console/access"
	"github.com/farebeat/farebeat/fleet/ledger"
)

// ErrRuns says that the same work is under way already.
var ErrRuns = errors.New("it runs already")

// Proof is how far the newest verification of the ledger is, or what it found.
type Proof struct {
	By       string          `json:"by"`
	Begun    time.Time       `json:"begun"` // by the service's clock, as Ended is
	Ended    time.Time       `json:"ended,omitzero"`
	Machine  string          `json:"machine,omitempty"` // only its records; empty: all
	Progress ledger.Progress `json:"progress"`
	Found    *ledger.Proof   `json:"found,omitempty"`
	Problem  string          `json:"problem,omitempty"` // why there is no result
}

// Runs reports whether it is under way.
func (p Proof) Runs() bool { return !p.Begun.IsZero() && p.Ended.IsZero() }

// Percent is how far it is.
func (p Proof) Percent() int {
	if p.Progress.Total == 0 {
		return 0
	}
	return int(min(p.Progress.Records*100/p.Progress.Total, 100))
}

// prover verifies one at a time.
type prover struct {
	mu  sync.Mutex
	now Proof
}

// Proof gives the newest verification; zero where none was begun since the start.
func (a *Actions) Proof() Proof {
	a.prover.mu.Lock()
	defer a.prover.mu.Unlock()
	return a.prover.now
}

// Prove begins to prove the ledger anew from its records' bytes, all of it or one machine's, and returns at once. The work ends with Run.
// The error is ErrRuns while another is under way.
func (a *Actions) Prove(ctx context.Context, who Actor, machine string) error {
	subject := "ledger"
	if machine != "" {
		subject = "ledger of machine " + machine
	}
	return a.do(ctx, who, access.Operator, "verify", subject, "", func() error {
		a.prover.mu.Lock()
		defer a.prover.mu.Unlock()
		if a.prover.now.Runs() {
			return fmt.Errorf("%w: %s began it at %s; wait for its end", ErrRuns, a.prover.now.By, a.prover.now.Begun.Format(time.TimeOnly))
		}
		work, err := a.work()
		if err != nil {
			return err
		}
		a.prover.now = Proof{By: who.Name, Begun: a.o.Now(), Machine: machine}
		a.jobs.Go(func() { a.prove(work, machine) })
		return nil
	})
}

func (a *Actions) prove(ctx context.Context, machine string) {
	found, err := a.o.Ledger().Verify(ctx, ledger.Filter{Machine: machine}, func(p ledger.Progress) {
		a.prover.mu.Lock()
		defer a.prover.mu.Unlock()
		a.prover.now.Progress = p
	})
	a.prover.mu.Lock()
	defer a.prover.mu.Unlock()
	a.prover.now.Ended = a.o.Now()
	if err != nil {
		a.prover.now.Problem = err.Error()
		return
	}
	a.prover.now.Found = &found
}
