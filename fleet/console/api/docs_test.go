package api_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/fleet/console/access"
	"github.com/farebeat/farebeat/fleet/console/api"
)

var update = flag.Bool("update", false, "write docs/openapi.json and the table of docs/api.md anew")

const (
	documentFile = "../../../docs/openapi.json"
	guideFile    = "../../../docs/api.md"
)

// keep holds a file against what it should be.
func keep(t *testing.T, path, want string) {
	t.Helper()
	if *update {
		must(t, os.WriteFile(path, []byte(want), 0o644))
	}
	got, err := os.ReadFile(path)
	must(t, err)
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("%s is out of date, run this test with -update:\n%s", path, diff)
	}
}

func TestDocumentsAreThoseOfTheCode(t *testing.T) {
	a, err := api.New(api.Options{})
	must(t, err)
	keep(t, documentFile, string(a.Document()))
	guide, err := os.ReadFile(guideFile)
	must(t, err)
	before, rest, ok := strings.Cut(string(guide), "<!-- operations -->\n")
	_, after, there := strings.Cut(rest, "<!-- end -->")
	if !ok || !there {
		t.Fatalf("%s has no place for the operations", guideFile)
	}
	var b strings.Builder
	b.WriteString("| operation | role | what it does |\n|---|---|---|\n")
	for _, c := range contracts(t) {
		fmt.Fprintf(&b, "| `%s %s` | %s | %s |\n", c.method, c.path, c.Role, c.Summary)
	}
	keep(t, guideFile, before+"<!-- operations -->\n"+b.String()+"<!-- end -->"+after)
}

func TestTheServiceGivesTheDocument(t *testing.T) {
	r := newRig(t, options{})
	want, err := os.ReadFile(documentFile)
	must(t, err)
	if w := r.do(request{path: "/api/v1/openapi.json"}); w.Body.String() != string(want) {
		t.Error("another one than docs/openapi.json")
	}
	w := r.do(request{path: "/api/v1/openapi.yaml"})
	if !strings.Contains(w.Body.String(), "operationId: fault_acknowledge") || w.Header().Get("Content-Type") != "application/openapi+yaml" {
		t.Errorf("%v %.300s", w.Header(), w.Body)
	}
	for _, foreign := range []string{"unpkg.com", "<script", "$schema"} {
		if strings.Contains(string(want), foreign) || strings.Contains(w.Body.String(), foreign) {
			t.Errorf("the document has %q", foreign)
		}
	}
	if w := r.do(request{path: "/api/v1/docs"}); w.Code != 404 {
		t.Errorf("a page of documents: %d", w.Code)
	}
}

// The examples of docs/api.md are run as they stand.
func TestTheExamplesOfTheGuideWork(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("there is no curl here")
	}
	r := live(t, options{})
	server := httptest.NewServer(r.console)
	defer server.Close()
	guide, err := os.ReadFile(guideFile)
	must(t, err)
	examples := regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(guide), -1)
	if len(examples) != 3 {
		t.Fatalf("%d examples, this test knows 3", len(examples))
	}
	dir := t.TempDir()
	run := func(script string) []byte {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "sh", "-ec", script)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "FAREBEAT="+server.URL, "TOKEN="+r.tokens[access.Operator], "FAULT="+r.fault("m2"), "DAY=2026-11-23")
		cmd.Stderr = t.Output()
		out, err := cmd.Output()
		must(t, err)
		return out
	}
	var now struct {
		Known int
		State struct{ Trouble string }
	}
	if must(t, json.Unmarshal(run(examples[0][1]), &now)); now.Known != 3 || now.State.Trouble != "" {
		t.Errorf("%+v", now)
	}
	var ordered api.Ordered
	if must(t, json.Unmarshal(run(examples[1][1]), &ordered)); ordered.State != "done" || ordered.Order != "acknowledge" {
		t.Errorf("%+v", ordered)
	}
	run(examples[2][1])
	sheet, err := os.ReadFile(dir + "/counts.csv")
	must(t, err)
	if !strings.HasPrefix(string(sheet), "date,route_id,hour,distinct,peak,mean\n") {
		t.Errorf("%s", sheet)
	}
}
