package explore

import (
	"container/list"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/farebeat/farebeat/topics"
)

// message is one that came. It does not change, and its payload is the explorer's own.
type message struct {
	payload []byte // at most MaxPayload bytes of it
	size    int    // of the whole
	qos     byte
	stood   bool // at the broker already when listening began, nobody knows since when
	at      time.Time

	once    sync.Once
	verdict atomic.Pointer[Verdict] // nil: nobody asked for it yet
}

// judge says whether it is what its topic wants. Of a message that is to be cut it must be asked before.
func (m *message) judge(tree topics.Tree, name string) Verdict {
	m.once.Do(func() {
		v := Judge(tree, name, m.payload)
		m.verdict.Store(&v)
	})
	return *m.verdict.Load()
}

// doubts is 1 where the message is known to be invalid, and where nobody knows.
func (m *message) doubts() (invalid, unjudged int) {
	switch v := m.verdict.Load(); {
	case v == nil:
		return 0, 1
	case v.State == Invalid:
		return 1, 0
	}
	return 0, 0
}

// cut gives up what is beyond a bound, at the end of a character.
func (m *message) cut(most int) {
	n := most
	for n > most-utf8.UTFMax && n > 0 && !utf8.RuneStart(m.payload[n]) {
		n--
	}
	m.payload = slices.Clone(m.payload[:n])
}

// topic is one that a message came on.
type topic struct {
	name     string
	node     *node
	last     *message
	past     []*message // before it, newest last, while somebody looks
	stands   bool       // messages of its kind are retained
	retained bool       // the last one is
	count    uint64     // of messages since listening began, without what stood
	rate     rate
	watched  time.Time // on the wall: when somebody looked last
	bytes    int
	invalid  int           // 1: the last message is; as the levels count it
	unjudged int           // 1: nobody knows
	place    *list.Element // in the list of those that are retained, or of the others
}

// maxPast is how many messages of a topic that is looked at are kept, the newest with them.
const maxPast = 10

func (t *topic) isWatched(idle time.Duration) bool {
	return !t.watched.IsZero() && time.Since(t.watched) < idle
}

// node is a level of the tree with what is known of all topics at it and below.
type node struct {
	name     string
	parent   *node
	children map[string]*node
	sorted   []*node // children by name; nil: to be made anew
	topic    *topic  // nil: only others are below it
	topics   int
	retained int
	invalid  int
	unjudged int
	newest   time.Time // arrival of the newest message; zero: all stood before
	rate     rate
}

// rateOver is how long a message counts for the rate: its weight falls to 1/e in that time.
const rateOver = 10 * time.Second

// rate is how many messages a second came, weighted exponentially.
type rate struct {
	value float64
	at    time.Time
}

func (r rate) now(now time.Time) float64 {
	if gone := now.Sub(r.at); gone > 0 {
		return r.value * math.Exp(-float64(gone)/float64(rateOver))
	}
	return r.value
}

func (r *rate) add(now time.Time, n float64) {
	v := max(r.now(now)+n, 0)
	if now.After(r.at) {
		r.at = now
	}
	r.value = v
}

// heard is all that is held, within the bounds. It has no lock of its own.
type heard struct {
	maxTopics, maxBytes int
	idle                time.Duration
	prefix              string // root of the topic tree
	tree                topics.Tree
	topics              map[string]*topic
	root                *node
	passing, standing   *list.List // topics, least recently changed first; standing are those retained
	bytes               int
	dropped             uint64
}

func newHeard(o Options) *heard {
	return &heard{
		maxTopics: o.MaxTopics, maxBytes: o.MaxBytes, idle: o.Idle, prefix: o.Tree.Root(), tree: o.Tree,
		topics: map[string]*topic{}, root: &node{}, passing: list.New(), standing: list.New(),
	}
}

// topicCost is what a topic costs besides its name and payloads, in bytes, as it was measured in a city of 5,000 machines: its levels, its
// message and the verdict on it.
const topicCost = 1000

