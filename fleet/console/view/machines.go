package view

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/ledger"
	"github.com/farebeat/farebeat/fleet/presence"
	"github.com/farebeat/farebeat/schemas"
)

// MachineRow is a machine in a list.
type MachineRow struct {
	Machine       string                   `json:"machine"`
	Vehicle       string                   `json:"vehicle,omitempty"`
	Route         string                   `json:"route,omitempty"`
	Depot         string                   `json:"depot,omitempty"`
	State         schemas.MachineCondition `json:"state"`
	Since         time.Time                `json:"since"`
	Reason        string                   `json:"reason"`
	LastHeartbeat time.Time                `json:"last_heartbeat,omitzero"`
	Pending       uint32                   `json:"pending"` // transactions inside, as declared
	PendingMinor  int64                    `json:"pending_minor"`
	Currency      string                   `json:"currency,omitempty"`
	Firmware      string                   `json:"fw,omitempty"`
}

// Money is what is inside the machine, by its word; nil for nothing.
func (m MachineRow) Money() *ledger.Money {
	if m.Pending == 0 || m.Currency == "" {
		return nil
	}
	return &ledger.Money{Currency: m.Currency, Minor: m.PendingMinor}
}

func (r *Reader) machineRow(v presence.View) MachineRow {
	m := MachineRow{
		Machine: v.Machine, Vehicle: v.Vehicle, Route: v.Route, Depot: v.Depot, State: v.State, Since: v.Since, Reason: v.Reason,
		LastHeartbeat: v.LastHeartbeat, Pending: v.Pending, PendingMinor: v.PendingMinor, Currency: v.Currency, Firmware: v.Firmware,
	}
	if v.Home() {
		m.Pending, m.PendingMinor = 0, 0 // the machine has not heard of the receipt yet
	}
	if m.Vehicle == "" {
		m.Vehicle = v.SeenBy
	}
	return m
}

// MachineStates lists the states of presence, the worst first.
func MachineStates() []schemas.MachineCondition {
	return []schemas.MachineCondition{schemas.Dark, schemas.Stranded, schemas.Late, schemas.Up, schemas.Parked, schemas.OutOfService}
}

// byWorst orders machines: the worst state, the most money, the name.
func byWorst(a, b MachineRow) int {
	states := MachineStates()
	return cmp.Or(
		cmp.Compare(slices.Index(states, a.State), slices.Index(states, b.State)),
		cmp.Compare(b.Pending, a.Pending),
		CompareNatural(a.Machine, b.Machine),
	)
}

// MachineQuery selects a page of machines.
type MachineQuery struct {
	State string // one of the six states, or "lost" for STRANDED and DARK; "" for all
	Find  string // only those whose machine, vehicle, route or depot contains this, case ignored
	Order string // "worst", "name" or "money"; "": worst
	Page  int    // from 1; 0: 1
	Limit int    // rows of a page, 1 to MaxPage; 0: 50
}

// MachineList is a page of machines.
type MachineList struct {
	State    State                            `json:"state"`
	Machines []MachineRow                     `json:"machines"`
	Counts   map[schemas.MachineCondition]int `json:"counts"` // of all that Find matches
	All      int                              `json:"all"`    // rows on all pages
	Page     int                              `json:"page"`
	Pages    int                              `json:"pages"`
	Query    MachineQuery                     `json:"-"`
}

// Machines lists machines.
func (r *Reader) Machines(_ context.Context, q MachineQuery) (MachineList, error) {
	q.Order = cmp.Or(q.Order, "worst")
	l := MachineList{State: r.State(), Machines: []MachineRow{}, Counts: map[schemas.MachineCondition]int{}, Query: q}
	limit, err := pageSize(q.Limit)
	if err != nil {
		return l, err
	}
	rows, err := r.AllMachines(q, l.Counts)
	if err != nil {
		return l, err
	}
	l.Machines, l.All, l.Page, l.Pages = pageOf(rows, q.Page, limit)
	return l, nil
}

