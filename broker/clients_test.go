package broker_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/farebeat/farebeat/broker"
	"github.com/farebeat/farebeat/topics"
)

func TestClientsSayWhoIsHere(t *testing.T) {
	inBubble(t, broker.Options{}, func(t *testing.T, b *broker.Broker) {
		if got := b.Clients(); len(got) != 0 {
			t.Errorf("clients %+v", got)
		}
		r := dial(t, b, viewerID, connect{id: "wall/north", version: 5})
		r.subscribe(1, root+"machine/#", root+"fleet")
		time.Sleep(time.Minute)
		m := dial(t, b, machineID("m/1"), connect{id: "m"})
		m.mustPublish(pub{topic: root + "machine/m%2F1/heartbeat", payload: "{}"})
		m.mustPublish(pub{topic: root + "machine/m2/heartbeat", payload: "{}"}) // it may not
		f := dial(t, b, fleetID, connect{id: "fleet"})
		f.mustPublish(pub{root + "fleet", "{}", 1, true})
		r.expect("machine/m%2F1/heartbeat={}")
		if _, err := r.read(); err != nil { // and does not acknowledge it
			t.Fatal(err)
		}
		gone := dial(t, b, viewerID, connect{id: "gone", keep: true})
		gone.bye()
		synctest.Wait()
		now := time.Now()
		want := []broker.ClientInfo{
			{ID: "fleet", Role: topics.RoleFleet, Name: "fleet", Listener: "in-process", InProcess: true, Protocol: 4, Since: now, In: 1},
			{ID: "m", Role: topics.RoleMachine, Name: "m/1", Listener: "in-process", InProcess: true, Protocol: 4, Since: now, In: 1},
			{
				ID: "wall/north", Role: topics.RoleViewer, Name: "ann", Listener: "in-process", InProcess: true, Protocol: 5, Since: now.Add(-time.Minute),
				Subscriptions: 2, Out: 2, Unacknowledged: 1,
			},
		}
		if diff := cmp.Diff(want, b.Clients()); diff != "" {
			t.Error(diff)
		}
	})
}

// TestClientsSayWhoReadsSlowly: what waits and what was dropped is told of the client that it happened to.
func TestClientsSayWhoReadsSlowly(t *testing.T) {
	inBubble(t, broker.Options{}, func(t *testing.T, b *broker.Broker) {
		slow := dial(t, b, viewerID, connect{id: "slow"})
		slow.subscribe(0, root+"machine/m1/heartbeat")
		m := dial(t, b, machineID("m1"), connect{id: "m"})
		const sent, fits = 16_384 + 100, 16_384
		for range sent {
			if err := m.publish(pub{topic: root + "machine/m1/heartbeat", payload: "{}"}); err != nil {
				t.Fatal(err)
			}
		}
		m.ping()
		synctest.Wait()
		i := slices.IndexFunc(b.Clients(), func(c broker.ClientInfo) bool { return c.ID == "slow" })
		got := b.Clients()[i]
		if got.Waiting != fits || got.WaitingBytes != 2*fits || got.Dropped != sent-fits-1 || got.Out != 0 { // one is being written
			t.Errorf("%+v", got)
		}
		if s := b.Stats(); s.PublishDropped != got.Dropped {
			t.Errorf("the broker counted %d, the client %d", s.PublishDropped, got.Dropped)
		}
	})
}

func TestClientsOverTheNetwork(t *testing.T) {
	secret, hash := broker.NewSecret()
	users, err := broker.NewUsers([]broker.User{{Name: "box", Role: topics.RoleMachine, ID: "m1", Hash: hash}})
	if err != nil {
		t.Fatal(err)
	}
	b := start(t, broker.Options{Users: users, Listeners: []broker.Listener{
		{Name: "tcp", Kind: "tcp", Address: "127.0.0.1:0"}, {Name: "ws", Kind: "ws", Address: "127.0.0.1:0", AnonymousReaders: true},
	}})
	c := tcp(t, b, "tcp")
	box, _ := join(t, c, connect{id: "same", user: "box", password: secret})
	box.ping()
	w := web(t, "ws://"+b.Addr("ws"))
	any, _ := join(t, w, connect{id: "same"})
	any.ping()
	if _, code := join(t, tcp(t, b, "tcp"), connect{id: "stranger", user: "box", password: "wrong"}); code == 0 {
		t.Error("a wrong password was admitted")
	}
	want := []broker.ClientInfo{
		{ID: "same", Role: topics.RoleMachine, Name: "m1", User: "box", Listener: "tcp", Remote: c.LocalAddr().String(), Protocol: 4},
		{ID: "same", Role: topics.RoleViewer, Name: "anonymous", Listener: "ws", Remote: w.LocalAddr().String(), Protocol: 4},
	}
	got := b.Clients()
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(broker.ClientInfo{}, "Since")); diff != "" {
		t.Error(diff)
	}
	if text := fmt.Sprintf("%+v", got); strings.Contains(text, secret) || strings.Contains(text, hash) {
		t.Errorf("a secret is among %s", text)
	}
}

// certificate makes one that signs itself. Without leaf it is as a program gives it that did not parse it.
func certificate(t *testing.T, template x509.Certificate, leaf bool) tls.Certificate {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(1)
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	c := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}
	if leaf {
		if c.Leaf, err = x509.ParseCertificate(der); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func TestCertificates(t *testing.T) {
	ends := time.Date(2027, 1, 2, 3, 4, 5, 0, time.UTC)
	uri, err := url.Parse("spiffe://depot/broker")
	if err != nil {
		t.Fatal(err)
	}
	full := x509.Certificate{
		Subject: pkix.Name{CommonName: "mqtt.example", Organization: []string{"HART"}}, NotAfter: ends, DNSNames: []string{"mqtt.example", "mqtt"},
		IPAddresses: []net.IP{net.IPv4(192, 0, 2, 1), net.IPv6loopback}, EmailAddresses: []string{"ops@mqtt.example"}, URIs: []*url.URL{uri},
	}
	b := start(t, broker.Options{Listeners: []broker.Listener{
		{Name: "plain", Kind: "tcp", Address: "127.0.0.1:0"},
		{Name: "tls", Kind: "tls", Address: "127.0.0.1:0", TLS: &tls.Config{Certificates: []tls.Certificate{certificate(t, full, false)}}},
		{Name: "wss", Kind: "wss", Address: "127.0.0.1:0", TLS: &tls.Config{Certificates: []tls.Certificate{certificate(t, x509.Certificate{NotAfter: ends.AddDate(1, 0, 0)}, true)}}},
	}})
	want := []broker.CertificateInfo{
		{
			Listener: "tls", Address: b.Addr("tls"), Subject: "CN=mqtt.example,O=HART",
			Names: []string{"mqtt.example", "mqtt", "192.0.2.1", "::1", "ops@mqtt.example", "spiffe://depot/broker"}, NotAfter: ends,
		},
		{Listener: "wss", Address: b.Addr("wss"), NotAfter: ends.AddDate(1, 0, 0)},
	}
	if diff := cmp.Diff(want, b.Certificates()); diff != "" {
		t.Error(diff)
	}
	for name, c := range map[string]tls.Certificate{"empty": {}, "broken": {Certificate: [][]byte{{1, 2, 3}}}} {
		_, err := broker.New(broker.Options{Tree: tampa(t), Listeners: []broker.Listener{
			{Name: "x", Kind: "tls", Address: "127.0.0.1:0", TLS: &tls.Config{Certificates: []tls.Certificate{c}}},
		}})
		if err == nil || !strings.Contains(err.Error(), `broker: listener "x": `) || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
