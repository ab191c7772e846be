package main

import (
	"cmp"
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/farebeat/farebeat/"

// fence says that only some of our packages may import what begins with target.
type fence struct {
	target  string
	allowed []string // our packages, by prefix
}

// TestImportDirections keeps the house of docs/architecture.md: who may import whom.
func TestImportDirections(t *testing.T) {
	fences := []fence{
		{"github.com/mochi-mqtt/", []string{"broker"}},
		{"github.com/eclipse/paho.mqtt.golang", []string{"topics/session"}},
		{"modernc.org/sqlite", []string{"fleet/store", "edge/outbox", "broker/store", "scripts/powercut"}},
		{"database/sql", []string{"fleet/store", "edge/outbox", "broker/store", "scripts/powercut"}},
		{"github.com/go-ble/", []string{"edge/ble"}},
		{"github.com/spf13/viper", []string{"configs"}},
		{"github.com/spf13/cobra", []string{"cmd"}},
		{"github.com/coreos/go-systemd/", []string{"cmd"}},
		{"github.com/influxdata/", []string{"fleet/series"}},
		{"github.com/MobilityData/", []string{"fleet/notify"}},
		{"google.golang.org/protobuf/", []string{"fleet/notify"}},
		{"github.com/coreos/go-oidc/", []string{"fleet/console/access"}},
		{"golang.org/x/oauth2", []string{"fleet/console/access"}},
		{"github.com/chromedp/", nil}, // tests only
		{"github.com/danielgtaylor/huma/", []string{"fleet/console/api"}},
		{"github.com/grafana/", nil}, // what reads dashboards and their queries is for tests only
		{"github.com/VictoriaMetrics/", nil},
		{"github.com/influxdata/influxql", nil},
		{module + "cmd", []string{"cmd"}},
		{module + "configs", []string{"cmd"}},
		{module + "broker", []string{"cmd", "broker"}},
		{module + "edge", []string{"cmd", "edge"}},
		{module + "fleet", []string{"cmd", "fleet"}},
		{module + "topics", []string{"cmd", "topics", "broker", "edge", "fleet"}},
	}
	out, err := exec.CommandContext(t.Context(), "go", "list", "-f", `{{.ImportPath}}: {{join .Imports " "}}`, "./../../...").CombinedOutput()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, out)
	}
	packages := 0
	for line := range strings.Lines(string(out)) {
		pkg, imports, ok := strings.Cut(strings.TrimSpace(line), ": ")
		if !ok || !strings.HasPrefix(pkg, module) {
			continue
		}
		packages++
		own := strings.TrimPrefix(pkg, module)
		for imported := range strings.FieldsSeq(imports) {
			checkImport(t, fences, own, imported)
		}
	}
	if packages < 10 {
		t.Fatalf("go list named only %d of our packages", packages)
	}
}

func checkImport(t *testing.T, fences []fence, own, imported string) {
	t.Helper()
	if strings.HasPrefix(own, "schemas") && strings.HasPrefix(imported, module) && !strings.HasPrefix(imported, module+"schemas") {
		t.Errorf("%s imports %s: schemas imports nothing of ours", own, imported)
	}
	for _, f := range fences {
		if imported != strings.TrimSuffix(f.target, "/") && !strings.HasPrefix(imported, strings.TrimSuffix(f.target, "/")+"/") {
			continue
		}
		allowed := false
		for _, a := range f.allowed {
			allowed = allowed || own == a || strings.HasPrefix(own, a+"/")
		}
		if !allowed {
			t.Errorf("%s imports %s: only %s may", own, imported, cmp.Or(strings.Join(f.allowed, ", "), "tests"))
		}
	}
}
