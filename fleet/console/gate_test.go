package console

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/farebeat/farebeat/fleet"
	"github.com/farebeat/farebeat/fleet/console/access"
	"github.com/farebeat/farebeat/fleet/console/view"
	"github.com/farebeat/farebeat/fleet/store"
)

// While the store does not answer nobody comes in, and what it says is not for whoever tries.
func TestNobodyComesInWhileTheStoreIsAway(t *testing.T) {
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "farebeat.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	gate, err := access.New(access.Options{Passes: db.Passes(), Audit: db.AuditLog(), Open: &access.Identity{Name: "desk", Role: access.Admin, Via: access.ViaOpen}, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(Options{
		Operator: "tampa", Gate: gate,
		View: view.New(view.Options{Fleet: func() *fleet.Fleet { return nil }, Zone: time.UTC, Now: time.Now, Wall: time.Now, Tick: time.Second}),
	})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(method, path string) (int, string) {
		r := httptest.NewRequestWithContext(t.Context(), method, "http://127.0.0.1"+path, nil)
		r.AddCookie(&http.Cookie{Name: "farebeat_session", Value: strings.Repeat("A", 43)})
		w := httptest.NewRecorder()
		c.ServeHTTP(w, r)
		return w.Code, w.Body.String()
	}
	if code, body := ask(http.MethodGet, "/nowhere"); code != http.StatusNotFound {
		t.Fatalf("with the store: %d %.300s", code, body)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct{ method, path string }{{http.MethodGet, "/"}, {http.MethodGet, "/live?page=/"}, {http.MethodPost, "/reports"}, {http.MethodPost, "/rules/save"}} {
		code, body := ask(x.method, x.path)
		if code != http.StatusServiceUnavailable || !strings.Contains(body, "cannot be looked up now") || strings.Contains(body, store.ErrClosed.Error()) {
			t.Errorf("%s %s: %d %s", x.method, x.path, code, body)
		}
	}
}
