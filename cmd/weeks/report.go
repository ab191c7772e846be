package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// The goals.
const (
	goalDelay = time.Minute // beyond the deadline
	goalFalse = 1.0         // false route faults per 100 route-weeks
	goalFlaps = 1           // reopenings of one fault
)

// report is what a run found. Times are of the operator's clock.
type report struct {
	Seed          uint64         `json:"seed"`
	Days          int            `json:"days"`
	Availability  float64        `json:"availability"`
	Machines      int            `json:"machines"`
	Heartbeats    int            `json:"heartbeats"`
	Rounds        int            `json:"rounds"`
	RouteWeeks    float64        `json:"route_weeks"`
	Redrawn       int            `json:"draws_that_were_no_outage"`
	Outages       []outageReport `json:"outages"`
	Found         int            `json:"found"` // within goalDelay of the deadline
	RouteFaults   int            `json:"route_faults"`
	MachineFaults int            `json:"machine_faults"`
	False         []*falseFault  `json:"false"`
	FalsePer100   float64        `json:"false_per_100_route_weeks"`
	Reopened      int            `json:"reopened"` // route faults that came back after they closed
	MostReopened  int            `json:"most_reopened"`
	Met           bool           `json:"goals_met"`
	Seconds       float64        `json:"seconds"`
}

type outageReport struct {
	Route    string  `json:"route"`
	Share    float64 `json:"share"`
	From     string  `json:"from"`
	Minutes  float64 `json:"minutes"`
	Deadline float64 `json:"deadline_s"` // since From; 0: never
	Opened   float64 `json:"opened_s"`   // since From; 0: never
	Delay    float64 `json:"delay_s"`    // beyond the deadline
	Closed   float64 `json:"closed_s"`   // since the end; 0: within the run never
	Stood    bool    `json:"stood_before,omitempty"`
	Found    bool    `json:"found"`
}

func (r *run) report(o options) report {
	out := report{
		Seed: o.seed, Days: o.days, Availability: o.availability, Machines: len(r.senders), Heartbeats: r.beats, Rounds: r.rounds,
		RouteWeeks: r.c.weeks, Redrawn: r.c.redrawn, MachineFaults: r.machine, False: []*falseFault{}, Outages: []outageReport{},
	}
	for _, x := range r.c.outages {
		line := outageReport{Route: x.Route, Share: x.Share, From: r.clock(x.from), Minutes: (x.to - x.from).Minutes(), Stood: x.stood}
		if x.deadline != 0 {
			line.Deadline = (x.deadline - x.from).Seconds()
		}
		if x.opened != 0 {
			line.Opened = (x.opened - x.from).Seconds()
			line.Delay = line.Opened - line.Deadline
			line.Found = x.deadline != 0 && x.opened <= x.deadline+goalDelay
		}
		if x.closed != 0 {
			line.Closed = (x.closed - x.to).Seconds()
		}
		if line.Found {
			out.Found++
		}
		out.Outages = append(out.Outages, line)
	}
	for _, f := range r.faults {
		if f.Subject.Route == "" {
			continue
		}
		out.RouteFaults++
		out.Reopened += f.Reopened
		out.MostReopened = max(out.MostReopened, f.Reopened)
	}
	for _, f := range r.false_ {
		out.False = append(out.False, f)
	}
	slices.SortFunc(out.False, func(a, b *falseFault) int { return strings.Compare(a.Opened[4:]+a.Route, b.Opened[4:]+b.Route) })
	out.FalsePer100 = 100 * float64(len(out.False)) / out.RouteWeeks
	out.Met = out.Found == len(out.Outages) && out.FalsePer100 <= goalFalse && out.MostReopened <= goalFlaps
	return out
}

func (p *report) write(w io.Writer, asJSON bool) error {
	if asJSON {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(p)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d: %d days, %d machines at %.0f %%, %d heartbeats, %d rounds, in %.0f s\n",
		p.Seed, p.Days, p.Machines, 100*p.Availability, p.Heartbeats, p.Rounds, p.Seconds)
	for _, o := range p.Outages {
		verdict := "found"
		switch {
		case o.Opened == 0:
			verdict = "NOT FOUND"
		case !o.Found:
			verdict = "LATE"
		case o.Stood:
			verdict = "found: a fault stood before"
		}
		fmt.Fprintf(&b, "  %s route %-4s %3.0f %% for %3.0f min: due after %4.0f s, opened after %4.0f s (%+4.0f s), closed %4.0f s after its end: %s\n",
			o.From, o.Route, 100*o.Share, o.Minutes, o.Deadline, o.Opened, o.Delay, o.Closed, verdict)
	}
	for _, f := range p.False {
		fmt.Fprintf(&b, "  FALSE %s to %s route %s %s: %s\n", f.Opened, f.Closed, f.Route, f.Kind, f.Reason)
		for _, m := range f.OnRoute {
			fmt.Fprintf(&b, "        %s\n", m)
		}
	}
	fmt.Fprintf(&b, "  %d of %d outages found within %.0f s of their deadline; %d false in %.1f route-weeks, %.2f per 100; %d route faults, %d reopenings, at most %d of one; %d machine faults\n",
		p.Found, len(p.Outages), goalDelay.Seconds(), len(p.False), p.RouteWeeks, p.FalsePer100, p.RouteFaults, p.Reopened, p.MostReopened, p.MachineFaults)
	_, err := io.WriteString(w, b.String())
	return err
}
