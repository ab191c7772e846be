package access

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/farebeat/farebeat/fleet/console/audit"
	"github.com/farebeat/farebeat/fleet/limit"
)

// SignOut ends the session that somebody is in with. Who came in without one stays in.
func (g *Gate) SignOut(ctx context.Context, by Identity, remote string) error {
	if by.Via != ViaPassword && by.Via != ViaOIDC {
		return fmt.Errorf("sign out: %w: who came in by %q has no session", ErrInvalid, by.Via)
	}
	n, err := g.o.Passes.Remove(ctx, PassQuery{ID: by.Pass, Kind: Session})
	if err == nil && n > 0 {
		err = g.noteOf(ctx, by, remote, audit.Entry{Action: "sign_out", Subject: "console", Detail: "session " + by.Pass, Outcome: audit.Done})
	}
	return wrapf(err, "sign out")
}

// own says whether somebody may do something with what is name's: ErrForbidden, of which the audit tells, where not.
func (g *Gate) own(ctx context.Context, by Identity, remote, name string, e audit.Entry) error {
	if by.Role.Covers(Admin) || by.Name == name && by.Via != ViaOpen {
		return nil
	}
	e.Outcome, e.Detail = audit.Refused, "it is another user's"
	g.logFailure(ctx, g.noteOf(ctx, by, remote, e))
	return fmt.Errorf("%w: it is another user's", ErrForbidden)
}

// Sessions lists the sessions of a user, those made last first; of an admin everybody's. Those that let nobody in any more may be among them
// for a while.
func (g *Gate) Sessions(ctx context.Context, by Identity) ([]Pass, error) {
	return g.list(ctx, by, Session)
}

// Tokens is Sessions for API tokens.
func (g *Gate) Tokens(ctx context.Context, by Identity) ([]Pass, error) {
	return g.list(ctx, by, Token)
}

func (g *Gate) list(ctx context.Context, by Identity, kind Kind) ([]Pass, error) {
	q := PassQuery{Kind: kind}
	if !by.Role.Covers(Admin) {
		if by.Via == ViaOpen || by.Name == "" {
			return nil, nil
		}
		q.Name = by.Name
	}
	return g.o.Passes.List(ctx, q)
}

// Revoke ends a session or token by its id: one's own, or as an admin anybody's. The error is ErrNoPass, also for that of
// somebody else, or the store's.
func (g *Gate) Revoke(ctx context.Context, by Identity, remote, id string) error {
	p, err := g.o.Passes.Get(ctx, id)
	if err != nil {
		return wrapf(err, "revoke %.40q", id)
	}
	entry := audit.Entry{Action: "token_revoke", Subject: "token " + id, Detail: fmt.Sprintf("of %s: %s", p.Name, p.Label), Outcome: audit.Done}
	if p.Kind == Session {
		entry = audit.Entry{Action: "session_end", Subject: "session " + id, Detail: "of " + p.Name, Outcome: audit.Done}
	}
	if err := g.own(ctx, by, remote, p.Name, entry); err != nil {
		return fmt.Errorf("revoke %.40q: %w", id, ErrNoPass)
	}
	n, err := g.o.Passes.Remove(ctx, PassQuery{ID: id})
	if err == nil && n == 0 {
		err = ErrNoPass // somebody else was faster
	}
	if err == nil {
		err = g.noteOf(ctx, by, remote, entry)
	}
	return wrapf(err, "revoke %.40q", id)
}

// TokenRequest is what an API token is to be.
type TokenRequest struct {
	Label     string    `json:"label"`      // what it is for: 1 to 64 bytes on one line
	Role      Role      `json:"role"`       // not above its maker's
	ExpiresAt time.Time `json:"expires_at"` // at most a year ahead
}

const (
	maxLabel  = 64
	maxTokens = 100 // of one maker
)

