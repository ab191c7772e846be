package access_test

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/fleet/console/access"
)

func TestLoopbackHosts(t *testing.T) {
	for host, want := range map[string]bool{
		"localhost": true, "localhost:8080": true, "LOCALHOST.": true, "farebeat.localhost:8080": true,
		"127.0.0.1": true, "127.0.0.1:8080": true, "127.9.9.9:1": true, "[::1]": true, "[::1]:8080": true, "::1": true, "[::ffff:127.0.0.1]:80": true,
		"": false, ":8080": false, "example.com": false, "localhost.example.com": false, "127.0.0.1.nip.io": false, "notlocalhost": false,
		"192.168.1.1": false, "0.0.0.0": false, "[::]": false, "[::1%lo]:80": false, "2130706433": false, "127.1": false, "localhost:80:80": false,
		"localhost:x": false, "localhost@evil.example": false, "evil.example/localhost": false, "evil.example .localhost:x": false,
	} {
		if got := access.LoopbackHost(host); got != want {
			t.Errorf("%q: %v", host, got)
		}
	}
}

func TestAnOpenConsoleAnswersToItsOwnNameOnly(t *testing.T) {
	c := newConsole(t, func(o *access.Options) {
		o.Open = &access.Identity{Name: "desk", Role: access.Operator, Via: "whatever", Pass: "x"}
	})
	secret, otto := c.signIn("otto")
	token, _ := c.token(otto, access.Viewer, time.Hour)
	for _, x := range []struct{ host, secret, want string }{
		{"127.0.0.1:8080", "", "desk operator open"},
		{"localhost:8080", strings.Repeat("A", 43), "desk operator open"}, // a session that ended
		{"rebound.example:8080", "", "foreign host"},
		{"rebound.example:8080", strings.Repeat("A", 43), "foreign host"},
		{"", "", "foreign host"},
		{"rebound.example:8080", secret, "otto operator password"}, // what a foreign page has not
		{"rebound.example:8080", token, "otto viewer token"},
		{"127.0.0.1:8080", "fbt_x", "bad token"},
	} {
		r := request(x.secret)
		r.Host = x.host
		if got := whoOf(c.gate.Identify(r)); got != x.want {
			t.Errorf("%q: %q, want %q", x.host, got, x.want)
		}
	}
	id, err := c.gate.Check(ctx, access.Identity{Name: "desk", Role: access.Admin, Via: "open"})
	if diff := cmp.Diff(access.Identity{Name: "desk", Role: access.Operator, Via: "open"}, id); err != nil || diff != "" {
		t.Error(err, diff)
	}
	c.stop()
	c.opts = nil
	c.start()
	if id, err := c.gate.Check(ctx, id); whoOf(id, err) != "signed out" {
		t.Errorf("open no more: %v %v", id, err)
	}
}

func TestTheCookieOfASession(t *testing.T) {
	for _, x := range []struct {
		name   string
		proxy  bool
		over   *tls.ConnectionState
		cookie string
		secure bool
	}{
		{"plain", false, nil, "farebeat_session", false},
		{"TLS", false, &tls.ConnectionState{}, "__Host-farebeat_session", true},
		{"TLS that a proxy ends", true, nil, "__Host-farebeat_session", true},
	} {
		c := newConsole(t, func(o *access.Options) { o.Secure = x.proxy })
		secret, _ := c.signIn("otto")
		r := request("")
		r.TLS = x.over
		w := httptest.NewRecorder()
		c.gate.SetCookie(w, r, secret)
		got := w.Result().Cookies()
		if len(got) != 1 {
			t.Fatal(got)
		}
		got[0].Raw = ""
		want := &http.Cookie{
			Name: x.cookie, Value: secret, Path: "/", HttpOnly: true, Secure: x.secure, SameSite: http.SameSiteLaxMode, MaxAge: 12 * 60 * 60,
		}
		if diff := cmp.Diff(want, got[0]); diff != "" {
			t.Errorf("%s: %s", x.name, diff)
		}
		r.AddCookie(got[0])
		if who := whoOf(c.gate.Identify(r)); who != "otto operator password" {
			t.Errorf("%s: %s", x.name, who)
		}
		if x.secure { // a cookie that came without TLS may be anybody's
			r := request(secret)
			r.TLS = x.over
			if who := whoOf(c.gate.Identify(r)); who != "signed out" {
				t.Errorf("%s, a cookie without prefix: %s", x.name, who)
			}
		}
		w = httptest.NewRecorder()
		c.gate.ClearCookie(w, r)
		if line := w.Header().Get("Set-Cookie"); !strings.HasPrefix(line, x.cookie+"=; ") || !strings.Contains(line, "Max-Age=0") {
			t.Error(line)
		}
	}
}

