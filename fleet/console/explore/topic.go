package explore

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/farebeat/farebeat/topics"
)

// TopicView is what is known of one topic.
type TopicView struct {
	Status
	Topic string      `json:"topic"`
	Spec  topics.Spec `json:"-"` // of its kind; zero where it is not in the tree
	Message
	Retained bool    `json:"retained"` // its message stands at the broker
	Count    uint64  `json:"count"`    // messages since listening began, without one that stood before
	Rate     float64 `json:"rate"`     // messages a second, weighted over about 10 s
	// Past are messages before this one, newest first, since somebody looks: at most 9.
	Past []Message `json:"past,omitempty"`
}

// Message is one that came on a topic.
type Message struct {
	Size    int       `json:"size"`    // bytes of the whole payload
	Payload []byte    `json:"payload"` // as it came, perhaps cut; the caller must not change it
	Text    string    `json:"-"`       // Payload where it is UTF-8
	Hex     string    `json:"-"`       // else a dump of its first 4 kB
	Pretty  string    `json:"-"`       // JSON with a line for each member, its numbers as they came; empty: it is none, or too deep
	Cut     bool      `json:"cut"`     // not all of it was kept
	QoS     byte      `json:"qos"`     // of the delivery
	Stood   bool      `json:"stood"`   // it was there before listening began, nobody knows since when
	At      time.Time `json:"at"`      // of arrival here
	Verdict Verdict   `json:"verdict"`
}

// Topic shows one topic by its whole name, or after the root of the tree; false: no message of it is held. What comes on it is judged and
// remembered from the first look on. It counts as a look.
func (e *Explorer) Topic(ctx context.Context, name string) (TopicView, bool) {
	v, last, past := e.topic(name)
	if last == nil || ctx.Err() != nil {
		return v, false
	}
	v.Message = last.view(e.o.Tree, v.Topic)
	e.judged(v.Topic, last)
	for _, m := range slices.Backward(past) {
		v.Past = append(v.Past, m.view(e.o.Tree, v.Topic))
	}
	return v, true
}

// judged has the levels count a verdict that was asked for, where the message is still the newest.
func (e *Explorer) judged(name string, m *message) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if t := e.heard.topics[name]; t != nil && t.last == m {
		t.setDoubts(m.doubts())
	}
}

func (e *Explorer) topic(name string) (v TopicView, last *message, past []*message) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.look()
	v = TopicView{Status: e.status(), Topic: name}
	t := e.heard.topics[name]
	if t == nil {
		if t = e.heard.topics[e.o.Tree.Root()+name]; t != nil {
			v.Topic = t.name
		}
	}
	if a, err := e.o.Tree.Parse(v.Topic); err == nil {
		v.Spec, _ = e.o.Tree.Spec(a.Kind)
	}
	if t == nil {
		return v, nil, nil
	}
	t.watched = time.Now()
	now := e.o.Now()
	v.Retained, v.Count, v.Rate = t.retained, t.count, t.rate.now(now)*e.warmUp(now)
	return v, t.last, slices.Clone(t.past)
}

// Bounds of what is shown of a payload.
const (
	maxDump   = 4 << 10   // bytes of one that is no text
	maxPretty = 512 << 10 // bytes of JSON with its indentation
)

func (m *message) view(tree topics.Tree, name string) Message {
	v := Message{
		Size: m.size, Payload: m.payload, Cut: len(m.payload) < m.size, QoS: m.qos, Stood: m.stood, At: m.at, Verdict: m.judge(tree, name),
	}
	if !utf8.Valid(m.payload) {
		v.Hex = hex.Dump(m.payload[:min(len(m.payload), maxDump)])
		return v
	}
	v.Text = string(m.payload)
	v.Pretty = pretty(m.payload)
	return v
}

// pretty indents JSON without touching its values; it returns nothing where it is none, or would become too large.
func pretty(b []byte) string {
	if !json.Valid(b) {
		return ""
	}
	depth, size, quoted := 0, len(b), false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case c == '\\' && quoted:
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{', c == '[':
			depth++
			size += 1 + 2*depth
		case c == '}', c == ']':
			depth--
			size += 1 + 2*depth
		case c == ',':
			size += 1 + 2*depth
		}
	}
	if size > maxPretty {
		return ""
	}
	var out bytes.Buffer
	if err := json.Indent(&out, b, "", "  "); err != nil {
		return ""
	}
	return out.String()
}
