package enrol_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/farebeat/farebeat/fleet/enrol"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
)

// renewed is the device with another key and a certificate for it, if it got one.
func renewed(r *rig, d *device) (*device, string) {
	r.t.Helper()
	n := newDevice(r.t)
	a, reason := r.ask(schemas.EnrolRenewPath, schemas.EnrolRequest{CSR: n.csr(r.t, x509.CertificateRequest{})}, d)
	n.take(r.t, a)
	return n, reason
}

// TestNothingSlipsPastARevocation: what is renewed, or had for a code, after the order was given and before it is taken is void with the rest; a unit
// that was permitted after the order is spared.
func TestNothingSlipsPastARevocation(t *testing.T) {
	r := newRig(t)
	d := r.enrolled(topics.RoleGateway, "1216", false)
	r.pass(21 * 24 * time.Hour)
	code := r.code(topics.RoleGateway, "1216", false)
	r.pass(time.Second)
	o := r.order(enrol.Order{Action: enrol.Revoke, Role: topics.RoleGateway, Name: "1216", Reason: "stolen"})
	r.pass(2 * time.Second)
	first, reason := renewed(r, d)
	if reason != "" {
		t.Fatal(reason)
	}
	second := newDevice(t)
	a, reason := r.join(second, code)
	if a.Status != schemas.EnrolIssued {
		t.Fatal(reason)
	}
	second.take(t, a)
	next := r.enrolled(topics.RoleGateway, "1216", false)
	r.follow(o)
	for what, device := range map[string]*device{"the old one": d, "what was renewed": first, "what a code gave": second} {
		if r.void(device) == nil {
			t.Errorf("%s is good after the revocation", what)
		}
	}
	if err := r.void(next); err != nil {
		t.Errorf("one that was permitted after the order: %v", err)
	}
	if _, reason := renewed(r, first); reason != enrol.Revoked {
		t.Errorf("it is renewed again: %q", reason)
	}
	r.follow(o) // once more changes nothing
	if err := r.void(next); err != nil {
		t.Errorf("after the order came again: %v", err)
	}
}

// TestDismissedDevicesTakeNobodysPlace: not that of their host, nor of all.
func TestDismissedDevicesTakeNobodysPlace(t *testing.T) {
	r := newRig(t)
	for range 40 {
		a, reason := r.join(newDevice(t), "", "gateway", "x")
		if a.Status != schemas.EnrolWaiting {
			t.Fatal(reason)
		}
		r.follow(r.order(enrol.Order{Action: enrol.Dismiss, Key: a.Fingerprint}))
		r.pass(2 * time.Second)
	}
	if a, reason := r.join(newDevice(t), "", "gateway", "1216"); a.Status != schemas.EnrolWaiting {
		t.Errorf("an honest one: %q", reason)
	}
}

// TestWhetherAGatewayIsAlone: whoever else has a good certificate of it keeps its tickets from being given again.
func TestWhetherAGatewayIsAlone(t *testing.T) {
	r := newRig(t)
	for _, replaces := range []bool{false, false, true} {
		r.pass(2 * time.Second)
		r.enrolled(topics.RoleGateway, "7", replaces)
	}
	if want := []string{"7 alone true", "7 alone false", "7 alone true"}; !slices.Equal(r.joined, want) {
		t.Errorf("told %v, want %v", r.joined, want)
	}
}

// strangers returns what asks for a device from one of several hosts, and gives the status or the reason.
func (r *rig) strangers() func(host int, d *device) string {
	handler := r.registry.Handler()
	return func(host int, d *device) string {
		r.t.Helper()
		body, err := schemas.Encode(&schemas.EnrolRequest{CSR: d.csr(r.t, x509.CertificateRequest{}), Role: "gateway", Name: "x"})
		if err != nil {
			r.t.Fatal(err)
		}
		req := httptest.NewRequest(http.MethodPost, schemas.EnrolJoinPath, bytes.NewReader(body))
		req.RemoteAddr = fmt.Sprintf("10.0.0.%d:1", host)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, req)
		if w.Code == http.StatusAccepted {
			return schemas.EnrolWaiting
		}
		var refusal schemas.EnrolRefusal
		if err := schemas.DecodeEnrol(w.Body.Bytes(), schemas.NameEnrolRefusal, &refusal); err != nil {
			r.t.Fatal(err)
		}
		return refusal.Reason
	}
}

// TestUnknownDevicesAskOnlySoOften: each request is written to the store that has the ledger, so that those of all hosts together are bounded. A device
// with a code is not kept waiting for that.
func TestUnknownDevicesAskOnlySoOften(t *testing.T) {
	r := newRig(t)
	asks, d := r.strangers(), newDevice(t)
	for i := range 512 {
		if got := asks(i/60, d); got != schemas.EnrolWaiting {
			t.Fatalf("request %d: %s", i, got)
		}
	}
	if got := asks(100, d); got != enrol.TooMany {
		t.Errorf("one more: %s", got)
	}
	if a, reason := r.join(newDevice(t), r.code(topics.RoleGateway, "1216", false), "", ""); a.Status != schemas.EnrolIssued {
		t.Errorf("with a code: %s", reason)
	}
	r.pass(time.Second)
	for i := range 33 {
		if got := asks(101, d); (got == schemas.EnrolWaiting) != (i < 32) {
			t.Errorf("a second later, request %d: %s", i, got)
		}
	}
}

// TestOnlySoManyWait: 32 of one host, 256 of all.
func TestOnlySoManyWait(t *testing.T) {
	r := newRig(t)
	asks := r.strangers()
	for host := range 8 {
		for i := range 32 {
			if got := asks(host, newDevice(t)); got != schemas.EnrolWaiting {
				t.Fatalf("host %d, device %d: %s", host, i, got)
			}
		}
		if got := asks(host, newDevice(t)); host < 7 && got != enrol.Full {
			t.Errorf("one more of host %d: %s", host, got)
		}
	}
	if got := asks(9, newDevice(t)); got != enrol.Full {
		t.Errorf("one more than all: %s", got)
	}
}

// TestTheServersCertificateIsMadeAnew, long before it is over.
func TestTheServersCertificateIsMadeAnew(t *testing.T) {
	r := newRig(t)
	shown := func() string {
		c, err := tls.Dial("tcp", r.address, &tls.Config{RootCAs: r.ca.Pool(), ServerName: "127.0.0.1", Time: r.now})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return enrol.Serial(c.ConnectionState().PeerCertificates[0])
	}
	first := shown()
	r.pass(59 * 24 * time.Hour)
	if shown() != first {
		t.Error("another one before two thirds of its life")
	}
	r.pass(2 * 24 * time.Hour)
	if shown() == first {
		t.Error("it is the same after two thirds of its life")
	}
}
