package enrol

import (
	"context"
	"crypto/sha256"
	"time"

	"github.com/farebeat/farebeat/fleet/console/audit"
	"github.com/farebeat/farebeat/topics"
)

// Certificate is one that the authority signed for an identity, and what became of it.
type Certificate struct {
	Serial    string      `json:"serial"` // hex
	Role      topics.Role `json:"role"`
	Name      string      `json:"name"`
	Key       string      `json:"key"` // fingerprint of the device's public key, see Key
	IssuedAt  time.Time   `json:"issued_at"`
	NotAfter  time.Time   `json:"not_after"`
	By        string      `json:"by"`                    // who permitted it; of a renewal who permitted the first
	How       string      `json:"how"`                   // ByCode, ByAdmission or ByRenewal
	Replaces  string      `json:"replaces,omitempty"`    // serial of the one that a renewal came from
	Vehicle   string      `json:"vehicle,omitempty"`     // that carries a machine, where it was told
	Epoch     uint32      `json:"first_epoch,omitempty"` // that a machine was given for a new journal; 0 for others and renewals
	RevokedAt time.Time   `json:"revoked_at,omitzero"`   // zero: it is good until NotAfter
	RevokedBy string      `json:"revoked_by,omitempty"`
	Why       string      `json:"why,omitempty"` // it was revoked
	DER       []byte      `json:"-"`
}

// How a certificate came about.
const (
	ByCode      = "code"
	ByAdmission = "admission"
	ByRenewal   = "renewal"
)

// Good reports whether the certificate is neither revoked nor over.
func (c Certificate) Good(now time.Time) bool { return c.RevokedAt.IsZero() && now.Before(c.NotAfter) }

func (c Certificate) identity() topics.Identity { return topics.Identity{Role: c.Role, Name: c.Name} }

// Permit is the right to one certificate: for whoever knows a code, or for the owner of one key, whom an administrator admitted.
type Permit struct {
	ID        string            `json:"id"`
	Code      [sha256.Size]byte `json:"-"` // SHA-256 of the code; zero: for the owner of Key
	Role      topics.Role       `json:"role"`
	Name      string            `json:"name"`
	Vehicle   string            `json:"vehicle,omitempty"`
	Replace   bool              `json:"replace,omitempty"` // who uses it takes the place of a broken unit, whose certificates are revoked
	MadeAt    time.Time         `json:"made_at"`
	By        string            `json:"by"`
	ExpiresAt time.Time         `json:"expires_at"`
	Key       string            `json:"key,omitempty"` // fingerprint of the only key that may use it; of a code the one that did
	UsedAt    time.Time         `json:"used_at,omitzero"`
	Serial    string            `json:"serial,omitempty"` // of the certificate that it gave
	Withdrawn bool              `json:"withdrawn,omitempty"`
}

// HasCode reports whether the permit is a code, not an admission.
func (p Permit) HasCode() bool { return p.Code != [sha256.Size]byte{} }

// Stands reports whether the permit may still be used.
func (p Permit) Stands(now time.Time) bool {
	return !p.Withdrawn && p.UsedAt.IsZero() && now.Before(p.ExpiresAt)
}

func (p Permit) identity() topics.Identity { return topics.Identity{Role: p.Role, Name: p.Name} }

// Waiting is a device that asked without a permit.
type Waiting struct {
	Key         string    `json:"key"`    // fingerprint of its public key
	Role        string    `json:"role"`   // who it says that it is; nobody checked that
	Name        string    `json:"name"`   // likewise
	Remote      string    `json:"remote"` // host it asked from last
	FirstAt     time.Time `json:"first_at"`
	LastAt      time.Time `json:"last_at"`
	Times       int       `json:"times"`                 // it asked
	DismissedAt time.Time `json:"dismissed_at,omitzero"` // zero: nobody decided
}

// Revocation says that every certificate of an identity that was issued before At is void, also one that the register does not know.
type Revocation struct {
	Role topics.Role
	Name string
	At   time.Time // whole seconds, as certificates have them
}

// Store keeps the register. It is safe for concurrent use. While a Registry works with it nobody else writes it.
type Store interface {
	// Update runs fn in one write transaction, alone among writers, and returns nil once all that fn wrote is on disk; after an
	// error nothing of it is there. fn may run more than once, each time from the same state. It must not wait.
	Update(ctx context.Context, fn func(Tx) error) error
	// View runs fn over one consistent snapshot.
	View(ctx context.Context, fn func(View) error) error
}

// View reads the register as of one moment. What is not there comes as nil.
type View interface {
	// Permit finds a code by its hash; PermitOfKey the latest admission of a key.
	Permit(code [sha256.Size]byte) (*Permit, error)
	PermitOfKey(key string) (*Permit, error)
	// Permits lists those of one identity, or with Role "" all, the latest made first.
	Permits(of topics.Identity) ([]Permit, error)
	Certificate(serial string) (*Certificate, error)
	// Certificates lists those of one identity, or with Role "" all, by identity and the latest issued first. DER is nil.
	Certificates(of topics.Identity) ([]Certificate, error)
	// Revoked calls each for every certificate that is revoked and would be good after now. DER is nil.
	Revoked(now time.Time, each func(Certificate)) error
	// Latest calls each for the certificate of every identity that ends last of those not revoked. DER is nil.
	Latest(each func(Certificate)) error
	Revocations() ([]Revocation, error)
	Waiting(key string) (*Waiting, error)
	// AllWaiting lists devices that wait or were dismissed, the latest seen first.
	AllWaiting() ([]Waiting, error)
}

// Tx writes. Each Put keeps its value in the place of the one with the same id, serial, identity or key.
type Tx interface {
	View
	PutPermit(Permit) error
	PutCertificate(Certificate) error
	PutRevocation(Revocation) error
	PutWaiting(Waiting) error
	RemoveWaiting(key string) error
	// Audit keeps an entry of the audit log.
	Audit(audit.Entry) error
}
