package topics

import (
	"fmt"
	"strconv"
	"strings"
)

// Bounds of MQTT topics in this tree.
const (
	MaxID     = 64  // characters of an identifier before encoding
	MaxLevels = 8   // levels of a topic
	MaxTopic  = 256 // bytes of a topic
)

// Tree is the topic tree of one operator. It is a small value, safe for concurrent use; only
// New makes a good one.
type Tree struct {
	operator string
	root     string // farebeat/v1/{operator}/
	rows     *[]row // the table, made once: the broker asks for every message
}

// row is a row of the topic table with its pattern cut into levels.
type row struct {
	Spec
	levels []string
}

func rowsOf(specs []Spec) *[]row {
	rows := make([]row, len(specs))
	for i, s := range specs {
		rows[i] = row{s, strings.Split(s.Pattern, "/")}
	}
	return &rows
}

// New makes the tree of an operator. The error names what is wrong with the name.
func New(operator string) (Tree, error) {
	enc, err := encodeID("operator", operator)
	if err != nil {
		return Tree{}, fmt.Errorf("topic tree: %w", err)
	}
	t := Tree{operator: operator, root: "farebeat/v1/" + enc + "/", rows: rowsOf(Specs())}
	if len(t.root) > MaxTopic/2 {
		return Tree{}, fmt.Errorf("topic tree: operator %q: %d bytes when percent-encoded leave no room for the topics; take a shorter name", operator, len(enc))
	}
	return t, nil
}

// Root is the prefix of every topic, with its slash.
func (t Tree) Root() string { return t.root }

// Operator is the name that New was given.
func (t Tree) Operator() string { return t.operator }

// BatchID names a batch of transactions within a machine.
type BatchID struct{ Epoch, First, Last uint32 }

// String is {epoch}-{first}-{last}.
func (b BatchID) String() string {
	var room [32]byte
	s := strconv.AppendUint(room[:0], uint64(b.Epoch), 10)
	s = strconv.AppendUint(append(s, '-'), uint64(b.First), 10)
	return string(strconv.AppendUint(append(s, '-'), uint64(b.Last), 10))
}

func (b BatchID) check() error {
	switch {
	case b.Epoch == 0 || b.First == 0 || b.Last == 0:
		return fmt.Errorf("batch %q: want epoch-first-last, each from 1 to 4294967295", b)
	case b.Last < b.First:
		return fmt.Errorf("batch %q: ends before it begins", b)
	}
	return nil
}

// ParseBatchID reads what String writes, and nothing else.
func ParseBatchID(s string) (BatchID, error) {
	var n [3]uint32
	rest := s
	for i := range n {
		part, after, more := strings.Cut(rest, "-")
		v, err := strconv.ParseUint(part, 10, 32)
		if err != nil || part[0] < '1' || part[0] > '9' || more != (i < 2) {
			return BatchID{}, fmt.Errorf("batch %q: want epoch-first-last, each from 1 to 4294967295", s)
		}
		n[i], rest = uint32(v), after
	}
	b := BatchID{n[0], n[1], n[2]}
	if err := b.check(); err != nil {
		return BatchID{}, err
	}
	return b, nil
}

// Address is a topic with its identifiers decoded. Only those of its Kind are set.
type Address struct {
	Kind      Kind
	Machine   string
	Vehicle   string
	Route     string
	Fault     string
	Source    string
	Command   string
	Severity  string
	EventKind string
	Batch     BatchID
}

// id returns the field that a level of a pattern names; nil for one that is no identifier.
func (a *Address) id(level string) *string {
	switch level {
	case "{machine}":
		return &a.Machine
	case "{vehicle}":
		return &a.Vehicle
	case "{route}":
		return &a.Route
	case "{fault}":
		return &a.Fault
	case "{source}":
		return &a.Source
	case "{command}":
		return &a.Command
	case "{severity}":
		return &a.Severity
	case "{kind}":
		return &a.EventKind
	}
	return nil
}

// Spec returns the row of a kind; it is zero and false for a kind that is not in the tree.
func (t Tree) Spec(k Kind) (Spec, bool) {
	if r := t.row(k); r != nil {
		return r.Spec, true
	}
	return Spec{}, false
}

func (t Tree) row(k Kind) *row {
	if t.rows == nil {
		return nil
	}
	for i := range *t.rows {
		if r := &(*t.rows)[i]; r.Kind == k {
			return r
		}
	}
	return nil
}

// Lookup returns the row of a kind where no tree is at hand. It makes the table anew; what is
// asked for every message asks Tree.Spec.
func Lookup(k Kind) (Spec, bool) {
	for _, s := range Specs() {
		if s.Kind == k {
			return s, true
		}
	}
	return Spec{}, false
}

