package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/schemas"
)

func TestDemoScreen(t *testing.T) {
	at := time.Date(2026, 11, 17, 7, 42, 10, 0, time.UTC)
	s := demoScreen{
		City: "Tampa", Now: at, Speed: 60, Address: "127.0.0.1:1883", Topic: "farebeat/v1/tampa/#", Online: 182, Expected: 186, OpenFaults: 4, Closed: 1,
		Home: 120450, AtRisk: 1005, Currency: "USD",
		Routes: []demoRoute{{Route: "36", Online: 2, Expected: 6, Threshold: 4, Since: at.Add(-6 * time.Minute), Kind: "route_below"}},
		Recoveries: []schemas.Recovery{
			{Machine: "306049-1", State: schemas.RecoveryReading, Total: 300, Receipted: 75},
			{Machine: "306050-1", State: schemas.RecoveryFailed, LastError: "machine not seen in 30 s"},
		},
		Events: []demoEvent{{at, "opened machine_silent 306049-1"}},
	}
	want := `Farebeat demo: Tampa, Tue 07:42:10, 60x speed
Look at it with any MQTT client: 127.0.0.1:1883, topic farebeat/v1/tampa/#

  online 182 of 186 expected   open faults 4, closed 1   money home 1204.50 USD, still inside machines 10.05 USD

Routes with a fault
  route 36      2 online of  6 expected, fault below  4, since 07:36  route_below

Recoveries over BLE
  306049-1     [######..................]   75 of  300 home  READING
  306050-1     [........................]    0 of    0 home  FAILED: machine not seen in 30 s

Latest
  07:42:10  opened machine_silent 306049-1

Ctrl-C ends it.`
	if diff := cmp.Diff(want, strings.Join(s.render(), "\n")); diff != "" {
		t.Error(diff)
	}
	s.Recoveries = make([]schemas.Recovery, 20)
	s.Routes = nil
	text := strings.Join(s.render(), "\n")
	if !strings.Contains(text, "and 14 more") || !strings.Contains(text, "fault\n  none") || strings.Count(text, "\n") > 30 {
		t.Errorf("a long list or an empty one:\n%s", text)
	}
}

func TestScreensAreDrawnOverEachOther(t *testing.T) {
	var b strings.Builder
	w := screenWriter{out: &b}
	for _, lines := range [][]string{{"a", "b", "c"}, {"d"}} {
		if err := w.draw(lines); err != nil {
			t.Fatal(err)
		}
	}
	if want := "\x1b[2Ka\n\x1b[2Kb\n\x1b[2Kc\n\x1b[0J\x1b[3A\x1b[2Kd\n\x1b[0J"; b.String() != want {
		t.Errorf("%q", b.String())
	}
}
