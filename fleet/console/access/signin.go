package access

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/farebeat/farebeat/fleet/console/audit"
	"github.com/farebeat/farebeat/fleet/limit"
)

// ErrNoRole says that somebody was recognised who has no role at the console.
var ErrNoRole = errors.New("signed in, but without a role at this console")

const (
	maxPassword = 1024 // bytes
	maxSessions = 20   // of one name; with one more the oldest ends
)

// SignIn gives who knows the password a session. secret is for Gate.SetCookie and nowhere else. remote is the client's address, with or
// without its port. The error is ErrBadPassword, ErrTooMany (as TooMany), ErrBusy, ErrNoRole, or what kept users file or store
// from answering. Both outcomes are in the audit; of a flood of refusals their number.
func (g *Gate) SignIn(ctx context.Context, name, password, remote string) (secret string, id Identity, err error) {
	remote = limit.Address(remote)
	role, err := g.password(ctx, name, password, remote)
	if err != nil {
		g.refuseSignIn(ctx, g.attempted(name), remote, ViaPassword, err)
		return "", Identity{}, err
	}
	g.tries.remember(name, remote)
	return g.newSession(ctx, name, role, ViaPassword, remote)
}

// password says which role the password is good for.
func (g *Gate) password(ctx context.Context, name, password, remote string) (role Role, err error) {
	if g.o.Users == nil {
		return "", fmt.Errorf("%w: nobody signs in with a password here", ErrBadPassword)
	}
	// A name that no user can have must not take memory.
	if err := g.tries.allow(name[:min(len(name), audit.MaxName)], remote, g.now()); err != nil {
		return "", err
	}
	if name == "" || name != audit.Text(name, audit.MaxName) || password == "" || len(password) > maxPassword {
		return "", ErrBadPassword
	}
	err = g.tries.check(ctx, func() (err error) {
		role, err = g.o.Users.Check(name, []byte(password))
		return err
	})
	if err == nil && !role.Covers(Viewer) {
		err = ErrNoRole
	}
	return role, err
}

// attempted is a name as the audit has it. Of one that no user has nothing is kept: it may be a password that was typed too early.
func (g *Gate) attempted(name string) string {
	if g.o.Users != nil {
		if _, found := g.o.Users.Role(name); found {
			return name
		}
	}
	return ""
}

// refuseSignIn keeps a refusal, or only its number where there are too many. That it could not be kept changes nothing for who is refused.
func (g *Gate) refuseSignIn(ctx context.Context, name, remote, via string, why error) {
	ok, unsaid := g.tries.list(g.now())
	if !ok {
		return
	}
	e := audit.Entry{By: name, Via: via, Action: "sign_in", Subject: "console", Detail: why.Error(), Outcome: audit.Refused, Remote: remote}
	if name == "" && via == ViaPassword {
		e.Detail += " (no such user)"
	}
	if unsaid > 0 {
		e.Detail += fmt.Sprintf("; %d refusals before it are not listed", unsaid)
	}
	for _, refusal := range []error{ErrBadPassword, ErrTooMany, ErrNoRole, ErrRefused} {
		if errors.Is(why, refusal) {
			g.logFailure(ctx, g.note(ctx, e))
			return
		}
	}
	e.Outcome = audit.Failed
	g.logFailure(ctx, g.note(ctx, e))
}

func (g *Gate) logFailure(ctx context.Context, err error) {
	if err != nil {
		g.o.Logger.ErrorContext(ctx, "an audit entry could not be kept", "error", err)
	}
}

// newSession lets somebody in. Nobody is in of whom the audit does not tell.
func (g *Gate) newSession(ctx context.Context, name string, role Role, via, remote string) (string, Identity, error) {
	now, length, secret := g.now(), g.o.SessionLength, newSecret("")
	if via == ViaOIDC {
		length = min(length, MaxOIDCSession)
	}
	hash, _ := digest(secret, "")
	p := Pass{
		ID: newID(), Kind: Session, Hash: hash, Name: name, Role: role, Via: via, Remote: audit.Text(remote, audit.MaxName),
		MadeAt: now, ExpiresAt: now.Add(length).Truncate(time.Millisecond), UsedAt: now,
	}
	entry := audit.Entry{Action: "sign_in", Subject: "console", Detail: "session " + p.ID, Outcome: audit.Done}
	id := Identity{Name: name, Role: role, Via: via, Pass: p.ID}
	if err := g.addPass(ctx, id, remote, p, entry); err != nil {
		return "", Identity{}, fmt.Errorf("sign in: %w", err)
	}
	if err := g.endOldest(ctx, name); err != nil { // they are many for a while
		g.o.Logger.WarnContext(ctx, "the oldest sessions of a user could not be ended", "user", name, "error", err)
	}
	return secret, id, nil
}

// addPass keeps a pass and the entry about it, or none of both.
func (g *Gate) addPass(ctx context.Context, by Identity, remote string, p Pass, e audit.Entry) error {
	if err := g.o.Passes.Add(ctx, p); err != nil {
		return err
	}
	if err := g.noteOf(ctx, by, remote, e); err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), auditTime)
		defer cancel()
		_, undo := g.o.Passes.Remove(ctx, PassQuery{ID: p.ID}) // else it stays until it expires; nobody has its secret
		return errors.Join(err, undo)
	}
	return nil
}

func (g *Gate) endOldest(ctx context.Context, name string) error {
	list, err := g.o.Passes.List(ctx, PassQuery{Name: name, Kind: Session})
	for i := maxSessions; err == nil && i < len(list); i++ {
		g.end(ctx, list[i], "its user has too many")
	}
	return err
}
