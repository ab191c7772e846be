package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/farebeat/farebeat/broker"
	"github.com/farebeat/farebeat/fleet/keys"
	"github.com/farebeat/farebeat/topics"
)

// filesOf makes a folder with a file for every key that names one, and a configuration that names them.
func filesOf(t *testing.T) (dir, config string) {
	t.Helper()
	dir = t.TempDir()
	put := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cert, key := selfSigned(t)
	_, hash := broker.NewSecret()
	_, err := keys.Create(filepath.Join(dir, "master"))
	if err != nil {
		t.Fatal(err)
	}
	put("cert", cert)
	put("tlskey", key)
	put("users", broker.User{Name: "ann", Role: topics.RoleViewer, Hash: hash}.Line()+"\n")
	put("clientca", cert)
	ownCert, ownKey := selfSigned(t)
	put("owncert", ownCert)
	put("ownkey", ownKey)
	siteCert, siteKey := selfSigned(t)
	put("sitecert", siteCert)
	put("sitekey", siteKey)
	put("secret", "tiger\n")
	put("people", broker.User{Name: "eve", Role: topics.RoleAdmin, Hash: hash}.Line()+"\n")
	put("expected", "route_id,hour,expected_vehicles_in_service\nA,7,2\n")
	put("holidays", "2026-12-25 # Christmas\n")
	put("rules", "route:\n  silent_after: 6m\n")
	put("password", "tiger\n")
	put("ca", cert)
	put("hook", "# the desk's\nwhsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n")
	put("token", "tiger\n")
	put("credentials", "Bearer tiger\n")
	put("machine", hex.EncodeToString(make([]byte, keys.Size))+"\n")
	text := `broker:
  listeners: [{name: a, kind: tls, address: "127.0.0.1:8883", cert_file: DIR/cert, key_file: DIR/tlskey, client_ca_file: DIR/clientca}]
  users_file: DIR/users
data: DIR/data
fleet:
  expected_file: DIR/expected
  holidays_file: DIR/holidays
  rules_file: DIR/rules
  master_key_file: DIR/master
  influx: [{name: grafana, url: "http://127.0.0.1:8086", bucket: farebeat, token_file: DIR/token}]
  notify:
    webhooks: [{name: desk, url: "https://desk.example/in", secret_file: DIR/hook, kinds: [route_silent]}]
    alertmanagers: [{name: am, url: "http://127.0.0.1:9093", credentials_file: DIR/credentials}]
console:
  cert_file: DIR/sitecert
  key_file: DIR/sitekey
  users_file: DIR/people
  oidc: {issuer: "https://idp.example", client_id: c, client_secret_file: DIR/secret, redirect_url: "https://desk.example/signin/oidc/callback", role_claim: groups, admins: [a]}
client: {password_file: DIR/password, ca_file: DIR/ca, cert_file: DIR/owncert, key_file: DIR/ownkey}
machine: {key_file: DIR/machine}
`
	return dir, put("farebeat.yaml", strings.ReplaceAll(text, "DIR", dir))
}

// selfSigned makes a certificate for an hour.
func selfSigned(t *testing.T) (cert, key string) {
	t.Helper()
	return selfSignedUntil(t, time.Now().Add(time.Hour))
}

func selfSignedUntil(t *testing.T, end time.Time) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: end, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &private.PublicKey, private)
	keyDER, keyErr := x509.MarshalECPrivateKey(private)
	if err := errors.Join(err, keyErr); err != nil {
		t.Fatal(err)
	}
	encode := func(kind string, b []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}))
	}
	return encode("CERTIFICATE", der), encode("EC PRIVATE KEY", keyDER)
}

// checkConfig runs `farebeat config check --json` and returns the exit code and the problems.
func checkConfig(t *testing.T, config string, more ...string) (int, []string) {
	t.Helper()
	var out, errOut bytes.Buffer
	code := run(t.Context(), append([]string{"config", "check", "--json", "--config", config}, more...), strings.NewReader(""), &out, &errOut)
	var result struct {
		Valid    bool
		Problems []string
	}
	if err := json.Unmarshal(out.Bytes(), &result); err != nil {
		t.Fatalf("%s: %v %s", out.String(), err, errOut.String())
	}
	if result.Valid != (code == exitOK) || result.Valid != (len(result.Problems) == 0) {
		t.Errorf("code %d, %+v", code, result)
	}
	return code, result.Problems
}

