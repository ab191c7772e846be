package schemas

import (
	"fmt"
	"math"
	"strconv"
	"time"
	"unicode/utf8"
)

// maxInterned bounds the strings that a decoder remembers; beyond, it begins anew.
const maxInterned = 1 << 16

// HeartbeatDecoder reads heartbeats without reflection and, once it has seen a fleet's
// identifiers, without allocating. It is not safe for concurrent use.
type HeartbeatDecoder struct {
	strings map[string]string
	oldest  time.Time
	scratch []byte
}

// NewHeartbeatDecoder makes a decoder that remembers nothing.
func NewHeartbeatDecoder() *HeartbeatDecoder {
	return &HeartbeatDecoder{strings: map[string]string{}}
}

// Decode reads one heartbeat into hb, whose strings may be kept; OldestPending points into
// the decoder and is good until the next call. Unknown members are skipped. hb is undefined
// after an error, which is an *Error.
func (d *HeartbeatDecoder) Decode(b []byte, hb *Heartbeat) error {
	*hb = Heartbeat{}
	s := scanner{b: b, scratch: d.scratch[:0]}
	var seen heartbeatMembers
	s.object(func(key []byte) { d.member(&s, key, hb, &seen) })
	s.end()
	d.scratch = s.scratch
	if s.problem != "" {
		return &Error{Message: NameHeartbeat, Field: s.field, Problem: s.problem}
	}
	for _, r := range [...]struct {
		there bool
		name  string
	}{{seen.seq, "seq"}, {seen.boot, "boot"}, {seen.at, "at"}, {seen.state, "state"}} {
		if !r.there {
			return &Error{Message: NameHeartbeat, Field: r.name, Problem: "is required"}
		}
	}
	return hb.Validate()
}

type heartbeatMembers struct{ seq, boot, at, state bool }

func (d *HeartbeatDecoder) member(s *scanner, key []byte, hb *Heartbeat, seen *heartbeatMembers) {
	switch string(key) { // does not allocate
	case "seq":
		hb.Seq, seen.seq = s.uint("seq", math.MaxUint64), true
	case "boot":
		hb.Boot, seen.boot = d.intern(s.str("boot")), true
	case "at":
		hb.At, seen.at = s.time("at"), true
	case "vehicle":
		hb.Vehicle = d.intern(s.str("vehicle"))
	case "route":
		hb.Route = d.intern(s.str("route"))
	case "trip":
		hb.Trip = d.intern(s.str("trip"))
	case "state":
		hb.State, seen.state = RunState(d.intern(s.str("state"))), true
	case "pending":
		hb.Pending = uint32(s.uint("pending", math.MaxUint32))
	case "pending_minor":
		hb.PendingMinor = s.int("pending_minor")
	case "currency":
		hb.Currency = d.intern(s.str("currency"))
	case "oldest_pending":
		if d.oldest = s.time("oldest_pending"); s.problem == "" {
			hb.OldestPending = &d.oldest
		}
	case "last_seq":
		hb.LastSeq = uint32(s.uint("last_seq", math.MaxUint32))
	case "epoch":
		hb.Epoch = uint32(s.uint("epoch", math.MaxUint32))
	case "fw":
		hb.Firmware = d.intern(s.str("fw"))
	case "fault":
		hb.Fault = d.intern(s.str("fault"))
	default:
		s.skip(0)
	}
}

func (d *HeartbeatDecoder) intern(b []byte) string {
	if s, ok := d.strings[string(b)]; ok {
		return s
	}
	if len(b) > 256 { // too long for any member: Validate refuses it
		return string(b)
	}
	if len(d.strings) >= maxInterned {
		clear(d.strings)
	}
	s := string(b)
	d.strings[s] = s
	return s
}

