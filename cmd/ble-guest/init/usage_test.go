//go:build linux

package main

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/farebeat/farebeat/cmd/ble-guest/result"
	"github.com/farebeat/farebeat/schemas"
)

func TestUsageOfThisProcess(t *testing.T) {
	u, ok := usage(os.Getpid())
	if !ok || u.ResidentKiB < 1000 || u.PeakKiB < u.ResidentKiB {
		t.Errorf("%+v, %v", u, ok)
	}
	if u, ok := usage(0); ok {
		t.Errorf("a process that does not exist takes %+v", u)
	}
	if pid, ok := workerOf(os.Getpid()); ok {
		t.Errorf("this test has a worker, %d", pid)
	}
}

func TestMeterAddsWorkersUp(t *testing.T) {
	m := meter{workers: map[int]result.Usage{7: {PeakKiB: 30, ResidentKiB: 20, CPUSeconds: 1}, 8: {PeakKiB: 25, ResidentKiB: 21, CPUSeconds: 2}}, last: 8}
	if got, want := m.worker(), (result.Usage{PeakKiB: 30, ResidentKiB: 21, CPUSeconds: 3}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	over, end := context.WithCancel(t.Context())
	end()
	m.watch(over, os.Getpid())
	if m.agent.ResidentKiB == 0 {
		t.Error("nothing was sampled")
	}
}

func TestProgressKeepsTheFurthest(t *testing.T) {
	p := &progress{}
	for _, read := range []uint32{100, 300, 200} {
		payload, err := schemas.Encode(&schemas.Recovery{
			AsOf: time.Unix(1_800_000_000, 0).UTC(), Machine: "m", Vehicle: "v", Fault: "f", State: schemas.RecoveryReading, Epoch: 1, LastSeq: 500, Total: 500, Read: read, Receipted: read / 2, NextAction: "x",
		})
		if err != nil {
			t.Fatal(err)
		}
		p.recovery(payload)
	}
	p.recovery([]byte("nonsense"))
	if p.read != 300 || p.receipted != 150 || p.last.Read != 200 || p.contacted.IsZero() {
		t.Errorf("%+v", p)
	}
}
