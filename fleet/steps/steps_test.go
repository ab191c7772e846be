package steps

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// More is done at once; a failure is followed by a growing pause that nobody shortens, which begins anew after a success; idleness ends when somebody
// pokes.
func TestWorkerPauses(t *testing.T) {
	failure := errors.New("no")
	type end struct {
		more bool
		err  error
	}
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		ends := []end{{true, nil}, {false, failure}, {false, failure}, {false, nil}, {false, failure}, {false, nil}, {false, nil}}
		var at []time.Duration
		var noted []error
		ctx, cancel := context.WithCancel(t.Context())
		pause := *backoff.NewExponentialBackOff()
		pause.InitialInterval, pause.Multiplier, pause.RandomizationFactor, pause.MaxInterval = time.Second, 2, 0, time.Minute
		w := New(Work{
			Step: func(context.Context) (bool, error) {
				at = append(at, time.Since(begin))
				e := ends[0]
				if ends = ends[1:]; len(ends) == 0 {
					cancel()
				}
				return e.more, e.err
			},
			Note:  func(err error) { noted = append(noted, err) },
			Wait:  func(next time.Duration, _ error) time.Duration { return next },
			Idle:  func() time.Duration { return time.Hour },
			Pause: pause,
		})
		ended := make(chan struct{})
		go func() { w.Run(ctx); close(ended) }()
		time.Sleep(time.Minute)
		w.Poke()
		w.Poke() // said twice before it was heard is said once
		<-ended
		// 0 s: more, failed; 1 s: failed; 3 s: done, idle; 1 min: poked, failed; 1 s later: done; an hour later the last.
		want := []time.Duration{0, 0, time.Second, 3 * time.Second, time.Minute, time.Minute + time.Second}
		if len(at) != 7 || !slices.Equal(at[:6], want) || len(noted) != 6 {
			t.Errorf("steps at %v, %d noted; want %v, and one more, of which nobody hears", at, len(noted), want)
		}
	})
}
