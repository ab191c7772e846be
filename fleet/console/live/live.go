// Package live keeps open pages up to date by server-sent events. What many people look at is rendered once for all of them: a hub asks for
// the fragments of a page after each round, at most once a second, and sends those that changed. A state goes with them at least once a
// second, so that a page notices within seconds that nothing comes any more.
package live

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"maps"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Fragments are parts of a page by their name, as HTML.
type Fragments map[string][]byte

// Options say what a Hub sends.
type Options struct {
	// Render makes the fragments of a page. An error that wraps ErrOver ends the watching of that page; any other is sent as the
	// page's own trouble, and tried again.
	Render func(ctx context.Context, page string) (Fragments, error)
	// State is what goes with them, as JSON. It is asked once a second for all.
	State func() any
	// Every is the least time between two renderings of a page; 0: 1 s.
	Every time.Duration
	// MaxViewers bounds the open streams; 0: 1,000. MaxPages bounds the different pages; 0: 500.
	MaxViewers, MaxPages int
}

// ErrOver says that a page is not to be watched any more: it is gone, or whoever looked may not.
var ErrOver = errors.New("not to be watched any more")

// Hub serves streams. Run it; it is safe for concurrent use.
type Hub struct {
	o     Options
	seed  maphash.Seed
	state atomic.Pointer[[]byte] // newest, as JSON

	mu      sync.Mutex
	ctx     context.Context // of Run; nil before
	pages   map[string]*page
	viewers int
	wg      sync.WaitGroup
}

// New makes a hub.
func New(o Options) *Hub {
	if o.Every <= 0 {
		o.Every = time.Second
	}
	if o.MaxViewers <= 0 {
		o.MaxViewers = 1000
	}
	if o.MaxPages <= 0 {
		o.MaxPages = 500
	}
	return &Hub{o: o, seed: maphash.MakeSeed(), pages: map[string]*page{}}
}

// page is what some viewers look at.
type page struct {
	poke    chan struct{}
	stop    context.CancelFunc
	viewers map[*viewer]bool
	last    Fragments
	sums    map[string]uint64
	trouble string
}

// viewer is one open stream. Only the newest of each fragment waits for a slow one.
type viewer struct {
	wake    chan struct{}
	waiting Fragments
	trouble string
	told    string // trouble that was sent last
	over    bool
}

// Viewers is how many streams are open.
func (h *Hub) Viewers() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.viewers
}

// stateEvery is how often the state is sent.
const stateEvery = time.Second

// Run asks for the state once a second until ctx ends; then all streams end.
func (h *Hub) Run(ctx context.Context) {
	h.mu.Lock()
	h.ctx = ctx
	h.mu.Unlock()
	ticker := time.NewTicker(stateEvery)
	defer ticker.Stop()
	defer h.wg.Wait()
	for {
		h.tell()
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// tell asks for the state and wakes everybody.
func (h *Hub) tell() {
	b, err := json.Marshal(h.o.State())
	if err != nil {
		b = []byte(`{"trouble":"the state cannot be told"}`)
	}
	h.state.Store(&b)
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.pages {
		for v := range p.viewers {
			v.poke()
		}
	}
}

func (v *viewer) poke() {
	select {
	case v.wake <- struct{}{}:
	default:
	}
}

// Poke says that there is something new.
func (h *Hub) Poke() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.pages {
		select {
		case p.poke <- struct{}{}:
		default:
		}
	}
}

// join makes a viewer of a page, and lets the page be rendered.
func (h *Hub) join(name string) (*viewer, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ctx == nil || h.ctx.Err() != nil {
		return nil, errors.New("live updates are not running")
	}
	p := h.pages[name]
	if h.viewers >= h.o.MaxViewers || p == nil && len(h.pages) >= h.o.MaxPages {
		return nil, fmt.Errorf("%d pages are watched live already; this one stays as it is until it is loaded again", h.viewers)
	}
	v := &viewer{wake: make(chan struct{}, 1), waiting: Fragments{}}
	if p == nil {
		ctx, stop := context.WithCancel(h.ctx)
		p = &page{poke: make(chan struct{}, 1), stop: stop, viewers: map[*viewer]bool{}, sums: map[string]uint64{}}
		h.pages[name] = p
		h.wg.Go(func() { h.render(ctx, name, p) })
	} else {
		maps.Copy(v.waiting, p.last)
		v.trouble = p.trouble
	}
	p.viewers[v] = true
	h.viewers++
	v.poke()
	return v, nil
}

func (h *Hub) leave(name string, v *viewer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.viewers--
	p := h.pages[name]
	if p == nil || !p.viewers[v] {
		return
	}
	if delete(p.viewers, v); len(p.viewers) == 0 {
		p.stop()
		delete(h.pages, name)
	}
}

// render renders one page for as long as anybody looks.
func (h *Hub) render(ctx context.Context, name string, p *page) {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		fragments, err := h.o.Render(ctx, name)
		if ctx.Err() != nil {
			return
		}
		h.spread(name, p, fragments, err)
		pause.Reset(h.o.Every)
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
		}
		select {
		case <-ctx.Done():
			return
		case <-p.poke:
		}
	}
}

