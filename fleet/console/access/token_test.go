package access_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/farebeat/farebeat/fleet/console/access"
)

func TestWhatTokensMayBeMade(t *testing.T) {
	c := newConsole(t, nil)
	_, otto := c.signIn("otto")
	_, anna := c.signIn("anna")
	year := c.now.AddDate(1, 0, 0)
	secret, _ := c.token(otto, access.Operator, time.Hour)
	byToken, err := c.gate.Identify(request(secret))
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		name string
		by   access.Identity
		want access.TokenRequest
		err  error
	}{
		{"one's own role", otto, access.TokenRequest{Label: "a", Role: access.Operator, ExpiresAt: year}, nil},
		{"a lower role", anna, access.TokenRequest{Label: "Küche <b>", Role: access.Viewer, ExpiresAt: year}, nil},
		{"a higher role", otto, access.TokenRequest{Label: "a", Role: access.Admin, ExpiresAt: year}, access.ErrForbidden},
		{"no role", otto, access.TokenRequest{Label: "a", ExpiresAt: year}, access.ErrInvalid},
		{"an unknown role", otto, access.TokenRequest{Label: "a", Role: "root", ExpiresAt: year}, access.ErrInvalid},
		{"no label", otto, access.TokenRequest{Role: access.Viewer, ExpiresAt: year}, access.ErrInvalid},
		{"a long label", otto, access.TokenRequest{Label: strings.Repeat("a", 65), Role: access.Viewer, ExpiresAt: year}, access.ErrInvalid},
		{"a label of two lines", otto, access.TokenRequest{Label: "a\nb", Role: access.Viewer, ExpiresAt: year}, access.ErrInvalid},
		{"for ever", otto, access.TokenRequest{Label: "a", Role: access.Viewer}, access.ErrInvalid},
		{"more than a year", otto, access.TokenRequest{Label: "a", Role: access.Viewer, ExpiresAt: year.Add(time.Second)}, access.ErrInvalid},
		{"expired", otto, access.TokenRequest{Label: "a", Role: access.Viewer, ExpiresAt: c.now}, access.ErrInvalid},
		{"by a token", byToken, access.TokenRequest{Label: "a", Role: access.Viewer, ExpiresAt: year}, access.ErrForbidden},
		{
			"by whoever is at an open address",
			access.Identity{Name: "demo", Role: access.Admin, Via: "open"},
			access.TokenRequest{Label: "a", Role: access.Viewer, ExpiresAt: year},
			access.ErrForbidden,
		},
	} {
		secret, p, err := c.gate.NewToken(ctx, x.by, phone, x.want)
		if !errors.Is(err, x.err) {
			t.Errorf("%s: %v, want %v", x.name, err, x.err)
		}
		if x.err != nil {
			continue
		}
		if !strings.HasPrefix(secret, "fbt_") || len(secret) != 47 || p.Label != x.want.Label || p.Name != x.by.Name {
			t.Errorf("%s: %q %+v", x.name, secret, p)
		}
		c.want(secret, fmt.Sprintf("%s %s token", x.by.Name, x.want.Role))
	}
	refused := 0
	for _, e := range c.entries() {
		if e.Action == "token_new" && e.Outcome == "refused" {
			refused++
		}
	}
	if refused != 11 {
		t.Errorf("the audit tells of %d refusals", refused)
	}
}

func TestATokenEndsInTime(t *testing.T) {
	c := newConsole(t, nil)
	session, otto := c.signIn("otto")
	secret, _ := c.token(otto, access.Viewer, 100*time.Hour)
	c.after(100*time.Hour - time.Millisecond)
	c.want(secret, "otto viewer token") // it need not be used meanwhile
	c.want(session, "signed out")
	c.after(time.Millisecond)
	c.want(secret, "bad token")
	if n, err := c.gate.Prune(ctx); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
}

