package main

import (
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	brokerstore "github.com/farebeat/farebeat/broker/store"
	"github.com/farebeat/farebeat/configs"
	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/keys"
	"github.com/farebeat/farebeat/fleet/store"
	"github.com/farebeat/farebeat/topics"
)

// While the broker's disk is full the fleet holds one fault that says so, though nobody can be told by the broker; when
// there is space the fault closes and all is told.
func TestFullBrokerStoreIsAFault(t *testing.T) {
	dir := t.TempDir()
	master, _, err := keys.LoadOrCreate(filepath.Join(dir, "master.key"))
	if err != nil {
		t.Fatal(err)
	}
	tree, err := topics.New("local")
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		db, err := store.Open(t.Context(), filepath.Join(dir, "farebeat.db"), store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		file := filepath.Join(dir, "broker.db")
		retained, err := brokerstore.Open(t.Context(), file, brokerstore.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer retained.Close()
		if err := retained.Limit(12); err != nil { // less than the contract takes, which the fleet publishes
			t.Fatal(err)
		}
		c := configs.Default()
		c.Broker.Listeners, c.Broker.MetricsAddress, c.Console.Address = nil, "", ""
		known, err := readKnowledge(t.Context(), c, time.Now, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		s, err := newServer(t.Context(), serverOptions{
			tree: tree, config: c, engine: known.engine, store: db, brokerStore: retained, keys: master, tick: c.Fleet.Tick, now: time.Now, logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.run(ctx, func() {}) }()
		defer func() {
			stop()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}()
		list := func() []faults.Fault {
			found, err := db.Faults().List(ctx, faults.Query{Limit: 10})
			if err != nil {
				t.Error(err)
			}
			return found
		}
		time.Sleep(time.Minute)
		open := list()
		if len(open) != 1 || open[0].Kind != faults.BrokerStore || open[0].Ended() || !strings.Contains(open[0].Reason, "disk is full") || !strings.Contains(open[0].Reason, file) {
			t.Errorf("while the disk is full: %+v", open)
		}
		if err := retained.Limit(10_000); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if open = list(); len(open) != 1 || !open[0].Ended() {
			t.Errorf("with space again: %+v", open)
		}
		if n := s.broker.Stats().Retained; n < 2 {
			t.Errorf("%d retained messages, want the fleet's and the contract among them", n)
		}
	})
}
