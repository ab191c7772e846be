package live_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/fleet/console/live"
)

// browser takes a stream, and is slow while it is held.
type browser struct {
	header http.Header
	mu     sync.Mutex
	text   strings.Builder
	held   chan struct{}
}

func (b *browser) Header() http.Header { return b.header }
func (b *browser) WriteHeader(int)     {}
func (b *browser) Flush()              {}

func (b *browser) Write(p []byte) (int, error) {
	if b.held != nil {
		<-b.held
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

// events are those that came since the last call, but for the state.
func (b *browser) events() (list []string, states int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for e := range strings.SplitSeq(b.text.String(), "\n\n") {
		name, data, _ := strings.Cut(strings.TrimPrefix(e, "event: "), "\ndata: ")
		switch name {
		case "":
		case "state":
			states++
		default:
			list = append(list, name+" "+data)
		}
	}
	b.text.Reset()
	return list, states
}

// world is what a hub renders.
type world struct {
	mu       sync.Mutex
	fragment map[string]string
	err      error
	rendered map[string]int
}

func (w *world) render(_ context.Context, page string) (live.Fragments, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rendered[page]++
	out := live.Fragments{}
	for id, html := range w.fragment {
		out[id] = []byte(html)
	}
	return out, w.err
}

func (w *world) set(id, html string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fragment[id] = html
}

// inBubble runs a hub in virtual time.
func inBubble(t *testing.T, o live.Options, story func(h *live.Hub, w *world, open func(page string) (*browser, func()))) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{fragment: map[string]string{"a": "1", "b": "2"}, rendered: map[string]int{}}
		o.Render, o.State = w.render, func() any { return map[string]int{"now": 7} }
		h := live.New(o)
		ctx, stop := context.WithCancel(t.Context())
		var group sync.WaitGroup
		group.Go(func() { h.Run(ctx) })
		synctest.Wait()
		story(h, w, func(page string) (*browser, func()) {
			b := &browser{header: http.Header{}}
			leaving, leave := context.WithCancel(ctx)
			r, err := http.NewRequestWithContext(leaving, http.MethodGet, "/live", nil)
			if err != nil {
				t.Fatal(err)
			}
			group.Go(func() { h.ServePage(b, r, page) })
			synctest.Wait()
			return b, leave
		})
		stop()
		group.Wait()
	})
}

func want(t *testing.T, what string, b *browser, events ...string) {
	t.Helper()
	got, _ := b.events()
	if diff := cmp.Diff(events, got); diff != "" {
		t.Errorf("%s: %s", what, diff)
	}
}

func TestWhatManyLookAtIsRenderedOnceAndOnlyWhatChangedIsSent(t *testing.T) {
	inBubble(t, live.Options{}, func(h *live.Hub, w *world, open func(string) (*browser, func())) {
		first, _ := open("/x")
		second, leave := open("/x")
		for _, b := range []*browser{first, second} {
			want(t, "at first", b, `patch {"html":"1","id":"a"}`, `patch {"html":"2","id":"b"}`)
		}
		time.Sleep(2 * time.Second)
		w.set("b", "3")
		h.Poke()
		synctest.Wait()
		for _, b := range []*browser{first, second} {
			want(t, "after a change", b, `patch {"html":"3","id":"b"}`)
		}
		if w.rendered["/x"] != 2 {
			t.Errorf("rendered %d times, want 2", w.rendered["/x"])
		}
		leave()
		synctest.Wait()
		if n := h.Viewers(); n != 1 {
			t.Errorf("%d viewers", n)
		}
	})
}

func TestAPageIsRenderedOnceASecondAtMost(t *testing.T) {
	inBubble(t, live.Options{}, func(h *live.Hub, w *world, open func(string) (*browser, func())) {
		_, leave := open("/x")
		for range 200 {
			time.Sleep(50 * time.Millisecond)
			h.Poke()
		}
		synctest.Wait()
		if n := w.rendered["/x"]; n < 9 || n > 11 {
			t.Errorf("rendered %d times in ten seconds", n)
		}
		leave()
		synctest.Wait()
		before := w.rendered["/x"]
		for range 100 {
			time.Sleep(50 * time.Millisecond)
			h.Poke()
		}
		synctest.Wait()
		if w.rendered["/x"] != before {
			t.Error("a page that nobody looks at is rendered")
		}
	})
}

func TestTheStateComesEverySecondWhateverHappens(t *testing.T) {
	inBubble(t, live.Options{}, func(_ *live.Hub, _ *world, open func(string) (*browser, func())) {
		b, _ := open("/x")
		b.events()
		time.Sleep(10*time.Second + 10*time.Millisecond)
		if list, states := b.events(); len(list) != 0 || states != 10 {
			t.Errorf("%v and %d states in ten seconds", list, states)
		}
	})
}

func TestASlowBrowserGetsTheNewestOnly(t *testing.T) {
	inBubble(t, live.Options{}, func(h *live.Hub, w *world, open func(string) (*browser, func())) {
		b, _ := open("/x")
		b.events()
		b.held = make(chan struct{})
		for i := range 30 {
			w.set("a", fmt.Sprint("v", i))
			h.Poke()
			time.Sleep(1100 * time.Millisecond)
		}
		close(b.held)
		time.Sleep(2 * time.Second)
		list, _ := b.events()
		if len(list) == 0 || len(list) > 3 || list[len(list)-1] != `patch {"html":"v29","id":"a"}` {
			t.Errorf("%v", list)
		}
	})
}

func TestTroubleIsToldAndForgotten(t *testing.T) {
	inBubble(t, live.Options{}, func(h *live.Hub, w *world, open func(string) (*browser, func())) {
		b, _ := open("/x")
		b.events()
		fail := func(err error) {
			w.mu.Lock()
			w.err = err
			w.mu.Unlock()
			time.Sleep(1100 * time.Millisecond)
			h.Poke()
			synctest.Wait()
		}
		fail(errors.New("the disk is full"))
		want(t, "trouble", b, `page {"trouble":"the disk is full"}`)
		fail(nil)
		want(t, "over", b, `page {"trouble":""}`)
		fail(fmt.Errorf("no such fault: %w", live.ErrOver))
		want(t, "gone", b, `page {"trouble":"no such fault: not to be watched any more"}`, `over {}`)
		if n := h.Viewers(); n != 0 {
			t.Errorf("%d viewers of a page that is over", n)
		}
	})
}

func TestViewersAndPagesAreBounded(t *testing.T) {
	inBubble(t, live.Options{MaxViewers: 3, MaxPages: 2}, func(_ *live.Hub, _ *world, open func(string) (*browser, func())) {
		open("/1")
		open("/2")
		third, _ := open("/3")
		if third.header.Get("Retry-After") == "" {
			t.Error("a third page is watched")
		}
		open("/2")
		fourth, _ := open("/2")
		if fourth.header.Get("Retry-After") == "" {
			t.Error("a fourth viewer watches")
		}
	})
}