// Build makes the topic of an address. An identifier that is empty, too long or not
// printable is an error that names the level.
func (t Tree) Build(a Address) (string, error) { return t.build(a, false) }

// Filter makes the subscription filter of an address; an identifier that is empty (a Batch that is zero)
// matches any.
func (t Tree) Filter(a Address) (string, error) { return t.build(a, true) }

func (t Tree) build(a Address, filter bool) (string, error) {
	if t.rows == nil {
		return "", fmt.Errorf("build topic %s: the tree was not made by New", a.Kind)
	}
	r := t.row(a.Kind)
	if r == nil {
		return "", fmt.Errorf("build topic: kind %q is not in the tree", a.Kind)
	}
	b := make([]byte, 0, MaxTopic)
	b = append(b, t.root...)
	for i, level := range r.levels {
		if i > 0 {
			b = append(b, '/')
		}
		var err error
		if b, err = a.append(b, level, filter); err != nil {
			return "", fmt.Errorf("build topic %s: %w", a.Kind, err)
		}
	}
	if len(b) > MaxTopic {
		return "", fmt.Errorf("build topic %s: %q...: %d bytes, at most %d", a.Kind, b[:MaxTopic], len(b), MaxTopic)
	}
	return string(b), nil
}

// append writes one level of a pattern.
func (a *Address) append(b []byte, level string, filter bool) ([]byte, error) {
	if level[0] != '{' {
		return append(b, level...), nil
	}
	if level == "{batch}" {
		if a.Batch == (BatchID{}) && filter {
			return append(b, '+'), nil
		}
		return append(b, a.Batch.String()...), a.Batch.check()
	}
	id := *a.id(level)
	if id == "" && filter {
		return append(b, '+'), nil
	}
	enc, err := encodeID(level[1:len(level)-1], id)
	return append(b, enc...), err
}

// Parse reads a topic of this operator. The error says why it is not one.
func (t Tree) Parse(topic string) (Address, error) {
	if len(topic) > MaxTopic {
		return Address{}, fmt.Errorf("topic of %d bytes: at most %d", len(topic), MaxTopic)
	}
	rest, ok := strings.CutPrefix(topic, t.root)
	if !ok || t.root == "" {
		return Address{}, fmt.Errorf("topic %q: does not begin with %s", topic, t.root)
	}
	if strings.Count(rest, "/") >= MaxLevels {
		return Address{}, fmt.Errorf("topic %q: more than %d levels", topic, MaxLevels)
	}
	var room [MaxLevels]string
	levels := split(room[:0], rest)
	for i := range *t.rows {
		r := &(*t.rows)[i]
		if !sameShape(r.levels, levels) {
			continue
		}
		a := Address{Kind: r.Kind}
		for i, level := range r.levels {
			if err := a.set(level, levels[i]); err != nil {
				return Address{}, fmt.Errorf("topic %q: %w", topic, err)
			}
		}
		return a, nil
	}
	return Address{}, fmt.Errorf("topic %q: not in the tree", topic)
}

// split cuts a topic into its levels without allocating.
func split(levels []string, topic string) []string {
	for {
		level, rest, more := strings.Cut(topic, "/")
		levels = append(levels, level)
		if !more {
			return levels
		}
		topic = rest
	}
}

func sameShape(pattern, levels []string) bool {
	if len(pattern) != len(levels) {
		return false
	}
	for i, p := range pattern {
		if p[0] != '{' && p != levels[i] {
			return false
		}
	}
	return true
}

// set reads one level of a pattern.
func (a *Address) set(level, value string) (err error) {
	switch {
	case level[0] != '{':
	case level == "{batch}":
		a.Batch, err = ParseBatchID(value)
	default:
		*a.id(level), err = decodeID(level[1:len(level)-1], value)
	}
	return err
}

// HeartbeatMachine returns the machine of a heartbeat topic of this operator. It is the
// hot path: it allocates only where an identifier is percent-encoded.
func (t Tree) HeartbeatMachine(topic string) (machine string, ok bool) {
	const before, after = "machine/", "/heartbeat"
	if len(topic) <= len(t.root)+len(before)+len(after) || len(topic) > MaxTopic || t.root == "" {
		return "", false
	}
	rest, ok := strings.CutPrefix(topic, t.root)
	if !ok {
		return "", false
	}
	if rest, ok = strings.CutPrefix(rest, before); !ok {
		return "", false
	}
	if rest, ok = strings.CutSuffix(rest, after); !ok || strings.IndexByte(rest, '/') >= 0 {
		return "", false
	}
	machine, err := decodeID("machine", rest)
	return machine, err == nil
}
