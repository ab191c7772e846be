package view

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/ledger"
	"github.com/farebeat/farebeat/fleet/presence"
	"github.com/farebeat/farebeat/schemas"
)

// Now is the state of everything at a glance.
type Now struct {
	State    State `json:"state"`
	Online   int   `json:"online"`   // machines that are heard
	Expected int   `json:"expected"` // that should be, over all routes that expect any
	Known    int   `json:"known"`    // machines of which anything is known

	Routes       int `json:"routes"`        // that expect machines now
	RoutesBelow  int `json:"routes_below"`  // of them, with fewer than their threshold
	RoutesSilent int `json:"routes_silent"` // of them, wholly silent

	Open     int `json:"open_faults"`     // faults that stand by themselves
	Folded   int `json:"folded_faults"`   // that a greater one explains, or maintenance
	Unseen   int `json:"unseen_faults"`   // of Open, those that nobody acknowledged
	Critical int `json:"critical_faults"` // of Open

	Inside   Inside         `json:"inside"`   // still inside machines
	Home     []ledger.Money `json:"home"`     // of today's service day in the ledger, by currency
	Records  uint64         `json:"records"`  // of today's service day in the ledger
	Evidence int            `json:"evidence"` // pieces that wait for a person

	Causes   []FaultRow `json:"causes"` // faults of many machines, or of Farebeat itself
	Broken   []FaultRow `json:"routes_with_fault"`
	Vehicles []FaultRow `json:"machines_with_fault"` // the most urgent first
	Bound    int        `json:"-"`                   // so many of each list are there at most
}

// Inside is the money that machines say they still hold.
type Inside struct {
	Machines     int            `json:"machines"` // that hold any
	Transactions uint64         `json:"transactions"`
	Money        []ledger.Money `json:"money"` // by currency
	// Lost are those of them that are not heard: nobody but a gateway beside them can read them.
	LostMachines     int       `json:"lost_machines"`
	LostTransactions uint64    `json:"lost_transactions"`
	Oldest           time.Time `json:"oldest,omitzero"` // of them all, by the machines' word
}

// fleetSummary is what a walk over all machines gives.
type fleetSummary struct {
	known, online int
	inside        Inside
}

// summary walks over all machines once a round.
func (r *Reader) summary(o *observed) *fleetSummary {
	o.once.Do(func() {
		s := &o.fleet
		sums := map[string]int64{}
		r.o.Fleet().Engine().Presence().Each(func(v presence.View) {
			s.known++
			heard := v.State == schemas.Up || v.State == schemas.Late
			if heard {
				s.online++
			}
			if v.Pending == 0 || v.Home() {
				return
			}
			in := &s.inside
			in.Machines++
			in.Transactions += uint64(v.Pending)
			if v.Currency != "" {
				sums[v.Currency] += v.PendingMinor
			}
			if !heard {
				in.LostMachines++
				in.LostTransactions += uint64(v.Pending)
			}
			if !v.OldestPending.IsZero() && (in.Oldest.IsZero() || v.OldestPending.Before(in.Oldest)) {
				in.Oldest = v.OldestPending
			}
		})
		s.inside.Money = moneyOf(sums)
	})
	return &o.fleet
}

func moneyOf(sums map[string]int64) []ledger.Money {
	out := make([]ledger.Money, 0, len(sums))
	for c, minor := range sums {
		out = append(out, ledger.Money{Currency: c, Minor: minor})
	}
	slices.SortFunc(out, func(a, b ledger.Money) int { return cmp.Compare(a.Currency, b.Currency) })
	return out
}

// nowRows bounds each list of Now.
const nowRows = 12

// Now tells how everything is.
func (r *Reader) Now(ctx context.Context) (Now, error) {
	o, err := r.current()
	if err != nil {
		return Now{State: r.State()}, err
	}
	n := Now{State: r.State(), Bound: nowRows}
	s := r.summary(o)
	n.Known, n.Online, n.Inside = s.known, s.online, s.inside
	for _, v := range o.Routes {
		if v.Expectation.Now == 0 {
			continue
		}
		n.Routes++
		n.Expected += v.Expectation.Now
		if v.Verdict.Firing && v.Verdict.Kind == faults.RouteSilent {
			n.RoutesSilent++
		}
		if v.Online < v.Threshold {
			n.RoutesBelow++
		}
	}
	open, err := r.openFaults(ctx)
	if err != nil {
		return n, err
	}
	children := childrenOf(open)
	for _, f := range open {
		if folded(f) {
			n.Folded++
			continue
		}
		n.Open++
		if f.Attention.State == schemas.Unseen {
			n.Unseen++
		}
		if f.Severity == schemas.Critical {
			n.Critical++
		}
		row := r.faultRow(f, children[f.ID])
		switch {
		case f.Subject.Machine != "":
			n.Vehicles = append(n.Vehicles, row)
		case f.Subject.Route != "":
			n.Broken = append(n.Broken, row)
		default:
			n.Causes = append(n.Causes, row)
		}
	}
	for _, list := range []*[]FaultRow{&n.Causes, &n.Broken, &n.Vehicles} {
		slices.SortStableFunc(*list, byUrgency)
		*list = (*list)[:min(len(*list), nowRows)]
	}
	totals, err := r.totals(ctx)
	n.Home, n.Records = totals.Money, totals.Records
	for _, k := range totals.Quarantined {
		n.Evidence += k
	}
	return n, err
}

// byUrgency puts first what a person should look at first: the worse severity, then the more money, then the older.
func byUrgency(a, b FaultRow) int {
	return cmp.Or(
		cmp.Compare(rank(b.Severity), rank(a.Severity)),
		cmp.Compare(b.Outstanding, a.Outstanding),
		a.OpenedAt.Compare(b.OpenedAt),
		cmp.Compare(a.ID, b.ID),
	)
}

func rank(s schemas.Severity) int {
	return slices.Index([]schemas.Severity{schemas.Info, schemas.Minor, schemas.Major, schemas.Critical}, s)
}

// folded reports whether something else explains a fault, so that it asks for nobody's attention by itself.
func folded(f faults.Fault) bool {
	return f.Parent != "" || f.Maintenance != "" || f.Condition == schemas.Abandoned || f.Attention.State == schemas.Shelved
}

func childrenOf(open []faults.Fault) map[string]int {
	n := map[string]int{}
	for _, f := range open {
		if f.Parent != "" {
			n[f.Parent]++
		}
	}
	return n
}
