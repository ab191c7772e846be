package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// TestARenewedServerKeyKeepsItsMode: where a group may read it because root says so, it may read the next one; where others may, they may no more.
func TestARenewedServerKeyKeepsItsMode(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	farebeat(t, exitOK, "ca", "init", "--data", data, "--host", "127.0.0.1")
	file := filepath.Join(data, "server.pem")
	for mode, want := range map[fs.FileMode]fs.FileMode{0o600: 0o600, 0o400: 0o400, 0o644: 0o600, 0o660: 0o600, 0o640: map[bool]fs.FileMode{true: 0o640, false: 0o600}[os.Geteuid() == 0]} {
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		farebeat(t, exitOK, "ca", "server", "--data", data)
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%04o became %04o, want %04o", mode, got, want)
		}
	}
}
