package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/farebeat/farebeat/configs"
	"github.com/farebeat/farebeat/fleet/console/access"
	"github.com/farebeat/farebeat/fleet/faults"
)

// TestACertificateThatExpiresIsAFault: of a listener and of the console, until a renewed one is in the files' place, which is shown without a restart.
func TestACertificateThatExpiresIsAFault(t *testing.T) {
	if testing.Short() {
		t.Skip("files are looked at every five seconds")
	}
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	replace := func(certPEM, keyPEM string) {
		t.Helper()
		for path, text := range map[string]string{cert: certPEM, key: keyPEM} {
			if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(path+".new", path); err != nil {
				t.Fatal(err)
			}
		}
	}
	replace(selfSigned(t)) // for an hour
	rig := newConsoleRig(t, consoleRole(access.Viewer), nil, nil, func(c *configs.Config) {
		c.Console.CertFile, c.Console.KeyFile = cert, key
		c.Broker.Listeners = []configs.Listener{{Name: "machines", Kind: "tls", Address: "127.0.0.1:0", CertFile: cert, KeyFile: key}}
	})
	open := func() (subjects []string) {
		t.Helper()
		list, err := rig.store.Faults().List(t.Context(), faults.Query{Live: true})
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range list {
			if f.Kind == faults.Certificate {
				subjects = append(subjects, f.Subject.String()+": "+f.Reason)
			}
		}
		return subjects
	}
	until := func(what string, n int) {
		t.Helper()
		for begun := time.Now(); len(open()) != n; rig.pass(1) {
			if time.Since(begun) > time.Minute {
				t.Fatalf("%s: %q", what, open())
			}
		}
	}
	until("both expire", 2)
	for _, f := range open() {
		if !strings.Contains(f, "expires") || !strings.Contains(f, cert) {
			t.Errorf("it says %q", f)
		}
	}
	renewed, renewedKey := selfSignedUntil(t, time.Now().AddDate(1, 0, 0))
	replace(renewed, renewedKey)
	until("they are renewed", 0)
	block, _ := pem.Decode([]byte(renewed))
	for name, address := range map[string]string{"broker": rig.server.broker.Addr("machines"), "console": strings.TrimPrefix(rig.base, "https://")} {
		c, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // the test looks at what is shown
		if err != nil {
			t.Fatal(err)
		}
		if want, err := x509.ParseCertificate(block.Bytes); err != nil || !c.ConnectionState().PeerCertificates[0].Equal(want) {
			t.Errorf("%s shows another certificate: %v", name, err)
		}
		c.Close()
	}
}
