package certs_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/farebeat/farebeat/fleet/certs"
)

// made is a certificate and its key as PEM.
type made struct{ cert, key []byte }

// makes a certificate that signs itself, for serial's sake told from others.
func makes(t testing.TB, serial int64, from, to time.Time) made {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "mqtt"}, NotBefore: from, NotAfter: to,
		DNSNames: []string{"localhost"}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return made{
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
	}
}

func ofYear(t testing.TB, serial int64) made {
	return makes(t, serial, time.Now().AddDate(0, -1, 0), time.Now().AddDate(1, 0, 0))
}

// put writes a file with a time of change of its own.
func put(t testing.TB, path string, text []byte, n int) {
	t.Helper()
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	at := time.Now().Add(time.Duration(n) * time.Second)
	if err := os.Chtimes(path, at, at); err != nil {
		t.Fatal(err)
	}
}

// pollsTwice is a change and the look after it.
func pollsTwice(t *testing.T, l *certs.Live) (bool, error) {
	t.Helper()
	if changed, err := l.Poll(); changed || err != nil {
		t.Fatalf("it was taken at first sight: %v", err)
	}
	return l.Poll()
}

// served opens files, and answers at an address with what they have.
func served(t *testing.T, f certs.Files) (*certs.Live, net.Listener) {
	t.Helper()
	live, err := certs.Open(f)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", live.Server())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go echo(listener)
	return live, listener
}

// TestARenewedCertificateIsShownAndConnectionsGoOn: the pair is taken when both files are there, and what is wrong changes nothing.
func TestARenewedCertificateIsShownAndConnectionsGoOn(t *testing.T) {
	dir := t.TempDir()
	f := certs.Files{Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}
	first, second := ofYear(t, 1), ofYear(t, 2)
	put(t, f.Cert, first.cert, 0)
	put(t, f.Key, first.key, 0)
	live, listener := served(t, f)
	connect := func() *tls.Conn {
		t.Helper()
		c, err := tls.Dial("tcp", listener.Addr().String(), &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // the test looks at what is shown
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	shown := func(c *tls.Conn) int64 { return c.ConnectionState().PeerCertificates[0].SerialNumber.Int64() }
	old := connect()
	if shown(old) != 1 {
		t.Fatalf("certificate %d", shown(old))
	}
	if changed, err := live.Poll(); changed || err != nil {
		t.Errorf("nothing changed: %t, %v", changed, err)
	}

	put(t, f.Cert, second.cert, 1) // and not yet the key
	if changed, err := pollsTwice(t, live); changed || err == nil || !strings.Contains(err.Error(), "stays as it was") {
		t.Errorf("a certificate with another's key: %t, %v", changed, err)
	}
	if changed, err := live.Poll(); changed || err != nil {
		t.Errorf("it was said twice: %t, %v", changed, err)
	}
	if live.Err() == nil || live.Failure(time.Now()) == nil || shown(connect()) != 1 {
		t.Error("what is wrong took the place of what was right")
	}
	put(t, f.Key, second.key, 2)
	if changed, err := pollsTwice(t, live); !changed || err != nil {
		t.Fatalf("the pair is whole: %t, %v", changed, err)
	}
	if live.Err() != nil || live.Failure(time.Now()) != nil || shown(connect()) != 2 || live.Leaf().SerialNumber.Int64() != 2 {
		t.Error("the new one is not in force")
	}
	if _, err := old.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadFull(old, make([]byte, 1)); err != nil {
		t.Errorf("the old connection does not go on: %v", err)
	}

	if err := os.Rename(f.Key, f.Key+".away"); err != nil {
		t.Fatal(err)
	}
	if changed, err := live.Poll(); changed || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the key is away: %t, %v", changed, err)
	}
	if err := os.Rename(f.Key+".away", f.Key); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if changed, err := live.Poll(); changed || err != nil {
			t.Errorf("it is back: %t, %v", changed, err)
		}
	}
	if live.Err() != nil {
		t.Errorf("it is back: %v", live.Err())
	}
}

func echo(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			_, _ = io.Copy(c, c)
			c.Close()
		}()
	}
}

