package console

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"strings"

	"github.com/farebeat/farebeat/fleet/console/access"
	"github.com/farebeat/farebeat/fleet/console/act"
	"github.com/farebeat/farebeat/fleet/console/live"
	"github.com/farebeat/farebeat/fleet/console/view"
)

// screen is one kind of page.
type screen struct {
	pattern string      // of the address
	name    string      // of its template
	nav     string      // entry of the navigation that it belongs to
	need    access.Role // who may look
	live    []string    // templates that are kept up to date
	// load reads what the page shows. It must not change anything.
	load func(r *http.Request) (content, error)
}

// content is what a page shows.
type content struct {
	Title string
	Data  any
}

// shell is what every template is given.
type shell struct {
	content
	Operator string
	Nav      []navEntry
	Who      access.Identity
	State    view.State
	AsOf     string // of the newest round, for a person
	Speed    float64
	Zone     string
	Theme    string // light, dark or empty
	Live     string // address of the page's stream; empty: it is not live
	Address  string // of the page itself
	Done     string // what was ordered just before
	Assets   assets
}

// May reports whether whoever looks has a role.
func (s shell) May(role string) bool { return s.Who.Role.Covers(access.Role(role)) }

type navEntry struct {
	Name, Path string
	Here       bool
}

func navigation(here string) []navEntry {
	list := []navEntry{
		{Name: "Now", Path: "/"},
		{Name: "Routes", Path: "/routes"},
		{Name: "Faults", Path: "/faults"},
		{Name: "Machines", Path: "/machines"},
		{Name: "Ledger", Path: "/ledger"},
		{Name: "Topics", Path: "/topics"},
		{Name: "Rules", Path: "/rules"},
		{Name: "Broker", Path: "/broker"},
		{Name: "Audit", Path: "/audit"},
	}
	for i := range list {
		list[i].Here = list[i].Name == here
	}
	return list
}

// sink takes the fragments of a page in place of the page.
type sink struct {
	fragments live.Fragments
	err       error
}

type sinkKey struct{}

// page serves one screen, or its fragments to the hub.
func (c *Console) page(s screen) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who := actor(r.Context())
		into, _ := r.Context().Value(sinkKey{}).(*sink)
		if !who.Role.Covers(s.need) {
			err := fmt.Errorf("this page: %w: it needs the role %s", act.ErrForbidden, s.need)
			if into != nil {
				into.err = err
				return
			}
			c.fail(w, r, http.StatusForbidden, err)
			return
		}
		got, err := s.load(r)
		if into != nil {
			into.fragments, into.err = c.fragmentsOf(r, s, got, err)
			return
		}
		if err != nil {
			c.fail(w, r, status(err), err)
			return
		}
		sh := c.shell(r, got, s.nav)
		if len(s.live) > 0 && r.URL.Query().Get("paused") == "" {
			sh.Live = "/live?page=" + url.QueryEscape(r.URL.RequestURI())
		}
		c.write(w, r, http.StatusOK, s.name, sh)
	})
}

func (c *Console) fragmentsOf(r *http.Request, s screen, got content, err error) (live.Fragments, error) {
	if err != nil {
		return nil, err
	}
	out := live.Fragments{}
	sh := c.shell(r, got, s.nav)
	for _, name := range s.live {
		var b bytes.Buffer
		if err := c.templates[s.name].ExecuteTemplate(&b, name, sh); err != nil {
			return nil, fmt.Errorf("render %s: %w", name, err)
		}
		out[name] = b.Bytes()
	}
	return out, nil
}

// shell gives a page what all pages have.
func (c *Console) shell(r *http.Request, got content, nav string) shell {
	s := shell{
		content: got, Operator: c.o.Operator, Nav: navigation(nav), Who: actor(r.Context()).Identity, State: c.o.View.State(), Speed: c.o.Speed,
		Zone: c.o.View.Zone().String(), Address: pageAddress(r.URL), Assets: c.assets,
	}
	s.AsOf = c.asOf(s.State)
	if t, err := r.Cookie(themeCookie); err == nil && (t.Value == "light" || t.Value == "dark") {
		s.Theme = t.Value
	}
	s.Done = doneText(r.URL.Query().Get("done"))
	return s
}

