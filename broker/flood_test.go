package broker_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/farebeat/farebeat/broker"
)

// beatTap counts heartbeats by machine, and how long they took if they hold when they were sent.
type beatTap struct {
	mu    sync.Mutex
	n     map[string]int
	took  []time.Duration
	total atomic.Int64
}

func (b *beatTap) Heartbeat(machine string, payload []byte) {
	var took time.Duration
	if len(payload) == 8 {
		took = time.Since(time.Unix(0, int64(binary.BigEndian.Uint64(payload))))
	}
	b.mu.Lock()
	b.n[machine]++
	if took > 0 {
		b.took = append(b.took, took)
	}
	b.mu.Unlock()
	b.total.Add(1)
}
func (b *beatTap) SessionUp(string)           {}
func (b *beatTap) SessionDown(string, string) {}

// flooders are clients of the viewer, a gateway and the machine m0 that do what they can until ctx ends: publish without a pause,
// subscribe to everything and unsubscribe, connect again and again, read nothing.
func flooders(ctx context.Context, t testing.TB, w town) (wait func()) {
	t.Helper()
	var wg sync.WaitGroup
	loop := func(once func() error) {
		wg.Go(func() {
			for ctx.Err() == nil {
				if once() != nil {
					time.Sleep(time.Millisecond) // refused or disconnected: it comes again
				}
			}
		})
	}
	// with connects and hands the connection to use until that fails.
	with := func(user, id string, use func(r *raw) error) func() error {
		return func() error {
			c, err := net.Dial("tcp", w.Addr("tcp"))
			if err != nil {
				return err
			}
			defer c.Close()
			defer context.AfterFunc(ctx, func() { c.Close() })()
			r := &raw{t: t, net: c, version: 4}
			if err := r.tryStart(connect{id: id, user: user, password: w.secret}); err != nil {
				return err
			}
			return use(r)
		}
	}
	publish := func(p pub) func(*raw) error {
		return func(r *raw) error {
			go func() { _, _ = io.Copy(io.Discard, r.in) }()
			for {
				if err := r.publish(p); err != nil {
					return err
				}
			}
		}
	}
	payload := string(make([]byte, 100_000))
	for i := range 4 {
		loop(with("m0", fmt.Sprint("beats", i), publish(pub{topic: root + "machine/m0/heartbeat", payload: "{}"})))
		loop(with("v1", fmt.Sprint("batches", i), publish(pub{fmt.Sprint(root, "vehicle/v1/transactions/m/1-", i+1, "-200"), payload, 1, true})))
		loop(with("ann", fmt.Sprint("again", i), func(r *raw) error { return nil }))
		loop(with("ann", fmt.Sprint("nothing", i), func(r *raw) error {
			if err := r.trySubscribe(root + "#"); err != nil {
				return err
			}
			<-ctx.Done()
			return nil
		}))
		loop(with("ann", fmt.Sprint("filters", i), func(r *raw) error {
			go func() { _, _ = io.Copy(io.Discard, r.in) }()
			for {
				if err := r.trySubscribe(root + "#"); err != nil {
					return err
				}
				r.lastID++
				unsubscribe := packets.Packet{
					FixedHeader: packets.FixedHeader{Type: packets.Unsubscribe, Qos: 1}, PacketID: max(1, r.lastID), Filters: packets.Subscriptions{{Filter: root + "#"}},
				}
				if err := r.trySend(unsubscribe); err != nil {
					return err
				}
			}
		}))
	}
	return wg.Wait
}

// machines connects the machines from m1 on, and returns what sends a heartbeat of each, with the time in it.
func machines(t testing.TB, w town, n int) (beat func()) {
	t.Helper()
	list := make([]*raw, n)
	for i := range list {
		list[i] = w.in(t, fmt.Sprint("m", i+1), connect{id: "x"})
	}
	return func() {
		for i, r := range list {
			now := binary.BigEndian.AppendUint64(nil, uint64(time.Now().UnixNano()))
			if err := r.publish(pub{topic: fmt.Sprint(root, "machine/m", i+1, "/heartbeat"), payload: string(now)}); err != nil {
				t.Errorf("machine %d: %v", i+1, err)
			}
		}
	}
}

// Clients that flood cost other machines no heartbeat.
func TestAFloodCostsNobodyAHeartbeat(t *testing.T) {
	const n, rounds = 200, 20
	tap := &beatTap{n: map[string]int{}}
	// Low enough that a slow computer meets them, too.
	w := newTown(t, n+1, broker.Options{Tap: tap, Limits: broker.Limits{Messages: 100, ConnectionsPerUser: 20}})
	beat := machines(t, w, n)
	ctx, stop := context.WithCancel(t.Context())
	wait := flooders(ctx, t, w)
	until(t, "the flood is on", func() bool {
		l := w.Limited()
		return l["publish_rate"] > 0 && l["heartbeats"] > 0 && l["identity_connects"] > 0
	})
	for range rounds {
		before := w.Stats().RefusedConnect
		beat()
		until(t, "the flood goes on", func() bool { return w.Stats().RefusedConnect > before })
	}
	until(t, "every heartbeat is taken", func() bool {
		tap.mu.Lock()
		defer tap.mu.Unlock()
		for i := range n {
			if tap.n[fmt.Sprint("m", i+1)] < rounds {
				return false
			}
		}
		return true
	})
	stop()
	wait()
	t.Logf("limits met: %v", w.Limited())
}

// BenchmarkHeartbeatsInAFlood is how long the heartbeats of 200 machines take from the sender to the tap, with and without clients that flood. All are in
// this process: what the senders of the flood cost is in it.
func BenchmarkHeartbeatsInAFlood(b *testing.B) {
	most := broker.Limits{
		ConnectionsPerDevice: 1e6, ConnectionsPerUser: 1e6, Messages: 1e6, Bytes: 256 << 20, Heartbeats: 100_000, RetainedPerGateway: 1e7, SessionsPerIdentity: 1e6,
	}
	for name, limits := range map[string]broker.Limits{"quiet": {}, "flood": {}, "flood without limits": most} {
		b.Run(name, func(b *testing.B) {
			const n = 200
			tap := &beatTap{n: map[string]int{}}
			w := newTown(b, n+1, broker.Options{Tap: tap, Limits: limits})
			beat := machines(b, w, n)
			ctx, stop := context.WithCancel(b.Context())
			wait := func() {}
			if name != "quiet" {
				wait = flooders(ctx, b, w)
				until(b, "the flood is on", func() bool { return w.Stats().Published > 5_000 })
			}
			b.ResetTimer()
			for range b.N {
				beat()
				time.Sleep(100 * time.Millisecond) // as many as a machine may send
			}
			until(b, "every heartbeat is taken", func() bool {
				tap.mu.Lock()
				defer tap.mu.Unlock()
				return len(tap.took) == n*b.N
			})
			b.StopTimer()
			stop()
			wait()
			slices.Sort(tap.took)
			for name, q := range map[string]int{"p50": 50, "p99": 99, "max": 100} {
				b.ReportMetric(float64(tap.took[(len(tap.took)-1)*q/100].Microseconds()), name+"-us")
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}
