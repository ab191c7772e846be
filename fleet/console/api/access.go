package api

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/farebeat/farebeat/fleet/console/access"
	"github.com/farebeat/farebeat/fleet/console/audit"
	"github.com/farebeat/farebeat/fleet/console/view"
)

// Passes are sessions or tokens.
type Passes struct {
	Passes []access.Pass `json:"passes"` // made last first
}

// NewToken is what a token is to be.
type NewToken struct {
	Label     string    `json:"label" minLength:"1" maxLength:"64" doc:"What it is for"`
	Role      string    `json:"role" enum:"viewer,operator,admin" doc:"The most that it may; not above yours"`
	ExpiresAt time.Time `json:"expires_at" doc:"Within the next year"`
}

// MadeToken is a token with its secret, which is told this once.
type MadeToken struct {
	Secret string      `json:"secret"`
	Token  access.Pass `json:"token"`
}

type passIn struct {
	ID string `path:"id" maxLength:"64"`
}

type auditIn struct {
	Day    string    `query:"day" format:"date" doc:"Only of this day; in place of from and to"`
	From   time.Time `query:"from" doc:"From this time on"`
	To     time.Time `query:"to" doc:"Before this time"`
	By     string    `query:"by" maxLength:"128" doc:"Only what this person did"`
	Action string    `query:"action" maxLength:"32" doc:"Only this action"`
	Before int64     `query:"before" minimum:"1" doc:"Number of the last entry of the page before"`
	Limit  int       `query:"limit" minimum:"1" maximum:"1000" doc:"Entries of a page; 100 without it"`
}

// AuditList is a page of the audit log.
type AuditList struct {
	Entries []audit.Entry `json:"entries"` // newest first
	Next    int64         `json:"next,omitempty" doc:"before of the next page; not there on the last"`
}

func (a *API) registerAccess() {
	for _, k := range []struct {
		kind access.Kind
		list func(call) ([]access.Pass, error)
	}{
		{access.Token, func(c call) ([]access.Pass, error) { return a.o.Gate.Tokens(c, c.who.Identity) }},
		{access.Session, func(c call) ([]access.Pass, error) { return a.o.Gate.Sessions(c, c.who.Identity) }},
	} {
		name := string(k.kind)
		register(a, op{id: name + "s", method: http.MethodGet, path: "/" + name + "s", tag: "access", need: access.Viewer, summary: "Your " + name + "s; for an admin everybody's"},
			func(c call, _ *struct{}) (*body[Passes], error) {
				list, err := k.list(c)
				return &body[Passes]{Passes{append([]access.Pass{}, list...)}}, err
			})
		register(a, op{
			id: name + "_end", method: http.MethodDelete, path: "/" + name + "s/{id}", tag: "access", need: access.Viewer, hides: name + "_end",
			summary: "End a " + name + " of yours; as an admin anybody's",
		}, func(c call, in *passIn) (*struct{}, error) {
			list, err := k.list(c)
			if err != nil {
				return nil, err
			}
			if !slices.ContainsFunc(list, func(p access.Pass) bool { return p.ID == in.ID }) {
				return nil, fmt.Errorf("%s %q: %w", name, in.ID, view.ErrNotFound)
			}
			return nil, a.o.Gate.Revoke(c, c.who.Identity, c.who.Remote, in.ID)
		})
	}
	register(a, op{
		id: "token_new", method: http.MethodPost, path: "/tokens", tag: "access", need: access.Viewer, hides: "token_new", status: http.StatusCreated,
		summary: "Make a token", description: "The secret is told this once. People who signed in make tokens; a token makes none.",
	}, func(c call, in *struct{ Body NewToken }) (*body[MadeToken], error) {
		want := access.TokenRequest{Label: in.Body.Label, Role: access.Role(in.Body.Role), ExpiresAt: in.Body.ExpiresAt}
		secret, pass, err := a.o.Gate.NewToken(c, c.who.Identity, c.who.Remote, want)
		return &body[MadeToken]{MadeToken{secret, pass}}, err
	})
	register(a, op{id: "audit", method: http.MethodGet, path: "/audit", tag: "access", need: access.Operator, summary: "What people did at the console and over the API, newest first"},
		func(c call, in *auditIn) (*page[AuditList], error) {
			q := audit.Query{From: in.From, To: in.To, By: in.By, Action: in.Action, Before: in.Before, Limit: in.Limit}
			if in.Day != "" {
				day, err := a.o.View.Day(in.Day)
				if err != nil {
					return nil, err
				}
				q.From, q.To = day.From, day.To
			}
			most := q.Most()
			list, err := a.o.Audit.List(c, q)
			out := AuditList{Entries: append([]audit.Entry{}, list...)}
			next := ""
			if len(list) == most { // there may be more
				out.Next = list[most-1].N
				next = strconv.FormatInt(out.Next, 10)
			}
			return &page[AuditList]{c.next("before", next), out}, err
		})
}