// NewToken makes an API token. The secret is told once and is nowhere kept. It may at most what its maker may at the time of each
// use, and is void while its maker is gone from the users file. Whoever signed in with a provider gets none that outlives their
// session, since only the provider knows whether they are still there. The error is ErrInvalid, ErrForbidden, or the store's.
func (g *Gate) NewToken(ctx context.Context, by Identity, remote string, want TokenRequest) (secret string, p Pass, err error) {
	want.ExpiresAt = want.ExpiresAt.UTC().Truncate(time.Millisecond)
	entry := audit.Entry{
		Action: "token_new", Subject: fmt.Sprintf("token %q", want.Label), Outcome: audit.Done,
		Detail: fmt.Sprintf("role %s, until %s", want.Role, want.ExpiresAt.Format(time.RFC3339)),
	}
	if err := g.mayHaveToken(ctx, by, want); err != nil {
		entry.Outcome, entry.Detail = audit.Refused, err.Error()
		g.logFailure(ctx, g.noteOf(ctx, by, remote, entry))
		return "", Pass{}, fmt.Errorf("make a token: %w", err)
	}
	now := g.now()
	secret = newSecret(tokenPrefix)
	hash, _ := digest(secret, tokenPrefix)
	p = Pass{
		ID: newID(), Kind: Token, Hash: hash, Name: by.Name, Role: want.Role, Via: by.Via, Label: want.Label,
		Remote: audit.Text(limit.Address(remote), audit.MaxName), MadeAt: now, ExpiresAt: want.ExpiresAt, UsedAt: now,
	}
	entry.Subject = "token " + p.ID
	entry.Detail = fmt.Sprintf("%q, %s", want.Label, entry.Detail)
	if err := g.addPass(ctx, by, remote, p, entry); err != nil {
		return "", Pass{}, fmt.Errorf("make a token: %w", err)
	}
	return secret, p, nil
}

func (g *Gate) mayHaveToken(ctx context.Context, by Identity, want TokenRequest) error {
	now := g.now()
	switch {
	case by.Via != ViaPassword && by.Via != ViaOIDC:
		return fmt.Errorf("%w: people who signed in make tokens, not who came in by %q", ErrForbidden, by.Via)
	case want.Label == "" || want.Label != audit.Text(want.Label, maxLabel):
		return fmt.Errorf("%w: label %.80q, want 1 to %d bytes on one line", ErrInvalid, want.Label, maxLabel)
	case !want.Role.Covers(Viewer):
		return fmt.Errorf("%w: role %.20q, want one of %v", ErrInvalid, want.Role, Roles())
	case !by.Role.Covers(want.Role):
		return fmt.Errorf("%w: a token of the role %s, being %s", ErrForbidden, want.Role, by.Role)
	case !want.ExpiresAt.After(now) || want.ExpiresAt.After(now.AddDate(1, 0, 0)):
		return fmt.Errorf("%w: it would expire at %s, want a time within the next year", ErrInvalid, want.ExpiresAt.Format(time.RFC3339))
	}
	if by.Via == ViaOIDC {
		p, err := g.o.Passes.Get(ctx, by.Pass)
		if err != nil {
			return err
		}
		if want.ExpiresAt.After(p.ExpiresAt) {
			return fmt.Errorf("%w: it would outlive your session, which ends at %s; users of the users file make longer ones",
				ErrForbidden, p.ExpiresAt.Format(time.RFC3339))
		}
	}
	list, err := g.o.Passes.List(ctx, PassQuery{Name: by.Name, Kind: Token})
	if err == nil && len(list) >= maxTokens {
		err = fmt.Errorf("%w: you have %d tokens; revoke some", ErrForbidden, len(list))
	}
	return err
}

// Prune takes out what has expired, tells the audit of refusals that were only counted, and says how many sessions and tokens went.
func (g *Gate) Prune(ctx context.Context) (int, error) {
	now := g.now()
	n, err := g.o.Passes.RemoveExpired(ctx, now, now.Add(-g.o.IdleLength))
	if refused := g.tries.leftOut(); refused > 0 {
		err = errors.Join(err, g.note(ctx, audit.Entry{
			Action: "sign_in", Subject: "console", Detail: fmt.Sprintf("%d refusals that are not listed", refused), Outcome: audit.Refused,
		}))
	}
	return n, wrapf(err, "prune sessions")
}

// pruneEvery is how often Run prunes.
const pruneEvery = 10 * time.Minute

// Run prunes until ctx ends, and returns nil then.
func (g *Gate) Run(ctx context.Context) error {
	tick := time.NewTicker(pruneEvery)
	defer tick.Stop()
	for {
		if _, err := g.Prune(ctx); err != nil && ctx.Err() == nil {
			g.o.Logger.WarnContext(ctx, "expired sessions stay for now", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func wrapf(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), err)
}
