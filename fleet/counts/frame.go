package counts

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Point is one route's counts in an encoded frame. Number is the store's own dense
// number of the route, from 0.
type Point struct {
	Number                  uint32
	Online, Min, Max, Known int
	Expected, Threshold     int
}

// frameVersion is the first byte of every encoded frame.
const frameVersion = 1

// Bits of a point's first byte: which values follow because they are not the usual.
const (
	hasGap       = 1 << iota // number is not that of the point before plus one
	hasMin                   // min differs from online
	hasMax                   // max differs from online
	hasKnown                 // known differs from online
	hasExpected              // expected is not 0
	hasThreshold             // threshold is not 0
	pointBits    = 1<<iota - 1
)

// ErrFrame is wrapped by every error of DecodeFrame.
var ErrFrame = errors.New("counts: damaged frame")

// MaxCount bounds every number in a frame: more machines than that on one route is
// damage.
const MaxCount = 1 << 30

// AppendFrame appends the points to dst: a version byte, the number of points, and per
// point a byte of flags, the gap of its number if there is one, and the counts that
// are not the usual, all as unsigned varints. Points must be sorted by Number, each
// once, with counts from 0 to MaxCount.
func AppendFrame(dst []byte, points []Point) ([]byte, error) {
	dst = append(dst, frameVersion)
	dst = binary.AppendUvarint(dst, uint64(len(points)))
	next := uint64(0)
	for i, p := range points {
		if uint64(p.Number) < next {
			return nil, fmt.Errorf("counts: encode frame: point %d has number %d, want %d or more: sort the points", i, p.Number, next)
		}
		for _, v := range [...]int{p.Online, p.Min, p.Max, p.Known, p.Expected, p.Threshold} {
			if v < 0 || v > MaxCount {
				return nil, fmt.Errorf("counts: encode frame: route number %d has a count of %d, want 0 to %d", p.Number, v, MaxCount)
			}
		}
		dst = appendPoint(dst, p, uint64(p.Number)-next)
		next = uint64(p.Number) + 1
	}
	return dst, nil
}

func appendPoint(dst []byte, p Point, gap uint64) []byte {
	optional := [...]struct {
		bit  byte
		has  bool
		unit uint64
	}{
		{hasGap, gap != 0, gap},
		{hasMin, p.Min != p.Online, uint64(p.Min)},
		{hasMax, p.Max != p.Online, uint64(p.Max)},
		{hasKnown, p.Known != p.Online, uint64(p.Known)},
		{hasExpected, p.Expected != 0, uint64(p.Expected)},
		{hasThreshold, p.Threshold != 0, uint64(p.Threshold)},
	}
	at := len(dst)
	dst = append(dst, 0)
	dst = binary.AppendUvarint(dst, uint64(p.Online))
	for _, o := range optional {
		if o.has {
			dst[at] |= o.bit
			dst = binary.AppendUvarint(dst, o.unit)
		}
	}
	return dst
}

// DecodeFrame reads what AppendFrame wrote. Damage is an error that wraps ErrFrame and
// names the byte; nothing is returned with it.
func DecodeFrame(b []byte) ([]Point, error) {
	if len(b) == 0 || b[0] != frameVersion {
		return nil, fmt.Errorf("%w: want version %d in its first byte", ErrFrame, frameVersion)
	}
	r := reader{b: b, at: 1, kind: ErrFrame}
	n := r.uvarint(uint64(len(b) / 2)) // a point has two bytes or more
	points := make([]Point, 0, n)
	next := uint64(0)
	for range n {
		flags := r.byte(pointBits)
		p := Point{Online: int(r.uvarint(MaxCount))}
		number := next + r.optional(flags, hasGap, 0, 1<<32-1)
		p.Min = int(r.optional(flags, hasMin, uint64(p.Online), MaxCount))
		p.Max = int(r.optional(flags, hasMax, uint64(p.Online), MaxCount))
		p.Known = int(r.optional(flags, hasKnown, uint64(p.Online), MaxCount))
		p.Expected = int(r.optional(flags, hasExpected, 0, MaxCount))
		p.Threshold = int(r.optional(flags, hasThreshold, 0, MaxCount))
		if number > 1<<32-1 {
			r.fail("route number %d is over 32 bits", number)
		}
		if r.err != nil {
			return nil, r.err
		}
		p.Number = uint32(number)
		points = append(points, p)
		next = number + 1
	}
	return points, r.end()
}

// reader walks bytes and keeps the first error.
type reader struct {
	b    []byte
	at   int
	kind error
	err  error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w at byte %d: %s", r.kind, r.at, fmt.Sprintf(format, args...))
	}
}

// uvarint reads a number of at most limit; 0 after an error.
func (r *reader) uvarint(limit uint64) uint64 {
	if r.err != nil {
		return 0
	}
	v, n := binary.Uvarint(r.b[r.at:])
	if n <= 0 {
		r.fail("the number ends too early or is over 64 bits")
		return 0
	}
	if v > limit {
		r.fail("number %d is over %d", v, limit)
		return 0
	}
	r.at += n
	return v
}

func (r *reader) optional(flags, bit byte, usual, limit uint64) uint64 {
	if flags&bit == 0 {
		return usual
	}
	return r.uvarint(limit)
}

// byte reads one byte of which only the bits of mask may be set.
func (r *reader) byte(mask byte) byte {
	if r.err != nil {
		return 0
	}
	if r.at >= len(r.b) {
		r.fail("the bytes end too early")
		return 0
	}
	v := r.b[r.at]
	if v&^mask != 0 {
		r.fail("flags %#x hold unknown bits", v)
		return 0
	}
	r.at++
	return v
}

// end fails unless every byte was read.
func (r *reader) end() error {
	if r.err == nil && r.at != len(r.b) {
		r.fail("%d bytes after the end", len(r.b)-r.at)
	}
	return r.err
}
