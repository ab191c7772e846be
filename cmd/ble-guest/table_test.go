//go:build unix

package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/farebeat/farebeat/cmd/ble-guest/result"
)

// said makes a table of lines as they stand on a console.
func said(t *testing.T, lines ...result.Line) *table {
	t.Helper()
	tab := &table{}
	for _, l := range lines {
		var b bytes.Buffer
		if err := result.Write(&b, l); err != nil {
			t.Fatal(err)
		}
		tab.take(b.String(), io.Discard)
	}
	return tab
}

func TestTablePassesOnlyWhereAllIsWell(t *testing.T) {
	good := result.Line{Scenario: &result.Scenario{Name: "good", Records: 1000, Reading: 10}}
	bad := result.Line{Scenario: &result.Scenario{Name: "bad", Findings: []string{"1 records lost"}}}
	end := result.Line{End: &result.End{Verify: "all proved"}}
	for name, c := range map[string]struct {
		lines []result.Line
		want  bool
	}{
		"well":           {[]result.Line{good, end}, true},
		"a finding":      {[]result.Line{good, bad, end}, false},
		"no end":         {[]result.Line{good}, false},
		"no scenario":    {[]result.Line{end}, false},
		"the guest fell": {[]result.Line{good, {End: &result.End{Failed: "no modules"}}}, false},
	} {
		if got := said(t, c.lines...).passed(); got != c.want {
			t.Errorf("%s: passed is %v", name, got)
		}
	}
	garbled := said(t, good, end)
	garbled.take("ble-guest: {", io.Discard)
	if garbled.passed() {
		t.Error("a line that cannot be read passed")
	}
}

func TestTablePrints(t *testing.T) {
	tab := said(t, result.Line{Scenario: &result.Scenario{
		Name: "plain", About: "no fault", Records: 1000, Bytes: 395, Seconds: 9, Reading: 8, Findings: []string{"1 records lost"}, Lost: 1, Notes: "noted",
		Agent: result.Usage{PeakKiB: 2048, ResidentKiB: 1024, CPUSeconds: 1.5},
	}}, result.Line{End: &result.End{Verify: "all proved"}})
	var text, objects bytes.Buffer
	if err := errors.Join(tab.print(&text, false), tab.print(&objects, true)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"1.0/2.0", "125", "no fault; noted", "FAILED: 1 records lost", "ledger verify: all proved"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("%q is missing in\n%s", want, text.String())
		}
	}
	if lines := strings.Count(objects.String(), "\n"); lines != 1 || !strings.Contains(objects.String(), `"lost":1`) {
		t.Errorf("the JSON is %s", objects.String())
	}
}

func TestCachedKernel(t *testing.T) {
	cache := t.TempDir()
	if k, ok := cached(cache); ok {
		t.Errorf("an empty cache has %+v", k)
	}
	for _, version := range []string{"6.1.0-9-amd64", "6.1.0-48-amd64"} {
		dir := filepath.Join(cache, "linux-image-"+version, "boot")
		if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, "vmlinuz-"+version), nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	k, ok := cached(cache)
	if !ok || !strings.HasSuffix(k.modules, "/lib/modules/"+strings.TrimPrefix(filepath.Base(k.image), "vmlinuz-")+"/kernel") {
		t.Errorf("the cache has %+v", k)
	}
}

func TestSettingsHoldForEveryVehicle(t *testing.T) {
	files := map[string][]byte{}
	if err := addSettings(context.Background(), files); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"etc/farebeat/farebeat.yaml", "etc/farebeat/keys/m24-4", "etc/farebeat/passwords/edge-v1", "etc/farebeat/passwords/watcher"} {
		if len(files[name]) == 0 {
			t.Errorf("%s is missing", name)
		}
	}
	if n := strings.Count(string(files["etc/farebeat/users"]), "\n"); n != 2+vehicles*(1+perVehicle) {
		t.Errorf("there are %d users", n)
	}
}
