//go:build browser

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/spf13/cobra"
)

// What the tests in a browser need from outside. scripts/test brings both.
const (
	chromiumVariable = "FAREBEAT_CHROMIUM" // the program
	axeVariable      = "FAREBEAT_AXE"      // axe.min.js of axe-core
	shotsVariable    = "FAREBEAT_SHOTS"    // folder for screenshots; a temporary one without it
)

// browserTimeout bounds what a page is waited for. It is far more than it takes.
const browserTimeout = 2 * time.Minute

// demoInBrowser is the demo, and a browser beside it.
type demoInBrowser struct {
	t    *testing.T
	demo *demo
	base string
	ctx  context.Context // of the browser's first tab

	mu       sync.Mutex
	foreign  []string // requests to another origin
	problems []string // what pages logged as an error
}

// startDemo runs the demo in this process until the test ends.
func startDemo(t *testing.T, change func(*demoOptions)) *demo {
	t.Helper()
	o := demoOptions{speed: 60, start: "06:50", address: "127.0.0.1:0", console: "127.0.0.1:0", seed: 1}
	if change != nil {
		change(&o)
	}
	ctx, stop := context.WithCancel(context.Background())
	cmd := &cobra.Command{}
	cmd.SetContext(ctx)
	cmd.SetOut(io.Discard)
	cmd.SetErr(io.Discard)
	d, err := newDemo(cmd, o, t.TempDir())
	if err != nil {
		stop()
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- d.run(cmd) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil && !strings.Contains(err.Error(), "broker") {
			t.Errorf("the demo: %v", err)
		}
		if err := d.store.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// inBrowser starts the demo and a browser.
func inBrowser(t *testing.T) *demoInBrowser {
	t.Helper()
	program := os.Getenv(chromiumVariable)
	if program == "" {
		t.Fatalf("no browser: set %s to Chromium's program, as scripts/test does", chromiumVariable)
	}
	d := startDemo(t, nil)
	b := &demoInBrowser{t: t, demo: d, base: d.server.console.url()}
	options := append(append([]chromedp.ExecAllocatorOption{}, chromedp.DefaultExecAllocatorOptions[:]...),
		chromedp.ExecPath(program), chromedp.UserDataDir(t.TempDir()), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.WSURLReadTimeout(browserTimeout),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true))
	allocator, stop := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(stop)
	ctx, cancel := chromedp.NewContext(allocator)
	t.Cleanup(cancel)
	b.ctx = ctx
	chromedp.ListenTarget(ctx, b.note)
	if err := chromedp.Run(ctx, network.Enable(), runtime.Enable()); err != nil { // the browser lives as long as the context of its first run
		t.Fatal(err)
	}
	return b
}

// note keeps what a page asks of others, and what goes wrong in it.
func (b *demoInBrowser) note(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		u, err := url.Parse(e.Request.URL)
		if err != nil || u.Scheme != "data" && u.Scheme+"://"+u.Host != b.base {
			b.foreign = append(b.foreign, e.Request.URL)
		}
	case *runtime.EventExceptionThrown:
		b.problems = append(b.problems, e.ExceptionDetails.Error())
	}
}

func (b *demoInBrowser) run(actions ...chromedp.Action) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, browserTimeout)
	defer cancel()
	if err := chromedp.Run(ctx, actions...); err != nil {
		var html string
		_ = chromedp.Run(b.ctx, chromedp.Text("body", &html, chromedp.ByQuery))
		b.t.Fatalf("%v; the page says:\n%.3000s", err, html)
	}
}

// open loads a page of the console.
func (b *demoInBrowser) open(path string) {
	b.t.Helper()
	b.run(chromedp.Navigate(b.base+path), chromedp.WaitVisible("main", chromedp.ByQuery))
}

// until waits until an expression is true in the page, which may be another one meanwhile.
func (b *demoInBrowser) until(what, expression string) {
	b.t.Helper()
	b.t.Logf("waiting: %s", what)
	ctx, cancel := context.WithTimeout(b.ctx, browserTimeout)
	defer cancel()
	poll := time.NewTicker(50 * time.Millisecond)
	defer poll.Stop()
	for {
		var so bool
		err := chromedp.Run(ctx, chromedp.Evaluate("Boolean("+expression+")", &so))
		if err == nil && so {
			return
		}
		select {
		case <-ctx.Done():
			var text string
			_ = chromedp.Run(b.ctx, chromedp.Text("body", &text, chromedp.ByQuery)) // for whoever reads the failure
			b.t.Fatalf("%s: %v; the page says:\n%.3000s", what, err, text)
		case <-poll.C:
		}
	}
}

func (b *demoInBrowser) value(expression string) (out string) {
	b.t.Helper()
	b.run(chromedp.Evaluate("String("+expression+")", &out))
	return out
}

// press types keys.
func (b *demoInBrowser) press(keys string) {
	b.t.Helper()
	b.run(chromedp.KeyEvent(keys))
}

