package enrol

import (
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net/http"
	"time"

	"github.com/farebeat/farebeat/fleet/console/audit"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
)

// Refusal is why a device gets nothing.
type Refusal struct {
	Reason string // a word for programs, see the constants
	Text   string // for people
	Status int    // of HTTP
}

// Error implements error.
func (r *Refusal) Error() string { return r.Text }

// The reasons. Those of a code are also told to a device that waits because of it.
const (
	BadRequest    = "bad_request"
	TooMany       = "too_many"       // from this host, or from unknown devices
	CodeUnknown   = "code_unknown"   // never made, or of a store that was restored
	CodeExpired   = "code_expired"   //
	CodeUsed      = "code_used"      // by another key
	CodeWithdrawn = "code_withdrawn" // a newer one was made, or the identity was revoked
	NoClaim       = "no_claim"       // nobody could admit it, since it says not who it is
	Full          = "full"           // too many devices wait
	Dismissed     = "dismissed"
	Revoked       = "revoked"
	TooEarly      = "too_early"
	NoCertificate = "no_certificate"
	Unavailable   = "unavailable"
)

func refuse(status int, reason, format string, args ...any) *Refusal {
	return &Refusal{Reason: reason, Text: fmt.Sprintf(format, args...), Status: status}
}

// Bounds of the devices that wait.
const (
	maxWaiting     = 256
	maxWaitingHost = 32             // from one host
	waitingUnseen  = time.Hour      // after which one makes room for another
	dismissedKept  = 24 * time.Hour // after it was last seen before that; one that still asks waits again then
	maxRenewals    = 8              // of one certificate, each with another key
)

// ask is a device's request to join.
type ask struct {
	key    Key
	code   *[32]byte // SHA-256; nil for none
	role   string    // claimed
	name   string    // claimed
	remote string
}

// choose finds the permit that a device may use. Where there is none, why says what is wrong with its code, "" if it has none.
func choose(v View, now time.Time, a ask) (p *Permit, why string, err error) {
	if a.code != nil {
		if p, err = v.Permit(*a.code); err != nil {
			return nil, "", err
		}
		if why = p.unusable(now, a.key.Fingerprint); why == "" {
			return p, "", nil
		}
	}
	if p, err = v.PermitOfKey(a.key.Fingerprint); err != nil {
		return nil, "", err
	}
	if p.unusable(now, a.key.Fingerprint) != "" {
		p = nil
	}
	return p, why, nil
}

// unusable says why a permit, nil for none, is not for the owner of a key; "" if it is.
func (p *Permit) unusable(now time.Time, key string) string {
	switch {
	case p == nil:
		return CodeUnknown
	case p.Withdrawn:
		return CodeWithdrawn
	case !now.Before(p.ExpiresAt):
		return CodeExpired
	case p.Key != "" && p.Key != key:
		return CodeUsed
	}
	return ""
}

// grant gives the certificate of a permit, or again the one that it gave.
func grant(t Tx, now time.Time, p Permit, a ask, epoch uint32, sign func(topics.Identity) (*x509.Certificate, error)) (Certificate, error) {
	if p.Serial != "" {
		c, err := t.Certificate(p.Serial)
		switch {
		case err != nil:
			return Certificate{}, err
		case c == nil || !c.Good(now):
			return Certificate{}, refuse(http.StatusForbidden, Revoked, "the certificate that this permit gave is good no more: ask for another code")
		}
		return *c, nil
	}
	cert, err := sign(p.identity())
	if err != nil {
		return Certificate{}, err
	}
	c := Certificate{
		Serial: Serial(cert), Role: p.Role, Name: p.Name, Key: a.key.Fingerprint, IssuedAt: issuedAt(cert), NotAfter: cert.NotAfter,
		By: p.By, How: ByCode, Vehicle: p.Vehicle, DER: cert.Raw,
	}
	if !p.HasCode() {
		c.How = ByAdmission
	}
	held, err := t.Certificates(p.identity())
	if err != nil {
		return Certificate{}, err
	}
	if p.Role == topics.RoleMachine {
		c.Epoch = nextEpoch(epoch, held)
	}
	detail := fmt.Sprintf("certificate %s until %s, key %s", c.Serial, c.NotAfter.UTC().Format(time.RFC3339), c.Key)
	if p.Replace {
		n, err := replace(t, now, p, held)
		if err != nil {
			return Certificate{}, err
		}
		detail += fmt.Sprintf("; replaced, %d certificates revoked", n)
	}
	p.Key, p.UsedAt, p.Serial = a.key.Fingerprint, now, c.Serial
	return c, joined(t.PutCertificate(c), t.PutPermit(p), t.RemoveWaiting(a.key.Fingerprint), t.Audit(entry(now, p.By, a.remote, "enrol_join", p.identity(), detail)))
}

