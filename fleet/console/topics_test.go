package console

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/farebeat/farebeat/broker"
	"github.com/farebeat/farebeat/fleet"
	"github.com/farebeat/farebeat/fleet/console/access"
	"github.com/farebeat/farebeat/fleet/console/act"
	"github.com/farebeat/farebeat/fleet/console/explore"
	"github.com/farebeat/farebeat/fleet/console/view"
	"github.com/farebeat/farebeat/topics"
	"github.com/farebeat/farebeat/topics/session"
)

// topicsRig is a console with a topic explorer at a real broker.
type topicsRig struct {
	t       *testing.T
	console *Console
	fleet   *session.Session
	end     func()
}

func newTopicsRig(t *testing.T) *topicsRig {
	t.Helper()
	tree, err := topics.New("tampa")
	if err != nil {
		t.Fatal(err)
	}
	b, err := broker.New(broker.Options{Tree: tree})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	as := func(role topics.Role) func(context.Context) (net.Conn, error) {
		return func(ctx context.Context) (net.Conn, error) {
			return b.Dial(ctx, topics.Identity{Role: role, Name: string(role)})
		}
	}
	e, err := explore.New(explore.Options{Tree: tree, Session: session.Options{Dial: as(topics.RoleViewer)}})
	if err != nil {
		t.Fatal(err)
	}
	r := &topicsRig{t: t}
	if r.fleet, err = session.New(session.Options{CleanSession: true, Dial: as(topics.RoleFleet)}); err != nil {
		t.Fatal(err)
	}
	r.console = newTopicsConsole(t, e)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, run := range []func(context.Context) error{e.Run, r.fleet.Run} {
		wg.Go(func() {
			if err := run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	r.end = func() {
		cancel()
		wg.Wait()
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute) // virtual: lets paho's timers run out
	}
	time.Sleep(time.Second) // virtual
	return r
}

func newTopicsConsole(t *testing.T, e *explore.Explorer) *Console {
	t.Helper()
	c, err := New(Options{
		Operator: "tampa", Explore: e,
		View: view.New(view.Options{Fleet: func() *fleet.Fleet { return nil }, Zone: time.UTC, Now: time.Now, Wall: time.Now, Tick: time.Second}),
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// page loads a page as a viewer.
func page(t *testing.T, c *Console, address string) (int, string) {
	t.Helper()
	who := act.Actor{Identity: access.Identity{Name: "v", Role: access.Viewer}}
	r := httptest.NewRequestWithContext(withActor(t.Context(), who), http.MethodGet, address, nil)
	w := httptest.NewRecorder()
	c.pages.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

func (r *topicsRig) put(topic, payload string) {
	r.t.Helper()
	if err := r.fleet.Publish(r.t.Context(), session.Message{Topic: "farebeat/v1/tampa/" + topic, QoS: 1, Retain: true, Payload: []byte(payload)}); err != nil {
		r.t.Fatal(err)
	}
	synctest.Wait()
}

// want loads a page and looks for texts that must be there and, after a minus, must not.
func (r *topicsRig) want(address string, texts ...string) string {
	r.t.Helper()
	code, body := page(r.t, r.console, address)
	if code != http.StatusOK {
		r.t.Fatalf("%s: %d\n%s", address, code, body)
	}
	for _, text := range texts {
		text, not := strings.CutPrefix(text, "-")
		if strings.Contains(body, text) == not {
			r.t.Errorf("%s: contains %q: %t\n%s", address, text, !not, body)
		}
	}
	return body
}

// TestTheTopicsScreen walks from a cold start down the tree to a message, and pauses it.
func TestTheTopicsScreen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTopicsRig(t)
		defer r.end()
		r.put("route/36/online", `{"route":"36"}`)
		r.want("/topics", "listening begins now")
		time.Sleep(time.Second)
		r.want("/topics", "Listening since", `href="/topics?at=route%2F"`, `data-live="/live?page=%2Ftopics"`)
		r.want("/topics?at=route/36/", `href="/topics?topic=farebeat%2Fv1%2Ftampa%2Froute%2F36%2Fonline"`, "stood before", `<a href="/topics?at=route%2F">route/</a>`,
			`data-label="Not valid" class="num"><span class="mark below"><i aria-hidden="true">✕</i> not valid</span>`)
		r.want("/topics?find=route/%2B/online", ">route/36/online</a>")
		r.want("/topics?find=nothing", "No topic that is held is like that")
		one := "/topics?topic=" + url.QueryEscape("farebeat/v1/tampa/route/36/online")
		r.want(one, "not valid", "route-online: field &#34;as_of&#34;: is required", "<pre tabindex=\"0\" aria-label=\"Payload as indented JSON\">\n{\n  &#34;route&#34;", "retained",
			`data-live="`, `data-copy="payload-raw" hidden`, "paused=1")
		r.want(one+"&paused=1", "-data-live=", "Paused.", "&#34;route&#34;")
		r.want("/topics?topic=farebeat/v1/tampa/fleet", "No message came on it", "Whether the fleet service is there")
		if code, body := page(t, r.console, "/topics?find=a/%23/b"); code != http.StatusBadRequest || !strings.Contains(body, "# last") {
			t.Errorf("a filter that is none: %d %s", code, body)
		}
	})
}

// TestMarkupInTopicsIsInert: what came in identifiers and payloads is text on the page, and in what goes to open pages.
func TestMarkupInTopicsIsInert(t *testing.T) {
	const bad = `</pre><script>alert(1)</script><img src=x onerror=alert(1)>"'`
	synctest.Test(t, func(t *testing.T) {
		r := newTopicsRig(t)
		defer r.end()
		r.want("/topics")
		time.Sleep(time.Second)
		topic, err := topics.New("tampa")
		if err != nil {
			t.Fatal(err)
		}
		name, err := topic.Build(topics.Address{Kind: topics.RouteOnline, Route: `<script>x</script>"'`})
		if err != nil {
			t.Fatal(err)
		}
		after := strings.TrimPrefix(name, topic.Root())
		one := "/topics?topic=" + url.QueryEscape(name)
		r.put(after, bad)
		r.want(one)
		r.put(after, `{"route":"`+strings.ReplaceAll(bad, `"`, `\"`)+`"}`)
		for _, address := range []string{one, one + "&paused=1", "/topics?at=route/", "/topics?find=route", "/topics?topic=" + url.QueryEscape(bad), "/topics?at=" + url.QueryEscape(bad), "/topics?find=" + url.QueryEscape(bad)} {
			r.want(address, "-<script>", "-<img", "-onerror=alert(1)>")
			fragments, err := r.console.fragments(t.Context(), "viewer "+address)
			if err != nil {
				t.Fatal(err)
			}
			for id, html := range fragments {
				if strings.Contains(string(html), "<script") || strings.Contains(string(html), "<img") {
					t.Errorf("%s of %s: %s", id, address, html)
				}
			}
		}
		r.want(one, "&lt;script&gt;alert(1)", "Before it, since this topic is looked at")
	})
}

func TestWithoutAnExplorerThePageSaysSo(t *testing.T) {
	if code, body := page(t, newTopicsConsole(t, nil), "/topics"); code != http.StatusOK || !strings.Contains(body, "The topic explorer is not there") {
		t.Errorf("%d %s", code, body)
	}
}

func TestRateText(t *testing.T) {
	for r, want := range map[float64]string{0: "0", 0.0004: "0", 0.0666: "0.067", 0.5: "0.50", 2.04: "2.0", 13.6: "14", 1234.4: "1234"} {
		if got := rateText(r); got != want {
			t.Errorf("%f: %s, want %s", r, got, want)
		}
	}
}
