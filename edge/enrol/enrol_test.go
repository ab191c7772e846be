package enrol

import (
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/farebeat/farebeat/schemas"
)

var issued = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// someDevice is one whose certificate holds 30 days from issued on, signed by itself: who signed it is not looked at here.
func someDevice(t testing.TB, dir string) Device {
	t.Helper()
	key, err := files().newKey(filepath.Join(dir, PendingFile))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: issued.Add(-schemas.EnrolBackdate), NotAfter: issued.AddDate(0, 0, 30),
		URIs: []*url.URL{{Scheme: "farebeat", Opaque: "v1/op/gateway/1216"}}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	d := Device{key, cert}
	text, err := d.pem()
	if err == nil {
		err = files().Replace(filepath.Join(dir, DeviceFile), text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// files are plain ones: who may read them, and what a crash leaves, are for whoever gives them to a device.
func files() Files { return Files{Read: os.ReadFile, Replace: os.WriteFile} }

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	d := someDevice(t, dir)
	path, pending := filepath.Join(dir, DeviceFile), filepath.Join(dir, PendingFile)
	if got, err := files().ReadDevice(path); err != nil || !got.Key.Equal(d.Key) || !got.Cert.Equal(d.Cert) {
		t.Errorf("read again: %v", err)
	}
	if key, err := files().pendingKey(pending); err != nil || !key.Equal(d.Key) {
		t.Errorf("the pending key is another one: %v", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("files %v, %v", entries, err)
	}
	closed := Files{Read: func(path string) ([]byte, error) { return nil, fmt.Errorf("%s is open to others", path) }}
	if _, err := closed.ReadDevice(path); err == nil || !strings.Contains(err.Error(), path+" is open") {
		t.Errorf("an open file: %v", err)
	}
	if _, err := closed.pendingKey(pending); err == nil || !strings.Contains(err.Error(), "open to others") {
		t.Errorf("an open key: %v", err)
	}
	if err := errors.Join(remove(path), remove(path)); err != nil {
		t.Error(err)
	}
	if _, err := files().ReadDevice(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("none: %v", err)
	}
	for text, want := range map[string]string{"": "no private key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n": "no ECDSA key"} {
		bad := filepath.Join(t.TempDir(), "k")
		if err := os.WriteFile(bad, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := files().pendingKey(bad); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: %v", text, err)
		}
		if _, err := files().ReadDevice(bad); err == nil {
			t.Errorf("%.20q is a device", text)
		}
	}
}

func TestWhenToRenew(t *testing.T) {
	dir := t.TempDir()
	someDevice(t, dir)
	now := issued
	r := Renewer{Files: files(), File: filepath.Join(dir, DeviceFile), Now: func() time.Time { return now }}
	for _, tc := range []struct {
		after  time.Duration
		spread float64
		wait   time.Duration
		due    bool
		want   string
	}{
		{0, 0, lookAgain, false, ""},
		{20*24*time.Hour - time.Minute, 0, time.Minute, false, ""},
		{20 * 24 * time.Hour, 0, 0, true, ""},
		{20 * 24 * time.Hour, 0.1, lookAgain, false, ""},
		{21 * 24 * time.Hour, 0.1, 0, true, ""},
		{29 * 24 * time.Hour, 0.1, 0, true, ""},
		{30 * 24 * time.Hour, 0, lookAgain, false, "join again with another code"},
		{-365 * 24 * time.Hour, 0, lookAgain, false, ""}, // a clock that is wrong
	} {
		now = issued.Add(tc.after)
		wait, due, err := r.due(tc.spread)
		if wait != tc.wait || due != tc.due || tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("after %s: %s, %v, %v", tc.after, wait, due, err)
		}
	}
	r.File = "none"
	if wait, due, err := r.due(0); wait != lookAgain || due || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a file: %s, %v, %v", wait, due, err)
	}
}

func TestRenewerAddress(t *testing.T) {
	for text, want := range map[string]string{
		"https://fleet.example:8444": "fleet.example:8444", "https://[::1]:1/": "[::1]:1", "http://h:1": "", "https://h": "", "https://u@h:1": "", "https://h:1/x": "", "https://h:1?a": "", "": "",
	} {
		if got, err := schemas.ParseEnrolAddress(text); (err == nil) != (want != "") || err == nil && got != want {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
}

// What the fleet answers is not believed: it must be for our key, of our authority, and for who we are.
func TestCertificateOf(t *testing.T) {
	a, b := someDevice(t, t.TempDir()), someDevice(t, t.TempDir())
	pool := x509.NewCertPool()
	pool.AddCert(a.Cert)
	answer := func(d Device) schemas.EnrolAnswer {
		text, err := d.pem()
		if err != nil {
			t.Fatal(err)
		}
		return schemas.EnrolAnswer{Certificate: string(text)}
	}
	if _, err := certificateOf(answer(a), a.Key, pool, issued); err != nil {
		t.Error(err)
	}
	for want, check := range map[string]func() error{
		"another key":       func() error { _, err := certificateOf(answer(b), a.Key, pool, issued); return err },
		"unknown authority": func() error { _, err := certificateOf(answer(b), b.Key, pool, issued); return err },
		"is that right":     func() error { _, err := certificateOf(answer(a), a.Key, pool, issued.AddDate(1, 0, 0)); return err },
		"no certificate":    func() error { _, err := certificateOf(schemas.EnrolAnswer{}, a.Key, pool, issued); return err },
	} {
		if err := check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	other := *a.Cert
	other.URIs = []*url.URL{{Scheme: "farebeat", Opaque: "v1/op/gateway/7"}}
	if sameIdentity(a.Cert, &other) == nil || sameIdentity(a.Cert, a.Cert) != nil {
		t.Error("another identity is taken")
	}
}

func FuzzReadDevice(f *testing.F) {
	text, err := someDevice(f, f.TempDir()).pem()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"))
	path := filepath.Join(f.TempDir(), "d")
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if d, err := files().ReadDevice(path); err == nil && (d.Key == nil || d.Cert == nil || !d.Key.PublicKey.Equal(d.Cert.PublicKey)) {
			t.Fatal("a device without a key, or with another's")
		}
	})
}

// TestAnOldKeyDoesNotPassForAJoin: a crash left the key of a request that had its certificate, which is over now. That is no success of today's join.
func TestAnOldKeyDoesNotPassForAJoin(t *testing.T) {
	for _, again := range []bool{false, true} {
		dir := t.TempDir()
		someDevice(t, dir)
		_, done, err := JoinOptions{Dir: dir, Files: files(), Again: again}.joined()
		if again && (done || err != nil) || !again && !errors.Is(err, ErrJoined) {
			t.Errorf("again %v: done %v, %v", again, done, err)
		}
		if _, err := os.Stat(filepath.Join(dir, PendingFile)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("again %v: the old key is there: %v", again, err)
		}
	}
}
