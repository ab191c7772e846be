package access

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/farebeat/farebeat/fleet/console/audit"
	"github.com/farebeat/farebeat/fleet/keys"
	"github.com/farebeat/farebeat/fleet/limit"
	"github.com/farebeat/farebeat/fleet/mask"
)

// OIDC is an OpenID Connect provider that people sign in with: the authorization code flow with PKCE.
type OIDC struct {
	Issuer      string       // as its discovery document names it; https, or http on a loopback address
	ClientID    string       // that it knows this console by
	SecretFile  string       // one line, readable by its owner only; empty for a client without a secret
	RedirectURL string       // where it sends browsers back to: the page that calls FinishOIDC, as browsers reach it
	Scopes      []string     // beyond openid, profile and email, such as groups
	Claim       string       // whose values make the role, such as groups; dots lead into objects
	Viewers     []string     // values of the claim that make a viewer
	Operators   []string     // likewise
	Admins      []string     // likewise; the highest role wins
	Client      *http.Client // nil: one that waits ten seconds
}

// Errors of a sign-in with a provider.
var (
	ErrProviderAway = errors.New("the sign-in provider does not answer; try again, or sign in with a password")
	ErrRefused      = errors.New("the sign-in with the provider did not end well; begin again")
)

func (o OIDC) check() error {
	for _, f := range []struct{ name, value string }{{"issuer", o.Issuer}, {"redirect URL", o.RedirectURL}} {
		u, err := url.Parse(f.value)
		if err != nil || u.Host == "" || u.Scheme != "https" && (u.Scheme != "http" || !LoopbackHost(u.Host)) {
			return fmt.Errorf("%s %q: want https://..., or http:// with a loopback address", f.name, f.value)
		}
	}
	if o.ClientID == "" || o.Claim == "" {
		return errors.New("a client id and the name of a claim are needed")
	}
	if len(o.Viewers)+len(o.Operators)+len(o.Admins) == 0 {
		return fmt.Errorf("no value of the claim %q is listed for a role: nobody could come in", o.Claim)
	}
	return nil
}

// provider speaks to the provider. What it says of itself is asked for at the first sign-in and, until it answers, at each.
type provider struct {
	o      OIDC
	secret string
	client *http.Client
	now    func() time.Time
	asking chan struct{} // who asks at once

	mu    sync.Mutex
	known *oidc.Provider // nil until it answered
}

const (
	providerTime   = 10 * time.Second
	maxAnswer      = 1 << 20 // bytes of a provider's answer
	maxSecretFile  = 4096
	maxAskingAway  = 4
	flowLength     = 10 * time.Minute // from the start of a sign-in to its end
	maxFlowCookie  = 4096
	maxProviderSay = 300
)

func newProvider(o OIDC, now func() time.Time) (*provider, error) {
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("OpenID Connect: %w", err)
	}
	p := &provider{o: o, now: now, client: &http.Client{Timeout: providerTime}, asking: make(chan struct{}, maxAskingAway)}
	if o.Client != nil {
		*p.client = *o.Client
	}
	p.client.Transport = mask.Transport{Next: bounded{p.client.Transport}}
	if o.SecretFile != "" {
		var err error
		if p.secret, err = ReadClientSecret(o.SecretFile); err != nil {
			return nil, fmt.Errorf("OpenID Connect: client secret: %w", err)
		}
	}
	return p, nil
}

// ReadClientSecret reads the secret of an OIDC.SecretFile. The error names the file.
func ReadClientSecret(path string) (string, error) {
	text, err := keys.ReadSecret(path, maxSecretFile)
	if err != nil {
		return "", err
	}
	secret := strings.TrimSpace(string(text))
	if secret == "" || strings.ContainsAny(secret, "\r\n") {
		return "", fmt.Errorf("%s: want one line with the client secret", path)
	}
	return secret, nil
}

// bounded cuts answers that are longer than any is.
type bounded struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	next := b.next
	if next == nil {
		next = http.DefaultTransport
	}
	res, err := next.RoundTrip(r)
	if err == nil {
		res.Body = http.MaxBytesReader(nil, res.Body, maxAnswer)
	}
	return res, err
}

