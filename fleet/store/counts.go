package store

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/farebeat/farebeat/fleet/counts"
)

// Counts is the part of the store that keeps how many machines were online.
func (s *Store) Counts() *Counts { return &Counts{s} }

// Counts implements counts.Store. A frame is one BLOB (counts.AppendFrame), in which
// a dense number stands for each route.
type Counts struct{ s *Store }

var _ counts.Store = (*Counts)(nil)

// boardState is the name of the board's open hour in the table meta.
const boardState = "counts.state"

// SaveFrame implements counts.Store.
func (c *Counts) SaveFrame(ctx context.Context, f counts.Frame) error {
	var added map[string]uint32
	err := c.s.update(ctx, func(t *tx) error {
		added = map[string]uint32{}
		points := make([]counts.Point, len(f.Rows))
		for i, r := range f.Rows {
			n, err := c.number(t, r.Route, added)
			if err != nil {
				return err
			}
			points[i] = counts.Point{
				Number: n, Online: r.Online, Min: r.Min, Max: r.Max, Known: r.Known,
				Expected: r.Expected, Threshold: r.Threshold,
			}
		}
		slices.SortFunc(points, func(a, b counts.Point) int { return cmp.Compare(a.Number, b.Number) })
		blob, err := counts.AppendFrame(nil, points)
		if err != nil {
			return err
		}
		if err := noteChange(t, frameChange, f.At.Unix()); err != nil {
			return err
		}
		return t.exec(`INSERT INTO count_frame (at_s, blind, points) VALUES (?, ?, ?)
			ON CONFLICT (at_s) DO UPDATE SET blind = excluded.blind, points = excluded.points`, f.At.Unix(), bit(f.Blind), blob)
	})
	if err != nil {
		return fmt.Errorf("save counts of %s: %w", f.At.UTC().Format(time.RFC3339), err)
	}
	c.remember(added)
	return nil
}

// number gives the route's number, a new one if it has none. added collects those that are not
// known to be committed yet.
func (c *Counts) number(t *tx, route string, added map[string]uint32) (uint32, error) {
	c.s.routesMu.Lock()
	n, ok := c.s.routes[route]
	c.s.routesMu.Unlock()
	if ok {
		return n, nil
	}
	if n, ok := added[route]; ok {
		return n, nil
	}
	err := t.row(`SELECT number FROM count_route WHERE route = ?`, []any{route}, &n)
	if errors.Is(err, sql.ErrNoRows) {
		if err = t.row(`SELECT coalesce(max(number) + 1, 0) FROM count_route`, nil, &n); err == nil {
			err = t.exec(`INSERT INTO count_route (number, route) VALUES (?, ?)`, n, route)
		}
	}
	added[route] = n
	return n, err
}

func (c *Counts) remember(added map[string]uint32) {
	c.s.routesMu.Lock()
	defer c.s.routesMu.Unlock()
	for route, n := range added {
		c.s.routes[route] = n
	}
}

// framesAtOnce is how many frames one snapshot reads, so that a slow caller does not hold up
// the cleaning of the log.
const framesAtOnce = 256

// storedFrame is a row of count_frame.
type storedFrame struct {
	at     int64
	blind  bool
	points []byte
}

// Frames implements counts.Store.
func (c *Counts) Frames(ctx context.Context, from, to time.Time, each func(counts.Frame) error) error {
	names := map[uint32]string{}
	for next := ceilSecond(from); ; {
		var page []storedFrame
		err := c.s.view(ctx, func(q *querier) error {
			if err := routeNames(q, names); err != nil {
				return err
			}
			return q.rows(`SELECT at_s, blind, points FROM count_frame WHERE at_s >= ? AND at_s < ? ORDER BY at_s LIMIT ?`,
				[]any{next, ceilSecond(to), framesAtOnce}, func(scan func(...any) error) error {
					var f storedFrame
					err := scan(&f.at, &f.blind, &f.points)
					page = append(page, f)
					return err
				})
		})
		if err != nil {
			return fmt.Errorf("read counts: %w", err)
		}
		for _, f := range page {
			frame, err := f.decode(names)
			if err != nil {
				return fmt.Errorf("read counts of %s: %w", time.Unix(f.at, 0).UTC().Format(time.RFC3339), err)
			}
			if err := each(frame); err != nil {
				return err
			}
			next = f.at + 1
		}
		if len(page) < framesAtOnce {
			return nil
		}
	}
}

