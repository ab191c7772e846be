package journal

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"

	"github.com/farebeat/farebeat/schemas"
)

const (
	frameMagic  = "FBRF"
	headerMagic = "FBJ1"
	frameHead   = 44
	headerFixed = 49  // header without the machine id
	maxMachine  = 255 // bytes, what the length byte can say
)

// KindTransaction is the kind of a record whose payload is a transaction.
const KindTransaction uint8 = 1

// Record is one record as it lies in the journal.
type Record struct {
	Epoch     uint32
	Seq       uint32
	UTCMillis int64 // event time by the machine's clock, milliseconds since 1970
	Amount    int64 // minor units of the machine's currency
	ClockGen  uint8 // grows, modulo 256, whenever the machine's clock is set
	Kind      uint8 // KindTransaction
	Payload   []byte
}

func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// appendFrame appends the frame of r to dst.
func appendFrame(dst []byte, r *Record) []byte {
	at := len(dst)
	dst = append(dst, frameMagic...)
	dst = append(dst, 0, 0, 0, 0)
	dst = binary.LittleEndian.AppendUint32(dst, checksum(r.Payload))
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(r.Payload)))
	dst = binary.LittleEndian.AppendUint32(dst, r.Epoch)
	dst = binary.LittleEndian.AppendUint32(dst, r.Seq)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(r.UTCMillis))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(r.Amount))
	dst = append(dst, r.ClockGen, r.Kind, 0, 0)
	binary.LittleEndian.PutUint32(dst[at+4:], checksum(dst[at+8:at+frameHead]))
	return append(dst, r.Payload...)
}

// verdict is what can be said of the bytes at a place where a frame should begin.
type verdict uint8

const (
	intact  verdict = iota // a whole frame that matches its sums
	torn                   // the beginning of a frame, cut off by the end of the file
	damaged                // neither
)

// parseFrame judges the bytes at the front of b, which reaches to the end of the
// file. Size is that of the frame if it is intact. The payload is a part of b.
func parseFrame(b []byte) (r Record, size int, v verdict) {
	if len(b) < frameHead {
		if isTorn(b) {
			return r, 0, torn
		}
		return r, 0, damaged
	}
	le := binary.LittleEndian
	if string(b[:4]) != frameMagic || le.Uint32(b[4:]) != checksum(b[8:frameHead]) {
		if isZero(b) {
			return r, 0, torn
		}
		return r, 0, damaged
	}
	n := le.Uint32(b[12:])
	if n > schemas.MaxRecordBytes {
		return r, 0, damaged
	}
	size = frameHead + int(n)
	if len(b) < size {
		return r, 0, torn
	}
	r = Record{
		Epoch: le.Uint32(b[16:]), Seq: le.Uint32(b[20:]), UTCMillis: int64(le.Uint64(b[24:])), Amount: int64(le.Uint64(b[32:])),
		ClockGen: b[40], Kind: b[41], Payload: b[frameHead:size:size],
	}
	if le.Uint32(b[8:]) != checksum(r.Payload) || r.Epoch == 0 || r.Seq == 0 || r.Seq == math.MaxUint32 {
		return r, 0, damaged
	}
	return r, size, intact
}

// isTorn reports whether b, shorter than a frame's head, is what a write that
// did not end may leave.
func isTorn(b []byte) bool {
	n := min(len(b), len(frameMagic))
	return string(b[:n]) == frameMagic[:n] || isZero(b)
}

// isZero reports whether b is empty or all zero: some file systems extend a file
// before its data arrives.
func isZero(b []byte) bool { return len(bytes.TrimLeft(b, "\x00")) == 0 }

// header begins a segment.
type header struct {
	epoch   uint32
	first   uint32   // number of the first record that may lie here
	prev    [32]byte // hash of the record before it
	machine string
}

func (h *header) append(dst []byte) []byte {
	at := len(dst)
	dst = append(dst, headerMagic...)
	dst = append(dst, 0, 0, 0, 0)
	dst = binary.LittleEndian.AppendUint32(dst, h.epoch)
	dst = binary.LittleEndian.AppendUint32(dst, h.first)
	dst = append(dst, h.prev[:]...)
	dst = append(dst, uint8(len(h.machine)))
	dst = append(dst, h.machine...)
	binary.LittleEndian.PutUint32(dst[at+4:], checksum(dst[at+8:]))
	return dst
}

// parseHeader reads a header at the front of b. Not ok means torn or damaged:
// the two need no distinction, since no record is written before its segment's
// header is on the disk.
func parseHeader(b []byte) (h header, size int, ok bool) {
	if len(b) < headerFixed || string(b[:4]) != headerMagic {
		return h, 0, false
	}
	size = headerFixed + int(b[headerFixed-1])
	le := binary.LittleEndian
	if len(b) < size || le.Uint32(b[4:]) != checksum(b[8:size]) {
		return h, 0, false
	}
	h = header{epoch: le.Uint32(b[8:]), first: le.Uint32(b[12:]), machine: string(b[headerFixed:size])}
	copy(h.prev[:], b[16:48])
	return h, size, h.epoch > 0 && h.first > 0
}

// hole is a stretch of a segment that holds no intact frame.
type hole struct {
	off, end int
	tail     bool // reaches to the end of the file
	torn     bool // a tail that a write without end may leave
}

// placed is a record and where its frame lies.
type placed struct {
	Record
	off, size int
}

// scan reads a whole segment: the records in order, and every stretch between
// them that is not one. Records of another epoch, or whose numbers do not grow,
// count as damage: they are stale bytes. It never fails, whatever b holds.
func scan(b []byte, epoch, first uint32) (h header, headerOK bool, records []placed, holes []hole) {
	h, at, headerOK := parseHeader(b)
	headerOK = headerOK && h.epoch == epoch && h.first == first
	last := uint64(first) - 1
	for at < len(b) {
		r, size, v := parseFrame(b[at:])
		if v == intact && r.Epoch == epoch && uint64(r.Seq) > last {
			records = append(records, placed{Record: r, off: at, size: size})
			last = uint64(r.Seq)
			at += size
			continue
		}
		end := nextFrame(b, at+1, epoch, last)
		holes = append(holes, hole{off: at, end: end, tail: end == len(b), torn: end == len(b) && v == torn && at > 0})
		at = end
	}
	return h, headerOK, records, holes
}

// nextFrame finds the next intact frame at or after from, or the end of b.
func nextFrame(b []byte, from int, epoch uint32, last uint64) int {
	for from < len(b) {
		i := bytes.Index(b[from:], []byte(frameMagic))
		if i < 0 {
			return len(b)
		}
		from += i
		if r, _, v := parseFrame(b[from:]); v == intact && r.Epoch == epoch && uint64(r.Seq) > last {
			return from
		}
		from++
	}
	return len(b)
}

func segmentName(epoch, first uint32) string { return fmt.Sprintf("%010d-%010d.seg", epoch, first) }

// parseSegmentName reads what segmentName writes, and nothing else.
func parseSegmentName(name string) (epoch, first uint32, ok bool) {
	var e, f uint64
	if n, err := fmt.Sscanf(name, "%d-%d.seg", &e, &f); err != nil || n != 2 || e == 0 || f == 0 || e > math.MaxUint32 || f > math.MaxUint32 {
		return 0, 0, false
	}
	return uint32(e), uint32(f), segmentName(uint32(e), uint32(f)) == name
}
