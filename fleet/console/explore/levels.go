package explore

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/farebeat/farebeat/topics"
)

// Level is one page of a level of the tree, or of the topics that were looked for.
type Level struct {
	Status
	Prefix string `json:"prefix"` // of the level after the root, with a slash at its end; empty: the root itself
	Find   string `json:"find,omitempty"`
	Rows   []Row  `json:"rows"`
	All    int    `json:"all"`             // rows over all pages
	After  string `json:"after,omitempty"` // asks for the next page; empty: there is none
}

// Row is one child of a level, or one topic that was found.
type Row struct {
	Name     string    `json:"name"`             // of the level; of what was found the topic after the level's prefix
	Prefix   string    `json:"prefix,omitempty"` // of the level below; empty: there is none
	Topic    string    `json:"topic,omitempty"`  // whole; empty: nothing came on this very topic
	Topics   int       `json:"topics"`           // at it and below
	Rate     float64   `json:"rate"`             // messages a second, weighted over about 10 s
	Newest   time.Time `json:"newest,omitzero"`  // arrival of the newest message; zero: all stood before we listened
	Retained int       `json:"retained"`         // topics at it and below whose message stands at the broker
	Invalid  int       `json:"invalid"`          // topics at it and below whose newest message is not what its topic wants
	Unjudged int       `json:"unjudged"`         // topics at it and below whose newest message is judged when somebody looks at it: the longer ones
}

// maxRows bounds a page.
const maxRows = 1000

// Levels shows the children of a level by name, at most limit of them (0: 100), from the one after a name on. With find it shows the topics
// below the level that hold it or, where it has a + or #, that it matches as a filter; filters may leave out the root. It counts
// as a look. An error wraps ErrUsage.
func (e *Explorer) Levels(ctx context.Context, prefix, find, after string, limit int) (Level, error) {
	if err := ctx.Err(); err != nil {
		return Level{}, err
	}
	if limit < 0 || limit > maxRows {
		return Level{}, fmt.Errorf("%w: limit %d: want 1 to %d, or 0 for 100", ErrUsage, limit, maxRows)
	}
	if limit == 0 {
		limit = 100
	}
	if strings.ContainsAny(prefix, "+#") {
		return Level{}, fmt.Errorf("%w: level %q: + and # are for filters; find them", ErrUsage, prefix)
	}
	prefix = strings.TrimPrefix(prefix, e.o.Tree.Root())
	if prefix != "" && !strings.HasSuffix(prefix, "/") {
		prefix += "/"
	}
	var filter []string
	if strings.ContainsAny(find, "+#") {
		f := strings.TrimPrefix(find, e.o.Tree.Root())
		if err := topics.CheckFilter(f); err != nil {
			return Level{}, fmt.Errorf("%w: find: %w", ErrUsage, err)
		}
		filter = strings.Split(f, "/")
	}
	l := Level{Prefix: prefix, Find: find, Rows: []Row{}}
	if find == "" {
		e.children(&l, after, limit)
	} else {
		e.search(&l, filter, after, limit)
	}
	return l, nil
}

// children fills a page of a level.
func (e *Explorer) children(l *Level, after string, limit int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.look()
	l.Status = e.status()
	at := e.heard.at(l.Prefix)
	if at == nil {
		return
	}
	now := e.o.Now()
	scale := e.warmUp(now)
	list := at.byName()
	first, there := slices.BinarySearchFunc(list, after, func(n *node, name string) int { return strings.Compare(n.name, name) })
	if there && after != "" {
		first++
	}
	l.All = len(list)
	for _, n := range list[first:min(first+limit, len(list))] {
		l.Rows = append(l.Rows, n.row(l.Prefix, now, scale))
	}
	if n := first + len(l.Rows); n < len(list) {
		l.After = list[n-1].name
	}
}

// search fills a page of the topics that were found. They are put in order without the lock, which is what takes long.
func (e *Explorer) search(l *Level, filter []string, after string, limit int) {
	e.mu.Lock()
	e.look()
	l.Status = e.status()
	found := e.heard.find(l.Prefix, filter, l.Find)
	e.mu.Unlock()
	slices.SortFunc(found, func(a, b *topic) int { return strings.Compare(a.name, b.name) })
	skip := len(l.Root) + len(l.Prefix)
	first := 0
	if after != "" {
		first, _ = slices.BinarySearchFunc(found, after, func(t *topic, name string) int {
			if t.name[skip:] <= name {
				return -1
			}
			return 1
		})
	}
	l.All = len(found)
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.o.Now()
	scale := e.warmUp(now)
	for _, t := range found[first:min(first+limit, len(found))] {
		l.Rows = append(l.Rows, t.row(skip, now, scale))
	}
	if n := first + len(l.Rows); n < len(found) {
		l.After = found[n-1].name[skip:]
	}
}

// warmUp makes rates right while there is less to weigh than they are weighted over.
func (e *Explorer) warmUp(now time.Time) float64 {
	return 1 / (1 - math.Exp(-float64(max(now.Sub(e.since), time.Second))/float64(rateOver)))
}

func (n *node) row(prefix string, now time.Time, scale float64) Row {
	r := Row{Name: n.name, Topics: n.topics, Rate: n.rate.now(now) * scale, Newest: n.newest, Retained: n.retained, Invalid: n.invalid, Unjudged: n.unjudged}
	if len(n.children) > 0 {
		r.Prefix = prefix + n.name + "/"
	}
	if n.topic != nil {
		r.Topic = n.topic.name
	}
	return r
}

func (t *topic) row(skip int, now time.Time, scale float64) Row {
	r := Row{Name: t.name[skip:], Topic: t.name, Topics: 1, Rate: t.rate.now(now) * scale, Invalid: t.invalid, Unjudged: t.unjudged}
	if !t.last.stood {
		r.Newest = t.last.at
	}
	if t.retained {
		r.Retained = 1
	}
	return r
}

// find lists the topics at a level and below that a filter matches or, without one, that hold a text.
func (h *heard) find(prefix string, filter []string, text string) []*topic {
	var found []*topic
	if filter != nil {
		h.root.matching(filter, func(t *topic) {
			if strings.HasPrefix(t.name, h.prefix+prefix) {
				found = append(found, t)
			}
		})
		return found
	}
	text = strings.TrimPrefix(text, h.prefix)
	below := h.prefix + prefix
	for name, t := range h.topics { // faster than down the tree
		if strings.HasPrefix(name, below) && strings.Contains(name[len(h.prefix):], text) {
			found = append(found, t)
		}
	}
	return found
}

// matching calls yield with what a filter's levels match below a level, by the rules of MQTT 3.1.1, section 4.7.
func (n *node) matching(filter []string, yield func(*topic)) {
	switch {
	case len(filter) == 0:
		if n.topic != nil {
			yield(n.topic)
		}
	case filter[0] == "#":
		n.each(yield)
	case filter[0] == "+":
		for _, c := range n.children {
			c.matching(filter[1:], yield)
		}
	default:
		if c := n.children[filter[0]]; c != nil {
			c.matching(filter[1:], yield)
		}
	}
}

func (n *node) each(yield func(*topic)) {
	if n.topic != nil {
		yield(n.topic)
	}
	for _, c := range n.children {
		c.each(yield)
	}
}
