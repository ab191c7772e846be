package console

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/farebeat/farebeat/fleet/console/act"
	"github.com/farebeat/farebeat/fleet/console/draft"
	"github.com/farebeat/farebeat/fleet/console/view"
)

func (c *Console) loadRules(r *http.Request) (content, error) {
	q := r.URL.Query()
	page, err := pageNumber(q)
	if err != nil {
		return content{}, err
	}
	p, err := c.o.View.Rules(r.Context(), view.RulesQuery{Find: q.Get("find"), Hour: q.Get("hour"), Days: q.Get("days"), Page: page})
	return content{"Rules", struct {
		view.RulesPage
		Desk *draft.Standing
	}{p, c.standing()}}, err
}

// standing is how the rules file stands; nil where rules are changed nowhere.
func (c *Console) standing() *draft.Standing {
	if c.o.Rules == nil {
		return nil
	}
	s := c.o.Rules.Standing()
	return &s
}

func (c *Console) loadRouteRules(r *http.Request) (content, error) {
	p, err := c.o.View.RouteRules(r.Context(), r.PathValue("route"), r.URL.Query().Get("days"))
	return content{"Rules of route " + r.PathValue("route"), p}, err
}

// rulesEdit is what the page shows on which rules are changed.
type rulesEdit struct {
	Desk   *draft.Standing
	Text   string // in the form
	Was    string // draft.Text.Sum of the file that it began with
	Draft  string // id of what was checked; empty: nothing was
	Check  *draft.Checked
	Tried  *draft.Trial // of this very draft, the last of all routes that was done
	Trial  *draft.Trial // the newest of all
	From   string       // dates of the form
	To     string
	NoFile bool
}

// triedDays is how many days a trial looks back where nobody says.
const triedDays = 7

func (c *Console) loadRulesEdit(r *http.Request) (content, error) {
	if c.o.Rules == nil {
		return content{}, fmt.Errorf("the rules: %w: they cannot be changed here", view.ErrNotFound)
	}
	now, err := c.o.Rules.Current()
	if err != nil {
		return content{}, err
	}
	q := r.URL.Query()
	today := c.o.View.Clock().In(c.o.View.Zone())
	e := rulesEdit{
		Desk: c.standing(), Text: now.Body, Was: q.Get("was"), NoFile: now.Default, To: today.Format(time.DateOnly), From: today.AddDate(0, 0, -triedDays).Format(time.DateOnly),
	}
	if trial, ok := c.o.Rules.Trial(); ok {
		e.Trial = &trial
	}
	if e.Was == "" {
		e.Was = now.Sum
	}
	if id := q.Get("draft"); id != "" {
		d, err := c.o.Rules.Draft(id)
		if errors.Is(err, draft.ErrGone) {
			return content{}, fmt.Errorf("%w: %w: begin again from the file as it is", view.ErrNotFound, err)
		}
		if err != nil {
			return content{}, err
		}
		e.Text, e.Draft, e.Check, e.Tried = d.Text, id, &d.Checked, d.Tried
	}
	return content{"Change the rules", e}, nil
}

// editAddress is the page of a draft.
func editAddress(id, was string) string {
	return "/rules/edit?" + url.Values{"draft": {id}, "was": {was}}.Encode()
}

func (c *Console) checkRules(ctx context.Context, who act.Actor, r *http.Request) (string, error) {
	checked, err := c.o.Act.CheckRules(ctx, who, r.PostFormValue("text"))
	return editAddress(checked.ID, r.PostFormValue("was")), err
}

func (c *Console) tryRules(ctx context.Context, who act.Actor, r *http.Request) (string, error) {
	from, err := c.o.View.Day(r.PostFormValue("from"))
	if err != nil {
		return "", err
	}
	to, err := c.o.View.Day(r.PostFormValue("to"))
	if err != nil {
		return "", err
	}
	id := r.PostFormValue("draft")
	_, err = c.o.Act.TryRules(ctx, who, id, draft.Span{From: from.From, To: to.To, Route: r.PostFormValue("route"), Source: r.PostFormValue("source")})
	return editAddress(id, r.PostFormValue("was")), err
}

func (c *Console) saveRules(ctx context.Context, who act.Actor, r *http.Request) (string, error) {
	_, err := c.o.Act.SaveRules(ctx, who, draft.Saving{
		ID: r.PostFormValue("draft"), Was: r.PostFormValue("was"), Untried: r.PostFormValue("untried") != "", Failing: r.PostFormValue("failing") != "",
	})
	return "/rules", err
}
