package broker_test

import (
	"fmt"
	"path/filepath"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/farebeat/farebeat/broker"
	"github.com/farebeat/farebeat/broker/store"
)

// A newcomer with one wildcard over 100,000 retained messages gets every one, whether it reads at once, slowly, or
// nothing for long; what waits for the slow ones is bounded, and they delay nobody.
func TestNewcomersOverManyRetained(t *testing.T) {
	n := 100_000
	if testing.Short() || underRace {
		n = 10_000
	}
	file := filepath.Join(t.TempDir(), "broker.db")
	s := openStore(t, file)
	for i := 0; i < n; i += 5_000 {
		group := make([]store.Change, 5_000)
		for k := range group {
			group[k] = store.Retain{Topic: fmt.Sprintf("%smachine/m%06d/state", root, i+k), Payload: make([]byte, 300), QoS: 1}
		}
		if err := s.Commit(group); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		withStore(t, file, broker.Options{}, func(b *broker.Broker, _ *disk) {
			if got := b.Stats().Retained; got != int64(n) {
				t.Fatalf("%d of %d are there after the start", got, n)
			}
			var slow []*raw
			before := heap()
			for i := range 20 { // they read nothing yet
				r := dial(t, b, viewerID, connect{id: fmt.Sprint("slow", i)})
				if _, early := r.subscribe(byte(i%2), root+"#"); len(early) != 0 {
					t.Errorf("%d messages before the SUBACK", len(early))
				}
				slow = append(slow, r)
			}
			synctest.Wait()
			each := (int64(heap()) - int64(before)) / int64(len(slow))
			if each > 512<<10 {
				t.Errorf("%d bytes for each newcomer that reads nothing", each)
			}
			fast := dial(t, b, viewerID, connect{id: "fast"})
			fast.subscribe(1, root+"#")
			began := time.Now()
			receive(t, fast, n, 0)
			f := dial(t, b, fleetID, connect{id: "f"})
			f.mustPublish(pub{root + "machine/new/state", "{}", 1, true})
			fast.expect("machine/new/state={}")
			if took := time.Since(began); took > 0 {
				t.Errorf("%s of virtual time passed while others read nothing", took)
			}
			receive(t, slow[1], n, 10*time.Millisecond)
			t.Logf("%d retained messages: each newcomer got all, one that reads nothing costs %d kB, client included", n, each>>10)
			if s := b.Stats(); s.PublishDropped+s.QosDropped+s.InflightFull != 0 {
				t.Errorf("dropped: %+v", s)
			}
		})
	})
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}

// receive reads until every one of n topics was seen, with a pause after each hundred.
func receive(t *testing.T, r *raw, n int, pause time.Duration) {
	t.Helper()
	seen := make(map[string]bool, n)
	for count := 1; len(seen) < n; count++ {
		pk, err := r.read()
		if err != nil || pk.FixedHeader.Type != packets.Publish {
			t.Fatalf("after %d of %d: %v %v", len(seen), n, pk.FixedHeader.Type, err)
		}
		if pk.TopicName != root+"machine/new/state" {
			seen[pk.TopicName] = true
		}
		r.acknowledge(pk)
		if pause > 0 && count%100 == 0 {
			time.Sleep(pause)
		}
	}
}
