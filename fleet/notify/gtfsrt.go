package notify

import (
	"cmp"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/MobilityData/gtfs-realtime-bindings/golang/gtfs"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/schemas"
)

// ServiceAlerts makes a GTFS-realtime feed (version 2.0, all of it each time) of the faults of routes that stand: one
// alert per fault, for the passengers of the route. Vehicles run, so that the effect is OTHER_EFFECT; none of the
// reference's effects is about paying (https://gtfs.org/documentation/realtime/reference/#enum-effect).
func ServiceAlerts(now time.Time, open []faults.Fault) *gtfs.FeedMessage {
	feed := &gtfs.FeedMessage{Header: &gtfs.FeedHeader{
		GtfsRealtimeVersion: proto.String("2.0"), Incrementality: gtfs.FeedHeader_FULL_DATASET.Enum(), Timestamp: seconds(now),
	}}
	for _, f := range open {
		if f.Subject.Route == "" || f.Family() != faults.FamilyRoute || !standing(f) {
			continue
		}
		feed.Entity = append(feed.Entity, &gtfs.FeedEntity{Id: proto.String(f.ID), Alert: serviceAlert(f)})
	}
	slices.SortFunc(feed.Entity, func(a, b *gtfs.FeedEntity) int { return cmp.Compare(a.GetId(), b.GetId()) })
	return feed
}

func serviceAlert(f faults.Fault) *gtfs.Alert {
	description := "Some payment machines on board are out of order. Paying on board may not be possible."
	if f.Kind == faults.RouteSilent {
		description = "The payment machines on board are out of order. Paying on board may not be possible."
	}
	level := gtfs.Alert_INFO
	if rank(f.Severity) >= rank(schemas.Critical) {
		level = gtfs.Alert_WARNING
	}
	return &gtfs.Alert{
		ActivePeriod:    []*gtfs.TimeRange{{Start: seconds(f.OpenedAt)}},
		InformedEntity:  []*gtfs.EntitySelector{{RouteId: proto.String(strings.ToValidUTF8(f.Subject.Route, "\uFFFD"))}},
		Cause:           gtfs.Alert_TECHNICAL_PROBLEM.Enum(),
		Effect:          gtfs.Alert_OTHER_EFFECT.Enum(),
		SeverityLevel:   level.Enum(),
		HeaderText:      english("Payment machines out of order"),
		DescriptionText: english(description),
	}
}

func english(text string) *gtfs.TranslatedString {
	return &gtfs.TranslatedString{Translation: []*gtfs.TranslatedString_Translation{{Text: proto.String(text), Language: proto.String("en")}}}
}

func seconds(t time.Time) *uint64 { return proto.Uint64(uint64(max(t.Unix(), 0))) }

// ServiceAlertsHandler serves ServiceAlerts of the store's faults: protobuf, or JSON where ?debug=json or the header
// Accept asks for it.
func ServiceAlertsHandler(s faults.Store, now func() time.Time, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		open, err := s.Open(r.Context())
		if err != nil {
			log.Error("service alerts not served", "error", err)
			http.Error(w, "the faults cannot be read now", http.StatusServiceUnavailable)
			return
		}
		feed := ServiceAlerts(now(), open)
		kind, encode := "application/x-protobuf", proto.Marshal
		if r.URL.Query().Get("debug") == "json" || strings.HasPrefix(r.Header.Get("Accept"), "application/json") {
			kind, encode = "application/json", readable
		}
		body, err := encode(feed)
		if err != nil {
			log.Error("service alerts not served", "error", err)
			http.Error(w, "the feed cannot be made", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", kind)
		w.Header().Set("Cache-Control", "no-cache")
		_, _ = w.Write(body) // who asked may be gone
	})
}

// readable is the JSON of a message, equal for equal messages: protojson's own spaces are drawn.
func readable(m proto.Message) ([]byte, error) {
	b, err := protojson.Marshal(m)
	if err != nil {
		return nil, err
	}
	var value any
	if err := json.Unmarshal(b, &value); err != nil {
		return nil, fmt.Errorf("read our own JSON: %w", err)
	}
	return json.MarshalIndent(value, "", "  ")
}