// TestConfigCheckReadsTheFiles: each file that is not as it should be is one problem that names its key and its path.
func TestConfigCheckReadsTheFiles(t *testing.T) {
	_, config := filesOf(t)
	if code, problems := checkConfig(t, config); code != exitOK {
		t.Fatalf("all is well: code %d, %q", code, problems)
	}
	for name, file := range map[string]struct {
		key, unparsable string
		secret          bool
	}{
		"cert":        {"broker.listeners[0].cert_file", "", false}, // told with its key
		"tlskey":      {"broker.listeners[0].key_file", "failed to find any PEM data in key input", true},
		"clientca":    {"broker.listeners[0].client_ca_file", "has no certificate in PEM form", false},
		"owncert":     {"client.cert_file", "", false}, // told with its key
		"ownkey":      {"client.key_file", "failed to find any PEM data in key input", true},
		"sitecert":    {"console.cert_file", "", false}, // told with its key
		"sitekey":     {"console.key_file", "failed to find any PEM data in key input", true},
		"secret":      {"console.oidc.client_secret_file", "", true},
		"users":       {"broker.users_file", "line 1: want name:role:id:hash:grants", true},
		"people":      {"console.users_file", "line 1: want name:role:id:hash:grants", true},
		"expected":    {"fleet.expected_file", "line 1", false},
		"rules":       {"fleet.rules_file", "line 1", false},
		"master":      {"fleet.master_key_file", "want 64 hexadecimal digits", true},
		"hook":        {"fleet.notify.webhooks[0].secret_file", "line 1: want whsec_ followed by base64", true},
		"credentials": {"fleet.notify.alertmanagers[0].credentials_file", "", true},
		"token":       {"fleet.influx[0].token_file", "", true},
		"password":    {"client.password_file", "", true},
		"ca":          {"client.ca_file", "has no certificate in PEM form", false},
		"machine":     {"machine.key_file", "want 32 bytes as hex", true},
		"holidays":    {"fleet.holidays_file", "line 1: date", false},
	} {
		for state, c := range map[string]struct {
			spoil func(path string) error
			want  string
		}{
			"missing":    {os.Remove, "there is no such file"},
			"a folder":   {func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) }, ""},
			"open":       {func(path string) error { return os.Chmod(path, 0o604) }, "run: chmod 600 "},
			"unparsable": {func(path string) error { return os.WriteFile(path, []byte("Thank you for the fish.\n"), 0o600) }, file.unparsable},
		} {
			want := 1
			switch {
			case state == "missing" && name == "master", state == "open" && !file.secret, state == "unparsable" && file.unparsable == "" && !strings.HasSuffix(name, "cert"):
				want = 0 // it is made at the first start; it is no secret; it may be anything
			}
			t.Run(name+" "+state, func(t *testing.T) {
				dir, config := filesOf(t)
				path := filepath.Join(dir, name)
				if err := c.spoil(path); err != nil {
					t.Fatal(err)
				}
				_, problems := checkConfig(t, config)
				if len(problems) != want {
					t.Fatalf("%q, want %d", problems, want)
				}
				key := file.key
				if strings.HasSuffix(name, "cert") && state == "unparsable" {
					key = strings.Replace(key, "cert_file", "key_file", 1)
				}
				if want == 1 && (!strings.HasPrefix(problems[0], key+": ") || !strings.Contains(problems[0], path) || !strings.Contains(problems[0], c.want)) {
					t.Errorf("got %q, want %s, %s and %s", problems[0], key, path, c.want)
				}
			})
		}
	}
}

// TestConfigCheckTellsAll: every problem is named at once, also where it is of a limit.
func TestConfigCheckTellsAll(t *testing.T) {
	dir, config := filesOf(t)
	for _, name := range []string{"users", "rules", "machine"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if code, problems := checkConfig(t, config); code != exitUsage || len(problems) != 3 {
		t.Errorf("code %d, %q", code, problems)
	}
	for _, taps := range []string{"-1", "100001", "NaN", "+Inf"} {
		if code, problems := checkConfig(t, config, "--set", "machine.taps_per_hour="+taps); code != exitUsage || !strings.HasPrefix(problems[0], "machine.taps_per_hour: want at") {
			t.Errorf("%s taps: code %d, %q", taps, code, problems)
		}
	}
}

// TestConfigCheckOfALostMasterKey: a service makes a key for an empty ledger only, and only in a folder that is there.
func TestConfigCheckOfALostMasterKey(t *testing.T) {
	dir, config := filesOf(t)
	if _, problems := checkConfig(t, config, "--set", "fleet.master_key_file="+filepath.Join(dir, "nowhere", "key")); len(problems) != 1 || !strings.Contains(problems[0], "only in a folder that is there") {
		t.Errorf("no folder: %q", problems)
	}
	data := filepath.Join(dir, "data")
	b := openBooks(t, data)
	lost := []string{"--set", "fleet.master_key_file=" + filepath.Join(dir, "lost")}
	if code, problems := checkConfig(t, config, lost...); code != exitOK {
		t.Errorf("an empty ledger: %q", problems)
	}
	b.ingest(b.machine("V-1", 1).Mint(1).Batch(1, 1))
	if err := b.store.Close(); err != nil {
		t.Fatal(err)
	}
	if _, problems := checkConfig(t, config, lost...); len(problems) != 1 || !strings.Contains(problems[0], "the ledger holds records of machine V-1") {
		t.Errorf("a ledger with records: %q", problems)
	}
}
