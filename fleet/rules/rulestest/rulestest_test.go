package rulestest

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/fleet/rules"
)

// read reads a file of tests and the rules that it names.
func read(t testing.TB, path string) (*File, *rules.Set) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := Parse(path, b)
	if err != nil {
		t.Fatal(err)
	}
	b, err = os.ReadFile(f.RulesFile())
	if err != nil {
		t.Fatal(err)
	}
	set, err := rules.Parse(f.RulesFile(), b, f.Location())
	if err != nil {
		t.Fatal(err)
	}
	return f, set
}

func TestTheShippedRulesPassTheirTests(t *testing.T) {
	f, set := read(t, "../../../configs/rules_test.yaml")
	results, err := f.Run(t.Context(), set, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(results) != len(f.Names()) || len(results) < 10 {
		t.Errorf("%d tests ran of %d", len(results), len(f.Names()))
	}
	for _, r := range results {
		for _, failure := range r.Failures {
			t.Errorf("%s: %s", r.Name, failure)
		}
		if r.Looks < 100 {
			t.Errorf("%s: only %d looks", r.Name, r.Looks)
		}
	}
}

// TestRulesThatSleepFailTheTests shows that the shipped tests can fail.
func TestRulesThatSleepFailTheTests(t *testing.T) {
	f, _ := read(t, "../../../configs/rules_test.yaml")
	set, err := rules.Parse("off", []byte("route: {off: true}\nmachine: {silence: 24h, pending: [100], clock_skew: 0s}\nplatform: {machines: 1000}"), f.Location())
	if err != nil {
		t.Fatal(err)
	}
	results, err := f.Run(t.Context(), set, nil)
	if err != nil {
		t.Fatal(err)
	}
	failed := 0
	for _, r := range results {
		if r.Failed() {
			failed++
		}
	}
	if failed < 7 {
		t.Errorf("%d of %d tests fail under rules that never fire", failed, len(results))
	}
}

const head = "start: 2026-11-23T10:00\ntests:\n- name: one\n"

// failures runs one test against the default rules.
func failures(t *testing.T, body string) []string {
	t.Helper()
	f, err := Parse("t.yaml", []byte(head+body))
	if err != nil {
		t.Fatal(err)
	}
	results, err := f.Run(t.Context(), rules.Default(time.UTC), nil)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, failure := range results[0].Failures {
		out = append(out, failure.String())
	}
	return out
}

func TestEachFailedExpectationIsALine(t *testing.T) {
	const series = "  series: [{route: '5', online: 12x10 7x10, expected: 12}]\n"
	for _, tt := range []struct {
		name, body string
		want       []string
	}{
		{"right", series + "  want: [{at: 11m, faults: [{kind: route_below, route: '5'}]}]", nil},
		{"none wanted", series + "  want:\n  - {at: 11m, faults: []}", []string{"t.yaml:6: at 11m: open: want nothing else, got route_below of route 5 (major: 7 machines are online, fewer than 9 of 12 expected.)"}},
		{"too early", series + "  want:\n  - {at: 10m15s, faults: [{kind: route_below, route: '5'}]}", []string{"t.yaml:6: at 10m15s: open: want route_below of route 5, got nothing"}},
		{"another kind", series + "  want:\n  - {at: 11m, faults: [{kind: route_silent, route: '5'}]}", []string{
			"t.yaml:6: at 11m: open: want route_silent of route 5, got nothing",
			"t.yaml:6: at 11m: open: want nothing else, got route_below of route 5 (major: 7 machines are online, fewer than 9 of 12 expected.)",
		}},
		{"severity, reason, folded", series + "  want:\n  - {at: 11m, faults: [{kind: route_below, route: '5', severity: info, reason: snow, folded: true}]}", []string{
			"t.yaml:6: at 11m: open: want route_below of route 5 of severity info, got major",
			`t.yaml:6: at 11m: open: want route_below of route 5 because of "snow", got "7 machines are online, fewer than 9 of 12 expected."`,
			"t.yaml:6: at 11m: open: want route_below of route 5 folded: true, got false",
		}},
		{"opened at another minute", series + "  opened:\n  - {at: 12m, kind: route_below, route: '5'}", []string{
			"t.yaml:6: at 12m: opened: want route_below of route 5, got it at 10m30s",
			"t.yaml:3: at 10m30s: opened: want nothing else, got route_below of route 5 (major: 7 machines are online, fewer than 9 of 12 expected.)",
		}},
		{"never closed", series + "  closed:\n  - {at: 12m, kind: route_below, route: '5'}", []string{"t.yaml:6: at 12m: closed: want route_below of route 5, got nothing"}},
		{"too few machines", "  machines: [{machine: a, count: 3, heard: 1 0}, {machine: a-b, heard: 1 0}]\n  want:\n  - {at: 3m, faults: [{kind: machine_silent, machine: a, count: 4}]}", []string{
			"t.yaml:6: at 3m: open: want machine_silent of 4 machines a, got 3 of them",
			"t.yaml:6: at 3m: open: want nothing else, got machine_silent of machine a-b (major: No heartbeat for 1m10s; 0 transactions were declared unsent.)",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, failures(t, tt.body)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A route of which nobody knows what is expected is judged only by silence, and its silence counts seeing time.
func TestBlindnessIsNobodysSilence(t *testing.T) {
	const body = "  series: [{route: '5', online: 4x10 0x10}]\n  blind: 0x10 1x5 0\n  opened: [{at: %s, kind: route_silent, route: '5'}]"
	if got := failures(t, strings.Replace(body, "%s", "15m", 1)); got != nil {
		t.Error(got)
	}
	if got := failures(t, strings.Replace(body, "%s", "10m", 1)); got == nil {
		t.Error("it opened while we were blind")
	}
}

// What is held over a change of hour is that of the local clock.
func TestHoursAreLocal(t *testing.T) {
	b := []byte("timezone: America/New_York\nstart: 2026-11-23T06:30\ntests: [{name: a, series: [{route: x, online: 3x80, expected: 9}], opened: [{at: 40m, kind: route_below, route: x}]}]")
	f, err := Parse("t.yaml", b)
	if err != nil {
		t.Fatal(err)
	}
	set, err := rules.Parse("r", []byte("route: {min_online: 3}\noverrides: [{hours: [07-09], min_online: 5}]"), f.Location())
	if err != nil {
		t.Fatal(err)
	}
	results, err := f.Run(t.Context(), set, nil)
	if err != nil || results[0].Failed() {
		t.Error(results, err)
	}
}

func TestSeries(t *testing.T) {
	for in, want := range map[string][]int{
		"12": {12}, "12x3 7": {12, 12, 12, 7}, "12-2x3": {12, 10, 8}, "0+1x4 9x1": {0, 1, 2, 3, 9}, "-5 -5+5x2": {-5, -5, 0}, "  3\n 4 ": {3, 4},
	} {
		var got []int
		for token := range strings.FieldsSeq(in) {
			v, err := parseRun(token)
			if err != nil {
				t.Errorf("%q: %v", in, err)
			}
			got = append(got, v...)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q: %v, want %v", in, got, want)
		}
	}
}

func TestBadFiles(t *testing.T) {
	const s = "  series:\n  - {route: a, online: 1}\n"
	for _, tt := range []struct{ in, want string }{
		{"", "holds no tests"},
		{"test: []", `line 1: unknown key "test"; known here are rules, timezone, start, interval, heartbeat, tests`},
		{head + s + "  wants: []", `line 6: unknown key "wants"; known here are name, start, interval, series, machines, blind, want, opened, closed`},
		{head + "  series: [{rout: a}]", `line 4: unknown key "rout"; known here are route, online, known, late, heard, expected, expected_now, lowest, low, source`},
		{head + s + "  opened: [{at: 1m, kin: a}]", `line 6: unknown key "kin"; known here are at, kind, route, machine, vehicle, depot, network, fw, count, severity, reason, folded`},
		{"timezone: Mars\ntests: []", `line 1: timezone: "Mars" is no time zone such as Europe/Berlin`},
		{"tests: [{series: []}]", "test 1 has no name"},
		{"tests:\n- name: a", "line 2: start: is missing; say when minute 0 is, such as start: 2026-11-23T07:00"},
		{"start: noon\ntests:\n- name: a", `line 1: start: "noon" is no local time such as 2026-11-23T07:00`},
		{head, "line 3: has neither series nor machines"},
		{head + s, "line 3: expects nothing; write want, opened or closed"},
		{head + s + "  opened: []\n- name: one", `line 7: the test of line 3 is called "one" too`},
		{head + s + "  interval: 7s\n  opened: []", "line 6: interval: 7s is not a multiple of 5s, up to 24h"},
		{"heartbeat: 1s\n" + head + s + "  opened: []", "line 1: heartbeat: 1s is not a multiple of 5s"},
		{head + "  series:\n  - {route: a, online: 1 2y}\n  opened: []", `line 5: "2y" is no part of a series; write 7, 7x15 (fifteen times 7) or 12-1x5 (12 11 10 9 8)`},
		{head + "  series:\n  - {route: a, online: [1]}\n  opened: []", `line 5: a series is one text: "12x10 7" is ten times 12`},
		{head + "  series:\n  - {route: a, online: ''}\n  opened: []", "line 5: a series without a value"},
		{head + "  series:\n  - {route: a, online: 1x0}\n  opened: []", `line 5: "1x0": the number after x is not between 1 and 100000`},
		{head + "  series:\n  - {route: a, online: 1x99999 1x99999}\n  opened: []", "line 5: a series has more than 100000 values"},
		{head + "  series:\n  - {route: a, online: 99999999999}\n  opened: []", `"99999999999" goes beyond 1000000000`},
		{head + "  series:\n  - {route: a, online: 3-1x9}\n  opened: []", "line 5: online: -1 is not between 0 and 1000000"},
		{head + "  series:\n  - {route: a, online: 1, heard: 2}\n  opened: []", "line 5: heard: 2 is not between 0 and 1"},
		{head + s + "  blind: 2\n  opened: []", "line 6: blind: 2 is not between 0 and 1"},
		{head + "  series:\n  - {online: 1}\n  opened: []", "line 3: series 1 names no route"},
		{head + "  series:\n  - {route: a}\n  opened: []", `line 5: route "a": online is missing`},
		{head + "  series:\n  - {route: a, online: 1}\n  - {route: a, online: 1}\n  opened: []", `line 6: route "a" has a second series`},
		{head + "  series:\n  - {route: a, online: 1, expected: 1, source: guess}\n  opened: []", `line 5: source: "guess" is none of [hand timetable history none]`},
		{head + "  series:\n  - {route: a, online: 1, source: hand}\n  opened: []", `line 5: route "a": expected is missing; with source none nobody knows it`},
		{head + "  series:\n  - {route: a, online: 1, lowest: 1}\n  opened: []", `line 5: route "a": expected is missing beside expected_now or lowest`},
		{head + "  series:\n  - {route: a, online: 1, expected: 1, source: none}\n  opened: []", "expected is given, so its source is not none"},
		{head + "  machines:\n  - {heard: 1}\n  opened: []", "line 3: machine 1 has no name"},
		{head + "  machines:\n  - {machine: a, count: 2}\n  - {machine: a-2}\n  opened: []", `line 6: machine "a-2" is there twice`},
		{head + "  machines:\n  - {machine: a, count: 0}\n  opened: []", `line 5: count: "0" is not between 1 and 10000`},
		{head + "  machines:\n  - {machine: a, count: 9000}\n  - {machine: b, count: 9000}\n  opened: []", "line 6: more than 10000 machines"},
		{head + "  machines:\n  - {machine: a, state: UPx3 OFF}\n  opened: []", `line 5: state: "OFF" is none of [UP LATE STRANDED DARK PARKED OUT_OF_SERVICE]`},
		{head + s + "  want:\n  - {faults: []}", "line 3: an entry of want has no at"},
		{head + s + "  want:\n  - {at: 1m}", "line 7: faults is missing; write faults: [] where none must be open"},
		{head + s + "  want:\n  - {at: 1m1s, faults: []}", "line 7: at: 1m1s is not a multiple of 5s"},
		{head + s + "  want:\n  - {at: 1, faults: []}", `line 7: "1" is no duration; write it with its unit, such as 17m or 1m15s`},
		{head + s + "  want:\n  - {at: 1m, faults: [{route: a}]}", "line 7: a fault without its kind, such as kind: route_below"},
		{head + s + "  want:\n  - {at: 1m, faults: [{kind: below, route: a}]}", `line 7: kind: "below" is none of [machine_silent`},
		{head + s + "  want:\n  - {at: 1m, faults: [{kind: route_below}]}", "line 7: a fault of kind route_below names a route, and nothing else"},
		{head + s + "  want:\n  - {at: 1m, faults: [{kind: platform, route: a}]}", "line 7: a fault of kind platform names nothing, and nothing else"},
		{head + s + "  want:\n  - {at: 1m, faults: [{kind: route_below, route: b}]}", `line 7: the test has no series of route "b"`},
		{head + s + "  want:\n  - {at: 1m, faults: [{kind: machine_silent, machine: b}]}", `line 7: the test has no machine "b"`},
		{head + s + "  want:\n  - {at: 1m, faults: [{kind: route_below, route: a, count: 2}]}", "line 7: count goes with machine only"},
		{head + s + "  want:\n  - {at: 1m, faults: [{kind: route_below, route: a, severity: bad}]}", `line 7: severity: "bad" is none of [info minor major critical]`},
		{head + s + "  closed:\n  - {at: 90s, kind: route_below, route: a}", "line 7: at: 1m30s is not a multiple of the interval of 1m0s"},
		{head + s + "  closed:\n  - {kind: route_below, route: a}", "line 3: an entry of closed has no at"},
		{head + "  series:\n  - {route: a, online: 1x20000}\n  opened: []", "line 3: 20000 values of 1m0s are more than 192h0m0s"},
		{head + s + "  want:\n  - {at: 999h, faults: []}", "line 3: takes 999h0m0s, more than 192h0m0s"},
		{head + "  machines:\n  - {machine: a, count: 9999, heard: 1x9999}\n  opened: []", "looks at routes and machines are more than 20000000"},
	} {
		f, err := Parse("my.yaml", []byte(tt.in))
		if err == nil || f != nil {
			t.Errorf("%q was taken", tt.in)
			continue
		}
		if !strings.HasPrefix(err.Error(), "rules test my.yaml: ") || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q:\n got %v\nwant %s", tt.in, err, tt.want)
		}
	}
}

func TestTheRulesFileIsBesideTheTests(t *testing.T) {
	for in, want := range map[string]string{"": "", "rules: r.yaml\n": filepath.Join("dir", "r.yaml"), "rules: /etc/r.yaml\n": "/etc/r.yaml"} {
		f, err := Parse(filepath.Join("dir", "t.yaml"), []byte(in+head+"  series: [{route: a, online: 1}]\n  opened: []"))
		if err != nil || f.RulesFile() != want {
			t.Errorf("%q: %v, %v; want %q", in, f, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	b, err := os.ReadFile("../../../configs/rules_test.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(head + "  series: [{route: a, online: 3-1x3, expected: 3, known: 3, late: 1, heard: 0, expected_now: 2, lowest: 1, low: 1, source: history}]\n  blind: 0 1 0\n  opened: []"))
	f.Add([]byte(head + "  machines: [{machine: a, count: 2, route: b, heard: 1 0, state: PARKED, fault: -x2 E, pending: 1, skew: -9}]\n  want: [{at: 5s, faults: [{kind: machine_silent, machine: a, folded: false}]}]"))
	set := rules.Default(time.UTC)
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := Parse("fuzz", b)
		if (file == nil) == (err == nil) {
			t.Fatal("a file and an error, or neither")
		}
		if file == nil {
			return
		}
		for i := range file.doc.Tests {
			c := &file.doc.Tests[i]
			if int(c.length/Tick)*(len(c.Series)+len(c.groups)) > 20_000 {
				return // right, but too long for a fuzzer
			}
		}
		if _, err := file.Run(t.Context(), set, nil); err != nil {
			t.Fatal(err)
		}
	})
}

func BenchmarkRun(b *testing.B) {
	f, set := read(b, "../../../configs/rules_test.yaml")
	looks := 0
	for b.Loop() {
		results, err := f.Run(b.Context(), set, nil)
		if err != nil {
			b.Fatal(err)
		}
		for _, r := range results {
			looks += r.Looks
		}
	}
	b.ReportMetric(float64(looks)/b.Elapsed().Seconds(), "looks/s")
}
