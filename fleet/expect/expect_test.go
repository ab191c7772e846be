package expect_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/fleet/expect"
	"github.com/farebeat/farebeat/fleet/expect/gtfs"
	"github.com/farebeat/farebeat/fleet/expect/tampa"
)

func tampaFeed(t testing.TB) *gtfs.Feed {
	t.Helper()
	feed, err := tampa.Feed(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return feed
}

func date(t testing.TB, s string) gtfs.Date {
	t.Helper()
	d, err := gtfs.ParseDate(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// The numbers were worked out independently from HART's full feed; the files under
// testdata are the first three columns of that work.
func TestPerHourEqualsIndependentCount(t *testing.T) {
	feed := tampaFeed(t)
	for file, day := range map[string]string{
		"testdata/hart_20180612_tue_expected.csv": "2018-06-12",
		"testdata/hart_20180616_sat_expected.csv": "2018-06-16", // its first hours are Friday's service
	} {
		want := map[string]bool{}
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range strings.Fields(string(b))[1:] {
			want[line] = true
		}
		if len(want) < 500 {
			t.Fatalf("%s: only %d rows", file, len(want))
		}
		for _, r := range expect.PerHour(feed, date(t, day)) {
			line := fmt.Sprintf("%s,%d,%d", r.Route, r.Hour, r.Vehicles)
			if !want[line] {
				t.Errorf("%s: we say %s, the file does not", day, line)
			}
			delete(want, line)
		}
		for line := range want {
			t.Errorf("%s: the file says %s, we do not", day, line)
		}
	}
}

// small is a feed of one service that runs every day in Berlin.
func small(t testing.TB, trips ...string) *gtfs.Feed {
	t.Helper()
	tripRows, stops := "route_id,service_id,trip_id,block_id\n", "trip_id,arrival_time,departure_time,stop_id,stop_sequence\n"
	for _, row := range trips { // route trip block first last
		f := strings.Fields(row)
		tripRows += fmt.Sprintf("%s,D,%s,%s\n", f[0], f[1], strings.Trim(f[2], "-"))
		stops += fmt.Sprintf("%[1]s,%[2]s,%[2]s,a,1\n%[1]s,%[3]s,%[3]s,b,2\n", f[1], f[3], f[4])
	}
	feed, err := gtfs.Read(t.Context(), feedFS(map[string]string{"trips.txt": tripRows, "stop_times.txt": stops}))
	if err != nil {
		t.Fatal(err)
	}
	return feed
}

func rows(rs []expect.RouteHour) []string {
	var out []string
	for _, r := range rs {
		out = append(out, fmt.Sprintf("%s %02d %d", r.Route, r.Hour, r.Vehicles))
	}
	return out
}

func TestPerHourRules(t *testing.T) {
	for name, tc := range map[string]struct {
		trips []string
		want  []string
	}{
		"layover of 30 minutes belongs to the trip before it": {
			[]string{"A t1 b1 07:00:00 07:50:00", "B t2 b1 08:20:00 08:40:00"},
			[]string{"A 07 1", "A 08 1", "B 08 1"},
		},
		"layover of 31 minutes belongs to nobody": {
			[]string{"A t1 b1 07:00:00 07:50:00", "B t2 b1 08:21:00 08:40:00"},
			[]string{"A 07 1", "B 08 1"},
		},
		"one vehicle after another is one vehicle": {
			[]string{"A t1 b1 07:00:00 07:30:00", "A t2 b2 07:30:00 08:00:00"},
			[]string{"A 07 1"},
		},
		"a block is one vehicle, though two of its trips overlap": {
			[]string{"A t1 b1 07:00:00 07:50:00", "A t2 b1 07:10:00 07:20:00", "A t3 b1 07:30:00 08:10:00"},
			[]string{"A 07 1", "A 08 1"},
		},
		"trips without a block are vehicles of their own": {
			[]string{"A t1 - 07:00:00 07:30:00", "A t2 - 07:29:59 08:00:00"},
			[]string{"A 07 2"},
		},
		"after 24:00 it is the next calendar date's early hours": {
			[]string{"N t1 b1 23:30:00 25:10:00"},
			[]string{"N 00 1", "N 01 1", "N 23 1"},
		},
		"a trip of no length is not seen": {
			[]string{"A t1 b1 07:00:00 07:00:00", "A t2 b2 09:00:00 09:00:01"},
			[]string{"A 09 1"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := rows(expect.PerHour(small(t, tc.trips...), date(t, "2026-11-20")))
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// GTFS counts from noon minus twelve hours: on the night the clock goes back in
// Berlin, stop time 01:30 is 01:30 by the winter clock less an hour's shift.
func TestNightsWhenTheClockChanges(t *testing.T) {
	feed := small(t, "A t1 b1 01:30:00 05:00:00")
	for day, want := range map[string][]string{
		"2026-10-24": {"A 01 1", "A 02 1", "A 03 1", "A 04 1"},
		"2026-10-25": {"A 02 1", "A 03 1", "A 04 1"}, // noon-12h is 01:00 summer time: the trip begins at 02:30 summer time
		"2026-03-29": {"A 00 1", "A 01 1", "A 03 1", "A 04 1"},
	} {
		if diff := cmp.Diff(want, rows(expect.PerHour(feed, date(t, day)))); diff != "" {
			t.Errorf("%s: %s", day, diff)
		}
	}
}

func TestTimetableExpectsPerHourAndPerInstant(t *testing.T) {
	table := expect.NewTimetable(small(t, "A t1 b1 06:00:00 09:00:00", "A t2 b2 06:40:00 09:00:00"))
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	for at, want := range map[string]expect.Expectation{
		"05:49": {Exact: true, Source: "timetable", SampleSize: 1},
		"05:55": {Exact: true, Source: "timetable", SampleSize: 1},
		"06:05": {Expected: 2, Now: 1, Lowest: 0, Exact: true, Source: "timetable", SampleSize: 1},
		"06:20": {Expected: 2, Now: 1, Lowest: 1, Exact: true, Source: "timetable", SampleSize: 1},
		"06:45": {Expected: 2, Now: 2, Lowest: 1, Exact: true, Source: "timetable", SampleSize: 1},
		"07:30": {Expected: 2, Now: 2, Lowest: 2, Exact: true, Source: "timetable", SampleSize: 1},
		"08:55": {Expected: 2, Now: 2, Lowest: 0, Exact: true, Source: "timetable", SampleSize: 1},
	} {
		when, err := time.ParseInLocation("2006-01-02 15:04", "2026-11-20 "+at, berlin)
		if err != nil {
			t.Fatal(err)
		}
		got, ok := table.Expect("A", when)
		if diff := cmp.Diff(want, got); diff != "" || !ok {
			t.Errorf("%s: ok=%v %s", at, ok, diff)
		}
	}
	if _, ok := table.Expect("Z", time.Now()); ok {
		t.Error("the timetable answers for a route that it does not have")
	}
}

// A feed that has expired, or has not begun, does not expect an empty city: the next source is asked. Within
// its dates a route that does not run today is expected to have none.
func TestTimetableSpeaksOfItsDatesOnly(t *testing.T) {
	feed, err := gtfs.Read(t.Context(), feedFS(map[string]string{
		"calendar.txt":   "service_id,monday,tuesday,wednesday,thursday,friday,saturday,sunday,start_date,end_date\nD,1,1,1,1,1,1,1,20260201,20261120\nS,0,0,0,0,0,1,0,20260201,20261120\n",
		"trips.txt":      "route_id,service_id,trip_id\nA,D,t1\nS,S,t2\n",
		"stop_times.txt": "trip_id,arrival_time,departure_time\nt1,00:00:00,00:00:00\nt1,25:00:00,25:00:00\nt2,00:00:00,00:00:00\nt2,24:00:00,24:00:00\n",
	}))
	if err != nil {
		t.Fatal(err)
	}
	table := expect.NewTimetable(feed)
	chain := expect.Chain{table, expect.NewByHand([]expect.RouteHour{{Route: "A", Hour: 0, Vehicles: 7}}, feed.Location)}
	for at, want := range map[string]string{
		"2026-01-31 00:30": "7 hand, S 0 none []", "2026-02-01 00:30": "1 timetable, S 0 timetable [A]", "2026-11-14 00:30": "2 timetable, S 1 timetable [A S]",
		"2026-11-20 00:30": "2 timetable, S 0 timetable [A]", "2026-11-21 00:30": "7 hand, S 0 none []",
	} {
		when, err := time.ParseInLocation("2006-01-02 15:04", at, feed.Location)
		if err != nil {
			t.Fatal(err)
		}
		a, _ := chain.Expect("A", when)
		s, _ := chain.Expect("S", when)
		if got := fmt.Sprint(a.Expected, " ", a.Source, ", S ", s.Expected, " ", s.Source, " ", table.Routes(when)); got != want {
			t.Errorf("%s: %s, want %s", at, got, want)
		}
	}
}

// Of a service by headway only what is there in every phase may be demanded.
func TestTimetableByHeadway(t *testing.T) {
	feed, err := gtfs.Read(t.Context(), feedFS(map[string]string{
		"trips.txt":       "route_id,service_id,trip_id\nA,D,t1\n",
		"stop_times.txt":  "trip_id,arrival_time,departure_time\nt1,00:00:00,00:00:00\nt1,01:30:00,01:30:00\n",
		"frequencies.txt": "trip_id,start_time,end_time,headway_secs\nt1,06:00:00,12:00:00,3600\n",
	}))
	if err != nil {
		t.Fatal(err)
	}
	e, _ := expect.NewTimetable(feed).Expect("A", time.Date(2026, 11, 20, 9, 15, 0, 0, feed.Location))
	if want := (expect.Expectation{Expected: 2, Now: 2, Lowest: 1, Exact: true, Source: "timetable", SampleSize: 1}); e != want {
		t.Errorf("%+v", e)
	}
}

func TestHandComesBeforeTimetable(t *testing.T) {
	feed := small(t, "A t1 b1 06:00:00 09:00:00", "B t2 b2 06:00:00 09:00:00")
	hand := expect.NewByHand([]expect.RouteHour{{Route: "A", Hour: 7, Vehicles: 5}, {Route: "C", Hour: 7, Vehicles: 1}}, feed.Location)
	chain := expect.Chain{hand, expect.NewTimetable(feed)}
	at := time.Date(2026, 11, 20, 7, 30, 0, 0, feed.Location)
	for route, want := range map[string]string{"A": "5 hand", "B": "1 timetable", "C": "1 hand", "D": "0 none"} {
		e, _ := chain.Expect(route, at)
		if got := fmt.Sprint(e.Expected, " ", e.Source); got != want {
			t.Errorf("%s: %s, want %s", route, got, want)
		}
	}
	if e, _ := chain.Expect("A", at.Add(time.Hour)); e.Source != expect.SourceTimetable {
		t.Errorf("A at 08:30: source %s, want the timetable: by hand only 07 is set", e.Source)
	}
	if diff := cmp.Diff([]string{"A", "B", "C"}, chain.Routes(at)); diff != "" {
		t.Error(diff)
	}
}

func TestReadTimetable(t *testing.T) {
	good := "\ufeffdate,route_id,hour,expected_vehicles_in_service,x\r\n2024-08-11,01,6,4,y\r\n2024-08-11,01,7,5,y\r\n"
	table, err := expect.ReadTimetable("e.csv", strings.NewReader(good), time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	for hour, want := range map[int]int{5: 0, 6: 4, 7: 5, 8: 0} {
		if e, ok := table.Expect("01", time.Date(2024, 8, 11, hour, 30, 0, 0, time.UTC)); !ok || e.Expected != want {
			t.Errorf("hour %d: %v %v, want %d", hour, e, ok, want)
		}
	}
	if e, _ := table.Expect("01", time.Date(2024, 8, 11, 7, 3, 0, 0, time.UTC)); e.Lowest != 4 {
		t.Errorf("three minutes after the change of hour the lowest is %d, want 4", e.Lowest)
	}
	if _, ok := table.Expect("01", time.Date(2024, 8, 12, 7, 30, 0, 0, time.UTC)); ok {
		t.Error("answers for a date that it does not have")
	}
	for name, tc := range map[string][2]string{
		"empty":        {"", "e.csv: is empty: want a header with route_id,hour,expected_vehicles_in_service"},
		"no hour":      {"route_id,expected_vehicles_in_service\n", "e.csv line 1: hour is missing from the header"},
		"hour 24":      {"route_id,hour,expected_vehicles_in_service\n1,24,3\n", `e.csv line 2: hour "24": want 0 to 23`},
		"negative":     {"route_id,hour,expected_vehicles_in_service\n1,4,-3\n", `e.csv line 2: expected_vehicles_in_service "-3": want 0 to 100000`},
		"no route":     {"route_id,hour,expected_vehicles_in_service\n,4,3\n", "e.csv line 2: route_id is empty"},
		"bad date":     {"date,route_id,hour,expected_vehicles_in_service\n11.8.2024,1,4,3\n", `e.csv line 2: date "11.8.2024": want YYYY-MM-DD or YYYYMMDD`},
		"short record": {"route_id,hour,expected_vehicles_in_service\n1,4\n", "read e.csv: record on line 2: wrong number of fields"},
	} {
		if _, err := expect.ReadTimetable("e.csv", strings.NewReader(tc[0]), time.UTC); err == nil || err.Error() != tc[1] {
			t.Errorf("%s:\n got %v\nwant %s", name, err, tc[1])
		}
	}
}

func FuzzReadTimetable(f *testing.F) {
	f.Add("date,route_id,hour,expected_vehicles_in_service\n2024-08-11,01,6,4\n")
	f.Add("route_id,hour,expected_vehicles_in_service\n\"a,b\",23,0\n")
	f.Fuzz(func(t *testing.T, s string) {
		table, err := expect.ReadTimetable("f", strings.NewReader(s), time.UTC)
		if err != nil {
			return
		}
		for _, r := range table.Routes(time.Unix(0, 0)) {
			if e, _ := table.Expect(r, time.Unix(0, 0)); e.Expected < 0 || e.Lowest > e.Expected {
				t.Errorf("%q: %+v", r, e)
			}
		}
	})
}

func BenchmarkPerHourTampaWeekday(b *testing.B) {
	feed := tampaFeed(b)
	for b.Loop() {
		expect.PerHour(feed, gtfs.Date{Year: 2018, Month: 6, Day: 12})
	}
}

func BenchmarkTimetableExpect(b *testing.B) {
	table := expect.NewTimetable(tampaFeed(b))
	at := time.Date(2018, 6, 12, 12, 0, 0, 0, time.UTC)
	routes := table.Routes(at)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		table.Expect(routes[i%len(routes)], at)
	}
}
