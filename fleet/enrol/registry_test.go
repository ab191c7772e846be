package enrol_test

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/farebeat/farebeat/fleet/enrol"
	"github.com/farebeat/farebeat/fleet/orders"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
)

func TestJoinWithACode(t *testing.T) {
	r := newRig(t)
	d := newDevice(t)
	code := r.code(topics.RoleGateway, "1216", false)
	a, reason := r.join(d, code)
	if a.Status != schemas.EnrolIssued || a.Role != "gateway" || a.Name != "1216" || a.Operator != "op" || a.Broker != "ssl://fleet:8883" || a.TimeZone != "Europe/Berlin" || a.MachineKey != "" || a.FirstEpoch != 0 {
		t.Fatalf("%+v %s", a.Status, reason)
	}
	if !d.key.PublicKey.Equal(d.cert.PublicKey) {
		t.Error("the certificate is for another key")
	}
	if id, err := r.tree.CertificateIdentity(d.cert); err != nil || id.Name != "1216" || id.Role != topics.RoleGateway {
		t.Errorf("%v, %v", id, err)
	}
	// A lost answer: the same key gets the same certificate, also later within the code's validity.
	r.pass(23 * time.Hour)
	first := d.cert
	if a, reason := r.join(d, code); a.Status != schemas.EnrolIssued || !d.cert.Equal(first) {
		t.Errorf("asked again: %v %s", a, reason)
	}
	// Another key does not, and has nothing to be admitted by.
	if _, reason := r.join(newDevice(t), code); reason != enrol.NoClaim {
		t.Errorf("a used code: %s", reason)
	}
	if a, _ := r.join(newDevice(t), code, "gateway", "1216"); a.Status != schemas.EnrolWaiting || a.Reason != enrol.CodeUsed {
		t.Errorf("a used code with a claim: %+v", a)
	}
	r.pass(2 * time.Hour)
	if a, _ := r.join(d, code, "gateway", "1216"); a.Reason != enrol.CodeExpired {
		t.Errorf("after the code's end: %+v", a)
	}
	if e := r.audited("enrol_join"); len(e) != 1 || e[0].By != "ann" || e[0].Subject != "gateway 1216" || e[0].Remote != "127.0.0.1" {
		t.Errorf("audit %+v", e)
	}
	if !slices.Equal(r.joined, []string{"1216 alone true", "1216 alone true"}) {
		t.Errorf("told %v", r.joined)
	}
	if n := r.registry.Stats().Refused(); n[enrol.CodeUsed] != 1 || n[enrol.NoClaim] != 1 || n[enrol.CodeExpired] != 1 {
		t.Errorf("counted %v", n)
	}
}

func TestCodesThatAreNotGood(t *testing.T) {
	r := newRig(t)
	old := r.code(topics.RoleGateway, "1216", false)
	r.pass(time.Second)
	newer := r.code(topics.RoleGateway, "1216", false)
	never, _ := enrol.NewCode()
	for code, want := range map[string]string{old: enrol.CodeWithdrawn, never: enrol.CodeUnknown} {
		if a, _ := r.join(newDevice(t), code, "gateway", "1216"); a.Reason != want || a.Certificate != "" {
			t.Errorf("%+v, want %s", a, want)
		}
	}
	r.revoke(topics.RoleGateway, "1216")
	if a, _ := r.join(newDevice(t), newer, "gateway", "1216"); a.Reason != enrol.CodeWithdrawn {
		t.Errorf("after a revocation: %+v", a)
	}
	r.pass(time.Second)
	late := r.code(topics.RoleGateway, "1216", false)
	r.pass(24 * time.Hour)
	if a, _ := r.join(newDevice(t), late, "gateway", "1216"); a.Reason != enrol.CodeExpired {
		t.Errorf("late: %+v", a)
	}
}

