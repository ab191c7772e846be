package view

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/farebeat/farebeat/fleet"
	"github.com/farebeat/farebeat/fleet/counts"
	"github.com/farebeat/farebeat/fleet/faults"
)

// Level is how an hour of a route, or a route now, is.
type Level string

// The levels.
const (
	LevelNone   Level = "none"   // nothing was expected and nothing was there
	LevelNoData Level = "nodata" // nobody heard, so nobody knows: it is not 0
	LevelOK     Level = "ok"
	LevelLow    Level = "low"    // fewer than expected, and not few enough for a fault
	LevelBelow  Level = "below"  // fewer than the threshold for some minutes
	LevelSilent Level = "silent" // expected, and nothing at all was there
	LevelAhead  Level = "ahead"  // has not begun: what will be expected
)

// Cell is one hour of one route.
type Cell struct {
	Start    time.Time `json:"start"`
	Level    Level     `json:"level"`
	Online   int       `json:"online"`   // the most at once; in the running hour: now
	Lowest   int       `json:"lowest"`   // the fewest at once while any were expected
	Expected int       `json:"expected"` // the most at once that should be
	Below    int       `json:"below"`    // minutes with fewer than the threshold
	Blind    int       `json:"blind"`    // minutes in which nobody heard
	Minutes  int       `json:"minutes"`  // that are stored
}

// RouteRow is one route over the hours of a day.
type RouteRow struct {
	Route  string   `json:"route"`
	Now    *RouteIn `json:"now,omitempty"` // of today only
	Cells  []Cell   `json:"cells"`
	Faults int      `json:"faults"` // open ones of the route itself
	Fault  string   `json:"fault,omitempty"`
	worst  int
}

// RouteIn is a route at the newest round.
type RouteIn struct {
	Level     Level    `json:"level"`
	Online    int      `json:"online"`
	Expected  int      `json:"expected"` // at this instant
	Threshold int      `json:"threshold"`
	Known     int      `json:"known"`
	Source    string   `json:"source"` // of the expectation
	Sample    int      `json:"sample_size"`
	Missing   []string `json:"missing,omitempty"`
	Reason    string   `json:"reason,omitempty"` // of a verdict that fires
}

// Grid is routes over the hours of a day.
type Grid struct {
	State State       `json:"state"`
	Day   Day         `json:"day"`
	Hours []time.Time `json:"hours"`
	Rows  []RouteRow  `json:"routes"`
	All   int         `json:"all"` // rows on all pages
	Page  int         `json:"page"`
	Pages int         `json:"pages"`
	Find  string      `json:"find,omitempty"`
	Order string      `json:"order"`
}

// GridQuery selects a page of a grid.
type GridQuery struct {
	Day   string // YYYY-MM-DD; "": today
	Find  string // only routes whose name contains this, case ignored
	Order string // "name" or "worst"; "": name
	Page  int    // from 1; 0: 1
	Limit int    // rows of a page, 1 to MaxPage; 0: 50
}

// Routes gives routes over the hours of a day.
func (r *Reader) Routes(ctx context.Context, q GridQuery) (Grid, error) {
	g := Grid{State: r.State(), Find: q.Find, Order: cmp.Or(q.Order, "name"), Rows: []RouteRow{}}
	limit, err := pageSize(q.Limit)
	if err != nil {
		return g, err
	}
	if g.Order != "name" && g.Order != "worst" {
		return g, fmt.Errorf("%w: order %q: want name or worst", ErrUsage, g.Order)
	}
	if g.Day, err = r.Day(q.Day); err != nil {
		return g, err
	}
	o, err := r.current()
	if err != nil && g.Day.Today {
		return g, err
	}
	g.Hours = g.Day.hours()
	rows, err := r.gridRows(ctx, g.Day, g.Hours, o)
	if err != nil {
		return g, err
	}
	rows = only(rows, q.Find, func(row RouteRow) string { return row.Route })
	slices.SortFunc(rows, func(a, b RouteRow) int {
		if g.Order == "worst" && a.worst != b.worst {
			return b.worst - a.worst
		}
		return CompareNatural(a.Route, b.Route)
	})
	g.Rows, g.All, g.Page, g.Pages = pageOf(rows, q.Page, limit)
	return g, nil
}

// gridCache remembers the rows of one day for as long as the round stays.
type gridCache struct {
	mu    sync.Mutex
	day   string
	round uint64
	dirty uint64
	rows  []RouteRow
}

