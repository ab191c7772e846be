package console

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/farebeat/farebeat/fleet/console/view"
)

// barPiece is one stretch of a machine's bar of the last 24 hours, in thousandths of its width.
type barPiece struct {
	X, W  float64
	State string
	Fault string
	Text  string
	From  time.Time
	To    time.Time
}

func barOf(list []view.Stretch) []barPiece {
	if len(list) == 0 {
		return nil
	}
	begin, end := list[0].From, list[len(list)-1].To
	all := end.Sub(begin).Seconds()
	out := make([]barPiece, 0, len(list))
	for _, s := range list {
		out = append(out, barPiece{
			X: s.From.Sub(begin).Seconds() * 1000 / all, W: s.To.Sub(s.From).Seconds() * 1000 / all, State: s.State, Fault: s.Fault, From: s.From, To: s.To,
		})
	}
	return out
}

// The size of a route's chart in its own units.
const (
	chartWidth  = 1440 // one for each minute of a day
	chartHeight = 300
	chartFoot   = 24 // room for the hours
)

// chart is a route's day as paths of SVG.
type chart struct {
	Width, Height, Plot float64
	Top                 int    // greatest number on the axis
	Online              string // area between the axis and the number online
	Line                string // its upper edge
	Expected, Threshold string // step lines
	Blind               []band // when nobody heard
	Marks               []point
	Hours               []tick
	Lines               []tick // numbers on the axis
	Now                 float64
	Hits                []hit
}

type band struct{ X, W float64 }

type tick struct {
	At   float64
	Text string
}

type point struct {
	X           float64
	W           float64
	Fault, Text string
	Open        bool
}

// hit is a quarter of an hour with its numbers, for whoever points there.
type hit struct {
	X, W float64
	Text string
}

func (c *Console) loadRoute(r *http.Request) (content, error) {
	p, err := c.o.View.Route(r.Context(), r.PathValue("id"), r.URL.Query().Get("day"))
	if err != nil {
		return content{}, err
	}
	return content{"Route " + p.Route, struct {
		view.RoutePage
		Chart chart
	}{p, drawRoute(p, c.o.View.Clock(), c.o.View.Zone())}}, nil
}

// drawRoute draws a route's day. It is pure.
func drawRoute(p view.RoutePage, now time.Time, zone *time.Location) chart {
	c := chart{Width: chartWidth, Height: chartHeight, Plot: chartHeight - chartFoot, Now: -1}
	top := 1
	for _, m := range p.Minutes {
		top = max(top, m.Max, m.Expected, m.Threshold)
	}
	for _, s := range p.Plan {
		top = max(top, s.Expected)
	}
	c.Top = top + max(1, top/8)
	whole := p.Day.To.Sub(p.Day.From)
	x := func(t time.Time) float64 { return round1(float64(t.Sub(p.Day.From)) / float64(whole) * chartWidth) }
	y := func(n int) float64 { return round1(c.Plot - float64(n)/float64(c.Top)*c.Plot) }
	c.drawMinutes(p.Minutes, x, y)
	c.drawPlan(p.Plan, x, y)
	for _, f := range p.Faults {
		from, to := f.OpenedAt, f.ClosedAt
		if from.Before(p.Day.From) {
			from = p.Day.From
		}
		if to.IsZero() || to.After(p.Day.To) {
			to = p.Day.To
			if now.Before(to) {
				to = now
			}
		}
		c.Marks = append(c.Marks, point{x(from), max(3, x(to)-x(from)), f.ID, f.Title, !f.Ended()})
	}
	for at := p.Day.From; at.Before(p.Day.To); at = at.Add(time.Hour) {
		if h := at.In(zone).Hour(); h%3 == 0 {
			c.Hours = append(c.Hours, tick{x(at), fmt.Sprintf("%02d", h)})
		}
	}
	for _, n := range axis(c.Top) {
		c.Lines = append(c.Lines, tick{y(n), fmt.Sprint(n)})
	}
	if now.After(p.Day.From) && now.Before(p.Day.To) {
		c.Now = x(now)
	}
	return c
}