// Two devices with one code at the same time: one gets the certificate.
func TestOneCodeForTwoAtOnce(t *testing.T) {
	r := newRig(t)
	code := r.code(topics.RoleGateway, "1216", false)
	const n = 8
	status := make([]string, n)
	var group sync.WaitGroup
	for i := range n {
		d := newDevice(t)
		m := schemas.EnrolRequest{CSR: d.csr(t, x509.CertificateRequest{}), Code: code, Role: "gateway", Name: "1216"}
		body, err := schemas.Encode(&m)
		if err != nil {
			t.Fatal(err)
		}
		group.Go(func() {
			code, _, err := r.post(schemas.EnrolJoinPath, body, nil)
			status[i] = fmt.Sprint(code, err)
		})
	}
	group.Wait()
	issued := 0
	for _, s := range status {
		switch s {
		case "200 <nil>":
			issued++
		case "202 <nil>", "409 <nil>": // it waits, or the code was used in this moment
		default:
			t.Errorf("answer %s", s)
		}
	}
	if issued != 1 {
		t.Errorf("%d certificates: %v", issued, status)
	}
}

// What a request says of names has no effect.
func TestNamesInTheRequestHaveNoEffect(t *testing.T) {
	r := newRig(t)
	d := newDevice(t)
	other, err := r.tree.CertificateURI(topics.Identity{Role: topics.RoleOperator, Name: "boss"})
	if err != nil {
		t.Fatal(err)
	}
	csr := d.csr(t, x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "operator boss"}, URIs: []*url.URL{other}, DNSNames: []string{"fleet.example"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtraExtensions: []pkix.Extension{{Id: []int{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 3, 1, 1, 0xff}}}, // CA:TRUE
	})
	a, reason := r.ask(schemas.EnrolJoinPath, schemas.EnrolRequest{CSR: csr, Code: r.code(topics.RoleMachine, "m-1", false), Role: "operator", Name: "boss"}, nil)
	d.take(t, a)
	if d.cert == nil {
		t.Fatal(reason)
	}
	if id, err := r.tree.CertificateIdentity(d.cert); err != nil || id.Role != topics.RoleMachine || id.Name != "m-1" {
		t.Errorf("%v, %v", id, err)
	}
	if d.cert.IsCA || len(d.cert.DNSNames)+len(d.cert.IPAddresses) > 0 || len(d.cert.URIs) != 1 || d.cert.Subject.CommonName != "machine m-1" {
		t.Errorf("the certificate has %v %v %v %v", d.cert.Subject, d.cert.URIs, d.cert.DNSNames, d.cert.IPAddresses)
	}
}

func TestQuarantine(t *testing.T) {
	r := newRig(t)
	d := newDevice(t)
	if _, reason := r.join(d, ""); reason != enrol.NoClaim {
		t.Errorf("without a claim: %s", reason)
	}
	if _, reason := r.join(d, "", "admin", "root"); reason != enrol.BadRequest {
		t.Errorf("as admin: %s", reason)
	}
	a, _ := r.join(d, "", "gateway", "1216")
	if a.Status != schemas.EnrolWaiting || a.Retry == 0 || a.Certificate != "" {
		t.Fatalf("%+v", a)
	}
	r.pass(time.Minute)
	r.join(d, "", "gateway", "1216")
	list := waiting(t, r)
	if len(list) != 1 || list[0].Times != 2 || list[0].Key != a.Fingerprint || list[0].Role != "gateway" || list[0].Remote != "127.0.0.1" || !list[0].LastAt.Equal(list[0].FirstAt.Add(time.Minute)) {
		t.Fatalf("%+v", list)
	}
	// It is admitted as somebody else than it says; another key is not let in by that.
	r.follow(r.order(enrol.Order{Action: enrol.Admit, Key: a.Fingerprint, Role: topics.RoleMachine, Name: "m-9", Vehicle: "7"}))
	if a, _ := r.join(newDevice(t), "", "gateway", "1216"); a.Status != schemas.EnrolWaiting {
		t.Errorf("another key: %+v", a)
	}
	for range 2 { // and once more, since the answer was lost
		if a, reason := r.join(d, "", "gateway", "1216"); a.Role != "machine" || a.Name != "m-9" || a.Vehicle != "7" || a.MachineKey == "" || a.FirstEpoch != 1 {
			t.Fatalf("%+v %s", a, reason)
		}
	}
	if list := waiting(t, r); len(list) != 1 || list[0].Key == a.Fingerprint {
		t.Errorf("it waits still: %+v", list)
	}
	if len(r.audited("enrol_wait")) != 2 || len(r.audited("enrol_admit")) != 1 {
		t.Error("not audited")
	}
}

