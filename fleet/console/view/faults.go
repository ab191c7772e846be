package view

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/ledger"
	"github.com/farebeat/farebeat/fleet/rules"
	"github.com/farebeat/farebeat/schemas"
)

// FaultRow is a fault in a list.
type FaultRow struct {
	faults.Fault
	Title       string   `json:"title"`
	NextStep    string   `json:"next_step"`
	Outstanding uint64   `json:"outstanding"` // records that the machine declared and the ledger lacks
	Children    int      `json:"children"`    // faults that it explains now
	Bar         Recovery `json:"recovery"`
}

// Recovery is how far a machine's records are on their way home.
type Recovery struct {
	Known   bool                  `json:"known"` // a gateway has said something
	State   schemas.RecoveryState `json:"state,omitempty"`
	Read    uint32                `json:"read"`
	Home    uint32                `json:"home"` // receipted
	Total   uint32                `json:"total"`
	AsOf    time.Time             `json:"as_of,omitzero"`
	Rate    float64               `json:"records_per_s,omitempty"`
	Left    time.Duration         `json:"left_ns,omitempty"` // at that rate; 0: not known
	Error   string                `json:"last_error,omitempty"`
	Percent int                   `json:"percent"` // of Total, in the ledger
	ReadPct int                   `json:"read_percent"`
}

func recoveryOf(f faults.Fault) Recovery {
	if f.Machine == nil || f.Machine.Recovery == nil {
		return Recovery{}
	}
	p := f.Machine.Recovery
	r := Recovery{
		Known: true, State: p.State, Read: p.Read, Home: min(p.Receipted, p.Total), Total: p.Total, AsOf: p.AsOf, Rate: p.PerSecond, Error: p.LastError,
	}
	if f.Outstanding() == 0 && p.Declared {
		r.Home, r.Read = p.Total, p.Total // the ledger knows better than the gateway's last word
	}
	if p.Total > 0 {
		r.Percent, r.ReadPct = int(uint64(r.Home)*100/uint64(p.Total)), int(uint64(min(r.Read, p.Total))*100/uint64(p.Total))
	}
	if p.PerSecond > 0 && r.Read < p.Total {
		r.Left = time.Duration(float64(p.Total-r.Read) / p.PerSecond * float64(time.Second)).Round(time.Second)
	}
	return r
}

func (r *Reader) faultRow(f faults.Fault, children int) FaultRow {
	e := f.Kind.Entry()
	return FaultRow{Fault: f, Title: e.Title, NextStep: e.NextStep, Outstanding: f.Outstanding(), Children: children, Bar: recoveryOf(f)}
}

// FaultQuery selects faults of a page.
type FaultQuery struct {
	Show     string // "open": those that stand by themselves; "all_open": with those that are folded; "unseen": those nobody saw, ended or not; "all"
	Machine  string
	Route    string
	Vehicle  string
	Kind     string
	Parent   string // only those that this one explains
	From, To time.Time
	After    string // id of the last fault of the page before
	Limit    int    // 1 to MaxPage; 0: 50
}

// MaxPage bounds the rows of one page of any list.
const MaxPage = 500

// FaultList is a page of faults.
type FaultList struct {
	State  State      `json:"state"`
	Faults []FaultRow `json:"faults"`
	Next   string     `json:"next,omitempty"` // FaultQuery.After of the next page; empty: this is the last
}