// axis chooses about four whole numbers up to top.
func axis(top int) []int {
	step := 1
	for _, s := range []int{1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000} {
		if step = s; top/s <= 5 {
			break
		}
	}
	var out []int
	for n := 0; n <= top; n += step {
		out = append(out, n)
	}
	return out
}

func round1(v float64) float64 { return float64(int(v*10+0.5)) / 10 }

// gapAfter is how long without a minute is a gap and not a line.
const gapAfter = 3 * time.Minute

func (c *chart) drawMinutes(list []view.Minute, x func(time.Time) float64, y func(int) float64) {
	var area, line, threshold strings.Builder
	base := y(0)
	begun, last := false, time.Time{}
	end := func() {
		if begun {
			fmt.Fprintf(&area, "L%g %gZ", x(last), base)
			begun = false
		}
	}
	for i, m := range list {
		at := x(m.At)
		if m.Blind {
			end()
			c.Blind = append(c.Blind, band{x(m.At.Add(-time.Minute)), max(1, at-x(m.At.Add(-time.Minute)))})
			continue
		}
		if begun && m.At.Sub(last) > gapAfter {
			end()
		}
		if !begun {
			fmt.Fprintf(&area, "M%g %gL%g %g", at, base, at, y(m.Online))
			fmt.Fprintf(&line, "M%g %g", at, y(m.Online))
			begun = true
		} else {
			fmt.Fprintf(&area, "L%g %g", at, y(m.Online))
			fmt.Fprintf(&line, "L%g %g", at, y(m.Online))
		}
		last = m.At
		if m.Threshold > 0 {
			if i > 0 && list[i-1].Threshold == m.Threshold && m.At.Sub(list[i-1].At) <= gapAfter {
				fmt.Fprintf(&threshold, "H%g", at)
			} else if i > 0 && list[i-1].Threshold > 0 && m.At.Sub(list[i-1].At) <= gapAfter {
				fmt.Fprintf(&threshold, "H%gV%g", at, y(m.Threshold))
			} else {
				fmt.Fprintf(&threshold, "M%g %g", at, y(m.Threshold))
			}
		}
	}
	end()
	c.Online, c.Line, c.Threshold = area.String(), line.String(), threshold.String()
	c.Hits = hits(list, x)
}

// hits joins minutes to quarters of an hour.
func hits(list []view.Minute, x func(time.Time) float64) []hit {
	const quarter = 15 * time.Minute
	var out []hit
	for i := 0; i < len(list); {
		begin := list[i].At.Add(-time.Second).Truncate(quarter)
		low, high, expected, blind, n := list[i].Min, list[i].Max, 0, 0, 0
		for ; i < len(list) && list[i].At.Add(-time.Second).Before(begin.Add(quarter)); i++ {
			m := list[i]
			low, high, expected, n = min(low, m.Min), max(high, m.Max), max(expected, m.Expected), n+1
			if m.Blind {
				blind++
			}
		}
		text := fmt.Sprintf("%d to %d online, %d expected", low, high, expected)
		if blind == n {
			text = "nobody heard"
		}
		out = append(out, hit{x(begin), x(begin.Add(quarter)) - x(begin), text})
	}
	return out
}

func (c *chart) drawPlan(list []view.Step, x func(time.Time) float64, y func(int) float64) {
	var b strings.Builder
	for i, s := range list {
		if i == 0 {
			fmt.Fprintf(&b, "M%g %g", x(s.At), y(s.Expected))
			continue
		}
		fmt.Fprintf(&b, "H%gV%g", x(s.At), y(s.Expected))
	}
	if len(list) > 0 {
		fmt.Fprintf(&b, "H%d", chartWidth)
	}
	c.Expected = b.String()
}
