package trace

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Form is which of the two kinds of row a trace holds.
type Form uint8

// The forms of a trace.
const (
	Reports   Form = iota + 1 // one row a position report
	Intervals                 // one row a time on the line
)

// String names the form as the documentation does.
func (f Form) String() string {
	switch f {
	case Reports:
		return "reports"
	case Intervals:
		return "intervals"
	default:
		return fmt.Sprintf("form %d", uint8(f))
	}
}

// Bounds of a trace. A file that breaks one is refused with an error that names
// the row.
const (
	MaxID       = 64               // characters of a vehicle, route or trip id
	MaxLine     = 64 << 10         // bytes of a line
	MaxEpoch    = 4102444800       // 2100-01-01, so that milliseconds are not taken for seconds
	MaxInterval = 7 * 86400        // seconds of one interval
	JoinGap     = 30 * time.Minute // usual gap for Trace.Intervals
)

// Interval is one row of a trace. In a report From equals To. The strings of a
// trace are shared between its rows.
type Interval struct {
	Vehicle string
	Route   string
	Trip    string // empty where the trace does not say
	From    int64  // seconds since 1970, inclusive
	To      int64  // seconds since 1970, exclusive
	Line    int    // line of the file, from 1; 0 for a derived interval
}

// Start is From as a time in UTC.
func (i Interval) Start() time.Time { return time.Unix(i.From, 0).UTC() }

// End is To as a time in UTC.
func (i Interval) End() time.Time { return time.Unix(i.To, 0).UTC() }

// Trace is a whole trace in memory. Boston's Sunday, 72,765 reports, takes 6 MB.
type Trace struct {
	Name string // as given to Read, for messages
	Form Form
	Rows []Interval // in the order of the file
}

// Read reads a whole trace, plain or gzip, and closes nothing. Name stands in
// error messages. A trace with a header and no row is valid.
func Read(r io.Reader, name string) (*Trace, error) {
	rd, err := NewReader(r, name)
	if err != nil {
		return nil, err
	}
	t := &Trace{Name: name, Form: rd.Form()}
	for {
		row, err := rd.Read()
		if errors.Is(err, io.EOF) {
			return t, nil
		}
		if err != nil {
			return nil, err
		}
		t.Rows = append(t.Rows, row)
	}
}

// ReadFile reads the trace at path.
func ReadFile(path string) (*Trace, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read trace: %w", err)
	}
	defer func() { _ = f.Close() }()
	return Read(f, filepath.Base(path))
}

// Span is the first and the last instant the trace speaks of, and false where it
// has no row.
func (t *Trace) Span() (from, to time.Time, ok bool) {
	if len(t.Rows) == 0 {
		return time.Time{}, time.Time{}, false
	}
	lo, hi := t.Rows[0].From, t.Rows[0].To
	for _, r := range t.Rows[1:] {
		lo, hi = min(lo, r.From), max(hi, r.To)
	}
	return time.Unix(lo, 0).UTC(), time.Unix(hi, 0).UTC(), true
}

// Sorted returns the rows in the order of From, those of one instant in the
// order of the file. Rows itself stays as it is.
func (t *Trace) Sorted() []Interval {
	rows := slices.Clone(t.Rows)
	if !slices.IsSortedFunc(rows, byFrom) {
		slices.SortStableFunc(rows, byFrom)
	}
	return rows
}

// Intervals returns the times on the line in the order of From, no vehicle ever
// on two of them at once: where rows of one vehicle overlap, the later one (of two
// that begin together the one that ends later) begins where the other ends. What
// then has no length is left out.
//
// In a trace of reports, reports of one vehicle on one route at most gap apart
// are one interval; it ends at the vehicle's first report on another route or,
// before a longer gap, at its last report.
func (t *Trace) Intervals(gap time.Duration) []Interval {
	rows := slices.Clone(t.Rows)
	slices.SortStableFunc(rows, func(a, b Interval) int {
		return cmp.Or(cmp.Compare(a.Vehicle, b.Vehicle), byFrom(a, b), cmp.Compare(a.To, b.To))
	})
	if t.Form == Reports {
		rows = join(rows, int64(gap/time.Second))
	}
	out := rows[:0]
	for _, r := range rows {
		if n := len(out); n > 0 && out[n-1].Vehicle == r.Vehicle {
			r.From = max(r.From, out[n-1].To)
		}
		if r.To > r.From {
			out = append(out, r)
		}
	}
	slices.SortStableFunc(out, byFrom)
	return out
}

// join makes intervals of reports that are ordered by vehicle and time.
func join(reports []Interval, gap int64) []Interval {
	var out []Interval
	for _, r := range reports {
		if n := len(out); n > 0 && out[n-1].Vehicle == r.Vehicle && r.From-out[n-1].To <= gap {
			last := &out[n-1]
			last.To = r.From
			if last.Route == r.Route && last.Trip == r.Trip {
				continue
			}
		}
		r.Line = 0
		out = append(out, r)
	}
	return out
}

func byFrom(a, b Interval) int { return cmp.Compare(a.From, b.From) }