// put takes a message in.
func (h *heard) put(name string, m *message) {
	t := h.topics[name]
	if t == nil {
		t = h.enter(name)
	}
	t.keepPast(h.idle)
	t.last = m
	h.setRetained(t, (m.stood || t.stands) && m.size > 0)
	t.setDoubts(m.doubts())
	if !m.stood {
		t.count++
		t.rate.add(m.at, 1/rateOver.Seconds())
		for n := t.node; n != nil; n = n.parent {
			n.rate.add(m.at, 1/rateOver.Seconds())
			if m.at.After(n.newest) {
				n.newest = m.at
			}
		}
	}
	size := len(name) + len(m.payload) + topicCost
	for _, p := range t.past {
		size += len(p.payload)
	}
	h.bytes += size - t.bytes
	t.bytes = size
	for len(h.topics) > h.maxTopics || h.bytes > h.maxBytes {
		if !h.makeRoom() {
			return
		}
	}
}

// keepPast moves the last message to those before it, where somebody looks.
func (t *topic) keepPast(idle time.Duration) {
	if !t.isWatched(idle) || t.last == nil {
		t.past = nil
		return
	}
	if len(t.past) >= maxPast-1 {
		t.past = slices.Clone(t.past[len(t.past)-maxPast+2:])
	}
	t.past = append(t.past, t.last)
}

// setRetained notes whether the topic's message stands at the broker, and that it changed. A subscriber is told so only of what stood before;
// of the rest the topic table says it, which the broker keeps publishers to.
func (h *heard) setRetained(t *topic, is bool) {
	if t.place != nil {
		h.listOf(t).Remove(t.place)
	}
	if is != t.retained {
		by := -1
		if is {
			by = 1
		}
		for n := t.node; n != nil; n = n.parent {
			n.retained += by
		}
		t.retained = is
	}
	t.place = h.listOf(t).PushBack(t)
}

// setDoubts notes whether the topic's message is invalid, or not judged yet.
func (t *topic) setDoubts(invalid, unjudged int) {
	for n := t.node; n != nil; n = n.parent {
		n.invalid += invalid - t.invalid
		n.unjudged += unjudged - t.unjudged
	}
	t.invalid, t.unjudged = invalid, unjudged
}

func (h *heard) listOf(t *topic) *list.List {
	if t.retained {
		return h.standing
	}
	return h.passing
}

// enter makes a topic and the levels that lead to it.
func (h *heard) enter(name string) *topic {
	n := h.root
	n.topics++
	for level := range strings.SplitSeq(strings.TrimPrefix(name, h.prefix), "/") {
		child := n.children[level]
		if child == nil {
			child = &node{name: strings.Clone(level), parent: n}
			if n.children == nil {
				n.children = map[string]*node{}
			}
			n.children[child.name] = child
			n.sorted = nil
		}
		n = child
		n.topics++
	}
	t := &topic{name: name, node: n}
	if a, err := h.tree.Parse(name); err == nil {
		spec, _ := h.tree.Spec(a.Kind)
		t.stands = spec.Retain
	}
	n.topic = t
	h.topics[name] = t
	return t
}

// makeRoom gives up the topic that changed least recently, those first that do not stand; false if there is none but the newest.
func (h *heard) makeRoom() bool {
	from := h.passing
	if from.Len() == 0 {
		from = h.standing
	}
	if len(h.topics) <= 1 {
		return false
	}
	t := from.Remove(from.Front()).(*topic)
	h.dropped++
	h.bytes -= t.bytes
	delete(h.topics, t.name)
	t.setDoubts(0, 0)
	t.node.topic = nil
	for n := t.node; n != nil; n = n.parent {
		n.topics--
		if t.retained {
			n.retained--
		}
		n.rate.add(n.rate.at, -t.rate.now(n.rate.at))
		if n.topics == 0 && n.parent != nil {
			delete(n.parent.children, n.name)
			n.parent.sorted = nil
		}
	}
	return true
}

// at is the level of a prefix that ends with a slash, or is empty; nil for none.
func (h *heard) at(prefix string) *node {
	n := h.root
	if prefix == "" {
		return n
	}
	for level := range strings.SplitSeq(strings.TrimSuffix(prefix, "/"), "/") {
		if n = n.children[level]; n == nil {
			return nil
		}
	}
	return n
}

// byName lists the children of a level.
func (n *node) byName() []*node {
	if n.sorted == nil && len(n.children) > 0 {
		n.sorted = slices.SortedFunc(maps.Values(n.children), func(a, b *node) int { return strings.Compare(a.name, b.name) })
	}
	return n.sorted
}
