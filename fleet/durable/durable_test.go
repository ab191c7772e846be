package durable_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/farebeat/farebeat/fleet/durable"
)

func TestAFileIsReplacedWholeOrNotAtAll(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	want := func(body string, mode fs.FileMode) {
		t.Helper()
		got, err := os.ReadFile(path)
		if err != nil || string(got) != body {
			t.Errorf("it says %q, %v; want %q", got, err, body)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
			t.Errorf("its mode: %v, %v", info, err)
		}
		if names, err := os.ReadDir(dir); err != nil || len(names) != 1 {
			t.Errorf("beside it: %v, %v", names, err)
		}
	}
	if err := durable.Replace(path, []byte("one"), 0o600, nil); err != nil {
		t.Fatal(err)
	}
	want("one", 0o600)
	if err := durable.Replace(path, []byte("two"), 0o644, func(f *os.File) error { _, err := f.Stat(); return err }); err != nil {
		t.Fatal(err)
	}
	want("two", 0o644)
	odd := errors.New("not like this")
	if err := durable.Replace(path, []byte("three"), 0o600, func(*os.File) error { return odd }); !errors.Is(err, odd) {
		t.Error(err)
	}
	want("two", 0o644)
}

func TestAFolderThatIsNotThereIsNamed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none", "f")
	if err := durable.Replace(path, nil, 0o600, nil); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "none") {
		t.Error(err)
	}
}
