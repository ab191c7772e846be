//go:build linux

package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/cmd/ble-guest/result"
)

func record(seq int, amount string) string {
	return fmt.Sprintf(`{"epoch":1,"seq":%d,"amount":%s}`, seq, amount)
}

func TestHoldFindsEveryDifference(t *testing.T) {
	m := &machine{id: "m", stored: map[key]string{}}
	for seq := 1; seq <= 4; seq++ {
		sum := sha256.Sum256([]byte(record(seq, "240")))
		m.witness(fmt.Appendf(nil, `{"epoch":1,"seq":%d,"sha256":"%s","amount":240}`, seq, hex.EncodeToString(sum[:])))
	}
	m.witness([]byte("nonsense"))
	var exported strings.Builder
	for _, r := range []string{record(1, "240"), record(1, "240"), record(2, "241"), record(4, "240"), record(9, "240")} {
		fmt.Fprintf(&exported, `{"brought_by":"v","received_at":"x","record":%s}`+"\n", r)
	}
	var got result.Scenario
	if _, err := m.hold([]byte(exported.String()), &got); err != nil {
		t.Fatal(err)
	}
	want := result.Scenario{Records: 4, Lost: 1, Twice: 1, Altered: 1, Invented: 1, Findings: []string{"machine m printed 1 lines that are no records"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if _, err := m.hold([]byte("{}\n"), &got); err == nil {
		t.Error("an export without records was taken")
	}
}

func TestChoose(t *testing.T) {
	all, err := choose("")
	if err != nil || len(all) < 10 {
		t.Fatalf("%d scenarios, %v", len(all), err)
	}
	names := map[string]bool{}
	for _, s := range all {
		if names[s.name] {
			t.Errorf("two scenarios %q", s.name)
		}
		names[s.name] = true
	}
	if names["crowd"] {
		t.Error("a scenario that is played on request is among all")
	}
	two, err := choose("rogue,plain")
	if err != nil || len(two) != 2 || two[0].name != "rogue" {
		t.Errorf("%v, %v", two, err)
	}
	if _, err := choose("nothing"); err == nil || !strings.Contains(err.Error(), "there are plain, ") {
		t.Errorf("an unknown scenario: %v", err)
	}
}
