//go:build unix

package durable

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestRootWritesForTheOwnerOfTheFolder: so that a service which is another user reads, replaces and removes what an administrator's command left.
func TestRootWritesForTheOwnerOfTheFolder(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root gives files away")
	}
	const service = 12345
	dir := t.TempDir()
	if err := os.Chown(dir, service, service); err != nil {
		t.Fatal(err)
	}
	deep := filepath.Join(dir, "orders", "identities")
	if err := MkdirAll(deep, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := MkdirAll(deep, 0o700); err != nil {
		t.Errorf("again: %v", err)
	}
	if err := Replace(filepath.Join(deep, "order"), []byte("x"), 0o600, nil); err != nil {
		t.Fatal(err)
	}
	if err := Create(filepath.Join(dir, "ca.key"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	kept := filepath.Join(dir, "kept")
	if err := os.WriteFile(kept, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(kept, service+1, service+1); err != nil {
		t.Fatal(err)
	}
	if err := Replace(kept, []byte("x"), 0o600, nil); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]uint32{
		filepath.Join(dir, "orders"): service, deep: service, filepath.Join(deep, "order"): service, filepath.Join(dir, "ca.key"): service, kept: service + 1,
	} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Sys().(*syscall.Stat_t).Uid; got != want {
			t.Errorf("%s belongs to %d, want %d", path, got, want)
		}
	}
	if err := MkdirAll(filepath.Join(kept, "below"), 0o700); err == nil {
		t.Error("a folder was made below a file")
	}
	if err := MkdirAll(kept, 0o700); err == nil {
		t.Errorf("a file is taken for a folder: %v", fs.ErrExist)
	}
}
