package api

import (
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/farebeat/farebeat/fleet/console/access"
	"github.com/farebeat/farebeat/fleet/console/draft"
	"github.com/farebeat/farebeat/fleet/console/view"
)

type rulesIn struct {
	Find string `query:"find" maxLength:"256" doc:"Only routes whose name contains this, case ignored"`
	Hour int    `query:"hour" minimum:"0" maximum:"23" default:"-1" doc:"Of the local clock; this one without it"`
	Days string `query:"days" enum:"workday,saturday,sunday" doc:"Type of day; that of today without it"`
	Paged
}

type routeRulesIn struct {
	Route string `path:"route" maxLength:"256"`
	Days  string `query:"days" enum:"workday,saturday,sunday" doc:"Type of day; that of today without it"`
}

// RulesText is the rules file as it is, and whether it is in force.
type RulesText struct {
	draft.Text
	Standing draft.Standing `json:"standing"`
}

// RulesDraft is a text to be checked.
type RulesDraft struct {
	Text string `json:"text" maxLength:"262144" doc:"A rules file"`
}

// RulesTry says on what a draft is to be tried.
type RulesTry struct {
	Draft  string    `json:"draft" minLength:"1" maxLength:"64" doc:"As the check of its text named it"`
	From   time.Time `json:"from"`
	To     time.Time `json:"to" doc:"At most 31 days after from"`
	Route  string    `json:"route,omitempty" maxLength:"256" doc:"Only this one"`
	Source string    `json:"source,omitempty" enum:"hand,timetable,history" doc:"Take the numbers in the counts as one of these; without it what was expected is worked out again where the configuration says how, else they are taken as one of the timetable"`
}

// RulesSave says which draft is to become the rules file.
type RulesSave struct {
	Draft   string `json:"draft" minLength:"1" maxLength:"64"`
	Was     string `json:"was,omitempty" maxLength:"64" doc:"sum of the file that the draft was begun with; a file that is another by now is left alone"`
	Untried bool   `json:"untried,omitempty" doc:"Save it though it was not tried on past days with all routes"`
	Failing bool   `json:"failing,omitempty" doc:"Save it though the tests beside it fail"`
}

// desk is where rules are changed.
func (a *API) desk() (*draft.Desk, error) {
	if a.o.Rules == nil {
		return nil, fmt.Errorf("the rules: %w: they cannot be changed here", view.ErrNotFound)
	}
	return a.o.Rules, nil
}

// registerRules makes the operations about what is a fault.
func (a *API) registerRules() {
	register(a, op{
		id: "rules", method: http.MethodGet, path: "/rules", tag: "rules", need: access.Viewer, summary: "Thresholds of all routes in an hour, beside what the last weeks were",
	}, func(c call, in *rulesIn) (*page[view.RulesPage], error) {
		hour := ""
		if in.Hour >= 0 {
			hour = strconv.Itoa(in.Hour)
		}
		p, err := a.o.View.Rules(c, view.RulesQuery{Find: in.Find, Hour: hour, Days: in.Days, Page: in.Page, Limit: in.Limit})
		return &page[view.RulesPage]{c.nextPage(p.Page, p.Pages), p}, err
	})
	register(a, op{id: "rules_route", method: http.MethodGet, path: "/rules/routes/{route}", tag: "rules", need: access.Viewer, summary: "Thresholds of one route by hour, beside what the last weeks were"},
		func(c call, in *routeRulesIn) (*body[view.RouteRules], error) {
			p, err := a.o.View.RouteRules(c, in.Route, in.Days)
			return &body[view.RouteRules]{p}, err
		})
	register(a, op{id: "rules_file", method: http.MethodGet, path: "/rules/file", tag: "rules", need: access.Viewer, summary: "The rules file as it is, and whether it is in force"},
		func(_ call, _ *struct{}) (*body[RulesText], error) {
			desk, err := a.desk()
			if err != nil {
				return nil, err
			}
			text, err := desk.Current()
			return &body[RulesText]{RulesText{text, desk.Standing()}}, err
		})
	register(a, op{id: "rules_trial", method: http.MethodGet, path: "/rules/trial", tag: "rules", need: access.Viewer, summary: "The newest trial of rules on past days"},
		func(_ call, _ *struct{}) (*body[draft.Trial], error) {
			desk, err := a.desk()
			if err != nil {
				return nil, err
			}
			trial, ok := desk.Trial()
			if !ok {
				return nil, fmt.Errorf("trial: %w: none was begun since the start", view.ErrNotFound)
			}
			return &body[draft.Trial]{trial}, nil
		})
	a.registerRulesOrders()
}

func (a *API) registerRulesOrders() {
	register(a, op{
		id: "rules_check", method: http.MethodPost, path: "/rules/check", tag: "rules", need: access.Admin, hides: "rules_check", most: 1 << 20, summary: "Check a text as a rules file, and keep it as a draft",
		description: "What is wrong with it stands in problems, with its line. Tests beside the rules file are run.",
	}, func(c call, in *struct{ Body RulesDraft }) (*body[draft.Checked], error) {
		checked, err := a.o.Act.CheckRules(c, c.who, in.Body.Text)
		return &body[draft.Checked]{checked}, err
	})
	register(a, op{
		id: "rules_try", method: http.MethodPost, path: "/rules/try", tag: "rules", need: access.Admin, hides: "rules_try", status: http.StatusAccepted,
		summary:     "Judge past days by a draft",
		description: "It runs in the background, one at a time; GET /rules/trial says how far it is and what it found. Only a trial of all routes lets the draft be saved without untried.",
	}, func(c call, in *struct{ Body RulesTry }) (*body[draft.Trial], error) {
		b := in.Body
		trial, err := a.o.Act.TryRules(c, c.who, b.Draft, draft.Span{From: b.From, To: b.To, Route: b.Route, Source: b.Source})
		return &body[draft.Trial]{trial}, err
	})
	register(a, op{
		id: "rules_save", method: http.MethodPost, path: "/rules/save", tag: "rules", need: access.Admin, hides: "rules_save", summary: "Make a draft the rules file",
		description: "It is on disk when this answers, and in force some seconds later: GET /rules/file says whether. The text of before is kept beside it.",
	}, func(c call, in *struct{ Body RulesSave }) (*body[draft.Saved], error) {
		b := in.Body
		saved, err := a.o.Act.SaveRules(c, c.who, draft.Saving{ID: b.Draft, Was: b.Was, Untried: b.Untried, Failing: b.Failing})
		return &body[draft.Saved]{saved}, err
	})
}
