package api

import (
	"fmt"
	"net/http"
	"time"

	"github.com/farebeat/farebeat/fleet/console/access"
	"github.com/farebeat/farebeat/fleet/console/view"
	"github.com/farebeat/farebeat/fleet/expect"
)

// Paged are the parameters of lists that count pages.
type Paged struct {
	Page  int `query:"page" minimum:"1" maximum:"1000000" doc:"From 1"`
	Limit int `query:"limit" minimum:"1" maximum:"500" doc:"Rows of a page; 50 without it"`
}

type routesIn struct {
	Day   string `query:"day" format:"date" doc:"Today without it"`
	Find  string `query:"find" maxLength:"256" doc:"Only routes whose name contains this, case ignored"`
	Order string `query:"order" enum:"name,worst" doc:"name without it"`
	Paged
}

type routeIn struct {
	Route string `path:"route" maxLength:"256"`
	Day   string `query:"day" format:"date" doc:"Today without it"`
}

type minutesIn struct {
	Route string    `path:"route" maxLength:"256"`
	From  time.Time `query:"from" required:"true" doc:"The first minute that ends at this time or later"`
	To    time.Time `query:"to" required:"true" doc:"Only minutes that end before this time; at most 31 days after from"`
}

// Minutes are the stored minutes of a route.
type Minutes struct {
	Route   string        `json:"route"`
	Minutes []view.Minute `json:"minutes"`
}

type expectIn struct {
	Route string    `query:"route" required:"true" minLength:"1" maxLength:"256"`
	At    time.Time `query:"at" doc:"Now without it"`
}

// maxMinutes bounds the time of one answer with minutes.
const maxMinutes = 31 * 24 * time.Hour

func (a *API) registerFleet() {
	register(a, op{id: "now", method: http.MethodGet, path: "/now", tag: "fleet", need: access.Viewer, summary: "How everything is at this moment"},
		func(c call, _ *struct{}) (*body[view.Now], error) {
			n, err := a.o.View.Now(c)
			return &body[view.Now]{n}, err
		})
	register(a, op{
		id: "routes", method: http.MethodGet, path: "/routes", tag: "fleet", need: access.Viewer, summary: "Routes over the hours of a day",
		description: "A cell's level says how the hour was: none (nothing expected, nothing there), nodata (nobody heard, which is not 0), ok, low, below, silent, ahead.",
	}, func(c call, in *routesIn) (*page[view.Grid], error) {
		g, err := a.o.View.Routes(c, view.GridQuery{Day: in.Day, Find: in.Find, Order: in.Order, Page: in.Page, Limit: in.Limit})
		return &page[view.Grid]{c.nextPage(g.Page, g.Pages), g}, err
	})
	register(a, op{id: "route", method: http.MethodGet, path: "/routes/{route}", tag: "fleet", need: access.Viewer, summary: "One route on one day, minute by minute"},
		func(c call, in *routeIn) (*body[view.RoutePage], error) {
			p, err := a.o.View.Route(c, in.Route, in.Day)
			return &body[view.RoutePage]{p}, err
		})
	register(a, op{id: "route_minutes", method: http.MethodGet, path: "/routes/{route}/minutes", tag: "fleet", need: access.Viewer, summary: "The stored minutes of a route"},
		func(c call, in *minutesIn) (*body[Minutes], error) {
			if !in.To.After(in.From) || in.To.Sub(in.From) > maxMinutes {
				return nil, fmt.Errorf("%w: from %s to %s: want up to 31 days, in this order", view.ErrUsage, in.From.Format(time.RFC3339), in.To.Format(time.RFC3339))
			}
			list, err := a.o.View.Minutes(c, in.Route, in.From, in.To)
			return &body[Minutes]{Minutes{in.Route, list}}, err
		})
	register(a, op{
		id: "expect", method: http.MethodGet, path: "/expect", tag: "fleet", need: access.Viewer, summary: "How many machines should be online on a route, and why",
		description: "What each source says, a number set by hand, the timetable, history, and which of them counts. All numbers are machines.",
	}, func(_ call, in *expectIn) (*body[expect.Why], error) {
		at := in.At
		if at.IsZero() {
			at = a.o.View.Clock()
		}
		return &body[expect.Why]{a.o.View.Why(in.Route, at.In(a.o.View.Zone()))}, nil
	})
	register(a, op{id: "series_status", method: http.MethodGet, path: "/series/status", tag: "fleet", need: access.Viewer, summary: "How far each InfluxDB has the online counts"},
		func(c call, _ *struct{}) (*body[view.SinkList], error) {
			list, err := a.o.View.Series(c)
			return &body[view.SinkList]{list}, err
		})
}