// ask gives what the provider says of itself: ErrProviderAway while it does not.
func (p *provider) ask(ctx context.Context) (*oidc.Provider, error) {
	p.mu.Lock()
	known := p.known
	p.mu.Unlock()
	if known != nil {
		return known, nil
	}
	select {
	case p.asking <- struct{}{}:
	default:
		return nil, fmt.Errorf("%w: others wait for it", ErrProviderAway)
	}
	defer func() { <-p.asking }()
	known, err := oidc.NewProvider(oidc.ClientContext(ctx, p.client), p.o.Issuer)
	if err != nil {
		return nil, away(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.known = known
	return known, nil
}

func away(err error) error {
	return fmt.Errorf("%w (%s)", ErrProviderAway, audit.Text(err.Error(), maxProviderSay))
}

func refused(format string, args ...any) error {
	return fmt.Errorf("%w (%s)", ErrRefused, audit.Text(fmt.Sprintf(format, args...), maxProviderSay))
}

func (p *provider) oauth2(of *oidc.Provider) *oauth2.Config {
	scopes := []string{oidc.ScopeOpenID, "profile", "email"}
	for _, s := range p.o.Scopes {
		if !slices.Contains(scopes, s) {
			scopes = append(scopes, s)
		}
	}
	return &oauth2.Config{ClientID: p.o.ClientID, ClientSecret: p.secret, Endpoint: of.Endpoint(), RedirectURL: p.o.RedirectURL, Scopes: scopes}
}

// flow is a sign-in on its way: what the browser keeps from StartOIDC to FinishOIDC, in a cookie. That it is the same browser is proved
// by the state, that the answer is to this question by the nonce, and that the code is ours by the verifier.
type flow struct {
	state, nonce, verifier, next string
	until                        time.Time // to the second
}

func (f flow) encode() string {
	return url.Values{
		"state": {f.state}, "nonce": {f.nonce}, "verifier": {f.verifier}, "next": {f.next}, "until": {strconv.FormatInt(f.until.Unix(), 10)},
	}.Encode()
}

// parseFlow reads a cookie; false for one that is none of ours or is too old.
func parseFlow(text string, now time.Time) (flow, bool) {
	if text == "" || len(text) > maxFlowCookie {
		return flow{}, false
	}
	v, err := url.ParseQuery(text)
	if err != nil {
		return flow{}, false
	}
	until, err := strconv.ParseInt(v.Get("until"), 10, 64)
	f := flow{v.Get("state"), v.Get("nonce"), v.Get("verifier"), LocalPath(v.Get("next")), time.Unix(until, 0).UTC()}
	left := f.until.Sub(now)
	return f, err == nil && f.state != "" && f.nonce != "" && f.verifier != "" && left > 0 && left <= flowLength
}

// StartOIDC sends the browser to the provider. next is where to go on afterwards. The error is ErrProviderAway, ErrTooMany (as
// TooMany), or that there is no provider; nothing is written then.
func (g *Gate) StartOIDC(w http.ResponseWriter, r *http.Request, next string) error {
	if g.oidc == nil {
		return fmt.Errorf("%w: this console has no sign-in provider", ErrInvalid)
	}
	if wait := g.tries.addresses.Take(limit.Address(r.RemoteAddr), g.now()); wait > 0 {
		return TooMany{wait}
	}
	of, err := g.oidc.ask(r.Context())
	if err != nil {
		g.o.Logger.WarnContext(r.Context(), "nobody can sign in with the provider", "issuer", g.oidc.o.Issuer, "error", err)
		return err
	}
	f := flow{newSecret(""), newSecret(""), oauth2.GenerateVerifier(), LocalPath(next), g.now().Add(flowLength).Truncate(time.Second)}
	http.SetCookie(w, cookie(flowCookie, f.encode(), flowLength, g.secure(r)))
	w.Header().Set("Cache-Control", "no-store")
	to := g.oidc.oauth2(of).AuthCodeURL(f.state, oidc.Nonce(f.nonce), oauth2.S256ChallengeOption(f.verifier))
	http.Redirect(w, r, to, http.StatusFound)
	return nil
}

// FinishOIDC is for the page that the provider sends the browser back to. It makes the session, sets its cookie, and says who came in and
// where to go on. The error is ErrRefused, ErrNoRole with the reason, ErrProviderAway, ErrTooMany (as TooMany), or the store's; the
// caller writes the page in either case. The audit has both outcomes.
func (g *Gate) FinishOIDC(w http.ResponseWriter, r *http.Request) (id Identity, next string, err error) {
	if g.oidc == nil {
		return Identity{}, "", fmt.Errorf("%w: this console has no sign-in provider", ErrInvalid)
	}
	remote := limit.Address(r.RemoteAddr)
	if wait := g.tries.addresses.Take(remote, g.now()); wait > 0 {
		return Identity{}, "", TooMany{wait}
	}
	f, ok := parseFlow(cookieValue(r, flowCookie, g.secure(r)), g.now())
	http.SetCookie(w, cookie(flowCookie, "", 0, g.secure(r))) // it is good once
	w.Header().Set("Cache-Control", "no-store")
	var name string
	var role Role
	if !ok {
		err = refused("this browser has not begun it, or more than %v ago", flowLength)
	} else {
		name, role, err = g.oidc.finish(r.Context(), f, r.URL.Query())
	}
	if err == nil && g.o.Users != nil {
		if _, taken := g.o.Users.Role(name); taken { // else the audit could not tell the two apart
			err = fmt.Errorf("%w: the users file has a user of the name %q, who signs in with a password", ErrNoRole, name)
		}
	}
	if err != nil {
		g.refuseSignIn(r.Context(), name, remote, ViaOIDC, err)
		return Identity{}, "", err
	}
	secret, id, err := g.newSession(r.Context(), name, role, ViaOIDC, remote)
	if err != nil {
		return Identity{}, "", err
	}
	g.SetCookie(w, r, secret)
	return id, f.next, nil
}

// finish turns the provider's answer into a name and a role. The name comes with ErrNoRole, too.
func (p *provider) finish(ctx context.Context, f flow, answer url.Values) (string, Role, error) {
	if subtle.ConstantTimeCompare([]byte(answer.Get("state")), []byte(f.state)) != 1 {
		return "", "", refused("the answer is to another sign-in")
	}
	if iss := answer.Get("iss"); iss != "" && iss != p.o.Issuer { // RFC 9207
		return "", "", refused("the answer is of another provider, %s", iss)
	}
	if answer.Has("error") {
		return "", "", refused("it says %s: %s", answer.Get("error"), answer.Get("error_description"))
	}
	c, err := p.exchange(ctx, f, answer.Get("code"))
	if err != nil {
		return "", "", err
	}
	name, err := c.person()
	if err != nil {
		return "", "", fmt.Errorf("%w: %w", ErrNoRole, err)
	}
	role, err := p.o.role(c)
	return name, role, err
}

// exchange gives what the provider says of who the code is of.
func (p *provider) exchange(ctx context.Context, f flow, code string) (claims, error) {
	of, err := p.ask(ctx)
	if err != nil {
		return nil, err
	}
	ctx = oidc.ClientContext(ctx, p.client) // for oauth2, too
	token, err := p.oauth2(of).Exchange(ctx, code, oauth2.VerifierOption(f.verifier))
	var answer *oauth2.RetrieveError
	switch {
	case errors.As(err, &answer) && answer.Response.StatusCode < http.StatusInternalServerError:
		return nil, refused("the provider takes no such code: %v", err)
	case err != nil:
		return nil, away(err)
	}
	raw, _ := token.Extra("id_token").(string)
	verified, err := of.Verifier(&oidc.Config{ClientID: p.o.ClientID, Now: p.now}).Verify(ctx, raw)
	if err != nil {
		return nil, refused("the provider's ID token does not hold: %v", err)
	}
	if subtle.ConstantTimeCompare([]byte(verified.Nonce), []byte(f.nonce)) != 1 {
		return nil, refused("the provider's ID token is of another sign-in")
	}
	if verified.AccessTokenHash != "" {
		if err := verified.VerifyAccessToken(token.AccessToken); err != nil {
			return nil, refused("the provider's access token is not that of its ID token: %v", err)
		}
	}
	var c claims
	if err := verified.Claims(&c); err != nil {
		return nil, refused("the provider's ID token cannot be read: %v", err)
	}
	c = c.trusted()
	return c, p.complete(ctx, of, token, verified.Subject, c)
}

// complete asks the provider for more where its ID token lacks the name or the claim of the role. Many give no more than an id in it.
func (p *provider) complete(ctx context.Context, of *oidc.Provider, token *oauth2.Token, subject string, c claims) error {
	_, noName := c.person()
	if !errors.Is(noName, errNoName) && len(c.values(p.o.Claim)) > 0 || of.UserInfoEndpoint() == "" {
		return nil
	}
	info, err := of.UserInfo(ctx, oauth2.StaticTokenSource(token))
	if err != nil {
		return away(err)
	}
	if info.Subject != subject {
		return refused("the provider tells of %q, not of %q", info.Subject, subject)
	}
	var more claims
	if err := info.Claims(&more); err != nil {
		return refused("what the provider tells cannot be read: %v", err)
	}
	c.fill(more.trusted())
	return nil
}