func TestAuthorizationHeaders(t *testing.T) {
	c := newConsole(t, nil)
	session, otto := c.signIn("otto")
	token, _ := c.token(otto, access.Viewer, time.Hour)
	for _, x := range []struct {
		name  string
		lines []string
		want  string
	}{
		{"as it is", []string{"Bearer " + token}, "otto viewer token"},
		{"in lower case, with spaces", []string{"bearer   " + token + " "}, "otto viewer token"},
		{"a proxy's own", []string{"Basic b3R0bzpv"}, "otto operator password"},
		{"a proxy's own beside it", []string{"Basic b3R0bzpv", "Bearer " + token}, "otto viewer token"},
		{"two", []string{"Bearer " + token, "Bearer " + token}, "bad token"},
		{"nothing in it", []string{"Bearer"}, "bad token"},
		{"not ours", []string{"Bearer eyJhbGciOiJIUzI1NiJ9.e30.x"}, "bad token"},
		{"one bit off", []string{"Bearer " + token[:46] + map[bool]string{true: "B", false: "A"}[token[46] == 'A']}, "bad token"},
		{"longer", []string{"Bearer " + token + "A"}, "bad token"},
	} {
		r := request(session)
		r.Header["Authorization"] = x.lines
		if got := whoOf(c.gate.Identify(r)); got != x.want {
			t.Errorf("%s: %q, want %q", x.name, got, x.want)
		}
	}
}

func TestWhereASignInLeadsTo(t *testing.T) {
	for path, want := range map[string]string{
		"/": "/", "/faults?route=36&x=a%2Fb#top": "/faults?route=36&x=a%2Fb#top", "/machines/1216 1": "/machines/1216%201",
		"": "/", "faults": "/", "//evil.example": "/", "/\\evil.example": "/", "https://evil.example/": "/", "javascript:alert(1)": "/",
		"/\t/evil.example": "/", "/%zz": "/", "/a\nb": "/", "/" + strings.Repeat("a", 2000): "/",
	} {
		if got := access.LocalPath(path); got != want {
			t.Errorf("%q leads to %q, want %q", path, got, want)
		}
	}
}

// Whatever a request carries: only the secrets let in, and nothing breaks.
func FuzzIdentify(f *testing.F) {
	c := newConsole(f, nil)
	session, otto := c.signIn("otto")
	token, _ := c.token(otto, access.Viewer, time.Hour)
	f.Add("Bearer fbt_"+strings.Repeat("A", 43), "farebeat_session="+strings.Repeat("A", 43), "localhost")
	f.Add("", "farebeat_session=\"x; farebeat_session=", "[::1")
	f.Add("bearer", "__Host-farebeat_session=a=b; ;;", "127.0.0.1:99999")
	f.Add("Bearer \xff\x00", "=;\xff", "\x00")
	f.Add("Bearer "+token, "", "")
	f.Add("", "farebeat_session="+session, "a:b:c")
	f.Fuzz(func(t *testing.T, authorization, cookies, host string) {
		r := request("")
		r.Host = host
		if authorization != "" {
			r.Header["Authorization"] = []string{authorization}
		}
		r.Header["Cookie"] = []string{cookies}
		who := whoOf(c.gate.Identify(r))
		switch {
		case who == "signed out" || who == "bad token":
		case who == "otto viewer token" && strings.Contains(authorization, token):
		case who == "otto operator password" && strings.Contains(cookies, session):
		default:
			t.Errorf("%q %q: %s", authorization, cookies, who)
		}
		if access.LoopbackHost(host) && strings.ContainsAny(host, "/@ ") {
			t.Errorf("%q is no host", host)
		}
	})
}