// Routes lists every route that frames were ever saved for, sorted.
func (c *Counts) Routes(ctx context.Context) ([]string, error) {
	var out []string
	err := c.s.view(ctx, func(q *querier) error {
		return q.rows(`SELECT route FROM count_route ORDER BY route`, nil, func(scan func(...any) error) error {
			var route string
			err := scan(&route)
			out = append(out, route)
			return err
		})
	})
	return out, wrap("read the routes of counts", err)
}

// ceilSecond is the first whole second not before t.
func ceilSecond(t time.Time) int64 {
	if t.Nanosecond() > 0 {
		return t.Unix() + 1
	}
	return t.Unix()
}

// routeNames fills names with the routes numbered since it was last filled.
func routeNames(q *querier, names map[uint32]string) error {
	return q.rows(`SELECT number, route FROM count_route WHERE number >= ?`, []any{len(names)}, func(scan func(...any) error) error {
		var n uint32
		var route string
		err := scan(&n, &route)
		names[n] = route
		return err
	})
}

func (f storedFrame) decode(names map[uint32]string) (counts.Frame, error) {
	points, err := counts.DecodeFrame(f.points)
	if err != nil {
		return counts.Frame{}, err
	}
	frame := counts.Frame{At: time.Unix(f.at, 0).UTC(), Blind: f.blind, Rows: make([]counts.RouteMinute, len(points))}
	for i, p := range points {
		route, ok := names[p.Number]
		if !ok {
			return counts.Frame{}, fmt.Errorf("%w: route number %d has no name", counts.ErrFrame, p.Number)
		}
		frame.Rows[i] = counts.RouteMinute{
			Route: route, Online: p.Online, Min: p.Min, Max: p.Max, Known: p.Known,
			Expected: p.Expected, Threshold: p.Threshold,
		}
	}
	slices.SortFunc(frame.Rows, func(a, b counts.RouteMinute) int { return cmp.Compare(a.Route, b.Route) })
	return frame, nil
}

// SaveHours implements counts.Store.
func (c *Counts) SaveHours(ctx context.Context, rows []counts.HourRow) error {
	err := c.s.update(ctx, func(t *tx) error {
		noted := map[int64]bool{}
		for _, r := range rows {
			if start := r.Start.Unix(); !noted[start] {
				noted[start] = true
				if err := noteChange(t, hourChange, start); err != nil {
					return err
				}
			}
			err := t.exec(`INSERT INTO count_hour (start_s, route, length_ns, heard_ns, online_ns, machines, peak, lowest, p10, p50, p90)
				VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
				ON CONFLICT (start_s, route) DO UPDATE SET
				length_ns = excluded.length_ns, heard_ns = excluded.heard_ns, online_ns = excluded.online_ns,
				machines = excluded.machines, peak = excluded.peak, lowest = excluded.lowest,
				p10 = excluded.p10, p50 = excluded.p50, p90 = excluded.p90`,
				r.Start.Unix(), r.Route, int64(r.Length), int64(r.Heard), int64(r.Online),
				r.Distinct, r.Peak, r.Lowest, r.P10, r.P50, r.P90)
			if err != nil {
				return err
			}
		}
		return nil
	})
	return wrap("save hours", err)
}

