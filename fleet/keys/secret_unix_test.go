//go:build unix

package keys

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// file is what the system says of a file; tests cannot give one to root unless they are root.
type file struct {
	mode fs.FileMode
	uid  uint32
}

func (f file) Name() string       { return "f" }
func (f file) Size() int64        { return 0 }
func (f file) Mode() fs.FileMode  { return f.mode }
func (f file) ModTime() time.Time { return time.Time{} }
func (f file) IsDir() bool        { return false }
func (f file) Sys() any           { return &syscall.Stat_t{Uid: f.uid} }

func TestWhoMayReadASecret(t *testing.T) {
	const root, user = 0, 1000
	for _, x := range []struct {
		path        string
		mode        fs.FileMode
		uid         uint32
		secret, tls bool
	}{
		{"/etc/farebeat/key", 0o600, user, true, true},
		{"/etc/farebeat/key", 0o400, root, true, true},
		{"/etc/farebeat/key", 0o640, root, false, true}, // root:ssl-cert
		{"/etc/farebeat/key", 0o440, root, false, true},
		{"/etc/farebeat/key", 0o640, user, false, false},
		{"/etc/farebeat/key", 0o660, root, false, false},
		{"/etc/farebeat/key", 0o644, root, false, false},
		{"/etc/farebeat/key", 0o601, root, false, false},
		{"/run/credentials/farebeat.service/master-key", 0o440, root, true, true}, // an access list with the service's user
		{"/run/credentials/farebeat.service/master-key", 0o400, user, true, true},
		{"/run/credentials/farebeat.service/master-key", 0o444, root, false, false},
		{"/run/credentials/farebeat.service/master-key", 0o440, user, false, false},
		{"/run/credentials/../../etc/farebeat/key", 0o440, root, false, true},
	} {
		name := fmt.Sprintf("%s %04o of %d", x.path, x.mode, x.uid)
		if err := Private(x.path, file{x.mode, x.uid}); (err == nil) != x.secret || err != nil && !errors.Is(err, ErrUnsafe) {
			t.Errorf("%s: %v", name, err)
		}
		if err := PrivateTLS(x.path, file{x.mode, x.uid}); (err == nil) != x.tls || err != nil && !errors.Is(err, ErrUnsafe) {
			t.Errorf("%s as a TLS key: %v", name, err)
		}
	}
}

func TestSecretsAreBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(strings.Repeat("x", 11)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadSecret(path, 10); err == nil || !strings.Contains(err.Error(), "longer than 10 bytes") {
		t.Errorf("%v", err)
	}
	if b, err := ReadSecret(path, 11); err != nil || len(b) != 11 {
		t.Errorf("%q, %v", b, err)
	}
}
