package access_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/farebeat/farebeat/fleet/console/access"
)

// oidcVariable names the program of an OpenID Connect provider.
const oidcVariable = "FAREBEAT_OIDC"

// realProvider is the program itself, on an address of its own.
type realProvider struct {
	t                   *testing.T
	program, port, back string
	cmd                 *exec.Cmd
	exited              chan struct{}
}

func (p *realProvider) issuer() string { return "http://localhost:" + p.port + "/" }

// people are whom the provider knows. Their passwords are "secret".
func (p *realProvider) people() []byte {
	list := map[string]map[string]any{}
	for i, x := range []struct {
		name, email string
		verified    bool
	}{
		{"bea", "bea@city.example", true},
		{"ole", "ole@city.example", true},
		{"eve", "eve@elsewhere.example", true},
		{"mallory", "bea@city.example", false},
		{"otto", "otto@city.example", true},
	} {
		id := fmt.Sprint("id", i)
		list[id] = map[string]any{
			"ID": id, "Username": x.name, "Password": "secret", "Email": x.email, "EmailVerified": x.verified, "PreferredLanguage": "en",
		}
	}
	text, err := json.Marshal(list)
	if err != nil {
		p.t.Fatal(err)
	}
	return text
}

// start starts it, with keys that nobody knows yet, and waits until it serves.
func (p *realProvider) start() {
	p.t.Helper()
	file := filepath.Join(p.t.TempDir(), "people.json")
	if err := os.WriteFile(file, p.people(), 0o600); err != nil {
		p.t.Fatal(err)
	}
	var log bytes.Buffer
	p.cmd = exec.Command(p.program)
	p.cmd.Env = append(os.Environ(), "PORT="+p.port, "REDIRECT_URI="+p.back, "USERS_FILE="+file)
	p.cmd.Stderr = &log
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	process, exited := p.cmd, make(chan struct{})
	go func() { _ = process.Wait(); close(exited) }()
	p.exited = exited
	for {
		if res, err := http.Get(p.issuer() + ".well-known/openid-configuration"); err == nil {
			res.Body.Close()
			return
		}
		select {
		case <-exited:
			p.t.Fatalf("the provider ended: %s", &log)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (p *realProvider) stop() {
	if p.exited == nil {
		return
	}
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.exited
}

// oidcConsole is a console that is served, and its provider, which is not started.
type oidcConsole struct {
	*console
	provider *realProvider
	url      string
	config   *access.OIDC
}

func newOIDCConsole(t *testing.T) *oidcConsole {
	t.Helper()
	program := os.Getenv(oidcVariable)
	if program == "" {
		t.Skipf("%s names no OpenID Connect provider; scripts/test installs one and sets it", oidcVariable)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	l.Close()
	c := &oidcConsole{provider: &realProvider{t: t, program: program, port: port}}
	t.Cleanup(c.provider.stop)
	mux := http.NewServeMux()
	mux.HandleFunc("/start", func(w http.ResponseWriter, r *http.Request) {
		if err := c.gate.StartOIDC(w, r, r.FormValue("next")); err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
		}
	})
	mux.HandleFunc("/back", func(w http.ResponseWriter, r *http.Request) {
		id, next, err := c.gate.FinishOIDC(w, r)
		switch {
		case errors.Is(err, access.ErrNoRole):
			http.Error(w, "no role: "+err.Error(), http.StatusForbidden)
		case errors.Is(err, access.ErrRefused):
			http.Error(w, "refused: "+err.Error(), http.StatusUnauthorized)
		case err != nil:
			http.Error(w, "failed: "+err.Error(), http.StatusBadGateway)
		default:
			fmt.Fprintf(w, "%s %s, on to %s", id.Name, id.Role, next)
		}
	})
	mux.HandleFunc("/who", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, whoOf(c.gate.Identify(r))) })
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	c.url, c.provider.back = server.URL, server.URL+"/back"
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.config = &access.OIDC{
		Issuer: c.provider.issuer(), ClientID: "web", SecretFile: secret, RedirectURL: c.provider.back,
		Claim: "email", Admins: []string{"bea@city.example"}, Viewers: []string{"bea@city.example", "ole@city.example", "otto@city.example"},
	}
	c.console = newConsole(t, func(o *access.Options) { o.OIDC = c.config })
	c.now = time.Now().UTC() // the provider has no other
	return c
}

// browser is somebody's, with cookies.
type browser struct {
	c      *oidcConsole
	client *http.Client
}

func (c *oidcConsole) browser() *browser {
	c.t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		c.t.Fatal(err)
	}
	client := &http.Client{Jar: jar, CheckRedirect: func(r *http.Request, _ []*http.Request) error {
		if strings.HasPrefix(r.URL.String(), c.provider.back) {
			return http.ErrUseLastResponse
		}
		return nil
	}}
	return &browser{c, client}
}

