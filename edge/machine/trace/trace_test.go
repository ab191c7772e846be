package trace_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/edge/machine/trace"
)

const reportsFile, intervalsFile = "testdata/mbta_20240811_reports.csv.gz", "testdata/mbta_20240811_intervals.csv"

func load(t testing.TB, path string) *trace.Trace {
	t.Helper()
	tr, err := trace.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// The intervals file was derived from the reports by someone else; ours agree
// with it for every time on the line that the sample of reports holds whole.
func TestReportsBecomeTheKnownIntervals(t *testing.T) {
	reports, known := load(t, reportsFile), load(t, intervalsFile)
	if reports.Form != trace.Reports || known.Form != trace.Intervals {
		t.Fatalf("forms are %v and %v", reports.Form, known.Form)
	}
	_, end, ok := reports.Span()
	if !ok {
		t.Fatal("no reports")
	}
	cut := end.Unix() - int64(trace.JoinGap/time.Second)
	type key struct {
		v, r     string
		from, to int64
	}
	have := map[key]bool{}
	for _, iv := range reports.Intervals(trace.JoinGap) {
		have[key{iv.Vehicle, iv.Route, iv.From, iv.To}] = true
	}
	compared := 0
	for _, iv := range known.Intervals(trace.JoinGap) {
		if iv.To > cut || iv.To-iv.From <= 1 {
			continue
		}
		compared++
		// Where the file has a vehicle report two routes in one second, the first keeps that second.
		if !have[key{iv.Vehicle, iv.Route, iv.From, iv.To}] && !have[key{iv.Vehicle, iv.Route, iv.From - 1, iv.To}] {
			t.Errorf("vehicle %s route %s %d to %d (line %d) was not found in the reports", iv.Vehicle, iv.Route, iv.From, iv.To, iv.Line)
		}
	}
	if compared < 15 {
		t.Errorf("compared only %d intervals", compared)
	}
}

func TestNoVehicleIsOnTwoRoutesAtOnce(t *testing.T) {
	for _, file := range []string{reportsFile, intervalsFile} {
		until := map[string]int64{}
		ivs := load(t, file).Intervals(trace.JoinGap)
		for _, iv := range ivs {
			if iv.From < until[iv.Vehicle] {
				t.Errorf("%s: vehicle %s begins route %s at %d, before its last time ended at %d", file, iv.Vehicle, iv.Route, iv.From, until[iv.Vehicle])
			}
			if iv.To <= iv.From {
				t.Errorf("%s: empty interval %+v", file, iv)
			}
			until[iv.Vehicle] = iv.To
		}
		if !slices.IsSortedFunc(ivs, func(a, b trace.Interval) int { return int(a.From - b.From) }) {
			t.Errorf("%s: not in the order of From", file)
		}
	}
}

func TestBothFormsAndDialects(t *testing.T) {
	want := []trace.Interval{{Vehicle: "v 1", Route: "a,\"b\"", From: 100, To: 160, Line: 2}, {Vehicle: "v2", Route: "B/7", Trip: "t9", From: 50, To: 50, Line: 4}}
	text := "\xef\xbb\xbfx, to_epoch ,route_id,vehicle_id,trip_id,from_epoch\r\n" +
		"ignored,160,\"a,\"\"b\"\"\",v 1,,100.0\r\n\r\n,50,B/7,\"v2\",t9,50"
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	if _, err := io.WriteString(z, text); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	for name, in := range map[string]string{"plain": text, "gzip": zipped.String()} {
		tr, err := trace.Read(strings.NewReader(in), name)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff(want, tr.Rows); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if from, to, _ := tr.Span(); from.Unix() != 50 || to.Unix() != 160 {
			t.Errorf("%s: span %v to %v", name, from, to)
		}
		if s := tr.Sorted(); s[0].Vehicle != "v2" || tr.Rows[0].Vehicle != "v 1" {
			t.Errorf("%s: Sorted gave %+v, and Rows is now %+v", name, s, tr.Rows)
		}
	}
}

func TestDamagedTraces(t *testing.T) {
	long := strings.Repeat("x", 65)
	for name, tc := range map[string]struct{ in, want string }{
		"empty":          {"", `trace day.csv: is empty; it needs a header line such as epoch,vehicle_id,route_id`},
		"blank":          {"\n\n", `trace day.csv: is empty; it needs a header line such as epoch,vehicle_id,route_id`},
		"no time":        {"vehicle_id,route_id,from_epoch\n", `trace day.csv line 1: the header lacks epoch (or from_epoch and to_epoch); it has vehicle_id,route_id,from_epoch`},
		"no ids":         {"epoch,vehicle\n", `trace day.csv line 1: the header lacks vehicle_id, route_id; it has epoch,vehicle`},
		"twice":          {"epoch,vehicle_id,epoch,route_id\n", `trace day.csv line 1: header "epoch": this column stands there twice`},
		"word":           {"epoch,vehicle_id,route_id\n1,a,b\n17x,a,b\n", `trace day.csv line 3: epoch "17x": is not whole seconds since 1970`},
		"fraction":       {"epoch,vehicle_id,route_id\n1.5,a,b\n", `trace day.csv line 2: epoch "1.5": is not whole seconds since 1970`},
		"milliseconds":   {"epoch,vehicle_id,route_id\n1723359471000,a,b\n", `trace day.csv line 2: epoch "1723359471000": is after the year 2099: give seconds since 1970, not milliseconds`},
		"huge":           {"epoch,vehicle_id,route_id\n99999999999999999999,a,b\n", `trace day.csv line 2: epoch "99999999999999999999": is out of range`},
		"negative":       {"epoch,vehicle_id,route_id\n-1,a,b\n", `trace day.csv line 2: epoch "-1": is before 1970`},
		"no vehicle":     {"epoch,vehicle_id,route_id\n1, ,b\n", `trace day.csv line 2: vehicle_id " ": is empty`},
		"long":           {"epoch,vehicle_id,route_id\n1,a," + long + "\n", `trace day.csv line 2: route_id "` + long + `": is longer than 64 characters`},
		"wildcard":       {"epoch,vehicle_id,route_id\n1,a,b+\n", `trace day.csv line 2: route_id "b+": holds +, # or $, which no MQTT topic level may`},
		"control":        {"epoch,vehicle_id,route_id\n1,a\x00,b\n", `trace day.csv line 2: vehicle_id "a\x00": holds control characters or is not UTF-8`},
		"not UTF-8":      {"epoch,vehicle_id,route_id\n1,a\xff,b\n", `trace day.csv line 2: vehicle_id "a\xff": holds control characters or is not UTF-8`},
		"fields":         {"epoch,vehicle_id,route_id\n1,a\n", `trace day.csv line 2: 2 fields, the header has 3`},
		"quote":          {"epoch,vehicle_id,route_id\n1,\"a,b\n", `trace day.csv line 2: a quote is not closed on its line, or text follows it: "\"a,b"`},
		"after quote":    {"epoch,vehicle_id,route_id\n1,\"a\"b,c\n", `trace day.csv line 2: a quote is not closed on its line, or text follows it: "\"a\"b,c"`},
		"backwards":      {"vehicle_id,route_id,from_epoch,to_epoch\na,b,100,99\n", `trace day.csv line 2: to_epoch "99": is before from_epoch 100`},
		"endless":        {"vehicle_id,route_id,from_epoch,to_epoch\na,b,100,700000\n", `trace day.csv line 2: to_epoch "700000": is more than 7 days after from_epoch 100`},
		"long line":      {"epoch,vehicle_id,route_id\n" + strings.Repeat("1", 70000), `trace day.csv line 2: the line is longer than 65536 bytes`},
		"not gzip":       {"\x1f\x8bnonsense", `trace day.csv: begins like gzip and is not: gzip: invalid header`},
		"second of both": {"vehicle_id,route_id,from_epoch,to_epoch\na,b,1,2\na,b,1,\n", `trace day.csv line 3: to_epoch "": is not whole seconds since 1970`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := trace.Read(strings.NewReader(tc.in), "day.csv")
			var form *trace.Error
			if !errors.As(err, &form) || err.Error() != tc.want {
				t.Errorf("got  %v\nwant %s", err, tc.want)
			}
		})
	}
}

