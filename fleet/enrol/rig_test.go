package enrol_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/farebeat/farebeat/fleet/console/audit"
	"github.com/farebeat/farebeat/fleet/enrol"
	"github.com/farebeat/farebeat/fleet/store"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
)

// rig is a registry over a real store, served over real TLS, with a clock that a test moves.
type rig struct {
	t        *testing.T
	db       *store.Store
	ca       *enrol.CA
	tree     topics.Tree
	registry *enrol.Registry
	address  string
	orders   string

	mu     sync.Mutex
	at     time.Time
	joined []string
	epoch  uint32
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, at: time.Date(2026, 11, 29, 6, 0, 0, 0, time.UTC), orders: filepath.Join(t.TempDir(), "orders")}
	var err error
	if r.db, err = store.Open(t.Context(), filepath.Join(t.TempDir(), "fleet.db"), store.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.db.Close() })
	dir := t.TempDir()
	if r.ca, err = enrol.CreateCA(filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca.key"), "op", r.now()); err != nil {
		t.Fatal(err)
	}
	if r.tree, err = topics.New("op"); err != nil {
		t.Fatal(err)
	}
	r.registry = r.open(r.ca)
	config, err := r.registry.TLS([]string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.address = listener.Addr().String()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.registry.Serve(ctx, listener, config) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *rig) open(ca *enrol.CA) *enrol.Registry {
	r.t.Helper()
	registry, err := enrol.New(r.t.Context(), enrol.Options{
		Tree: r.tree, CA: ca, Store: r.db.Identities(), Now: r.now, Orders: r.orders, TimeZone: "Europe/Berlin", Broker: "ssl://fleet:8883",
		MachineKey: func(_ context.Context, machine string) ([]byte, error) {
			return bytes.Repeat([]byte{byte(len(machine))}, 32), nil
		},
		Epoch: func(context.Context, string) (uint32, error) { return r.epoch, nil },
		Joined: func(_ context.Context, p enrol.Permit, alone bool) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.joined = append(r.joined, fmt.Sprint(p.Name, " alone ", alone))
			return nil
		},
		Validity: 30 * 24 * time.Hour,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return registry
}

func (r *rig) now() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.at
}

func (r *rig) pass(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.at = r.at.Add(d)
}

var orderNumber int

func (r *rig) order(o enrol.Order) enrol.Order {
	orderNumber++
	o.ID, o.At, o.By = fmt.Sprintf("o%d", orderNumber), r.now(), "ann"
	if o.Action == enrol.MakeCode || o.Action == enrol.Admit {
		o.ExpiresAt = o.At.Add(24 * time.Hour)
	}
	return o
}

func (r *rig) follow(o enrol.Order) {
	r.t.Helper()
	if err := enrol.Follow(r.t.Context(), r.db.Identities(), o); err != nil {
		r.t.Fatal(err)
	}
}

// code makes a code for an identity.
func (r *rig) code(role topics.Role, name string, replace bool) string {
	r.t.Helper()
	code, hash := enrol.NewCode()
	r.follow(r.order(enrol.Order{Action: enrol.MakeCode, Role: role, Name: name, Hash: hash, Replace: replace}))
	return code
}

func (r *rig) revoke(role topics.Role, name string) {
	r.t.Helper()
	r.follow(r.order(enrol.Order{Action: enrol.Revoke, Role: role, Name: name, Reason: "stolen"}))
}

// device is a key, and the certificate that it got.
type device struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newDevice(t *testing.T) *device {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &device{key: key}
}

func (d *device) csr(t *testing.T, template x509.CertificateRequest) string {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &template, d.key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// post sends bytes, with a device's certificate if it is given.
func (r *rig) post(path string, body []byte, as *device) (int, []byte, error) {
	config := &tls.Config{RootCAs: r.ca.Pool(), Time: r.now}
	if as != nil {
		config.Certificates = []tls.Certificate{{Certificate: [][]byte{as.cert.Raw}, PrivateKey: as.key}}
	}
	client := http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
	resp, err := client.Post("https://"+r.address+path, "application/json", bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, text, err
}

// ask gives the answer, or the reason of the refusal.
func (r *rig) ask(path string, m schemas.EnrolRequest, as *device) (schemas.EnrolAnswer, string) {
	r.t.Helper()
	body, err := schemas.Encode(&m)
	if err != nil {
		r.t.Fatal(err)
	}
	status, text, err := r.post(path, body, as)
	if err != nil {
		r.t.Fatal(err)
	}
	if status >= 400 {
		var refusal schemas.EnrolRefusal
		if err := schemas.DecodeEnrol(text, schemas.NameEnrolRefusal, &refusal); err != nil {
			r.t.Fatalf("%d %s: %v", status, text, err)
		}
		return schemas.EnrolAnswer{}, refusal.Reason
	}
	var answer schemas.EnrolAnswer
	if err := schemas.DecodeEnrol(text, schemas.NameEnrolAnswer, &answer); err != nil {
		r.t.Fatalf("%d %s: %v", status, text, err)
	}
	return answer, ""
}

// join asks with a code, or claims.
func (r *rig) join(d *device, code string, claim ...string) (schemas.EnrolAnswer, string) {
	r.t.Helper()
	m := schemas.EnrolRequest{CSR: d.csr(r.t, x509.CertificateRequest{}), Code: code}
	if len(claim) == 2 {
		m.Role, m.Name = claim[0], claim[1]
	}
	answer, reason := r.ask(schemas.EnrolJoinPath, m, nil)
	d.take(r.t, answer)
	return answer, reason
}

func (d *device) take(t *testing.T, a schemas.EnrolAnswer) {
	t.Helper()
	if a.Certificate == "" {
		return
	}
	block, _ := pem.Decode([]byte(a.Certificate))
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	d.cert = cert
}

// enrolled is a device with a certificate.
func (r *rig) enrolled(role topics.Role, name string, replace bool) *device {
	r.t.Helper()
	d := newDevice(r.t)
	if a, reason := r.join(d, r.code(role, name, replace)); a.Status != schemas.EnrolIssued {
		r.t.Fatalf("%s %s: %v, %s", role, name, a, reason)
	}
	return d
}

// void asks a registry that has seen all that is in the store.
func (r *rig) void(d *device) error {
	r.t.Helper()
	return r.open(r.ca).Void(d.cert)
}

func (r *rig) audited(action string) (out []audit.Entry) {
	r.t.Helper()
	out, err := r.db.AuditLog().List(r.t.Context(), audit.Query{Action: action})
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}
