package store

import (
	"context"
	"time"
)

// Change says that counts were saved: those of a minute, or those of an hour. Whoever exports counts follows the changes behind a
// cursor: what is saved late, again, or after the clock was set back is a change like any other.
type Change struct {
	N    int64     // grows with every change; numbers may be missing
	Hour bool      // the rows of the hour that begins at At; else the frame of At
	At   time.Time // whole seconds, UTC
}

// Ended is when what the change tells of was over, and could be saved.
func (c Change) Ended() time.Time {
	if c.Hour {
		return c.At.Add(time.Hour)
	}
	return c.At
}

// The kinds of changes as the table has them.
const (
	frameChange = "frame"
	hourChange  = "hour"
)

func noteChange(t *tx, kind string, at int64) error {
	return t.exec(`INSERT INTO series_change (kind, at_s) VALUES (?, ?)`, kind, at)
}

// Changes lists at most limit changes with a number above after, in order.
func (c *Counts) Changes(ctx context.Context, after int64, limit int) ([]Change, error) {
	var out []Change
	err := c.s.view(ctx, func(q *querier) error {
		out = nil
		return q.rows(`SELECT n, kind, at_s FROM series_change WHERE n > ? ORDER BY n LIMIT ?`, []any{after, limit}, func(scan func(...any) error) error {
			var x Change
			var kind string
			var at int64
			err := scan(&x.N, &kind, &at)
			x.Hour, x.At = kind == hourChange, time.Unix(at, 0).UTC()
			out = append(out, x)
			return err
		})
	})
	return out, wrap("read changes of counts", err)
}

// LastChange is the number of the newest change, 0 where there is none.
func (c *Counts) LastChange(ctx context.Context) (n int64, err error) {
	err = c.s.view(ctx, func(q *querier) error { return q.row(`SELECT coalesce(max(n), 0) FROM series_change`, nil, &n) })
	return n, wrap("read the newest change of counts", err)
}

// Aside is a line that a sink never takes, and why.
type Aside struct {
	Sink   string    `json:"sink"`
	At     time.Time `json:"at"` // when it was set aside, to the second
	Line   string    `json:"line"`
	Reason string    `json:"reason"`
}

// maxAside bounds the lines that are kept of one sink; the oldest go first.
const maxAside = 1_000

// SetAside keeps lines that a sink refuses, each once.
func (c *Counts) SetAside(ctx context.Context, lines ...Aside) error {
	return wrap("set lines aside", c.s.update(ctx, func(t *tx) error {
		for _, a := range lines {
			err := t.exec(`INSERT INTO series_aside (sink, at_s, line, reason) SELECT ?, ?, ?, ?
				WHERE NOT EXISTS (SELECT 1 FROM series_aside WHERE sink = ? AND line = ?)`, a.Sink, a.At.Unix(), a.Line, a.Reason, a.Sink, a.Line)
			if err != nil {
				return err
			}
			err = t.exec(`DELETE FROM series_aside WHERE sink = ? AND n <= (SELECT max(n) FROM series_aside) - ?`, a.Sink, maxAside)
			if err != nil {
				return err
			}
		}
		return nil
	}))
}

// Asides lists the lines that were set aside, of one sink or all, oldest first.
func (c *Counts) Asides(ctx context.Context, sink string) ([]Aside, error) {
	var out []Aside
	err := c.s.view(ctx, func(q *querier) error {
		out = nil
		return q.rows(`SELECT sink, at_s, line, reason FROM series_aside WHERE ? IN ('', sink) ORDER BY n`, []any{sink}, func(scan func(...any) error) error {
			var a Aside
			var at int64
			err := scan(&a.Sink, &at, &a.Line, &a.Reason)
			a.At = time.Unix(at, 0).UTC()
			out = append(out, a)
			return err
		})
	})
	return out, wrap("read lines set aside", err)
}

// HourRange gives the begin of the first and of the last hour that the store has; zero times where it has none.
func (c *Counts) HourRange(ctx context.Context) (first, last time.Time, err error) {
	var from, to, n int64
	err = c.s.view(ctx, func(q *querier) error {
		return q.row(`SELECT coalesce(min(start_s), 0), coalesce(max(start_s), 0), count(*) FROM (SELECT start_s FROM count_hour
			WHERE start_s = (SELECT min(start_s) FROM count_hour) OR start_s = (SELECT max(start_s) FROM count_hour))`, nil, &from, &to, &n)
	})
	if err != nil || n == 0 {
		return first, last, wrap("read the range of hours", err)
	}
	return time.Unix(from, 0).UTC(), time.Unix(to, 0).UTC(), nil
}
