package console

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/farebeat/farebeat/fleet/console/access"
	"github.com/farebeat/farebeat/fleet/console/act"
	"github.com/farebeat/farebeat/fleet/console/view"
	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/schemas"
)

// order is what a form orders.
type order struct {
	pattern string
	done    string // key of doneText
	// follow does it and returns the page to show then; "" for the one that it came from.
	follow func(ctx context.Context, who act.Actor, r *http.Request) (string, error)
}

// orders lists what can be ordered by forms.
func (c *Console) orders() []order {
	list := []order{
		{"POST /machines/{id}/collect", "collect", c.collect},
		{"POST /reports", "report", c.report},
		{"POST /ledger/verify", "verify", func(ctx context.Context, who act.Actor, r *http.Request) (string, error) {
			return "", c.o.Act.Prove(ctx, who, r.PostFormValue("machine"))
		}},
		{"POST /rules/check", "rules_check", c.checkRules},
		{"POST /rules/try", "rules_try", c.tryRules},
		{"POST /rules/stop", "rules_stop", func(ctx context.Context, who act.Actor, _ *http.Request) (string, error) {
			return "", c.o.Act.StopRulesTrial(ctx, who)
		}},
		{"POST /rules/save", "rules_save", c.saveRules},
		{"POST /account/passes/{id}/revoke", "revoke", c.revoke},
	}
	for _, verb := range []faults.Verb{faults.VerbAcknowledge, faults.VerbAssign, faults.VerbShelve, faults.VerbUnsee, faults.VerbAbandon, faults.VerbNote} {
		list = append(list, order{"POST /faults/{id}/" + string(verb), string(verb), func(ctx context.Context, who act.Actor, r *http.Request) (string, error) {
			return "", c.attend(ctx, who, verb, r)
		}})
	}
	return list
}

// Orders lists the patterns of everything that a form can order, to try each.
func (c *Console) Orders() []string {
	list := []string{makeTokenPattern}
	for _, o := range c.orders() {
		list = append(list, o.pattern)
	}
	return list
}

// doneText is what a page says of the order that led to it.
func doneText(key string) string {
	switch key {
	case "acknowledge":
		return "Acknowledged."
	case "assign":
		return "Assigned to you."
	case "shelve":
		return "Put aside."
	case "unsee":
		return "As if nobody had seen it."
	case "abandon":
		return "Closed by hand. It stays quiet until the machine or route is well once."
	case "note":
		return "Noted."
	case "collect":
		return "The gateway was asked to read the machine now. How it goes stands below."
	case "report":
		return "Reported. It becomes a fault, or joins the one that stands, with the next round."
	case "verify":
		return "The ledger is being proved. How far it is stands below."
	case "rules_check":
		return "Checked. What was found stands below."
	case "rules_try":
		return "It is being tried. How far it is stands below."
	case "rules_stop":
		return "Stopped."
	case "rules_save":
		return "Saved. It is in force within seconds; whether it is stands below."
	case "revoke":
		return "Revoked: whoever holds it is out."
	}
	return ""
}

// maxForm bounds a form in bytes: a rules file is the largest, and a form writes many letters as three.
const maxForm = 1 << 20

// order serves one kind of order.
func (c *Console) order(o order) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		if err := r.ParseForm(); err != nil {
			c.fail(w, r, http.StatusBadRequest, fmt.Errorf("%w: the form: %w", view.ErrUsage, err))
			return
		}
		next, err := o.follow(r.Context(), actor(r.Context()), r)
		if err != nil {
			c.fail(w, r, status(err), err)
			return
		}
		if next == "" {
			next = access.LocalPath(r.PostFormValue("back"))
		}
		u, err := url.Parse(next)
		if err != nil {
			u = &url.URL{Path: "/"}
		}
		q := u.Query()
		q.Set("done", o.done)
		u.RawQuery = q.Encode()
		http.Redirect(w, r, u.RequestURI(), http.StatusSeeOther)
	}
}

// maxShelf is the longest time that a form puts a fault aside for.
const maxShelf = 30 * 24 * time.Hour

func (c *Console) attend(ctx context.Context, who act.Actor, verb faults.Verb, r *http.Request) error {
	o := faults.Order{Verb: verb, Fault: r.PathValue("id"), Note: r.PostFormValue("note")}
	if text := r.PostFormValue("for"); text != "" {
		d, err := time.ParseDuration(text)
		if err != nil || d <= 0 || d > maxShelf {
			return fmt.Errorf("%w: for how long %q: want a duration such as 2h", view.ErrUsage, text)
		}
		o.Until = c.o.View.Clock().Add(d).UTC().Truncate(time.Millisecond)
	}
	return c.o.Act.Attend(ctx, who, o)
}

func (c *Console) collect(ctx context.Context, who act.Actor, r *http.Request) (string, error) {
	_, err := c.o.Act.Collect(ctx, who, r.PathValue("id"), r.PostFormValue("vehicle"))
	return "", err
}

func (c *Console) report(ctx context.Context, who act.Actor, r *http.Request) (string, error) {
	rep := schemas.Report{Machine: r.PostFormValue("machine"), Route: r.PostFormValue("route"), Vehicle: r.PostFormValue("vehicle"), Text: r.PostFormValue("text")}
	if rep.Machine == "" && rep.Route == "" {
		return "", fmt.Errorf("%w: say which machine or route it is about", view.ErrUsage)
	}
	if rep.Text == "" {
		return "", fmt.Errorf("%w: say what is wrong with it", view.ErrUsage)
	}
	_, err := c.o.Act.Report(ctx, who, rep)
	return "", err
}

// command is one thing that was asked of a gateway, for a page.
type command = act.Command

// maxShown bounds the commands that a page lists.
const maxShown = 5

func (c *Console) commandsOf(machine string) []command {
	if machine == "" {
		return nil
	}
	list := c.o.Act.Commands(machine)
	return list[:min(len(list), maxShown)]
}