func TestFilesThatAreWrong(t *testing.T) {
	dir := t.TempDir()
	one, two := ofYear(t, 1), ofYear(t, 2)
	file := func(name string, text []byte, mode fs.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cert, key := file("cert", one.cert, 0o644), file("key", one.key, 0o600)
	for name, tc := range map[string]struct {
		f    certs.Files
		want string
	}{
		"no certificate":  {certs.Files{Cert: filepath.Join(dir, "none"), Key: key}, "no such file"},
		"no key":          {certs.Files{Cert: cert, Key: filepath.Join(dir, "none")}, "no such file"},
		"another's key":   {certs.Files{Cert: cert, Key: file("other", two.key, 0o600)}, "does not match"},
		"an open key":     {certs.Files{Cert: cert, Key: file("open", one.key, 0o644)}, "chmod 600"},
		"a writable key":  {certs.Files{Cert: cert, Key: file("group", one.key, 0o660)}, "chmod 600"},
		"not PEM":         {certs.Files{Cert: file("text", []byte("hello"), 0o600), Key: key}, "failed to find any PEM data"},
		"a folder":        {certs.Files{Cert: dir, Key: key}, "want a regular file"},
		"too large":       {certs.Files{Cert: file("large", make([]byte, 1<<20+1), 0o600), Key: key}, "at most"},
		"no authorities":  {certs.Files{Cert: cert, Key: key, CAs: filepath.Join(dir, "none")}, "no such file"},
		"empty authority": {certs.Files{Cert: cert, Key: key, CAs: file("empty", nil, 0o600)}, "no certificate in PEM form"},
	} {
		if _, err := certs.Open(tc.f); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
		if tc.f.CAs == "" {
			if _, err := certs.Client(tc.f); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%s, client: %v, want %q", name, err, tc.want)
			}
		}
	}
	if os.Getuid() == 0 { // only then is the file root's
		if _, err := certs.Open(certs.Files{Cert: cert, Key: file("shared", one.key, 0o640)}); err != nil {
			t.Errorf("a key that root lets a group read: %v", err)
		}
	}
}

func TestExpiryIsToldInTime(t *testing.T) {
	day := 24 * time.Hour
	from := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, tc := range []struct{ life, left time.Duration }{
		{90 * day, 15 * day}, {365 * day, 30 * day}, {3650 * day, 30 * day}, {3 * day, day}, {180 * day, 30 * day}, {60 * day, 10 * day},
	} {
		cert := &x509.Certificate{NotBefore: from, NotAfter: from.Add(tc.life)}
		if got := cert.NotAfter.Sub(certs.ExpiryNear(cert)); got != tc.left {
			t.Errorf("of %s: told %s before, want %s", tc.life, got, tc.left)
		}
	}
	dir := t.TempDir()
	f := certs.Files{Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "cert.pem")} // both in one file
	m := makes(t, 1, from, from.Add(90*day))
	put(t, f.Cert, append(m.cert, m.key...), 0)
	live, err := certs.Open(f)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		at   time.Time
		want string
	}{
		{from.Add(74 * day), ""},
		{from.Add(76 * day), "expires 2026-04-01T00:00:00Z"},
		{from.Add(91 * day), "expired 2026-04-01T00:00:00Z"},
	} {
		err := live.Failure(tc.at)
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.at, err, tc.want)
		}
	}
}

// TestWhatIsSpoken: TLS 1.2 or later, and whoever comes back to a server that asks for certificates shows theirs again.
func TestWhatIsSpoken(t *testing.T) {
	dir := t.TempDir()
	m := ofYear(t, 1)
	f := certs.Files{Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem"), CAs: filepath.Join(dir, "cert.pem")}
	put(t, f.Cert, m.cert, 0)
	put(t, f.Key, m.key, 0)
	_, listener := served(t, f)
	config, err := certs.Client(certs.Files{CAs: f.CAs})
	if err != nil {
		t.Fatal(err)
	}
	config.ServerName, config.ClientSessionCache = "localhost", tls.NewLRUClientSessionCache(8)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		config.MaxVersion = version
		for range 3 {
			c, err := tls.Dial("tcp", listener.Addr().String(), config)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(c, make([]byte, 1)); err != nil { // by then a ticket would have come
				t.Fatal(err)
			}
			if s := c.ConnectionState(); s.DidResume || s.Version != version {
				t.Errorf("TLS %#x, resumed %t", s.Version, s.DidResume)
			}
			c.Close()
		}
	}
	old := config.Clone()
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	if c, err := tls.Dial("tcp", listener.Addr().String(), old); err == nil {
		c.Close()
		t.Error("the server speaks TLS 1.1")
	}
	if config.MinVersion != tls.VersionTLS12 {
		t.Errorf("the client takes TLS %#x", config.MinVersion)
	}
}
