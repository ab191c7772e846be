package rules

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func printed(t testing.TB, s *Set) string {
	t.Helper()
	b, err := s.YAML()
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestWhatIsPrintedIsTheSameSet(t *testing.T) {
	loc := berlin(t)
	for _, in := range []string{
		"", string(example(t)), "route: {min_online: 3}", "route: {min_ratio: 0.5, for: {m: 1, of: 1}}", "route: {keep_firing_for: 1h30m}",
		"route: {off: true}\noverrides: [{routes: [a], off: false, auto: {}}, {routes: [a, b], hours: ['22-02']}]",
		"route: {auto: {availability: 0.9}}\noverrides: [{sources: [none], auto: {false_alarms: 0.01}}]",
		"machine: {cap: 0, pending: [90], clock_skew: 0s, unsent_after: 0s}\nplatform: {share: 1, within: 1m30s}",
		"causes: {vehicle: {off: true}, network: {machines: 3, share: 0.25}}",
		"maintenance: [{name: n, depots: [d], days: [sat], hours: '22:00-04:00'}, {name: once, from: '2026-11-24 10:00', until: '2026-11-24 12:00'}]",
	} {
		s, err := Parse("in", []byte(in), loc)
		if err != nil {
			t.Fatal(err)
		}
		text := printed(t, s)
		again, err := Parse("out", []byte(text), loc)
		if err != nil {
			t.Errorf("%.60q: %v in\n%s", in, err, text)
			continue
		}
		if !again.Equal(s) || !s.Equal(again) {
			t.Errorf("%.60q: another set from\n%s", in, text)
		}
		if twice := printed(t, again); twice != text {
			t.Errorf("%.60q: printed twice is\n%s\nonce is\n%s", in, twice, text)
		}
	}
	if text := printed(t, Default(loc)); !strings.Contains(text, "keep_firing_for: 5m\n") || !strings.Contains(text, "pending: [50, 80, 95]\n") {
		t.Errorf("not as a person writes it:\n%s", text)
	}
}

func TestSetsThatDecideOtherwiseAreNotEqual(t *testing.T) {
	def := Default(time.UTC)
	for _, in := range []string{
		"route: {silent_after: 44s}", "overrides: [{routes: [a], off: true}]", "overrides: [{hours: ['07-08'], min_online: 1}]",
		"machine: {pending: [50, 81, 95]}", "machine: {cap: 1}", "platform: {routes: 4}", "causes: {depot: {machines: 6}}", "maintenance: [{name: n, hours: '22:00-04:00'}]", "overrides: [{sources: [none], keep_firing_for: 1m}]",
	} {
		s := parsed(t, in)
		if s.Equal(def) || def.Equal(s) {
			t.Errorf("%s: equal to the default", in)
		}
	}
	if def.Equal(Default(berlin(t))) {
		t.Error("equal in another zone")
	}
	if !parsed(t, "overrides: [{routes: [a], silent_after: 45s}]").Equal(def) {
		t.Error("an override that says the default is no difference")
	}
}

func TestNamedRoutesAndTheirLines(t *testing.T) {
	s := parsed(t, "overrides:\n- {hours: ['07-09'], min_online: 2}\n- {routes: [b, a], off: true}\n- {routes: [c, a], off: true}\n")
	if got, want := s.Named(), []Named{{"a", 3}, {"b", 3}, {"c", 4}}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if s.Overrides() != 4 { // with that of the defaults
		t.Errorf("%d overrides, want 4", s.Overrides())
	}
	one, err := s.RuleAt("c", 8, "timetable").YAML()
	if err != nil || !strings.HasPrefix(string(one), "route:\n") || !strings.Contains(string(one), `"off": true`) {
		t.Errorf("%s, %v", one, err)
	}
	again, want := parsed(t, string(one)).RuleAt("any", 3, "hand"), s.RuleAt("c", 8, "timetable")
	if again.FalseAlarms = want.FalseAlarms; again != want { // it says nothing beside min_online
		t.Errorf("one rule printed is another one:\n%s", one)
	}
}
