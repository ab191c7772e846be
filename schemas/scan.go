package schemas

import (
	"bytes"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Bounds of nesting in values that are skipped, so that a hostile payload cannot exhaust the stack.
const (
	maxDepth    = 16
	maxLaxDepth = MaxRecordBytes // no record that is good nests deeper
)

// scanner reads JSON by RFC 8259 without reflection. The first problem ends it: all that is
// read afterwards is zero. Callers add the path to it on their way out (see at).
type scanner struct {
	b       []byte
	i       int
	scratch []byte // holds a string that had escapes
	lax     bool   // skip leaves UTF-8 and depth to whoever reads the bytes it returns
	path    string // of the value with the problem
	problem string
}

func (s *scanner) fail(format string, args ...any) {
	if s.problem == "" {
		s.problem = fmt.Sprintf(format, args...)
	}
}

// at says that the value with the problem, if there is one, lies in member name.
func (s *scanner) at(name string) {
	if s.problem == "" || name == "" {
		return
	}
	if s.path != "" && s.path[0] != '[' {
		name += "."
	}
	s.path = name + s.path
}

func (s *scanner) error(message string) error {
	if s.problem == "" {
		return nil
	}
	return &Error{Message: message, Field: s.path, Problem: s.problem}
}

// peek is the next byte that is no space, 0 at the end.
func (s *scanner) peek() byte {
	for s.i < len(s.b) {
		switch c := s.b[s.i]; c {
		case ' ', '\n', '\t', '\r':
			s.i++
		default:
			return c
		}
	}
	return 0
}

func (s *scanner) take(c byte) bool {
	if s.peek() != c || s.i >= len(s.b) {
		return false
	}
	s.i++
	return true
}

// want fails because the next value is not what it should be.
func (s *scanner) want(what string) {
	got := ""
	switch c := s.peek(); {
	case s.i >= len(s.b):
		s.fail("the JSON ends too early")
		return
	case c == '"':
		got = "a string"
	case c == '{':
		got = "an object"
	case c == '[':
		got = "an array"
	case c == '-' || c >= '0' && c <= '9':
		got = "a number"
	case s.word("null"):
		got = "null"
	case s.word("true") || s.word("false"):
		got = "a boolean"
	default:
		s.fail("not JSON at byte %d", s.i)
		return
	}
	s.fail("want %s, got %s", what, got)
}

// open enters an object or array and reports whether it has a first element.
func (s *scanner) open(left, right byte, what string) bool {
	if !s.take(left) {
		s.want(what)
		return false
	}
	return !s.take(right)
}

// more passes to the next element of what open entered, if there is one.
func (s *scanner) more(right byte) bool {
	switch {
	case s.problem != "" || s.take(right):
		return false
	case s.take(','):
		return true
	case s.peek() == 0 && s.i >= len(s.b):
		s.fail("the JSON ends too early")
	default:
		s.fail("not JSON at byte %d: want a comma or %q", s.i, right)
	}
	return false
}

// key reads a member's name and its colon; it is good until the next string is read.
func (s *scanner) key() []byte {
	if s.peek() != '"' && s.i < len(s.b) {
		s.fail("not JSON at byte %d: want the name of a member", s.i)
		return nil
	}
	k := s.str()
	if s.problem == "" && !s.take(':') {
		s.fail("not JSON at byte %d: want a colon", s.i)
	}
	return k
}

// end fails if anything follows the value.
func (s *scanner) end() {
	if s.problem == "" && (s.peek() != 0 || s.i < len(s.b)) {
		s.fail("bytes after the end of the JSON object")
	}
}

// word takes a literal name.
func (s *scanner) word(w string) bool {
	s.peek()
	if len(s.b)-s.i < len(w) || string(s.b[s.i:s.i+len(w)]) != w {
		return false
	}
	s.i += len(w)
	return true
}

func (s *scanner) bool() bool {
	if s.word("true") {
		return true
	}
	if !s.word("false") {
		s.want("a boolean")
	}
	return false
}

// str reads a string; the bytes are good until the next one is read.
func (s *scanner) str() []byte {
	if s.peek() != '"' {
		s.want("a string")
		return nil
	}
	s.i++
	start := s.i
	for s.i < len(s.b) {
		switch c := s.b[s.i]; {
		case c == '"':
			s.i++
			return s.text(s.b[start : s.i-1])
		case c == '\\':
			return s.escaped(start)
		case c < 0x20:
			s.fail("control character in a string at byte %d", s.i)
			return nil
		default:
			s.i++
		}
	}
	s.fail("the JSON ends too early")
	return nil
}

func (s *scanner) text(b []byte) []byte {
	if !s.lax && !utf8.Valid(b) {
		s.fail("is not UTF-8")
	}
	return b
}

// escaped reads the rest of a string that has a backslash, the rare case.
func (s *scanner) escaped(start int) []byte {
	end := s.i
	for end < len(s.b) && s.b[end] != '"' {
		if s.b[end] == '\\' {
			end++
		}
		end++
	}
	if end >= len(s.b) {
		s.fail("the JSON ends too early")
		return nil
	}
	out, ok := unquote(s.scratch[:0], s.b[start:end])
	if !ok {
		s.fail("bad escape or control character in the string at byte %d", start-1)
		return nil
	}
	s.scratch, s.i = out, end+1
	return s.text(out)
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
		if b[i] != 'u' {
			at := strings.IndexByte(`"\/bfnrt`, b[i])
			if at < 0 {
				return dst, false
			}
			dst = append(dst, "\"\\/\b\f\n\r\t"[at])
			continue
		}
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
	}
	return dst, true
}

