//go:build unix

package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// fakeQEMU puts a shell script in QEMU's place.
func fakeQEMU(t *testing.T, script string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "qemu-system-x86_64"), []byte("#!/bin/sh\n"+script), 0o700); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
}

func bootFake(t *testing.T, o options) (*table, error) {
	t.Helper()
	o.patience = time.Minute
	return boot(t.Context(), o, t.TempDir(), kernel{image: "vmlinuz"}, "initrd.gz", io.Discard)
}

func TestBootReadsTheConsole(t *testing.T) {
	fakeQEMU(t, `echo '[ 0.0] Linux'
for a in "$@"; do last=$a; done
echo "ble-guest: {\"scenario\":{\"number\":2,\"name\":\"second\",\"about\":\"$last\"}}"
echo 'ble-guest: {"scenario":{"number":1,"name":"first"}}'
echo 'ble-guest: {"end":{"seconds":5}}'
`)
	tab, err := bootFake(t, options{scenario: "first,second", seed: 7, keep: true})
	if err != nil || !tab.passed() {
		t.Fatalf("%+v, %v", tab, err)
	}
	if len(tab.Scenarios) != 2 || tab.Scenarios[0].Name != "first" {
		t.Errorf("the scenarios are %+v", tab.Scenarios)
	}
	if about := tab.Scenarios[1].About; !strings.HasSuffix(about, "-- -seed=7 -scenario=first,second -logs") {
		t.Errorf("the kernel's command line is %q", about)
	}
}

func TestBootReportsAGuestThatBreaks(t *testing.T) {
	for name, script := range map[string]string{
		"without its last word": "echo 'Kernel panic - not syncing'\n",
		"with an error":         "echo 'ble-guest: {\"end\":{\"seconds\":5}}'\nexit 1\n",
	} {
		fakeQEMU(t, script)
		if _, err := bootFake(t, options{}); !errors.Is(err, errBroken) {
			t.Errorf("a guest that ends %s: %v", name, err)
		}
	}
	t.Setenv("PATH", t.TempDir())
	if _, err := bootFake(t, options{}); !errors.Is(err, errMissing) || !strings.Contains(err.Error(), "apt-get install") {
		t.Errorf("without QEMU: %v", err)
	}
	if _, err := findKernel(t.Context(), t.TempDir(), io.Discard); !errors.Is(err, errMissing) {
		t.Errorf("without apt: %v", err)
	}
}
