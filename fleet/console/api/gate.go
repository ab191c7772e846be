package api

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/farebeat/farebeat/fleet/console/access"
	"github.com/farebeat/farebeat/fleet/console/act"
	"github.com/farebeat/farebeat/fleet/limit"
)

// admit lets those calls on whose caller may, before anything of them is read but the address.
func (a *API) admit(ctx huma.Context, next func(huma.Context)) {
	r, w := humago.Unwrap(ctx)
	o := ctx.Operation()
	refuse := func(code int, text string) {
		writeProblem(w, r, code, o.OperationID+": "+text+wayOut(code))
	}
	address := limit.Address(r.RemoteAddr)
	if wait := a.limits.address(address, a.o.Wall()); wait > 0 {
		tooMany(w, refuse, wait)
		return
	}
	if text := addressProblem(r); text != "" {
		refuse(http.StatusUnprocessableEntity, text)
		return
	}
	c := call{url: r.URL}
	if need := needOf(o); need != anyone {
		who, err := a.o.Gate.Identify(r)
		if err != nil {
			a.refuseWho(w, r, o, err, refuse)
			return
		}
		c.who = act.Actor{Identity: who, Remote: address}
		if wait := a.limits.pass(who.Pass, address, a.o.Wall()); wait > 0 {
			tooMany(w, refuse, wait)
			return
		}
		if !who.Role.Covers(need) {
			refuse(http.StatusForbidden, a.noteRefusal(r, o, c.who, need).Error())
			return
		}
	}
	next(huma.WithValue(ctx, callKey{}, c))
}

// needOf is the role that the document says; of an operation without one nobody has enough.
func needOf(o *huma.Operation) access.Role {
	role, _ := o.Extensions[roleExtension].(string)
	return access.Role(role)
}

// noteRefusal is why somebody may not. What would have done something stands in the audit, too.
func (a *API) noteRefusal(r *http.Request, o *huma.Operation, who act.Actor, need access.Role) error {
	err := fmt.Errorf("%w: it needs the role %s, %s has the role %s", act.ErrForbidden, need, who.Name, who.Role)
	action, _ := o.Extensions[actionExtension].(string)
	if action == "" {
		return err
	}
	if noted := a.o.Act.Note(r.Context(), who, need, action, r.URL.Path, "refused by the API"); !errors.Is(noted, act.ErrForbidden) {
		a.o.Logger.ErrorContext(r.Context(), "that somebody was refused could not be written into the audit log", "operation", o.OperationID, "error", noted)
	}
	return err
}

// refuseWho answers somebody of whom it is not known who they are.
func (a *API) refuseWho(w http.ResponseWriter, r *http.Request, o *huma.Operation, err error, refuse func(int, string)) {
	code := a.o.Status(err)
	switch {
	case errors.Is(err, access.ErrBadToken):
		w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
	case code == http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", "Bearer")
	case code >= http.StatusInternalServerError:
		a.o.Logger.ErrorContext(r.Context(), "who calls the API could not be looked up", "operation", o.OperationID, "error", err)
		refuse(http.StatusServiceUnavailable, "who you are cannot be looked up now")
		return
	}
	refuse(code, err.Error())
}

func tooMany(w http.ResponseWriter, refuse func(int, string), wait time.Duration) {
	w.Header().Set("Retry-After", strconv.Itoa(int(wait.Seconds())+1))
	refuse(http.StatusTooManyRequests, "too many calls")
}

// addressProblem says what is wrong with an address: the library would take the first of two values, and nobody should have to look for a
// machine whose name has a line break.
func addressProblem(r *http.Request) string {
	bad := func(s string) bool { return !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) }
	if bad(r.URL.Path) {
		return "the path has a character that no name has: want UTF-8 without control characters"
	}
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return "the query cannot be read: " + strings.ToValidUTF8(err.Error(), "?")
	}
	for name, values := range q {
		switch {
		case bad(name) || slices.ContainsFunc(values, bad):
			return fmt.Sprintf("query %+q: it has a character that no value has: want UTF-8 without control characters", name)
		case len(values) > 1:
			return fmt.Sprintf("query %+q: it stands there %d times: want it once", name, len(values))
		}
	}
	return ""
}