// write renders a page whole before anything of it is sent.
func (c *Console) write(w http.ResponseWriter, r *http.Request, code int, name string, s shell) {
	var b bytes.Buffer
	if err := c.templates[name].ExecuteTemplate(&b, "base", s); err != nil {
		c.o.Logger.Error("a page of the console cannot be rendered", "page", name, "error", err)
		http.Error(w, "This page cannot be shown: see the log of farebeat.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	writeZipped(w, r, code, b.Bytes())
}

// failure is what the error page shows.
type failure struct {
	Code    int
	Heading string
	Text    string
	What    string // what to do
}

// fail answers with a page that says what is wrong and what to do.
func (c *Console) fail(w http.ResponseWriter, r *http.Request, code int, err error) {
	f := failure{Code: code, Text: sentence(err.Error())}
	switch code {
	case http.StatusNotFound:
		f.Heading, f.What = "Not here", "Check the address, or search for it above."
	case http.StatusBadRequest:
		f.Heading, f.What = "Not understood", "Go back and change what was asked."
	case http.StatusUnauthorized:
		f.Heading, f.What = "Sign in first", "Whoever looks here must be known."
	case http.StatusForbidden:
		f.Heading, f.What = "Not allowed", "Ask an admin of Farebeat for the role, or sign in as somebody who has it."
	case http.StatusConflict:
		f.Heading, f.What = "Not now", "Go back, and look at what stands in the way."
	case http.StatusTooManyRequests:
		f.Heading, f.What = "Too often", "Wait a little, then try again."
	case http.StatusMisdirectedRequest:
		f.Heading, f.What = "Not by this name", "Without signing in it is shown on this machine only."
	case http.StatusBadGateway:
		f.Heading, f.What = "The sign-in service is away", "Try again, or sign in with a password."
	case http.StatusServiceUnavailable:
		f.Heading, f.What = "Not now", "Load the page again in some seconds."
		if errors.Is(err, view.ErrStarting) {
			f.Heading = "Starting"
		}
	case http.StatusAccepted:
		f.Heading, f.What = "Noted", "It is on disk and will be done. Look again in some seconds."
	default:
		f.Heading, f.What = "It went wrong here", "Try again. If it stays, the log of farebeat says more."
		c.o.Logger.Error("a page of the console failed", "address", r.URL.Path, "error", err)
	}
	c.write(w, r, code, "error", c.shell(r, content{Title: f.Heading, Data: f}, ""))
}

// sentence begins with a capital and ends with a full stop.
func sentence(s string) string {
	if s == "" {
		return s
	}
	s = strings.ToUpper(s[:1]) + s[1:]
	if !strings.ContainsAny(s[len(s)-1:], ".!?") {
		s += "."
	}
	return s
}

// serveLive streams the fragments of the page that the query names.
func (c *Console) serveLive(w http.ResponseWriter, r *http.Request) {
	page, err := url.ParseRequestURI(r.URL.Query().Get("page"))
	if err != nil || page.Host != "" || !strings.HasPrefix(page.Path, "/") || len(page.RawQuery) > 2000 {
		http.Error(w, "page: want the address of a page of this console", http.StatusBadRequest)
		return
	}
	query := page.Query()
	query.Del("done")
	page.RawQuery = query.Encode()
	who := actor(r.Context())
	ctx, stop := context.WithCancel(r.Context())
	defer stop()
	go c.watchGate(ctx, stop, who.Identity)
	r = r.WithContext(ctx)
	// What is rendered depends on the page and on what whoever looks may do, and on nothing else of them.
	c.hub.ServePage(w, r, string(who.Role)+" "+page.RequestURI())
}

// fragments renders the page of a key that serveLive made.
func (c *Console) fragments(ctx context.Context, key string) (live.Fragments, error) {
	role, page, _ := strings.Cut(key, " ")
	ctx = withActor(ctx, act.Actor{Identity: access.Identity{Role: access.Role(role)}})
	into := &sink{}
	r, err := http.NewRequestWithContext(context.WithValue(ctx, sinkKey{}, into), http.MethodGet, page, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", live.ErrOver, err)
	}
	r.RequestURI = page
	c.pages.ServeHTTP(nowhere{}, r)
	switch {
	case errors.Is(into.err, act.ErrForbidden), errors.Is(into.err, view.ErrNotFound), errors.Is(into.err, view.ErrUsage):
		return nil, fmt.Errorf("%w: %w", live.ErrOver, into.err)
	case into.err == nil && into.fragments == nil:
		return nil, fmt.Errorf("%w: there is no such page", live.ErrOver)
	}
	return into.fragments, into.err
}

// nowhere takes an answer that nobody waits for: that of a page which is none.
type nowhere struct{}

func (nowhere) Header() http.Header         { return http.Header{} }
func (nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (nowhere) WriteHeader(int)             {}

// themeCookie remembers whether a person wants it light or dark.
const themeCookie = "theme"

func (c *Console) setTheme(w http.ResponseWriter, r *http.Request) {
	theme := r.FormValue("theme")
	cookie := &http.Cookie{Name: themeCookie, Value: theme, Path: "/", MaxAge: 365 * 86400, HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: r.TLS != nil}
	if theme != "light" && theme != "dark" {
		cookie.Value, cookie.MaxAge = "", -1
	}
	http.SetCookie(w, cookie)
	http.Redirect(w, r, access.LocalPath(r.FormValue("back")), http.StatusSeeOther)
}

// parseTemplates makes a set of templates for each screen: the base and what is shared, and its own file.
func (c *Console) parseTemplates() (map[string]*template.Template, error) {
	shared, err := template.New("").Funcs(c.funcs()).ParseFS(archive, "templates/base.html", "templates/parts.html")
	if err != nil {
		return nil, err
	}
	out := map[string]*template.Template{}
	names := []string{"error", "signin"}
	for _, s := range c.screens() {
		names = append(names, s.name)
	}
	for _, name := range names {
		if out[name] != nil {
			continue
		}
		t, err := shared.Clone()
		if err == nil {
			t, err = t.ParseFS(archive, "templates/"+name+".html")
		}
		if err != nil {
			return nil, err
		}
		out[name] = t
	}
	return out, nil
}

// pageAddress is the address to come back to. A sign-in with a provider is not to be come back to: its code and state are in its address.
func pageAddress(u *url.URL) string {
	if strings.HasPrefix(u.Path, "/signin/oidc") {
		return "/signin"
	}
	return u.RequestURI()
}