// AppendHeartbeat appends hb as compact JSON. hb must be valid.
func AppendHeartbeat(dst []byte, hb *Heartbeat) []byte {
	dst = append(dst, `{"seq":`...)
	dst = strconv.AppendUint(dst, hb.Seq, 10)
	dst = appendMember(dst, "boot", hb.Boot)
	dst = appendTime(dst, "at", hb.At)
	dst = appendOptional(dst, "vehicle", hb.Vehicle)
	dst = appendOptional(dst, "route", hb.Route)
	dst = appendOptional(dst, "trip", hb.Trip)
	dst = appendMember(dst, "state", string(hb.State))
	dst = appendUint(dst, "pending", hb.Pending)
	if hb.PendingMinor != 0 {
		dst = strconv.AppendInt(append(dst, `,"pending_minor":`...), hb.PendingMinor, 10)
	}
	dst = appendOptional(dst, "currency", hb.Currency)
	if hb.OldestPending != nil {
		dst = appendTime(dst, "oldest_pending", *hb.OldestPending)
	}
	dst = appendUint(dst, "last_seq", hb.LastSeq)
	dst = appendUint(dst, "epoch", hb.Epoch)
	dst = appendOptional(dst, "fw", hb.Firmware)
	dst = appendOptional(dst, "fault", hb.Fault)
	return append(dst, '}')
}

func appendName(dst []byte, name string) []byte {
	return append(append(append(dst, ',', '"'), name...), '"', ':')
}

func appendOptional(dst []byte, name, v string) []byte {
	if v == "" {
		return dst
	}
	return appendMember(dst, name, v)
}

// appendMember writes a string member. Valid values hold no control characters, so that only
// quotes and backslashes need escaping.
func appendMember(dst []byte, name, v string) []byte {
	dst = append(appendName(dst, name), '"')
	for i := range len(v) {
		if c := v[i]; c == '"' || c == '\\' {
			dst = append(dst, '\\')
		}
		dst = append(dst, v[i])
	}
	return append(dst, '"')
}

func appendUint(dst []byte, name string, v uint32) []byte {
	if v == 0 {
		return dst
	}
	return strconv.AppendUint(appendName(dst, name), uint64(v), 10)
}

func appendTime(dst []byte, name string, t time.Time) []byte {
	dst = append(appendName(dst, name), '"')
	return append(t.UTC().AppendFormat(dst, "2006-01-02T15:04:05.000Z07:00"), '"')
}

// scanner walks one JSON object. The first problem ends it: all that is read
// afterwards is zero.
type scanner struct {
	b       []byte
	i       int
	scratch []byte // holds a string that had escapes
	field   string
	problem string
}

func (s *scanner) fail(field, format string, args ...any) {
	if s.problem == "" {
		s.field, s.problem = field, fmt.Sprintf(format, args...)
	}
}

func (s *scanner) space() {
	for s.i < len(s.b) && (s.b[s.i] == ' ' || s.b[s.i] == '\n' || s.b[s.i] == '\t' || s.b[s.i] == '\r') {
		s.i++
	}
}

// peek is the next byte that is no space, 0 at the end.
func (s *scanner) peek() byte {
	s.space()
	if s.i >= len(s.b) {
		return 0
	}
	return s.b[s.i]
}

func (s *scanner) take(c byte) bool {
	if s.peek() != c {
		return false
	}
	s.i++
	return true
}

func (s *scanner) object(member func(key []byte)) {
	if !s.take('{') {
		s.fail("", "want a JSON object")
		return
	}
	if s.take('}') {
		return
	}
	for s.problem == "" {
		key := s.str("")
		if s.problem == "" && !s.take(':') {
			s.fail("", "want a colon at byte %d", s.i)
		}
		if s.problem != "" {
			return
		}
		member(key)
		if s.problem != "" || s.take('}') {
			return
		}
		if !s.take(',') {
			s.fail("", "want a comma or a closing brace at byte %d", s.i)
		}
	}
}

func (s *scanner) end() {
	if s.problem == "" && s.peek() != 0 || s.problem == "" && s.i < len(s.b) {
		s.fail("", "bytes after the end of the JSON object")
	}
}

