package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/farebeat/farebeat/fleet/console/access"
	"github.com/farebeat/farebeat/fleet/counts"
	"github.com/farebeat/farebeat/fleet/expect"
	"github.com/farebeat/farebeat/fleet/ledger"
	"github.com/farebeat/farebeat/fleet/ledger/ledgertest"
	"github.com/farebeat/farebeat/fleet/store"
)

// The size of the city that the console is measured with.
const (
	benchMachines = 5_000
	benchRoutes   = 500
)

func benchRoute(i int) string { return fmt.Sprintf("R%03d", i%benchRoutes) }

// benchCity is a console over 5,000 machines on 500 routes, with the minutes of the last 24 hours and a day's records of each machine.
func benchCity(b *testing.B) *consoleRig {
	var rows []expect.RouteHour
	for i := range benchRoutes {
		for hour := range 24 {
			rows = append(rows, expect.RouteHour{Route: benchRoute(i), Hour: hour, Vehicles: benchMachines / benchRoutes})
		}
	}
	rig := newConsoleRig(b, consoleRole(access.Admin), expect.NewByHand(rows, time.UTC), func(db *store.Store) { benchHistory(b, db) }, nil)
	for i := range benchMachines - benchMachines/50 { // the others are silent
		rig.beat(ledgertest.Name(i), fmt.Sprintf("v%05d", i), benchRoute(i), "north")
	}
	rig.pass(2)
	return rig
}

// benchHistory stores a day's minutes, and of each machine what 200 records of today leave in the ledger's books.
func benchHistory(b *testing.B, db *store.Store) {
	now := time.Now().UTC().Truncate(time.Minute)
	for minute := range 24 * 60 {
		f := counts.Frame{At: now.Add(-time.Duration(minute) * time.Minute)}
		for i := range benchRoutes {
			n := benchMachines / benchRoutes
			f.Rows = append(f.Rows, counts.RouteMinute{Route: benchRoute(i), Online: n - i%3, Min: n - i%3, Max: n, Known: n, Expected: n, Threshold: n - 2})
		}
		if err := db.Counts().SaveFrame(b.Context(), f); err != nil {
			b.Fatal(err)
		}
	}
	today := now.Format(time.DateOnly)
	for begin := 0; begin < benchMachines; begin += 500 {
		err := db.Ledger().Update(b.Context(), func(tx ledger.Tx) error {
			for i := begin; i < begin+500; i++ {
				id, last := ledgertest.Name(i), uint32(200)
				var row []ledger.Row
				for _, seq := range []uint32{1, last} { // the books speak of all; the records themselves are not read here
					row = append(row, ledger.Row{Machine: id, Epoch: 1, Seq: seq, ServiceDate: today, EventTime: now, AmountMinor: 225, Currency: "USD", Vehicle: "v", ReceivedAt: now, Record: []byte("{}")})
				}
				spans := ledger.Spans{{First: 1, Last: last}}
				if i%20 == 0 {
					spans = ledger.Spans{{First: 1, Last: 90}, {First: 101, Last: last}}
				}
				if err := tx.Append(row); err != nil {
					return err
				}
				if err := tx.ReplaceSpans(id, 1, nil, spans); err != nil {
					return err
				}
				if err := tx.AddDays([]ledger.Day{{Machine: id, ServiceDate: today, Epoch: 1, Currency: "USD", First: 1, Last: last, Records: spans.Len(), SumMinor: 225 * int64(spans.Len())}}); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFirstPages measures the server's time for the first page of each screen, with 5,000 machines on 500 routes, and its size before gzip.
func BenchmarkFirstPages(b *testing.B) {
	rig := benchCity(b)
	for _, path := range []string{"/", "/routes", "/routes/R001", "/faults", "/machines", "/machines/00001-1", "/ledger", "/ledger/00001-1", "/search?q=R01", "/audit"} {
		b.Run(path, func(b *testing.B) {
			var took []time.Duration
			size := 0
			for b.Loop() {
				begun := time.Now()
				code, body := rig.get(path)
				took = append(took, time.Since(begun))
				if size = len(body); code != http.StatusOK {
					b.Fatalf("%d: %.300s", code, body)
				}
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[0].Microseconds())/1000, "ms-best")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "ms-p99")
			b.ReportMetric(float64(took[len(took)-1].Microseconds())/1000, "ms-worst")
			b.ReportMetric(float64(size)/1000, "kB")
		})
	}
}

// BenchmarkLiveViewers measures what 100 open pages, on ten different screens, cost the server in ten seconds: in percent of one processor.
// The service makes a round every 50 ms here, a hundred times as often as by default.
func BenchmarkLiveViewers(b *testing.B) {
	rig := benchCity(b)
	pages := []string{"/", "/routes", "/routes?page=2", "/routes/R001", "/routes/R002", "/faults", "/machines", "/machines?state=lost", "/machines/00001-1", "/ledger"}
	for _, viewers := range []int{0, 100} {
		b.Run(fmt.Sprintf("%d viewers", viewers), func(b *testing.B) {
			ctx, stop := context.WithCancel(b.Context())
			defer stop()
			for i := range viewers {
				req, err := http.NewRequestWithContext(ctx, http.MethodGet, rig.base+"/live?page="+url.QueryEscape(pages[i%len(pages)]), nil)
				if err != nil {
					b.Fatal(err)
				}
				go func() {
					res, err := rig.client.Do(req)
					if err != nil {
						return // stop came first
					}
					defer res.Body.Close()
					_, _ = io.Copy(io.Discard, res.Body) // until stop
				}()
			}
			for b.Loop() {
				const length = 10 * time.Second
				before := cpu(b)
				<-time.After(length)
				b.ReportMetric(100*(cpu(b)-before).Seconds()/length.Seconds(), "%cpu")
			}
		})
	}
}

// cpu is the processor time of this process.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
