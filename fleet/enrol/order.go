package enrol

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/farebeat/farebeat/fleet/console/audit"
	"github.com/farebeat/farebeat/topics"
)

// Action is what an administrator orders.
type Action string

// The actions.
const (
	MakeCode Action = "code"    // make a permit for whoever knows a code
	Admit    Action = "admit"   // make a permit for the owner of a key
	Dismiss  Action = "dismiss" // refuse the owner of a key that waits
	Revoke   Action = "revoke"  // void every certificate and permit of an identity
)

// Order is an administrator's decision. It holds no secret: of a code only the hash. The same order twice is one.
type Order struct {
	ID        string      `json:"id"` // random letters and digits; of a permit its id
	Action    Action      `json:"action"`
	Role      topics.Role `json:"role,omitempty"`
	Name      string      `json:"name,omitempty"`
	Vehicle   string      `json:"vehicle,omitempty"`
	Replace   bool        `json:"replace,omitempty"`
	Hash      string      `json:"hash,omitempty"` // MakeCode: SHA-256 of the code, hex
	Key       string      `json:"key,omitempty"`  // Admit, Dismiss: fingerprint of the key
	ExpiresAt time.Time   `json:"expires_at,omitzero"`
	At        time.Time   `json:"at"`
	By        string      `json:"by"`
	Reason    string      `json:"reason,omitempty"`
}

// Bounds of an order.
const (
	MaxReason      = 500                 // bytes of a text
	MaxPermit      = 30 * 24 * time.Hour // that a permit holds
	DefaultPermit  = 24 * time.Hour
	shortestPermit = time.Second
)

// Roles are those that a certificate may have: who speaks for others on a test city's behalf, and the fleet itself, have none.
func Roles() []topics.Role {
	return []topics.Role{topics.RoleGateway, topics.RoleMachine, topics.RoleThirdParty, topics.RoleOperator}
}

// Given implements orders.Order.
func (o Order) Given() (string, time.Time) { return o.ID, o.At }

// Validate says which field of an order is wrong.
func (o Order) Validate() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("order about identities: "+format, args...)
	}
	switch {
	case o.ID == "" || len(o.ID) > 64:
		return bad("id of %d bytes, want 1 to 64", len(o.ID))
	case !slices.Contains([]Action{MakeCode, Admit, Dismiss, Revoke}, o.Action):
		return bad("action %.20q, want %s, %s, %s or %s", o.Action, MakeCode, Admit, Dismiss, Revoke)
	case o.At.IsZero():
		return bad("it says not when it was given")
	case o.By == "" || len(o.By) > MaxReason:
		return bad("who gave it is %d bytes, want 1 to %d", len(o.By), MaxReason)
	case len(o.Reason) > MaxReason || o.Action == Revoke && strings.TrimSpace(o.Reason) == "":
		return bad("reason of %d bytes, want 1 to %d", len(o.Reason), MaxReason)
	case (o.Action == MakeCode) != (o.Hash != "") || o.Hash != "" && !isSum(o.Hash):
		return bad("hash of %d characters, want 64 hexadecimal digits for a code and none for others", len(o.Hash))
	case (o.Action == Admit || o.Action == Dismiss) != (o.Key != "") || o.Key != "" && !isSum(o.Key):
		return bad("key of %d characters, want the fingerprint of a key that waits, 64 hexadecimal digits", len(o.Key))
	case o.Action == Dismiss:
		return nil
	}
	if !slices.Contains(Roles(), o.Role) {
		return bad("role %.40q, want one of %v", o.Role, Roles())
	}
	for _, id := range []struct{ field, value string }{{"name", o.Name}, {"vehicle", o.Vehicle}} {
		if err := checkName(id.value); err != nil && (id.field == "name" || id.value != "") {
			return bad("%s: %w", id.field, err)
		}
	}
	if o.Vehicle != "" && o.Role != topics.RoleMachine {
		return bad("vehicle %q of a %s: only a machine has one", o.Vehicle, o.Role)
	}
	if o.Action == Revoke {
		return nil
	}
	if d := o.ExpiresAt.Sub(o.At); d < shortestPermit || d > MaxPermit {
		return bad("it holds for %s, want %s to %s", d, shortestPermit, MaxPermit)
	}
	return nil
}

// checkName asks the topic tree what an identifier may be.
func checkName(name string) error {
	tree, err := topics.New("x")
	if err == nil {
		_, err = tree.CertificateURI(topics.Identity{Role: topics.RoleMachine, Name: name})
	}
	return err
}

func isSum(s string) bool {
	return len(s) == 2*sha256.Size && strings.Trim(s, "0123456789abcdef") == ""
}

// NewCode makes a one-time code of 26 characters, which hold 130 random bits, and its SHA-256 as hex.
func NewCode() (code, hash string) {
	code = rand.Text()
	sum := sha256.Sum256([]byte(code))
	return code, hex.EncodeToString(sum[:])
}

