// Package console serves the web console: ten screens that are rendered here and kept up to date by server-sent events, without a file from
// anywhere else and without a script that they need. What it shows comes from package view, what is ordered goes through package act.
package console

import (
	"context"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/farebeat/farebeat/fleet/console/access"
	"github.com/farebeat/farebeat/fleet/console/act"
	"github.com/farebeat/farebeat/fleet/console/audit"
	"github.com/farebeat/farebeat/fleet/console/draft"
	"github.com/farebeat/farebeat/fleet/console/explore"
	"github.com/farebeat/farebeat/fleet/console/live"
	"github.com/farebeat/farebeat/fleet/console/view"
	"github.com/farebeat/farebeat/fleet/limit"
)

// Options say what a console shows and who may use it. All but API, Explore, Speed and Logger are required.
type Options struct {
	Operator string // of the topic tree
	View     *view.Reader
	Act      *act.Actions
	Gate     *access.Gate
	Audit    audit.Log
	OIDC     bool // people may sign in with a provider
	// API serves what is under /api/; nil: there is none. It keeps other sites' pages away by itself.
	API http.Handler
	// Explore shows the topics; nil: there is none, and the page says so.
	Explore *explore.Explorer
	// Rules is where rules are changed; nil: nowhere.
	Rules *draft.Desk
	// MQTT takes MQTT over WebSocket at /mqtt, from clients that only read; nil: nobody does.
	MQTT http.Handler
	// Speed is how many seconds of the service's clock pass in one on the wall; 0: 1. It is for demonstrations.
	Speed  float64
	Logger *slog.Logger
}

// Console is an HTTP handler. Run it while it serves; it is safe for concurrent use.
type Console struct {
	o         Options
	templates map[string]*template.Template
	assets    assets
	hub       *live.Hub
	pages     *http.ServeMux // what is shown, for the hub as well
	handler   http.Handler
}

// New makes a console.
func New(o Options) (*Console, error) {
	if o.Speed == 0 {
		o.Speed = 1
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	c := &Console{o: o}
	var err error
	if c.assets, err = readAssets(); err != nil {
		return nil, fmt.Errorf("console: %w", err)
	}
	if c.templates, err = c.parseTemplates(); err != nil {
		return nil, fmt.Errorf("console: %w", err)
	}
	c.hub = live.New(live.Options{Render: c.fragments, State: func() any { return c.liveState() }})
	c.handler = c.routes()
	return c, nil
}

// Run keeps the open pages up to date until ctx ends.
func (c *Console) Run(ctx context.Context) { c.hub.Run(ctx) }

// Poke says that there is a new round.
func (c *Console) Poke() { c.hub.Poke() }

// ServeHTTP implements http.Handler.
func (c *Console) ServeHTTP(w http.ResponseWriter, r *http.Request) { c.handler.ServeHTTP(w, r) }

// routes joins all that is served.
func (c *Console) routes() http.Handler {
	c.pages = http.NewServeMux()
	for _, p := range c.screens() {
		c.pages.Handle(p.pattern, c.page(p))
	}
	mux := http.NewServeMux()
	mux.Handle("GET /assets/", c.assets)
	mux.Handle("GET /live", c.signedIn(c.serveLive))
	if c.o.MQTT != nil {
		mux.Handle("GET /mqtt", c.o.MQTT) // MQTT asks by itself who comes
	}
	mux.Handle("POST /theme", http.HandlerFunc(c.setTheme))
	c.signInRoutes(mux)
	for _, a := range c.orders() {
		mux.Handle(a.pattern, c.signedIn(c.order(a)))
	}
	mux.Handle("GET /ledger/{machine}/certificate/{date}", c.signedIn(c.certificate))
	mux.Handle(makeTokenPattern, c.signedIn(c.makeToken))
	mux.Handle("/", c.signedIn(c.pages.ServeHTTP))
	outer := http.NewServeMux()
	outer.Handle("/", http.NewCrossOriginProtection().Handler(mux))
	if c.o.API != nil {
		outer.Handle("/api/", c.o.API)
	}
	return secure(outer)
}

// signedIn lets only those pass of whom it is known who they are. A browser of somebody else is led to the page to sign in.
func (c *Console) signedIn(next http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, err := c.o.Gate.Identify(r)
		switch {
		case err == nil:
			next(w, r.WithContext(withActor(r.Context(), act.Actor{Identity: who, Remote: limit.Address(r.RemoteAddr)})))
		case errors.Is(err, access.ErrSignedOut) && r.Method == http.MethodGet && r.URL.Path != "/live":
			http.Redirect(w, r, "/signin?next="+url.QueryEscape(r.URL.RequestURI()), http.StatusSeeOther)
		case status(err) == http.StatusInternalServerError: // what the store says is for the log, and not for whoever comes
			c.o.Logger.ErrorContext(r.Context(), "who comes to the console could not be looked up", "address", r.URL.Path, "error", err)
			c.fail(w, r, http.StatusServiceUnavailable, errors.New("who you are cannot be looked up now"))
		default:
			c.fail(w, r, status(err), err)
		}
	})
}

