package main

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/farebeat/farebeat/configs"
	"github.com/farebeat/farebeat/fleet/console/access"
	"github.com/farebeat/farebeat/fleet/counts"
	"github.com/farebeat/farebeat/fleet/expect"
	"github.com/farebeat/farebeat/fleet/rules"
	"github.com/farebeat/farebeat/fleet/store"
)

// rulesRig is a console over a rules file, and a day on which route A had three of five machines for two hours.
func rulesRig(t *testing.T, role access.Role) (rig *consoleRig, file string, live *rules.Live) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "rules.yaml")
	text, err := rules.Default(time.UTC).YAML()
	if err == nil {
		err = os.WriteFile(file, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if live, err = rules.OpenLive(file, time.UTC, time.Now()); err != nil {
		t.Fatal(err)
	}
	var rows []expect.RouteHour
	for hour := range 24 {
		rows = append(rows, expect.RouteHour{Route: "A", Hour: hour, Vehicles: 5})
	}
	rig = newConsoleRig(t, consoleRole(role), expect.NewByHand(rows, time.UTC), func(db *store.Store) { storeThinNoon(t, db) }, nil, func(o *serverOptions) { o.rules = live })
	return rig, file, live
}

func yesterday() time.Time { return time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, -1) }

// strictRules want four machines on each route.
const strictRules = "route:\n  min_online: 4\n  for: {m: 3, of: 4, every: 1m}\n"

// storeThinNoon stores yesterday from 08:00 to 20:00: route A had three of five machines from 12:00 to 14:00, and all otherwise.
func storeThinNoon(t *testing.T, db *store.Store) {
	t.Helper()
	noon := yesterday().Add(12 * time.Hour)
	for minute := range 12 * 60 {
		at := yesterday().Add(8*time.Hour + time.Duration(minute)*time.Minute)
		n := 5
		if !at.Before(noon) && at.Before(noon.Add(2*time.Hour)) {
			n = 3
		}
		f := counts.Frame{At: at, Rows: []counts.RouteMinute{{Route: "A", Online: n, Min: n, Max: n, Known: 5, Expected: 5, Threshold: 2}}}
		if err := db.Counts().SaveFrame(t.Context(), f); err != nil {
			t.Fatal(err)
		}
	}
}

// field reads a hidden field of a page.
func field(t *testing.T, body, name string) string {
	t.Helper()
	m := regexp.MustCompile(`name="` + name + `" value="([^"]*)"`).FindStringSubmatch(body)
	if m == nil {
		t.Fatalf("the page has no field %s: %.2000s", name, body)
	}
	return m[1]
}

// location is where an answer leads to.
func (r *consoleRig) location(path string, form url.Values) string {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), http.MethodPost, r.base+path, strings.NewReader(form.Encode()))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Sec-Fetch-Site", "same-origin")
	res, err := r.client.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusSeeOther {
		r.t.Fatalf("%s: %d", path, res.StatusCode)
	}
	return res.Header.Get("Location")
}

// tried tries a draft on yesterday, and gives its page when the trial is done.
func (r *consoleRig) tried(form url.Values) string {
	r.t.Helper()
	day := yesterday().Format(time.DateOnly)
	form.Set("from", day)
	form.Set("to", day)
	after := r.location("/rules/try", form)
	for {
		_, page := r.get(after)
		if strings.Contains(page, "would have opened") {
			return page
		}
		if strings.Contains(page, `class="warn"`) {
			r.t.Fatalf("%.4000s", page)
		}
		r.pass(1)
	}
}

