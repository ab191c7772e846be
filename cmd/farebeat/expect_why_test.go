package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/fleet/counts"
	"github.com/farebeat/farebeat/fleet/expect"
	"github.com/farebeat/farebeat/fleet/store"
)

func TestWhyARouteIsExpectedToHaveWhatItHas(t *testing.T) {
	dir := t.TempDir()
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(dir, "farebeat.yaml"), fmt.Sprintf(`timezone: Europe/Berlin
data: %[1]s/data
fleet:
  gtfs: %[1]s/feed
  holidays: ["2026-02-13"]
  expected:
    - {route: A, hours: 09-10, expected: 7}
`, dir))
	putFeed(t, filepath.Join(dir, "feed"), "20260228", 3, "A", "B")
	ask := func(args ...string) (int, string, string) {
		var out, errOut bytes.Buffer
		code := run(t.Context(), append([]string{"expect", "--config", filepath.Join(dir, "farebeat.yaml")}, args...), nil, &out, &errOut)
		return code, out.String(), errOut.String()
	}
	check := func(name string, wantCode int, want string, args ...string) {
		t.Helper()
		code, out, errOut := ask(args...)
		if diff := cmp.Diff(want, out); diff != "" || code != wantCode {
			t.Errorf("%s: exit code %d, want %d: %s%s", name, code, wantCode, errOut, diff)
		}
	}
	check("without a store", 0, `route B on Tuesday 2026-02-24 08:30 in Europe/Berlin, a day judged as workday

source     expected  now  lowest  days  low  days  
hand       -         -    -       -     -    -     says nothing: no number is set for this hour
timetable  3         3    3       1     -    -     wins
history    -         -    -       -     -    -     says nothing: there is no `+dir+`/data/farebeat.db
in force   3         3    3       1     -    -     from timetable
`, "--route", "B", "--date", "2026-02-24", "--at", "08:30")

	db, err := store.Open(t.Context(), filepath.Join(dir, "data", "farebeat.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 2, 24, 8, 30, 0, 0, berlin)
	saveHours(t, db, berlin, now, "A", 2)
	saveHours(t, db, berlin, now, "H", 40)
	strike := time.Date(2026, 2, 11, 0, 0, 0, 0, berlin)
	var rows []counts.HourRow
	for h := range 24 {
		rows = append(rows, counts.HourRow{Start: strike.Add(time.Duration(h) * time.Hour), Length: time.Hour, Heard: time.Hour, Route: "H", Peak: 1})
	}
	if err := db.Counts().SaveHours(t.Context(), rows); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	leftOut := "left out of history: 2026-02-11 does not look like a workday\nleft out of history: 2026-02-13 is a holiday\n"
	check("by hand", 0, `route A on Tuesday 2026-02-24 09:30 in Europe/Berlin, a day judged as workday

source     expected  now  lowest  days  low  days  
hand       7         7    7       0     -    -     wins
timetable  3         3    3       1     -    -     
history    2         2    2       38    2    38    
in force   7         7    7       0     2    38    from hand
`+leftOut, "--route", "A", "--date", "2026-02-24", "--at", "09:30")
	check("after the feed has expired", 0, `route A on Sunday 2026-03-01 08:30 in Europe/Berlin, a day judged as sunday

source     expected  now  lowest  days  low  days  
hand       -         -    -       -     -    -     says nothing: no number is set for this hour
timetable  -         -    -       -     -    -     says nothing: the timetable has expired: its last date was 2026-02-28, nothing is expected by it any more; put a newer feed in its place
history    2         2    2       8     2    8     wins
in force   2         2    2       8     2    8     from history
`+leftOut, "--route", "A", "--date", "2026-03-01", "--at", "08:30")
	check("nobody knows", exitDifference, `route Z on Sunday 2026-03-01 08:30 in Europe/Berlin, a day judged as sunday

source     expected  now  lowest  days  low  days  
hand       -         -    -       -     -    -     says nothing: no number is set for this hour
timetable  -         -    -       -     -    -     says nothing: the timetable has expired: its last date was 2026-02-28, nothing is expected by it any more; put a newer feed in its place
history    -         -    -       -     -    -     says nothing: 0 days with counts are behind it, at least 4 are needed
in force   0         0    0       0     -    -     from none
`+leftOut, "--route", "Z", "--date", "2026-03-01", "--at", "08:30")

	code, out, errOut := ask("--route", "A", "--date", "2026-02-24", "--at", "09:30", "--format", "json")
	var w expect.Why
	if err := json.Unmarshal([]byte(out), &w); err != nil || code != 0 {
		t.Fatal(code, err, errOut)
	}
	if want := (expect.Said{Source: expect.SourceHand, Expected: 7, Now: 7, Lowest: 7, Low: 2, LowSample: 38}); w.InForce != want || len(w.Sources) != 3 || len(w.LeftOut) != 2 || !w.At.Equal(now.Add(time.Hour)) {
		t.Errorf("%s", out)
	}
	for name, args := range map[string][]string{
		`--at "8.30": want a time such as 08:30`:                 {"--route", "A", "--at", "8.30"},
		`--date: date "today": want YYYY-MM-DD or YYYYMMDD`:      {"--route", "A", "--date", "today"},
		`--format "csv": want json or table with --route`:        {"--route", "A", "--format", "csv"},
		`if any flags in the group [gtfs route] are set none of`: {"--route", "A", "--gtfs", "x"},
	} {
		code, _, errOut := ask(args...)
		if code != exitUsage || !bytes.Contains([]byte(errOut), []byte(name)) {
			t.Errorf("%v: exit code %d, %s", args, code, errOut)
		}
	}
}