// spread gives what changed to all who look.
func (h *Hub) spread(name string, p *page, fragments Fragments, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	over := errors.Is(err, ErrOver)
	p.trouble = ""
	if err != nil {
		p.trouble = err.Error()
	} else {
		for id, html := range fragments {
			sum := maphash.Bytes(h.seed, html)
			if old, ok := p.sums[id]; ok && old == sum {
				delete(fragments, id)
				continue
			}
			p.sums[id] = sum
		}
		if p.last == nil {
			p.last = Fragments{}
		}
		maps.Copy(p.last, fragments)
	}
	for v := range p.viewers {
		if err == nil {
			maps.Copy(v.waiting, fragments)
		}
		v.trouble, v.over = p.trouble, over
		v.poke()
	}
	if over {
		p.stop()
		delete(h.pages, name)
	}
}

// writeTimeout is how long a viewer may take to read what it is sent.
const writeTimeout = 10 * time.Second

// ServePage streams a page's fragments until the request ends. Each is an event "patch" with its name and HTML as JSON; "state" comes at
// least once a second; "over" ends it for good.
func (h *Hub) ServePage(w http.ResponseWriter, r *http.Request, name string) {
	v, err := h.join(name)
	if err != nil {
		w.Header().Set("Retry-After", "10")
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	defer h.leave(name, v)
	header := w.Header()
	header.Set("Content-Type", "text/event-stream")
	header.Set("Cache-Control", "no-store")
	header.Set("X-Accel-Buffering", "no") // a proxy that gathers would make every page old
	out := http.NewResponseController(w)
	// A stream outlives any bound of the server on whole answers.
	_ = out.SetReadDeadline(time.Time{})
	h.mu.Lock()
	ended := h.ctx.Done()
	h.mu.Unlock()
	for {
		select {
		case <-r.Context().Done():
			return
		case <-ended:
			return
		case <-v.wake:
		}
		batch, over := h.take(v)
		if err := out.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return
		}
		if err := h.write(w, batch); err != nil {
			return
		}
		if err := out.Flush(); err != nil {
			return
		}
		if over {
			return
		}
	}
}

// parcel is what is sent at once.
type parcel struct {
	fragments Fragments
	trouble   *string // nil: as it was
	over      bool
}

func (h *Hub) take(v *viewer) (parcel, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := parcel{fragments: v.waiting, over: v.over}
	v.waiting = Fragments{}
	if v.trouble != v.told {
		text := v.trouble
		p.trouble, v.told = &text, text
	}
	return p, v.over
}

func (h *Hub) write(w io.Writer, p parcel) error {
	for _, id := range slices.Sorted(maps.Keys(p.fragments)) {
		if err := event(w, "patch", map[string]string{"id": id, "html": string(p.fragments[id])}); err != nil {
			return err
		}
	}
	if p.trouble != nil {
		if err := event(w, "page", map[string]string{"trouble": *p.trouble}); err != nil {
			return err
		}
	}
	if p.over {
		return event(w, "over", map[string]string{})
	}
	_, err := fmt.Fprintf(w, "event: state\ndata: %s\n\n", *h.state.Load())
	return err
}

func event(w io.Writer, name string, data any) error {
	b, err := json.Marshal(data)
	if err == nil {
		_, err = io.WriteString(w, "event: "+name+"\ndata: "+string(b)+"\n\n")
	}
	return err
}
