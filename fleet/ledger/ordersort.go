package ledger

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// ordersInMemory is how many orders are sorted at once: about 20 MB. Those beyond lie in temporary files, sorted.
const ordersInMemory = 200_000

// Orders are the orders of a file, by machine, epoch, seq and line. Close removes its temporary files.
type Orders struct {
	Count   uint64
	atOnce  int
	loose   []Order // not yet spilled
	files   []*os.File
	sources []orderSource
	head    []Order // next of each source
	done    []bool
}

// orderSource gives orders in order; io.EOF after the last.
type orderSource func() (Order, error)

// maxLineErrors bounds the bad lines that ReadOrders names; it counts them all.
const maxLineErrors = 20

// ReadOrders reads and sorts an order file. What does not fit in memory goes to files in dir (empty: the system's
// folder for temporary files). If any line is wrong nothing is returned, and the error names the first of them and
// how many there are.
func ReadOrders(r io.Reader, dir string) (*Orders, error) { return readOrders(r, dir, ordersInMemory) }

func readOrders(r io.Reader, dir string, atOnce int) (*Orders, error) {
	in, err := NewOrderReader(r)
	if err != nil {
		return nil, err
	}
	o := &Orders{atOnce: atOnce}
	var bad []error
	wrong := 0
	for {
		order, err := in.Next()
		var line *LineError
		switch {
		case errors.Is(err, io.EOF):
			if wrong > 0 {
				return nil, errors.Join(fmt.Errorf("%d lines are wrong, nothing was compared", wrong), errors.Join(bad...), o.Close())
			}
			return o, o.begin()
		case errors.As(err, &line):
			if wrong++; len(bad) < maxLineErrors {
				bad = append(bad, err)
			}
		case err != nil:
			return nil, errors.Join(err, o.Close())
		case wrong == 0:
			if err := o.add(order, dir); err != nil {
				return nil, errors.Join(err, o.Close())
			}
		}
	}
}

func (o *Orders) add(order Order, dir string) error {
	o.Count++
	o.loose = append(o.loose, order)
	if len(o.loose) < o.atOnce {
		return nil
	}
	return o.spill(dir)
}

func (o *Orders) sortLoose() {
	slices.SortFunc(o.loose, func(a, b Order) int { return cmp.Or(a.key().compare(b.key()), cmp.Compare(a.Line, b.Line)) })
}

// spill writes the loose orders to a file of their own.
func (o *Orders) spill(dir string) error {
	o.sortLoose()
	f, err := os.CreateTemp(dir, "farebeat-orders-*") // mode 0600
	if err != nil {
		return fmt.Errorf("sort orders: %w", err)
	}
	o.files = append(o.files, f)
	_ = os.Remove(f.Name()) // where the system allows it now, no end of the program leaves the file behind; Close sees to the rest
	w := bufio.NewWriterSize(f, 1<<16)
	var b []byte
	for _, order := range o.loose {
		b = appendOrder(b[:0], order)
		if _, err := w.Write(b); err != nil {
			return fmt.Errorf("sort orders in %s: %w", f.Name(), err)
		}
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("sort orders in %s: %w", f.Name(), err)
	}
	o.loose = o.loose[:0]
	return nil
}

func appendOrder(b []byte, o Order) []byte {
	for _, text := range []string{o.Machine, o.Currency} {
		b = append(binary.AppendUvarint(b, uint64(len(text))), text...)
	}
	for _, n := range []uint64{uint64(o.Epoch), uint64(o.Seq), uint64(o.Line)} {
		b = binary.AppendUvarint(b, n)
	}
	return binary.AppendVarint(b, o.Minor)
}

// readOrder reads what appendOrder wrote; io.EOF where the file ends, and only there.
func readOrder(r *bufio.Reader) (Order, error) {
	if _, err := r.Peek(1); err != nil {
		return Order{}, err
	}
	o, err := readFields(r)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return o, err
}

func readFields(r *bufio.Reader) (o Order, err error) {
	for _, into := range []*string{&o.Machine, &o.Currency} {
		n, err := binary.ReadUvarint(r)
		if err != nil {
			return o, err
		}
		var b strings.Builder
		if _, err := io.CopyN(&b, r, int64(n)); err != nil {
			return o, err
		}
		*into = b.String()
	}
	var numbers [3]uint64
	for i := range numbers {
		if numbers[i], err = binary.ReadUvarint(r); err != nil {
			return o, err
		}
	}
	o.Epoch, o.Seq, o.Line = uint32(numbers[0]), uint32(numbers[1]), int(numbers[2])
	o.Minor, err = binary.ReadVarint(r)
	return o, err
}

// begin makes the sources ready to be merged.
func (o *Orders) begin() error {
	o.sortLoose()
	next := 0
	o.sources = append(o.sources, func() (Order, error) {
		if next == len(o.loose) {
			return Order{}, io.EOF
		}
		next++
		return o.loose[next-1], nil
	})
	for _, f := range o.files {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return fmt.Errorf("sort orders: %w", err)
		}
		r := bufio.NewReaderSize(f, 1<<16)
		o.sources = append(o.sources, func() (Order, error) {
			order, err := readOrder(r)
			if err != nil && !errors.Is(err, io.EOF) {
				err = fmt.Errorf("sort orders in %s: %w", f.Name(), err)
			}
			return order, err
		})
	}
	o.head, o.done = make([]Order, len(o.sources)), make([]bool, len(o.sources))
	for i := range o.sources {
		if err := o.pull(i); err != nil {
			return err
		}
	}
	return nil
}

func (o *Orders) pull(i int) (err error) {
	o.head[i], err = o.sources[i]()
	if errors.Is(err, io.EOF) {
		o.done[i], err = true, nil
	}
	return err
}

// peek returns the next order without taking it; false after the last.
func (o *Orders) peek() (next Order, ok bool) {
	i := o.least()
	if i < 0 {
		return Order{}, false
	}
	return o.head[i], true
}

// take takes the order that peek showed.
func (o *Orders) take() error { return o.pull(o.least()) }

// least is the source with the next order, -1 for none. There are few sources.
func (o *Orders) least() int {
	best := -1
	for i, head := range o.head {
		if !o.done[i] && (best < 0 || cmp.Or(head.key().compare(o.head[best].key()), cmp.Compare(head.Line, o.head[best].Line)) < 0) {
			best = i
		}
	}
	return best
}

// Close removes the temporary files.
func (o *Orders) Close() error {
	var errs []error
	for _, f := range o.files {
		errs = append(errs, f.Close())
		if err := os.Remove(f.Name()); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	o.files = nil
	return errors.Join(errs...)
}