func TestATornGzipIsAnError(t *testing.T) {
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	for range 1000 {
		if _, err := io.WriteString(z, "epoch,vehicle_id,route_id\n"); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	in := zipped.Bytes()[:zipped.Len()-12]
	if _, err := trace.Read(bytes.NewReader(in), "day.csv.gz"); err == nil {
		t.Error("a torn gzip file was read without an error")
	}
}

func TestAnErrorIsSticky(t *testing.T) {
	r, err := trace.NewReader(strings.NewReader("epoch,vehicle_id,route_id\nx,a,b\n1,a,b\n"), "day.csv")
	if err != nil {
		t.Fatal(err)
	}
	_, first := r.Read()
	_, again := r.Read()
	if first == nil || !errors.Is(again, first) {
		t.Errorf("first %v, then %v", first, again)
	}
}

func TestBeats(t *testing.T) {
	ivs := []trace.Interval{
		{Vehicle: "a", Route: "1", From: 100, To: 140},
		{Vehicle: "a", Route: "2", From: 140, To: 150}, // only the route changes
		{Vehicle: "b", Route: "1", From: 110, To: 120},
		{Vehicle: "a", Route: "3", From: 200, To: 201}, // after a rest
	}
	want := []trace.Beat{
		{At: 100, Vehicle: "a", Route: "1"},
		{At: 110, Vehicle: "b", Route: "1"},
		{At: 115, Vehicle: "a", Route: "1"},
		{At: 120, Vehicle: "b", Route: "1", Last: true},
		{At: 130, Vehicle: "a", Route: "1"},
		{At: 140, Vehicle: "a", Route: "2"},
		{At: 150, Vehicle: "a", Route: "2", Last: true},
		{At: 200, Vehicle: "a", Route: "3"},
		{At: 201, Vehicle: "a", Route: "3", Last: true},
	}
	if diff := cmp.Diff(want, slices.Collect(trace.Beats(ivs, 15*time.Second))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestBeatsOfARealDay(t *testing.T) {
	ivs := load(t, intervalsFile).Intervals(trace.JoinGap)
	heard, ends := map[string]int64{}, 0
	var last int64
	for b := range trace.Beats(ivs, 15*time.Second) {
		if b.At < last {
			t.Fatalf("beat %+v comes after one at %d", b, last)
		}
		last = b.At
		if b.Last {
			ends++
		}
		if !slices.ContainsFunc(ivs, func(i trace.Interval) bool {
			return i.Vehicle == b.Vehicle && i.Route == b.Route && i.From <= b.At && (b.At < i.To || b.Last && b.At == i.To)
		}) {
			t.Fatalf("beat %+v lies in no interval", b)
		}
		heard[b.Vehicle+" "+b.Route]++
	}
	if ends == 0 || len(heard) < 20 {
		t.Errorf("%d ends, %d pairs of vehicle and route heard", ends, len(heard))
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte("epoch,vehicle_id,route_id\n1723359471,1847,15\n"))
	f.Add([]byte("vehicle_id,route_id,from_epoch,to_epoch,reports\n1847,15,1723359471,1723361867,15\n1847,\"a\"\"b\",1,2.0,\r\n"))
	f.Add([]byte("\xef\xbb\xbfepoch,vehicle_id,route_id\n\"1\",\"\",x"))
	f.Add([]byte("\x1f\x8b\x08\x00"))
	f.Fuzz(func(t *testing.T, in []byte) {
		tr, err := trace.Read(bytes.NewReader(in), "fuzz")
		if err != nil {
			return
		}
		for _, r := range tr.Rows {
			if r.Vehicle == "" || r.Route == "" || utf8.RuneCountInString(r.Vehicle) > trace.MaxID || r.From < 0 || r.To < r.From {
				t.Fatalf("row out of bounds was accepted: %+v", r)
			}
		}
		until := map[string]int64{}
		for _, iv := range tr.Intervals(trace.JoinGap) {
			if iv.To <= iv.From || iv.From < until[iv.Vehicle] {
				t.Fatalf("interval %+v is empty or overlaps", iv)
			}
			until[iv.Vehicle] = iv.To
		}
	})
}

func BenchmarkRead(b *testing.B) {
	var text strings.Builder
	text.WriteString("epoch,local_time,vehicle_id,route_id\n")
	for range 10000 {
		text.WriteString("1723359471,2024-08-11T02:57:51,1847,15\n")
	}
	b.SetBytes(int64(text.Len()))
	b.ReportAllocs()
	for b.Loop() {
		r, err := trace.NewReader(strings.NewReader(text.String()), "bench")
		if err != nil {
			b.Fatal(err)
		}
		for err == nil {
			_, err = r.Read()
		}
		if !errors.Is(err, io.EOF) {
			b.Fatal(err)
		}
	}
}