func hex4(b []byte) (rune, bool) {
	if len(b) < 4 {
		return 0, false
	}
	var r rune
	for _, c := range b[:4] {
		switch {
		case c >= '0' && c <= '9':
			r = r<<4 | rune(c-'0')
		case c >= 'a' && c <= 'f':
			r = r<<4 | rune(c-'a'+10)
		case c >= 'A' && c <= 'F':
			r = r<<4 | rune(c-'A'+10)
		default:
			return 0, false
		}
	}
	return r, true
}

// number reads a number, checked by the grammar of RFC 8259, section 6.
func (s *scanner) number(what string) []byte {
	if c := s.peek(); c != '-' && (c < '0' || c > '9') {
		s.want(what)
		return nil
	}
	start := s.i
	for s.i < len(s.b) && strings.IndexByte("+-.0123456789Ee", s.b[s.i]) >= 0 {
		s.i++
	}
	d := s.b[start:s.i]
	if !isNumber(d) {
		s.fail("%.32s: not a JSON number", d)
		return nil
	}
	return d
}

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

// whole reads the digits of a number that has neither fraction nor exponent, up to most.
func (s *scanner) whole(d []byte, most uint64) (n uint64, ok bool) {
	for _, c := range d {
		if c < '0' || c > '9' || n > most/10 || n*10 > most-uint64(c-'0') {
			return 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	return n, len(d) > 0
}

func (s *scanner) uint(most uint64) uint64 {
	d := s.number("a whole number")
	n, ok := s.whole(d, most)
	if !ok && s.problem == "" {
		s.fail("%.32s: want a whole number from 0 to %d", d, most)
	}
	return n
}

func (s *scanner) int() int64 {
	d := s.number("a whole number")
	most, digits := uint64(math.MaxInt64), d
	if len(d) > 0 && d[0] == '-' {
		most, digits = most+1, d[1:]
	}
	n, ok := s.whole(digits, most)
	switch {
	case s.problem != "":
		return 0
	case !ok:
		s.fail("%.32s: want a whole number of 64 bits", d)
		return 0
	case d[0] == '-':
		return -int64(n) // -1 << 63 is its own negative
	}
	return int64(n)
}

func (s *scanner) float() float64 {
	d := s.number("a number")
	if s.problem != "" {
		return 0
	}
	f, err := strconv.ParseFloat(string(d), 64)
	if err != nil {
		s.fail("%.32s: out of the range of a 64-bit float", d)
		return 0
	}
	return f
}

func (s *scanner) time() time.Time {
	b := s.str()
	if s.problem != "" {
		return time.Time{}
	}
	if t, ok := utcMillis(b); ok {
		return t
	}
	var t time.Time
	if err := t.UnmarshalText(b); err != nil || !strictTime(b) {
		s.fail("%.64q: want a time of RFC 3339 such as 2026-11-22T23:41:09.120Z", b)
		return time.Time{}
	}
	return t
}

// strictTime refuses what package time takes for RFC 3339 though it is not (go.dev/issue/54580):
// hours of one digit, a comma before the fraction, offsets of 24 hours or 60 minutes.
func strictTime(b []byte) bool {
	if len(b) < len("2006-01-02T15:04:05Z") || b[len("2006-01-02T15")] != ':' || bytes.IndexByte(b, ',') >= 0 {
		return false
	}
	offset := string(b[len(b)-5:]) // of "+08:00"; with a Z the check below is idle
	return b[len(b)-1] == 'Z' || offset[:2] <= "23" && offset[3:] <= "59"
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
	if hour > 23 || minute > 59 || second > 59 || t.Month() != month || t.Day() != day {
		return time.Time{}, false // the strict parser words the error
	}
	return t, true
}

// skip passes over one value of any type and returns its bytes.
func (s *scanner) skip(depth int) []byte {
	c := s.peek()
	start := s.i
	switch {
	case depth > maxDepth && !s.lax || depth > maxLaxDepth:
		s.fail("nested deeper than %d", maxDepth)
	case c == '"':
		s.str()
	case c == '{':
		for more := s.open('{', '}', ""); more; more = s.more('}') {
			if s.key(); s.problem == "" {
				s.skip(depth + 1)
			}
		}
	case c == '[':
		for more := s.open('[', ']', ""); more; more = s.more(']') {
			s.skip(depth + 1)
		}
	case c == 't' || c == 'f':
		s.bool()
	case c == 'n' && s.word("null"):
	case c == '-' || c >= '0' && c <= '9':
		s.number("a number")
	default:
		s.want("JSON")
	}
	return s.b[start:s.i]
}