// follow does what is ordered. An order that is followed already changes nothing.
func follow(t Tx, o Order) error {
	switch o.Action {
	case MakeCode, Admit:
		return permit(t, o)
	case Dismiss:
		return dismiss(t, o)
	}
	return revoke(t, o)
}

// permit makes a permit. One of the same identity that was not used yet is withdrawn: there is one valid code at a time.
func permit(t Tx, o Order) error {
	list, err := t.Permits(topics.Identity{Role: o.Role, Name: o.Name})
	if err != nil {
		return err
	}
	for _, p := range list {
		if p.ID == o.ID {
			return nil
		}
	}
	if err := withdraw(t, list, o.At); err != nil {
		return err
	}
	p := Permit{ID: o.ID, Role: o.Role, Name: o.Name, Vehicle: o.Vehicle, Replace: o.Replace, MadeAt: o.At, By: o.By, ExpiresAt: o.ExpiresAt, Key: o.Key}
	if o.Action == MakeCode {
		sum, err := hex.DecodeString(o.Hash)
		if err != nil {
			return err
		}
		copy(p.Code[:], sum)
	} else if err := t.RemoveWaiting(o.Key); err != nil {
		return err
	}
	detail := "expires " + o.ExpiresAt.UTC().Format(time.RFC3339)
	if o.Replace {
		detail += ", replaces the unit of before"
	}
	if o.Key != "" {
		detail += ", key " + o.Key
	}
	return joined(t.PutPermit(p), t.Audit(o.entry(detail)))
}

func withdraw(t Tx, list []Permit, before time.Time) error {
	for _, p := range list {
		if p.Stands(p.MadeAt) && !p.MadeAt.After(before) {
			p.Withdrawn = true
			if err := t.PutPermit(p); err != nil {
				return err
			}
		}
	}
	return nil
}

func dismiss(t Tx, o Order) error {
	w, err := t.Waiting(o.Key)
	if err != nil || w == nil || !w.DismissedAt.IsZero() {
		return err
	}
	w.DismissedAt = o.At
	o.Role, o.Name = topics.Role(w.Role), w.Name
	return joined(t.PutWaiting(*w), t.Audit(o.entry("key "+o.Key)))
}

// revoke voids what was issued and permitted up to the order.
func revoke(t Tx, o Order) error {
	id := topics.Identity{Role: o.Role, Name: o.Name}
	permits, err := t.Permits(id)
	if err != nil {
		return err
	}
	given := map[string]bool{} // serials of what permits of before gave
	for i := range permits {   // used ones too: their answer must not be asked again
		p := permits[i]
		if p.MadeAt.After(o.At) {
			continue
		}
		given[p.Serial] = true
		if !p.Withdrawn {
			p.Withdrawn = true
			if err := t.PutPermit(p); err != nil {
				return err
			}
		}
	}
	list, err := t.Certificates(id)
	if err != nil {
		return err
	}
	n := 0
	for _, c := range revoked(list, given, o.At) {
		c.RevokedAt, c.RevokedBy, c.Why = o.At, o.By, o.Reason
		if err := t.PutCertificate(c); err != nil {
			return err
		}
		n++
	}
	r := Revocation{o.Role, o.Name, o.At.Truncate(time.Second)}
	if known, err := revokedBefore(t, id); err != nil || n == 0 && !known.Before(r.At) {
		return err // followed already
	}
	return joined(t.PutRevocation(r), t.Audit(o.entry(fmt.Sprintf("%d certificates", n))))
}

// revoked are the certificates of a list that an order given at a moment voids and that are not void yet: those issued before, those that a permit of
// before gave, and what was renewed from any of them, however late the order was taken. A unit whose permit was made after it is spared.
func revoked(list []Certificate, given map[string]bool, at time.Time) (out []Certificate) {
	gone := map[string]bool{}
	for more := true; more; {
		more = false
		for _, c := range list {
			if !gone[c.Serial] && (!c.IssuedAt.After(at) || given[c.Serial] || gone[c.Replaces]) {
				gone[c.Serial], more = true, true
				if c.RevokedAt.IsZero() {
					out = append(out, c)
				}
			}
		}
	}
	return out
}

// revokedBefore is the moment before which all certificates of an identity are void; zero for none.
func revokedBefore(v View, id topics.Identity) (time.Time, error) {
	list, err := v.Revocations()
	for _, r := range list {
		if r.Role == id.Role && r.Name == id.Name {
			return r.At, err
		}
	}
	return time.Time{}, err
}

// entry is what the audit log keeps of an order.
func (o Order) entry(detail string) audit.Entry {
	action := map[Action]string{MakeCode: "enrol_code", Admit: "enrol_admit", Dismiss: "enrol_dismiss", Revoke: "enrol_revoke"}[o.Action]
	if o.Reason != "" {
		detail = o.Reason + "; " + detail
	}
	return audit.Entry{
		At: o.At, By: o.By, Role: string(topics.RoleAdmin), Via: "command line", Action: action,
		Subject: string(o.Role) + " " + o.Name, Detail: detail, Outcome: audit.Done,
	}
}

// joined is the first error.
func joined(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