// AllMachines lists the machines of all pages of a query. tally, where it is not nil, is given how many of those that Find matches are in each
// state.
func (r *Reader) AllMachines(q MachineQuery, tally map[schemas.MachineCondition]int) ([]MachineRow, error) {
	order, err := machineOrder(cmp.Or(q.Order, "worst"))
	if err != nil {
		return nil, err
	}
	state := schemas.MachineCondition(strings.ToUpper(q.State))
	if q.State != "" && q.State != "lost" && !slices.Contains(MachineStates(), state) {
		return nil, fmt.Errorf("%w: state %q: want lost or one of %v", ErrUsage, q.State, MachineStates())
	}
	if _, err := r.current(); err != nil {
		return nil, err
	}
	find := strings.ToLower(q.Find)
	var rows []MachineRow
	r.o.Fleet().Engine().Presence().Each(func(v presence.View) {
		m := r.machineRow(v)
		if find != "" && !strings.Contains(strings.ToLower(m.Machine+"\x00"+m.Vehicle+"\x00"+m.Route+"\x00"+m.Depot), find) {
			return
		}
		if tally != nil {
			tally[m.State]++
		}
		lost := m.State == schemas.Stranded || m.State == schemas.Dark
		if q.State == "" || q.State == "lost" && lost || m.State == state {
			rows = append(rows, m)
		}
	})
	slices.SortFunc(rows, order)
	return rows, nil
}

func machineOrder(name string) (func(a, b MachineRow) int, error) {
	switch name {
	case "worst":
		return byWorst, nil
	case "name":
		return func(a, b MachineRow) int { return CompareNatural(a.Machine, b.Machine) }, nil
	case "money":
		return func(a, b MachineRow) int {
			return cmp.Or(cmp.Compare(b.PendingMinor, a.PendingMinor), cmp.Compare(b.Pending, a.Pending), CompareNatural(a.Machine, b.Machine))
		}, nil
	}
	return nil, fmt.Errorf("%w: order %q: want worst, name or money", ErrUsage, name)
}

// Lamp is one of the three ways to a machine.
type Lamp struct {
	Name string    `json:"name"`
	On   bool      `json:"on"`
	Text string    `json:"text"`
	At   time.Time `json:"at,omitzero"` // of the newest evidence
}

// Stretch is for how long a machine was in a state. The last 24 hours are told from its faults: before the oldest of them it was heard, or not known.
type Stretch struct {
	From, To time.Time
	State    string // "up", "lost" or "unknown"
	Fault    string
}

// MachinePage is one machine.
type MachinePage struct {
	State    State         `json:"state"`
	Machine  MachineRow    `json:"machine"`
	Lamps    []Lamp        `json:"lamps"`
	Details  []Fact        `json:"details"`
	Open     []FaultRow    `json:"open_faults"`
	Past     []FaultRow    `json:"past_faults"` // ended within 30 days, the latest first, at most 20
	Bar      Recovery      `json:"recovery"`
	Gateway  string        `json:"gateway,omitempty"` // the vehicle whose gateway would read it now
	History  []Stretch     `json:"-"`                 // the last 24 hours
	Ledger   ledger.Status `json:"ledger"`            // of the last 7 service days
	LastStep string        `json:"last_step,omitempty"`
}

// Machine tells all about one machine.
func (r *Reader) Machine(ctx context.Context, id string) (MachinePage, error) {
	p := MachinePage{State: r.State(), Open: []FaultRow{}, Past: []FaultRow{}}
	f := r.o.Fleet()
	if f == nil {
		return p, ErrStarting
	}
	now := r.o.Now()
	v, known := f.Engine().Presence().View(id)
	from := now.In(r.o.Zone).AddDate(0, 0, -6).Format(time.DateOnly)
	var err error
	// A day may begin behind midnight by the service's own zone only: what is of tomorrow's date is there too.
	if p.Ledger, err = f.Ledger().Status(ctx, id); err != nil {
		return p, fmt.Errorf("read the ledger of machine %s: %w", id, err)
	}
	if !known && p.Ledger.Records == 0 {
		return p, fmt.Errorf("machine %s: %w: neither heard nor in the ledger", id, ErrNotFound)
	}
	p.Ledger.Days = slices.DeleteFunc(p.Ledger.Days, func(d ledger.DayStatus) bool { return d.ServiceDate < from })
	if p.Machine = r.machineRow(v); !known {
		p.Machine = MachineRow{Machine: id, State: "", Reason: "it is in the ledger, and was not heard since the roster was lost"}
	}
	list, err := r.o.Store.Faults().List(ctx, faults.Query{Machine: id, From: now.AddDate(0, 0, -30), Limit: 200})
	if err != nil {
		return p, fmt.Errorf("list the faults of machine %s: %w", id, err)
	}
	for _, one := range list {
		switch {
		case !one.Ended():
			row := r.faultRow(one, 0)
			p.Open = append(p.Open, row)
			if row.Bar.Known && !p.Bar.Known {
				p.Bar, p.LastStep = row.Bar, one.Machine.Recovery.NextStep
			}
			if one.Machine != nil && p.Gateway == "" {
				p.Gateway = one.Machine.Vehicle
			}
		case len(p.Past) < 20:
			p.Past = append(p.Past, r.faultRow(one, 0))
		}
	}
	if p.Gateway == "" {
		p.Gateway = cmp.Or(v.Vehicle, v.SeenBy)
	}
	p.History = stretches(list, v, now)
	if known {
		p.Lamps, p.Details = r.lamps(v, p.Gateway), details(v)
	}
	return p, nil
}

