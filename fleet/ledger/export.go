package ledger

import (
	"bufio"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Format is how Export writes.
type Format string

// The formats.
const (
	// CSV is the table fare_transactions of TIDES, see FareColumns.
	CSV Format = "csv"
	// JSONLines has one object a line: the record exactly as the machine minted it, and beside it
	// who brought it and when.
	JSONLines Format = "jsonl"
)

// Export writes the records that the filter selects, by machine, epoch and seq, and returns how
// many. Every record that was committed before the call is there exactly once; one that arrives
// meanwhile may be or not.
func (l *Ledger) Export(ctx context.Context, w io.Writer, format Format, f Filter) (uint64, error) {
	if err := f.Check(); err != nil {
		return 0, fmt.Errorf("ledger: export: %w", err)
	}
	buf := bufio.NewWriterSize(w, 1<<16)
	enc, err := newEncoder(buf, format)
	if err != nil {
		return 0, fmt.Errorf("ledger: export: %w", err)
	}
	var n uint64
	err = l.machines(ctx, f, func(machine string) error {
		return l.selected(ctx, machine, f, func(r Row) error {
			n++
			return enc.row(r)
		})
	})
	if err = errors.Join(err, enc.end(), buf.Flush()); err != nil {
		return n, fmt.Errorf("ledger: export: %w", err)
	}
	return n, nil
}

// selected calls each for the records of a machine that the filter selects, oldest epoch first, lowest seq first.
func (l *Ledger) selected(ctx context.Context, machine string, f Filter, each func(Row) error) error {
	ranges, err := l.ranges(ctx, machine, f)
	for i := 0; err == nil && i < len(ranges); i++ {
		err = l.Rows(ctx, machine, ranges[i].epoch, ranges[i].span, func(r Row) error {
			if !f.includes(r.ServiceDate) {
				return nil
			}
			return each(r)
		})
	}
	return err
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
		c := &fareEncoder{w: csv.NewWriter(w)}
		return c, c.w.Write(FareColumns())
	case JSONLines:
		return &jsonEncoder{w: w}, nil
	}
	return nil, fmt.Errorf("format %q: want %s or %s", format, CSV, JSONLines)
}

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