type actorKey struct{}

func withActor(ctx context.Context, a act.Actor) context.Context {
	return context.WithValue(ctx, actorKey{}, a)
}

// actor is who sent a request that passed signedIn; nobody, who may do nothing, for any other.
func actor(ctx context.Context) act.Actor {
	a, _ := ctx.Value(actorKey{}).(act.Actor)
	return a
}

// secure sets the headers that keep other pages and their scripts away.
func secure(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self'; "+
			"manifest-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Permissions-Policy", "geolocation=(), camera=(), microphone=()")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

// Status is the HTTP status of an error, of pages and of the API.
func Status(err error) int { return status(err) }

func status(err error) int {
	switch {
	case errors.Is(err, view.ErrNotFound), errors.Is(err, act.ErrNotFound):
		return http.StatusNotFound
	case errors.Is(err, view.ErrUsage), errors.Is(err, act.ErrUsage), errors.Is(err, explore.ErrUsage):
		return http.StatusBadRequest
	case errors.Is(err, act.ErrForbidden), errors.Is(err, access.ErrForbidden), errors.Is(err, access.ErrNoRole):
		return http.StatusForbidden
	case errors.Is(err, access.ErrSignedOut), errors.Is(err, access.ErrBadToken), errors.Is(err, access.ErrBadPassword), errors.Is(err, access.ErrRefused):
		return http.StatusUnauthorized
	case errors.Is(err, access.ErrForeignHost):
		return http.StatusMisdirectedRequest
	case errors.Is(err, access.ErrTooMany), errors.Is(err, access.ErrBusy):
		return http.StatusTooManyRequests
	case errors.Is(err, access.ErrNoPass):
		return http.StatusNotFound
	case errors.Is(err, access.ErrInvalid):
		return http.StatusBadRequest
	case errors.Is(err, access.ErrProviderAway):
		return http.StatusBadGateway
	case errors.Is(err, view.ErrStarting):
		return http.StatusServiceUnavailable
	case errors.Is(err, act.ErrRuns), errors.Is(err, act.ErrConflict):
		return http.StatusConflict
	case errors.Is(err, act.ErrWaits):
		return http.StatusAccepted
	}
	return http.StatusInternalServerError
}

// liveState is what goes to open pages once a second.
type liveState struct {
	Now     int64   `json:"now"`   // ms of the service's clock
	Speed   float64 `json:"speed"` // of that clock
	AsOf    string  `json:"as_of"` // of the newest round, for a person
	Trouble string  `json:"trouble"`
}

func (c *Console) liveState() liveState {
	s := c.o.View.State()
	return liveState{Now: s.Now.UnixMilli(), Speed: c.o.Speed, AsOf: c.asOf(s), Trouble: s.Trouble}
}

// asOf is the time of the newest round for a person; empty where there was none.
func (c *Console) asOf(s view.State) string {
	if s.AsOf.IsZero() {
		return ""
	}
	return s.AsOf.In(c.o.View.Zone()).Format(time.TimeOnly)
}
