package store_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/farebeat/farebeat/fleet/ledger"
	"github.com/farebeat/farebeat/fleet/ledger/ledgertest"
	"github.com/farebeat/farebeat/topics"
)

// BenchmarkLedger takes batches in from 64 callers, each for a machine of its own, and
// reports durable records per second.
func BenchmarkLedger(b *testing.B) {
	for _, size := range []uint32{1, 20, 200} {
		b.Run(fmt.Sprintf("batch=%d", size), func(b *testing.B) { benchLedger(b, size) })
	}
}

type delivery struct {
	slot    topics.Address
	payload []byte
}

func benchLedger(b *testing.B, size uint32) {
	const callers = 64
	s := open(b, b.TempDir())
	l := ledger.New(s.Ledger(), ledgertest.Keys(b), time.Now)
	batches := (b.N + callers - 1) / callers
	work := make([][]delivery, callers)
	for i := range work {
		m := ledgertest.New(b, ledgertest.Name(i), "bus", 1).Mint(batches * int(size))
		for j := range uint32(batches) {
			slot, payload := m.Batch(j*size+1, (j+1)*size)
			work[i] = append(work[i], delivery{slot, payload})
		}
	}
	b.ResetTimer()
	var wg sync.WaitGroup
	for _, deliveries := range work {
		wg.Go(func() {
			for _, d := range deliveries {
				if _, err := l.Ingest(context.Background(), d.slot, d.payload); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	rows := float64(callers * batches * int(size))
	b.ReportMetric(rows/b.Elapsed().Seconds(), "rows/s")
	b.ReportMetric(float64(s.Stats().Requests)/float64(s.Stats().Commits), "requests/commit")
}