// nextEpoch is where a new journal of a machine begins: after every epoch that the ledger knows of, and after each that an earlier unit was given,
// whose records may still come in.
func nextEpoch(known uint32, held []Certificate) uint32 {
	for _, c := range held {
		known = max(known, c.Epoch)
	}
	return known + 1
}

// replace voids what the unit of before holds.
func replace(t Tx, now time.Time, p Permit, held []Certificate) (n int, err error) {
	for _, c := range held {
		if !c.RevokedAt.IsZero() {
			continue
		}
		c.RevokedAt, c.RevokedBy, c.Why = now, p.By, "replaced"
		if err := t.PutCertificate(c); err != nil {
			return n, err
		}
		n++
	}
	// Of the same second on only the new one is good, which the comparison with before lets pass.
	return n, t.PutRevocation(Revocation{p.Role, p.Name, now.Truncate(time.Second)})
}

// wait puts a device on the list of those that wait.
func wait(t Tx, now time.Time, a ask, why string) error {
	if a.role == "" {
		return refuse(http.StatusForbidden, NoClaim, "there is no good code (%s), and the device says not who it is, so that nobody can admit it: give role and name, or ask for another code", why)
	}
	id := topics.Identity{Role: topics.Role(a.role), Name: a.name}
	w, err := t.Waiting(a.key.Fingerprint)
	if err != nil {
		return err
	}
	if w == nil {
		if err := makeRoom(t, now, a.remote); err != nil {
			return err
		}
		w = &Waiting{Key: a.key.Fingerprint, FirstAt: now}
		e := entry(now, "", a.remote, "enrol_wait", id, joinWords(why, "key "+a.key.Fingerprint))
		e.Outcome = audit.Waits
		if err := t.Audit(e); err != nil {
			return err
		}
	}
	w.Role, w.Name, w.Remote = a.role, a.name, a.remote
	if w.DismissedAt.IsZero() {
		w.LastAt = now
	}
	w.Times++
	return t.PutWaiting(*w)
}

func joinWords(a, b string) string {
	if a == "" {
		return b
	}
	return a + ", " + b
}

// makeRoom removes who was not seen for long, and refuses where nobody is to go. Those who were dismissed take nobody's place; of them the latest are
// kept, so that they are not new each time they ask.
func makeRoom(t Tx, now time.Time, remote string) error {
	all, err := t.AllWaiting()
	if err != nil {
		return err
	}
	left, here, dismissed := 0, 0, 0
	for _, w := range all { // the latest seen first
		old := now.Sub(w.LastAt) > waitingUnseen
		if !w.DismissedAt.IsZero() {
			dismissed++
			old = now.Sub(w.LastAt) > dismissedKept || dismissed > maxWaiting
		}
		if old {
			if err := t.RemoveWaiting(w.Key); err != nil {
				return err
			}
		}
		if old || !w.DismissedAt.IsZero() {
			continue
		}
		left++
		if w.Remote == remote {
			here++
		}
	}
	if left >= maxWaiting || here >= maxWaitingHost {
		return refuse(http.StatusServiceUnavailable, Full, "too many devices wait to be admitted: admit or dismiss some (farebeat enrol list), or use a code")
	}
	return nil
}

