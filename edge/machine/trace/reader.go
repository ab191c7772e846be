package trace

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Error says which part of which file is wrong, and how.
type Error struct {
	Name    string // the trace
	Line    int    // from 1; 0 for the file as a whole
	Column  string // name of the column, empty for the line as a whole
	Value   string // what stood there, shortened
	Problem string
}

// Error implements error: `day.csv line 17: epoch "17x": not whole seconds since 1970`.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("trace ")
	b.WriteString(e.Name)
	if e.Line > 0 {
		fmt.Fprintf(&b, " line %d", e.Line)
	}
	if e.Column != "" {
		fmt.Fprintf(&b, ": %s %q", e.Column, e.Value)
	}
	b.WriteString(": ")
	b.WriteString(e.Problem)
	return b.String()
}

// Reader reads a trace row by row in bounded memory. It is not safe for
// concurrent use.
type Reader struct {
	name   string
	in     *bufio.Reader
	form   Form
	line   int
	names  []string // header
	col    columns
	fields [][]byte
	ids    map[string]string // one string per id, however many rows name it
	err    error             // sticky
}

type columns struct{ vehicle, route, trip, from, to int }

// NewReader reads the header. Gzip is recognized by its first bytes. Errors of
// form are *Error; others come from r.
func NewReader(r io.Reader, name string) (*Reader, error) {
	in := bufio.NewReaderSize(r, MaxLine)
	if head, _ := in.Peek(2); bytes.Equal(head, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, &Error{Name: name, Problem: "begins like gzip and is not: " + err.Error()}
		}
		in = bufio.NewReaderSize(z, MaxLine)
	}
	if bom, _ := in.Peek(3); bytes.Equal(bom, []byte("\xef\xbb\xbf")) {
		_, _ = in.Discard(3)
	}
	rd := &Reader{name: name, in: in, ids: map[string]string{}}
	if err := rd.header(); err != nil {
		return nil, err
	}
	return rd, nil
}

// Form is the form of the trace, known from its header.
func (r *Reader) Form() Form { return r.form }

// Read returns the next row, or io.EOF after the last. After an error it returns
// the same error again.
func (r *Reader) Read() (Interval, error) {
	if r.err != nil {
		return Interval{}, r.err
	}
	row, err := r.row()
	r.err = err
	return row, err
}

func (r *Reader) header() error {
	if err := r.split(); err != nil {
		if errors.Is(err, io.EOF) {
			return &Error{Name: r.name, Problem: "is empty; it needs a header line such as epoch,vehicle_id,route_id"}
		}
		return err
	}
	for _, f := range r.fields {
		name := string(bytes.TrimSpace(f))
		if name != "" && slices.Contains(r.names, name) {
			return r.bad("header", name, "this column stands there twice")
		}
		r.names = append(r.names, name)
	}
	find := func(name string) int { return slices.Index(r.names, name) }
	r.col = columns{vehicle: find("vehicle_id"), route: find("route_id"), trip: find("trip_id"), from: find("from_epoch"), to: find("to_epoch")}
	r.form = Intervals
	if r.col.from < 0 || r.col.to < 0 {
		r.form = Reports
		r.col.from = find("epoch")
		r.col.to = r.col.from
	}
	var missing []string
	if r.col.from < 0 {
		missing = append(missing, "epoch (or from_epoch and to_epoch)")
	}
	if r.col.vehicle < 0 {
		missing = append(missing, "vehicle_id")
	}
	if r.col.route < 0 {
		missing = append(missing, "route_id")
	}
	if len(missing) > 0 {
		return &Error{Name: r.name, Line: r.line, Problem: fmt.Sprintf("the header lacks %s; it has %s", strings.Join(missing, ", "), shorten(strings.Join(r.names, ",")))}
	}
	return nil
}

func (r *Reader) row() (Interval, error) {
	var row Interval
	if err := r.split(); err != nil {
		return row, err
	}
	if len(r.fields) != len(r.names) {
		return row, &Error{Name: r.name, Line: r.line, Problem: fmt.Sprintf("%d fields, the header has %d", len(r.fields), len(r.names))}
	}
	row.Line = r.line
	var err error
	if row.Vehicle, err = r.id(r.col.vehicle, true); err != nil {
		return row, err
	}
	if row.Route, err = r.id(r.col.route, true); err != nil {
		return row, err
	}
	if r.col.trip >= 0 {
		if row.Trip, err = r.id(r.col.trip, false); err != nil {
			return row, err
		}
	}
	if row.From, err = r.epoch(r.col.from); err != nil {
		return row, err
	}
	if row.To, err = r.epoch(r.col.to); err != nil {
		return row, err
	}
	if row.To < row.From {
		return row, r.badField(r.col.to, fmt.Sprintf("is before from_epoch %d", row.From))
	}
	if row.To-row.From > MaxInterval {
		return row, r.badField(r.col.to, fmt.Sprintf("is more than %d days after from_epoch %d", MaxInterval/86400, row.From))
	}
	return row, nil
}

