package fleet

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/keys"
	"github.com/farebeat/farebeat/fleet/ledger"
	"github.com/farebeat/farebeat/fleet/ledger/ledgertest"
	"github.com/farebeat/farebeat/fleet/presence"
	"github.com/farebeat/farebeat/fleet/store"
)

// TestDaysThatAreOverAreCertified runs the service's own issuing through two days.
func TestDaysThatAreOverAreCertified(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		zone, err := time.LoadLocation("America/New_York")
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Until(time.Date(2018, 6, 13, 9, 30, 0, 0, zone)))
		s, err := store.Open(t.Context(), filepath.Join(dir, "fleet.db"), store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		master := ledgertest.Keys(t)
		f := &Fleet{
			o:      Options{Store: s, Keys: master, Now: time.Now, Logger: slog.New(slog.DiscardHandler)},
			engine: NewEngine(EngineConfig{Location: zone}, time.Now()), ledger: ledger.New(s.Ledger(), master, time.Now),
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); f.certify(ctx) }()
		m := ledgertest.New(t, "m", "v", 1).Mint(6)
		take := func(first, last uint32) {
			t.Helper()
			slot, payload := m.Batch(first, last)
			if _, err := f.ledger.Ingest(ctx, slot, payload); err != nil {
				t.Fatal(err)
			}
		}
		issued := func() (list []ledger.Issued) {
			t.Helper()
			c := f.ledger.Certifier(master.(keys.Signer), nil)
			if err := c.Issued(ctx, ledger.Filter{}, func(i ledger.Issued) error { i.Body = nil; list = append(list, i); return nil }); err != nil {
				t.Fatal(err)
			}
			return list
		}
		take(1, 2)
		take(4, 6)
		time.Sleep(2 * time.Hour) // 11:30
		synctest.Wait()
		if got := issued(); len(got) != 0 {
			t.Errorf("before the day was over: %+v", got)
		}
		time.Sleep(time.Hour) // 12:30: 36 hours and a half after the day began
		synctest.Wait()
		at := time.Date(2018, 6, 13, 12, 30, 0, 0, zone).UTC()
		want := []ledger.Issued{{Machine: "m", ServiceDate: "2018-06-12", Revision: 1, IssuedAt: at, Records: 5}}
		if diff := cmp.Diff(want, issued()); diff != "" {
			t.Error(diff)
		}
		time.Sleep(5*time.Hour + 15*time.Minute)
		take(3, 3) // comes late, between two looks
		time.Sleep(5 * time.Hour)
		synctest.Wait()
		want = append(want, ledger.Issued{Machine: "m", ServiceDate: "2018-06-12", Revision: 2, IssuedAt: at.Add(6 * time.Hour), Complete: true, Records: 6})
		if diff := cmp.Diff(want, issued()); diff != "" {
			t.Error(diff)
		}
		cancel()
		<-ended
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestDeclared(t *testing.T) {
	at := time.Date(2018, 6, 12, 12, 0, 0, 0, time.UTC)
	fault := func(machine string, last uint32, recovery *faults.Progress) faults.Fault {
		return faults.Fault{Subject: faults.Subject{Machine: machine}, Machine: &faults.MachineFacts{
			LastHeartbeat: at, Pending: 7, Custody: []faults.Custody{{Epoch: 2, LastSeq: last}, {Epoch: 1, LastSeq: 90}}, Recovery: recovery,
		}}
	}
	got := Declared([]presence.Saved{
		{Machine: "never"},
		{Machine: "heard", LastHeartbeat: at, Epoch: 2, LastSeq: 10, Pending: 3, PendingMinor: 675, Currency: "USD", OldestPending: at},
		{Machine: "read", LastHeartbeat: at, Epoch: 2, LastSeq: 10, Pending: 3},
		{Machine: "newer", LastHeartbeat: at, Epoch: 2, LastSeq: 30, Pending: 3},
		{Machine: "empty", LastHeartbeat: at},
	}, []faults.Fault{
		fault("read", 20, &faults.Progress{AsOf: at.Add(time.Hour)}), fault("newer", 20, nil), fault("gone", 5, nil),
		{Subject: faults.Subject{Route: "36"}},
	})
	want := ledger.Declarations{
		"heard": {At: at, Epochs: map[uint32]uint32{2: 10}, Pending: 3, PendingMinor: 675, Currency: "USD", OldestPending: at},
		"read":  {At: at.Add(time.Hour), Epochs: map[uint32]uint32{1: 90, 2: 20}, Pending: 7},
		"newer": {At: at, Epochs: map[uint32]uint32{1: 90, 2: 30}, Pending: 3},
		"gone":  {At: at, Epochs: map[uint32]uint32{1: 90, 2: 5}, Pending: 7},
		"empty": {At: at, Epochs: map[uint32]uint32{}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