// str reads a string; the bytes are good until the next one is read.
func (s *scanner) str(field string) []byte {
	if !s.take('"') {
		s.fail(field, "want a string at byte %d", s.i)
		return nil
	}
	start := s.i
	for s.i < len(s.b) {
		switch c := s.b[s.i]; {
		case c == '"':
			s.i++
			return s.text(field, s.b[start:s.i-1])
		case c == '\\':
			return s.escaped(field, start)
		case c < 0x20:
			s.fail(field, "control character in a string at byte %d", s.i)
			return nil
		default:
			s.i++
		}
	}
	s.fail(field, "the JSON ends too early")
	return nil
}

func (s *scanner) text(field string, b []byte) []byte {
	if !utf8.Valid(b) {
		s.fail(field, "is not UTF-8")
	}
	return b
}

// escaped reads the rest of a string that has a backslash, the rare case.
func (s *scanner) escaped(field string, start int) []byte {
	end := s.i
	for end < len(s.b) && s.b[end] != '"' {
		if s.b[end] == '\\' {
			end++
		}
		end++
	}
	if end >= len(s.b) {
		s.fail(field, "the JSON ends too early")
		return nil
	}
	out, ok := unquote(s.scratch[:0], s.b[start:end])
	if !ok {
		s.fail(field, "bad escape in a string at byte %d", s.i)
		return nil
	}
	s.scratch, s.i = out, end+1
	return s.text(field, out)
}

// unquote resolves JSON's escapes. A lone surrogate becomes U+FFFD, as in encoding/json.
func unquote(dst, b []byte) ([]byte, bool) {
	for i := 0; i < len(b); i++ {
		if b[i] < 0x20 {
			return dst, false
		}
		if b[i] != '\\' {
			dst = append(dst, b[i])
			continue
		}
		if i++; i >= len(b) {
			return dst, false
		}
		switch b[i] {
		case '"', '\\', '/':
			dst = append(dst, b[i])
		case 'b':
			dst = append(dst, '\b')
		case 'f':
			dst = append(dst, '\f')
		case 'n':
			dst = append(dst, '\n')
		case 'r':
			dst = append(dst, '\r')
		case 't':
			dst = append(dst, '\t')
		case 'u':
			r, ok := hex4(b[i+1:])
			if !ok {
				return dst, false
			}
			i += 4
			if r >= 0xd800 && r < 0xdc00 && i+6 < len(b) && b[i+1] == '\\' && b[i+2] == 'u' {
				if low, ok := hex4(b[i+3:]); ok && low >= 0xdc00 && low < 0xe000 {
					r = (r-0xd800)<<10 + (low - 0xdc00) + 0x10000
					i += 6
				}
			}
			dst = utf8.AppendRune(dst, r)
		default:
			return dst, false
		}
	}
	return dst, true
}

func hex4(b []byte) (rune, bool) {
	if len(b) < 4 {
		return 0, false
	}
	v, err := strconv.ParseUint(string(b[:4]), 16, 32)
	return rune(v), err == nil && b[0] != '+' && b[0] != '_'
}

// digits reads the characters of a number.
func (s *scanner) digits(field string) []byte {
	c := s.peek()
	start := s.i
	if c != '-' && (c < '0' || c > '9') {
		s.fail(field, "want a number at byte %d", s.i)
		return nil
	}
	for s.i < len(s.b) {
		switch c := s.b[s.i]; {
		case c >= '0' && c <= '9', c == '-', c == '+', c == '.', c == 'e', c == 'E':
			s.i++
			continue
		}
		break
	}
	return s.b[start:s.i]
}

func (s *scanner) uint(field string, most uint64) uint64 {
	d := s.digits(field)
	if s.problem != "" {
		return 0
	}
	var n uint64
	for i, c := range d {
		if c < '0' || c > '9' || i > 0 && d[0] == '0' {
			s.fail(field, "%s: want a whole number from 0 to %d", d, most)
			return 0
		}
		if n > most/10 || n*10 > most-uint64(c-'0') {
			s.fail(field, "%s: want a whole number from 0 to %d", d, most)
			return 0
		}
		n = n*10 + uint64(c-'0')
	}
	return n
}

