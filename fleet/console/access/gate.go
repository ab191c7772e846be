package access

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/farebeat/farebeat/fleet/console/audit"
	"github.com/farebeat/farebeat/fleet/limit"
)

// Errors to branch on.
var (
	ErrSignedOut   = errors.New("not signed in")
	ErrBadToken    = errors.New("the API token is wrong, expired or revoked; make a new one at the console")
	ErrForeignHost = errors.New("the console is open at a loopback address only; call it by that address or as localhost")
	ErrForbidden   = errors.New("your role may not do that")
	ErrInvalid     = errors.New("not valid")
)

// Options of New.
type Options struct {
	Passes Passes    // needed
	Audit  audit.Log // needed
	Users  Users     // nil: nobody signs in with a password
	OIDC   *OIDC     // nil: nobody signs in with a provider
	// Open is who everybody is who has neither session nor token; nil: nobody. It is for a loopback address only: its user is
	// whoever can reach that address, and Identify refuses requests that name another host.
	Open *Identity
	// Secure says that browsers reach the console over TLS though requests come without it, since a proxy ends it.
	Secure        bool
	SessionLength time.Duration // at most, whatever is done in it; 0: 12 hours. Of OIDC never more than 12 hours
	IdleLength    time.Duration // without a request; 0: 4 hours
	Now           func() time.Time
	Logger        *slog.Logger
}

// MaxOIDCSession bounds sessions of an OpenID Connect provider, which alone knows whether their people are still there.
const MaxOIDCSession = 12 * time.Hour

