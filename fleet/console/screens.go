package console

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/farebeat/farebeat/fleet/console/access"
	"github.com/farebeat/farebeat/fleet/console/view"
)

// screens lists every page that is shown.
func (c *Console) screens() []screen {
	return []screen{
		{pattern: "GET /{$}", name: "now", nav: "Now", need: access.Viewer, live: []string{"now.body"}, load: c.loadNow},
		{pattern: "GET /routes", name: "routes", nav: "Routes", need: access.Viewer, live: []string{"routes.grid"}, load: c.loadRoutes},
		{pattern: "GET /routes/{id}", name: "route", nav: "Routes", need: access.Viewer, live: []string{"route.body"}, load: c.loadRoute},
		{pattern: "GET /faults", name: "faults", nav: "Faults", need: access.Viewer, live: []string{"faults.list"}, load: c.loadFaults},
		{pattern: "GET /faults/{id}", name: "fault", nav: "Faults", need: access.Viewer, live: []string{"fault.head", "fault.recovery", "fault.life"}, load: c.loadFault},
		{pattern: "GET /machines", name: "machines", nav: "Machines", need: access.Viewer, live: []string{"machines.list"}, load: c.loadMachines},
		{pattern: "GET /machines/{id}", name: "machine", nav: "Machines", need: access.Viewer, live: []string{"machine.body"}, load: c.loadMachine},
		{pattern: "GET /search", name: "search", need: access.Viewer, load: c.loadSearch},
		{pattern: "GET /ledger", name: "ledger", nav: "Ledger", need: access.Viewer, live: []string{"ledger.sum", "ledger.rows", "ledger.proof"}, load: c.loadLedger},
		{pattern: "GET /ledger/{machine}", name: "ledger_machine", nav: "Ledger", need: access.Viewer, load: c.loadMachineBook},
		{pattern: "GET /rules", name: "rules", nav: "Rules", need: access.Viewer, live: []string{"rules.standing", "rules.hour"}, load: c.loadRules},
		{pattern: "GET /rules/edit", name: "rules_edit", nav: "Rules", need: access.Admin, live: []string{"rules.save", "rules.trial"}, load: c.loadRulesEdit},
		{pattern: "GET /rules/route/{route}", name: "rules_route", nav: "Rules", need: access.Viewer, load: c.loadRouteRules},
		{pattern: "GET /broker", name: "broker", nav: "Broker", need: access.Viewer, live: []string{"broker.body"}, load: c.loadBroker},
		{pattern: "GET /audit", name: "audit", nav: "Audit", need: access.Operator, load: c.loadAudit},
		{pattern: "GET /account", name: "account", need: access.Viewer, load: c.loadAccount},
		{pattern: "GET /topics", name: "topics", nav: "Topics", need: access.Viewer, live: []string{"topics.level", "topics.topic", "topics.payload"}, load: c.loadTopics},
		{pattern: "GET /{rest...}", name: "error", need: access.Viewer, load: func(r *http.Request) (content, error) {
			return content{}, fmt.Errorf("%s: %w", r.URL.Path, view.ErrNotFound)
		}},
	}
}

// pageNumber reads the page of the query; 0 where it is not there.
func pageNumber(q url.Values) (int, error) {
	text := q.Get("page")
	if text == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > 1_000_000 {
		return 0, fmt.Errorf("%w: page %q: want a number from 1", view.ErrUsage, text)
	}
	return n, nil
}

func (c *Console) loadNow(r *http.Request) (content, error) {
	n, err := c.o.View.Now(r.Context())
	return content{"Now", n}, err
}

func (c *Console) loadRoutes(r *http.Request) (content, error) {
	q := r.URL.Query()
	page, err := pageNumber(q)
	if err != nil {
		return content{}, err
	}
	g, err := c.o.View.Routes(r.Context(), view.GridQuery{Day: q.Get("day"), Find: q.Get("find"), Order: q.Get("order"), Page: page})
	return content{"Routes and hours", g}, err
}

func (c *Console) loadFaults(r *http.Request) (content, error) {
	q := r.URL.Query()
	fq := view.FaultQuery{
		Show: q.Get("show"), Machine: q.Get("machine"), Route: q.Get("route"), Vehicle: q.Get("vehicle"), Kind: q.Get("kind"), Parent: q.Get("parent"), After: q.Get("after"),
	}
	list, err := c.o.View.Faults(r.Context(), fq)
	if fq.Show == "" {
		fq.Show = "open"
	}
	return content{"Faults", struct {
		view.FaultList
		Query view.FaultQuery
	}{list, fq}}, err
}

func (c *Console) loadFault(r *http.Request) (content, error) {
	p, err := c.o.View.Fault(r.Context(), r.PathValue("id"))
	if err != nil {
		return content{}, err
	}
	subject := p.Fault.Subject.String()
	return content{p.Fault.Title + ", " + subject, struct {
		view.FaultPage
		Commands []command
	}{p, c.commandsOf(p.Fault.Subject.Machine)}}, nil
}

func (c *Console) loadMachines(r *http.Request) (content, error) {
	q := r.URL.Query()
	page, err := pageNumber(q)
	if err != nil {
		return content{}, err
	}
	list, err := c.o.View.Machines(r.Context(), view.MachineQuery{State: q.Get("state"), Find: q.Get("find"), Order: q.Get("order"), Page: page})
	return content{"Machines", list}, err
}

func (c *Console) loadMachine(r *http.Request) (content, error) {
	p, err := c.o.View.Machine(r.Context(), r.PathValue("id"))
	if err != nil {
		return content{}, err
	}
	return content{"Machine " + p.Machine.Machine, struct {
		view.MachinePage
		Bar24    []barPiece
		Commands []command
	}{p, barOf(p.History), c.commandsOf(p.Machine.Machine)}}, nil
}

func (c *Console) loadBroker(r *http.Request) (content, error) {
	q := r.URL.Query()
	page, err := pageNumber(q)
	if err != nil {
		return content{}, err
	}
	b, err := c.o.View.Broker(r.Context(), view.BrokerQuery{Find: q.Get("find"), Page: page})
	return content{"Broker", b}, err
}

// found is one thing that a search found.
type found struct{ Kind, Name, Link, Text string }

// loadSearch looks for machines, vehicles, routes and faults by their names.
func (c *Console) loadSearch(r *http.Request) (content, error) {
	text := strings.TrimSpace(r.URL.Query().Get("q"))
	var list []found
	if text != "" {
		if f, err := c.o.View.Fault(r.Context(), text); err == nil {
			list = append(list, found{"fault", f.Fault.ID, view.FaultLink(f.Fault.ID), f.Fault.Reason})
		}
		grid, err := c.o.View.Routes(r.Context(), view.GridQuery{Find: text, Limit: 50})
		if err != nil {
			return content{}, err
		}
		for _, row := range grid.Rows {
			note := ""
			if row.Now != nil {
				note = fmt.Sprintf("%d online of %d expected", row.Now.Online, row.Now.Expected)
			}
			list = append(list, found{"route", row.Route, view.RouteLink(row.Route), note})
		}
		machines, err := c.o.View.Machines(r.Context(), view.MachineQuery{Find: text, Limit: 100})
		if err != nil {
			return content{}, err
		}
		for _, m := range machines.Machines {
			note := string(m.State)
			if m.Vehicle != "" {
				note = "vehicle " + m.Vehicle + ", " + note
			}
			list = append(list, found{"machine", m.Machine, view.MachineLink(m.Machine), note})
		}
	}
	return content{"Search", struct {
		Text string
		List []found
	}{text, list}}, nil
}