func (s *scanner) int(field string) int64 {
	s.space()
	negative := s.i < len(s.b) && s.b[s.i] == '-'
	if negative {
		s.i++
		if s.i >= len(s.b) || s.b[s.i] < '0' || s.b[s.i] > '9' {
			s.fail(field, "want a number at byte %d", s.i)
			return 0
		}
	}
	n := s.uint(field, math.MaxInt64)
	if negative {
		return -int64(n)
	}
	return int64(n)
}

func (s *scanner) time(field string) time.Time {
	b := s.str(field)
	if s.problem != "" {
		return time.Time{}
	}
	if t, ok := utcMillis(b); ok {
		return t
	}
	t, err := time.Parse(time.RFC3339, string(b))
	if err != nil {
		s.fail(field, "%.64q: want a time as RFC 3339", b)
	}
	return t
}

// utcMillis reads the form that machines send, 2006-01-02T15:04:05.000Z, without allocating.
func utcMillis(b []byte) (time.Time, bool) {
	const form = "dddd-dd-ddTdd:dd:dd.dddZ"
	if len(b) != len(form) {
		return time.Time{}, false
	}
	for i := range len(form) {
		if form[i] == 'd' && (b[i] < '0' || b[i] > '9') || form[i] != 'd' && b[i] != form[i] {
			return time.Time{}, false
		}
	}
	n := func(from, to int) int {
		v := 0
		for _, c := range b[from:to] {
			v = v*10 + int(c-'0')
		}
		return v
	}
	year, month, day := n(0, 4), time.Month(n(5, 7)), n(8, 10)
	hour, minute, second := n(11, 13), n(14, 16), n(17, 19)
	t := time.Date(year, month, day, hour, minute, second, n(20, 23)*1e6, time.UTC)
	if hour > 23 || minute > 59 || second > 59 || t.Month() != month || t.Day() != day || year == 0 {
		return time.Time{}, false // time.Parse words the error
	}
	return t, true
}

// maxDepth bounds nesting in members that are skipped.
const maxDepth = 16

// skip passes over one value of any type.
func (s *scanner) skip(depth int) {
	if depth > maxDepth {
		s.fail("", "nested deeper than %d", maxDepth)
		return
	}
	switch c := s.peek(); c {
	case '"':
		s.str("")
	case '{':
		s.object(func([]byte) { s.skip(depth + 1) })
	case '[':
		s.i++
		if s.take(']') {
			return
		}
		for s.problem == "" {
			s.skip(depth + 1)
			if s.problem != "" || s.take(']') {
				return
			}
			if !s.take(',') {
				s.fail("", "want a comma or a closing bracket at byte %d", s.i)
			}
		}
	case 't', 'f', 'n':
		for _, word := range [...]string{"true", "false", "null"} {
			if len(s.b)-s.i >= len(word) && string(s.b[s.i:s.i+len(word)]) == word {
				s.i += len(word)
				return
			}
		}
		s.fail("", "not JSON at byte %d", s.i)
	default:
		d := s.digits("")
		if s.problem == "" && !isNumber(d) {
			s.fail("", "%s: not a JSON number", d)
		}
	}
}

// isNumber checks the grammar of RFC 8259, section 6.
func isNumber(d []byte) bool {
	i := 0
	run := func() bool {
		start := i
		for i < len(d) && d[i] >= '0' && d[i] <= '9' {
			i++
		}
		return i > start
	}
	if i < len(d) && d[i] == '-' {
		i++
	}
	if i < len(d) && d[i] == '0' {
		i++
	} else if !run() {
		return false
	}
	if i < len(d) && d[i] == '.' {
		if i++; !run() {
			return false
		}
	}
	if i < len(d) && (d[i] == 'e' || d[i] == 'E') {
		if i++; i < len(d) && (d[i] == '+' || d[i] == '-') {
			i++
		}
		if !run() {
			return false
		}
	}
	return i == len(d)
}