func TestRulesAreCheckedTriedAndSaved(t *testing.T) {
	rig, file, live := rulesRig(t, access.Admin)
	_, page := rig.get("/rules/edit")
	was := field(t, page, "was")
	bad := rig.location("/rules/check", url.Values{"was": {was}, "text": {"route:\n  min_online: <b>many</b>\n"}})
	if _, page = rig.get(bad); !strings.Contains(page, "Line 2") || strings.Contains(page, "<b>many") || strings.Contains(page, ">Save<") {
		t.Errorf("what is wrong is not told, or is no text, or may be saved: %.3000s", page)
	}

	_, page = rig.get(rig.location("/rules/check", url.Values{"was": {was}, "text": {strictRules}}))
	id := field(t, page, "draft")
	save := url.Values{"draft": {id}, "was": {was}}
	if code, body := rig.post("/rules/save", save); code != http.StatusBadRequest || !strings.Contains(body, "not tried") {
		t.Errorf("saved without trying: %d", code)
	}
	page = rig.tried(url.Values{"draft": {id}, "was": {was}, "route": {"A"}})
	if code, body := rig.post("/rules/save", save); code != http.StatusBadRequest || !strings.Contains(body, "all routes") {
		t.Errorf("saved after a trial of one route: %d", code)
	}
	if !strings.Contains(page, "not tried on all routes") || !strings.Contains(page, `name="untried"`) {
		t.Error("the page does not say that one route is not all")
	}
	for _, route := range []string{"", "A"} { // the trial of one route takes nothing away
		page = rig.tried(url.Values{"draft": {id}, "was": {was}, "route": {route}})
		if strings.Contains(page, "not tried on all routes") || !strings.Contains(page, "tried on all routes") || strings.Contains(page, `name="untried"`) {
			t.Errorf("after all, then %q: the page does not say that all were tried", route)
		}
	}
	if _, body := rig.get("/api/v1/rules/trial"); !strings.Contains(body, `"draft_tried":true`) || !strings.Contains(body, `"route":"A"`) {
		t.Errorf("the API says of the latest trial: %.500s", body)
	}
	if !strings.Contains(page, "1 fault</b> of routes would have opened, 1 that did not fire") {
		t.Errorf("the two hours with three machines are no fault of the stricter rule: %s", page[strings.Index(page, "The newest trial"):])
	}

	// Somebody else changes the file meanwhile.
	before, err := os.ReadFile(file)
	if err == nil {
		err = os.WriteFile(file, append(before, "# by hand\n"...), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if code, body := rig.post("/rules/save", save); code != http.StatusConflict {
		t.Errorf("a file that changed was overwritten: %d %.500s", code, body)
	}
	if err := os.WriteFile(file, before, 0o600); err != nil {
		t.Fatal(err)
	}
	if to := rig.location("/rules/save", save); !strings.HasPrefix(to, "/rules?") {
		t.Errorf("after saving: %s", to)
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != strictRules {
		t.Errorf("the file says %q, %v", got, err)
	}
	if got, err := os.ReadFile(file + ".before"); err != nil || string(got) != string(before) {
		t.Errorf("the text of before: %q, %v", got, err)
	}
	for range 2 {
		if _, err := live.Poll(time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	if n := live.Set().RuleAt("A", 12, expect.SourceHand).MinOnline; n != 4 {
		t.Errorf("the rules in force want %d", n)
	}
	if _, page = rig.get("/rules/route/A"); !strings.Contains(page, "<b>4</b>") {
		t.Error("the route's page does not show the new threshold")
	}
}

func TestRulesAreChangedByAdminsOnly(t *testing.T) {
	for _, role := range []access.Role{access.Viewer, access.Operator} {
		rig, file, _ := rulesRig(t, role)
		before, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if code, _ := rig.get("/rules/edit"); code != http.StatusForbidden {
			t.Errorf("%s: the page: %d", role, code)
		}
		for _, path := range []string{"/rules/check", "/rules/try", "/rules/save", "/rules/stop"} {
			if code, _ := rig.post(path, url.Values{"text": {"route: {off: true}"}, "untried": {"yes"}}); code != http.StatusForbidden {
				t.Errorf("%s: %s: %d", role, path, code)
			}
		}
		if after, err := os.ReadFile(file); err != nil || string(after) != string(before) {
			t.Errorf("%s: the file changed", role)
		}
		if code, body := rig.get("/rules"); code != http.StatusOK || strings.Contains(body, "/rules/edit") {
			t.Errorf("%s: the overview: %d", role, code)
		}
	}
}

// Yesterday's counts say that five were expected on route A, and three were there for two hours. A trial expects what the configuration says; where it
// says nothing, what stands in the counts.
func TestATrialExpectsWhatTheConfigurationSays(t *testing.T) {
	file := filepath.Join(t.TempDir(), "expected.csv")
	if err := os.WriteFile(file, []byte("route_id,hour,expected_vehicles_in_service\nA,12,9\nA,13,9\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		own    expect.Source // of a service that is told what it expects, such as the demo
		change func(*configs.Config)
		want   int
	}{
		{"nothing is configured", nil, nil, 5},
		{"by hand", nil, func(c *configs.Config) {
			c.Fleet.Expected = []configs.HandExpectation{{Route: "A", Hours: "12-14", Expected: 8}}
		}, 8},
		{"a file", nil, func(c *configs.Config) { c.Fleet.ExpectedFile = file }, 9},
		{"a source of its own", expect.NewByHand([]expect.RouteHour{{Route: "A", Hour: 12, Vehicles: 7}, {Route: "A", Hour: 13, Vehicles: 7}}, time.UTC), nil, 7},
	} {
		t.Run(tt.name, func(t *testing.T) {
			known := func(o *serverOptions) {
				if tt.own != nil {
					return
				}
				k, err := readKnowledge(t.Context(), o.config, o.now, o.logger)
				if err != nil {
					t.Fatal(err)
				}
				o.engine, o.expected, o.rules = k.engine, k.expected, k.rules
			}
			rig := newConsoleRig(t, consoleRole(access.Admin), tt.own, func(db *store.Store) { storeThinNoon(t, db) }, tt.change, known)
			_, page := rig.get(rig.location("/rules/check", url.Values{"text": {strictRules}}))
			page = rig.tried(url.Values{"draft": {field(t, page, "draft")}})
			if want := fmt.Sprintf(">3 of %d, below 4<", tt.want); !strings.Contains(page, want) {
				t.Errorf("%q is not in %s", want, page[strings.Index(page, "The newest trial"):])
			}
		})
	}
}
