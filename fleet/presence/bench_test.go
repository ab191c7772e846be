package presence

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/farebeat/farebeat/fleet/counts"
	"github.com/farebeat/farebeat/schemas"
)

// fill makes a fleet of machines over 5,000 routes, each heard once at noon.
func fill(machines int) (*Presence, *counts.Board, []string) {
	board := counts.New(counts.Config{Start: noon})
	p := New(Config{}, board)
	routes := make([]string, 5000)
	for i := range routes {
		routes[i] = fmt.Sprint("route-", i)
	}
	ids := make([]string, machines)
	for i := range ids {
		ids[i] = fmt.Sprintf("machine-%07d", i)
		p.Heartbeat(noon, ids[i], beatOf(1, noon, routes[i%len(routes)]))
	}
	p.Tick(noon)
	return p, board, ids
}

func beatOf(seq uint64, now time.Time, route string) *schemas.Heartbeat {
	return &schemas.Heartbeat{Seq: seq, Boot: "b7", At: now, Route: route, Trip: "t", State: schemas.Running, Currency: "CNY", Firmware: "2.4.1"}
}

func BenchmarkHeartbeat(b *testing.B) {
	p, _, ids := fill(100_000)
	hb := beatOf(1, noon, "")
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		m := i % len(ids)
		hb.Seq, hb.Route = uint64(i/len(ids)+2), "route-1"
		p.Heartbeat(noon.Add(time.Duration(i)*time.Microsecond), ids[m], hb)
	}
}

func BenchmarkHeartbeatParallel(b *testing.B) {
	p, _, ids := fill(100_000)
	var worker atomic.Int64
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		hb := beatOf(1, noon, "route-1")
		at := int(worker.Add(1)) * 37_813
		for n := uint64(2); pb.Next(); n++ {
			at = (at + 1) % len(ids)
			hb.Seq = n
			p.Heartbeat(noon.Add(time.Duration(n)*time.Microsecond), ids[at], hb)
		}
	})
}

// BenchmarkTick is one second of a fleet that sends every 15 s, without the heartbeats
// themselves: deadlines, and once in 60 the minute of 5,000 routes.
func BenchmarkTick(b *testing.B) {
	for _, machines := range []int{100_000, 1_000_000} {
		b.Run(fmt.Sprint(machines), func(b *testing.B) {
			p, board, ids := fill(machines)
			hb := beatOf(2, noon, "")
			now := noon
			b.ReportAllocs()
			b.ResetTimer()
			for n := range b.N {
				now = now.Add(time.Second)
				b.StopTimer()
				for i := n % 15; i < len(ids); i += 15 {
					v := p.shardOf(ids[i]).machines[ids[i]]
					hb.Seq, hb.Route = v.seq+1, v.route
					p.Heartbeat(now, ids[i], hb)
				}
				b.StartTimer()
				p.Tick(now)
				if n%60 == 59 {
					board.Minute(now)
				}
			}
		})
	}
}

func BenchmarkEachAndMinute(b *testing.B) {
	p, board, _ := fill(100_000)
	now := noon
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		now = now.Add(time.Second)
		p.Tick(now)
		p.Each(func(v View) { n += len(v.Machine) })
		board.Minute(now)
	}
}

// BenchmarkMemory reports the bytes that one of a million machines takes.
func BenchmarkMemory(b *testing.B) {
	const machines = 1_000_000
	for b.Loop() {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		p, _, ids := fill(machines)
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/machines, "bytes/machine")
		runtime.KeepAlive(p)
		runtime.KeepAlive(ids)
	}
}

// BenchmarkDecodeAndHeartbeat is the hot path after the socket: bytes to presence.
func BenchmarkDecodeAndHeartbeat(b *testing.B) {
	p, _, ids := fill(100_000)
	const cycle = 64
	payloads := make([][]byte, cycle)
	for i := range payloads {
		hb := beatOf(uint64(i+2), noon, "route-1")
		hb.Vehicle, hb.Pending, hb.LastSeq, hb.Epoch = "01216", 17, 48211, 3
		payloads[i] = schemas.AppendHeartbeat(nil, hb)
	}
	d := schemas.NewHeartbeatDecoder()
	var hb schemas.Heartbeat
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		// Machines take turns at 64 heartbeats each, so that all are newer than the last.
		if err := d.Decode(payloads[i%cycle], &hb); err != nil {
			b.Fatal(err)
		}
		p.Heartbeat(noon.Add(time.Duration(i)*time.Microsecond), ids[i/cycle%len(ids)], &hb)
	}
}