// Hours implements counts.Store.
func (c *Counts) Hours(ctx context.Context, from, to time.Time, route string) ([]counts.HourRow, error) {
	query := `SELECT start_s, route, length_ns, heard_ns, online_ns, machines, peak, lowest, p10, p50, p90
		FROM count_hour WHERE start_s >= ? AND start_s < ?`
	args := []any{ceilSecond(from), ceilSecond(to)}
	if route != "" {
		query, args = query+` AND route = ?`, append(args, route)
	}
	var out []counts.HourRow
	err := c.s.view(ctx, func(q *querier) error {
		return q.rows(query+` ORDER BY start_s, route`, args, func(scan func(...any) error) error {
			var r counts.HourRow
			var start, length, heard, online int64
			err := scan(&start, &r.Route, &length, &heard, &online, &r.Distinct, &r.Peak, &r.Lowest, &r.P10, &r.P50, &r.P90)
			r.Start = time.Unix(start, 0).UTC()
			r.Length, r.Heard, r.Online = time.Duration(length), time.Duration(heard), time.Duration(online)
			out = append(out, r)
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read hours: %w", err)
	}
	return out, nil
}

// hoursAtOnce is how much time one snapshot of EachHour reads.
const hoursAtOnce = 2 * time.Hour

// EachHour gives Start, Length, Heard, Route and Peak of the rows that Hours gives of all routes, without holding them all: it is
// made for millions. What is written meanwhile may be seen or not. After an error it ends.
func (c *Counts) EachHour(ctx context.Context, from, to time.Time) iter.Seq2[counts.HourRow, error] {
	return func(yield func(counts.HourRow, error) bool) {
		var page []counts.HourRow
		for at := from; at.Before(to); at = at.Add(hoursAtOnce) {
			end := at.Add(hoursAtOnce)
			if to.Before(end) {
				end = to
			}
			var err error
			if page, err = c.hours(ctx, page[:0], at, end); err != nil {
				yield(counts.HourRow{}, fmt.Errorf("read hours: %w", err))
				return
			}
			for _, r := range page {
				if !yield(r, nil) {
					return
				}
			}
		}
	}
}

// hours appends what EachHour gives of a short time.
func (c *Counts) hours(ctx context.Context, into []counts.HourRow, from, to time.Time) ([]counts.HourRow, error) {
	err := c.s.view(ctx, func(q *querier) error {
		// Scanned into any, a number comes as it is; into an integer it would be printed and parsed again.
		var start, length, heard, peak any
		var route string
		return q.rows(`SELECT start_s, route, length_ns, heard_ns, peak FROM count_hour
			WHERE start_s >= ? AND start_s < ? ORDER BY start_s, route`, []any{ceilSecond(from), ceilSecond(to)},
			func(scan func(...any) error) error {
				if err := scan(&start, &route, &length, &heard, &peak); err != nil {
					return err
				}
				var n [4]int64
				for i, v := range [...]any{start, length, heard, peak} {
					number, ok := v.(int64)
					if !ok {
						return fmt.Errorf("%w: count_hour holds %v where a number should be", ErrDamaged, v)
					}
					n[i] = number
				}
				into = append(into, counts.HourRow{
					Start: time.Unix(n[0], 0).UTC(), Route: route, Length: time.Duration(n[1]), Heard: time.Duration(n[2]), Peak: int(n[3]),
				})
				return nil
			})
	})
	return into, err
}

// SaveState implements counts.Store.
func (c *Counts) SaveState(ctx context.Context, state []byte) error {
	return wrap("save the open hour", c.s.SetMeta(ctx, map[string][]byte{boardState: state}))
}

// State implements counts.Store.
func (c *Counts) State(ctx context.Context) ([]byte, error) {
	state, err := c.s.Meta(ctx, boardState)
	return state, wrap("read the open hour", err)
}

// pruneAtOnce bounds the rows that one transaction deletes, so that the ledger need not wait
// for it.
const pruneAtOnce = 1000

// Prune deletes frames older than frames and hours older than hours, with the changes that tell of them; a zero time keeps all. It
// returns how many of both are gone.
func (c *Counts) Prune(ctx context.Context, frames, hours time.Time) (int64, error) {
	var total int64
	for _, p := range []struct {
		query, change string
		before        time.Time
	}{
		{`DELETE FROM count_frame WHERE at_s IN (SELECT at_s FROM count_frame WHERE at_s < ? ORDER BY at_s LIMIT ?)`, frameChange, frames},
		{`DELETE FROM count_hour WHERE start_s < ? AND start_s <= (
			SELECT max(start_s) FROM (SELECT start_s FROM count_hour ORDER BY start_s LIMIT ?))`, hourChange, hours},
	} {
		for more := !p.before.IsZero(); more; {
			var rows, changes int64
			err := c.s.update(ctx, func(t *tx) (err error) {
				before := ceilSecond(p.before)
				if rows, err = t.affect(p.query, before, pruneAtOnce); err != nil {
					return err
				}
				changes, err = t.affect(`DELETE FROM series_change WHERE n IN (SELECT n FROM series_change WHERE kind = ? AND at_s < ? ORDER BY n LIMIT ?)`,
					p.change, before, pruneAtOnce)
				return err
			})
			if err != nil {
				return total, fmt.Errorf("prune counts: %w", err)
			}
			total += rows
			more = rows+changes > 0
		}
	}
	return total, nil
}

func bit(b bool) int {
	if b {
		return 1
	}
	return 0
}