// TestInABrowserAFaultIsSeenLive is the issue's own story: a fault appears without reload, progress moves, the fault closes, the ledger is complete.
func TestInABrowserAFaultIsSeenLive(t *testing.T) {
	b := inBrowser(t)
	b.open("/")
	b.run(chromedp.Evaluate("window.sameDocument = true", nil))
	b.until("a vehicle with a dead machine appears", `document.querySelector('main a[href^="/faults/M-"]') !== null`)
	if got := b.value("window.sameDocument"); got != "true" {
		t.Fatal("the page was loaded again")
	}
	b.until("of a machine with records on their way home", `[...document.querySelectorAll('main tr')].some((r) => r.querySelector('a[href^="/faults/M-"]') && r.textContent.includes(' home'))`)
	b.run(chromedp.Evaluate(`window.fault = [...document.querySelectorAll('main tr')].find((r) => r.querySelector('a[href^="/faults/M-"]') && r.textContent.includes(' home')).querySelector('a[href^="/faults/M-"]').getAttribute("href")`, nil))
	fault := b.value("window.fault")
	b.open(fault)
	b.run(chromedp.Evaluate("window.sameDocument = true", nil))
	first := b.value(`document.querySelector('[data-fragment="fault.recovery"]').textContent`)
	b.until("its recovery moves", fmt.Sprintf(`document.querySelector('[data-fragment="fault.recovery"]').textContent !== %s`, quoted(first)))
	b.until("it closes", `document.querySelector('[data-fragment="fault.head"] .cond').textContent === "closed"`)
	if got := b.value("window.sameDocument"); got != "true" {
		t.Fatal("the page was loaded again")
	}
	b.until("the ledger has all", `document.querySelector('[data-fragment="fault.recovery"]').textContent.includes("The ledger has every record that the machine declared")`)
	machine := b.value(`document.querySelector('.facts a[href^="/machines/"]').getAttribute("href")`)
	b.open(machine)
	b.until("the machine's day is complete in the ledger", `document.querySelector("main").textContent.includes("complete")`)
	b.nothingForeign()
}

// TestInABrowserFromTheFaultToItsEndByKeysAlone finds a fault, reads why, acknowledges, collects and sees it close without a pointer.
func TestInABrowserFromTheFaultToItsEndByKeysAlone(t *testing.T) {
	b := inBrowser(t)
	b.open("/")
	b.until("a machine's fault", `document.querySelector('main a[href^="/faults/M-"]') !== null`)
	b.press("g")
	b.press("f")
	b.until("the page of faults", `location.pathname === "/faults" && document.readyState === "complete" && document.querySelector('main a[href^="/faults/M-"]') !== null`)
	for range 50 {
		b.press("j")
		if strings.HasPrefix(b.value(`document.activeElement.getAttribute("href")`), "/faults/M-") {
			break
		}
	}
	b.press(kb.Enter)
	b.until("the fault's page says why", `location.pathname.startsWith("/faults/M-") && document.querySelector(".facts") !== null`)
	b.tabTo("Acknowledge")
	b.press(kb.Enter)
	b.until("it is acknowledged", `document.querySelector('[data-fragment="fault.head"] .att').textContent.includes("acknowledged by demo")`)
	b.tabTo("Collect now")
	b.press(kb.Enter)
	b.until("the gateway was asked", `document.querySelector('[data-fragment="fault.recovery"]').textContent.includes("What gateways were asked")`)
	b.until("the gateway has done it", `/finished|failed/.test(document.querySelector('[data-fragment="fault.recovery"] table').textContent)`)
	b.until("it closes", `document.querySelector('[data-fragment="fault.head"] .cond').textContent === "closed"`)
	b.press("g")
	b.press("n")
	b.until("the start", `location.pathname === "/" && document.readyState === "complete"`) // its scripts listen for keys
	b.press("/")
	if got := b.value("document.activeElement.id"); got != "q" {
		t.Errorf("/ leads to %q, not to the search", got)
	}
	b.press(kb.Escape)
	b.press("?")
	b.until("the keys are explained", `document.getElementById("keys").open`)
	b.nothingForeign()
}

// tabTo moves the focus on by Tab until it is on a button that begins with a text.
func (b *demoInBrowser) tabTo(text string) {
	b.t.Helper()
	for range 80 {
		if strings.HasPrefix(b.value("document.activeElement.textContent.trim()"), text) && b.value("document.activeElement.tagName") == "BUTTON" {
			return
		}
		b.press(kb.Tab)
	}
	b.t.Fatalf("no Tab leads to the button %q", text)
}

// TestInABrowserNothingIsGreenWithoutTheBroker stops the broker below an open page.
func TestInABrowserNothingIsGreenWithoutTheBroker(t *testing.T) {
	b := inBrowser(t)
	b.open("/")
	b.until("the page is live", `document.getElementById("pulse-text").textContent.startsWith("live")`)
	if got := b.value(`document.body.classList.contains("lost")`); got != "false" {
		t.Fatal("it is grey while all is well")
	}
	begun := time.Now()
	if err := b.demo.server.broker.Close(); err != nil {
		t.Fatal(err)
	}
	b.until("the banner says so", `!document.getElementById("banner").hidden && document.getElementById("banner").textContent.includes("broker is away")`)
	t.Logf("the banner was there %s after the broker had stopped", time.Since(begun).Round(10*time.Millisecond))
	if got := b.value(`getComputedStyle(document.querySelector("main")).filter`); got != "grayscale(1)" {
		t.Errorf("the numbers are not grey: filter %s", got)
	}
	// A page that is loaded now says so too, before any script has run.
	b.open("/routes")
	if got := b.value(`document.body.classList.contains("lost") + " " + document.getElementById("banner").hidden`); got != "true false" {
		t.Errorf("a page that is loaded now: lost and hidden are %s", got)
	}
}

