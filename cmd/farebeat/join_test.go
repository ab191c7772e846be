package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestFilesOfADevice: what it is known by is its owner's alone, and bounded.
func TestFilesOfADevice(t *testing.T) {
	path := filepath.Join(t.TempDir(), "device.pem")
	if err := deviceFiles().Replace(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if text, err := deviceFiles().Read(path); err != nil || string(text) != "x" {
		t.Errorf("%q, %v", text, err)
	}
	for _, mode := range []fs.FileMode{0o640, 0o604} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := deviceFiles().ReadDevice(path); err == nil || !strings.Contains(err.Error(), "chmod 600 "+path) || !strings.Contains(err.Error(), "open to others") {
			t.Errorf("%04o: %v", mode, err)
		}
	}
	if err := deviceFiles().Replace(path, []byte(strings.Repeat("x", 64<<10+1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := deviceFiles().Read(path); err == nil || !strings.Contains(err.Error(), "longer than 65536 bytes") {
		t.Errorf("too long: %v", err)
	}
}
