package counts

import (
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Config is what a Board must know. Only Start is required.
type Config struct {
	Location  *time.Location // zone of the local hour; UTC if nil
	Start     time.Time      // since when nothing on a route means nothing there
	WarmUp    time.Duration  // after Start and after blindness, see NewSight; 0 for a recording
	MaxRoutes int            // routes that machines may name; 50,000 if 0. The roster is not bounded
}

const defaultMaxRoutes = 50_000

// Board is the line of every route. Safe for concurrent use: the lock of a line is
// held for a machine's coming and going, never for a heartbeat that changes nothing.
type Board struct {
	loc       *time.Location
	start     int64
	maxRoutes int
	sight     *Sight
	refused   atomic.Uint64
	hour      atomic.Pointer[span] // the last one asked for

	mu     sync.RWMutex
	lines  map[string]*line
	sorted []*line           // by name; nil when lines changed
	names  map[uint32]string // of lines, by id
	lastID uint32
	past   []HourRow // ended hours of lines that are gone, or restored
}

// New makes an empty board.
func New(cfg Config) *Board {
	b := &Board{
		loc:       cfg.Location,
		start:     cfg.Start.UnixNano(),
		maxRoutes: cfg.MaxRoutes,
		sight:     NewSight(cfg.Start, cfg.WarmUp),
		lines:     map[string]*line{},
		names:     map[uint32]string{},
	}
	if b.loc == nil {
		b.loc = time.UTC
	}
	if b.maxRoutes <= 0 {
		b.maxRoutes = defaultMaxRoutes
	}
	return b
}

// Sight is the board's clock of silence.
func (b *Board) Sight() *Sight { return b.sight }

// SetBlind says that we cannot hear from now on, or can again.
func (b *Board) SetBlind(now time.Time, blind bool) { b.sight.Set(now, blind) }

// Blind reports that the counts at now are no evidence; see Sight.Blind.
func (b *Board) Blind(now time.Time) bool { return b.sight.Blind(now) }

// Refused is how often a machine named a route beyond MaxRoutes and was counted on none.
func (b *Board) Refused() uint64 { return b.refused.Load() }

// SetRoster names the routes that are expected to have machines, in place of the last
// roster. Each gives a row, with 0 where nothing is there.
func (b *Board) SetRoster(now time.Time, routes []string) {
	on := make(map[string]bool, len(routes))
	for _, r := range routes {
		on[r] = r != ""
	}
	at := now.UnixNano()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range routes {
		if r != "" && b.lines[r] == nil {
			b.addLine(at, r)
		}
	}
	for name, l := range b.lines {
		l.mu.Lock()
		l.settle(b, at)
		l.roster = on[name]
		l.mu.Unlock()
	}
}

// addLine makes the line of a route that nobody named before. Nothing was there since
// the hour began, or since the board did. The caller holds b.mu.
func (b *Board) addLine(at int64, route string) *line {
	b.lastID++
	h := b.hourAt(at)
	l := &line{name: route, id: b.lastID, hour: h, at: min(at, max(b.start, h.start)), min: noMin}
	l.lastHeard.Store(neverHeard)
	b.lines[route] = l
	b.names[l.id] = route
	b.sorted = nil
	return l
}

// take finds the line of a route and adds a reference to it; nil if there is none and
// no room for another.
func (b *Board) take(at int64, route string) *line {
	b.mu.RLock()
	l := b.lines[route]
	if l != nil {
		l.refs.Add(1)
	}
	b.mu.RUnlock()
	if l != nil {
		return l
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if l = b.lines[route]; l == nil {
		if len(b.lines) >= b.maxRoutes {
			b.refused.Add(1)
			return nil
		}
		l = b.addLine(at, route)
	}
	l.refs.Add(1)
	return l
}

// all gives the lines by name.
func (b *Board) all() []*line {
	b.mu.RLock()
	sorted := b.sorted
	b.mu.RUnlock()
	if sorted != nil {
		return sorted
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.sorted == nil {
		b.sorted = make([]*line, 0, len(b.lines))
		for _, l := range b.lines {
			b.sorted = append(b.sorted, l)
		}
		slices.SortFunc(b.sorted, func(x, y *line) int { return strings.Compare(x.name, y.name) })
	}
	return b.sorted
}

// Rows gives every route that is on the roster, has known machines, or had any this
// hour, by name, as of now. Expected and Threshold are left to the caller.
func (b *Board) Rows(now time.Time) []RouteMinute { return b.rows(now, false) }

// Minute is Rows, after which Min and Max begin anew. It also settles what ended: call
// it about once a minute, and Hours after it. What happens at now itself belongs to the
// next minute: in a recording, call it before the events of that instant.
func (b *Board) Minute(now time.Time) []RouteMinute {
	rows := b.rows(now, true)
	b.prune()
	return rows
}

func (b *Board) rows(now time.Time, reset bool) []RouteMinute {
	at, seeing := now.UnixNano(), int64(b.sight.Seeing(now))
	lines := b.all()
	rows := make([]RouteMinute, 0, len(lines))
	for _, l := range lines {
		if r, ok := l.row(b, at, seeing, reset); ok {
			rows = append(rows, r)
		}
	}
	return rows
}

// prune drops lines that nobody needs, so that misspelled routes do not stay for ever.
func (b *Board) prune() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for name, l := range b.lines {
		l.mu.Lock()
		idle := l.refs.Load() == 0 && !l.roster && l.distinct == 0
		if idle {
			b.past = append(b.past, l.ended...)
			l.ended = nil
			delete(b.lines, name)
			delete(b.names, l.id)
			b.sorted = nil
		}
		l.mu.Unlock()
	}
}

// Hours gives the rows of the hours that ended by now and were not given before, by
// Start then Route.
func (b *Board) Hours(now time.Time) []HourRow {
	at := now.UnixNano()
	var rows []HourRow
	for _, l := range b.all() {
		l.mu.Lock()
		l.settle(b, at)
		rows = append(rows, l.ended...)
		l.ended = nil
		l.mu.Unlock()
	}
	b.mu.Lock()
	rows = append(rows, b.past...)
	b.past = nil
	b.mu.Unlock()
	slices.SortStableFunc(rows, func(x, y HourRow) int {
		if c := x.Start.Compare(y.Start); c != 0 {
			return c
		}
		return strings.Compare(x.Route, y.Route)
	})
	return rows
}

// span is one hour of the local clock in Unix nanoseconds, end exclusive.
type span struct{ start, end int64 }

// hourAt is the local hour that holds at. A change of the zone's offset ends an hour,
// so that nights with 23 or 25 hours come out right.
func (b *Board) hourAt(at int64) span {
	if h := b.hour.Load(); h != nil && h.start <= at && at < h.end {
		return *h
	}
	t := time.Unix(0, at).In(b.loc)
	_, offset := t.Zone()
	local := t.Unix() + int64(offset)
	start := local - mod(local, 3600) - int64(offset)
	end := start + 3600
	from, to := t.ZoneBounds()
	if !from.IsZero() {
		start = max(start, from.Unix())
	}
	if !to.IsZero() {
		end = min(end, to.Unix())
	}
	h := span{start * int64(time.Second), end * int64(time.Second)}
	b.hour.Store(&h)
	return h
}

// mod is the remainder that is never negative.
func mod(a, m int64) int64 { return ((a % m) + m) % m }

const (
	noMin      = math.MaxInt
	neverHeard = math.MinInt64
)
