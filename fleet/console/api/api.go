// Package api serves the HTTP API of the console, `/api/v1`: the same verbs as the command line, described by an OpenAPI 3.1 document that is
// made from the types here. It decides nothing: what it tells comes from package view, what is ordered goes through package act.
//
// Who calls is told by an API token, by the session of a browser, or by an address that stands open. What role an operation takes stands in the
// document as x-role, and is looked at before anything of the request is read. What is not in the document, be it a parameter or a field, is
// refused: a misspelt filter must not look like an answer.
package api

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"reflect"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/farebeat/farebeat/fleet/console/access"
	"github.com/farebeat/farebeat/fleet/console/act"
	"github.com/farebeat/farebeat/fleet/console/audit"
	"github.com/farebeat/farebeat/fleet/console/draft"
	"github.com/farebeat/farebeat/fleet/console/explore"
	"github.com/farebeat/farebeat/fleet/console/view"
	"github.com/farebeat/farebeat/fleet/ledger"
)

// Prefix is where the API begins.
const Prefix = "/api/v1"

// Options say what an API tells and who may use it. All but Rules, Explore, TIDES, Wall and Logger are required.
type Options struct {
	View   *view.Reader
	Act    *act.Actions
	Gate   *access.Gate
	Audit  audit.Log
	Status func(error) int // the HTTP status of an error of the packages above
	// Rules is where rules are changed, and Explore listens to the topic tree; nil: those operations answer that there is nothing.
	Rules   *draft.Desk
	Explore *explore.Explorer
	// TIDES writes a TIDES data package as a zip of what a filter selects; nil: the API has no such format.
	TIDES func(ctx context.Context, w io.Writer, f ledger.Filter) error
	// Wall is the clock on the wall, by which it is judged who calls too often; nil: time.Now.
	Wall   func() time.Time
	Logger *slog.Logger
}

// API is an HTTP handler for all under /api/. It is safe for concurrent use.
type API struct {
	o       Options
	huma    huma.API
	mux     *http.ServeMux
	handler http.Handler
	limits  *limits
	json    []byte // the document
	yaml    []byte
}

// New makes an API.
func New(o Options) (*API, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Wall == nil {
		o.Wall = time.Now
	}
	a := &API{o: o, mux: http.NewServeMux(), limits: newLimits()}
	a.huma = humago.NewWithPrefix(a.mux, Prefix, a.config())
	a.huma.UseMiddleware(a.admit)
	a.register()
	if err := a.seal(); err != nil {
		return nil, fmt.Errorf("api: %w", err)
	}
	a.mux.HandleFunc("/api/", a.nothingHere)
	protection := http.NewCrossOriginProtection()
	protection.SetDenyHandler(http.HandlerFunc(a.foreign))
	a.handler = protection.Handler(a.mux)
	return a, nil
}

// ServeHTTP implements http.Handler.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.handler.ServeHTTP(w, r) }

// Document is the OpenAPI document as JSON.
func (a *API) Document() []byte { return a.json }

// register makes all operations, in the order in which the document lists their tags.
func (a *API) register() {
	a.registerDocument()
	a.registerFleet()
	a.registerFaults()
	a.registerMachines()
	a.registerLedger()
	a.registerSheets()
	a.registerTickets()
	a.registerRules()
	a.registerTree()
	a.registerAccess()
}

// config is what the library is to do: JSON only, no pages, no links of its own in bodies.
func (a *API) config() huma.Config {
	format := huma.Format{Marshal: marshal, Unmarshal: json.Unmarshal}
	return huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info:    &huma.Info{Title: "Farebeat", Version: "1", Description: about()},
			Servers: []*huma.Server{{URL: Prefix}},
			Components: &huma.Components{
				Schemas: huma.NewMapRegistry("#/components/schemas/", schemaName),
				SecuritySchemes: map[string]*huma.SecurityScheme{
					"token":   {Type: "http", Scheme: "bearer", Description: "An API token, fbt_..., made at the console or by POST /tokens."},
					"session": {Type: "apiKey", In: "cookie", Name: "farebeat_session", Description: "The session of a browser; over TLS its name begins with __Host-."},
				},
			},
			Tags: []*huma.Tag{
				{Name: "fleet", Description: "What is online, and what should be."},
				{Name: "faults", Description: "What is broken, and what people do about it."},
				{Name: "machines", Description: "Payment machines, and what gateways are asked to do."},
				{Name: "ledger", Description: "What came home, what is missing, and its proof."},
				{Name: "sheets", Description: "Tables as CSV."},
				{Name: "tickets", Description: "Which gateway may open sessions with which machine."},
				{Name: "access", Description: "Tokens, sessions, and the book of what people did."},
				{Name: "document", Description: "This document."},
			},
		},
		Formats:                      map[string]huma.Format{"application/json": format, "json": format},
		DefaultFormat:                "application/json",
		RejectUnknownQueryParameters: true,
		Transformers:                 []huma.Transformer{a.explain},
	}
}

