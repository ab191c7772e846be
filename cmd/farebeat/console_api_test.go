package main

import (
	"archive/zip"
	"bytes"
	"net/http"
	"strings"
	"testing"

	"github.com/farebeat/farebeat/configs"
	"github.com/farebeat/farebeat/fleet/console/access"
)

// A TIDES package is served whatever folder the process runs in: what waits for its place in it waits beside the store.
func TestATIDESPackageIsServed(t *testing.T) {
	rig := newConsoleRig(t, consoleRole(access.Viewer), nil, nil, func(c *configs.Config) { c.Data = "nowhere" })
	code, body := rig.get("/api/v1/ledger/export?format=tides")
	z, err := zip.NewReader(strings.NewReader(body), int64(len(body)))
	if code != http.StatusOK || err != nil {
		t.Fatalf("%d %v: %.300s", code, err, body)
	}
	var names []string
	for _, f := range z.File {
		names = append(names, f.Name)
	}
	if got := strings.Join(names, " "); got != "fare_transactions.csv devices.csv datapackage.json" {
		t.Errorf("it holds %s", got)
	}
	r, err := z.Open("datapackage.json")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(r); err != nil || !strings.Contains(b.String(), `"local"`) {
		t.Errorf("%v: the package does not name the operator: %s", err, &b)
	}
}
