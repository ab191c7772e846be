package counts

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"time"
)

// ErrState is wrapped by every error of RestoreState.
var ErrState = errors.New("counts: damaged state of the open hour")

const (
	stateVersion   = 1
	maxNameBytes   = 256
	maxHourSeconds = 2 * 3600 // no hour of any zone is longer
)

// AppendState appends the open hour of every route as of now to dst, so that a restart
// in the middle of an hour does not lose its first part. Format: version byte; number
// of routes; per route the name, begin of the hour in Unix seconds, distinct machines,
// and pairs (number online, milliseconds it held); CRC-32C, little endian.
func (b *Board) AppendState(dst []byte, now time.Time) []byte {
	at := now.UnixNano()
	var body []byte
	n := uint64(0)
	for _, l := range b.all() {
		if more, ok := l.appendState(body, b, at); ok {
			body = more
			n++
		}
	}
	state := binary.AppendUvarint([]byte{stateVersion}, n)
	return append(dst, sealState(append(state, body...))...)
}

// sealState appends the checksum.
func sealState(b []byte) []byte {
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
}

// appendState appends the line, if it is worth it.
func (l *line) appendState(dst []byte, b *Board, at int64) ([]byte, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.settle(b, at)
	if !l.counts() {
		return dst, false
	}
	dst = binary.AppendUvarint(dst, uint64(len(l.name)))
	dst = append(dst, l.name...)
	dst = binary.AppendUvarint(dst, uint64(max(0, l.hour.start/int64(time.Second))))
	dst = binary.AppendUvarint(dst, uint64(l.distinct))
	pairs := 0
	for _, d := range l.held {
		pairs += count(d >= int64(time.Millisecond))
	}
	dst = binary.AppendUvarint(dst, uint64(pairs))
	for n, d := range l.held {
		if d >= int64(time.Millisecond) {
			dst = binary.AppendUvarint(dst, uint64(n))
			dst = binary.AppendUvarint(dst, uint64(d/int64(time.Millisecond)))
		}
	}
	return dst, true
}

// savedLine is one route of a decoded state.
type savedLine struct {
	name     string
	hour     int64 // Unix seconds
	distinct int
	held     []savedHold
}

type savedHold struct {
	online int
	millis int64
}

// RestoreState takes up what AppendState kept: call it on a new board, before anything
// else. If its hour is over, Hours gives it as far as it went. Damage is an error that
// wraps ErrState, and the board stays empty.
func (b *Board) RestoreState(now time.Time, state []byte) error {
	saved, err := decodeState(state)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	at := now.UnixNano()
	for _, s := range saved {
		b.restoreLine(at, s)
	}
	return nil
}

func (b *Board) restoreLine(at int64, s savedLine) {
	held := make([]int64, 0, 8)
	for _, h := range s.held {
		held = append(held, make([]int64, h.online+1-len(held))...)
		held[h.online] = h.millis * int64(time.Millisecond)
	}
	l := b.lines[s.name]
	if l == nil {
		l = b.addLine(at, s.name)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	was := b.hourAt(s.hour * int64(time.Second))
	if was == l.hour {
		l.held = append(l.held, make([]int64, max(0, len(held)-len(l.held)))...)
		for n, d := range held {
			l.held[n] += d
		}
		l.distinct += s.distinct
		return
	}
	past := line{name: s.name, hour: was, distinct: s.distinct, held: held}
	b.past = append(b.past, past.hourRow(b))
}

func decodeState(state []byte) ([]savedLine, error) {
	if len(state) < 5 || state[0] != stateVersion {
		return nil, fmt.Errorf("%w: want version %d in its first byte", ErrState, stateVersion)
	}
	body, sum := state[:len(state)-4], binary.LittleEndian.Uint32(state[len(state)-4:])
	if got := crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)); got != sum {
		return nil, fmt.Errorf("%w: CRC-32C is %08x, want %08x", ErrState, got, sum)
	}
	r := reader{b: body, at: 1, kind: ErrState}
	n := r.uvarint(uint64(len(body)) / 5) // a route has five bytes or more
	lines := make([]savedLine, 0, n)
	for range n {
		l := r.line()
		if r.err != nil {
			return nil, r.err
		}
		lines = append(lines, l)
	}
	return lines, r.end()
}

// line reads one route of a state.
func (r *reader) line() savedLine {
	size := int(r.uvarint(maxNameBytes))
	if r.err == nil && (size == 0 || size > len(r.b)-r.at) {
		r.fail("the name of a route is empty or ends too early")
	}
	if r.err != nil {
		return savedLine{}
	}
	s := savedLine{name: string(r.b[r.at : r.at+size])}
	r.at += size
	s.hour = int64(r.uvarint(1 << 33))
	s.distinct = int(r.uvarint(maxOnline))
	pairs := r.uvarint(uint64(len(r.b)-r.at) / 2)
	total := int64(0)
	for range pairs {
		h := savedHold{online: int(r.uvarint(maxOnline)), millis: int64(r.uvarint(maxHourSeconds * 1000))}
		total += h.millis
		if r.err == nil && len(s.held) > 0 && h.online <= s.held[len(s.held)-1].online {
			r.fail("numbers online are not rising")
		}
		if r.err == nil && total > maxHourSeconds*1000 {
			r.fail("an hour of %d ms", total)
		}
		if r.err != nil {
			return savedLine{}
		}
		s.held = append(s.held, h)
	}
	return s
}

// maxOnline bounds what a state may say, and so the memory that restoring it takes.
const maxOnline = 1 << 22

// Counted names the routes whose open hour at now already counts the machine, and the
// begin of that hour; nil if none does.
func (b *Board) Counted(now time.Time, p *Place) (hour time.Time, routes []string) {
	h := b.hourAt(now.UnixNano())
	var ids []uint32
	if p.hour == h.start {
		ids = append(ids, p.first[:p.n]...)
		if p.marks != nil {
			ids = append(ids, *p.marks...)
		}
	} else if p.line != nil && p.standing.online() {
		ids = append(ids, p.line.id)
	}
	for _, id := range ids {
		if name, ok := b.nameOf(p, id); ok {
			routes = append(routes, name)
		}
	}
	return time.Unix(0, h.start).In(b.loc), routes
}

// nameOf finds the name of a line by its number.
func (b *Board) nameOf(p *Place, id uint32) (string, bool) {
	if p.line != nil && p.line.id == id {
		return p.line.name, true
	}
	b.mu.RLock()
	defer b.mu.RUnlock()
	name, ok := b.names[id]
	return name, ok
}

// Recount says that the routes' hour that began at hour already counts the machine:
// the counterpart of Counted after a restart, before the first Put of p. An hour that
// is over is ignored.
func (b *Board) Recount(now time.Time, p *Place, hour time.Time, routes []string) {
	at := now.UnixNano()
	h := b.hourAt(at)
	if hour.UnixNano() != h.start {
		return
	}
	for _, r := range slices.Compact(slices.Sorted(slices.Values(routes))) {
		if r == "" {
			continue
		}
		if l := b.take(at, r); l != nil {
			p.mark(h.start, l.id)
			l.refs.Add(-1)
		}
	}
}