// Faults lists faults, latest opened first.
func (r *Reader) Faults(ctx context.Context, q FaultQuery) (FaultList, error) {
	out := FaultList{State: r.State(), Faults: []FaultRow{}}
	limit, err := pageSize(q.Limit)
	if err != nil {
		return out, err
	}
	sq := faults.Query{Machine: q.Machine, Route: q.Route, Vehicle: q.Vehicle, From: q.From, To: q.To, After: q.After, Limit: limit + 1}
	keep := func(f faults.Fault) bool { return q.Parent == "" || f.Parent == q.Parent }
	switch q.Show {
	case "", "open":
		sq.Live = true
		keep = func(f faults.Fault) bool { return !folded(f) && (q.Parent == "" || f.Parent == q.Parent) }
	case "all_open":
		sq.Live = true
	case "unseen":
		sq.Unfinished, sq.Attentions = true, []schemas.Attention{schemas.Unseen}
	case "all":
	default:
		return out, fmt.Errorf("%w: show %q: want open, all_open, unseen or all", ErrUsage, q.Show)
	}
	if q.Kind != "" {
		if !slices.Contains(faults.Kinds(), faults.Kind(q.Kind)) {
			return out, fmt.Errorf("%w: kind %q: there is no such kind of fault", ErrUsage, q.Kind)
		}
		sq.Kinds = []faults.Kind{faults.Kind(q.Kind)}
	}
	open, err := r.openFaults(ctx)
	if err != nil {
		return out, err
	}
	children := childrenOf(open)
	// full adds what is to be kept of a list, and says whether there is more than goes on the page.
	full := func(list []faults.Fault) bool {
		for _, f := range list {
			if !keep(f) {
				continue
			}
			if len(out.Faults) == limit {
				out.Next = out.Faults[limit-1].ID
				return true
			}
			out.Faults = append(out.Faults, r.faultRow(f, children[f.ID]))
		}
		return false
	}
	if sq.Live && q.After == "" { // they are here already
		full(slices.DeleteFunc(slices.Clone(open), func(f faults.Fault) bool { return !sq.Matches(f) }))
		return out, nil
	}
	for {
		list, err := r.o.Store.Faults().List(ctx, sq)
		if errors.Is(err, faults.ErrNotFound) {
			return out, fmt.Errorf("%w: after %q: %w", ErrUsage, q.After, err)
		}
		if err != nil {
			return out, fmt.Errorf("list faults: %w", err)
		}
		if full(list) || len(list) < sq.Bound() {
			return out, nil
		}
		sq.After = list[len(list)-1].ID
	}
}

func pageSize(limit int) (int, error) {
	switch {
	case limit == 0:
		return 50, nil
	case limit < 1 || limit > MaxPage:
		return 0, fmt.Errorf("%w: limit %d: want 1 to %d", ErrUsage, limit, MaxPage)
	}
	return limit, nil
}

// FaultPage is one fault with its life and what explains it.
type FaultPage struct {
	State    State          `json:"state"`
	Fault    FaultRow       `json:"fault"`
	Meaning  string         `json:"meaning"`
	Events   []faults.Event `json:"events"` // oldest first
	Parent   *FaultRow      `json:"parent,omitempty"`
	Children []FaultRow     `json:"children,omitempty"` // the latest, at most 50
	Rule     string         `json:"rule"`               // the rule in force, as YAML
	Facts    []Fact         `json:"facts"`              // the numbers behind it
	Money    *ledger.Money  `json:"money,omitempty"`    // the machine last declared
	// Verbs are what a person may order about it now.
	Verbs []faults.Verb `json:"verbs"`
}

// Fact is one number behind a fault.
type Fact struct {
	Name string    `json:"name"`
	Text string    `json:"text,omitempty"`
	At   time.Time `json:"at,omitzero"` // in place of Text
	Link string    `json:"-"`           // page of it, empty for none
}

