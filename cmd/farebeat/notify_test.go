package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	brokerstore "github.com/farebeat/farebeat/broker/store"
	"github.com/farebeat/farebeat/configs"
	"github.com/farebeat/farebeat/fleet/keys"
	"github.com/farebeat/farebeat/fleet/notify"
	"github.com/farebeat/farebeat/fleet/store"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
)

const hookSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// desk is a webhook's receiver, as docs/notifications.md has it.
type desk struct {
	t      *testing.T
	status int
	events chan schemas.CloudEvent[schemas.FaultEvent]
}

func (d *desk) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	secret, err := notify.ParseSecret(hookSecret)
	if err == nil {
		err = notify.Verify(secret, r.Header, body, time.Now())
	}
	if err != nil {
		d.t.Error(err)
	}
	var e schemas.CloudEvent[schemas.FaultEvent]
	if err := json.Unmarshal(body, &e); err != nil || e.ID != r.Header.Get(notify.HeaderID) {
		d.t.Errorf("%s: %v", body, err)
	}
	d.events <- e
	w.WriteHeader(d.status)
	_, _ = io.WriteString(w, "hello\n")
}

func newDesk(t *testing.T) (*desk, *httptest.Server, string) {
	t.Helper()
	d := &desk{t, http.StatusAccepted, make(chan schemas.CloudEvent[schemas.FaultEvent], 100)}
	server := httptest.NewServer(d)
	t.Cleanup(server.Close)
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(hookSecret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return d, server, file
}

func TestNotifyTest(t *testing.T) {
	d, server, file := newDesk(t)
	config := filepath.Join(t.TempDir(), "farebeat.yaml")
	text := "fleet:\n  notify:\n    webhooks: [{name: desk, url: '" + server.URL + "/in', secret_file: " + file + "}]\n"
	try := func(text string, args ...string) (int, string, string) {
		t.Helper()
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var out, errOut bytes.Buffer
		code := run(t.Context(), append([]string{"notify", "test", "--config", config}, args...), nil, &out, &errOut)
		return code, out.String(), errOut.String()
	}
	if code, out, errOut := try(text, "--to", "desk"); code != exitOK || out != "desk took the test: it answered 202 hello\n" {
		t.Errorf("%d, %q, %q", code, out, errOut)
	}
	if e := <-d.events; e.Type != notify.TypeTest || e.Data.Severity != schemas.Info {
		t.Errorf("%+v", e)
	}
	d.status = http.StatusForbidden
	if code, out, errOut := try(text, "--to", "desk"); code != exitFailed || out != "" || !strings.Contains(errOut, "desk did not take the test: it answered 403 Forbidden: hello") {
		t.Errorf("%d, %q, %q", code, out, errOut)
	}
	if code, _, errOut := try(text, "--to", "desc"); code != exitUsage || !strings.Contains(errOut, `no such channel: "desc" under fleet.notify`) {
		t.Errorf("%d, %q", code, errOut)
	}
	if code, _, errOut := try(text); code != exitUsage || !strings.Contains(errOut, `"to" not set`) {
		t.Errorf("%d, %q", code, errOut)
	}
	if code, _, errOut := try(strings.Replace(text, "}]", ", kinds: [route_quiet]}]", 1), "--to", "desk"); code != exitUsage || !strings.Contains(errOut, "fleet.notify.webhooks[0].kinds[0]: want one of [") {
		t.Errorf("%d, %q", code, errOut)
	}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	if code, _, errOut := try(text, "--to", "desk"); code != exitUsage || !strings.Contains(errOut, "fleet.notify.webhooks[0].secret_file") || strings.Contains(errOut, hookSecret) {
		t.Errorf("%d, %q", code, errOut)
	}
}

// What the service finds leaves it: a disk that is full, and one that has space again.
func TestServeTellsReceivers(t *testing.T) {
	d, server, file := newDesk(t)
	dir := t.TempDir()
	db, err := store.Open(t.Context(), filepath.Join(dir, "farebeat.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	retained, err := brokerstore.Open(t.Context(), filepath.Join(dir, "broker.db"), brokerstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer retained.Close()
	if err := retained.Limit(12); err != nil { // less than the fleet publishes
		t.Fatal(err)
	}
	tree, err := topics.New("local")
	if err != nil {
		t.Fatal(err)
	}
	master, err := keys.NewMaster([]byte(strings.Repeat("k", 32)))
	if err != nil {
		t.Fatal(err)
	}
	c := configs.Default()
	c.Broker.Listeners, c.Broker.MetricsAddress, c.Console.Address, c.Fleet.Tick = nil, "", "", 100*time.Millisecond
	c.Fleet.Notify.GTFSRT = true
	c.Fleet.Notify.Webhooks = []configs.Webhook{{Name: "desk", URL: server.URL, SecretFile: file, Kinds: []string{"broker_store"}}}
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
	if e := <-d.events; e.Data.Change != "opened" || e.Data.Kind != "broker_store" || e.Source != "/farebeat/v1/local/fleet" {
		t.Errorf("%+v", e)
	}
	if err := retained.Limit(10_000); err != nil {
		t.Fatal(err)
	}
	if e := <-d.events; e.Data.Change != "closed" {
		t.Errorf("%+v", e)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	get := func(path string) string {
		w := httptest.NewRecorder()
		s.metricsHandler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != http.StatusOK {
			t.Errorf("%s: %d", path, w.Code)
		}
		return w.Body.String()
	}
	metrics := get("/metrics")
	for _, want := range []string{
		`farebeat_notify_set_aside_total{kind="webhook",name="desk"} 0`, `farebeat_notify_failing{kind="webhook",name="desk"} 0`,
		`farebeat_notify_lag_seconds{kind="webhook",name="desk"}`, `farebeat_notify_skipped_total{`, `farebeat_notify_failed_total{`, `farebeat_notify_sent_total{`,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
	if feed := get("/gtfs-rt/alerts?debug=json"); !strings.Contains(feed, "FULL_DATASET") {
		t.Errorf("%s", feed)
	}
}