// get gives what a page says.
func (b *browser) get(address string) string {
	b.c.t.Helper()
	res, err := b.client.Get(address)
	if err != nil {
		b.c.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		b.c.t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

func (b *browser) who() string { return b.get(b.c.url + "/who") }

// begin goes to the provider, signs in there, and gives the address that it sends the browser back to.
func (b *browser) begin(name string) string {
	b.c.t.Helper()
	res, err := b.client.Get(b.c.url + "/start?next=/faults")
	if err != nil {
		b.c.t.Fatal(err)
	}
	res.Body.Close()
	id := res.Request.URL.Query().Get("authRequestID")
	if id == "" {
		b.c.t.Fatalf("no page to sign in: %s %s", res.Status, res.Request.URL)
	}
	res, err = b.client.PostForm(b.c.provider.issuer()+"login/username", url.Values{"id": {id}, "username": {name}, "password": {"secret"}})
	if err != nil {
		b.c.t.Fatal(err)
	}
	res.Body.Close()
	back := res.Header.Get("Location")
	if !strings.HasPrefix(back, b.c.provider.back) {
		b.c.t.Fatalf("not sent back: %s %q", res.Status, back)
	}
	return back
}

func (b *browser) want(got, want string) {
	b.c.t.Helper()
	if !strings.Contains(got, want) {
		b.c.t.Errorf("%q, want %q", got, want)
	}
}

func TestPeopleSignInWithARealProvider(t *testing.T) {
	c := newOIDCConsole(t)
	b := c.browser()
	b.want(b.get(c.url+"/start"), access.ErrProviderAway.Error())
	c.signIn("anna") // who has a password needs no provider
	c.provider.start()
	b.want(b.get(b.begin("bea")), "bea admin, on to /faults")
	b.want(b.who(), "bea admin oidc")
	for name, want := range map[string]string{
		"ole":     "ole viewer, on to /faults",
		"eve":     `none of the values of the claim "email" is listed`,
		"mallory": `no text in the claim "email"`, // it is not proved to be theirs
		"otto":    `the users file has a user of the name "otto"`,
	} {
		other := c.browser()
		other.want(other.get(other.begin(name)), want)
	}
	c.provider.stop()
	b.want(b.who(), "bea admin oidc") // who is in needs it no more
	c.provider.start()                // with other keys
	again := c.browser()
	again.want(again.get(again.begin("ole")), "ole viewer")

	c.stop()
	c.start()
	b.want(b.who(), "bea admin oidc")
	c.after(access.MaxOIDCSession - time.Minute)
	b.want(b.who(), "signed out") // idle for too long
	for _, e := range c.entries() {
		if e.By == "eve" && (e.Via != "oidc" || e.Outcome != "refused" || !strings.Contains(e.Detail, "eve@elsewhere.example")) {
			t.Errorf("%+v", e)
		}
	}
	if got := c.audited(); !strings.Contains(got, "bea sign_in done") || !strings.Contains(got, "eve sign_in refused") {
		t.Error(got)
	}
}

func TestASessionOfAProviderLastsTwelveHoursAtMost(t *testing.T) {
	c := newOIDCConsole(t)
	old := c.opts
	c.opts = func(o *access.Options) {
		old(o)
		o.SessionLength, o.IdleLength = 48*time.Hour, 48*time.Hour
	}
	c.stop()
	c.start()
	c.provider.start()
	b := c.browser()
	b.get(b.begin("ole"))
	list, err := c.store.Passes().List(ctx, access.PassQuery{Name: "ole"})
	if err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	ole := access.Identity{Name: "ole", Role: access.Viewer, Via: access.ViaOIDC, Pass: list[0].ID}
	if _, _, err := c.gate.NewToken(ctx, ole, phone, access.TokenRequest{
		Label: "a", Role: access.Viewer, ExpiresAt: list[0].ExpiresAt.Add(time.Second),
	}); !errors.Is(err, access.ErrForbidden) || !strings.Contains(err.Error(), "outlive") {
		t.Errorf("a token that outlives the session: %v", err)
	}
	token, _ := c.token(ole, access.Viewer, list[0].ExpiresAt.Sub(c.now))
	c.want(token, "ole viewer token")
	c.after(access.MaxOIDCSession - time.Second)
	b.want(b.who(), "ole viewer oidc")
	c.stop()
	with := c.opts
	c.opts = nil // the provider is taken out of the configuration
	c.start()
	c.want(token, "bad token")
	c.stop()
	c.opts = with
	c.start()
	c.after(time.Second)
	b.want(b.who(), "signed out")
	c.want(token, "bad token")
}

// What was begun in one browser ends there, once, and soon.
func TestASignInIsBoundToItsBrowser(t *testing.T) {
	c := newOIDCConsole(t)
	c.provider.start()
	b := c.browser()
	back := b.begin("bea")
	stranger := c.browser()
	stranger.want(stranger.get(back), "this browser has not begun it")
	stranger.begin("eve")
	stranger.want(stranger.get(back), "the answer is to another sign-in")
	stranger.want(stranger.who(), "signed out")
	b.want(b.get(back), "bea admin")
	b.want(b.get(back), "this browser has not begun it") // once

	b = c.browser()
	back = b.begin("bea")
	c.after(11 * time.Minute)
	b.want(b.get(back), "more than 10m0s ago")
	c.after(-11 * time.Minute)

	b = c.browser()
	b.begin("bea")
	state := b.flow(nil)["state"][0]
	b.want(b.get(c.url+"/back?error=access_denied&error_description=%3Cb%3Eno&state="+state), "it says access_denied: <b>no")
	for name, want := range map[string]string{
		"verifier": "the provider takes no such code", "nonce": "the provider's ID token is of another sign-in", "state": "the answer is to another sign-in",
	} {
		b = c.browser()
		back = b.begin("bea")
		b.flow(func(v url.Values) { v.Set(name, strings.Repeat("A", 43)) })
		b.want(b.get(back), want)
		b.want(b.who(), "signed out")
	}
	b = c.browser()
	back = b.begin("bea")
	b.want(b.get(back+"&iss=https%3A%2F%2Fevil.example"), "the answer is of another provider")
	b = c.browser()
	back = b.begin("bea")
	c.provider.stop()
	b.want(b.get(back), "failed: "+access.ErrProviderAway.Error())
	b.want(b.who(), "signed out")
}

// flow gives the cookie of the sign-in that the browser has begun, after a change.
func (b *browser) flow(change func(url.Values)) url.Values {
	b.c.t.Helper()
	at, err := url.Parse(b.c.url)
	if err != nil {
		b.c.t.Fatal(err)
	}
	for _, cookie := range b.client.Jar.Cookies(at) {
		if cookie.Name != "farebeat_oidc" {
			continue
		}
		v, err := url.ParseQuery(cookie.Value)
		if err != nil {
			b.c.t.Fatal(err)
		}
		if change != nil {
			change(v)
			b.client.Jar.SetCookies(at, []*http.Cookie{{Name: cookie.Name, Value: v.Encode(), Path: "/"}})
		}
		return v
	}
	b.c.t.Fatal("the browser has begun no sign-in")
	return nil
}

func TestAWrongClientSecretIsRefused(t *testing.T) {
	c := newOIDCConsole(t)
	if err := os.WriteFile(c.config.SecretFile, []byte("another"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.stop()
	c.start()
	c.provider.start()
	b := c.browser()
	b.want(b.get(b.begin("bea")), "refused")
	b.want(b.who(), "signed out")
}

func TestTheClientSecretMustBeTheOwnersOnly(t *testing.T) {
	c := newConsole(t, nil)
	file := filepath.Join(t.TempDir(), "secret")
	for text, mode := range map[string]os.FileMode{"secret": 0o644, "two\nlines": 0o600, "\n": 0o600} {
		if err := errors.Join(os.WriteFile(file, []byte(text), mode), os.Chmod(file, mode)); err != nil {
			t.Fatal(err)
		}
		_, err := access.New(access.Options{Passes: c.store.Passes(), Audit: c.store.AuditLog(), OIDC: &access.OIDC{
			Issuer: "https://idp.example", RedirectURL: "https://console.example/oidc", ClientID: "c", Claim: "groups", Admins: []string{"a"}, SecretFile: file,
		}})
		if err == nil || strings.Contains(err.Error(), "two") {
			t.Errorf("%q with mode %o: %v", text, mode, err)
		}
	}
}
