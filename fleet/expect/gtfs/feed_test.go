package gtfs_test

import (
	"archive/zip"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/fleet/expect/gtfs"
)

const calendarHeader = "service_id,monday,tuesday,wednesday,thursday,friday,saturday,sunday,start_date,end_date\n"

func files(change map[string]string) map[string]string {
	all := map[string]string{
		"agency.txt":     "agency_name,agency_url,agency_timezone\nX,http://x,Europe/Berlin\n",
		"calendar.txt":   calendarHeader + "D,1,1,1,1,1,0,0,20260101,20261231\n",
		"trips.txt":      "route_id,service_id,trip_id,block_id\nA,D,t1,b1\n",
		"stop_times.txt": "trip_id,arrival_time,departure_time,stop_id,stop_sequence\nt1,7:00:00,07:01:00,s,1\nt1,,,s,2\nt1,08:00:00,08:00:00,s,3\n",
	}
	maps.Copy(all, change)
	maps.DeleteFunc(all, func(_, v string) bool { return v == "-" })
	return all
}

func read(t testing.TB, change map[string]string) (*gtfs.Feed, error) {
	fsys := fstest.MapFS{}
	for name, text := range files(change) {
		fsys[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return gtfs.Read(t.Context(), fsys)
}

func TestBrokenFeeds(t *testing.T) {
	stops := func(row string) map[string]string {
		return map[string]string{"stop_times.txt": "trip_id,arrival_time,departure_time\nt1,07:00:00,07:00:00\n" + row}
	}
	for name, tc := range map[string]struct {
		change map[string]string
		want   string
	}{
		"minutes out of range": {stops("t1,25:61:00,25:61:00\n"), `stop_times.txt line 3: arrival_time "25:61:00": minutes out of range`},
		"seconds out of range": {stops("t1,08:00:00,08:00:60\n"), `stop_times.txt line 3: departure_time "08:00:60": seconds out of range`},
		"hours out of range":   {stops("t1,72:00:00,72:00:00\n"), `stop_times.txt line 3: arrival_time "72:00:00": hours out of range, at most 71`},
		"not a time":           {stops("t1,noon,noon\n"), `stop_times.txt line 3: arrival_time "noon": want HH:MM:SS`},
		"negative":             {stops("t1,-1:00:00,08:00:00\n"), `stop_times.txt line 3: arrival_time "-1:00:00": want HH:MM:SS`},
		"leaves before it is there": {
			stops("t1,08:00:00,07:59:00\n"),
			`stop_times.txt line 3: departure_time "07:59:00" is before arrival_time "08:00:00"`,
		},
		"unknown trip": {stops("t9,08:00:00,08:00:00\n"), `stop_times.txt line 3: trip_id "t9": not in trips.txt`},
		"too many fields": {
			stops("t1,08:00:00,08:00:00,x\n"),
			`stop_times.txt line 3: has 4 fields, the header has 3`,
		},
		"open quote": {stops("\"t1,08:00:00,08:00:00\n"), `stop_times.txt line 3: extraneous or missing " in quoted-field`},
		"missing column": {
			map[string]string{"stop_times.txt": "trip_id,departure_time\n"},
			`stop_times.txt line 1: arrival_time is missing from the header; the file has trip_id, departure_time`,
		},
		"no stop_times": {map[string]string{"stop_times.txt": "-"}, `stop_times.txt: is missing: this is no GTFS feed`},
		"no trips":      {map[string]string{"trips.txt": "-"}, `trips.txt: is missing from the feed`},
		"empty trips":   {map[string]string{"trips.txt": ""}, `trips.txt: is empty: a header line is required`},
		"no agency":     {map[string]string{"agency.txt": "agency_timezone\n"}, `agency.txt: names no agency`},
		"unknown zone":  {map[string]string{"agency.txt": "agency_timezone\nMars/Olympus\n"}, `agency.txt line 2: agency_timezone "Mars/Olympus": not a time zone of the IANA database`},
		"no calendar":   {map[string]string{"calendar.txt": "-"}, `calendar.txt: and calendar_dates.txt name no service: at least one of them is required`},
		"unknown service": {
			map[string]string{"trips.txt": "route_id,service_id,trip_id\nA,X,t1\n"},
			`trips.txt line 2: service_id "X": in neither calendar.txt nor calendar_dates.txt`,
		},
		"trip twice":      {map[string]string{"trips.txt": "route_id,service_id,trip_id\nA,D,t1\nA,D,t1\n"}, `trips.txt line 3: trip_id "t1": given twice`},
		"empty route":     {map[string]string{"trips.txt": "route_id,service_id,trip_id\n,D,t1\n"}, `trips.txt line 2: route_id is empty`},
		"date":            {map[string]string{"calendar.txt": calendarHeader + "D,1,1,1,1,1,0,0,2026-01-01,20261231\n"}, `calendar.txt line 2: start_date "2026-01-01": want YYYYMMDD`},
		"month 13":        {map[string]string{"calendar.txt": calendarHeader + "D,1,1,1,1,1,0,0,20261301,20261231\n"}, `calendar.txt line 2: start_date "20261301": want YYYYMMDD`},
		"ends early":      {map[string]string{"calendar.txt": calendarHeader + "D,1,1,1,1,1,0,0,20260201,20260101\n"}, `calendar.txt line 2: end_date 2026-01-01 is before start_date 2026-02-01`},
		"monday maybe":    {map[string]string{"calendar.txt": calendarHeader + "D,2,1,1,1,1,0,0,20260101,20261231\n"}, `calendar.txt line 2: monday "2": want 0 or 1`},
		"exception 3":     {map[string]string{"calendar_dates.txt": "service_id,date,exception_type\nD,20260704,3\n"}, `calendar_dates.txt line 2: exception_type "3": want 1 (added) or 2 (removed)`},
		"headway 0":       {map[string]string{"frequencies.txt": "trip_id,start_time,end_time,headway_secs\nt1,07:00:00,08:00:00,0\n"}, `frequencies.txt line 2: headway_secs "0": want a whole number of seconds above 0`},
		"frequency of t9": {map[string]string{"frequencies.txt": "trip_id,start_time,end_time,headway_secs\nt9,07:00:00,08:00:00,60\n"}, `frequencies.txt line 2: trip_id "t9": not in trips.txt`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := read(t, tc.change)
			if err == nil || err.Error() != tc.want {
				t.Errorf("\n got %v\nwant %s", err, tc.want)
			}
			var where *gtfs.Error
			if !errors.As(err, &where) {
				t.Errorf("%T is not a *gtfs.Error", err)
			}
		})
	}
}

func TestToleratedForms(t *testing.T) {
	plain, err := read(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	day := gtfs.Date{Year: 2026, Month: 11, Day: 20}
	want := plain.Duties(day)
	if len(want) != 1 || want[0].To.Sub(want[0].From) != 59*time.Minute {
		t.Fatalf("the plain feed gives %v", want)
	}
	for name, change := range map[string]map[string]string{
		"byte order mark":    {"trips.txt": "\ufeffroute_id,service_id,trip_id,block_id\nA,D,t1,b1\n"},
		"CRLF":               {"stop_times.txt": strings.ReplaceAll(files(nil)["stop_times.txt"], "\n", "\r\n")},
		"quotes and order":   {"trips.txt": "block_id,\"trip_id\",service_id,route_id,extra\n\"b1\",\"t1\",D,A,\"x, y\"\n"},
		"blank lines":        {"trips.txt": "route_id,service_id,trip_id,block_id\nA,D,t1,b1\n\n \n"},
		"spaces":             {"trips.txt": "route_id, service_id, trip_id, block_id\nA, D, t1, b1\n"},
		"dates alone":        {"calendar.txt": "-", "calendar_dates.txt": "service_id,date,exception_type\nD,20261120,1\n"},
		"no block, one trip": {"trips.txt": "route_id,service_id,trip_id,block_id\nA,D,t1,b1\nA,D,t2,\n"}, // t2 has no stop times: left out
	} {
		feed, err := read(t, change)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(want, feed.Duties(day)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if name == "no block, one trip" && (len(feed.Warnings) != 1 || !strings.Contains(feed.Warnings[0], `"t2"`)) {
			t.Errorf("warnings: %v", feed.Warnings)
		}
	}
}

func TestCalendarExceptionsAndFrequencies(t *testing.T) {
	feed, err := read(t, map[string]string{
		"calendar_dates.txt": "service_id,date,exception_type\nD,20261120,2\nD,20261121,1\n",
		"frequencies.txt":    "trip_id,start_time,end_time,headway_secs\nt1,06:00:00,07:00:00,1200\n",
	})
	if err != nil {
		t.Fatal(err)
	}
	for day, want := range map[int]int{19: 3, 20: 0, 21: 3, 22: 0} { // Thursday, Friday removed, Saturday added, Sunday
		duties := feed.Duties(gtfs.Date{Year: 2026, Month: 11, Day: day})
		if len(duties) != want {
			t.Errorf("2026-11-%d: %d duties, want %d: %v", day, len(duties), want, duties)
		}
		for i := 1; i < len(duties); i++ {
			if duties[i].Vehicle == duties[i-1].Vehicle || duties[i].From.Sub(duties[i-1].From) != 20*time.Minute {
				t.Errorf("frequency duties: %v", duties)
			}
		}
	}
}

func TestOpenZipFolderAndNested(t *testing.T) {
	dir := t.TempDir()
	folder := filepath.Join(dir, "feed")
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	zipPath := filepath.Join(dir, "feed.zip")
	out, err := os.Create(zipPath)
	if err != nil {
		t.Fatal(err)
	}
	archive := zip.NewWriter(out)
	for name, text := range files(nil) {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		w, err := archive.Create("inner/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(archive.Close(), out.Close()); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{folder, zipPath} {
		feed, err := gtfs.Open(t.Context(), path)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		if got := feed.Routes(); !cmp.Equal(got, []string{"A"}) {
			t.Errorf("%s: routes %v", path, got)
		}
	}
	notZip := filepath.Join(folder, "trips.txt")
	if _, err := gtfs.Open(t.Context(), notZip); err == nil || !strings.Contains(err.Error(), "a feed is a zip file or a folder with stop_times.txt") {
		t.Errorf("a text file as feed: %v", err)
	}
}

func FuzzRead(f *testing.F) {
	for _, name := range []string{"calendar.txt", "calendar_dates.txt", "trips.txt", "stop_times.txt", "frequencies.txt", "agency.txt"} {
		f.Add(name, files(nil)[name])
	}
	f.Add("calendar_dates.txt", "service_id,date,exception_type\nD,20261120,2\n")
	f.Add("frequencies.txt", "trip_id,start_time,end_time,headway_secs\nt1,06:00:00,26:00:00,60\n")
	f.Add("stop_times.txt", "\ufefftrip_id,arrival_time,departure_time\r\nt1,\"25:61:00\",\r\n")
	f.Add("stop_times.txt", "trip_id,arrival_time,departure_time\nt1,00:00:00,00:01:00\n") // one stop
	f.Fuzz(func(t *testing.T, name, text string) {
		if strings.ContainsAny(name, "/\\\x00") || name == "." || name == "" || name == ".." {
			return
		}
		feed, err := read(t, map[string]string{name: text})
		if err != nil {
			return
		}
		for _, d := range feed.Duties(gtfs.Date{Year: 2026, Month: 11, Day: 20}) {
			if d.To.Before(d.From) || d.Vehicle == "" || d.Route == "" {
				t.Errorf("duty %+v", d)
			}
		}
	})
}

func BenchmarkReadStopTimes(b *testing.B) {
	var text strings.Builder
	text.WriteString("trip_id,arrival_time,departure_time,stop_id,stop_sequence\n")
	for range 10_000 {
		text.WriteString("t1,07:00:00,07:00:30,stop,1\n")
	}
	b.SetBytes(int64(text.Len()))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := read(b, map[string]string{"stop_times.txt": text.String()}); err != nil {
			b.Fatal(err)
		}
	}
}
