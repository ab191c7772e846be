package gtfs

import (
	"bufio"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Error says where in a feed what is wrong. Line counts from 1, the header
// included; it is 0 where the file as a whole is meant.
type Error struct {
	File    string
	Line    int
	Column  string
	Problem string
}

// Error implements error.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, " line %d", e.Line)
	}
	b.WriteString(": ")
	if e.Column != "" {
		b.WriteString(e.Column)
		b.WriteString(" ")
	}
	b.WriteString(e.Problem)
	return b.String()
}

// table reads one CSV file of a feed by column name. GTFS allows a byte order
// mark, either line ending, quotes, and columns in any order.
type table struct {
	file    string
	reader  *csv.Reader
	columns map[string]int
	record  []string
	line    int
}

func newTable(file string, r io.Reader, required ...string) (*table, error) {
	buffered := bufio.NewReaderSize(r, 1<<16)
	if mark, err := buffered.Peek(3); err == nil && string(mark) == "\xef\xbb\xbf" {
		_, _ = buffered.Discard(3)
	}
	t := &table{file: file, reader: csv.NewReader(buffered), columns: map[string]int{}}
	t.reader.ReuseRecord = true
	t.reader.FieldsPerRecord = -1 // counted below, so that the error can name the line
	header, err := t.reader.Read()
	if errors.Is(err, io.EOF) {
		return nil, &Error{File: file, Problem: "is empty: a header line is required"}
	}
	if err != nil {
		return nil, t.csvError(err)
	}
	for i, name := range header {
		t.columns[strings.TrimSpace(name)] = i
	}
	for _, name := range required {
		if _, ok := t.columns[name]; !ok {
			return nil, &Error{File: file, Line: 1, Column: name, Problem: "is missing from the header; the file has " + strings.Join(header, ", ")}
		}
	}
	return t, nil
}

// next moves to the next record; false at the end of the file.
func (t *table) next() (bool, error) {
	for {
		record, err := t.reader.Read()
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err != nil {
			return false, t.csvError(err)
		}
		t.line, _ = t.reader.FieldPos(0)
		if len(record) == 1 && strings.TrimSpace(record[0]) == "" {
			continue // exporters leave blank lines at the end
		}
		if len(record) > len(t.columns) {
			return false, &Error{File: t.file, Line: t.line, Problem: fmt.Sprintf("has %d fields, the header has %d", len(record), len(t.columns))}
		}
		t.record = record
		return true, nil
	}
}

// get returns a field without surrounding spaces, "" where the column or the field is absent.
// The string is the caller's to keep.
func (t *table) get(column string) string {
	i, ok := t.columns[column]
	if !ok || i >= len(t.record) {
		return ""
	}
	return strings.TrimSpace(t.record[i])
}

// need is get for a field that may not be empty.
func (t *table) need(column string) (string, error) {
	v := t.get(column)
	if v == "" {
		return "", t.bad(column, "is empty")
	}
	return v, nil
}

func (t *table) bad(column, problem string) error {
	return &Error{File: t.file, Line: t.line, Column: column, Problem: problem}
}

func (t *table) csvError(err error) error {
	var parse *csv.ParseError
	if errors.As(err, &parse) {
		return &Error{File: t.file, Line: parse.Line, Problem: parse.Err.Error()}
	}
	return fmt.Errorf("read %s: %w", t.file, err)
}