func TestDismissed(t *testing.T) {
	r := newRig(t)
	d := newDevice(t)
	a, _ := r.join(d, "", "gateway", "1216")
	r.follow(r.order(enrol.Order{Action: enrol.Dismiss, Key: a.Fingerprint}))
	for range 2 {
		if _, reason := r.join(d, "", "gateway", "1216"); reason != enrol.Dismissed {
			t.Errorf("%s", reason)
		}
	}
	if a, reason := r.join(d, r.code(topics.RoleGateway, "1216", false)); a.Status != schemas.EnrolIssued {
		t.Errorf("with a code: %s", reason)
	}
}

func waiting(t *testing.T, r *rig) (out []enrol.Waiting) {
	t.Helper()
	err := r.db.Identities().View(t.Context(), func(v enrol.View) (err error) { out, err = v.AllWaiting(); return err })
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// The list of those that wait is bounded for each host, and one that is gone makes room.
func TestQuarantineIsBounded(t *testing.T) {
	r := newRig(t)
	for i := range 40 {
		a, reason := r.join(newDevice(t), "", "gateway", fmt.Sprint(i))
		if full := i >= 32; full != (reason == enrol.Full) || full == (a.Status == schemas.EnrolWaiting) {
			t.Fatalf("device %d: %+v %s", i, a, reason)
		}
	}
	if n := len(waiting(t, r)); n != 32 {
		t.Errorf("%d wait", n)
	}
	r.pass(2 * time.Hour)
	if a, reason := r.join(newDevice(t), "", "gateway", "late"); a.Status != schemas.EnrolWaiting {
		t.Errorf("later: %s", reason)
	}
	if n := len(waiting(t, r)); n != 1 {
		t.Errorf("%d wait", n)
	}
}

func TestRateLimit(t *testing.T) {
	r := newRig(t)
	refused := 0
	for range 70 {
		if status, _, err := r.post(schemas.EnrolJoinPath, []byte("{}"), nil); err != nil {
			t.Fatal(err)
		} else if status == http.StatusTooManyRequests {
			refused++
		}
	}
	if refused != 10 {
		t.Errorf("%d of 70 were refused", refused)
	}
	r.pass(10 * time.Second)
	if status, _, _ := r.post(schemas.EnrolJoinPath, []byte("{}"), nil); status != http.StatusBadRequest {
		t.Errorf("later: %d", status)
	}
}

func TestBadRequests(t *testing.T) {
	r := newRig(t)
	for name, body := range map[string]string{
		"nothing": "", "no JSON": "{", "no request": `{"csr":"x"}`, "two": "{}{}", "long": `{"csr":"` + strings.Repeat("x", 1<<20) + `"}`,
	} {
		status, text, err := r.post(schemas.EnrolJoinPath, []byte(body), nil)
		if err == nil && (status != http.StatusBadRequest || !strings.Contains(string(text), enrol.BadRequest)) || err != nil && name != "long" {
			t.Errorf("%s: %d %s, %v", name, status, text, err)
		}
	}
	if status, _, _ := r.post("/enrol/v1/other", nil, nil); status != http.StatusNotFound {
		t.Errorf("another path: %d", status)
	}
}

func TestRenewal(t *testing.T) {
	r := newRig(t)
	d := r.enrolled(topics.RoleMachine, "m-1", false)
	next := newDevice(t)
	m := schemas.EnrolRequest{CSR: next.csr(t, x509.CertificateRequest{})}
	if _, reason := r.ask(schemas.EnrolRenewPath, m, nil); reason != enrol.NoCertificate {
		t.Errorf("without a certificate: %s", reason)
	}
	r.pass(20*24*time.Hour - time.Second)
	if _, reason := r.ask(schemas.EnrolRenewPath, m, d); reason != enrol.TooEarly {
		t.Errorf("too early: %s", reason)
	}
	r.pass(time.Second)
	a, reason := r.ask(schemas.EnrolRenewPath, m, d)
	if a.Status != schemas.EnrolIssued || a.MachineKey != "" || a.FirstEpoch != 0 {
		t.Fatalf("%+v %s", a, reason)
	}
	next.take(t, a)
	if id, err := r.tree.CertificateIdentity(next.cert); err != nil || id.Name != "m-1" || !next.key.PublicKey.Equal(next.cert.PublicKey) {
		t.Errorf("%v, %v", id, err)
	}
	// The answer was lost: the same again. The one before is good until its end.
	first := next.cert
	a, _ = r.ask(schemas.EnrolRenewPath, m, d)
	if next.take(t, a); !next.cert.Equal(first) {
		t.Error("another certificate")
	}
	if r.void(d) != nil || r.void(next) != nil {
		t.Error("one is void")
	}
	for i := range 9 { // with other keys only so often
		_, reason := r.ask(schemas.EnrolRenewPath, schemas.EnrolRequest{CSR: newDevice(t).csr(t, x509.CertificateRequest{})}, d)
		if many := i >= 7; many != (reason == enrol.TooMany) {
			t.Fatalf("renewal %d: %s", i, reason)
		}
	}
	r.revoke(topics.RoleMachine, "m-1")
	if _, reason := r.ask(schemas.EnrolRenewPath, m, d); reason != enrol.Revoked {
		t.Errorf("revoked: %s", reason)
	}
	if _, reason := r.ask(schemas.EnrolRenewPath, m, next); reason != enrol.Revoked {
		t.Errorf("the next one: %s", reason)
	}
	r.pass(11 * 24 * time.Hour)
	if _, _, err := r.post(schemas.EnrolRenewPath, []byte("{}"), d); err == nil {
		t.Error("a certificate that is over opens a connection")
	}
}

func TestReplacement(t *testing.T) {
	r := newRig(t)
	r.epoch = 4
	old := r.enrolled(topics.RoleMachine, "m-1", false)
	r.pass(time.Minute)
	code := r.code(topics.RoleMachine, "m-1", true)
	if err := r.void(old); err != nil {
		t.Errorf("before the new unit joins: %v", err)
	}
	unit := newDevice(t)
	for range 2 { // and the lost answer
		if a, reason := r.join(unit, code); a.FirstEpoch != 6 || a.MachineKey != strings.Repeat("03", 32) {
			t.Fatalf("%+v %s", a.FirstEpoch, reason)
		}
	}
	if err := r.void(old); err == nil || !strings.Contains(err.Error(), "was revoked") {
		t.Errorf("the unit of before: %v", err)
	}
	if err := r.void(unit); err != nil {
		t.Errorf("the new unit: %v", err)
	}
	if err := r.void(r.enrolled(topics.RoleMachine, "m-2", false)); err != nil {
		t.Errorf("another machine: %v", err)
	}
	var held []enrol.Certificate
	err := r.db.Identities().View(t.Context(), func(v enrol.View) (err error) {
		held, err = v.Certificates(topics.Identity{Role: topics.RoleMachine, Name: "m-1"})
		return err
	})
	if err != nil || len(held) != 2 || held[1].Why != "replaced" || held[1].RevokedBy != "ann" || held[0].Epoch != 6 || held[1].Epoch != 5 {
		t.Errorf("%+v, %v", held, err)
	}
}

// A store that was restored knows nothing of what was issued since. That is good, but not after a revocation.
func TestCertificatesThatTheRegisterDoesNotKnow(t *testing.T) {
	r := newRig(t)
	d := newDevice(t)
	cert, err := r.ca.IssueClient(d.key.Public(), r.tree, topics.Identity{Role: topics.RoleGateway, Name: "1216"}, r.now(), 30*24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	d.cert = cert
	if err := r.void(d); err != nil {
		t.Errorf("an unknown one: %v", err)
	}
	r.pass(21 * 24 * time.Hour)
	m := schemas.EnrolRequest{CSR: d.csr(t, x509.CertificateRequest{})}
	if a, reason := r.ask(schemas.EnrolRenewPath, m, d); a.Status != schemas.EnrolIssued {
		t.Errorf("its renewal: %s", reason)
	}
	r.revoke(topics.RoleGateway, "1216")
	if err := r.void(d); err == nil {
		t.Error("an unknown one is good after its identity was revoked")
	}
	if _, reason := r.ask(schemas.EnrolRenewPath, m, d); reason != enrol.Revoked {
		t.Errorf("its renewal after that: %s", reason)
	}
	r.pass(2 * time.Second)
	if err := r.void(r.enrolled(topics.RoleGateway, "1216", false)); err != nil {
		t.Errorf("one issued after the revocation: %v", err)
	}
	other := newRig(t)
	if err := r.void(other.enrolled(topics.RoleGateway, "1216", false)); err == nil {
		t.Error("one of another authority, from before the revocation, is good after it")
	}
	if err := r.void(other.enrolled(topics.RoleGateway, "1217", false)); err != nil {
		t.Errorf("another authority's, of whom nobody revoked anything: %v", err)
	}
}

func TestExpiring(t *testing.T) {
	r := newRig(t)
	d := r.enrolled(topics.RoleGateway, "1", false)
	r.enrolled(topics.RoleGateway, "2", false)
	r.enrolled(topics.RoleGateway, "3", false)
	r.pass(24 * 24 * time.Hour)
	if a, reason := r.ask(schemas.EnrolRenewPath, schemas.EnrolRequest{CSR: newDevice(t).csr(t, x509.CertificateRequest{})}, d); a.Status != schemas.EnrolIssued {
		t.Fatal(reason)
	}
	r.revoke(topics.RoleGateway, "3")
	if list := r.open(r.ca).Expiring(r.now()); len(list) != 0 {
		t.Errorf("before the last sixth: %+v", list)
	}
	r.pass(24*time.Hour + time.Second)
	for range 2 { // in the last sixth, and when it is over
		if list := r.open(r.ca).Expiring(r.now()); len(list) != 1 || list[0].Name != "2" {
			t.Errorf("%+v", list)
		}
		r.pass(6 * 24 * time.Hour)
	}
}

// Orders that the command line leaves are taken, their files go, and whose certificates became void is told once.
func TestWatch(t *testing.T) {
	r := newRig(t)
	d := r.enrolled(topics.RoleGateway, "1216", false)
	r.pass(2 * time.Second)
	ctx, stop := context.WithCancel(t.Context())
	told := make(chan []topics.Identity, 10)
	var group sync.WaitGroup
	group.Go(func() { r.registry.Watch(ctx, time.Millisecond, func(ids []topics.Identity) { told <- ids }) })
	defer group.Wait()
	defer stop()
	path, err := orders.Leave(r.orders, r.order(enrol.Order{Action: enrol.Revoke, Role: topics.RoleGateway, Name: "1216", Reason: "stolen"}))
	if err != nil {
		t.Fatal(err)
	}
	if ids := <-told; len(ids) != 1 || ids[0].Name != "1216" || ids[0].Role != topics.RoleGateway {
		t.Errorf("told %v", ids)
	}
	if err := r.registry.Void(d.cert); err == nil {
		t.Error("it is not void yet")
	}
	if orders.AnyLeft(r.orders) {
		t.Errorf("%s is still there", path)
	}
	// A replacement is told of without a look at the clock: the handler wakes it.
	r.enrolled(topics.RoleGateway, "7", false)
	r.pass(2 * time.Second)
	r.enrolled(topics.RoleGateway, "7", true)
	if ids := <-told; len(ids) != 1 || ids[0].Name != "7" {
		t.Errorf("told %v", ids)
	}
}

// A revocation holds although the disk does not take it.
func TestRevocationThatCannotBeSaved(t *testing.T) {
	r := newRig(t)
	d := r.enrolled(topics.RoleGateway, "1216", false)
	if _, err := orders.Leave(r.orders, r.order(enrol.Order{Action: enrol.Revoke, Role: topics.RoleGateway, Name: "1216", Reason: "stolen"})); err != nil {
		t.Fatal(err)
	}
	if err := r.db.Close(); err != nil { // from now on nothing can be written
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	told := make(chan []topics.Identity, 10)
	var group sync.WaitGroup
	group.Go(func() { r.registry.Watch(ctx, time.Millisecond, func(ids []topics.Identity) { told <- ids }) })
	<-told
	stop()
	group.Wait()
	if err := r.registry.Void(d.cert); err == nil {
		t.Error("it is good still")
	}
	if !orders.AnyLeft(r.orders) {
		t.Error("the order is gone, and nowhere kept")
	}
}

// The same order again changes nothing, also after a device joined since.
func TestOrdersTwice(t *testing.T) {
	r := newRig(t)
	code, hash := enrol.NewCode()
	made := r.order(enrol.Order{Action: enrol.MakeCode, Role: topics.RoleGateway, Name: "1216", Hash: hash})
	r.follow(made)
	revoked := r.order(enrol.Order{Action: enrol.Revoke, Role: topics.RoleGateway, Name: "7", Reason: "x"})
	r.follow(revoked)
	r.pass(2 * time.Second)
	d, other := newDevice(t), r.enrolled(topics.RoleGateway, "7", false)
	if a, reason := r.join(d, code); a.Status != schemas.EnrolIssued {
		t.Fatal(reason)
	}
	r.follow(made)
	r.follow(revoked)
	if a, _ := r.join(newDevice(t), code, "gateway", "1216"); a.Reason != enrol.CodeUsed {
		t.Errorf("the code is good again: %+v", a)
	}
	if err := errors.Join(r.void(d), r.void(other)); err != nil {
		t.Error(err)
	}
	if n := len(r.audited("enrol_revoke")); n != 1 {
		t.Errorf("%d entries", n)
	}
}

// After a restore no code is good, for some may have been used since; certificates and revocations stay.
func TestAfterARestore(t *testing.T) {
	r := newRig(t)
	d, gone := r.enrolled(topics.RoleGateway, "1216", false), r.enrolled(topics.RoleGateway, "7", false)
	r.revoke(topics.RoleGateway, "7")
	code := r.code(topics.RoleMachine, "m-1", false)
	if err := r.db.Restored(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a, _ := r.join(newDevice(t), code, "machine", "m-1"); a.Reason != enrol.CodeWithdrawn {
		t.Errorf("%+v", a)
	}
	if r.void(d) != nil || r.void(gone) == nil {
		t.Error("certificates are not as they were")
	}
}

// An order of two ids for one code does not happen; one for the same hash is refused by the store, and nothing of it is there.
func TestCodeHashIsUnique(t *testing.T) {
	r := newRig(t)
	_, hash := enrol.NewCode()
	r.follow(r.order(enrol.Order{Action: enrol.MakeCode, Role: topics.RoleGateway, Name: "1", Hash: hash}))
	if err := enrol.Follow(t.Context(), r.db.Identities(), r.order(enrol.Order{Action: enrol.MakeCode, Role: topics.RoleGateway, Name: "2", Hash: hash})); err == nil {
		t.Error("one code for two")
	}
}
