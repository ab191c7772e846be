package schemas

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"
	"time"
)

func someCSR(t testing.TB) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

const someCode = "ABCDEFGHIJKLMNOPQRSTUVWX23"

func TestEnrolURL(t *testing.T) {
	for _, u := range []EnrolURL{
		{Address: "fleet.example:8444", Role: "gateway", Name: "1216", Code: someCode, Authority: [32]byte{1, 2, 255}},
		{Address: "[::1]:1", Role: "machine", Name: "bus 7/rear:%", Code: someCode},
		{Address: "10.0.0.1:65535", Role: "third_party", Name: "ü", Code: someCode},
	} {
		got, err := ParseEnrolURL(u.String())
		if err != nil || got != u {
			t.Errorf("%s: %+v, %v", u, got, err)
		}
		small := strings.Replace(u.String(), someCode, strings.ToLower(someCode), 1)
		if got, err := ParseEnrolURL(" " + small + "\n"); err != nil || got != u {
			t.Errorf("%s: %+v, %v", small, got, err)
		}
	}
	good := EnrolURL{Address: "h:1", Role: "gateway", Name: "1216", Code: someCode}.String()
	for name, tc := range map[string]struct{ old, new, want string }{
		"scheme":         {"farebeat-enrol", "https", "of another form"},
		"no port":        {"h:1", "h", "want host:port"},
		"port 0":         {"h:1", "h:0", "want host:port"},
		"no host":        {"h:1", ":1", "want host:port"},
		"user":           {"h:1", "u@h:1", "of another form"},
		"query":          {"#", "?a=b#", "of another form"},
		"short code":     {someCode, someCode[1:], "code is not 26"},
		"code with 1":    {"23#", "21#", "code is not 26"},
		"level":          {"1216", "1216/x", "its path"},
		"no name":        {"1216", "", `field "name": is required`},
		"MQTT's own":     {"1216", "12+16", "MQTT's own"},
		"no fingerprint": {"sha256=", "md5=", "fingerprint of the authority is missing"},
		"short":          {"sha256=00", "sha256=", "want 64 hexadecimal digits"},
		"long":           {"1216", strings.Repeat("x", 2000), "at most 1024"},
	} {
		s := strings.Replace(good, tc.old, tc.new, 1)
		_, err := ParseEnrolURL(s)
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %s: %v, want %q", name, s, err, tc.want)
		} else if strings.Contains(err.Error(), someCode[:20]) {
			t.Errorf("%s: the error shows the code: %v", name, err)
		}
	}
}

func TestRenewFrom(t *testing.T) {
	issued := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	if got := RenewFrom(issued.Add(-EnrolBackdate), issued.AddDate(0, 0, 30)); !got.Equal(issued.AddDate(0, 0, 20)) {
		t.Errorf("of 30 days: %s", got)
	}
	if got := RenewFrom(issued.Add(-EnrolBackdate), issued.Add(3*time.Hour)); !got.Equal(issued.Add(2 * time.Hour)) {
		t.Errorf("of 3 hours: %s", got)
	}
}

func TestEnrolMessages(t *testing.T) {
	csr := someCSR(t)
	quoted := strings.ReplaceAll(csr, "\n", `\n`)
	for name, tc := range map[string]struct{ text, want string }{
		"code":      {fmt.Sprintf(`{"csr":"%s","code":"%s","later":1}`, quoted, someCode), ""},
		"claims":    {fmt.Sprintf(`{"csr":"%s","role":"gateway","name":"1216"}`, quoted), ""},
		"no csr":    {`{"code":"` + someCode + `"}`, `field "csr": is required`},
		"no PEM":    {`{"csr":"x"}`, `not one certificate request`},
		"two":       {fmt.Sprintf(`{"csr":"%s%s"}`, quoted, quoted), `not one certificate request`},
		"bad code":  {fmt.Sprintf(`{"csr":"%s","code":"abc"}`, quoted), `field "code"`},
		"role only": {fmt.Sprintf(`{"csr":"%s","role":"gateway"}`, quoted), `comes together with role`},
		"twice":     {fmt.Sprintf(`{"csr":"%s","csr":"%s"}`, quoted, quoted), `is there twice`},
		"more":      {fmt.Sprintf(`{"csr":"%s"}{}`, quoted), `enrol-request`},
		"too long":  {`{"csr":"` + strings.Repeat("x", MaxEnrolMessage) + `"}`, `more than 32768 bytes`},
	} {
		var r EnrolRequest
		err := DecodeEnrol([]byte(tc.text), NameEnrolRequest, &r)
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
	secret := &EnrolAnswer{MachineKey: "5ec7e7"}
	if got := fmt.Sprintf("%v %+v %#v %s", secret, secret, secret, &EnrolRequest{Code: "5ec7e7"}); strings.Contains(got, "5ec7e7") {
		t.Errorf("a secret is printed: %s", got)
	}
}

func FuzzParseEnrolURL(f *testing.F) {
	f.Add(EnrolURL{Address: "fleet.example:8444", Role: "gateway", Name: "1216", Code: someCode}.String())
	f.Add(EnrolURL{Address: "[::1]:1", Role: "machine", Name: "a/b", Code: someCode}.String())
	f.Add("farebeat-enrol://h:1/gateway/1216/x#sha256=")
	f.Fuzz(func(t *testing.T, s string) {
		u, err := ParseEnrolURL(s)
		if err != nil {
			return
		}
		again, err := ParseEnrolURL(u.String())
		if err != nil || again != u {
			t.Fatalf("%q is %+v, and again %+v, %v", s, u, again, err)
		}
	})
}

func FuzzDecodeEnrol(f *testing.F) {
	quoted := strings.ReplaceAll(someCSR(f), "\n", `\n`)
	f.Add([]byte(fmt.Sprintf(`{"csr":"%s","code":"%s"}`, quoted, someCode)))
	f.Add([]byte(`{"status":"waiting","fingerprint":"` + strings.Repeat("0", 64) + `","retry":10}`))
	f.Add([]byte(`{"reason":"code_used","text":"x"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		for name, m := range map[string]Message{NameEnrolRequest: &EnrolRequest{}, NameEnrolAnswer: &EnrolAnswer{}, NameEnrolRefusal: &EnrolRefusal{}} {
			if DecodeEnrol(b, name, m) != nil {
				continue
			}
			if text, err := Encode(m); err != nil {
				t.Fatalf("%s: was read and cannot be written: %v", name, err)
			} else if err := Decode(text, name, m); err != nil {
				t.Fatalf("%s: %s was written and cannot be read: %v", name, text, err)
			}
		}
	})
}
