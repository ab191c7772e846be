package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/farebeat/farebeat/fleet/console/access"
)

// problem makes of an error what the caller is told: the operation, what is wrong, and the way out.
func (a *API) problem(ctx context.Context, o op, err error) error {
	var made *huma.ErrorModel
	if errors.As(err, &made) {
		return err
	}
	code := a.o.Status(err)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		code = http.StatusServiceUnavailable // nobody reads it
	}
	text := err.Error()
	if code == http.StatusInternalServerError {
		a.o.Logger.ErrorContext(ctx, "an operation of the API failed", "operation", o.id, "error", err)
		text = "it could not be done here"
	}
	p := newProblem(code, fmt.Sprintf("%s: %s%s", o.id, text, wayOut(code)))
	var wait access.TooMany
	if errors.As(err, &wait) {
		return huma.ErrorWithHeaders(p, http.Header{"Retry-After": {strconv.Itoa(int(wait.After.Seconds()) + 1)}})
	}
	return p
}

// wayOut is what to do about a status, behind what is wrong; "" where what is wrong says it.
func wayOut(code int) string {
	switch code {
	case http.StatusUnauthorized:
		return ": send an API token in the header Authorization: Bearer fbt_..."
	case http.StatusForbidden:
		return ": ask an admin of Farebeat for the role, or use a token of somebody who has it"
	case http.StatusNotFound:
		return ": the operation without an id lists what there is"
	case http.StatusTooManyRequests:
		return ": wait as long as the header Retry-After says"
	case http.StatusServiceUnavailable:
		return ": try again in some seconds"
	case http.StatusInternalServerError:
		return ": try again; if it stays, the log of farebeat says more"
	}
	return ""
}

func newProblem(code int, detail string) *huma.ErrorModel {
	return &huma.ErrorModel{Status: code, Title: http.StatusText(code), Detail: detail}
}

// explain completes the problems that the library finds in a request: it knows where, this says what of which operation and what to do.
func (a *API) explain(ctx huma.Context, _ string, v any) (any, error) {
	p, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	for _, e := range p.Errors {
		if e != nil {
			e.Value = nil // whoever sent it has it
		}
	}
	o := ctx.Operation()
	if p.Instance == "" {
		r, _ := humago.Unwrap(ctx)
		p.Instance = r.URL.EscapedPath()
	}
	if len(p.Errors) == 0 || strings.HasPrefix(p.Detail, o.OperationID+": ") {
		if !strings.HasPrefix(p.Detail, o.OperationID+": ") {
			p.Detail = o.OperationID + ": " + p.Detail + ": see the operation in " + Prefix + "/openapi.json"
		}
		return p, nil
	}
	first := p.Errors[0]
	p.Detail = fmt.Sprintf("%s: %s: %s: see the operation in %s/openapi.json", o.OperationID, first.Location, first.Message, Prefix)
	return p, nil
}

// where names a request that belongs to no operation.
func where(r *http.Request) string { return r.Method + " " + r.URL.EscapedPath() }

// writeProblem answers outside of an operation.
func writeProblem(w http.ResponseWriter, r *http.Request, code int, detail string) {
	p := newProblem(code, detail)
	p.Instance = r.URL.EscapedPath()
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(p) // who does not read it has hung up
}
