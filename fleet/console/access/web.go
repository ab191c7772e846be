package access

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"
	"unicode"
)

// Names of cookies. Under the prefix a browser takes them over TLS only, and from this very host.
const (
	sessionCookie = "farebeat_session"
	flowCookie    = "farebeat_oidc"
	hostPrefix    = "__Host-"
)

func (g *Gate) secure(r *http.Request) bool { return g.o.Secure || r.TLS != nil }

// cookie makes a cookie that scripts cannot read and other sites cannot send along with more than a link.
func cookie(name, value string, age time.Duration, secure bool) *http.Cookie {
	if secure {
		name = hostPrefix + name
	}
	c := &http.Cookie{Name: name, Value: value, Path: "/", HttpOnly: true, Secure: secure, SameSite: http.SameSiteLaxMode, MaxAge: int(age.Seconds())}
	if value == "" {
		c.MaxAge = -1
	}
	return c
}

// cookieValue is the value of a cookie, empty for none.
func cookieValue(r *http.Request, name string, secure bool) string {
	if secure {
		name = hostPrefix + name
	}
	c, err := r.Cookie(name)
	if err != nil {
		return ""
	}
	return c.Value
}

func sessionSecret(r *http.Request, secure bool) string { return cookieValue(r, sessionCookie, secure) }

// SetCookie gives the browser the session that SignIn made.
func (g *Gate) SetCookie(w http.ResponseWriter, r *http.Request, secret string) {
	http.SetCookie(w, cookie(sessionCookie, secret, g.o.SessionLength, g.secure(r)))
}

// ClearCookie takes the session out of the browser.
func (g *Gate) ClearCookie(w http.ResponseWriter, r *http.Request) {
	http.SetCookie(w, cookie(sessionCookie, "", 0, g.secure(r)))
}

// bearer is the secret of an Authorization header; given where there is one of that scheme. One of several is none.
func bearer(h http.Header) (secret string, given bool) {
	for _, line := range h.Values("Authorization") {
		scheme, rest, _ := strings.Cut(strings.TrimLeft(line, " "), " ")
		if !strings.EqualFold(scheme, "Bearer") {
			continue
		}
		if given {
			return "", true
		}
		secret, given = strings.TrimSpace(rest), true
	}
	return secret, given
}

// LoopbackHost reports whether a Host header names this computer to itself: localhost, a name under it, or a loopback address, with
// or without a port. Another name that leads here was made to, by somebody who wants a browser to take our pages for theirs.
func LoopbackHost(host string) bool {
	if name, port, err := net.SplitHostPort(host); err == nil {
		if strings.ContainsFunc(port, func(r rune) bool { return r < '0' || r > '9' }) {
			return false
		}
		host = name
	} else if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		host = host[1 : len(host)-1]
	}
	if address, err := netip.ParseAddr(host); err == nil {
		return address.Unmap().IsLoopback() && address.Zone() == ""
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// maxPath bounds where somebody is led after they signed in.
const maxPath = 1024

// LocalPath is path if it leads to a page of this console, else "/". It is for where to go on after a sign-in, which comes from
// the address that somebody was given.
func LocalPath(path string) string {
	if !strings.HasPrefix(path, "/") || strings.HasPrefix(path, "//") || len(path) > maxPath || strings.ContainsFunc(path, func(r rune) bool {
		return r == '\\' || unicode.IsControl(r)
	}) {
		return "/"
	}
	u, err := url.Parse(path)
	if err != nil || u.Scheme != "" || u.Host != "" || u.User != nil {
		return "/"
	}
	return u.String()
}