// nothingForeign wants that no page asked another origin for anything, and that no script failed.
func (b *demoInBrowser) nothingForeign() {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, u := range b.foreign {
		b.t.Errorf("a page asked for %s", u)
	}
	for _, p := range b.problems {
		b.t.Errorf("a script failed: %s", p)
	}
}

func quoted(s string) string {
	q, _ := json.Marshal(s) // a text
	return string(q)
}

// widths are those of a phone, a tablet and a desk.
func widths() []int64 { return []int64{360, 768, 1440} }

// TestInABrowserEveryScreenCanBeReadByEverybody takes a picture of every screen at three widths, light and dark, and has axe-core judge it.
func TestInABrowserEveryScreenCanBeReadByEverybody(t *testing.T) {
	axeFile := os.Getenv(axeVariable)
	if axeFile == "" {
		t.Fatalf("no axe-core: set %s to axe.min.js, as scripts/test does", axeVariable)
	}
	axe, err := os.ReadFile(axeFile)
	if err != nil {
		t.Fatal(err)
	}
	b := inBrowser(t)
	shots := os.Getenv(shotsVariable)
	if shots == "" {
		shots = t.TempDir()
	}
	if err := os.MkdirAll(shots, 0o755); err != nil {
		t.Fatal(err)
	}
	b.open("/")
	b.until("a machine's fault", `document.querySelector('main a[href^="/faults/M-"]') !== null`)
	fault := b.value(`document.querySelector('main a[href^="/faults/M-"]').getAttribute("href")`)
	machine := b.value(`document.querySelector('main a[href^="/machines/"]').getAttribute("href")`)
	b.open("/faults?show=all")
	faulty := `document.querySelector('main td[data-label="Where"] a[href^="/routes/"]:has(b)')` // its chart has marks
	b.until("a route's own fault", faulty+" !== null")
	route := b.value(faulty + `.getAttribute("href")`)
	pages := map[string]string{
		"now": "/", "routes": "/routes", "route": route, "faults": "/faults?show=all", "fault": fault, "machines": "/machines", "machine": machine,
		"search": "/search?q=1", "ledger": "/ledger", "ledger-machine": strings.Replace(machine, "/machines/", "/ledger/", 1), "topics": "/topics?at=vehicle/", "topic": "/topics?topic=fleet", "rules": "/rules",
		"rules-route": strings.Replace(route, "/routes/", "/rules/route/", 1), "rules-edit": "/rules/edit", "broker": "/broker", "audit": "/audit", "account": "/account", "signin": "/signin", "missing": "/no-such-page",
	}
	for name, path := range pages {
		for _, theme := range []string{"light", "dark"} {
			b.run(network.SetCookie("theme", theme).WithURL(b.base))
			for _, width := range widths() {
				b.run(emulation.SetDeviceMetricsOverride(width, 900, 1, width < 600))
				b.open(path)
				var picture []byte
				b.run(chromedp.FullScreenshot(&picture, 100))
				file := fmt.Sprintf("%s-%d-%s.png", name, width, theme)
				if err := os.WriteFile(filepath.Join(shots, file), picture, 0o644); err != nil {
					t.Fatal(err)
				}
				if wide := b.value("document.documentElement.scrollWidth > innerWidth + 1"); wide == "true" {
					t.Errorf("%s: the page is wider than the screen: %s", file, b.value(`[...document.querySelectorAll("main *, header *")].filter((e) => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest(".scroll, nav, pre")).slice(0, 5).map((e) => e.tagName + "." + e.className)`))
				}
				if width == 768 || width == 360 && theme == "light" {
					continue // it has nothing that the others have not
				}
				for _, finding := range b.axe(string(axe)) {
					t.Errorf("%s: axe-core: %s", file, finding)
				}
			}
		}
	}
	b.nothingForeign()
}

// axe lists what axe-core finds that is serious or critical.
func (b *demoInBrowser) axe(script string) []string {
	b.t.Helper()
	var found string
	b.run(
		chromedp.Evaluate(script+";undefined", nil),
		chromedp.Evaluate(`axe.run(document, {resultTypes: ["violations"]}).then((r) => JSON.stringify(r.violations.filter((v) => v.impact === "serious" || v.impact === "critical").map((v) => v.id + ": " + v.help + ": " + v.nodes.slice(0, 3).map((n) => n.html.slice(0, 200) + " " + (n.any[0]?.message ?? "")).join(" | "))))`,
			&found, func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }),
	)
	var list []string
	if err := json.Unmarshal([]byte(found), &list); err != nil {
		b.t.Fatal(err)
	}
	return list
}
