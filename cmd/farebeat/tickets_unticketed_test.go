package main

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/farebeat/farebeat/fleet/store"
	"github.com/farebeat/farebeat/fleet/tickets"
)

func TestTicketsUnticketed(t *testing.T) {
	dir := t.TempDir()
	s, err := store.Open(t.Context(), storePath(dir), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	list := func(args ...string) string {
		t.Helper()
		var out bytes.Buffer
		if code := run(t.Context(), append([]string{"tickets", "unticketed", "--data", dir}, args...), strings.NewReader(""), &out, &out); code != exitOK {
			t.Fatalf("%v: %d %s", args, code, out.String())
		}
		return strings.TrimSpace(out.String())
	}
	if got := list(); got != "" { // beside the service that has it open
		t.Errorf("of nothing: %q", got)
	}
	at := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	err = s.Tickets().SaveUnticketed(t.Context(), []tickets.Unticketed{
		{Machine: "m1", Vehicle: "v9", FirstAt: at, LastAt: at.Add(time.Hour), Batches: 2, Records: 250},
		{Machine: "m2", Vehicle: "v8", FirstAt: at, LastAt: at, Batches: 1, Records: 1},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ args, want string }{
		{"", "vehicle v9, machine m1: 250 records in 2 batches, first 2026-11-20 12:00:00 +00:00, last 2026-11-20 13:00:00 +00:00\n" +
			"vehicle v8, machine m2: 1 records in 1 batches, first 2026-11-20 12:00:00 +00:00, last 2026-11-20 12:00:00 +00:00"},
		{"--machine m2 --json", `{"type":"unticketed","machine":"m2","vehicle":"v8","first_at":"2026-11-20T12:00:00Z","last_at":"2026-11-20T12:00:00Z","batches":1,"records":1}`},
		{"--vehicle v9 --json", `{"type":"unticketed","machine":"m1","vehicle":"v9","first_at":"2026-11-20T12:00:00Z","last_at":"2026-11-20T13:00:00Z","batches":2,"records":250}`},
		{"--vehicle v9 --machine m2", ""},
	} {
		if got := list(strings.Fields(c.args)...); got != c.want {
			t.Errorf("%s: %q", c.args, got)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if code := run(t.Context(), []string{"tickets", "unticketed", "--data", filepath.Join(dir, "nowhere")}, strings.NewReader(""), &out, &out); code != exitUsage {
		t.Errorf("%d %s", code, out.String())
	}
}
