package enrol_test

import (
	"crypto/x509"
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
