package edge

import (
	"sync/atomic"
	"testing"
	"time"
)

// A watchdog that is fed by Turned sees a loop that hangs, and one that goes on again.
func TestTurnedTellsOnlyOfALoopThatTurns(t *testing.T) {
	var turns atomic.Int64
	var hang atomic.Pointer[chan struct{}]
	tune := func(o *Options) {
		o.Turned = func() { turns.Add(1) }
		o.Now = func() time.Time {
			if c := hang.Load(); c != nil {
				<-*c
			}
			return time.Now()
		}
	}
	drive(t, tune, func(r *rig) {
		before := turns.Load()
		after(time.Minute)
		if n := turns.Load() - before; n < 59 || n > 61 {
			t.Errorf("%d turns in 60 s", n)
		}
		c := make(chan struct{})
		hang.Store(&c)
		before = turns.Load()
		after(time.Hour)
		if n := turns.Load() - before; n != 0 {
			t.Errorf("a loop that hangs turned %d times", n)
		}
		hang.Store(nil)
		close(c)
		after(time.Minute)
		if n := turns.Load() - before; n < 59 {
			t.Errorf("%d turns after it went on", n)
		}
	})
}
