//go:build unix

package certs_test

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"testing"
	"time"

	"github.com/farebeat/farebeat/broker/certs"
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

func TestWhoMayReadTheKeyOfACertificate(t *testing.T) {
	const root, user = 0, 1000
	for _, x := range []struct {
		mode fs.FileMode
		uid  uint32
		ok   bool
	}{
		{0o600, user, true},
		{0o400, root, true},
		{0o640, root, true}, // root:ssl-cert
		{0o440, root, true}, // a credential that systemd laid out
		{0o640, user, false},
		{0o660, root, false},
		{0o644, root, false},
		{0o601, root, false},
	} {
		if err := certs.Private("key", file{x.mode, x.uid}); (err == nil) != x.ok || err != nil && !errors.Is(err, certs.ErrOpen) {
			t.Errorf("%s: %v", fmt.Sprintf("%04o of %d", x.mode, x.uid), err)
		}
	}
}