func about() string {
	return "Farebeat watches the payment machines of public transport and brings home what a broken one still holds.\n\n" +
		"An operation's `x-role` is the least role that may call it: viewer, operator or admin; anyone needs none. Times are RFC 3339, days " +
		"YYYY-MM-DD in the operator's zone. Money is in minor units of its ISO 4217 currency. Lists come in pages: `next`, or `page` of `pages`, and " +
		"the Link header names the next one. Errors are problem details (RFC 9457). Numbers are those of now only while `state.trouble` is not there."
}

// marshal writes JSON; markup stays escaped, so that it is inert wherever a body ends up.
func marshal(w io.Writer, v any) error { return json.NewEncoder(w).Encode(v) }

// schemaName names a type in the document by its package and itself, since packages have types of the same name.
func schemaName(t reflect.Type, hint string) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t == reflect.TypeFor[huma.ErrorModel]():
		return "Problem"
	case t == reflect.TypeFor[huma.ErrorDetail]():
		return "ProblemDetail"
	case t.Name() == "":
		return hint
	}
	pkg := t.PkgPath()[strings.LastIndex(t.PkgPath(), "/")+1:]
	if pkg == "" || pkg == "api" || pkg == "view" {
		return title(t.Name())
	}
	return title(pkg) + title(t.Name())
}

func title(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// document is the answer with the OpenAPI document.
type document struct {
	ContentType string `header:"Content-Type"`
	Body        []byte
}

// registerDocument serves the document to whoever asks: there is no secret in it.
func (a *API) registerDocument() {
	for _, f := range []struct {
		name, mime string
		body       *[]byte
	}{{"json", "application/openapi+json", &a.json}, {"yaml", "application/openapi+yaml", &a.yaml}} {
		register(a, op{
			id: "openapi_" + f.name, method: http.MethodGet, path: "/openapi." + f.name, tag: "document",
			summary: "The OpenAPI document as " + strings.ToUpper(f.name), need: anyone,
			content: map[string]*huma.MediaType{f.mime: {Schema: &huma.Schema{Type: huma.TypeObject}}},
		}, func(call, *struct{}) (*document, error) { return &document{f.mime, *f.body}, nil })
	}
}

// seal makes the document, which nobody changes after.
func (a *API) seal() (err error) {
	problem := a.huma.OpenAPI().Components.Schemas.Map()["Problem"]
	for _, name := range []string{"type", "instance"} {
		problem.Properties[name].Format = "uri-reference" // RFC 9457, 3.1; the library says uri
	}
	problem.Properties["instance"].Examples = []any{Prefix + "/faults"}
	if a.json, err = json.MarshalIndent(a.huma.OpenAPI(), "", "  "); err != nil {
		return err
	}
	a.json = append(a.json, '\n')
	a.yaml, err = a.huma.OpenAPI().YAML()
	return err
}

// nothingHere answers what no operation is for.
func (a *API) nothingHere(w http.ResponseWriter, r *http.Request) {
	var others []string
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		other := r.Clone(r.Context())
		other.Method = method
		if _, pattern := a.mux.Handler(other); pattern != "/api/" && pattern != "" {
			others = append(others, method)
		}
	}
	if len(others) == 0 {
		writeProblem(w, r, http.StatusNotFound, fmt.Sprintf("%s: there is no such operation: GET %s/openapi.json lists them", where(r), Prefix))
		return
	}
	w.Header().Set("Allow", strings.Join(others, ", "))
	writeProblem(w, r, http.StatusMethodNotAllowed, fmt.Sprintf("%s: it is not done with this method: use %s", where(r), strings.Join(others, " or ")))
}

// foreign answers what a browser sends for another site's page.
func (a *API) foreign(w http.ResponseWriter, r *http.Request) {
	writeProblem(w, r, http.StatusForbidden, where(r)+": another site's page asked for it: send it from a page of this console, or with a token and without an Origin header")
}
