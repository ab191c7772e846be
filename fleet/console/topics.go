package console

import (
	"net/http"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/farebeat/farebeat/fleet/console/explore"
)

// topicsPage is what /topics shows: a level of the tree, or one topic.
type topicsPage struct {
	Away   bool // there is no explorer
	At     string
	Find   string
	Paused bool
	Crumbs []crumb
	Level  *explore.Level
	Topic  *explore.TopicView
	Held   bool // a message of Topic is held
}

// Status is what the explorer knows at all.
func (p topicsPage) Status() explore.Status {
	if p.Topic != nil {
		return p.Topic.Status
	}
	return p.Level.Status
}

// crumb is a level on the way to what is shown.
type crumb struct{ Name, Link string }

func (c *Console) loadTopics(r *http.Request) (content, error) {
	q := r.URL.Query()
	p := topicsPage{At: q.Get("at"), Find: strings.TrimSpace(q.Get("find")), Paused: q.Get("paused") != ""}
	if c.o.Explore == nil {
		p.Away = true
		return content{"Topics", p}, nil
	}
	if name := q.Get("topic"); name != "" {
		t, held := c.o.Explore.Topic(r.Context(), name)
		p.Topic, p.Held = &t, held
		p.Crumbs = crumbsOf(t.Root, t.Topic)
		return content{"Topic " + strings.TrimPrefix(t.Topic, t.Root), p}, r.Context().Err()
	}
	l, err := c.o.Explore.Levels(r.Context(), p.At, p.Find, q.Get("after"), 0)
	p.Level, p.At = &l, l.Prefix
	p.Crumbs = crumbsOf(l.Root, l.Root+l.Prefix)
	return content{"Topics", p}, err
}

// crumbsOf lists the levels above a topic, the root of the tree first.
func crumbsOf(root, topic string) []crumb {
	out := []crumb{{root, "/topics"}}
	rest, ok := strings.CutPrefix(topic, root)
	for i := 0; ok && i < len(rest); i++ {
		if rest[i] == '/' {
			name := rest[:i+1]
			out = append(out, crumb{name[strings.LastIndexByte(rest[:i], '/')+1:], link("/topics", "at", name)})
		}
	}
	return out
}

// rateText writes messages a second with two figures.
func rateText(r float64) string {
	if r < 0.001 {
		return "0"
	}
	digits := 0
	for x := r; x < 10 && digits < 3; x *= 10 {
		digits++
	}
	return strconv.FormatFloat(r, 'f', digits, 64)
}

// clip shortens a text to some bytes, at the end of a character, and says so.
func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	for most > 0 && !utf8.RuneStart(s[most]) {
		most--
	}
	return s[:most] + "…"
}
