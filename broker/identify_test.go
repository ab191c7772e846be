package broker_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/farebeat/farebeat/broker"
	"github.com/farebeat/farebeat/topics"
)

// authority signs certificates in tests.
type authority struct {
	t      testing.TB
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
	serial int64
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{t: t}
	pair := a.sign(x509.Certificate{Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	a.cert, a.key = pair.Leaf, pair.PrivateKey.(*ecdsa.PrivateKey)
	return a
}

// sign makes a key and a certificate of it, for a year around now where the template does not say; its own where the authority has none yet.
func (a *authority) sign(template x509.Certificate) tls.Certificate {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	a.serial++
	template.SerialNumber = big.NewInt(a.serial)
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = time.Now().AddDate(0, -6, 0), time.Now().AddDate(0, 6, 0)
	}
	parent, by := a.cert, a.key
	if parent == nil {
		parent, by = &template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, parent, key.Public(), by)
	if err != nil {
		a.t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// of makes a client's certificate for an identity of a tree.
func (a *authority) of(tree topics.Tree, role topics.Role, name string) tls.Certificate {
	a.t.Helper()
	u, err := tree.CertificateURI(topics.Identity{Role: role, Name: name})
	if err != nil {
		a.t.Fatal(err)
	}
	return a.sign(x509.Certificate{Subject: pkix.Name{CommonName: name}, URIs: []*url.URL{u}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// server is a listener's configuration, which asks for certificates of a.
func (a *authority) server(auth tls.ClientAuthType) *tls.Config {
	pair := a.sign(x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	return &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: a.pool(), ClientAuth: auth, MinVersion: tls.VersionTLS12}
}

func (a *authority) client(certs ...tls.Certificate) *tls.Config {
	return &tls.Config{RootCAs: a.pool(), Certificates: certs, MinVersion: tls.VersionTLS12}
}

// TestWhoACertificateNames: over TLS and over WebSocket a certificate is an identity, and whoever has none of ours, none that holds, or another's name, is
// refused.
func TestWhoACertificateNames(t *testing.T) {
	tree := tampa(t)
	other, err := topics.New("another")
	if err != nil {
		t.Fatal(err)
	}
	secret, hash := broker.NewSecret()
	users, err := broker.NewUsers([]broker.User{
		{Name: "box", Role: topics.RoleMachine, ID: "m1", Hash: hash},
		{Name: "app", Role: topics.RoleThirdParty, Hash: hash, Grants: []string{"vehicle/+/gateway"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	ours, strange := newAuthority(t), newAuthority(t)
	voided := ours.of(tree, topics.RoleGateway, "v2")
	b := start(t, broker.Options{
		Users: users, Void: func(c *x509.Certificate) error {
			if c.SerialNumber.Cmp(voided.Leaf.SerialNumber) == 0 {
				return context.Canceled
			}
			return nil
		},
		Listeners: []broker.Listener{
			{Name: "tls", Kind: "tls", Address: "127.0.0.1:0", TLS: ours.server(tls.VerifyClientCertIfGiven)},
			{Name: "wss", Kind: "wss", Address: "127.0.0.1:0", TLS: ours.server(tls.VerifyClientCertIfGiven)},
			{Name: "strict", Kind: "tls", Address: "127.0.0.1:0", TLS: ours.server(tls.RequireAndVerifyClientCert)},
		},
	})
	named := func(cn string) tls.Certificate {
		return ours.sign(x509.Certificate{Subject: pkix.Name{CommonName: cn}})
	}
	year := time.Now().AddDate(-1, 0, 0)
	for _, tc := range []struct {
		name           string
		cert           []tls.Certificate
		user, password string
		want           topics.Identity // nobody: refused
		filter         string
		granted        bool
	}{
		{"a gateway", []tls.Certificate{ours.of(tree, topics.RoleGateway, "v1")}, "", "", topics.Identity{Role: topics.RoleGateway, Name: "v1"}, "vehicle/v1/fault/+", true},
		{"a gateway reads a stranger's", []tls.Certificate{ours.of(tree, topics.RoleGateway, "v1")}, "", "", topics.Identity{Role: topics.RoleGateway, Name: "v1"}, "vehicle/v2/fault/+", false},
		{"a machine of an odd name", []tls.Certificate{ours.of(tree, topics.RoleMachine, "bus 1/a")}, "", "", topics.Identity{Role: topics.RoleMachine, Name: "bus 1/a"}, "fleet", true},
		{"an operator", []tls.Certificate{ours.of(tree, topics.RoleOperator, "ada")}, "", "", topics.Identity{Role: topics.RoleOperator, Name: "ada"}, "#", true},
		{"its own user name", []tls.Certificate{ours.of(tree, topics.RoleGateway, "v1")}, "v1", "whatever", topics.Identity{Role: topics.RoleGateway, Name: "v1"}, "vehicle/v1/fault/+", true},
		{"another's user name", []tls.Certificate{ours.of(tree, topics.RoleGateway, "v1")}, "box", secret, topics.Identity{}, "", false},
		{"a third party", []tls.Certificate{ours.of(tree, topics.RoleThirdParty, "none")}, "", "", topics.Identity{Role: topics.RoleThirdParty, Name: "none"}, "vehicle/+/gateway", false},
		{"a third party with grants", []tls.Certificate{ours.of(tree, topics.RoleThirdParty, "app")}, "", "", topics.Identity{Role: topics.RoleThirdParty, Name: "app"}, "vehicle/+/gateway", true},
		{"a user's common name", []tls.Certificate{named("box")}, "", "", topics.Identity{Role: topics.RoleMachine, Name: "m1"}, "fleet", true},
		{"a user's common name and user name", []tls.Certificate{named("box")}, "box", "", topics.Identity{Role: topics.RoleMachine, Name: "m1"}, "fleet", true},
		{"nobody's common name", []tls.Certificate{named("nobody")}, "", "", topics.Identity{}, "", false},
		{"nobody's common name, and a password", []tls.Certificate{named("nobody")}, "box", secret, topics.Identity{}, "", false},
		{"another operator's", []tls.Certificate{ours.of(other, topics.RoleGateway, "v1")}, "", "", topics.Identity{}, "", false},
		{"another authority's", []tls.Certificate{strange.of(tree, topics.RoleGateway, "v1")}, "", "", topics.Identity{}, "", false},
		{"an expired one", []tls.Certificate{ours.sign(x509.Certificate{Subject: pkix.Name{CommonName: "box"}, NotBefore: year, NotAfter: year.AddDate(0, 1, 0)})}, "", "", topics.Identity{}, "", false},
		{"a server's", []tls.Certificate{ours.sign(x509.Certificate{Subject: pkix.Name{CommonName: "box"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})}, "", "", topics.Identity{}, "", false},
		{"a void one", []tls.Certificate{voided}, "", "", topics.Identity{}, "", false},
		{"a simulator", []tls.Certificate{ours.of(tree, topics.RoleSimulator, "city")}, "", "", topics.Identity{}, "", false},
		{"none, and a password", nil, "box", secret, topics.Identity{Role: topics.RoleMachine, Name: "m1"}, "fleet", true},
		{"none, and a wrong password", nil, "box", "wrong", topics.Identity{}, "", false},
		{"none", nil, "", "", topics.Identity{}, "", false},
	} {
		for _, name := range []string{"tls", "wss", "strict"} {
			want := tc.want
			if name == "strict" && tc.cert == nil {
				want = topics.Identity{}
			}
			r, err := comes(t, b, name, ours.client(tc.cert...), connect{id: "x", user: tc.user, password: tc.password})
			if (err == nil) != (want.Role != "") {
				t.Errorf("%s over %s: %v", tc.name, name, err)
			}
			if err != nil || want.Role == "" {
				continue
			}
			r.ping()
			got := b.Clients()
			if len(got) != 1 || got[0].Role != want.Role || got[0].Name != want.Name {
				t.Errorf("%s over %s: is %+v", tc.name, name, got)
			}
			if codes, _ := r.subscribe(1, tree.Root()+tc.filter); (codes[0] < 0x80) != tc.granted {
				t.Errorf("%s over %s: subscribes to %s: %#x", tc.name, name, tc.filter, codes)
			}
			r.bye()
			gone(t, b)
		}
	}
}

// gone waits until nobody is connected.
func gone(t *testing.T, b *broker.Broker) {
	t.Helper()
	for ctx := t.Context(); len(b.Clients()) > 0; {
		if ctx.Err() != nil {
			t.Fatal("somebody is still connected")
		}
		runtime.Gosched()
	}
}

// comes connects over a listener with TLS; the error is that of the handshake, of the connection, or the refusal.
func comes(t *testing.T, b *broker.Broker, name string, config *tls.Config, o connect) (*raw, error) {
	t.Helper()
	var c net.Conn
	var err error
	if name == "wss" {
		d := websocket.Dialer{Subprotocols: []string{"mqtt"}, TLSClientConfig: config}
		ws, resp, dialErr := d.Dial("wss://"+b.Addr(name), nil)
		if dialErr != nil {
			return nil, dialErr
		}
		resp.Body.Close()
		c = &webClient{Conn: ws}
	} else if c, err = tls.Dial("tcp", b.Addr(name), config); err != nil {
		return nil, err
	}
	t.Cleanup(func() { c.Close() })
	r := &raw{t: t, net: c, version: 4}
	o.version = 4
	r.start(o)
	ack, err := r.read()
	if err == nil && ack.ReasonCode != 0 {
		err = fmt.Errorf("refused: %#x", ack.ReasonCode)
	}
	return r, err
}

// TestAVoidCertificateEndsItsSessionAtOnce: whoever is connected by it goes, others stay, and it does not come back; what waits is for the unit that takes its place.
func TestAVoidCertificateEndsItsSessionAtOnce(t *testing.T) {
	tree, ours := tampa(t), newAuthority(t)
	stolen, next := ours.of(tree, topics.RoleGateway, "v1"), ours.of(tree, topics.RoleGateway, "v1")
	var void atomic.Pointer[x509.Certificate]
	b := start(t, broker.Options{
		Void: func(c *x509.Certificate) error {
			if v := void.Load(); v != nil && v.SerialNumber.Cmp(c.SerialNumber) == 0 {
				return errors.New("it was revoked: stolen at the depot")
			}
			return nil
		},
		Listeners: []broker.Listener{{Name: "tls", Kind: "tls", Address: "127.0.0.1:0", TLS: ours.server(tls.RequireAndVerifyClientCert)}},
	})
	joins := func(cert tls.Certificate, id string) (*raw, error) {
		return comes(t, b, "tls", ours.client(cert), connect{id: id, keep: true})
	}
	thief, err := joins(stolen, "gateway-v1")
	if err != nil {
		t.Fatal(err)
	}
	fault := tree.Root() + "vehicle/v1/fault/m1"
	if codes, _ := thief.subscribe(1, fault); codes[0] != 1 {
		t.Fatalf("%#x", codes)
	}
	other, err := joins(ours.of(tree, topics.RoleGateway, "v2"), "gateway-v2")
	if err != nil {
		t.Fatal(err)
	}
	b.CertificatesChanged()
	thief.ping() // nothing is void yet
	void.Store(stolen.Leaf)
	b.CertificatesChanged()
	if pk, err := thief.read(); err == nil {
		t.Errorf("%v instead of the end", pk.FixedHeader.Type)
	}
	other.ping()
	before := b.Stats().RefusedConnect
	if _, err := joins(stolen, "gateway-v1"); err == nil || b.Stats().RefusedConnect != before+1 {
		t.Errorf("it came back: %v, %d refused", err, b.Stats().RefusedConnect-before)
	}
	fleet := dial(t, b, topics.Identity{Role: topics.RoleFleet, Name: "fleet"}, connect{id: "fleet"})
	fleet.mustPublish(pub{topic: fault, payload: "{}", qos: 1, retain: true})
	heir, err := joins(next, "gateway-v1")
	if err != nil {
		t.Fatal(err)
	}
	heir.expect(strings.TrimPrefix(fault, root) + "={}")
}
