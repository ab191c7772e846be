package console

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/farebeat/farebeat/fleet/console/access"
	"github.com/farebeat/farebeat/fleet/console/act"
	"github.com/farebeat/farebeat/fleet/console/audit"
	"github.com/farebeat/farebeat/fleet/console/view"
)

// auditRows is how many entries a page of the audit log shows.
const auditRows = 100

// auditPage is what the page of the audit log shows.
type auditPage struct {
	Entries    []audit.Entry
	By, Action string
	Day        string
	Next       int64 // audit.Query.Before of the next page; 0: this is the last
}

func (c *Console) loadAudit(r *http.Request) (content, error) {
	q := r.URL.Query()
	p := auditPage{By: q.Get("by"), Action: q.Get("action"), Day: q.Get("day")}
	aq := audit.Query{By: p.By, Action: p.Action, Limit: auditRows + 1}
	if p.Day != "" {
		day, err := c.o.View.Day(p.Day)
		if err != nil {
			return content{}, err
		}
		aq.From, aq.To = day.From, day.To
	}
	if text := q.Get("before"); text != "" {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 1 {
			return content{}, fmt.Errorf("%w: before %q: want the number of an entry", view.ErrUsage, text)
		}
		aq.Before = n
	}
	list, err := c.o.Audit.List(r.Context(), aq)
	if err != nil {
		return content{}, err
	}
	if len(list) > auditRows {
		list = list[:auditRows]
		p.Next = list[auditRows-1].N
	}
	p.Entries = list
	return content{"Audit", p}, nil
}

// account is what the page of sessions and tokens shows.
type account struct {
	Sessions, Tokens []access.Pass
	Here             string // id of the session that looks
	Roles            []access.Role
	Secret, Label    string // of a token that was made just now
}

func (c *Console) loadAccount(r *http.Request) (content, error) {
	a, err := c.account(r.Context(), actor(r.Context()).Identity)
	return content{"Sessions and tokens", a}, err
}

func (c *Console) account(ctx context.Context, who access.Identity) (a account, err error) {
	a.Here = who.Pass
	for _, role := range access.Roles() {
		if who.Role.Covers(role) {
			a.Roles = append(a.Roles, role)
		}
	}
	if a.Sessions, err = c.o.Gate.Sessions(ctx, who); err != nil {
		return a, err
	}
	a.Tokens, err = c.o.Gate.Tokens(ctx, who)
	return a, err
}

const makeTokenPattern = "POST /account/tokens"

// makeToken makes an API token and shows its secret, this once.
func (c *Console) makeToken(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	who := actor(r.Context())
	days, err := strconv.Atoi(r.PostFormValue("days"))
	if err != nil || days < 1 {
		c.fail(w, r, http.StatusBadRequest, fmt.Errorf("%w: days %q: want for how many days the token is to hold", view.ErrUsage, r.PostFormValue("days")))
		return
	}
	want := access.TokenRequest{Label: r.PostFormValue("label"), Role: access.Role(r.PostFormValue("role")), ExpiresAt: time.Now().AddDate(0, 0, days)}
	secret, pass, err := c.o.Gate.NewToken(r.Context(), who.Identity, who.Remote, want)
	if err != nil {
		c.fail(w, r, status(err), err)
		return
	}
	a, err := c.account(r.Context(), who.Identity)
	if err != nil {
		c.fail(w, r, status(err), err)
		return
	}
	a.Secret, a.Label = secret, pass.Label
	c.write(w, r, http.StatusOK, "account", c.shell(r, content{"Sessions and tokens", a}, ""))
}

// revoke ends a session or token.
func (c *Console) revoke(ctx context.Context, who act.Actor, r *http.Request) (string, error) {
	return "/account", c.o.Gate.Revoke(ctx, who.Identity, who.Remote, r.PathValue("id"))
}
