package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"math"
	"os"
)

// A file is cut into pages, and every row of ledger_record lies in a leaf page of its own right: what leads
// there may be damaged. So rows are also looked for page by page, in the file and in its log. That
// what is found is a row of the ledger is not for the page to say: the record's MAC proves it.
// The layout is that of https://www.sqlite.org/fileformat2.html.
const (
	pageSize     = 4096
	leafOfTable  = 0x0d
	walHeader    = 32
	frameHeader  = 24
	recordColumn = 10 // of the columns of ledger_record, the record itself
	columns      = recordColumn + 1
)

// pages reads the pages of a file as the log last left them.
type pages struct {
	file   *os.File
	count  uint32
	log    *os.File           // nil for none
	frames map[uint32][]int64 // page number to where it lies in the log, oldest first
}

func openPages(path string) (*pages, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	p := &pages{file: f, frames: map[uint32][]int64{}}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	p.count = uint32(min((info.Size()+pageSize-1)/pageSize, math.MaxUint32))
	if p.log, err = os.Open(path + "-wal"); errors.Is(err, fs.ErrNotExist) {
		return p, nil
	} else if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return p, p.readLog()
}

func (p *pages) close() error {
	if p.log == nil {
		return p.file.Close()
	}
	return errors.Join(p.file.Close(), p.log.Close())
}

// readLog notes where the log holds pages, those behind a damaged place too.
func (p *pages) readLog() error {
	head := make([]byte, frameHeader)
	for at := int64(walHeader); ; at += frameHeader + pageSize {
		_, err := p.log.ReadAt(head, at)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		number := binary.BigEndian.Uint32(head)
		p.frames[number] = append(p.frames[number], at+frameHeader)
	}
}

// read gives a page; what the file lacks of it is zero.
func (p *pages) read(f *os.File, at int64) []byte {
	b := make([]byte, pageSize)
	_, _ = f.ReadAt(b, at) // an unreadable page gives no rows, which the caller counts as missing
	return b
}

// newest gives a page as it was written last, for the rest of a row that began elsewhere.
func (p *pages) newest(number uint32) []byte {
	if at := p.frames[number]; len(at) > 0 {
		return p.read(p.log, at[len(at)-1])
	}
	return p.read(p.file, (int64(number)-1)*pageSize)
}

// carved is a row of ledger_record as a page has it, proved by nothing yet.
type carved struct {
	id         int64
	vehicle    string
	receivedMS int64
	record     []byte
}

// each calls take for everything in file and log that has the form of a row of ledger_record, and then for
// everything that only has the form of a record, such as what is left in a page that was given another use.
func (p *pages) each(take func(carved) error) error {
	for _, look := range []func([]byte, func(carved) error) error{p.leaf, strayRecords} {
		for number := range p.count {
			if err := look(p.read(p.file, int64(number)*pageSize), take); err != nil {
				return err
			}
		}
		for _, places := range p.frames {
			for _, at := range places {
				if err := look(p.read(p.log, at), take); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// strayRecords finds records by how they begin and end. Who brought them and when is not known any more.
func strayRecords(page []byte, take func(carved) error) error {
	for begin := []byte(`{"machine":"`); ; page = page[1:] {
		i := bytes.Index(page, begin)
		if i < 0 {
			return nil
		}
		page = page[i:]
		const mac = 43 // characters
		member := []byte(`,"mac":"`)
		end := bytes.Index(page, member)
		if end < 0 {
			return nil
		}
		if end += len(member) + mac + len(`"}`); end > len(page) {
			return nil
		}
		if err := take(carved{record: page[:end]}); err != nil {
			return err
		}
	}
}

func (p *pages) leaf(page []byte, take func(carved) error) error {
	if page[0] != leafOfTable {
		return nil
	}
	for i := range min(int(binary.BigEndian.Uint16(page[3:])), (pageSize-8)/2) {
		at := int(binary.BigEndian.Uint16(page[8+2*i:]))
		if at >= pageSize {
			continue
		}
		if row, ok := p.cell(page[at:]); ok {
			if err := take(row); err != nil {
				return err
			}
		}
	}
	return nil
}

// cell reads one row of a leaf page.
func (p *pages) cell(b []byte) (row carved, ok bool) {
	size, n := varint(b)
	id, m := varint(b[n:])
	if n == 0 || m == 0 || size > 1<<20 {
		return row, false
	}
	payload, ok := p.payload(b[n+m:], int(size))
	if !ok {
		return row, false
	}
	types, body, ok := columnTypes(payload)
	if !ok || len(types) != columns {
		return row, false
	}
	row.id = int64(id)
	for i, t := range types {
		length := columnLength(t)
		if length > uint64(len(body)) {
			return row, false
		}
		value := body[:length]
		body = body[length:]
		switch i {
		case recordColumn - 2:
			row.vehicle = string(value)
		case recordColumn - 1:
			row.receivedMS = integer(t, value)
		case recordColumn:
			row.record = value
		}
	}
	return row, types[recordColumn] >= 12
}

// payload joins what lies in the page and what overflowed to others.
func (p *pages) payload(b []byte, size int) ([]byte, bool) {
	local, least := pageSize-35, (pageSize-12)*32/255-23
	if size <= local {
		return b[:min(size, len(b))], size <= len(b)
	}
	here := least + (size-least)%(pageSize-4)
	if here > local {
		here = least
	}
	if here+4 > len(b) {
		return nil, false
	}
	out := append([]byte{}, b[:here]...)
	for next := binary.BigEndian.Uint32(b[here:]); len(out) < size; {
		if next == 0 {
			return nil, false
		}
		page := p.newest(next)
		next = binary.BigEndian.Uint32(page)
		out = append(out, page[4:min(pageSize, 4+size-len(out))]...)
	}
	return out, true
}

func columnTypes(payload []byte) (types []uint64, body []byte, ok bool) {
	length, n := varint(payload)
	if n == 0 || length < uint64(n) || length > uint64(len(payload)) {
		return nil, nil, false
	}
	for head := payload[n:length]; len(head) > 0; {
		t, n := varint(head)
		if n == 0 {
			return nil, nil, false
		}
		types, head = append(types, t), head[n:]
	}
	return types, payload[length:], true
}

// columnLength is how many bytes a value of a serial type takes.
func columnLength(t uint64) uint64 {
	switch {
	case t >= 12:
		return (t - 12) / 2
	case t <= 4:
		return t
	case t == 5:
		return 6
	case t <= 7:
		return 8
	}
	return 0
}

func integer(t uint64, b []byte) int64 {
	if t == 9 {
		return 1
	}
	if len(b) == 0 || t > 6 {
		return 0
	}
	v := int64(int8(b[0]))
	for _, c := range b[1:] {
		v = v<<8 | int64(c)
	}
	return v
}

// varint reads SQLite's variable-length integer; n is 0 where b ends within it.
func varint(b []byte) (v uint64, n int) {
	for n < len(b) && n < 8 {
		v = v<<7 | uint64(b[n]&0x7f)
		n++
		if b[n-1] < 0x80 {
			return v, n
		}
	}
	if n == 8 && len(b) > 8 {
		return v<<8 | uint64(b[8]), 9
	}
	return 0, 0
}
