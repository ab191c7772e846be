package presence

import (
	"cmp"
	"encoding/csv"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/farebeat/farebeat/fleet/counts"
	"github.com/farebeat/farebeat/schemas"
)

// report is one heartbeat of a recording.
type report struct {
	at             int64
	vehicle, route string
	nth            int // of its vehicle
	end            bool
}

func readCSV(t *testing.T, name string) [][]string {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	return rows[1:]
}

// boston turns intervals into heartbeats every 15 s. An interval ends by the heartbeat
// of the next at the same second, or by readyForShutdown.
func boston(t *testing.T) []report {
	t.Helper()
	byVehicle := map[string][]report{}
	for _, r := range readCSV(t, "testdata/mbta_20240811_intervals.csv") {
		from, err1 := strconv.ParseInt(r[2], 10, 64)
		to, err2 := strconv.ParseInt(r[3], 10, 64)
		if err1 != nil || err2 != nil {
			t.Fatalf("interval %v", r)
		}
		beats := byVehicle[r[0]]
		if n := len(beats); n > 0 && beats[n-1].end && beats[n-1].at == from {
			beats = beats[:n-1]
		}
		for at := from; at < to; at += 15 {
			beats = append(beats, report{at: at, vehicle: r[0], route: r[1], nth: len(beats)})
		}
		byVehicle[r[0]] = append(beats, report{at: to, vehicle: r[0], route: r[1], nth: len(beats), end: true})
	}
	var all []report
	for _, beats := range byVehicle {
		all = append(all, beats...)
	}
	return all
}

// TestARealSundayIsCountedExactly plays seven routes of Boston and compares the distinct
// vehicles and the peak of every route and hour, whoever is told first within a second.
func TestARealSundayIsCountedExactly(t *testing.T) {
	loc, err := time.LoadLocation("America/New_York")
	if err != nil {
		t.Fatal(err)
	}
	reports := boston(t)
	turn := map[string]uint64{}
	rnd := rand.New(rand.NewPCG(20240811, 1))
	for _, r := range reports {
		if turn[r.vehicle] == 0 {
			turn[r.vehicle] = rnd.Uint64()
		}
	}
	slices.SortFunc(reports, func(a, b report) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(turn[a.vehicle], turn[b.vehicle]), cmp.Compare(a.nth, b.nth))
	})
	got := map[string]counts.HourRow{}
	for _, h := range playReports(t, reports, loc) {
		date, hour := h.Local(loc)
		got[fmt.Sprintf("%s %s %d", date, h.Route, hour)] = h
	}
	want := readCSV(t, "testdata/mbta_20240811_observed.csv")
	for _, w := range want {
		key := fmt.Sprintf("%s %s %s", w[0], w[1], w[2])
		h, ok := got[key]
		if !ok || strconv.Itoa(h.Distinct) != w[3] || strconv.Itoa(h.Peak) != w[4] {
			t.Errorf("%s: distinct %d, peak %d, want %s and %s", key, h.Distinct, h.Peak, w[3], w[4])
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d rows, want %d", len(got), len(want))
	}
}

func playReports(t *testing.T, reports []report, loc *time.Location) []counts.HourRow {
	t.Helper()
	next := reports[0].at / 3600 * 3600
	board := counts.New(counts.Config{Start: time.Unix(next, 0), Location: loc})
	p := New(Config{}, board)
	var rows []counts.HourRow
	tick := func(until int64) {
		for ; next <= until; next += 15 {
			now := time.Unix(next, 0)
			for _, tr := range p.Tick(now) {
				if tr.To != schemas.Up && tr.To != schemas.Parked {
					t.Fatalf("a machine that was never silent: %+v", tr)
				}
			}
			if next%60 == 0 {
				board.Minute(now)
				rows = append(rows, board.Hours(now)...)
			}
		}
	}
	for _, r := range reports {
		tick(r.at)
		now := time.Unix(r.at, 0)
		hb := schemas.Heartbeat{Seq: uint64(r.nth + 1), Boot: "b", At: now, Vehicle: r.vehicle, Route: r.route, State: schemas.Running}
		if r.end {
			hb.State = schemas.ReadyForShutdown
		}
		p.Heartbeat(now, r.vehicle+"-1", &hb)
	}
	tick(next + 3600)
	return rows
}