// Fault tells all about one fault.
func (r *Reader) Fault(ctx context.Context, id string) (FaultPage, error) {
	f, events, err := r.o.Store.Faults().Get(ctx, id)
	if errors.Is(err, faults.ErrNotFound) {
		return FaultPage{State: r.State()}, fmt.Errorf("fault %s: %w", id, ErrNotFound)
	}
	if err != nil {
		return FaultPage{State: r.State()}, err
	}
	open, err := r.openFaults(ctx)
	if err != nil {
		return FaultPage{State: r.State()}, err
	}
	p := FaultPage{State: r.State(), Fault: r.faultRow(f, childrenOf(open)[f.ID]), Meaning: f.Kind.Entry().Meaning, Events: events}
	if f.Parent != "" {
		if parent, _, err := r.o.Store.Faults().Get(ctx, f.Parent); err == nil {
			row := r.faultRow(parent, 0)
			p.Parent = &row
		} else if !errors.Is(err, faults.ErrNotFound) {
			return p, err
		}
	}
	for _, c := range open {
		if c.Parent == f.ID && len(p.Children) < 50 {
			p.Children = append(p.Children, r.faultRow(c, 0))
		}
	}
	if m := f.Machine; m != nil && m.Pending > 0 && m.Currency != "" {
		p.Money = &ledger.Money{Currency: m.Currency, Minor: m.PendingMinor}
	}
	p.Rule, p.Facts, p.Verbs = ruleOf(r.o.Rules(), f, r.o.Zone), factsOf(f), verbsOf(f)
	return p, nil
}

// verbsOf are the orders that do something to a fault as it is.
func verbsOf(f faults.Fault) []faults.Verb {
	if f.Ended() {
		if f.Attention.State == schemas.Unseen {
			return []faults.Verb{faults.VerbAcknowledge}
		}
		return nil
	}
	verbs := []faults.Verb{faults.VerbAcknowledge, faults.VerbAssign, faults.VerbShelve, faults.VerbNote}
	if f.Attention.State != schemas.Unseen {
		verbs = append(verbs, faults.VerbUnsee)
	}
	if f.Condition != schemas.Abandoned {
		verbs = append(verbs, faults.VerbAbandon)
	}
	return verbs
}

// factsOf are the numbers that the fault keeps.
func factsOf(f faults.Fault) []Fact {
	var out []Fact
	text := func(name, value, link string) {
		if value != "" {
			out = append(out, Fact{Name: name, Text: value, Link: link})
		}
	}
	at := func(name string, t time.Time) {
		if !t.IsZero() {
			out = append(out, Fact{Name: name, At: t})
		}
	}
	if m := f.Machine; m != nil {
		text("machine", f.Subject.Machine, MachineLink(f.Subject.Machine))
		text("vehicle", m.Vehicle, "")
		text("route", m.Route, RouteLink(m.Route))
		text("depot", m.Depot, "")
		text("mobile network", m.Network, "")
		text("firmware", m.Firmware, "")
		text("state", string(m.State), "")
		at("last heartbeat", m.LastHeartbeat)
		text("transactions inside, as declared", fmt.Sprint(m.Pending), "")
		for _, c := range m.Custody {
			text(fmt.Sprintf("epoch %d", c.Epoch), fmt.Sprintf("the ledger has 1 to %d of %d", c.CompleteTo, c.LastSeq), "")
		}
	}
	if n := f.Route; n != nil {
		text("route", f.Subject.Route, RouteLink(f.Subject.Route))
		text("online", fmt.Sprint(n.Online), "")
		text("expected", fmt.Sprint(n.Expected), "")
		if n.Threshold > 0 {
			text("a fault below", fmt.Sprint(n.Threshold), "")
		}
	}
	at("began", f.SuspectedAt)
	at("opened", f.OpenedAt)
	at("well since", f.WellSince)
	at("closed", f.ClosedAt)
	if f.Reopened > 0 {
		text("came back", fmt.Sprintf("%d times", f.Reopened), "")
	}
	return out
}

// ruleOf is the rule that decides about a fault now, as a person writes it.
func ruleOf(set *rules.Set, f faults.Fault, zone *time.Location) string {
	if f.Subject.Route == "" || set == nil {
		return ""
	}
	y, err := set.Rule(f.Subject.Route, f.OpenedAt.In(zone), "").YAML()
	if err != nil {
		return ""
	}
	return string(y)
}
