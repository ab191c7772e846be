package series_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	protocol "github.com/influxdata/line-protocol"

	"github.com/farebeat/farebeat/fleet/counts"
	"github.com/farebeat/farebeat/fleet/series"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func TestLines(t *testing.T) {
	got := series.AppendFrame(nil, counts.Frame{At: noon, Rows: []counts.RouteMinute{
		{Route: "36", Online: 4, Known: 6, Expected: 5, Threshold: 3, Min: 2, Max: 5},
		{Route: `Línea 5/N, "x=y"`},
	}})
	got = series.AppendFrame(got, counts.Frame{At: noon.Add(time.Minute), Blind: true, Rows: []counts.RouteMinute{{Route: `back\`}}})
	got = series.AppendHours(got, []counts.HourRow{
		{Start: noon, Length: time.Hour, Heard: 30 * time.Minute, Online: 90 * time.Minute, Route: "36", Distinct: 7, Peak: 5, Lowest: 1, P10: 2, P50: 3, P90: 4},
		{Start: noon, Length: time.Hour, Route: "37"}, // nothing was heard
	})
	want := []string{
		"online,route=36 n=4i,known=6i,expected=5i,threshold=3i,min=2i,max=5i,blind=0i 1795435200",
		`online,route=Línea\ 5/N\,\ "x\=y" n=0i,known=0i,expected=0i,threshold=0i,min=0i,max=0i,blind=0i 1795435200`,
		`online,route=back\. n=0i,known=0i,expected=0i,threshold=0i,min=0i,max=0i,blind=1i 1795435260`,
		"online_1h,route=36 c=7i,min=1i,p10=2i,p50=3i,p90=4i,max=5i,mean=3.000 1795435200",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// Whatever a route is called, its line is one point of that route, as InfluxDB's own parser reads it.
func FuzzRouteIsOnePoint(f *testing.F) {
	for _, r := range []string{"36", "", " ", "a,b=c d", `\`, `a\`, `a\,b`, "a\nb c=1", "北\u007f", "\xff", `"`, "#x"} {
		f.Add(r)
	}
	f.Fuzz(func(t *testing.T, route string) {
		lines := series.AppendFrame(nil, counts.Frame{At: noon, Rows: []counts.RouteMinute{{Route: route, Online: 3, Max: 4}, {Route: "next", Online: 1}}})
		handler := protocol.NewMetricHandler()
		handler.SetTimePrecision(time.Second)
		points, err := protocol.NewParser(handler).Parse([]byte(strings.Join(lines, "\n")))
		if err != nil || len(points) != 2 {
			t.Fatalf("%q: %d points, %v, of\n%s", route, len(points), err, strings.Join(lines, "\n"))
		}
		p := points[0]
		if p.Name() != "online" || len(p.TagList()) != 1 || p.TagList()[0].Key != "route" || len(p.FieldList()) != 7 || !p.Time().Equal(noon) {
			t.Errorf("%q is %v %v %v", route, p.Name(), p.TagList(), p.FieldList())
		}
		plain := !strings.ContainsAny(route, "\\\uFFFD\x7f") && !strings.ContainsFunc(route, func(r rune) bool { return r < ' ' })
		if got := p.TagList()[0].Value; plain && route != "" && got != route && !strings.Contains(route, "\xff") {
			t.Errorf("route %q came as %q", route, got)
		}
	})
}

func BenchmarkAppendFrame5000Routes(b *testing.B) {
	f := counts.Frame{At: noon}
	for i := range 5_000 {
		f.Rows = append(f.Rows, counts.RouteMinute{Route: fmt.Sprint("route ", i), Online: i % 40, Known: 40, Expected: 38, Threshold: 30, Min: 3, Max: 40})
	}
	var lines []string
	b.ReportAllocs()
	for b.Loop() {
		lines = series.AppendFrame(lines[:0], f)
	}
	b.ReportMetric(float64(len(strings.Join(lines, "\n")))/float64(len(lines)), "bytes/line")
}