func (r *Reader) lamps(v presence.View, gateway string) []Lamp {
	heard := v.State == schemas.Up || v.State == schemas.Late
	up := Lamp{Name: "uplink", On: heard, Text: v.Reason, At: v.LastHeartbeat}
	air := Lamp{Name: "Bluetooth", Text: "no gateway has seen it", At: v.SeenAt}
	if v.SeenBy != "" {
		air.Text = fmt.Sprintf("seen by the gateway of vehicle %s at %d dBm", v.SeenBy, v.RSSI)
		air.On = r.o.Now().Sub(v.SeenAt) < 2*time.Minute
		if !air.On {
			air.Text = "last " + air.Text
		}
	}
	box := Lamp{Name: "gateway", Text: "no vehicle is known that carries it"}
	if gateway != "" {
		box.On = r.o.Fleet().Engine().GatewayThere(gateway)
		box.Text = "the gateway of vehicle " + gateway + " is away"
		if box.On {
			box.Text = "the gateway of vehicle " + gateway + " is there"
		}
	}
	return []Lamp{up, air, box}
}

func details(v presence.View) []Fact {
	var out []Fact
	text := func(name, value, link string) {
		if value != "" {
			out = append(out, Fact{Name: name, Text: value, Link: link})
		}
	}
	text("vehicle", v.Vehicle, "")
	text("route", v.Route, RouteLink(v.Route))
	text("trip", v.Trip, "")
	text("depot", v.Depot, "")
	text("mobile network", v.Network, "")
	text("firmware", v.Firmware, "")
	text("says of itself", string(v.Run), "")
	text("its own fault code", v.Fault, "")
	if v.Skew.Abs() >= time.Second {
		way := "ahead"
		if v.Skew < 0 {
			way = "behind"
		}
		text("clock", fmt.Sprintf("%s %s", v.Skew.Abs().Round(time.Second), way), "")
	} else if !v.LastHeartbeat.IsZero() {
		text("clock", "right to the second", "")
	}
	text("transactions inside, as declared", fmt.Sprint(v.Pending), "")
	if v.LastSeq > 0 {
		text("journal", fmt.Sprintf("epoch %d, written up to %d; the ledger has all up to %d of epoch %d", v.Epoch, v.LastSeq, v.LedgerComplete, v.LedgerEpoch), "")
	}
	if !v.OldestPending.IsZero() {
		out = append(out, Fact{Name: "oldest inside", At: v.OldestPending})
	}
	text("out of service", v.OutOfService, "")
	return out
}

// dayBack is how far a machine's bar of presence looks back.
const dayBack = 24 * time.Hour

// stretches tells the last 24 hours of a machine by its faults of silence.
func stretches(list []faults.Fault, v presence.View, now time.Time) []Stretch {
	begin := now.Add(-dayBack)
	var lost []Stretch
	for _, f := range list {
		if f.Kind != faults.MachineSilent && f.Kind != faults.MachineUnstable || f.Machine == nil {
			continue
		}
		s := Stretch{From: f.SuspectedAt, To: now, State: "lost", Fault: f.ID}
		if !f.Machine.HeardSince.IsZero() {
			s.To = f.Machine.HeardSince
		} else if f.Ended() {
			s.To = f.ClosedAt
		}
		if s.From.Before(begin) {
			s.From = begin
		}
		if s.To.After(s.From) {
			lost = append(lost, s)
		}
	}
	slices.SortFunc(lost, func(a, b Stretch) int { return a.From.Compare(b.From) })
	var out []Stretch
	at := begin
	for _, s := range lost {
		if s.From.Before(at) {
			s.From = at
		}
		if !s.To.After(s.From) {
			continue
		}
		if s.From.After(at) {
			out = append(out, Stretch{From: at, To: s.From, State: "up"})
		}
		out, at = append(out, s), s.To
	}
	if now.After(at) {
		state := "up"
		if v.LastHeartbeat.IsZero() {
			state = "unknown"
		}
		out = append(out, Stretch{From: at, To: now, State: state})
	}
	return out
}
