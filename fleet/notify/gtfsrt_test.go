package notify

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/MobilityData/gtfs-realtime-bindings/golang/gtfs"
	"google.golang.org/protobuf/proto"

	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/schemas"
)

func ask(t *testing.T, h http.Handler, target, accept string) *httptest.ResponseRecorder {
	t.Helper()
	req := httptest.NewRequest(http.MethodGet, target, nil)
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	return w
}

func TestServiceAlerts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		h := ServiceAlertsHandler(r.store.Faults(), time.Now, slog.New(slog.DiscardHandler))
		silent, below := newLife("R-2", faults.Subject{Route: "36"}, faults.RouteSilent, time.Now()), newLife("R-1", faults.Subject{Route: "7/8 é"}, faults.RouteBelow, time.Now())
		child, shelved := newLife("R-3", faults.Subject{Route: "9"}, faults.RouteSilent, time.Now()), newLife("R-4", faults.Subject{Route: "10"}, faults.RouteSilent, time.Now())
		r.save(
			silent.opened(), below.opened(), machineLife("m").opened(), newLife("P", faults.Subject{}, faults.Platform, time.Now()).opened(),
			child.change(faults.ChangeOpened, func(f *faults.Fault) { f.Parent = "P" }),
			shelved.change(faults.ChangeShelved, func(f *faults.Fault) { f.Attention.State = schemas.Shelved }),
		)
		opened := uint64(time.Now().Unix())
		time.Sleep(time.Minute)
		read := func() *gtfs.FeedMessage {
			w := ask(t, h, "/gtfs-rt/alerts", "")
			var feed gtfs.FeedMessage
			if err := proto.Unmarshal(w.Body.Bytes(), &feed); err != nil || w.Code != http.StatusOK || w.Header().Get("Content-Type") != "application/x-protobuf" {
				t.Fatalf("%d %v, %v", w.Code, w.Header(), err)
			}
			if !proto.Equal(&feed, ServiceAlerts(time.Now(), mustOpen(t, r))) {
				t.Error("not what was made")
			}
			return &feed
		}
		feed := read()
		if hd := feed.GetHeader(); hd.GetGtfsRealtimeVersion() != "2.0" || hd.GetIncrementality() != gtfs.FeedHeader_FULL_DATASET || hd.GetTimestamp() != opened+60 {
			t.Errorf("%v", hd)
		}
		if len(feed.Entity) != 2 {
			t.Fatalf("%v", feed.Entity)
		}
		for i, want := range []struct {
			id, route, text string
			level           gtfs.Alert_SeverityLevel
		}{{"R-1", "7/8 é", "Some payment machines", gtfs.Alert_INFO}, {"R-2", "36", "The payment machines", gtfs.Alert_WARNING}} {
			e := feed.Entity[i]
			a := e.GetAlert()
			if e.GetId() != want.id || len(a.InformedEntity) != 1 || a.InformedEntity[0].GetRouteId() != want.route || a.GetSeverityLevel() != want.level {
				t.Errorf("%v", e)
			}
			if a.GetCause() != gtfs.Alert_TECHNICAL_PROBLEM || a.GetEffect() != gtfs.Alert_OTHER_EFFECT || a.ActivePeriod[0].GetStart() != opened || a.ActivePeriod[0].End != nil {
				t.Errorf("%v", a)
			}
			header, text := a.GetHeaderText().GetTranslation(), a.GetDescriptionText().GetTranslation()
			if len(header) != 1 || header[0].GetLanguage() != "en" || header[0].GetText() != "Payment machines out of order" || !strings.HasPrefix(text[0].GetText(), want.text) {
				t.Errorf("%v", a)
			}
		}
		r.save(silent.closed(), below.closed())
		if feed := read(); len(feed.Entity) != 0 {
			t.Errorf("after they closed: %v", feed.Entity)
		}
	})
}

func mustOpen(t *testing.T, r *rig) []faults.Fault {
	t.Helper()
	open, err := r.store.Faults().Open(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return open
}

func TestServiceAlertsForPeople(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		h := ServiceAlertsHandler(r.store.Faults(), time.Now, slog.New(slog.DiscardHandler))
		r.save(newLife("R-1", faults.Subject{Route: "36"}, faults.RouteBelow, time.Now()).opened())
		for _, w := range []*httptest.ResponseRecorder{ask(t, h, "/gtfs-rt/alerts?debug=json", ""), ask(t, h, "/gtfs-rt/alerts", "application/json, */*")} {
			var feed struct {
				Entity []struct {
					Alert struct {
						InformedEntity []struct{ RouteID string }
						Effect         string
					}
				}
			}
			if err := json.Unmarshal(w.Body.Bytes(), &feed); err != nil || w.Header().Get("Content-Type") != "application/json" {
				t.Fatalf("%v: %s", err, w.Body)
			}
			if len(feed.Entity) != 1 || feed.Entity[0].Alert.InformedEntity[0].RouteID != "36" || feed.Entity[0].Alert.Effect != "OTHER_EFFECT" {
				t.Errorf("%s", w.Body)
			}
		}
	})
}

// failing is a store of faults that cannot be read.
type failing struct{ faults.Store }

func (failing) Open(context.Context) ([]faults.Fault, error) {
	return nil, errors.New("the disk at /var failed")
}

func TestServiceAlertsWithoutTheStore(t *testing.T) {
	w := ask(t, ServiceAlertsHandler(failing{}, time.Now, slog.New(slog.DiscardHandler)), "/gtfs-rt/alerts", "")
	if w.Code != http.StatusServiceUnavailable || strings.Contains(w.Body.String(), "/var") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
