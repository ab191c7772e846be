package api

import (
	"cmp"
	"context"
	"net/http"
	"net/url"
	"reflect"
	"strconv"

	"github.com/danielgtaylor/huma/v2"

	"github.com/farebeat/farebeat/fleet/console/access"
	"github.com/farebeat/farebeat/fleet/console/act"
)

// op is one operation, as the document has it.
type op struct {
	id, method, path, tag string
	summary, description  string
	need                  access.Role // least role; anyone: whoever asks
	status                int         // of the answer; 0: 200, or 204 where there is no body
	hides                 string      // action that the audit notes when the operation is refused to somebody; "" for none
	content               map[string]*huma.MediaType
	waits                 bool  // it may be answered with 202, with the same body
	most                  int64 // bytes of the body at most; 0: maxBody
}

// anyone is the role of operations that need none.
const anyone access.Role = "anyone"

const (
	roleExtension   = "x-role"
	actionExtension = "x-audit"
)

// maxBody bounds the body of a request in bytes, where its operation says nothing else.
const maxBody = 64 << 10

func (o op) operation(answer reflect.Type, schemas huma.Registry) huma.Operation {
	h := huma.Operation{
		OperationID: o.id, Method: o.method, Path: o.path, Summary: o.summary, Description: o.description, Tags: []string{o.tag},
		DefaultStatus: o.status, MaxBodyBytes: cmp.Or(o.most, maxBody), Extensions: map[string]any{roleExtension: string(o.need)},
	}
	if o.need != anyone {
		h.Security = []map[string][]string{{"token": {}}, {"session": {}}}
	}
	if o.hides != "" {
		h.Extensions[actionExtension] = o.hides
	}
	problem := &huma.MediaType{Schema: schemas.Schema(typeOf[huma.ErrorModel](), true, "")}
	h.Responses = map[string]*huma.Response{
		"default": {Description: "What is wrong, and what to do", Content: map[string]*huma.MediaType{"application/problem+json": problem}},
	}
	if o.content != nil {
		h.Responses[strconv.Itoa(cmp.Or(o.status, http.StatusOK))] = &huma.Response{Description: o.summary, Content: o.content}
	}
	if f, ok := answer.FieldByName("Body"); ok && o.waits {
		same := &huma.MediaType{Schema: schemas.Schema(f.Type, true, "")}
		h.Responses["202"] = &huma.Response{Description: "It is on disk, and will be done", Content: map[string]*huma.MediaType{"application/json": same}}
	}
	return h
}

// call is one call of an operation.
type call struct {
	context.Context
	who act.Actor
	url *url.URL
}

type callKey struct{}

func typeOf[T any]() reflect.Type { return reflect.TypeFor[T]() }

// register makes an operation. An error of do becomes a problem that names the operation.
func register[I, O any](a *API, o op, do func(c call, in *I) (*O, error)) {
	huma.Register(a.huma, o.operation(typeOf[O](), a.huma.OpenAPI().Components.Schemas), func(ctx context.Context, in *I) (*O, error) {
		c, _ := ctx.Value(callKey{}).(call)
		c.Context = ctx
		out, err := do(c, in)
		if err != nil {
			return nil, a.problem(ctx, o, err)
		}
		return out, nil
	})
}

// body is an answer with nothing but a body.
type body[T any] struct{ Body T }

// page is an answer that may have a next page.
type page[T any] struct {
	Link string `header:"Link" doc:"The next page, with rel=\"next\" (RFC 8288); not there on the last"`
	Body T
}

// next is the Link header of the page that a parameter of the query leads to; "" where value is.
func (c call) next(name, value string) string {
	if value == "" || c.url == nil {
		return ""
	}
	u := url.URL{Path: c.url.Path, RawPath: c.url.RawPath}
	q := c.url.Query()
	q.Set(name, value)
	u.RawQuery = q.Encode()
	return "<" + u.String() + `>; rel="next"`
}

// nextPage is next for lists that count pages.
func (c call) nextPage(page, pages int) string {
	if page >= pages {
		return ""
	}
	return c.next("page", strconv.Itoa(page+1))
}
