package access

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/farebeat/farebeat/fleet/limit"
)

// ErrTooMany says that somebody tries too often. It comes as a TooMany.
var ErrTooMany = errors.New("too many attempts to sign in")

// TooMany is ErrTooMany with the time after which the next attempt is looked at.
type TooMany struct{ After time.Duration }

// Error implements error.
func (e TooMany) Error() string {
	return fmt.Sprintf("%v; try again in %v", ErrTooMany, e.After.Round(time.Second)+time.Second)
}

// Unwrap is ErrTooMany.
func (TooMany) Unwrap() error { return ErrTooMany }

// ErrBusy says that more people sign in than the computer can check passwords of.
var ErrBusy = errors.New("too many people sign in at once; try again")

// How often somebody may try, right or wrong.
const (
	triesPerName      = 10 // at once, then one in
	nameEvery         = 30 * time.Second
	triesPerAddress   = 30 // at once, then one in
	addressEvery      = 3 * time.Second
	refusalsAtOnce    = 100 // that the audit lists, then one in
	refusalEvery      = 10 * time.Second
	maxWaiting        = 32   // people whose password waits to be checked
	maxLimited        = 4096 // names, or addresses, that are told apart
	sharedLimits      = 256
	maxKnown          = 4096 // names and addresses that belong together
	sweepLimitedEvery = time.Minute
)

// tries bounds what those who are not in can make us do. Its memory is bounded, whatever they try.
type tries struct {
	names, addresses *limit.Table
	listed           *rate.Limiter // refusals in the audit
	queue            chan struct{} // who waits or is checked
	slots            chan struct{} // who is checked

	mu     sync.Mutex
	known  map[known]bool
	unsaid int // refusals that the audit does not list
}

// known is a user and an address from which they signed in since we started: their own attempts are not counted together with those of others,
// so that nobody is kept out by a stranger who tries their name.
type known struct{ name, address string }

func newTries(atOnce int) tries {
	return tries{
		names: newLimits(triesPerName, nameEvery), addresses: newLimits(triesPerAddress, addressEvery),
		listed: rate.NewLimiter(rate.Every(refusalEvery), refusalsAtOnce),
		queue:  make(chan struct{}, maxWaiting+atOnce), slots: make(chan struct{}, atOnce), known: map[known]bool{},
	}
}

func newLimits(burst int, every time.Duration) *limit.Table {
	return limit.New(limit.Options{Every: every, Burst: burst, Keys: maxLimited, Shared: sharedLimits, Sweep: sweepLimitedEvery})
}

// allow says whether one more attempt is looked at: TooMany where not.
func (t *tries) allow(name, address string, now time.Time) error {
	if wait := t.addresses.Take(address, now); wait > 0 {
		return TooMany{wait}
	}
	t.mu.Lock()
	own := t.known[known{name, address}]
	t.mu.Unlock()
	if own {
		name += "\x00" + address
	}
	if wait := t.names.Take(name, now); wait > 0 {
		return TooMany{wait}
	}
	return nil
}

func (t *tries) remember(name, address string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.known) >= maxKnown {
		for k := range t.known {
			delete(t.known, k)
			break
		}
	}
	t.known[known{name, address}] = true
}

// check runs do when its turn comes: few at a time, for it takes a processor.
func (t *tries) check(ctx context.Context, do func() error) error {
	select {
	case t.queue <- struct{}{}:
	default:
		return ErrBusy
	}
	defer func() { <-t.queue }()
	select {
	case t.slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-t.slots }()
	return do()
}

// list says whether the audit lists one more refusal, and how many it left out before.
func (t *tries) list(now time.Time) (ok bool, unsaid int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.listed.AllowN(now, 1) {
		t.unsaid++
		return false, 0
	}
	unsaid, t.unsaid = t.unsaid, 0
	return true, unsaid
}

// leftOut is how many refusals the audit left out and has not told of. They count as told then.
func (t *tries) leftOut() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.unsaid
	t.unsaid = 0
	return n
}
