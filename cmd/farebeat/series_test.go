package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/farebeat/farebeat/configs"
	"github.com/farebeat/farebeat/fleet/counts"
	"github.com/farebeat/farebeat/fleet/series"
	"github.com/farebeat/farebeat/fleet/store"
)

// influxServer takes lines as InfluxDB does.
type influxServer struct {
	*httptest.Server
	mu    sync.Mutex
	lines []string
	token string
}

func newInfluxServer(t *testing.T) *influxServer {
	s := &influxServer{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		b, err := io.ReadAll(z)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		s.lines, s.token = append(s.lines, strings.Split(strings.TrimSpace(string(b)), "\n")...), r.Header.Get("Authorization")
		w.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(s.Close)
	return s
}

func TestSeriesAtTheCommandLine(t *testing.T) {
	dir, influx := t.TempDir(), newInfluxServer(t)
	db, err := store.Open(t.Context(), storePath(dir), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now().UTC().Truncate(time.Hour).Add(-3 * time.Hour)
	for m := range 90 {
		f := counts.Frame{At: begin.Add(time.Duration(m) * time.Minute), Rows: []counts.RouteMinute{{Route: "36", Online: m, Known: m, Min: m, Max: m}}}
		if err := db.Counts().SaveFrame(t.Context(), f); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Counts().SaveHours(t.Context(), []counts.HourRow{{Start: begin, Length: time.Hour, Heard: time.Hour, Route: "36"}}); err != nil {
		t.Fatal(err)
	}
	token := filepath.Join(dir, "token")
	config := filepath.Join(dir, "farebeat.yaml")
	write := func(path, text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	write(token, "s3cret\n", 0o600)
	write(config, fmt.Sprintf("data: %s\nfleet:\n  influx: [{name: grafana, url: %q, org: ops, bucket: farebeat, token_file: %s}]\n", dir, influx.URL, token), 0o600)
	farebeat := func(args ...string) (int, string) {
		var out bytes.Buffer
		code := run(t.Context(), append(args, "--config", config), nil, &out, &out)
		return code, out.String()
	}
	want := func(wantCode int, wantText string, args ...string) {
		t.Helper()
		if code, out := farebeat(args...); code != wantCode || !strings.Contains(out, wantText) {
			t.Errorf("%s: %d, %q, want %d and %q", args, code, out, wantCode, wantText)
		}
	}
	want(exitDifference, "grafana: has nothing yet, 91 minutes and hours wait, 0 lines left out, 0 set aside\n", "series", "status")
	want(exitOK, "grafana: 91 lines shipped, 0 left out\n", "series", "backfill")
	if len(influx.lines) != 91 || influx.token != "Token s3cret" {
		t.Errorf("%d lines with %q", len(influx.lines), influx.token)
	}
	want(exitOK, "grafana: 30 lines shipped, 0 left out\n", "series", "backfill", "--from", begin.Add(time.Hour).Format(time.RFC3339), "--sink", "grafana")
	want(exitUsage, `the configuration has no InfluxDB "other"`, "series", "backfill", "--sink", "other")
	want(exitUsage, `--from "yesterday": want a time`, "series", "backfill", "--from", "yesterday")
	// What serve does: its sink moves the cursor.
	e, err := newExporters(t.Context(), mustLoad(t, config), db, time.Now, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	stop := make(chan struct{})
	defer func() {
		cancel()
		<-stop
		db.Close()
	}()
	go func() { e.sinks[0].Run(ctx); close(stop) }()
	for value := []byte(nil); ; {
		if value, err = db.Meta(t.Context(), series.CursorName("grafana")); err != nil {
			t.Fatal(err)
		}
		if c, err := series.ReadCursor(value); err != nil || c.N == 91 {
			break
		}
	}
	want(exitOK, "grafana: has all to "+begin.Add(89*time.Minute).Format(time.RFC3339)+", 0 minutes and hours wait", "series", "status")
	want(exitOK, `{"sink":"grafana","at":"`, "series", "status", "--json")
	write(token, "s3cret\n", 0o644)
	if err := os.Chmod(token, 0o644); err != nil {
		t.Fatal(err)
	}
	want(exitUsage, "fleet.influx[0].token_file: "+token, "series", "backfill")
	want(exitUsage, "fleet.influx[0].token_file", "config", "check")
	if _, out := farebeat("config", "print"); strings.Contains(out, "s3cret") {
		t.Error("the token is printed")
	}
}

func mustLoad(t *testing.T, file string) configs.Config {
	t.Helper()
	c, err := configs.Load(configs.Options{File: file})
	if err != nil {
		t.Fatal(err)
	}
	return c
}
