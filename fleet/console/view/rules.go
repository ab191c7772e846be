package view

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/farebeat/farebeat/fleet/expect"
	"github.com/farebeat/farebeat/fleet/expect/gtfs"
	"github.com/farebeat/farebeat/fleet/rules"
)

// RuleHour is what holds for a route in one hour of the clock, beside what the last weeks were.
type RuleHour struct {
	Route    string `json:"route"`
	Hour     int    `json:"hour"`        // 0 to 23, of the local clock
	Expected int    `json:"expected"`    // the most at once in it
	Source   string `json:"source"`      // of the expectation
	Sample   int    `json:"sample_size"` // days behind it
	// Fewer online than this is a breach: the least and the greatest within the hour; 0: nothing is.
	Threshold int         `json:"threshold"`
	Highest   int         `json:"threshold_highest"`
	Basis     rules.Basis `json:"basis"` // of the least one
	Why       string      `json:"why"`   // the same for a person
	For       string      `json:"for"`   // how long a breach must last
	Past      Past        `json:"past"`
	Present   bool        `json:"present"` // it is this hour now
	Now       *RouteIn    `json:"now,omitempty"`
}

// RulesQuery selects a page of the rules.
type RulesQuery struct {
	Find  string // only routes whose name contains this, case ignored
	Hour  string // 0 to 23; "": this one
	Days  string // workday, saturday or sunday; "": that of today
	Page  int    // from 1; 0: 1
	Limit int    // rows of a page, 1 to MaxPage; 0: 50
}

// RulesPage is every route in one hour, and what holds for all.
type RulesPage struct {
	State   State        `json:"state"`
	Span    RuleSpan     `json:"span"`
	Hour    int          `json:"hour"`
	Present bool         `json:"present"` // it is this hour now
	Routes  []RuleHour   `json:"routes"`
	All     int          `json:"all"` // rows on all pages
	Page    int          `json:"page"`
	Pages   int          `json:"pages"`
	Find    string       `json:"find,omitempty"`
	Groups  []RulesGroup `json:"groups"` // what is not of single routes, for a person
	YAML    string       `json:"yaml"`   // the whole set
}

// RuleSpan says which days are looked at.
type RuleSpan struct {
	Type  string   `json:"days"`  // workday, saturday or sunday
	Date  string   `json:"date"`  // the day that expectations and thresholds are of: today, or the next of the type
	Past  []string `json:"past"`  // dates of the last weeks, newest first
	Today bool     `json:"today"` // Date is today
	day   Day
	dates []Day
}

// RouteRules is one route over the hours of a day.
type RouteRules struct {
	State State      `json:"state"`
	Route string     `json:"route"`
	Span  RuleSpan   `json:"span"`
	Hours []RuleHour `json:"hours"`
	Rule  string     `json:"rule"` // in force now, as YAML
}

// DayTypes are the kinds of days whose days are compared.
func DayTypes() []string {
	return []string{expect.Workday.String(), expect.Saturday.String(), expect.Sunday.String()}
}

// pastWeeks is how far is looked back.
const pastWeeks = 4

// daysAhead is how many days ahead a day of a type is looked for.
const daysAhead = 14

// span finds the days of a type, of today's for "".
func (r *Reader) span(text string) (RuleSpan, error) {
	today, err := r.Day("")
	if err != nil {
		return RuleSpan{}, err
	}
	var days expect.Days
	if r.o.Days != nil {
		days = r.o.Days()
	}
	typeOf := func(d Day) string { return days.Type(gtfs.DateOf(d.From)).String() }
	s := RuleSpan{Type: text, Past: []string{}}
	if text == "" {
		s.Type = typeOf(today)
		if !slices.Contains(DayTypes(), s.Type) { // a day like none is compared with its weekday's
			s.Type = expect.Days{}.Type(gtfs.DateOf(today.From)).String()
		}
	}
	if !slices.Contains(DayTypes(), s.Type) {
		return s, fmt.Errorf("%w: days %q: want one of %s", ErrUsage, text, strings.Join(DayTypes(), ", "))
	}
	for i := range daysAhead {
		d := dayFrom(today.From.AddDate(0, 0, i))
		if d.Today = i == 0; typeOf(d) == s.Type || d.Today && text == "" {
			s.day, s.Date, s.Today = d, d.Date, d.Today
			break
		}
	}
	if s.Date == "" {
		return s, fmt.Errorf("%w: no %s in the next %d days", ErrNotFound, s.Type, daysAhead)
	}
	for i := 1; i <= 7*pastWeeks; i++ {
		if d := dayFrom(today.From.AddDate(0, 0, -i)); typeOf(d) == s.Type {
			s.dates, s.Past = append(s.dates, d), append(s.Past, d.Date)
		}
	}
	return s, nil
}

// dayFrom is the day that begins at a midnight.
func dayFrom(at time.Time) Day {
	return Day{Date: at.Format(time.DateOnly), From: at, To: at.AddDate(0, 0, 1)}
}

// at lists the beginnings of an hour of the clock on a day: mostly one; none or two where the clock is changed.
func (d Day) at(hour int) []time.Time {
	return slices.DeleteFunc(d.hours(), func(t time.Time) bool { return t.Hour() != hour })
}

