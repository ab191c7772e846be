package rules

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
	_ "time/tzdata"
)

func berlin(t testing.TB) *time.Location {
	t.Helper()
	loc, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	return loc
}

func example(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile("../../configs/rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestExampleFileIsTheDefaultWithItsOverrides(t *testing.T) {
	loc := berlin(t)
	s, err := Parse("rules.yaml", example(t), loc)
	if err != nil {
		t.Fatal(err)
	}
	def := Default(loc)
	noon := time.Date(2026, 11, 23, 12, 0, 0, 0, loc)
	for _, source := range sourceNames() {
		if got, want := s.Rule("1", noon, source), def.Rule("1", noon, source); got != want {
			t.Errorf("source %s: the documented defaults are %+v, the real ones %+v", source, got, want)
		}
	}
	if !reflect.DeepEqual(s.Machine(), def.Machine()) || s.Platform() != def.Platform() {
		t.Errorf("documented %+v %+v, real %+v %+v", s.Machine(), s.Platform(), def.Machine(), def.Platform())
	}
	for _, tt := range []struct {
		route string
		hour  int
		want  int
		off   bool
	}{
		{"36", 6, 0, false},
		{"36", 7, 12, false},
		{"6", 8, 12, false},
		{"36", 9, 0, false},
		{"36", 18, 12, false},
		{"night shuttle", 21, 0, false},
		{"night shuttle", 22, 0, true},
		{"night shuttle", 1, 0, true},
		{"night shuttle", 2, 0, false},
	} {
		r := s.Rule(tt.route, time.Date(2026, 11, 23, tt.hour, 30, 0, 0, loc), "timetable")
		if r.MinOnline != tt.want || r.Off != tt.off {
			t.Errorf("route %s at %d:30: min_online %d off %v, want %d %v", tt.route, tt.hour, r.MinOnline, r.Off, tt.want, tt.off)
		}
	}
}

func TestSourceIndexFollowsTheNames(t *testing.T) {
	for i, name := range sourceNames() {
		if got := sourceIndex(name); got != i {
			t.Errorf("%s: %d, want %d", name, got, i)
		}
	}
	if got := sourceIndex("moon"); got != sources-1 {
		t.Errorf("an unknown source: %d", got)
	}
}

func TestWhatTheFileSaysForAllRoutesHoldsForTheTimetable(t *testing.T) {
	noon := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	def := Default(time.UTC).Rule("1", noon, "timetable")
	for _, tt := range []struct {
		file string
		want func(*Rule)
	}{
		{"{}", func(*Rule) {}},
		{"{auto: {availability: 0.9}}", func(r *Rule) { r.Availability = 0.9 }},
		{"{auto: {false_alarms: 0.01}}", func(r *Rule) { r.FalseAlarms = 0.01 }},
		{"{min_ratio: 0.5}", func(r *Rule) { r.MinRatio, r.FalseAlarms = 0.5, 0.001 }},
		{"{min_online: 2}", func(r *Rule) { r.MinOnline, r.FalseAlarms = 2, 0.001 }},
		{"{never_heard_after: 20m}", func(r *Rule) { r.NeverHeardAfter = 20 * time.Minute }},
	} {
		s, err := Parse("r", []byte("route: "+tt.file), time.UTC)
		if err != nil {
			t.Fatal(err)
		}
		want := def
		tt.want(&want)
		if got := s.Rule("1", noon, "timetable"); got != want {
			t.Errorf("%s: %+v, want %+v", tt.file, got, want)
		}
	}
}

func TestLaterOverridesWinAndSwitchTheKind(t *testing.T) {
	s, err := Parse("r", []byte("route: {min_ratio: 0.7, for: {m: 1, of: 2}}\noverrides:\n- {routes: [a], min_online: 3}\n- {hours: ['08-09'], auto: {}}\n"), time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	at := func(hour int) time.Time { return time.Date(2026, 1, 1, hour, 0, 0, 0, time.UTC) }
	for _, tt := range []struct {
		route  string
		hour   int
		online int
		ratio  float64
	}{{"b", 7, 0, 0.7}, {"a", 7, 3, 0}, {"a", 8, 0, 0}, {"b", 8, 0, 0}} {
		r := s.Rule(tt.route, at(tt.hour), "timetable")
		if r.MinOnline != tt.online || r.MinRatio != tt.ratio {
			t.Errorf("%s at %d: %d and %v, want %d and %v", tt.route, tt.hour, r.MinOnline, r.MinRatio, tt.online, tt.ratio)
		}
		if r.For.M != 1 || r.For.Of != 2 {
			t.Errorf("%s at %d: for %+v: what the file says for all routes must hold for the timetable too", tt.route, tt.hour, r.For)
		}
	}
}

func TestBadFiles(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"rout:\n  min_online: 1", `line 1: unknown key "rout"; known here are route, overrides, machine, platform`},
		{"route:\n  min_onlin: 1", `line 2: unknown key "min_onlin"; known here are off, min_online,`},
		{"route:\n  for: {m: 3, n: 4}", `line 2: unknown key "n"; known here are m, of, every`},
		{"machine:\n  silent: 3s", `line 2: unknown key "silent"; known here are silence,`},
		{"route:\n  min_online: many", "line 2: cannot unmarshal !!str `many` into int"},
		{"route:\n  silent_after: 45", `line 2: "45" is no duration; write it with its unit, such as 45s or 10m`},
		{"route:\n  silent_after: [1s]", `is no duration`},
		{"\n\nroute:\n  min_online: 1\n  min_ratio: 0.5", "line 3: route: give one of min_online, min_ratio and auto, not several"},
		{"route:\n  min_online: 0", "min_online: 0 is not at least 1; to switch a rule off write off: true"},
		{"route:\n  min_ratio: 1.5", "min_ratio: 1.5 is not between 0 and 1"},
		{"route:\n  min_ratio: .nan", "min_ratio: NaN is not above 0"},
		{"route:\n  auto: {availability: 1}", "auto.availability: 1 is not between 0 and 1"},
		{"route:\n  auto: {false_alarms: 0.9}", "auto.false_alarms: 0.9 is not between 0 and 0.5"},
		{"route:\n  for: {m: 5, of: 4}", "for.m: 5 is not between 1 and for.of, which is 4"},
		{"route:\n  for: {of: 65}", "for.of: 65 is not between 1 and 64"},
		{"route:\n  for: {every: 1ms}", "for.every: 1ms is not between 1s and 1h"},
		{"route:\n  keep_firing_for: -1s", "keep_firing_for: -1s is not between"},
		{"overrides:\n- routes: [a]\n- min_online: 3", "line 3: overrides: names no routes, hours or sources"},
		{"overrides:\n- routes: ['']\n  off: true", "line 2: overrides: routes: an id is empty"},
		{"overrides:\n- sources: [guess]", `line 2: overrides: sources: "guess" is none of hand, timetable, history, none`},
		{"overrides:\n- hours: ['7']", `hours: "7" is no span of hours`},
		{"overrides:\n- hours: ['09-09']", `hours: "09-09" is no span of hours`},
		{"overrides:\n- hours: ['00-24']", `hours: "00-24" is no span of hours`},
		{"overrides:\n- hours: ['22-25']", `hours: "22-25" is no span of hours`},
		{"overrides:\n- {routes: [a], for: {m: 5}}", "line 2: overrides: for.m: 5 is not between 1 and for.of, which is 4"},
		{"machine: {silence: 0s}", "line 1: machine: silence: 0s is not between"},
		{"machine: {pending: [80, 50]}", "machine: pending: 50 % is not above 80"},
		{"machine: {pending: [50, 101]}", "machine: pending: 101 % is not above 50 and at most 100"},
		{"machine: {clock_skew: -1s}", "must not be negative"},
		{"platform: {machines: 1}", "line 1: platform: machines: 1 is not at least 2"},
		{"platform: {share: 0}", "share: 0 is not above 0"},
		{"platform: {routes: 0}", "routes: 0 is not at least 1"},
		{"platform: {within: 1s}", "within: 1s is not between"},
		{"platform: {silent_after: 0s}", "silent_after: 0s is not between"},
		{"---\nroute: {}\n---\nroute: {}", "second YAML document"},
		{"route: [", "line 1: did not find expected node content"},
		{strings.Repeat("#", MaxFile+1), "bytes is more than"},
	} {
		s, err := Parse("my.yaml", []byte(tt.in), time.UTC)
		if err == nil || s != nil {
			t.Errorf("%.60q was taken", tt.in)
			continue
		}
		if !strings.HasPrefix(err.Error(), "rules file my.yaml: ") || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%.60q:\n got %v\nwant %s", tt.in, err, tt.want)
		}
	}
}

