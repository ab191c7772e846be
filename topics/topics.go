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

// Tree is the topic tree of one operator.
type Tree struct {
	operator string
	root     string // farebeat/v1/{operator}/
}

// New makes the tree of an operator. The error names what is wrong with the name.
func New(operator string) (Tree, error) {
	enc, err := encodeID("operator", operator)
	if err != nil {
		return Tree{}, fmt.Errorf("topic tree: %w", err)
	}
	return Tree{operator: operator, root: "farebeat/v1/" + enc + "/"}, nil
}

// Root is the prefix of every topic, with its slash.
func (t Tree) Root() string { return t.root }

// Operator is the name that New was given.
func (t Tree) Operator() string { return t.operator }

// BatchID names a batch of transactions within a machine.
type BatchID struct{ Epoch, First, Last uint32 }

// String is {epoch}-{first}-{last}.
func (b BatchID) String() string { return fmt.Sprintf("%d-%d-%d", b.Epoch, b.First, b.Last) }

// ParseBatchID reads what String writes, and nothing else.
func ParseBatchID(s string) (BatchID, error) {
	parts := strings.Split(s, "-")
	var n [3]uint32
	if len(parts) != 3 {
		return BatchID{}, fmt.Errorf("batch %q: want epoch-first-last", s)
	}
	for i, p := range parts {
		v, err := strconv.ParseUint(p, 10, 32)
		if err != nil || v == 0 || p[0] == '0' || p[0] == '+' {
			return BatchID{}, fmt.Errorf("batch %q: want epoch-first-last, each from 1 to 4294967295", s)
		}
		n[i] = uint32(v)
	}
	if n[2] < n[1] {
		return BatchID{}, fmt.Errorf("batch %q: ends before it begins", s)
	}
	return BatchID{n[0], n[1], n[2]}, nil
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

// id returns the field that a level of a pattern names.
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

// Lookup returns the row of a kind.
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
	spec, ok := Lookup(a.Kind)
	if !ok {
		return "", fmt.Errorf("build topic: kind %q is not in the tree", a.Kind)
	}
	if t.root == "" {
		return "", fmt.Errorf("build topic %s: the tree was not made by New", a.Kind)
	}
	levels := strings.Split(spec.Pattern, "/")
	for i, level := range levels {
		if level == "{batch}" {
			levels[i] = a.Batch.String()
			if a.Batch == (BatchID{}) && filter {
				levels[i] = "+"
			} else if _, err := ParseBatchID(levels[i]); err != nil {
				return "", fmt.Errorf("build topic %s: %w", a.Kind, err)
			}
			continue
		}
		id := a.id(level)
		if id == nil {
			continue
		}
		if *id == "" && filter {
			levels[i] = "+"
			continue
		}
		enc, err := encodeID(strings.Trim(level, "{}"), *id)
		if err != nil {
			return "", fmt.Errorf("build topic %s: %w", a.Kind, err)
		}
		levels[i] = enc
	}
	topic := t.root + strings.Join(levels, "/")
	if len(topic) > MaxTopic {
		return "", fmt.Errorf("build topic %s: %d bytes, at most %d", a.Kind, len(topic), MaxTopic)
	}
	return topic, nil
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
	levels := strings.Split(rest, "/")
	for _, spec := range Specs() {
		pattern := strings.Split(spec.Pattern, "/")
		if !sameShape(pattern, levels) {
			continue
		}
		a := Address{Kind: spec.Kind}
		for i, level := range pattern {
			if err := a.set(level, levels[i]); err != nil {
				return Address{}, fmt.Errorf("topic %q: %w", topic, err)
			}
		}
		return a, nil
	}
	return Address{}, fmt.Errorf("topic %q: not in the tree", topic)
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

func (a *Address) set(level, value string) error {
	if level == "{batch}" {
		b, err := ParseBatchID(value)
		a.Batch = b
		return err
	}
	id := a.id(level)
	if id == nil {
		return nil
	}
	dec, err := decodeID(strings.Trim(level, "{}"), value)
	*id = dec
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