// id reads an identifier: the bounds are those of the topic tree, so that an id
// which no topic could carry is refused here and not in the middle of a day.
func (r *Reader) id(col int, required bool) (string, error) {
	b := bytes.TrimSpace(r.fields[col])
	if s, ok := r.ids[string(b)]; ok {
		return s, nil
	}
	switch {
	case len(b) == 0 && !required:
		return "", nil
	case len(b) == 0:
		return "", r.badField(col, "is empty")
	case utf8.RuneCount(b) > MaxID:
		return "", r.badField(col, fmt.Sprintf("is longer than %d characters", MaxID))
	case bytes.ContainsFunc(b, func(c rune) bool { return c < 0x20 || c == 0x7f || c == '\ufffd' }):
		return "", r.badField(col, "holds control characters or is not UTF-8")
	case bytes.ContainsAny(b, "+#$"):
		return "", r.badField(col, "holds +, # or $, which no MQTT topic level may")
	}
	s := string(b)
	r.ids[s] = s
	return s, nil
}

func (r *Reader) epoch(col int) (int64, error) {
	b := bytes.TrimSpace(r.fields[col])
	// Spreadsheets and data frames write whole numbers as 1723359471.0.
	if whole, frac, ok := bytes.Cut(b, []byte(".")); ok && len(frac) > 0 && len(bytes.Trim(frac, "0")) == 0 {
		b = whole
	}
	n, err := strconv.ParseInt(string(b), 10, 64)
	switch {
	case err != nil && errors.Is(err, strconv.ErrRange):
		return 0, r.badField(col, "is out of range")
	case err != nil:
		return 0, r.badField(col, "is not whole seconds since 1970")
	case n < 0:
		return 0, r.badField(col, "is before 1970")
	case n >= MaxEpoch:
		return 0, r.badField(col, "is after the year 2099: give seconds since 1970, not milliseconds")
	}
	return n, nil
}

// split reads the next line that is not blank into r.fields, which stay valid
// until the next call.
func (r *Reader) split() error {
	for {
		line, err := r.in.ReadSlice('\n')
		if errors.Is(err, io.EOF) && len(line) == 0 {
			return io.EOF
		}
		r.line++
		if errors.Is(err, bufio.ErrBufferFull) {
			return &Error{Name: r.name, Line: r.line, Problem: fmt.Sprintf("the line is longer than %d bytes", MaxLine)}
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("trace %s line %d: %w", r.name, r.line, err)
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		return r.cut(line)
	}
}

// cut splits one line at its commas. Quotes follow RFC 4180, except that a field
// holds no line break: an identifier never does.
func (r *Reader) cut(line []byte) error {
	r.fields = r.fields[:0]
	for {
		if len(line) == 0 || line[0] != '"' {
			field, rest, more := bytes.Cut(line, []byte(","))
			r.fields = append(r.fields, field)
			if !more {
				return nil
			}
			line = rest
			continue
		}
		field, rest, ok := unquote(line)
		if !ok {
			return &Error{Name: r.name, Line: r.line, Problem: "a quote is not closed on its line, or text follows it: " + strconv.Quote(shorten(string(line)))}
		}
		r.fields = append(r.fields, field)
		if len(rest) == 0 {
			return nil
		}
		line = rest[1:]
	}
}

// unquote takes a quoted field off the front of b; rest is empty or begins with
// a comma.
func unquote(b []byte) (field, rest []byte, ok bool) {
	for i := 1; i < len(b); i++ {
		switch {
		case b[i] != '"':
		case i+1 < len(b) && b[i+1] == '"':
			i++
		default:
			field, rest = bytes.ReplaceAll(b[1:i], []byte(`""`), []byte(`"`)), b[i+1:]
			return field, rest, len(rest) == 0 || rest[0] == ','
		}
	}
	return nil, nil, false
}

func (r *Reader) bad(column, value, problem string) error {
	return &Error{Name: r.name, Line: r.line, Column: column, Value: shorten(value), Problem: problem}
}

func (r *Reader) badField(col int, problem string) error {
	return r.bad(r.names[col], string(r.fields[col]), problem)
}

// shorten bounds what of an outside value stands in a message.
func shorten(s string) string {
	if len(s) > 80 {
		return strings.ToValidUTF8(s[:77], "") + "..."
	}
	return s
}
