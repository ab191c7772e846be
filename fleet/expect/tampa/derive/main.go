// Command derive makes the small timetable that Farebeat ships from HART's GTFS feed.
package main

import (
	"archive/zip"
	"context"
	"encoding/csv"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/farebeat/farebeat/fleet/expect/gtfs"
)

// pattern is one service of the derived feed and the real date that it was taken from.
type pattern struct {
	id, days string // days: seven flags from Monday
	date     gtfs.Date
}

func main() {
	feed := flag.String("feed", "", "HART's GTFS feed of June 2018 (zip or folder)")
	out := flag.String("out", "hart.zip", "where to write the derived feed")
	flag.Parse()
	if err := derive(*feed, *out); err != nil {
		fmt.Fprintln(os.Stderr, "derive:", err)
		os.Exit(1)
	}
}

func derive(feedPath, out string) error {
	feed, err := gtfs.Open(context.Background(), feedPath)
	if err != nil {
		return err
	}
	patterns := []pattern{
		{"MoTh", "1111000", gtfs.Date{Year: 2018, Month: 6, Day: 12}},
		{"Fr", "0000100", gtfs.Date{Year: 2018, Month: 6, Day: 15}},
		{"Sa", "0000010", gtfs.Date{Year: 2018, Month: 6, Day: 16}},
		{"Su", "0000001", gtfs.Date{Year: 2018, Month: 6, Day: 17}},
	}
	calendar := [][]string{{"service_id", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday", "start_date", "end_date"}}
	trips := [][]string{{"route_id", "service_id", "trip_id", "block_id"}}
	stops := [][]string{{"trip_id", "arrival_time", "departure_time", "stop_id", "stop_sequence"}}
	for _, p := range patterns {
		row := []string{p.id}
		for _, flag := range p.days {
			row = append(row, string(flag))
		}
		calendar = append(calendar, append(row, "20000101", "20991231"))
		origin := p.date.ServiceStart(feed.Location)
		for _, d := range feed.Duties(p.date) {
			id := p.id + "-" + d.Trip
			trips = append(trips, []string{d.Route, p.id, id, d.Vehicle})
			from, to := clock(d.From.Sub(origin)), clock(d.To.Sub(origin))
			stops = append(stops, []string{id, from, from, "first", "1"}, []string{id, to, to, "last", "2"})
		}
	}
	return write(out, map[string][][]string{
		"agency.txt":     {{"agency_name", "agency_url", "agency_timezone"}, {"Hillsborough Area Regional Transit", "http://www.gohart.org", feed.Location.String()}},
		"calendar.txt":   calendar,
		"trips.txt":      trips,
		"stop_times.txt": stops,
	}, []string{"agency.txt", "calendar.txt", "trips.txt", "stop_times.txt"})
}

func write(out string, files map[string][][]string, order []string) (err error) {
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := f.Close(); err == nil {
			err = closeErr
		}
	}()
	archive := zip.NewWriter(f)
	for _, name := range order {
		w, err := archive.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Deflate})
		if err != nil {
			return err
		}
		if err := csv.NewWriter(w).WriteAll(files[name]); err != nil {
			return err
		}
	}
	return archive.Close()
}

func clock(d time.Duration) string {
	return fmt.Sprintf("%02d:%02d:%02d", int(d.Hours()), int(d.Minutes())%60, int(d.Seconds())%60)
}
