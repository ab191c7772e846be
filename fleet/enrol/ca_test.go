package enrol

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/farebeat/farebeat/fleet/keys"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
)

var morning = time.Date(2026, 11, 29, 6, 0, 0, 500_000_000, time.UTC)

func someTree(t testing.TB) topics.Tree {
	t.Helper()
	tree, err := topics.New("op")
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func someCA(t testing.TB) *CA {
	t.Helper()
	dir := t.TempDir()
	ca, err := CreateCA(filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca.key"), "op", morning)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func someKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func csrOf(t testing.TB, key any, template x509.CertificateRequest) string {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

func TestAuthorityOnDisk(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca.key")
	ca, err := CreateCA(cert, key, "op", morning)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(key)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key's mode is %v, %v", info.Mode(), err)
	}
	if c := ca.Certificate(); !c.IsCA || c.NotAfter.Before(morning.AddDate(AuthorityYears, 0, -1)) || !c.NotBefore.Before(morning) || c.CheckSignatureFrom(c) != nil {
		t.Errorf("the authority: %+v", c.Subject)
	}
	again, err := LoadCA(cert, key)
	if err != nil || again.Fingerprint() != ca.Fingerprint() || !again.CanSign() {
		t.Errorf("read again: %v", err)
	}
	before, _ := os.ReadFile(key)
	if _, err := CreateCA(cert, key, "op", morning); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second one: %v, want fs.ErrExist", err)
	}
	if after, _ := os.ReadFile(key); !bytes.Equal(before, after) {
		t.Error("the key was overwritten")
	}
	checker, err := LoadCA(cert, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := checker.IssueServer(someKey(t).Public(), []string{"h"}, morning, time.Hour); !errors.Is(err, ErrNoKey) {
		t.Errorf("signs without a key: %v", err)
	}
}

// A crash between the two files leaves a key, which is used.
func TestAuthorityAfterACrash(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca.key")
	if _, err := createCAKey(key); err != nil {
		t.Fatal(err)
	}
	before, _ := os.ReadFile(key)
	if _, err := CreateCA(cert, key, "op", morning); err != nil {
		t.Fatal(err)
	}
	if after, _ := os.ReadFile(key); !bytes.Equal(before, after) {
		t.Error("another key was made")
	}
}

func TestLoadCARefuses(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca.key")
	if _, err := CreateCA(cert, key, "op", morning); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(dir, "other.key")
	if _, err := createCAKey(other); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadCA(cert, other); err == nil || !strings.Contains(err.Error(), "is not the key of") {
		t.Errorf("another key: %v", err)
	}
	if _, err := LoadCA(key, ""); err == nil || !strings.Contains(err.Error(), "no certificate in PEM form") {
		t.Errorf("a key as a certificate: %v", err)
	}
	if _, err := LoadCA(filepath.Join(dir, "none"), ""); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("none: %v", err)
	}
	leaf := filepath.Join(dir, "leaf.pem")
	ca, _ := LoadCA(cert, key)
	text, _, err := ca.ServerFile([]string{"h"}, morning, time.Hour)
	if err == nil {
		err = os.WriteFile(leaf, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := LoadCA(leaf, ""); err == nil || !strings.Contains(err.Error(), "not one of an authority") {
		t.Errorf("a server's certificate: %v", err)
	}
	if err := os.Chmod(key, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadCA(cert, key); !errors.Is(err, keys.ErrUnsafe) {
		t.Errorf("an open key: %v", err)
	}
}

func TestIssueClient(t *testing.T) {
	ca, tree := someCA(t), someTree(t)
	id := topics.Identity{Role: topics.RoleGateway, Name: "bus 7/ü"}
	cert, err := ca.IssueClient(someKey(t).Public(), tree, id, morning, 30*24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := tree.CertificateIdentity(cert); err != nil || got.Role != id.Role || got.Name != id.Name {
		t.Errorf("names %v, %v", got, err)
	}
	issued := morning.Truncate(time.Second)
	if !cert.NotBefore.Equal(issued.Add(-24*time.Hour)) || !cert.NotAfter.Equal(issued.AddDate(0, 0, 30)) || cert.Subject.CommonName != "gateway bus 7/ü" {
		t.Errorf("from %s to %s for %s", cert.NotBefore, cert.NotAfter, cert.Subject)
	}
	if n := len(Serial(cert)); n != 34 || cert.IsCA || len(cert.DNSNames) > 0 {
		t.Errorf("serial of %d digits", n)
	}
	verify := x509.VerifyOptions{Roots: ca.Pool(), CurrentTime: morning, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if _, err := cert.Verify(verify); err != nil {
		t.Error(err)
	}
	verify.KeyUsages[0] = x509.ExtKeyUsageServerAuth
	if _, err := cert.Verify(verify); err == nil {
		t.Error("a device's certificate is good for a server")
	}
	if !ca.Signed(cert) || someCA(t).Signed(cert) {
		t.Error("whose it is cannot be told")
	}
	long, err := ca.IssueClient(someKey(t).Public(), tree, topics.Identity{Role: topics.RoleThirdParty, Name: strings.Repeat("ü", 64)}, morning, 100*365*24*time.Hour)
	if err != nil || !long.NotAfter.Equal(ca.Certificate().NotAfter) || len([]rune(long.Subject.CommonName)) != 64 {
		t.Errorf("a long name and validity: %v", err)
	}
	for _, bad := range []topics.Identity{{Role: topics.RoleGateway}, {Role: "boss", Name: "x"}, {Role: topics.RoleGateway, Name: "a+b"}} {
		if _, err := ca.IssueClient(someKey(t).Public(), tree, bad, morning, time.Hour); err == nil {
			t.Errorf("%+v was signed", bad)
		}
	}
	if _, err := ca.IssueClient(someKey(t).Public(), tree, id, morning.AddDate(11, 0, 0), time.Hour); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("after the authority's end: %v", err)
	}
}

func TestIssueServer(t *testing.T) {
	ca := someCA(t)
	text, cert, err := ca.ServerFile([]string{"fleet.example", "*.fleet.example", "10.1.0.5", "::1"}, morning, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(text, text)
	if err != nil || len(pair.Certificate) != 2 || !bytes.Equal(pair.Certificate[1], ca.Certificate().Raw) {
		t.Errorf("the file: %d certificates, %v", len(pair.Certificate), err)
	}
	for _, host := range []string{"fleet.example", "a.fleet.example", "10.1.0.5", "::1"} {
		if _, err := cert.Verify(x509.VerifyOptions{Roots: ca.Pool(), CurrentTime: morning, DNSName: host}); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
	if err := cert.VerifyHostname("other.example"); err == nil {
		t.Error("it is good for others")
	}
	for _, hosts := range [][]string{nil, {""}, {"a b"}, {"a..b"}, {"fe80::1%eth0"}, {strings.Repeat("a.", 130) + "a"}, {"https://x"}} {
		if _, _, err := ca.ServerFile(hosts, morning, time.Hour); err == nil {
			t.Errorf("%q was signed", hosts)
		}
	}
}

func TestParseRequest(t *testing.T) {
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Skip(err) // where the platform makes none
	}
	p224, _ := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	plain := x509.CertificateRequest{}
	for name, tc := range map[string]struct{ text, want string }{
		"ecdsa":     {csrOf(t, someKey(t), plain), ""},
		"ed25519":   {csrOf(t, ed, plain), ""},
		"small rsa": {csrOf(t, small, plain), "RSA of 2048"},
		"P-224":     {csrOf(t, p224, plain), "P-256"},
		"nothing":   {"", "not in PEM form"},
		"other":     {string(certificatePEM([]byte{1})), "not in PEM form"},
		"damaged":   {string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: []byte{1}})), "certificate request: "},
	} {
		key, err := ParseRequest(tc.text)
		if tc.want == "" && (err != nil || len(key.Fingerprint) != 64) || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
	// The proof of possession: a request whose key was exchanged is not signed by it.
	block, _ := pem.Decode([]byte(csrOf(t, someKey(t), plain)))
	other, _ := pem.Decode([]byte(csrOf(t, someKey(t), plain)))
	mine, _ := x509.ParseCertificateRequest(block.Bytes)
	theirs, _ := x509.ParseCertificateRequest(other.Bytes)
	forged := bytes.Replace(block.Bytes, mine.RawSubjectPublicKeyInfo, theirs.RawSubjectPublicKeyInfo, 1)
	if _, err := ParseRequest(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: forged}))); err == nil || !strings.Contains(err.Error(), "not signed by the key") {
		t.Errorf("a foreign key: %v", err)
	}
}

func FuzzParseRequest(f *testing.F) {
	f.Add(csrOf(f, someKey(f), x509.CertificateRequest{}))
	f.Add(csrOf(f, someKey(f), x509.CertificateRequest{Subject: pkix.Name{CommonName: "admin"}, URIs: []*url.URL{{Scheme: "farebeat", Opaque: "v1/op/operator/x"}}}))
	f.Add("-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n")
	f.Fuzz(func(t *testing.T, text string) {
		if key, err := ParseRequest(text); err == nil && (key.Public == nil || len(key.Fingerprint) != 64) {
			t.Fatalf("%+v of %q", key, text)
		}
	})
}

func TestOrderValidate(t *testing.T) {
	_, hash := NewCode()
	good := Order{
		ID: "a", Action: MakeCode, Role: topics.RoleGateway, Name: "1216", Hash: hash, At: morning, ExpiresAt: morning.Add(time.Hour), By: "ann",
	}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*Order){
		"id of 0":           func(o *Order) { o.ID = "" },
		"action":            func(o *Order) { o.Action = "x" },
		"says not when":     func(o *Order) { o.At = time.Time{} },
		"who gave it":       func(o *Order) { o.By = "" },
		"hash of 0":         func(o *Order) { o.Hash = "" },
		"hash of 3":         func(o *Order) { o.Hash = "abc" },
		"key of 64":         func(o *Order) { o.Key = hash },
		"key of 0":          func(o *Order) { o.Action, o.Hash = Admit, "" },
		"role":              func(o *Order) { o.Role = topics.RoleFleet },
		"name: ":            func(o *Order) { o.Name = "a+b" },
		"name is empty":     func(o *Order) { o.Name = "" },
		"only a machine":    func(o *Order) { o.Vehicle = "7" },
		"holds for 721h":    func(o *Order) { o.ExpiresAt = morning.Add(721 * time.Hour) },
		"holds for -1h":     func(o *Order) { o.ExpiresAt = morning.Add(-time.Hour) },
		"reason of 0 bytes": func(o *Order) { o.Action, o.Hash = Revoke, "" },
	} {
		o := good
		change(&o)
		if err := o.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
	}
	if code, _ := NewCode(); len(code) != 26 {
		t.Errorf("a code of %d characters", len(code))
	}
}

func TestNextEpoch(t *testing.T) {
	for _, tc := range []struct {
		known uint32
		held  []Certificate
		want  uint32
	}{
		{0, nil, 1},
		{7, nil, 8},
		{0, []Certificate{{Epoch: 1}, {}}, 2}, // an earlier unit's records may still come
		{9, []Certificate{{Epoch: 1}, {Epoch: 2}}, 10},
	} {
		if got := nextEpoch(tc.known, tc.held); got != tc.want {
			t.Errorf("%+v: %d", tc, got)
		}
	}
}

func TestRenewFromAgrees(t *testing.T) {
	cert, err := someCA(t).IssueClient(someKey(t).Public(), someTree(t), topics.Identity{Role: topics.RoleMachine, Name: "m"}, morning, 3*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if got := schemas.RenewFrom(cert.NotBefore, cert.NotAfter); !got.Equal(morning.Truncate(time.Second).Add(2 * time.Hour)) {
		t.Errorf("from %s", got)
	}
}