// Rules tells the thresholds of all routes in one hour, and the rules that are not of routes.
func (r *Reader) Rules(ctx context.Context, q RulesQuery) (RulesPage, error) {
	p := RulesPage{State: r.State(), Find: q.Find, Page: max(q.Page, 1), Routes: []RuleHour{}}
	limit, err := pageSize(q.Limit)
	if err != nil {
		return p, err
	}
	if p.Span, err = r.span(q.Days); err != nil {
		return p, err
	}
	now := r.o.Now().In(r.o.Zone)
	p.Hour = now.Hour()
	if q.Hour != "" {
		if p.Hour, err = strconv.Atoi(q.Hour); err != nil || p.Hour < 0 || p.Hour > 23 {
			return p, fmt.Errorf("%w: hour %q: want 0 to 23", ErrUsage, q.Hour)
		}
	}
	p.Present = p.Span.Today && p.Hour == now.Hour()
	past, err := r.pastOfAll(ctx, p.Span, p.Hour)
	if err != nil {
		return p, err
	}
	set := r.o.Rules()
	names := r.ruledRoutes(p.Span, set, past, q.Find)
	p.All = len(names)
	p.Pages = max(1, (p.All+limit-1)/limit)
	p.Page = min(p.Page, p.Pages)
	live := r.routesNow()
	for _, route := range names[min(p.All, (p.Page-1)*limit):min(p.All, p.Page*limit)] {
		h := r.ruleHour(set, route, p.Span, p.Hour, past[route])
		if h.Present = p.Present; h.Present {
			h.Now = live[route]
		}
		p.Routes = append(p.Routes, h)
	}
	p.Groups = groupsOf(set, now)
	b, err := set.YAML()
	p.YAML = string(b)
	return p, err
}

// ruledRoutes lists the routes that are expected on the day, were there in the hour, are there now or are named by a rule.
func (r *Reader) ruledRoutes(span RuleSpan, set *rules.Set, past map[string][]pastSample, find string) []string {
	names := map[string]bool{}
	for _, route := range r.o.Expect.Routes(span.day.From.Add(12 * time.Hour)) {
		names[route] = true
	}
	for route := range past {
		names[route] = true
	}
	for route := range r.routesNow() {
		names[route] = true
	}
	for _, n := range set.Named() {
		names[n.Route] = true
	}
	find = strings.ToLower(find)
	list := make([]string, 0, len(names))
	for route := range names {
		if strings.Contains(strings.ToLower(route), find) {
			list = append(list, route)
		}
	}
	slices.SortFunc(list, CompareNatural)
	return list
}

// routesNow are the routes of the newest round.
func (r *Reader) routesNow() map[string]*RouteIn {
	o, err := r.current()
	if err != nil {
		return nil
	}
	out := make(map[string]*RouteIn, len(o.Routes))
	for _, v := range o.Routes {
		in := routeIn(v, o.Blind)
		out[v.Route] = &in
	}
	return out
}

// RouteRules tells the thresholds of one route over the hours of a day.
func (r *Reader) RouteRules(ctx context.Context, route, days string) (RouteRules, error) {
	p := RouteRules{State: r.State(), Route: route, Hours: []RuleHour{}}
	var err error
	if p.Span, err = r.span(days); err != nil {
		return p, err
	}
	past, err := r.pastOfRoute(ctx, p.Span, route)
	if err != nil {
		return p, err
	}
	set, now := r.o.Rules(), r.o.Now().In(r.o.Zone)
	live := r.routesNow()[route]
	anything := live != nil
	for hour := range 24 {
		h := r.ruleHour(set, route, p.Span, hour, past[hour])
		if h.Present = p.Span.Today && hour == now.Hour(); h.Present {
			h.Now = live
		}
		anything = anything || h.Expected > 0 || h.Past.Days > 0
		p.Hours = append(p.Hours, h)
	}
	if !anything && !slices.ContainsFunc(set.Named(), func(n rules.Named) bool { return n.Route == route }) {
		return p, fmt.Errorf("route %s: %w: nothing is expected there, nothing was heard in %d weeks, and no rule names it", route, ErrNotFound, pastWeeks)
	}
	e, _ := r.o.Expect.Expect(route, now)
	b, err := set.Rule(route, now, e.Source).YAML()
	p.Rule = string(b)
	return p, err
}

// ruleHour works out what holds in an hour of the clock.
func (r *Reader) ruleHour(set *rules.Set, route string, span RuleSpan, hour int, samples []pastSample) RuleHour {
	h := RuleHour{Route: route, Hour: hour, Source: expect.SourceNone}
	hourly, first := false, true
	var least rules.Threshold
	for _, start := range span.day.at(hour) {
		for at := start; at.Before(start.Add(time.Hour)); at = at.Add(planEvery) {
			e, _ := r.o.Expect.Expect(route, at)
			in := rules.RouteInput{Route: route, Expected: e.Expected, ExpectedNow: e.Now, Lowest: e.Lowest, Low: e.Low, Exact: e.Exact, Source: e.Source}
			if e.Source == expect.SourceHand {
				in.Low = 0 // as live: a person's number is taken at its word
			}
			t := set.Threshold(at, in)
			h.Expected, h.Highest = max(h.Expected, e.Expected), max(h.Highest, t.Below)
			if first || t.Below < least.Below {
				first, least = false, t
				h.Source, h.Sample = e.Source, e.SampleSize
				hourly = !e.Exact && (e.Source == expect.SourceTimetable || e.Source == expect.SourceHistory)
				h.Why = whyText(t, e)
			}
		}
	}
	h.Threshold, h.Basis = least.Below, cmp.Or(least.Basis, rules.BasisUnknown)
	if least.Rule.For.M > 0 {
		h.For = forText(least.Rule.For)
	}
	h.Past = pastOf(samples, h.Threshold, hourly)
	return h
}

// KnownRoutes are the routes of the newest round; nil before the first.
func (r *Reader) KnownRoutes() map[string]bool {
	o, err := r.current()
	if err != nil {
		return nil
	}
	known := make(map[string]bool, len(o.Routes))
	for _, v := range o.Routes {
		known[v.Route] = true
	}
	return known
}
