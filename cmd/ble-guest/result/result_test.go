package result

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLineGoesOverTheConsole(t *testing.T) {
	want := Line{Scenario: &Scenario{Name: "plain", Findings: []string{"a\nb"}, Records: 1000, Agent: Usage{PeakKiB: 5}}}
	var b bytes.Buffer
	if err := Write(&b, want); err != nil {
		t.Fatal(err)
	}
	if strings.Count(b.String(), "\n") != 1 {
		t.Errorf("it is not one line: %q", b.String())
	}
	got, err := Parse("[    1.5] kernel talks " + strings.TrimSuffix(b.String(), "\n") + "\r\n")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got.Scenario.Passed() {
		t.Error("a scenario with a finding passed")
	}
}

func TestParseRefuses(t *testing.T) {
	for text, other := range map[string]bool{
		"":                             true,
		"[ 0.1] Linux version":         true,
		"ble-guest: {":                 false,
		`ble-guest: {"unknown":1}`:     false,
		`ble-guest: {"scenario":true}`: false,
	} {
		if _, err := Parse(text); err == nil || errors.Is(err, ErrOther) != other {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(`ble-guest: {"note":"x"}`)
	f.Add(`x ble-guest: {"scenario":{"records":1}} y`)
	f.Add("ble-guest:")
	f.Fuzz(func(t *testing.T, text string) {
		l, err := Parse(text)
		if err != nil {
			return
		}
		var b bytes.Buffer
		if err := Write(&b, l); err != nil {
			t.Fatal(err)
		}
		again, err := Parse(b.String())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(l, again); diff != "" {
			t.Error(diff)
		}
	})
}