func TestEmptyFileIsTheDefault(t *testing.T) {
	for _, in := range []string{"", "# nothing\n", "route:\n", "overrides: []\n"} {
		if s, err := Parse("r", []byte(in), time.UTC); err != nil || s.Rule("1", time.Unix(0, 0), "hand") != Default(time.UTC).Rule("1", time.Unix(0, 0), "hand") {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func TestManyNamedRoutesCompileFast(t *testing.T) {
	var b strings.Builder
	b.WriteString("overrides:\n")
	for i := range 5000 {
		fmt.Fprintf(&b, "- {routes: [r%d], hours: ['07-09'], min_online: %d}\n", i, i%20+1)
	}
	s, err := Parse("r", []byte(b.String()), time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Rule("r4999", time.Date(2026, 1, 1, 8, 0, 0, 0, time.UTC), "hand").MinOnline; got != 20 {
		t.Errorf("min_online %d, want 20", got)
	}
}

func TestAutoThreshold(t *testing.T) {
	// k+1 for the largest k with P(X <= k) < 0.001, X binomial(n, 0.97); by hand up to 4.
	for n, want := range map[int]int{0: 0, 1: 0, 2: 1, 3: 1, 4: 2, 5: 3, 10: 7, 100: 91} {
		if got := autoThreshold(n, 0.97, 0.001); got != want {
			t.Errorf("n=%d: threshold %d, want %d", n, got, want)
		}
	}
	last := 0
	for n := range 20_000 {
		got := autoThreshold(n, 0.97, 0.001)
		if got < last || got > n {
			t.Fatalf("n=%d: threshold %d after %d", n, got, last)
		}
		last = got
		if n > 500 {
			break
		}
	}
	if got := autoThreshold(100_000, 0.97, 0.001); got < 96_500 || got > 97_000 {
		t.Errorf("n=100000: threshold %d, want a little below 97000", got)
	}
}

func TestThresholdKinds(t *testing.T) {
	for _, tt := range []struct {
		rule   Rule
		demand int
		known  bool
		want   int
	}{
		{Rule{MinOnline: 12}, 20, true, 12},
		{Rule{MinOnline: 12}, 0, false, 12},
		{Rule{MinOnline: 12}, 0, true, 0}, // no service
		{Rule{MinRatio: 0.7}, 10, true, 7},
		{Rule{MinRatio: 0.7}, 3, true, 3},
		{Rule{MinRatio: 0.7}, 10, false, 0},
		{Rule{Availability: 0.97, FalseAlarms: 0.001}, 10, true, 7},
		{Rule{Off: true, MinOnline: 12}, 20, true, 0},
	} {
		if got := newReadyRules().of(tt.rule).threshold(tt.demand, tt.known, 0); got != tt.want {
			t.Errorf("%+v of %d (%v): %d, want %d", tt.rule, tt.demand, tt.known, got, tt.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(example(f))
	f.Add([]byte("route: {min_ratio: 0.7}\noverrides: [{routes: [a], off: true}]"))
	f.Add([]byte("&a [*a]"))
	f.Add([]byte("overrides: [{hours: ['22-02'], for: {m: 1, of: 64, every: 1h}}]"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Parse("fuzz", b, time.UTC)
		if (s == nil) == (err == nil) {
			t.Fatal("a set and an error, or neither")
		}
		if s == nil {
			return
		}
		text := printed(t, s)
		if again, err := Parse("printed", []byte(text), time.UTC); err != nil || !again.Equal(s) {
			t.Fatalf("printed it is another set, %v:\n%s", err, text)
		}
		for hour := range 24 {
			for _, source := range sourceNames() {
				if err := s.Rule("a", time.Unix(int64(hour)*3600, 0), source).check(); err != nil {
					t.Fatalf("Parse let through %v", err)
				}
			}
		}
	})
}
