package city

import (
	"sync"
	"time"
)

// Clock is simulated time: it stands still at start until Begin, and then runs
// speed times as fast as the real clock. It is safe for concurrent use.
type Clock struct {
	start time.Time
	speed float64
	wall  func() time.Time

	mu    sync.Mutex
	begun time.Time // zero before Begin
}

// NewClock makes a clock. Wall is the clock it follows, usually time.Now; speed
// is at least 0.001, smaller and nonsense values count as 1.
func NewClock(start time.Time, speed float64, wall func() time.Time) *Clock {
	if !(speed >= 0.001) {
		speed = 1
	}
	return &Clock{start: start, speed: speed, wall: wall}
}

// Begin lets time run. A clock that runs goes on.
func (c *Clock) Begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.begun.IsZero() {
		c.begun = c.wall()
	}
}

// Now is the simulated time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.begun.IsZero() {
		return c.start
	}
	return c.start.Add(time.Duration(float64(c.wall().Sub(c.begun)) * c.speed))
}

// Start is where the clock began.
func (c *Clock) Start() time.Time { return c.start }

// Speed is how many simulated seconds pass in a real one.
func (c *Clock) Speed() float64 { return c.speed }

// Real is how long a simulated time takes: what a timer is to be set to.
func (c *Clock) Real(simulated time.Duration) time.Duration {
	return time.Duration(float64(simulated) / c.speed)
}
