package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/farebeat/farebeat/fleet/counts"
	"github.com/farebeat/farebeat/fleet/series"
	"github.com/farebeat/farebeat/fleet/store"
)

// grafanaDay is a day of counts that ends now: three routes, of which one is short of machines all day, with an hour in which we were blind and one of which
// there is no record.
type grafanaDay struct {
	begin, end           time.Time // whole minutes; the last is end
	blindFrom, blindTo   time.Time
	recordless, recorded time.Time // from, to
	routes               []string
}

func newGrafanaDay(now time.Time) grafanaDay {
	end := now.UTC().Truncate(time.Minute)
	d := grafanaDay{begin: end.Add(-24 * time.Hour), end: end, routes: []string{"36", "A/B (c)", "Línea 5"}}
	hour := end.Truncate(time.Hour)
	d.blindFrom, d.blindTo = hour.Add(-5*time.Hour), hour.Add(-4*time.Hour)
	d.recordless, d.recorded = hour.Add(-3*time.Hour), hour.Add(-2*time.Hour)
	return d
}

// heard reports whether a minute is evidence.
func (d grafanaDay) heard(at time.Time) bool {
	return (at.Before(d.blindFrom) || !at.Before(d.blindTo)) && !d.silent(at)
}

func (d grafanaDay) silent(at time.Time) bool {
	return !at.Before(d.recordless) && at.Before(d.recorded)
}

// save writes the day as the fleet service does.
func (d grafanaDay) save(t *testing.T, c *store.Counts) {
	t.Helper()
	for at := d.begin; !at.After(d.end); at = at.Add(time.Minute) {
		if d.silent(at) {
			continue
		}
		f := counts.Frame{At: at, Blind: !d.heard(at)}
		for i, r := range d.routes {
			row := counts.RouteMinute{Route: r, Online: 10, Known: 10, Min: 9, Max: 11, Expected: 10, Threshold: 8}
			if i == 0 {
				row.Online, row.Min, row.Max = 4, 3, 5
			}
			if f.Blind {
				row.Online, row.Min, row.Max = 0, 0, 0
			}
			f.Rows = append(f.Rows, row)
		}
		if err := c.SaveFrame(t.Context(), f); err != nil {
			t.Fatal(err)
		}
	}
	for at := d.begin.Truncate(time.Hour); at.Before(d.end); at = at.Add(time.Hour) {
		var rows []counts.HourRow
		for _, r := range d.routes {
			rows = append(rows, counts.HourRow{Start: at, Length: time.Hour, Heard: time.Hour, Online: 9 * time.Hour, Route: r, Distinct: 12, Peak: 11, Lowest: 3, P10: 4, P50: 9, P90: 10})
		}
		if err := c.SaveHours(t.Context(), rows); err != nil {
			t.Fatal(err)
		}
	}
}