func (o Options) withDefaults() (Options, error) {
	if o.Passes == nil || o.Audit == nil {
		return o, errors.New("console access: it needs a store of passes and an audit")
	}
	if o.Users == nil && o.OIDC == nil && o.Open == nil {
		return o, errors.New("console access: nobody could come in: give a users file, an OpenID Connect provider, or serve a loopback address openly")
	}
	if o.Open != nil && !o.Open.Role.Covers(Viewer) {
		return o, fmt.Errorf("console access: who comes in openly has the role %q, want one of %v", o.Open.Role, Roles())
	}
	if o.SessionLength < 0 || o.IdleLength < 0 {
		return o, fmt.Errorf("console access: sessions of %v, idle for %v: want no negative time", o.SessionLength, o.IdleLength)
	}
	if o.SessionLength == 0 {
		o.SessionLength = 12 * time.Hour
	}
	if o.IdleLength == 0 {
		o.IdleLength = 4 * time.Hour
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o, nil
}

// Gate lets people and programs in. It is safe for concurrent use.
type Gate struct {
	o       Options
	tries   tries
	oidc    *provider // nil for none
	touched atomic.Int64
}

// New makes a gate. It asks no provider for anything. An unreadable secret of OIDC is an error.
func New(o Options) (*Gate, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	g := &Gate{o: o, tries: newTries(max(1, runtime.GOMAXPROCS(0)/2))}
	if o.OIDC != nil {
		if g.oidc, err = newProvider(*o.OIDC, o.Now); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// now is to the millisecond, as the store keeps it.
func (g *Gate) now() time.Time { return g.o.Now().UTC().Truncate(time.Millisecond) }

// Identify says who makes a request: the holder of the token in its Authorization header, else of the session in its cookie, else
// Options.Open. The error is ErrBadToken, ErrSignedOut or ErrForeignHost, or what kept the store from answering. Authorization
// headers that are no Bearer are for proxies in front, and looked over.
func (g *Gate) Identify(r *http.Request) (Identity, error) {
	if secret, given := bearer(r.Header); given {
		return g.byToken(r.Context(), secret)
	}
	id, err := g.bySession(r.Context(), sessionSecret(r, g.secure(r)))
	if g.o.Open == nil || !errors.Is(err, ErrSignedOut) {
		return id, err
	}
	if !LoopbackHost(r.Host) {
		return Identity{}, ErrForeignHost
	}
	return g.open(), nil
}

func (g *Gate) open() Identity {
	return Identity{Name: g.o.Open.Name, Role: g.o.Open.Role, Via: ViaOpen}
}

// Check asks anew about somebody whom Identify let in: for answers that go on, such as a stream of events. The role is that of
// now; the error is ErrSignedOut or ErrBadToken where the session or token holds no longer, or what kept the store from answering.
func (g *Gate) Check(ctx context.Context, id Identity) (Identity, error) {
	if id.Via == ViaOpen && g.o.Open != nil {
		return g.open(), nil
	}
	p, err := g.o.Passes.Get(ctx, id.Pass)
	switch {
	case errors.Is(err, ErrNoPass) && id.Via == ViaToken:
		return Identity{}, ErrBadToken
	case errors.Is(err, ErrNoPass):
		return Identity{}, ErrSignedOut
	case err != nil:
		return Identity{}, err
	}
	return g.admit(ctx, p)
}

func (g *Gate) byToken(ctx context.Context, secret string) (Identity, error) {
	hash, ok := digest(secret, tokenPrefix)
	if !ok {
		return Identity{}, ErrBadToken
	}
	p, err := g.o.Passes.Find(ctx, hash)
	if errors.Is(err, ErrNoPass) || err == nil && p.Kind != Token {
		return Identity{}, ErrBadToken
	}
	if err != nil {
		return Identity{}, err
	}
	return g.admit(ctx, p)
}

func (g *Gate) bySession(ctx context.Context, secret string) (Identity, error) {
	hash, ok := digest(secret, "")
	if !ok {
		return Identity{}, ErrSignedOut
	}
	p, err := g.o.Passes.Find(ctx, hash)
	if errors.Is(err, ErrNoPass) || err == nil && p.Kind != Session {
		return Identity{}, ErrSignedOut
	}
	if err != nil {
		return Identity{}, err
	}
	return g.admit(ctx, p)
}

// admit says who the holder of a pass is now.
func (g *Gate) admit(ctx context.Context, p Pass) (Identity, error) {
	now := g.now()
	role, why := g.standing(p, now)
	if why != "" {
		if p.Kind == Token {
			return Identity{}, fmt.Errorf("%w: %s", ErrBadToken, why)
		}
		g.end(ctx, p, why)
		return Identity{}, fmt.Errorf("%w: %s", ErrSignedOut, why)
	}
	g.touch(ctx, p, now)
	via := p.Via
	if p.Kind == Token {
		via = ViaToken
	}
	return Identity{Name: p.Name, Role: role, Via: via, Pass: p.ID}, nil
}

// standing is what the holder of a pass may do at now, or why it lets nobody in. A token of somebody who is gone from the users file
// is void for as long as they are.
func (g *Gate) standing(p Pass, now time.Time) (Role, string) {
	if !p.ExpiresAt.After(now) {
		return "", "it has expired"
	}
	if p.Kind == Session && !p.UsedAt.Add(g.o.IdleLength).After(now) {
		return "", "it was not used for too long"
	}
	if p.Via != ViaPassword {
		if g.oidc == nil {
			return "", "nobody signs in with a provider any more"
		}
		return p.Role, ""
	}
	if g.o.Users == nil {
		return "", "nobody signs in with a password any more"
	}
	role, found := g.o.Users.Role(p.Name)
	switch {
	case !found || !role.Covers(Viewer):
		return "", "its user is gone"
	case p.Kind == Token:
		return lower(role, p.Role), ""
	case !role.Covers(p.Role):
		return "", "its user has a lower role since"
	}
	return role, ""
}

// end takes out a session that holds no longer. That it is there still lets nobody in, so that a store that fails is told to the log only.
func (g *Gate) end(ctx context.Context, p Pass, why string) {
	n, err := g.o.Passes.Remove(ctx, PassQuery{ID: p.ID})
	if err == nil && n > 0 {
		err = g.note(ctx, audit.Entry{
			By: p.Name, Role: string(p.Role), Via: p.Via, Action: "session_end", Subject: "session " + p.ID, Detail: why, Outcome: audit.Done,
		})
	}
	if err != nil {
		g.o.Logger.WarnContext(ctx, "a session that ended could not be taken out", "session", p.ID, "error", err)
	}
}

// touchEvery is how exactly it is known when a pass was used last.
const touchEvery = time.Minute

// touch notes that a pass is used. Looking goes on while the disk fails: then it is tried once a minute, and the log says so.
func (g *Gate) touch(ctx context.Context, p Pass, now time.Time) {
	if now.Sub(p.UsedAt) < touchEvery {
		return
	}
	if failed := g.touched.Load(); failed != 0 && now.UnixMilli()-failed < touchEvery.Milliseconds() && now.UnixMilli() >= failed {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := g.o.Passes.Touch(ctx, p.ID, now); err != nil {
		g.touched.Store(now.UnixMilli())
		g.o.Logger.WarnContext(ctx, "it could not be kept that a session or token is used", "pass", p.ID, "error", err)
	}
}

// auditTime bounds the wait for a disk that does not answer.
const auditTime = 10 * time.Second

// note keeps an audit entry as of now, also where who asked has hung up.
func (g *Gate) note(ctx context.Context, e audit.Entry) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), auditTime)
	defer cancel()
	e.At = g.now()
	return g.o.Audit.Append(ctx, e)
}

// noteOf is note of what somebody who is in did.
func (g *Gate) noteOf(ctx context.Context, by Identity, remote string, e audit.Entry) error {
	e.By, e.Role, e.Via, e.Remote = by.Name, string(by.Role), by.Via, limit.Address(remote)
	return g.note(ctx, e)
}
