package main

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/farebeat/farebeat/fleet/counts"
	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/store"
)

// storedMorning leaves the minutes from 05:00 to 09:00 of two routes and one live fault in a data folder. Route 36
// has 12 machines, and 7 from 07:00 to 07:30; route 5 has 4, and 3 from 08:00 on.
func storedMorning(t *testing.T) (data string) {
	t.Helper()
	data = t.TempDir()
	db, err := store.Open(t.Context(), storePath(data), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	dawn := time.Date(2026, 11, 23, 5, 0, 0, 0, time.UTC)
	for m := range 4 * 60 {
		row := func(route string, of, n int) counts.RouteMinute {
			return counts.RouteMinute{Route: route, Online: n, Min: n, Max: n, Known: of, Expected: of}
		}
		big, small := 12, 4
		if m >= 120 && m < 150 {
			big = 7
		}
		if m >= 180 {
			small = 3
		}
		f := counts.Frame{At: dawn.Add(time.Duration(m) * time.Minute), Rows: []counts.RouteMinute{row("36", 12, big), row("5", 4, small)}}
		if err := db.Counts().SaveFrame(t.Context(), f); err != nil {
			t.Fatal(err)
		}
	}
	book := faults.NewBook(faults.Policy{})
	fire := func(at time.Time, firing bool) {
		v := faults.Verdict{Kind: faults.RouteBelow, Firing: firing, Threshold: 9, Reason: "7 machines are online."}
		if err := db.Faults().Save(t.Context(), book.Apply(at, []faults.Input{faults.RouteCheck{Route: "36", Verdict: v, Online: 7, Expected: 12}})...); err != nil {
			t.Fatal(err)
		}
	}
	fire(dawn.Add(121*time.Minute), true)
	fire(dawn.Add(152*time.Minute), false)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return data
}

// farebeat runs one command line.
func farebeat(t *testing.T, want int, args ...string) (out, errOut string) {
	t.Helper()
	var o, e bytes.Buffer
	if got := run(t.Context(), args, strings.NewReader(""), &o, &e); got != want {
		t.Fatalf("farebeat %s: exit %d, want %d\n%s%s", strings.Join(args, " "), got, want, &o, &e)
	}
	return o.String(), e.String()
}

func TestRulesReplay(t *testing.T) {
	data := storedMorning(t)
	file := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(file, []byte("overrides:\n- {routes: ['36'], off: true}\n- {routes: ['5'], min_online: 4}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	common := []string{"rules", "replay", "--data", data, "--source", "hand"}
	out, _ := farebeat(t, exitOK, common...)
	for _, want := range []string{
		"2026-11-23 06:59:35 +00:00  2026-11-23 07:31:05 +00:00  36     route_below  1      R-", "2 routes: 480 route-minutes judged, 0 blind",
		"- Rules of single machines and of the platform are not replayed",
		"live 1 route faults: 0 missed with these rules; 0 new\n1 route faults, 1 pages; for 100 route-weeks 2100.0 faults, 2100.0 pages",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}

	out, _ = farebeat(t, exitOK, append(common, "--rules", file, "--json")...)
	var summary replaySummaryJSON
	if err := json.Unmarshal([]byte(out), &summary); err != nil {
		t.Fatal(err)
	}
	if s := summary; s.Faults != 1 || s.New != 1 || s.Missed != 1 || s.Live != 1 || s.Pages != 1 || len(s.List) != 2 || len(s.Days) != 2 || len(s.Limits) == 0 || s.RouteMinutes != 480 {
		t.Errorf("%+v", s)
	}
	if f := summary.List[0]; f.Route != "5" || f.Outcome != "new" || !f.Closed.IsZero() || f.Threshold != 4 || f.Online != 3 {
		t.Errorf("%+v", f)
	}

	out, notes := farebeat(t, exitOK, append(common, "--rules", file, "--csv", "--route", "36")...)
	rows, err := csv.NewReader(strings.NewReader(out)).ReadAll()
	if err != nil || len(rows) != 2 || fmt.Sprint(rows[1][2:6]) != "[36 route_below missed 0]" || !strings.Contains(notes, "note: Rules of single machines") {
		t.Errorf("%q, %v, notes %q", rows, err, notes)
	}
	out, _ = farebeat(t, exitOK, append(common, "--from", "2026-11-23T08:00:00Z")...)
	if !strings.Contains(out, "live 0 route faults: 0 missed with these rules; 0 new\n0 route faults") {
		t.Errorf("from eight on:\n%s", out)
	}
}

// Wrong files and findings have exit codes of their own.
func TestRulesExitCodes(t *testing.T) {
	data, dir := storedMorning(t), t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good, far := file("good.yaml", "overrides: [{routes: ['36'], off: true}]"), file("far.yaml", "overrides: [{routes: ['36', '37'], off: true}]")
	wrong := file("wrong.yaml", "route: {off: perhaps}")
	fails := file("fails.yaml", "start: 2026-11-23T10:00\ntests: [{name: a, series: [{route: a, online: 1}], want: [{at: 1m, faults: [{kind: route_below, route: a}]}]}]")
	farebeat(t, exitOK, "rules", "check", good, "--data", data)
	_, warned := farebeat(t, exitDifference, "rules", "check", far, "--data", data)
	if !strings.Contains(warned, `line 1: route "37" is not one of the 2 known`) {
		t.Error(warned)
	}
	farebeat(t, exitUsage, "rules", "check", wrong)
	farebeat(t, exitUsage, "rules", "check", filepath.Join(dir, "nowhere.yaml"))
	farebeat(t, exitDifference, "rules", "test", fails)
	farebeat(t, exitUsage, "rules", "test", good)
	farebeat(t, exitUsage, "rules", "show", wrong)
	farebeat(t, exitUsage, "rules", "show", "--route", "36")
}

func TestRulesReplayRefuses(t *testing.T) {
	data := storedMorning(t)
	for want, args := range map[string][]string{
		"the store holds no counts of this time; `farebeat counts` prints what it holds": {"--data", data, "--from", "2027-01-01T00:00:00Z"},
		`--source "guess": want hand, timetable or history`:                              {"--data", data, "--source", "guess"},
		"is not after --from": {"--data", data, "--from", "2026-11-23T08:00:00Z", "--to", "2026-11-23T07:00:00Z"},
		"nowhere.yaml":        {"--data", data, "--rules", "nowhere.yaml"},
		"--data names":        {"--data", filepath.Join(data, "nowhere")},
	} {
		if _, errOut := farebeat(t, exitUsage, append([]string{"rules", "replay"}, args...)...); !strings.Contains(errOut, want) {
			t.Errorf("%q: want %q", errOut, want)
		}
	}
}

// The expectation of a configuration is worked out again: ten more machines by hand are missing all the time.
func TestRulesReplayWithAnotherExpectation(t *testing.T) {
	data := storedMorning(t)
	config := filepath.Join(t.TempDir(), "farebeat.yaml")
	text := "fleet:\n  expected:\n" + `    - {route: "5", hours: "07-09", expected: 14}` + "\n"
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	out, _ := farebeat(t, exitOK, "rules", "replay", "--data", data, "--config", config, "--json")
	var summary replaySummaryJSON
	if err := json.Unmarshal([]byte(out), &summary); err != nil {
		t.Fatal(err)
	}
	if summary.New != 1 || summary.Missed != 1 || summary.List[0].Expected != 14 {
		t.Errorf("%+v: want one new fault of route 5, and that of route 36 missed because nobody expects it any more", summary)
	}
}
