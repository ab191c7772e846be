package gtfs_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/fleet/expect/gtfs"
)

func day(t testing.TB, s string) gtfs.Date {
	t.Helper()
	d, err := gtfs.ParseDate(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

const (
	infoHeader  = "feed_publisher_name,feed_publisher_url,feed_lang,feed_start_date,feed_end_date,feed_version\n"
	datesHeader = "service_id,date,exception_type\n"
)

func TestRangeAndCovers(t *testing.T) {
	for name, tc := range map[string]struct {
		change map[string]string
		want   string
	}{
		"calendar": {nil, "2026-01-01 2026-12-31 true"},
		"dates beyond the calendar": {
			map[string]string{"calendar_dates.txt": datesHeader + "D,20251230,1\nD,20270102,1\n"}, "2025-12-30 2027-01-02 true",
		},
		"dates alone":          {map[string]string{"calendar.txt": "-", "calendar_dates.txt": datesHeader + "D,20261120,1\nD,20261101,2\nD,20261118,1\n"}, "2026-11-18 2026-11-20 true"},
		"feed_info narrows":    {map[string]string{"feed_info.txt": infoHeader + "X,http://x,en,20260301,20260930,7\n"}, "2026-03-01 2026-09-30 true"},
		"feed_info is wider":   {map[string]string{"feed_info.txt": infoHeader + "X,http://x,en,20200101,20300101,7\n"}, "2026-01-01 2026-12-31 true"},
		"feed_info has no end": {map[string]string{"feed_info.txt": infoHeader + "X,http://x,en,20260301,,7\n"}, "2026-03-01 2026-12-31 true"},
		"nothing in common":    {map[string]string{"feed_info.txt": infoHeader + "X,http://x,en,20270101,20271231,7\n"}, "2027-01-01 2026-12-31 false"},
		"no date at all": {
			map[string]string{"calendar.txt": "-", "calendar_dates.txt": datesHeader + "D,20261101,2\n"}, "0000-00-00 0000-00-00 false",
		},
		"calendar of no weekday": {
			map[string]string{"calendar.txt": calendarHeader + "D,0,0,0,0,0,0,0,20260101,20261231\n", "calendar_dates.txt": datesHeader + "D,20261120,1\n"}, "2026-11-20 2026-11-20 true",
		},
	} {
		feed, err := read(t, tc.change)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		first, last, ok := feed.Range()
		if got := fmt.Sprint(first, " ", last, " ", ok); got != tc.want {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
		if feed.Covers(first) != ok || feed.Covers(last) != ok || feed.Covers(last.AddDays(1)) || feed.Covers(first.AddDays(-1)) {
			t.Errorf("%s: Covers disagrees with Range", name)
		}
	}
}

func TestExpiry(t *testing.T) {
	feed, err := read(t, map[string]string{"feed_info.txt": infoHeader + "HART,http://x,en,20260301,20260930,v7\n"})
	if err != nil {
		t.Fatal(err)
	}
	if want := (gtfs.Info{Publisher: "HART", Version: "v7", Start: day(t, "2026-03-01"), End: day(t, "2026-09-30")}); feed.Info != want {
		t.Errorf("%+v", feed.Info)
	}
	for today, want := range map[string]string{
		"2026-02-28": "the timetable begins on 2026-03-01: nothing is expected by it before",
		"2026-03-01": "",
		"2026-09-16": "",
		"2026-09-17": "the timetable ends with 2026-09-30, in 13 days: put a newer feed in its place before",
		"2026-09-30": "the timetable ends with 2026-09-30, in 0 days: put a newer feed in its place before",
		"2026-10-01": "the timetable has expired: its last date was 2026-09-30, nothing is expected by it any more; put a newer feed in its place",
	} {
		if got := feed.Expiry(day(t, today), 14); got != want {
			t.Errorf("%s:\n got %q\nwant %q", today, got, want)
		}
	}
	none, err := read(t, map[string]string{"calendar.txt": "-", "calendar_dates.txt": datesHeader + "D,20261101,2\n"})
	if err != nil {
		t.Fatal(err)
	}
	if got := none.Expiry(day(t, "2026-11-01"), 14); !strings.Contains(got, "covers no date") {
		t.Error(got)
	}
}

// headway is a feed whose only trip takes an hour less a minute.
func headway(t testing.TB, rows string) *gtfs.Feed {
	t.Helper()
	feed, err := read(t, map[string]string{
		"frequencies.txt": "trip_id,start_time,end_time,headway_secs,exact_times\n" + rows,
		"stop_times.txt":  "trip_id,arrival_time,departure_time\nt1,00:00:00,00:00:00\nt1,00:50:00,00:50:00\n",
	})
	if err != nil {
		t.Fatal(err)
	}
	return feed
}

func TestServiceByHeadway(t *testing.T) {
	for name, tc := range map[string]struct {
		rows string
		want []string
	}{
		"exact: a duty each departure": {"t1,06:00:00,07:01:00,1200,1\n", []string{"06:00-06:50", "06:20-07:10", "06:40-07:30", "07:00-07:50"}},
		// 50 minutes every 20: three at once. Departures would be at 06:00, 06:20, 06:40 and 07:00.
		"by headway: ceil(L/H) at once": {"t1,06:00:00,07:01:00,1200,0\n", []string{"06:00-07:50 20m", "06:20-07:30 20m", "06:40-07:10 30m"}},
		"no exact_times is by headway":  {"t1,06:00:00,07:01:00,1200,\n", []string{"06:00-07:50 20m", "06:20-07:30 20m", "06:40-07:10 30m"}},
		"fewer departures than fit":     {"t1,06:00:00,06:15:00,600,0\n", []string{"06:00-07:00 10m", "06:10-06:50 10m"}},
		"one departure":                 {"t1,06:00:00,06:10:00,600,0\n", []string{"06:00-06:50 10m"}},
		"past midnight":                 {"t1,25:00:00,25:10:00,600,1\n", []string{"01:00-01:50"}},
		"two rows":                      {"t1,06:10:00,06:20:00,600,1\nt1,06:00:00,06:10:00,600,1\n", []string{"06:00-06:50", "06:10-07:00"}},
	} {
		var got []string
		for _, d := range headway(t, tc.rows).Duties(day(t, "2026-11-20")) {
			s := d.From.Format("15:04-") + d.To.Format("15:04")
			if d.Slack > 0 {
				s += " " + strings.TrimSuffix(d.Slack.String(), "0s")
			}
			got = append(got, s)
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// What is sure to be there is floor(L/H) and what may be there at once ceil(L/H), wherever in its
// headway the service departs.
func TestServiceByHeadwayHoldsForEveryPhase(t *testing.T) {
	const length = 50 * time.Minute // of the only trip
	for _, h := range []time.Duration{7 * time.Minute, 10 * time.Minute, 20 * time.Minute, 25 * time.Minute, 45 * time.Minute, 50 * time.Minute, 70 * time.Minute} {
		duties := headway(t, fmt.Sprintf("t1,06:00:00,12:00:00,%d,0\n", int(h.Seconds()))).Duties(day(t, "2026-11-20"))
		start := day(t, "2026-11-20").ServiceStart(duties[0].From.Location()).Add(6 * time.Hour)
		end := start.Add(6 * time.Hour)
		for at := start; at.Before(end.Add(length)); at = at.Add(time.Minute) {
			sure, most := 0, 0
			for _, d := range duties {
				if !at.Before(d.From) && at.Before(d.To) {
					most++
				}
				if !at.Before(d.From.Add(d.Slack)) && at.Before(d.To.Add(-d.Slack)) {
					sure++
				}
			}
			if at.Sub(start) > length+h && end.Sub(at) > 2*h {
				if want := int((length + h - 1) / h); most != want {
					t.Fatalf("headway %s at %s: %d at once, want %d", h, at.Format("15:04"), most, want)
				}
				if want := int(length / h); sure < want-1 || sure > want {
					t.Fatalf("headway %s at %s: %d sure, want %d", h, at.Format("15:04"), sure, want)
				}
			}
			for phase := time.Duration(0); phase < h; phase += time.Minute {
				n := 0
				for dep := start.Add(phase); dep.Before(end); dep = dep.Add(h) {
					if !at.Before(dep) && at.Before(dep.Add(length)) {
						n++
					}
				}
				if n < sure {
					t.Fatalf("headway %s, %s late, at %s: %d are there, %d are said to be sure", h, phase, at.Format("15:04"), n, sure)
				}
			}
		}
	}
}

func TestFrequencyProblems(t *testing.T) {
	const header = "trip_id,start_time,end_time,headway_secs,exact_times\n"
	for row, want := range map[string]string{
		"t1,07:00:00,07:00:00,60,0\n": `frequencies.txt line 2: end_time "07:00:00" is not after start_time "07:00:00"`,
		"t1,07:00:00,08:00:00,60,2\n": `frequencies.txt line 2: exact_times "2": want 0 (by headway) or 1 (by timetable)`,
	} {
		if _, err := read(t, map[string]string{"frequencies.txt": header + row}); err == nil || err.Error() != want {
			t.Errorf("\n got %v\nwant %s", err, want)
		}
	}
	feed, err := read(t, map[string]string{"frequencies.txt": header + "t1,07:00:00,08:00:00,60,0\nt1,07:59:00,09:00:00,60,0\n"})
	if err != nil || len(feed.Warnings) != 1 || !strings.Contains(feed.Warnings[0], `"t1" overlap from 07:59:00 on`) {
		t.Error(err, feed.Warnings)
	}
	for text, want := range map[string]string{
		infoHeader + "X,http://x,en,2026-03-01,,7\n":       `feed_info.txt line 2: feed_start_date "2026-03-01": want YYYYMMDD`,
		infoHeader + "X,http://x,en,20260301,20260228,7\n": `feed_info.txt line 2: feed_end_date 2026-02-28 is before feed_start_date 2026-03-01`,
	} {
		if _, err := read(t, map[string]string{"feed_info.txt": text}); err == nil || err.Error() != want {
			t.Errorf("\n got %v\nwant %s", err, want)
		}
	}
}

func TestLike(t *testing.T) {
	trips := func(services string) map[string]string {
		files := map[string]string{"trips.txt": "route_id,service_id,trip_id\n", "stop_times.txt": "trip_id,arrival_time,departure_time\n"}
		for i, s := range services {
			files["trips.txt"] += fmt.Sprintf("A,%c,t%d\n", s, i)
			files["stop_times.txt"] += fmt.Sprintf("t%d,07:00:00,08:00:00\n", i)
		}
		return files
	}
	regular := trips("WWWWWWWWFFAAAAAASSSSXE") // eight, two more on Fridays, six, four, one and one
	regular["calendar.txt"] = calendarHeader + "W,1,1,1,1,1,0,0,20260801,20261231\nF,0,0,0,0,1,0,0,20260801,20261231\n" +
		"A,0,0,0,0,0,1,0,20260801,20261231\nS,0,0,0,0,0,0,1,20260801,20261231\nX,0,0,0,0,0,0,0,20260801,20261231\nE,0,0,0,0,0,0,0,20260801,20261231\n"
	regular["calendar_dates.txt"] = datesHeader + "W,20261102,2\nS,20261102,1\n" + "W,20261103,2\nA,20261103,1\n" +
		"W,20261104,2\nX,20261104,1\n" + "W,20261105,2\n" + "E,20261106,1\nW,20261114,1\nA,20261114,2\n"
	numbered := trips("") // a service for each date
	numbered["calendar.txt"], numbered["calendar_dates.txt"] = "-", datesHeader
	n := 0
	for d := day(t, "2026-10-01"); d.Before(day(t, "2026-12-01")); d = d.AddDays(1) {
		count := map[time.Weekday]int{time.Saturday: 6, time.Sunday: 4}[d.Weekday()]
		switch {
		case d == day(t, "2026-11-03"):
			count = 4
		case d == day(t, "2026-11-04"):
			count = 1
		case count == 0:
			count = 10
		}
		numbered["calendar_dates.txt"] += fmt.Sprintf("s%s,%s,1\n", d, strings.ReplaceAll(d.String(), "-", ""))
		for range count {
			n++
			numbered["trips.txt"] += fmt.Sprintf("A,s%s,t%d\n", d, n)
			numbered["stop_times.txt"] += fmt.Sprintf("t%d,07:00:00,08:00:00\n", n)
		}
	}
	for name, tc := range map[string]struct {
		files map[string]string
		want  map[string]string
	}{
		"weekdays in the calendar": {regular, map[string]string{
			"2026-11-02": "Sunday", "2026-11-03": "Saturday", "2026-11-04": "none", "2026-11-05": "none",
			"2026-11-06": "Friday", "2026-11-10": "Tuesday", "2026-11-13": "Friday", "2026-11-14": "Monday", "2026-11-15": "Sunday",
		}},
		"a service for each date": {numbered, map[string]string{
			"2026-11-02": "Monday", "2026-11-03": "Sunday", "2026-11-04": "none", "2026-11-07": "Saturday", "2026-11-08": "Sunday",
		}},
		"one date": {map[string]string{"calendar.txt": "-", "calendar_dates.txt": datesHeader + "D,20261118,1\n"}, map[string]string{"2026-11-18": "Wednesday"}},
	} {
		feed, err := read(t, tc.files)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for d, want := range tc.want {
			got := "none"
			if w, ok := feed.Like(day(t, d)); ok {
				got = w.String()
			}
			if got != want {
				t.Errorf("%s: %s is like %s, want %s", name, d, got, want)
			}
		}
	}
}

func FuzzCalendar(f *testing.F) {
	f.Add(files(nil)["calendar.txt"], datesHeader+"D,20261120,2\n", infoHeader+"X,http://x,en,20260301,20260930,7\n", "trip_id,start_time,end_time,headway_secs,exact_times\nt1,06:00:00,08:00:00,600,0\n")
	f.Add("-", datesHeader+"D,99991231,1\n", "\ufeffx\n", "trip_id,start_time,end_time,headway_secs\nt1,00:00:00,71:59:59,3600\n")
	f.Fuzz(func(t *testing.T, calendar, dates, info, frequencies string) {
		if len(frequencies) > 500 {
			return
		}
		feed, err := read(t, map[string]string{"calendar.txt": calendar, "calendar_dates.txt": dates, "feed_info.txt": info, "frequencies.txt": frequencies})
		if err != nil {
			return
		}
		today := gtfs.Date{Year: 2026, Month: 11, Day: 20}
		first, last, ok := feed.Range()
		if ok && (last.Before(first) || !feed.Covers(first) || !feed.Covers(last)) || !ok && feed.Covers(today) {
			t.Errorf("from %s to %s, %v", first, last, ok)
		}
		if feed.Covers(today) && feed.Expiry(today, 0) != "" {
			t.Errorf("covers %s and says %q", today, feed.Expiry(today, 0))
		}
		feed.Like(today)
		for _, d := range feed.Duties(today) {
			if d.To.Before(d.From) || d.Slack < 0 {
				t.Errorf("duty %+v", d)
			}
		}
	})
}