// ship has the real sink bring all to an InfluxDB.
func ship(t *testing.T, db *store.Store, d *influxd) {
	t.Helper()
	s, err := series.New(t.Context(), series.Config{Name: "grafana", URL: "http://" + d.address, Bucket: "farebeat/autogen", Timeout: 10 * time.Second},
		series.Options{Counts: db.Counts(), Cursors: db, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	last, err := db.Counts().LastChange(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	ended := make(chan struct{})
	go func() { s.Run(ctx); close(ended) }()
	defer func() { stop(); <-ended }()
	for {
		value, err := db.Meta(ctx, series.CursorName("grafana"))
		if err != nil {
			t.Fatalf("%v; the sink: %+v", err, s.Status())
		}
		if c, err := series.ReadCursor(value); err == nil && c.N == last {
			return
		}
	}
}

// dayInInflux is an InfluxDB with a day in it.
func dayInInflux(t *testing.T) (*influxd, grafanaDay) {
	t.Helper()
	d := startInfluxd(t, false)
	d.must("CREATE DATABASE farebeat")
	db, err := store.Open(t.Context(), storePath(t.TempDir()), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	day := newGrafanaDay(time.Now())
	day.save(t, db.Counts())
	ship(t, db, d)
	return d, day
}

func TestDashboardQueriesAnswerFromARealInfluxDB(t *testing.T) {
	d, day := dayInInflux(t)
	for _, q := range influxQueries(t) {
		for _, span := range []struct {
			length time.Duration
			step   string
		}{{6 * time.Hour, "1m"}, {7 * 24 * time.Hour, "10m"}} {
			text := q.interpolate(day.routes, day.end.Add(-span.length), day.end.Add(time.Second), span.step)
			answer, err := d.query(text)
			if err != nil {
				t.Errorf("%s: %v", q.where, err)
				continue
			}
			for _, column := range emptyColumns(answer) {
				t.Errorf("%s: %s: answers nothing in %s", q.where, text, column)
			}
		}
	}
}

// emptyColumns names the columns without a value in any series; one called "everything" where there is no series.
func emptyColumns(answer []influxSeries) (empty []string) {
	if len(answer) == 0 {
		return []string{"everything"}
	}
	for i, name := range answer[0].Columns {
		if !slices.ContainsFunc(answer, func(s influxSeries) bool {
			return slices.ContainsFunc(s.Values, func(row []any) bool { return row[i] != nil })
		}) {
			empty = append(empty, name)
		}
	}
	return empty
}

// answerOf asks what a panel asks, by its place among the panel's queries, of all of the last six hours.
func answerOf(t *testing.T, d *influxd, day grafanaDay, panel string, n int) []influxSeries {
	t.Helper()
	var of []influxQuery
	for _, q := range influxQueries(t) {
		if q.where == panel {
			of = append(of, q)
		}
	}
	if n >= len(of) {
		t.Fatalf("%s has %d queries", panel, len(of))
	}
	return d.must(of[n].interpolate(day.routes, day.end.Add(-6*time.Hour), day.end.Add(time.Second), "1m"))
}

// Blindness is never a drop: while nothing was heard, or nothing was written down, there is no number of machines, and the band is there.
func TestDashboardsDrawNoNumberWhileBlind(t *testing.T) {
	d, day := dayInInflux(t)
	for panel, n := range map[string]int{"routes.json: Route $route": 3, "routes.json: Share online": 1, "routes.json: Missing machines": 1} {
		for i := range n {
			numbers := 0
			for _, s := range answerOf(t, d, day, panel, i) {
				for _, row := range s.Values {
					at := second(t, row[0])
					if row[1] == nil {
						continue
					}
					numbers++
					if !day.heard(at) {
						t.Fatalf("%s, query %d: %v at %s, when nothing was heard", panel, i, row[1], at)
					}
				}
			}
			if numbers < 200 {
				t.Errorf("%s, query %d: only %d numbers", panel, i, numbers)
			}
		}
		for _, s := range answerOf(t, d, day, panel, bandOf(t, panel)) {
			for _, row := range s.Values {
				at := second(t, row[0])
				if got, want := fmt.Sprint(row[1]), map[bool]string{true: "0", false: "1"}[day.heard(at)]; got != want && !at.Before(day.begin) && at.Before(day.end) {
					t.Fatalf("%s: the band is %s at %s, want %s", panel, got, at, want)
				}
			}
		}
	}
	for panel, want := range map[string]string{
		"routes.json: Online now": "24", "routes.json: Expected now": "30", "routes.json: Share online now": "80", "routes.json: Routes below their threshold": "1",
	} {
		answer := answerOf(t, d, day, panel, 0)
		if len(answer) != 1 || fmt.Sprint(answer[0].Values[0][1]) != want {
			t.Errorf("%s: %+v, want %s", panel, answer, want)
		}
	}
	if missing := answerOf(t, d, day, "routes.json: Missing machines", 0); len(missing) != 1 || missing[0].Tags["route"] != "36" {
		t.Errorf("missing: %d series", len(missing))
	}
}

// bandOf is the place of the query of blindness in a panel.
func bandOf(t *testing.T, panel string) int {
	t.Helper()
	n := -1
	for _, q := range influxQueries(t) {
		if q.where == panel {
			n++
		}
	}
	return n // the last
}

func second(t *testing.T, v any) time.Time {
	t.Helper()
	switch v := v.(type) {
	case float64:
		return time.Unix(int64(v), 0).UTC()
	case json.Number:
		n, err := v.Int64()
		if err == nil {
			return time.Unix(n, 0).UTC()
		}
	}
	t.Fatalf("no time: %v", v)
	return time.Time{}
}
