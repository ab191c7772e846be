package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/farebeat/farebeat/configs"
	"github.com/farebeat/farebeat/fleet/counts"
	"github.com/farebeat/farebeat/fleet/expect"
	"github.com/farebeat/farebeat/fleet/store"
)

// put writes a file in one step, as an operator should.
func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// putFeed writes a feed in Berlin that runs from 2026 until a date, with so many vehicles all day on each of routes.
func putFeed(t *testing.T, dir, end string, vehicles int, routes ...string) {
	t.Helper()
	trips, stops := "route_id,service_id,trip_id\n", "trip_id,arrival_time,departure_time\n"
	for _, r := range routes {
		for v := range vehicles {
			trips += fmt.Sprintf("%s,D,%s-%d\n", r, r, v)
			stops += fmt.Sprintf("%[1]s-%[2]d,00:00:00,00:00:00\n%[1]s-%[2]d,24:00:00,24:00:00\n", r, v)
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"agency.txt":     "agency_timezone\nEurope/Berlin\n",
		"calendar.txt":   "service_id,monday,tuesday,wednesday,thursday,friday,saturday,sunday,start_date,end_date\nD,1,1,1,1,1,1,1,20260101," + end + "\n",
		"trips.txt":      trips,
		"stop_times.txt": stops,
	} {
		put(t, filepath.Join(dir, name), text)
	}
}

// A service reads a new feed by itself, asks for no more than both while it changes, keeps the old one if the new one is
// broken, and learns from its own counts every night.
func TestExpectationsFollowTheirFiles(t *testing.T) {
	dir := t.TempDir()
	feed := filepath.Join(dir, "feed")
	putFeed(t, feed, "20261231", 3, "A", "B")
	synctest.Test(t, func(t *testing.T) {
		berlin, err := time.LoadLocation("Europe/Berlin")
		if err != nil {
			t.Fatal(err)
		}
		start := time.Date(2026, 11, 23, 8, 0, 0, 0, berlin)
		origin := time.Now()
		now := func() time.Time { return start.Add(time.Since(origin)) }
		db, err := store.Open(t.Context(), filepath.Join(dir, "farebeat.db"), store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		saveHours(t, db, berlin, start, "H", 5)
		saveHours(t, db, berlin, start, "B", 6)

		c := configs.Default()
		c.TimeZone, c.Fleet.GTFS = "Europe/Berlin", feed
		c.Fleet.Expected = []configs.HandExpectation{{Route: "hand", Hours: "0-24", Expected: 9}}
		var log lockedBuffer
		e, err := newExpectations(t.Context(), c, now, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		says := func() string {
			var s []string
			for _, r := range []string{"hand", "A", "B", "C", "H"} {
				x, _ := e.live.Expect(r, now())
				s = append(s, fmt.Sprintf("%s %d %s", r, x.Expected, x.Source))
			}
			return strings.Join(s, ", ")
		}
		check := func(what, want string) {
			t.Helper()
			synctest.Wait()
			if got := says(); got != want {
				t.Errorf("%s:\n got %s\nwant %s", what, got, want)
			}
		}
		check("at the start", "hand 9 hand, A 3 timetable, B 3 timetable, C 0 none, H 0 none")
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); e.run(ctx, db) }()
		time.Sleep(time.Second)
		check("history is learned, and counts at once: a restart closes no fault", "hand 9 hand, A 3 timetable, B 3 timetable, C 0 none, H 5 history")

		put(t, filepath.Join(feed, "trips.txt"), "route_id\nbroken\n")
		time.Sleep(3 * watchEvery)
		check("a broken feed", "hand 9 hand, A 3 timetable, B 3 timetable, C 0 none, H 5 history")
		if e.failed.Load() != 1 || !strings.Contains(string(log.bytes()), "service_id is missing from the header") {
			t.Errorf("%d failed: %s", e.failed.Load(), string(log.bytes()))
		}
		generation := e.live.Generation()
		putFeed(t, feed, "20261130", 4, "A", "C")
		time.Sleep(3 * watchEvery)
		check("a new feed", "hand 9 hand, A 3 timetable, B 0 none, C 0 timetable, H 5 history")
		if e.live.Generation() != generation+1 {
			t.Errorf("generation %d after %d", e.live.Generation(), generation)
		}
		if !strings.Contains(string(log.bytes()), "the timetable ends with 2026-11-30, in 7 days") || e.daysLeft() != 7 {
			t.Errorf("%v days left: %s", e.daysLeft(), string(log.bytes()))
		}
		time.Sleep(expect.Transition)
		check("the new feed has settled", "hand 9 hand, A 4 timetable, B 0 none, C 4 timetable, H 5 history")

		saveHours(t, db, berlin, now().AddDate(0, 0, 5), "A", 2) // by then history knows A, too
		saveHours(t, db, berlin, now().AddDate(0, 0, 5), "H", 7)
		time.Sleep(10 * 24 * time.Hour)
		check("the feed has expired: history answers, that of the last eight weeks", "hand 9 hand, A 2 history, B 0 none, C 0 none, H 7 history")
		if !strings.Contains(string(log.bytes()), "the timetable has expired") {
			t.Error(string(log.bytes()))
		}
		stop()
		<-done

		// Route B is gone for the next run too, which never saw the first feed.
		if e, err = newExpectations(t.Context(), c, now, slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
		if err := e.learn(t.Context(), db, now()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(expect.Transition)
		check("after a restart", "hand 9 hand, A 2 history, B 0 none, C 0 none, H 7 history")
		putFeed(t, feed, "20270331", 2, "A", "B")
		if err := e.watcher.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(expect.Transition)
		check("route B is back", "hand 9 hand, A 2 timetable, B 2 timetable, C 0 none, H 7 history")
		if err := e.learn(t.Context(), db, now()); err != nil {
			t.Fatal(err)
		}
		if stored, err := recallRetired(t.Context(), db); err != nil || len(stored.Gone) != 0 || len(stored.Named) != 2 {
			t.Errorf("%v %+v", err, stored) // C is not gone: history never knew it
		}
	})
}

// saveHours writes counts of a route for the eight weeks before now.
func saveHours(t *testing.T, db *store.Store, zone *time.Location, now time.Time, route string, peak int) {
	t.Helper()
	from, to := expect.HistoryWindow(now, zone)
	var rows []counts.HourRow
	for at := from; at.Before(to); at = at.Add(time.Hour) {
		rows = append(rows, counts.HourRow{Start: at, Length: time.Hour, Heard: time.Hour, Route: route, Peak: peak})
	}
	if err := db.Counts().SaveHours(t.Context(), rows); err != nil {
		t.Fatal(err)
	}
}

func TestQuietHour(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	for now, want := range map[string]string{
		"2026-11-23T02:00:00Z": "2026-11-23T02:15:00Z", "2026-11-23T02:15:00Z": "2026-11-24T02:15:00Z",
		"2026-10-24T12:00:00Z": "2026-10-25T02:15:00Z", "2026-03-28T12:00:00Z": "2026-03-29T01:15:00Z",
	} {
		at, err := time.Parse(time.RFC3339, now)
		if err != nil {
			t.Fatal(err)
		}
		if got := quietHour(at, berlin).UTC().Format(time.RFC3339); got != want {
			t.Errorf("after %s: %s, want %s", now, got, want)
		}
	}
}
