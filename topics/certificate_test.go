package topics_test

import (
	"crypto/x509"
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/farebeat/farebeat/topics"
)

func certificateOf(tb testing.TB, uris ...string) *x509.Certificate {
	tb.Helper()
	c := &x509.Certificate{}
	for _, s := range uris {
		u, err := url.Parse(s)
		if err != nil {
			tb.Skip(err) // x509 takes none that does not parse
		}
		c.URIs = append(c.URIs, u)
	}
	return c
}

// TestCertificateNamesAnIdentity: what CertificateURI writes is read back, and nothing that looks nearly like it.
func TestCertificateNamesAnIdentity(t *testing.T) {
	tr := newTree(t)
	for _, id := range identities() {
		for _, name := range []string{id.Name, "bus 12/a:b", "Zürich", "%41", "..", strings.Repeat("x", topics.MaxID)} {
			id.Name = name
			u, err := tr.CertificateURI(id)
			if err != nil {
				t.Fatal(err)
			}
			got, err := tr.CertificateIdentity(certificateOf(t, "https://example.org/x", u.String()))
			if err != nil || got.Role != id.Role || got.Name != id.Name {
				t.Errorf("%s: %+v, %v; want %+v", u, got, err, id)
			}
		}
	}
	other, err := topics.New("another")
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := other.CertificateURI(topics.Identity{Role: topics.RoleGateway, Name: "01216"})
	if err != nil {
		t.Fatal(err)
	}
	mine, err := tr.CertificateURI(topics.Identity{Role: topics.RoleGateway, Name: "01216"})
	if err != nil {
		t.Fatal(err)
	}
	base := strings.TrimSuffix(mine.String(), "gateway/01216")
	for _, tc := range []struct {
		uris []string
		want string
	}{
		{[]string{foreign.String()}, `is of operator "another"`},
		{[]string{mine.String(), mine.String()}, "names two identities"},
		{[]string{mine.String() + "/x"}, "want farebeat:v1/"},
		{[]string{base + "gateway"}, "want farebeat:v1/"},
		{[]string{base + "gateway/"}, "name is empty"},
		{[]string{base + "root/01216"}, `role "root"`},
		{[]string{base + "gateway/01216?x=y"}, "must be percent-encoded"},
		{[]string{base + "gateway/%30"}, "no percent-encoding of ours"},
		{[]string{base + "gateway/+"}, "must be percent-encoded"},
		{[]string{base + "gateway/%2B"}, "MQTT's own"},
		{[]string{"farebeat://v1/x/gateway/1"}, "want farebeat:v1/"},
		{[]string{strings.Replace(mine.String(), ":v1/", ":v2/", 1)}, "want farebeat:v1/"},
	} {
		if id, err := tr.CertificateIdentity(certificateOf(t, tc.uris...)); err == nil || !strings.Contains(err.Error(), tc.want) || id.Name != "" {
			t.Errorf("%v: %+v, %v; want %q", tc.uris, id, err, tc.want)
		}
	}
	if _, err := tr.CertificateIdentity(certificateOf(t, "spiffe://x/y")); !errors.Is(err, topics.ErrNoIdentity) {
		t.Errorf("a foreign certificate: %v", err)
	}
	for _, id := range []topics.Identity{{Role: "root", Name: "x"}, {Role: topics.RoleMachine}, {Role: topics.RoleMachine, Name: "+"}} {
		if u, err := tr.CertificateURI(id); err == nil {
			t.Errorf("%+v: %s", id, u)
		}
	}
}

// FuzzCertificateIdentity: no name panics, and one that is taken is exactly what would be written for its identity.
func FuzzCertificateIdentity(f *testing.F) {
	for _, s := range []string{"farebeat:v1/hart/machine/01216-1", "farebeat:v1/hart/machine/%C3%BC", "farebeat:", "farebeat:v1////", "farebeat:v1/a/b/c?d#e", "farebeat://x", ""} {
		f.Add(s)
	}
	tr := newTree(f)
	f.Fuzz(func(t *testing.T, s string) {
		cert := certificateOf(t, s)
		id, err := tr.CertificateIdentity(cert)
		if err != nil {
			return
		}
		if u, err := tr.CertificateURI(id); err != nil || u.String() != cert.URIs[0].String() { // parsed: a scheme has no case
			t.Errorf("%q is %+v, which is written %v, %v", s, id, u, err)
		}
	})
}
