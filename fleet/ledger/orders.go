package ledger

import (
	"bufio"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Order is one line of an order file: what the payment back office charged for a record.
type Order struct {
	Line     int // counted from 1, the header's
	Machine  string
	Epoch    uint32
	Seq      uint32
	Minor    int64  // minor units of Currency
	Currency string // empty: the file does not say
}

func (o Order) key() orderKey { return orderKey{o.Machine, o.Epoch, o.Seq} }

type orderKey struct {
	machine    string
	epoch, seq uint32
}

func (k orderKey) compare(o orderKey) int {
	if n := strings.Compare(k.machine, o.machine); n != 0 {
		return n
	}
	if n := int64(k.epoch) - int64(o.epoch); n != 0 {
		return int(n)
	}
	return int(int64(k.seq) - int64(o.seq))
}

// LineError says what is wrong with a line of an order file.
type LineError struct {
	Line    int
	Problem string
}

// Error implements error.
func (e *LineError) Error() string { return fmt.Sprintf("line %d: %s", e.Line, e.Problem) }

// OrderReader reads an order file: UTF-8, CSV with commas, a header line, a line an order. The columns, in any
// order, others beside them ignored:
//
//	machine, epoch, seq   the record's key
//	amount_minor          whole number of minor units of the currency; or
//	amount                with a column currency: decimal, with exactly the decimals of the currency; without: minor units
//	currency              ISO 4217; optional with amount_minor
//
// A field does not go over lines. It keeps one line in memory.
type OrderReader struct {
	lines    *bufio.Scanner
	line     int
	columns  int
	at       map[string]int
	fields   []string
	machines map[string]string // one copy of each name
}

// maxOrderLine bounds a line of an order file in bytes.
const maxOrderLine = 64 << 10

// NewOrderReader reads the header.
func NewOrderReader(r io.Reader) (*OrderReader, error) {
	o := &OrderReader{lines: bufio.NewScanner(r), at: map[string]int{}, machines: map[string]string{}}
	o.lines.Buffer(make([]byte, 0, 4096), maxOrderLine)
	header, err := o.next()
	if errors.Is(err, io.EOF) {
		return nil, &LineError{1, "the file is empty: want a header such as machine,epoch,seq,amount_minor"}
	}
	if err != nil {
		return nil, err
	}
	header[0] = strings.TrimPrefix(header[0], "\ufeff") // what some spreadsheets begin a file with
	o.columns = len(header)
	for i, name := range header {
		name = strings.ToLower(strings.TrimSpace(name))
		if !slices.Contains([]string{"machine", "epoch", "seq", "amount", "amount_minor", "currency"}, name) {
			continue
		}
		if _, twice := o.at[name]; twice {
			return nil, &LineError{o.line, fmt.Sprintf("column %s is there twice", name)}
		}
		o.at[name] = i
	}
	for _, name := range []string{"machine", "epoch", "seq"} {
		if _, ok := o.at[name]; !ok {
			return nil, &LineError{o.line, fmt.Sprintf("column %s is missing: want machine,epoch,seq,amount_minor, separated by commas", name)}
		}
	}
	_, major := o.at["amount"]
	if _, minor := o.at["amount_minor"]; minor == major {
		return nil, &LineError{o.line, "want one of the columns amount_minor and amount"}
	}
	return o, nil
}

// Next gives the next order; io.EOF after the last. A *LineError is about one line, and Next goes on behind it.
func (o *OrderReader) Next() (Order, error) {
	for {
		fields, err := o.next()
		if err != nil {
			return Order{}, err
		}
		if len(fields) == 1 && fields[0] == "" {
			continue // an empty line
		}
		return o.order(fields)
	}
}

// next reads the fields of a line, which are valid until the next call.
func (o *OrderReader) next() ([]string, error) {
	o.line++
	if !o.lines.Scan() {
		switch err := o.lines.Err(); {
		case errors.Is(err, bufio.ErrTooLong):
			return nil, fmt.Errorf("line %d: longer than %d bytes: want a line an order", o.line, maxOrderLine)
		case err != nil:
			return nil, fmt.Errorf("line %d: %w", o.line, err)
		}
		return nil, io.EOF
	}
	line := o.lines.Text()
	if !utf8.ValidString(line) {
		return nil, &LineError{o.line, "is not UTF-8"}
	}
	if !strings.Contains(line, `"`) {
		o.fields = o.fields[:0]
		for field := range strings.SplitSeq(line, ",") {
			o.fields = append(o.fields, field)
		}
		return o.fields, nil
	}
	fields, err := csv.NewReader(strings.NewReader(line)).Read()
	if err != nil {
		return nil, &LineError{o.line, "quotes do not match: a field may not go over lines"}
	}
	return fields, nil
}

func (o *OrderReader) order(fields []string) (Order, error) {
	fail := func(format string, args ...any) (Order, error) {
		return Order{}, &LineError{o.line, fmt.Sprintf(format, args...)}
	}
	if len(fields) != o.columns {
		return fail("%d fields, the header has %d", len(fields), o.columns)
	}
	field := func(name string) string {
		if i, ok := o.at[name]; ok {
			return strings.TrimSpace(fields[i])
		}
		return ""
	}
	out := Order{Line: o.line, Machine: field("machine"), Currency: field("currency")}
	if n := utf8.RuneCountInString(out.Machine); n < 1 || n > 64 || strings.ContainsFunc(out.Machine, unicode.IsControl) {
		return fail("machine %.80q: want 1 to 64 printable characters", out.Machine)
	}
	for name, into := range map[string]*uint32{"epoch": &out.Epoch, "seq": &out.Seq} {
		n, err := strconv.ParseUint(field(name), 10, 32)
		if err != nil || n == 0 {
			return fail("%s %.40q: want a whole number from 1 to 4294967295", name, field(name))
		}
		*into = uint32(n)
	}
	if _, has := o.at["currency"]; has && !isCurrency(out.Currency) {
		return fail("currency %.40q: want three capitals of ISO 4217", out.Currency)
	}
	var err error
	if out.Minor, err = o.amount(field, out.Currency); err != nil {
		return fail("%s", err)
	}
	if out.Minor > MaxAmount || out.Minor < -MaxAmount {
		return fail("amount %d in minor units is beyond %d, which no fare is", out.Minor, int64(MaxAmount))
	}
	out.Machine = o.one(out.Machine)
	out.Currency = o.one(out.Currency)
	return out, nil
}

func (o *OrderReader) amount(field func(string) string, currency string) (int64, error) {
	text, name := field("amount_minor"), "amount_minor"
	if _, major := o.at["amount"]; major {
		if text, name = field("amount"), "amount"; currency != "" {
			return ParseMajor(text, currency)
		}
	}
	n, err := strconv.ParseInt(text, 10, 64)
	switch {
	case err == nil && text[0] != '+':
		return n, nil
	case name == "amount" && strings.Contains(text, "."):
		return 0, fmt.Errorf("amount %.40q: a decimal number needs a column currency", text)
	}
	return 0, fmt.Errorf("%s %.40q: want a whole number of minor units", name, text)
}

// one returns the one copy of a name that is kept: the line that it came in is not.
func (o *OrderReader) one(name string) string {
	if kept, ok := o.machines[name]; ok {
		return kept
	}
	if len(o.machines) >= maxNames {
		clear(o.machines)
	}
	name = strings.Clone(name)
	o.machines[name] = name
	return name
}

// maxNames bounds the names of which one copy is kept.
const maxNames = 100_000

func isCurrency(text string) bool {
	return len(text) == 3 && strings.Trim(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") == ""
}
