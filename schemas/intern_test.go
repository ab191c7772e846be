package schemas

import (
	"fmt"
	"testing"
)

// TestInternedStringsAreBounded: a machine that makes up names fills no memory, and what a fleet
// really says survives it.
func TestInternedStringsAreBounded(t *testing.T) {
	d := NewHeartbeatDecoder()
	d.most = 50
	var hb Heartbeat
	for i := range 10_000 {
		payload := fmt.Appendf(nil, `{"seq":%d,"boot":"b7","at":"2026-11-22T23:41:09.120Z","state":"running","trip":"made up %d"}`, i, i)
		if err := d.Decode(payload, &hb); err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprint("made up ", i); hb.Trip != want || hb.Boot != "b7" {
			t.Fatalf("trip %q, boot %q, want %q", hb.Trip, hb.Boot, want)
		}
		if len(d.young) > d.most || len(d.old) > d.most {
			t.Fatalf("remembers %d and %d strings, at most %d each", len(d.young), len(d.old), d.most)
		}
	}
	if d.young["b7"] == "" && d.old["b7"] == "" {
		t.Error("forgot what every heartbeat says")
	}
	if d.s.b != nil {
		t.Error("holds on to the payload")
	}
}
