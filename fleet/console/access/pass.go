package access

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strings"
	"time"
)

// Kind tells sessions from tokens.
type Kind string

// The kinds of passes.
const (
	Session Kind = "session" // of a browser
	Token   Kind = "token"   // of a program
)

// Pass is what lets somebody in at each request: a session or a token. Its secret is kept by its holder alone.
type Pass struct {
	ID        string    `json:"id"` // public
	Kind      Kind      `json:"kind"`
	Hash      Digest    `json:"-"`               // of the secret
	Name      string    `json:"name"`            // who signed in, or made the token
	Role      Role      `json:"role"`            // at the sign-in; of a token the most that it may
	Via       string    `json:"via"`             // how its holder, or its maker, had signed in: ViaPassword or ViaOIDC
	Label     string    `json:"label,omitempty"` // of a token: what it is for
	Remote    string    `json:"remote"`          // the address that it was given to
	MadeAt    time.Time `json:"made_at"`         // this and the others UTC, to the millisecond
	ExpiresAt time.Time `json:"expires_at"`
	UsedAt    time.Time `json:"used_at"` // last, to a minute; MadeAt for never
}

// Digest is the SHA-256 of a secret of 256 random bits, which nobody finds by trying.
type Digest [sha256.Size]byte

// ErrNoPass says that there is no such session or token.
var ErrNoPass = errors.New("no such session or token")

// PassQuery narrows Passes.List and Passes.Remove down; its zero value asks for all.
type PassQuery struct {
	ID, Name string
	Kind     Kind
}

// Passes keeps sessions and tokens. It is safe for concurrent use. A write that returned nil is on disk.
type Passes interface {
	// Add keeps a new pass. One with an id or a secret that is there already is an error.
	Add(ctx context.Context, p Pass) error
	// Find gives the pass with this secret, else ErrNoPass.
	Find(ctx context.Context, secret Digest) (Pass, error)
	// Get gives the pass with this id, else ErrNoPass.
	Get(ctx context.Context, id string) (Pass, error)
	// List gives passes, those made last first.
	List(ctx context.Context, q PassQuery) ([]Pass, error)
	// Touch says when a pass was used last. It may be gone, and never becomes less used than it was.
	Touch(ctx context.Context, id string, at time.Time) error
	// Remove takes passes out and tells how many there were.
	Remove(ctx context.Context, q PassQuery) (int, error)
	// RemoveExpired takes out what expires at now or earlier, and sessions that were used last at idle or earlier.
	RemoveExpired(ctx context.Context, now, idle time.Time) (int, error)
}

// tokenPrefix begins every API token, so that scanners of source code know one when they see it.
const tokenPrefix = "fbt_"

// newSecret makes a secret of 256 random bits.
func newSecret(prefix string) string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails
	return prefix + base64.RawURLEncoding.EncodeToString(b)
}

// newID makes the public id of a pass.
func newID() string { return strings.ToLower(rand.Text()[:16]) }

// digest is what is kept of a secret; false for what was never one of ours.
func digest(secret, prefix string) (Digest, bool) {
	random, ok := strings.CutPrefix(secret, prefix)
	if !ok || len(random) != base64.RawURLEncoding.EncodedLen(32) {
		return Digest{}, false
	}
	if _, err := base64.RawURLEncoding.DecodeString(random); err != nil {
		return Digest{}, false
	}
	return sha256.Sum256([]byte(secret)), true
}
