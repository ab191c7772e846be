package fleet_test

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/farebeat/farebeat/fleet"
	"github.com/farebeat/farebeat/fleet/expect"
	"github.com/farebeat/farebeat/fleet/rules"
	"github.com/farebeat/farebeat/schemas"
)

// crowd is an engine with machines spread over routes, all heard once, and the clock behind the
// warm-up.
type crowd struct {
	engine   *fleet.Engine
	now      time.Time
	names    []string
	routes   int
	seq      uint64
	payload  []byte
	payloads [][]byte
}

func newCrowd(b testing.TB, machines, routes int) *crowd {
	b.Helper()
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	rows := make([]expect.RouteHour, 0, routes*24)
	for r := range routes {
		for h := range 24 {
			rows = append(rows, expect.RouteHour{Route: fmt.Sprint("R", r), Hour: h, Vehicles: machines / routes})
		}
	}
	c := &crowd{now: now, routes: routes, engine: fleet.NewEngine(fleet.EngineConfig{
		Location: time.UTC, Interval: 15 * time.Second, Expect: expect.NewByHand(rows, time.UTC), Rules: rules.Default(time.UTC),
	}, now)}
	for i := range machines {
		c.names = append(c.names, fmt.Sprintf("%05d-1", i))
	}
	c.beat(b, len(c.names))
	return c
}

// beat has the first n machines send a heartbeat now.
func (c *crowd) beat(b testing.TB, n int) {
	b.Helper()
	c.seq++
	for i, name := range c.names[:n] {
		if err := c.engine.Heartbeat(c.now, name, c.heartbeat(i)); err != nil {
			b.Fatal(err)
		}
	}
}

func (c *crowd) heartbeat(i int) []byte {
	c.payload = schemas.AppendHeartbeat(c.payload[:0], &schemas.Heartbeat{
		Seq: c.seq, Boot: "b7", At: c.now, Vehicle: c.names[i][:5], Route: fmt.Sprint("R", i%c.routes), Trip: "T1", State: schemas.Running, Firmware: "2.4.1", Epoch: 3, LastSeq: 48211,
	})
	return c.payload
}

// BenchmarkHeartbeat is a payload's way into presence, with 100,000 machines known.
func BenchmarkHeartbeat(b *testing.B) {
	c := newCrowd(b, 100_000, 5_000)
	c.seq++
	for i := range c.names {
		c.payloads = append(c.payloads, append([]byte(nil), c.heartbeat(i)...))
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if err := c.engine.Heartbeat(c.now, c.names[i], c.payloads[i]); err != nil {
			b.Fatal(err)
		}
		i = (i + 1) % len(c.names)
	}
}

// BenchmarkRound is one tick with 5,000 routes: all heard, and some silent for five minutes, which have
// their faults. It also reports what a machine that is known takes, after a collection.
func BenchmarkRound(b *testing.B) {
	for _, size := range []struct{ machines, silent int }{{100_000, 0}, {100_000, 1_000}, {1_000_000, 0}, {1_000_000, 10_000}} {
		b.Run(fmt.Sprintf("%d machines, %d silent", size.machines, size.silent), func(b *testing.B) {
			c := newCrowd(b, size.machines, 5_000)
			for range 20 {
				c.now = c.now.Add(15 * time.Second)
				c.beat(b, len(c.names)-size.silent)
				c.engine.Round(c.now, nil)
			}
			with := heap()
			b.ReportAllocs()
			for b.Loop() {
				c.now = c.now.Add(time.Millisecond)
				c.engine.Round(c.now, nil)
			}
			c.engine = nil
			b.ReportMetric(float64(with-heap())/float64(size.machines), "bytes/machine")
		})
	}
}

// heap is the size of what is reachable, in bytes.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
