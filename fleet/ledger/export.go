package ledger

import (
	"bufio"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/farebeat/farebeat/schemas"
)

// Format is how Export writes.
type Format string

// The formats.
const (
	// CSV has the columns of TIDES fare_transactions (github.com/TIDES-transit/TIDES, spec/fare_transactions.schema.json)
	// that a record can fill, and x_ columns for what TIDES does not have.
	CSV Format = "csv"
	// JSONLines has one object a line: the record exactly as the machine minted it, and beside it
	// who brought it and when.
	JSONLines Format = "jsonl"
)

// Columns are the columns of the CSV format, in order.
func Columns() []string {
	return []string{
		"transaction_id", "service_date", "event_timestamp", "amount", "currency_type", "fare_action",
		"trip_id_performed", "vehicle_id", "device_id", "stop_id", "media_type", "token_id",
		"x_route_id", "x_epoch", "x_seq", "x_amount_minor", "x_tz", "x_offline", "x_evidence", "x_prev", "x_mac",
		"x_brought_by", "x_received_at",
	}
}

// Export writes the records that the filter selects, by machine, epoch and seq, and returns how
// many. Every record that was committed before the call is there exactly once; one that arrives
// meanwhile may be or not.
func (l *Ledger) Export(ctx context.Context, w io.Writer, format Format, f Filter) (uint64, error) {
	for _, date := range []string{f.From, f.To} {
		if _, err := time.Parse(time.DateOnly, date); date != "" && err != nil {
			return 0, fmt.Errorf("ledger: export: service day %q: want YYYY-MM-DD", date)
		}
	}
	buf := bufio.NewWriterSize(w, 1<<16)
	enc, err := newEncoder(buf, format)
	if err != nil {
		return 0, fmt.Errorf("ledger: export: %w", err)
	}
	var n uint64
	err = l.machines(ctx, f, func(machine string) error {
		ranges, err := l.ranges(ctx, machine, f)
		for i := 0; err == nil && i < len(ranges); i++ {
			err = l.Rows(ctx, machine, ranges[i].epoch, ranges[i].span, func(r Row) error {
				if !f.includes(r.ServiceDate) {
					return nil
				}
				n++
				return enc.row(r)
			})
		}
		return err
	})
	if err = errors.Join(err, enc.end(), buf.Flush()); err != nil {
		return n, fmt.Errorf("ledger: export: %w", err)
	}
	return n, nil
}

// epochRange is where an epoch's records of the selected days are; between them may be
// records of other days.
type epochRange struct {
	epoch uint32
	span  Span
}

// ranges finds where a machine's records of the selected days are, oldest epoch first.
func (l *Ledger) ranges(ctx context.Context, machine string, f Filter) ([]epochRange, error) {
	var out []epochRange
	err := l.store.View(ctx, func(v View) error {
		out = nil
		epochs, err := v.Epochs(machine)
		if err != nil {
			return err
		}
		at := map[uint32]int{}
		for i := len(epochs) - 1; i >= 0; i-- {
			at[epochs[i]] = len(out)
			out = append(out, epochRange{epoch: epochs[i]})
			if !f.dated() {
				out[len(out)-1].span = Every()
			}
		}
		if !f.dated() {
			return nil
		}
		return v.Days(machine, f.From, f.To, func(d Day) error {
			r := &out[at[d.Epoch]]
			if r.span.First == 0 {
				r.span = Span{d.First, d.Last}
			}
			r.span.First, r.span.Last = min(r.span.First, d.First), max(r.span.Last, d.Last)
			return nil
		})
	})
	kept := out[:0]
	for _, r := range out {
		if r.span.First > 0 {
			kept = append(kept, r)
		}
	}
	return kept, err
}

// encoder writes rows in one format.
type encoder interface {
	row(Row) error
	end() error
}

func newEncoder(w *bufio.Writer, format Format) (encoder, error) {
	switch format {
	case CSV:
		c := &csvEncoder{w: csv.NewWriter(w)}
		return c, c.w.Write(Columns())
	case JSONLines:
		return &jsonEncoder{w: w}, nil
	}
	return nil, fmt.Errorf("format %q: want %s or %s", format, CSV, JSONLines)
}

type csvEncoder struct{ w *csv.Writer }

func (c *csvEncoder) row(r Row) error {
	tx, err := schemas.ParseTransaction(r.Record)
	if err != nil {
		return fmt.Errorf("record %d-%d of machine %q is damaged, verify the ledger: %w", r.Epoch, r.Seq, r.Machine, err)
	}
	return c.w.Write([]string{
		fmt.Sprintf("%s/%d/%d", tx.Machine, tx.Epoch, tx.Seq), tx.ServiceDate, stamp(tx.EventTime),
		Major(tx.AmountMinor, tx.Currency), tx.Currency, tx.FareAction,
		tx.Trip, tx.Vehicle, tx.Machine, tx.Stop, tx.Media, tx.TokenID,
		tx.Route, strconv.FormatUint(uint64(tx.Epoch), 10), strconv.FormatUint(uint64(tx.Seq), 10), strconv.FormatInt(tx.AmountMinor, 10),
		tx.TZ, strconv.FormatBool(tx.Offline), tx.Evidence, tx.Prev, tx.MAC, r.Vehicle, stamp(r.ReceivedAt),
	})
}

func (c *csvEncoder) end() error {
	c.w.Flush()
	return c.w.Error()
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// jsonEncoder writes the record's bytes as they are: encoding/json would compact and
// escape them anew, and the MAC would prove nothing.
type jsonEncoder struct{ w *bufio.Writer }

func (j *jsonEncoder) row(r Row) error {
	by, err := json.Marshal(r.Vehicle)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(j.w, `{"brought_by":%s,"received_at":"%s","record":%s}`+"\n", by, stamp(r.ReceivedAt), r.Record)
	return err
}

func (j *jsonEncoder) end() error { return nil }

// Major writes an amount of minor units as a decimal number of the currency's unit, such as 350
// EUR cents as 3.50. The number of decimals is that of ISO 4217, two for a
// currency not known to have others.
func Major(minor int64, currency string) string {
	decimals := 2
	switch currency {
	case "BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "UYI", "VND", "VUV", "XAF", "XOF", "XPF":
		return strconv.FormatInt(minor, 10)
	case "BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND":
		decimals = 3
	case "CLF", "UYW":
		decimals = 4
	}
	digits, sign := strconv.FormatInt(minor, 10), ""
	if minor < 0 {
		digits, sign = digits[1:], "-"
	}
	if short := decimals + 1 - len(digits); short > 0 {
		digits = strings.Repeat("0", short) + digits
	}
	cut := len(digits) - decimals
	return sign + digits[:cut] + "." + digits[cut:]
}
