package city_test

import (
	"context"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/farebeat/farebeat/edge/machine/city"
)

// 100,000 machines that come on within a minute: none is left out, and none costs
// a goroutine.
func TestAHundredThousandMachines(t *testing.T) {
	const n = crowd
	var beats, most atomic.Int64
	up := quick(func() {
		if beats.Add(1)%10_000 == 0 {
			most.Store(max(most.Load(), int64(runtime.NumGoroutine())))
		}
	})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	c, _ := newCity(t, "06:00:00", 40, func(o *city.Options) {
		for i := range n {
			v := fmt.Sprint(i)
			o.Duties = append(o.Duties, city.Duty{Vehicle: v, Route: v[:1], From: at("06:00:00").Add(time.Duration(i%600) * 100 * time.Millisecond), To: at("06:01:05")})
		}
		o.Radio = nil
		o.Connect = func(context.Context, string) (city.Uplink, error) { return up, nil }
	})
	runtime.GC()
	runtime.ReadMemStats(&after)
	if err := c.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := c.Stats()
	if s.Machines != n || s.On != 0 || s.Heartbeats+s.Skipped < 3*n {
		t.Errorf("%+v", s)
	}
	if most.Load() > 100 {
		t.Errorf("%d goroutines", most.Load())
	}
	if per := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) / n; per > 2000 {
		t.Errorf("%d bytes a machine that waits", per)
	} else {
		t.Logf("%d bytes a machine; %d heartbeats, %d skipped", per, s.Heartbeats, s.Skipped)
	}
}