// gridRows gives a row of every route that was expected or seen on the day. The slice is the caller's, the cells are shared.
func (r *Reader) gridRows(ctx context.Context, day Day, hours []time.Time, o *observed) ([]RouteRow, error) {
	r.grid.mu.Lock()
	defer r.grid.mu.Unlock()
	var round uint64
	if o != nil {
		round = o.number
	}
	dirty := r.dirty.Load()
	if r.grid.rows != nil && r.grid.day == day.Date && r.grid.round == round && r.grid.dirty == dirty {
		return slices.Clone(r.grid.rows), nil
	}
	rows, err := r.makeGrid(ctx, day, hours, o)
	if err != nil {
		return nil, err
	}
	r.grid.day, r.grid.round, r.grid.dirty, r.grid.rows = day.Date, round, dirty, rows
	return slices.Clone(rows), nil
}

// makeGrid makes a row of every route that was expected or seen on the day.
func (r *Reader) makeGrid(ctx context.Context, day Day, hours []time.Time, o *observed) ([]RouteRow, error) {
	byRoute := map[string]*RouteRow{}
	row := func(route string) *RouteRow {
		if byRoute[route] == nil {
			byRoute[route] = &RouteRow{Route: route, Cells: make([]Cell, len(hours))}
			for i, h := range hours {
				byRoute[route].Cells[i] = Cell{Start: h, Level: LevelNoData}
			}
		}
		return byRoute[route]
	}
	now := r.o.Now()
	for i, start := range hours {
		if start.After(now) {
			break
		}
		hour, err := r.hour(ctx, start, now)
		if err != nil {
			return nil, err
		}
		for route, c := range hour.cells {
			row(route).Cells[i] = c
		}
		if hour.minutes > 0 { // it was heard, and a route that is not there had nothing
			for _, known := range byRoute {
				if known.Cells[i].Minutes == 0 {
					known.Cells[i] = Cell{Start: start, Level: LevelNone, Minutes: hour.minutes}
				}
			}
		}
	}
	if o != nil && day.Today {
		for _, v := range o.Routes {
			row(v.Route).take(o.At, routeIn(v, o.Blind))
		}
	}
	r.ahead(byRoute, hours, now)
	open, err := r.openFaults(ctx)
	if err != nil {
		return nil, err
	}
	if day.Today {
		for _, f := range open {
			if at := byRoute[f.Subject.Route]; f.Subject.Route != "" && at != nil {
				at.Faults++
				at.Fault = f.ID
			}
		}
	}
	out := make([]RouteRow, 0, len(byRoute))
	for _, one := range byRoute {
		one.weigh()
		out = append(out, *one)
	}
	return out, nil
}

// ahead fills the hours that have not begun with what will be expected.
func (r *Reader) ahead(rows map[string]*RouteRow, hours []time.Time, now time.Time) {
	for route, row := range rows {
		for i, start := range hours {
			if !start.After(now) {
				continue
			}
			row.Cells[i] = Cell{Start: start, Level: LevelNone}
			if exp, ok := r.o.Expect.Expect(route, start); ok && exp.Expected > 0 {
				row.Cells[i].Level, row.Cells[i].Expected = LevelAhead, exp.Expected
			}
		}
	}
}

// take puts the newest round into the running hour.
func (row *RouteRow) take(at time.Time, in RouteIn) {
	row.Now = &in
	for i := range row.Cells {
		c := &row.Cells[i]
		if at.Before(c.Start) || !at.Before(c.Start.Add(time.Hour)) {
			continue
		}
		c.Online, c.Level = in.Online, in.Level
		if in.Level != LevelNone {
			c.Expected = max(in.Expected, 0)
		}
		if in.Level == LevelOK && c.Below > 0 {
			c.Level = LevelBelow // it was, within this hour
		}
	}
}

// weigh gives the row its place among the worst.
func (row *RouteRow) weigh() {
	weight := map[Level]int{LevelSilent: 4, LevelBelow: 3, LevelNoData: 2, LevelLow: 1}
	for _, c := range row.Cells {
		if c.Level == LevelNoData && c.Minutes == 0 {
			continue
		}
		row.worst += weight[c.Level]
	}
	if row.Now != nil {
		row.worst += 1000 * weight[row.Now.Level]
	}
	row.worst += 5000 * min(row.Faults, 1)
}

func routeIn(v fleet.RouteView, blind bool) RouteIn {
	in := RouteIn{
		Online: v.Online, Expected: v.Expectation.Now, Threshold: v.Threshold, Known: v.Known, Source: v.Expectation.Source,
		Sample: v.Expectation.SampleSize, Missing: v.Missing,
	}
	switch {
	case blind:
		in.Level = LevelNoData
	case in.Expected == 0 && in.Online == 0 && !v.Verdict.Firing:
		in.Level = LevelNone
	case in.Online == 0 && in.Expected > 0 || v.Verdict.Firing && v.Verdict.Kind == faults.RouteSilent:
		in.Level = LevelSilent
	case in.Online < in.Threshold:
		in.Level = LevelBelow
	case in.Online < in.Expected:
		in.Level = LevelLow
	default:
		in.Level = LevelOK
	}
	if v.Verdict.Firing {
		in.Reason = v.Verdict.Reason
	}
	return in
}