// renewal decides what the owner of a certificate gets: an error, a certificate that was made for the same key before, or nil for a new one.
func renewal(v View, now time.Time, old *x509.Certificate, id topics.Identity, key string) (*Certificate, error) {
	serial := Serial(old)
	known, err := v.Certificate(serial)
	if err != nil {
		return nil, err
	}
	before, err := revokedBefore(v, id)
	if err != nil {
		return nil, err
	}
	if known != nil && !known.RevokedAt.IsZero() || issuedAt(old).Before(before) {
		return nil, refuse(http.StatusForbidden, Revoked, "certificate %s was revoked: the device has to be enrolled again", serial)
	}
	list, err := v.Certificates(id)
	if err != nil {
		return nil, err
	}
	times := 0
	for _, c := range list {
		if c.Replaces != serial {
			continue
		}
		if c.Key == key && c.Good(now) { // the answer was lost
			return v.Certificate(c.Serial)
		}
		times++
	}
	if from := schemas.RenewFrom(old.NotBefore, old.NotAfter); now.Before(from) {
		return nil, refuse(http.StatusConflict, TooEarly, "certificate %s is renewed from %s on", serial, from.UTC().Format(time.RFC3339))
	}
	if times >= maxRenewals {
		return nil, refuse(http.StatusTooManyRequests, TooMany, "certificate %s was renewed %d times with other keys: revoke it if that was not its device", serial, times)
	}
	return nil, nil
}

// issuedAt is when a certificate of ours was signed, in whole seconds.
func issuedAt(cert *x509.Certificate) time.Time { return cert.NotBefore.Add(schemas.EnrolBackdate) }

// renew signs the certificate that follows old.
func renew(t Tx, now time.Time, old *x509.Certificate, id topics.Identity, a ask, sign func(topics.Identity) (*x509.Certificate, error)) (Certificate, error) {
	same, err := renewal(t, now, old, id, a.key.Fingerprint)
	if err != nil {
		return Certificate{}, err
	}
	if same != nil {
		return *same, nil
	}
	cert, err := sign(id)
	if err != nil {
		return Certificate{}, err
	}
	c := Certificate{
		Serial: Serial(cert), Role: id.Role, Name: id.Name, Key: a.key.Fingerprint, IssuedAt: issuedAt(cert), NotAfter: cert.NotAfter,
		By: "its own certificate", How: ByRenewal, Replaces: Serial(old), DER: cert.Raw,
	}
	if before, err := t.Certificate(c.Replaces); err != nil {
		return Certificate{}, err
	} else if before != nil {
		c.By, c.Vehicle = before.By, before.Vehicle
	}
	detail := fmt.Sprintf("certificate %s until %s after %s, key %s", c.Serial, c.NotAfter.UTC().Format(time.RFC3339), c.Replaces, c.Key)
	return c, joined(t.PutCertificate(c), t.Audit(entry(now, string(id.Role)+" "+id.Name, a.remote, "enrol_renew", id, detail)))
}

func entry(now time.Time, by, remote, action string, id topics.Identity, detail string) audit.Entry {
	return audit.Entry{
		At: now, By: by, Via: "enrolment", Action: action, Subject: string(id.Role) + " " + id.Name, Detail: detail, Outcome: audit.Done, Remote: remote,
	}
}

// answer is what a device is told with its certificate.
func (c Certificate) answer(o Options) schemas.EnrolAnswer {
	return schemas.EnrolAnswer{
		Status: schemas.EnrolIssued, Fingerprint: c.Key, Certificate: string(certificatePEM(c.DER)), Operator: o.Tree.Operator(), Role: string(c.Role), Name: c.Name,
		Vehicle: c.Vehicle, TimeZone: o.TimeZone, Broker: o.Broker, FirstEpoch: c.Epoch,
	}
}

// withKey adds a machine's key to its first certificate.
func withKey(a schemas.EnrolAnswer, key []byte) schemas.EnrolAnswer {
	a.MachineKey = hex.EncodeToString(key)
	return a
}