func TestTheSecretsOfSessionsAndTokensAreNotExchanged(t *testing.T) {
	c := newConsole(t, nil)
	session, otto := c.signIn("otto")
	token, _ := c.token(otto, access.Viewer, time.Hour)
	r := request("")
	r.Header.Set("Authorization", "Bearer "+session)
	if who := whoOf(c.gate.Identify(r)); who != "bad token" {
		t.Errorf("a session as a token: %s", who)
	}
	r = request(session)
	r.Header.Set("Cookie", "farebeat_session="+token)
	if who := whoOf(c.gate.Identify(r)); who != "signed out" {
		t.Errorf("a token as a session: %s", who)
	}
}

func TestWhoseTokensAreSeenAndRevoked(t *testing.T) {
	c := newConsole(t, nil)
	_, vera := c.signIn("vera")
	_, otto := c.signIn("otto")
	_, anna := c.signIn("anna")
	secret, p := c.token(otto, access.Viewer, time.Hour)
	other, q := c.token(otto, access.Viewer, time.Hour)
	for name, want := range map[string]int{"vera": 0, "otto": 2, "anna": 2} {
		by := map[string]access.Identity{"vera": vera, "otto": otto, "anna": anna}[name]
		tokens, err := c.gate.Tokens(ctx, by)
		if err != nil || len(tokens) != want {
			t.Errorf("%s sees %+v, %v", name, tokens, err)
		}
		if sessions, err := c.gate.Sessions(ctx, by); err != nil || len(sessions) != map[bool]int{true: 3, false: 1}[name == "anna"] {
			t.Errorf("%s sees %+v, %v", name, sessions, err)
		}
	}
	if list, err := c.gate.Tokens(ctx, access.Identity{Name: "otto", Role: access.Viewer, Via: "open"}); err != nil || list != nil {
		t.Errorf("an open address sees %+v, %v", list, err)
	}
	if err := c.gate.Revoke(ctx, vera, desk, p.ID); !errors.Is(err, access.ErrNoPass) {
		t.Errorf("a stranger revokes: %v", err)
	}
	c.want(secret, "otto viewer token")
	for _, x := range []struct {
		by access.Identity
		id string
	}{{otto, p.ID}, {anna, q.ID}} {
		if err := c.gate.Revoke(ctx, x.by, desk, x.id); err != nil {
			t.Error(err)
		}
		if err := c.gate.Revoke(ctx, x.by, desk, x.id); !errors.Is(err, access.ErrNoPass) {
			t.Errorf("twice: %v", err)
		}
	}
	c.want(secret, "bad token")
	c.want(other, "bad token")
	if err := c.gate.Revoke(ctx, anna, desk, otto.Pass); err != nil { // a session
		t.Error(err)
	}
	got := strings.Join(strings.Split(c.audited(), "\n")[5:], "\n")
	if want := "vera token_revoke refused\notto token_revoke done\nanna token_revoke done\nanna session_end done"; got != want {
		t.Errorf("%s, want\n%s", got, want)
	}
}

func TestAMakerHasABoundedNumberOfTokens(t *testing.T) {
	c := newConsole(t, nil)
	_, otto := c.signIn("otto")
	for range 100 {
		c.token(otto, access.Viewer, time.Hour)
	}
	_, _, err := c.gate.NewToken(ctx, otto, phone, access.TokenRequest{Label: "a", Role: access.Viewer, ExpiresAt: c.now.Add(time.Hour)})
	if !errors.Is(err, access.ErrForbidden) || !strings.Contains(err.Error(), "revoke some") {
		t.Error(err)
	}
}

func TestWhenATokenWasUsedLast(t *testing.T) {
	c := newConsole(t, nil)
	_, otto := c.signIn("otto")
	secret, p := c.token(otto, access.Viewer, time.Hour)
	for _, x := range []struct {
		after time.Duration
		want  time.Duration
	}{{59 * time.Second, 0}, {time.Second, time.Minute}, {30 * time.Second, time.Minute}, {30 * time.Second, 2 * time.Minute}} {
		c.after(x.after)
		c.want(secret, "otto viewer token")
		if got, err := c.store.Passes().Get(ctx, p.ID); err != nil || got.UsedAt.Sub(p.MadeAt) != x.want {
			t.Errorf("used %v after it was made, want %v; %v", got.UsedAt.Sub(p.MadeAt), x.want, err)
		}
	}
}