// pastHour is one hour of all routes.
type pastHour struct {
	minutes int // that were stored
	cells   map[string]Cell
}

// maxPast bounds the hours that are remembered: a fortnight.
const maxPast = 15 * 24

// hour reads the minutes of an hour, and remembers one that is over.
func (r *Reader) hour(ctx context.Context, start, now time.Time) (pastHour, error) {
	// Its last minute is stored at its end, and may wait for the disk a little.
	over := now.After(start.Add(time.Hour + 5*time.Minute))
	if over {
		r.pastMu.Lock()
		h, ok := r.past[start.Unix()]
		r.pastMu.Unlock()
		if ok {
			return h, nil
		}
	}
	h, err := r.readHour(ctx, start)
	if err != nil {
		return h, err
	}
	if over {
		r.pastMu.Lock()
		if len(r.past) >= maxPast {
			clear(r.past)
		}
		r.past[start.Unix()] = h
		r.pastMu.Unlock()
	}
	return h, nil
}

func (r *Reader) readHour(ctx context.Context, start time.Time) (pastHour, error) {
	h := pastHour{cells: map[string]Cell{}}
	// A frame at its minute's end tells of the minute before it.
	err := r.o.Store.Counts().Frames(ctx, start.Add(time.Second), start.Add(time.Hour+time.Second), func(f counts.Frame) error {
		h.minutes++
		for _, p := range f.Rows {
			c := h.cells[p.Route]
			c.add(p, f.Blind)
			h.cells[p.Route] = c
		}
		return nil
	})
	if err != nil {
		return h, fmt.Errorf("read the counts from %s: %w", start.Format(time.RFC3339), err)
	}
	if h.minutes == 0 {
		return h, r.readOldHour(ctx, start, &h)
	}
	for route, c := range h.cells {
		c.Start = start
		c.judge()
		h.cells[route] = c
	}
	return h, nil
}

// readOldHour takes the row of an hour whose minutes are not kept any more. What was expected then is what is expected of such an hour now.
func (r *Reader) readOldHour(ctx context.Context, start time.Time, h *pastHour) error {
	rows, err := r.o.Store.Counts().Hours(ctx, start, start.Add(time.Hour), "")
	if err != nil {
		return fmt.Errorf("read the counts of the hour %s: %w", start.Format(time.RFC3339), err)
	}
	for _, row := range rows {
		c := Cell{Start: start, Online: row.Peak, Lowest: row.Lowest, Minutes: int(row.Length / time.Minute), Blind: int((row.Length - row.Heard) / time.Minute)}
		if exp, ok := r.o.Expect.Expect(row.Route, start); ok {
			c.Expected = exp.Expected
		}
		c.judge()
		h.cells[row.Route] = c
		h.minutes = max(h.minutes, c.Minutes)
	}
	return nil
}

func (c *Cell) add(p counts.RouteMinute, blind bool) {
	c.Minutes++
	c.Expected = max(c.Expected, p.Expected)
	if blind {
		c.Blind++
		return
	}
	if c.Minutes-c.Blind == 1 || p.Min < c.Lowest {
		c.Lowest = p.Min
	}
	c.Online = max(c.Online, p.Max)
	if p.Online < p.Threshold {
		c.Below++
	}
}

// judge says how an hour was by its numbers.
func (c *Cell) judge() {
	switch {
	case c.Blind >= c.Minutes:
		c.Level = LevelNoData
	case c.Expected == 0 && c.Online == 0:
		c.Level = LevelNone
	case c.Online == 0 && c.Below > 0:
		c.Level = LevelSilent
	case c.Below > 0:
		c.Level = LevelBelow
	case c.Online < c.Expected:
		c.Level = LevelLow
	default:
		c.Level = LevelOK
	}
}

// CompareNatural orders names as people count: 2 before 10, and A2 before A10.
func CompareNatural(a, b string) int {
	x, y := a, b
	for x != "" && y != "" {
		n, m := digits(x), digits(y)
		if n == 0 || m == 0 {
			if x[0] != y[0] {
				return cmp.Compare(x[0], y[0])
			}
			x, y = x[1:], y[1:]
			continue
		}
		p, q := strings.TrimLeft(x[:n], "0"), strings.TrimLeft(y[:m], "0")
		if c := cmp.Or(cmp.Compare(len(p), len(q)), cmp.Compare(p, q)); c != 0 {
			return c
		}
		x, y = x[n:], y[m:]
	}
	return cmp.Or(cmp.Compare(len(x), len(y)), cmp.Compare(a, b))
}

func digits(s string) int {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}
