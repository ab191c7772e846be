package main

import (
	"bytes"
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/farebeat/farebeat/configs"
	"github.com/farebeat/farebeat/fleet"
	"github.com/farebeat/farebeat/fleet/expect"
	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/keys"
	"github.com/farebeat/farebeat/fleet/rules"
	"github.com/farebeat/farebeat/fleet/store"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
)

// A person acknowledges a fault while the service runs and while it does not, and who did what can be read afterwards.
func TestAttendAtTheCommandLine(t *testing.T) {
	dir := t.TempDir()
	db, err := store.Open(t.Context(), storePath(dir), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	book := faults.NewBook(faults.Policy{})
	changes := book.Apply(now, []faults.Input{faults.HandReport{Report: schemas.Report{ID: "r1", At: now, Machine: "m1", Text: "screen is dark", By: "driver 7"}}})
	if err := db.Faults().Save(t.Context(), changes...); err != nil {
		t.Fatal(err)
	}
	id := changes[0].Fault.ID
	farebeat := func(args ...string) (int, string) {
		var out bytes.Buffer
		code := run(t.Context(), append(args, "--data", dir), nil, &out, &out)
		return code, out.String()
	}
	master, err := keys.Create(filepath.Join(dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	// serve runs the service while during does.
	serve := func(during func()) {
		t.Helper()
		tree, err := topics.New("local")
		if err != nil {
			t.Fatal(err)
		}
		c := configs.Default()
		c.Broker.Listeners, c.Broker.MetricsAddress, c.Console.Address = nil, "", ""
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		s, err := newServer(ctx, serverOptions{
			tree: tree, config: c, store: db, keys: master, tick: 20 * time.Millisecond, now: time.Now, orders: ordersPath(dir), logger: slog.New(slog.DiscardHandler),
			engine: fleet.EngineConfig{Location: time.UTC, Expect: expect.NewByHand(nil, time.UTC), Rules: rules.Default(time.UTC)},
		})
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- s.run(ctx, func() {}) }()
		during()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	want := func(wantCode int, wantText string, args ...string) {
		t.Helper()
		if code, out := farebeat(args...); code != wantCode || !strings.Contains(out, wantText) {
			t.Errorf("%s: %d, %q, want %d and %q", args, code, out, wantCode, wantText)
		}
	}
	serve(func() {
		want(exitOK, "fault "+id+": acknowledge, done\n", "faults", "ack", id, "--by", "anna", "--note", "seen")
		want(exitUsage, "no such fault: `farebeat faults list` names those that stand", "faults", "ack", "M-x")
		want(exitUsage, "at least one of the flags in the group [until for] is required", "faults", "shelve", id)
		want(exitUsage, "before it was given", "faults", "ack", id, "--until", "2020-01-01T00:00:00Z")
		want(exitUsage, `--until "tomorrow": want a time`, "faults", "ack", id, "--until", "tomorrow")
	})
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	want(exitOK, "shelve, noted; farebeat serve does not run and will do it when it starts", "faults", "shelve", id, "--for", "2h", "--by", "bo")
	if db, err = store.Open(t.Context(), storePath(dir), store.Options{}); err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	serve(func() {
		want(exitOK, "assign, done", "faults", "assign", id, "--by", "carl", "--note", "I go")
	})
	code, out := farebeat("faults", "audit")
	var did []string
	for line := range strings.Lines(out) {
		_, after, _ := strings.Cut(line, id+"  ")
		did = append(did, strings.TrimSpace(after))
	}
	if got := strings.Join(did, "; "); code != exitOK || got != "driver 7 opened (unseen): screen is dark; anna acknowledged (acknowledged): seen; bo shelved (shelved):; carl updated (assigned): I go" {
		t.Errorf("%d, %s", code, got)
	}
	want(exitOK, "carl", "faults", "audit", "--by", "carl", "--json")
}
