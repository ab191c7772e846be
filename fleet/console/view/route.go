package view

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/farebeat/farebeat/fleet/counts"
	"github.com/farebeat/farebeat/fleet/expect"
	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/presence"
)

// Minute is one stored minute of a route.
type Minute struct {
	At        time.Time `json:"at"` // its end
	Online    int       `json:"online"`
	Min       int       `json:"min"`
	Max       int       `json:"max"`
	Known     int       `json:"known"`
	Expected  int       `json:"expected"` // the most in its hour
	Threshold int       `json:"threshold"`
	Blind     bool      `json:"blind"`
}

// RoutePage is one route over a day.
type RoutePage struct {
	State    State              `json:"state"`
	Route    string             `json:"route"`
	Day      Day                `json:"day"`
	Now      *RouteIn           `json:"now,omitempty"` // of today only
	Minutes  []Minute           `json:"minutes"`
	Plan     []Step             `json:"expected"` // what is expected over the day, as is known now
	Faults   []FaultRow         `json:"faults"`   // of the route itself, that stood on that day
	Machines []MachineRow       `json:"machines"` // that said last that they are on it; of today only
	Why      expect.Expectation `json:"-"`
	Rule     string             `json:"rule"` // in force now, as YAML
}

// Step is from when on a number is expected.
type Step struct {
	At       time.Time `json:"at"`
	Expected int       `json:"expected"`
}

// maxRouteMachines bounds the machines of a route's page.
const maxRouteMachines = 500

// Route tells about one route on one day.
func (r *Reader) Route(ctx context.Context, route, date string) (RoutePage, error) {
	p := RoutePage{State: r.State(), Route: route, Minutes: []Minute{}, Machines: []MachineRow{}, Faults: []FaultRow{}}
	var err error
	if p.Day, err = r.Day(date); err != nil {
		return p, err
	}
	if p.Minutes, err = r.Minutes(ctx, route, p.Day.From, p.Day.To); err != nil {
		return p, err
	}
	list, err := r.o.Store.Faults().List(ctx, faults.Query{Route: route, From: p.Day.From, To: p.Day.To, Limit: 500})
	if err != nil {
		return p, fmt.Errorf("list the faults of route %s: %w", route, err)
	}
	for _, f := range list {
		if f.Subject.Route == route {
			p.Faults = append(p.Faults, r.faultRow(f, 0))
		}
	}
	p.Plan = r.plan(route, p.Day)
	now := r.o.Now()
	p.Why, _ = r.o.Expect.Expect(route, now)
	p.Why.Source = cmp.Or(p.Why.Source, expect.SourceNone)
	if y, err := r.o.Rules().Rule(route, now.In(r.o.Zone), p.Why.Source).YAML(); err == nil {
		p.Rule = string(y)
	}
	o, err := r.current()
	if err != nil || !p.Day.Today {
		return p, r.knownRoute(&p)
	}
	for _, v := range o.Routes {
		if v.Route == route {
			in := routeIn(v, o.Blind)
			p.Now = &in
		}
	}
	r.o.Fleet().Engine().Presence().Each(func(v presence.View) {
		if v.Route == route && len(p.Machines) < maxRouteMachines {
			p.Machines = append(p.Machines, r.machineRow(v))
		}
	})
	slices.SortFunc(p.Machines, byWorst)
	return p, r.knownRoute(&p)
}

// knownRoute is ErrNotFound where nothing is known of a route.
func (r *Reader) knownRoute(p *RoutePage) error {
	planned := slices.ContainsFunc(p.Plan, func(s Step) bool { return s.Expected > 0 })
	if p.Now == nil && len(p.Minutes) == 0 && len(p.Faults) == 0 && !planned && p.Why.Source == expect.SourceNone {
		return fmt.Errorf("route %s on %s: %w: nothing was expected or heard there", p.Route, p.Day.Date, ErrNotFound)
	}
	return nil
}

// Minutes lists the stored minutes of a route that end in [from, to).
func (r *Reader) Minutes(ctx context.Context, route string, from, to time.Time) ([]Minute, error) {
	out := []Minute{}
	err := r.o.Store.Counts().Frames(ctx, from, to, func(f counts.Frame) error {
		i, ok := slices.BinarySearchFunc(f.Rows, route, func(p counts.RouteMinute, route string) int { return strings.Compare(p.Route, route) })
		if ok {
			p := f.Rows[i]
			out = append(out, Minute{f.At, p.Online, p.Min, p.Max, p.Known, p.Expected, p.Threshold, f.Blind})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the minutes of route %s: %w", route, err)
	}
	return out, nil
}

// planEvery is how finely an expectation is looked at.
const planEvery = 5 * time.Minute

// plan is what is expected over a day, a step for each change.
func (r *Reader) plan(route string, d Day) []Step {
	var out []Step
	for at := d.From; at.Before(d.To); at = at.Add(planEvery) {
		exp, _ := r.o.Expect.Expect(route, at)
		if len(out) == 0 || out[len(out)-1].Expected != exp.Now {
			out = append(out, Step{at, exp.Now})
		}
	}
	return out
}
