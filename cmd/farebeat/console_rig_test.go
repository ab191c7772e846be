package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/farebeat/farebeat/configs"
	"github.com/farebeat/farebeat/fleet"
	"github.com/farebeat/farebeat/fleet/console/access"
	"github.com/farebeat/farebeat/fleet/console/audit"
	"github.com/farebeat/farebeat/fleet/expect"
	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/keys"
	"github.com/farebeat/farebeat/fleet/ledger"
	"github.com/farebeat/farebeat/fleet/rules"
	"github.com/farebeat/farebeat/fleet/store"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
)

// consoleRig is `farebeat serve` in this process with its console, whose users are who the test says.
type consoleRig struct {
	t      testing.TB
	server *server
	store  *store.Store
	base   string
	client *http.Client
	rounds atomic.Uint64
}

// consoleRole is who everybody is at a rig's console.
func consoleRole(role access.Role) *access.Identity {
	return &access.Identity{Name: string(role) + " person", Role: role, Via: access.ViaOpen}
}

// newConsoleRig starts a service. saved are the changes of faults that it finds at its start.
func newConsoleRig(t testing.TB, open *access.Identity, source expect.Source, prepare func(*store.Store), change func(*configs.Config), tweak ...func(*serverOptions)) *consoleRig {
	t.Helper()
	dir := t.TempDir()
	db, err := store.Open(context.Background(), storePath(dir), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if prepare != nil {
		prepare(db)
	}
	master, err := keys.Create(filepath.Join(dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	tree, err := topics.New("local")
	if err != nil {
		t.Fatal(err)
	}
	c := configs.Default()
	c.Data, c.Broker.Listeners, c.Broker.MetricsAddress, c.Console.Address = dir, nil, "", "127.0.0.1:0"
	if change != nil {
		change(&c)
	}
	if source == nil {
		source = expect.NewByHand(nil, time.UTC)
	}
	rig := &consoleRig{t: t, store: db, client: &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
	ctx, stop := context.WithCancel(context.Background())
	o := serverOptions{
		tree: tree, config: c, store: db, keys: master, tick: 50 * time.Millisecond, now: time.Now, orders: ordersPath(dir), logger: slog.New(slog.DiscardHandler), open: open,
		engine: fleet.EngineConfig{Location: time.UTC, Expect: source, Rules: rules.Default(time.UTC)},
		watch:  func(fleet.Round) { rig.rounds.Add(1) },
	}
	for _, f := range tweak {
		f(&o)
	}
	rig.server, err = newServer(ctx, o)
	if err != nil {
		stop()
		t.Fatal(err)
	}
	rig.base = rig.server.console.url()
	started, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- rig.server.run(ctx, func() { close(started) }) }()
	t.Cleanup(func() {
		stop()
		rig.client.CloseIdleConnections()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	<-started
	rig.pass(2)
	for !rig.connected() {
		rig.pass(1)
	}
	return rig
}

// connected reports whether fleet and console stand at the broker, both of which subscribe last.
func (r *consoleRig) connected() bool {
	n := 0
	for _, c := range r.server.broker.Clients() {
		if c.Subscriptions > 0 {
			n++
		}
	}
	return n >= 2
}

// pass waits for some rounds.
func (r *consoleRig) pass(n uint64) {
	r.t.Helper()
	until := r.rounds.Load() + n
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for r.rounds.Load() < until {
		select {
		case <-poll.C:
		case <-r.t.Context().Done():
			r.t.Fatal("the service makes no rounds")
		}
	}
}

// get asks for a page.
func (r *consoleRig) get(path string) (int, string) {
	r.t.Helper()
	return r.ask(http.MethodGet, path, nil)
}

// post sends a form, as a page of this console does.
func (r *consoleRig) post(path string, form url.Values) (int, string) {
	r.t.Helper()
	return r.ask(http.MethodPost, path, form)
}

func (r *consoleRig) ask(method, path string, form url.Values) (int, string) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.base+path, strings.NewReader(form.Encode()))
	if err != nil {
		r.t.Fatal(err)
	}
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	res, err := r.client.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	var b bytes.Buffer
	if _, err := io.Copy(&b, res.Body); err != nil {
		r.t.Fatal(err)
	}
	return res.StatusCode, b.String()
}

// reported is the change of a fault that somebody reported by hand.
func reported(machine, vehicle, text, by string) []faults.Change {
	return faults.NewBook(faults.Policy{}).Apply(time.Now().UTC().Truncate(time.Millisecond), []faults.Input{
		faults.HandReport{Report: schemas.Report{ID: "r1", At: time.Now(), Machine: machine, Vehicle: vehicle, Text: text, By: by}},
	})
}

// beat says that a machine is alive.
func (r *consoleRig) beat(machine, vehicle, route, depot string) {
	r.t.Helper()
	hb := schemas.Heartbeat{Seq: 1, Boot: "b", At: time.Now(), Vehicle: vehicle, Route: route, Depot: depot, State: schemas.Running, Pending: 3, PendingMinor: 675, Currency: "USD", Epoch: 1, LastSeq: 3}
	r.server.fleet.Heartbeat(machine, schemas.AppendHeartbeat(nil, &hb))
	if n := r.server.fleet.Stats().Refused.Load(); n > 0 {
		r.t.Fatalf("%d heartbeats were refused", n)
	}
}

// TestMarkupIsInert puts markup into everything that comes from outside, and looks for it in every page.
func TestMarkupIsInert(t *testing.T) {
	const tag = `<img src=x onerror=alert(1)>`
	texts := map[string]string{
		"tag": tag, "attribute": `" autofocus onfocus="alert(1)`, "script": `</script><script>alert(1)</script>`, "address": `javascript:alert(1)`, "template": `{{.}}`,
	}
	for name, text := range texts {
		t.Run(name, func(t *testing.T) {
			changes := reported(text, text, text, text)
			rig := newConsoleRig(t, consoleRole(access.Admin), nil, func(db *store.Store) {
				if err := db.Faults().Save(t.Context(), changes...); err != nil {
					t.Fatal(err)
				}
			}, nil)
			rig.beat(text, text, text, text)
			rig.pass(3)
			id := changes[0].Fault.ID
			if code, body := rig.post("/faults/"+id+"/note", url.Values{"note": {text}, "back": {"/"}}); code != http.StatusSeeOther {
				t.Fatalf("note: %d %.300s", code, body)
			}
			q := url.QueryEscape(text)
			for _, path := range []string{
				"/", "/routes", "/routes?find=" + q, "/routes/" + url.PathEscape(text), "/faults", "/faults?route=" + q + "&vehicle=" + q + "&machine=" + q + "&show=all", "/faults/" + id, "/faults?kind=" + q,
				"/machines", "/machines?find=" + q, "/machines/" + url.PathEscape(text), "/search?q=" + q, "/ledger", "/ledger?find=" + q, "/ledger/" + url.PathEscape(text), "/audit", "/audit?by=" + q,
				"/audit?action=" + q, "/topics", "/topics?find=" + q, "/broker", "/broker?find=" + q, "/rules", "/rules?find=" + q, "/rules?hour=" + q, "/rules/edit", "/rules/route/" + url.PathEscape(text), "/account", "/signin?next=" + q, "/" + url.PathEscape(text), "/routes?day=" + q, "/?done=" + q,
			} {
				code, body := rig.get(path)
				if code >= 500 {
					t.Errorf("%s: %d", path, code)
				}
				for _, bad := range []string{"<img", "onfocus=\"alert", "<script>alert", `href="javascript:`} {
					if strings.Contains(body, bad) {
						t.Errorf("%s: holds %q", path, bad)
					}
				}
			}
			if code, body := rig.get("/faults/" + id); code != http.StatusOK || !strings.Contains(body, "alert") && name != "template" {
				t.Errorf("the fault's page does not show the text at all: %d", code)
			}
		})
	}
}

// TestOrdersAreRefusedToTheWrongRole looks at what orders leave behind that the wrong people give.
func TestOrdersAreRefusedToTheWrongRole(t *testing.T) {
	for _, role := range []access.Role{access.Viewer, access.Operator, access.Admin} {
		t.Run("as "+string(role), func(t *testing.T) {
			changes := reported("m1", "v1", "dark", "driver")
			rig := newConsoleRig(t, consoleRole(role), nil, func(db *store.Store) {
				if err := db.Faults().Save(t.Context(), changes...); err != nil {
					t.Fatal(err)
				}
			}, func(c *configs.Config) { c.Console.OpenViewers = false })
			id := changes[0].Fault.ID
			allowed := role.Covers(access.Operator)
			for path, form := range map[string]url.Values{
				"/faults/" + id + "/acknowledge": {}, "/faults/" + id + "/assign": {}, "/faults/" + id + "/shelve": {"for": {"1h"}}, "/faults/" + id + "/unsee": {},
				"/faults/" + id + "/note": {"note": {"n"}}, "/machines/m1/collect": {"vehicle": {"v1"}}, "/reports": {"machine": {"m1"}, "text": {"t"}}, "/ledger/verify": {},
			} {
				code, body := rig.post(path, form)
				if want := map[bool]int{true: http.StatusSeeOther, false: http.StatusForbidden}[allowed]; code != want {
					t.Errorf("%s: %d, want %d: %.500s", path, code, want, body)
				}
			}
			f, _, err := rig.store.Faults().Get(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			if touched := f.Revision > changes[0].Fault.Revision+1; touched != allowed {
				t.Errorf("the fault was touched: %t, want %t: %+v", touched, allowed, f.Attention)
			}
			if code, _ := rig.get("/audit"); (code == http.StatusOK) != allowed {
				t.Errorf("the audit log: %d", code)
			}
			list, err := rig.store.AuditLog().List(t.Context(), auditAll())
			if err != nil {
				t.Fatal(err)
			}
			refused := 0
			for _, e := range list {
				if e.Outcome == "refused" {
					refused++
				}
			}
			if (refused > 0) != (role == access.Viewer) {
				t.Errorf("%d refusals stand in the audit log", refused)
			}
		})
	}
}

// TestAFormOfAnotherPageIsRefused sends what a browser sends from a page of somebody else.
func TestAFormOfAnotherPageIsRefused(t *testing.T) {
	rig := newConsoleRig(t, consoleRole(access.Admin), nil, nil, nil)
	for name, change := range map[string]func(*http.Request){
		"another site":            func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") },
		"another site of a kind":  func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "same-site") },
		"another origin":          func(r *http.Request) { r.Header.Set("Origin", "http://evil.example") },
		"a name that leads here":  func(r *http.Request) { r.Host = "evil.example" },
		"that name and its forms": func(r *http.Request) { r.Host = "evil.example"; r.Header.Set("Origin", "http://evil.example") },
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, rig.base+"/reports", strings.NewReader("machine=m1&text=t"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		change(req)
		res, err := rig.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusForbidden && res.StatusCode != http.StatusMisdirectedRequest {
			t.Errorf("%s: %d", name, res.StatusCode)
		}
		policy := res.Header.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "form-action 'self'"} {
			if !strings.Contains(policy, want) {
				t.Errorf("%s: the policy %q lacks %s", name, policy, want)
			}
		}
	}
}

// TestPagesAnswerBadQuestions wants a clear page and no failure for what is no question.
func TestPagesAnswerBadQuestions(t *testing.T) {
	rig := newConsoleRig(t, consoleRole(access.Admin), nil, nil, nil)
	for path, want := range map[string]int{
		"/routes?day=yesterday": 400, "/routes?page=-1": 400, "/routes?page=x": 400, "/routes?order=odd": 400, "/routes?day=2026-13-40": 400, "/routes?day=1999-01-01": 200,
		"/routes/none": 404, "/faults/none": 404, "/machines/none": 404, "/ledger/none": 404, "/ledger/none/certificate/2026-01-01": 404, "/ledger/none/certificate/2026-01-01?revision=x": 400, "/faults?show=odd": 400, "/faults?kind=odd": 400,
		"/faults?after=none": 400, "/machines?state=odd": 400, "/machines?order=odd": 400, "/ledger?show=odd": 400, "/audit?before=x": 400, "/rules?hour=25": 400, "/rules?days=odd": 400, "/rules/edit?draft=none": 404, "/broker?page=x": 400, "/nowhere": 404, "/live": 400, "/live?page=http://x/": 400,
		"/live?page=/nowhere": 200, "/assets/x/console.css": 404, "/assets/%2e%2e/go.mod": 404, "/search?q=" + strings.Repeat("x", 5000): 200, "/machines/%00": 404, "/faults/%ff%fe": 404,
	} {
		if code, body := rig.get(path); code != want {
			t.Errorf("%.60s: %d, want %d: %.300s", path, code, want, body)
		}
	}
}

// TestEveryRevisionOfACertificateIsThere asks for the newest certificate of a day, and for the one that it replaced.
func TestEveryRevisionOfACertificateIsThere(t *testing.T) {
	rig := newConsoleRig(t, consoleRole(access.Viewer), nil, func(db *store.Store) {
		err := db.Ledger().Update(t.Context(), func(tx ledger.Tx) error {
			for i, body := range []string{"first", "second"} {
				if err := tx.Issue(ledger.Issued{Machine: "m1", ServiceDate: "2026-01-01", Revision: uint32(i + 1), IssuedAt: time.Now(), Body: []byte(body)}); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}, nil)
	for query, want := range map[string]string{"": "second", "?revision=1": "first", "?revision=2": "second"} {
		if code, body := rig.get("/ledger/m1/certificate/2026-01-01" + query); code != http.StatusOK || body != want {
			t.Errorf("%q: %d %.300s, want %s", query, code, body, want)
		}
	}
	if code, body := rig.get("/ledger/m1/certificate/2026-01-01?revision=3"); code != http.StatusNotFound || !strings.Contains(body, "revision 3") {
		t.Errorf("a revision that there is not: %d %.300s", code, body)
	}
}

// auditAll asks for the newest entries.
func auditAll() audit.Query { return audit.Query{Limit: audit.MaxLimit} }

// consolePassword is everybody's.
const consolePassword = "correct horse battery"

// editUsersFile is `farebeat users`.
func editUsersFile(t *testing.T, file, stdin string, args ...string) {
	t.Helper()
	var out bytes.Buffer
	if code := run(t.Context(), append(append([]string{"users"}, args...), "--file", file), strings.NewReader(stdin), &out, &out); code != exitOK {
		t.Fatalf("%v: %d %s", args, code, out.String())
	}
}

// addConsoleUsers puts one person of each role into a users file, by the role's name.
func addConsoleUsers(t *testing.T, file string) {
	t.Helper()
	for _, role := range access.Roles() {
		editUsersFile(t, file, consolePassword+"\n", "add", string(role), "--role", string(role), "--password")
	}
}

// signIn tries to make the rig's client that of a person, and tells the answer's status.
func (r *consoleRig) signIn(name, password string) int {
	r.t.Helper()
	cookies, err := cookiejar.New(nil)
	if err != nil {
		r.t.Fatal(err)
	}
	r.client = &http.Client{Jar: cookies, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	code, _ := r.post("/signin", url.Values{"name": {name}, "password": {password}, "next": {"/faults"}})
	return code
}

// TestEveryOrderAsksWhoGivesIt tries each order of the console as nobody and as each role. One that is new has to be added here.
func TestEveryOrderAsksWhoGivesIt(t *testing.T) {
	orders := map[string]struct {
		need access.Role
		form url.Values
	}{
		"POST /machines/{id}/collect": {access.Operator, url.Values{"vehicle": {"v1"}}}, "POST /reports": {access.Operator, url.Values{"machine": {"m1"}, "text": {"t"}}},
		"POST /ledger/verify": {access.Operator, nil}, "POST /rules/check": {access.Admin, url.Values{"text": {"route: {off: true}"}}}, "POST /rules/try": {access.Admin, nil},
		"POST /rules/stop": {access.Admin, nil}, "POST /rules/save": {access.Admin, nil}, "POST /account/passes/{id}/revoke": {access.Viewer, nil},
		"POST /account/tokens": {access.Viewer, url.Values{"label": {"l"}, "role": {"viewer"}, "days": {"1"}}}, "POST /faults/{id}/acknowledge": {access.Operator, nil}, "POST /faults/{id}/assign": {access.Operator, nil},
		"POST /faults/{id}/shelve": {access.Operator, url.Values{"for": {"1h"}}}, "POST /faults/{id}/unsee": {access.Operator, nil}, "POST /faults/{id}/abandon": {access.Operator, nil}, "POST /faults/{id}/note": {access.Operator, url.Values{"note": {"n"}}},
	}
	file := filepath.Join(t.TempDir(), "users")
	addConsoleUsers(t, file)
	rig := newConsoleRig(t, nil, nil, nil, func(c *configs.Config) { c.Broker.UsersFile, c.Console.OpenViewers = file, false })
	if got, want := slices.Sorted(slices.Values(rig.server.console.console.Orders())), slices.Sorted(maps.Keys(orders)); !slices.Equal(got, want) {
		t.Errorf("the console takes the orders\n%v, and tried are\n%v", got, want)
	}
	for _, who := range append([]access.Role{""}, access.Roles()...) {
		if who != "" && rig.signIn(string(who), consolePassword) != http.StatusSeeOther {
			t.Fatalf("%s does not come in", who)
		}
		for pattern, o := range orders {
			path := strings.ReplaceAll(strings.TrimPrefix(pattern, "POST "), "{id}", "m1")
			code, body := rig.post(path, o.form)
			switch {
			case who == "" && code != http.StatusUnauthorized,
				who != "" && !who.Covers(o.need) && code != http.StatusForbidden,
				who.Covers(o.need) && (code == http.StatusUnauthorized || code == http.StatusForbidden || code >= http.StatusInternalServerError):
				t.Errorf("%q, who must be %s: %s: %d: %.300s", who, o.need, path, code, body)
			}
		}
	}
}

// TestPeopleOfTheUsersFileSignIn signs in as everybody, and takes somebody out of the file.
func TestPeopleOfTheUsersFileSignIn(t *testing.T) {
	file := filepath.Join(t.TempDir(), "users")
	farebeat := func(stdin string, args ...string) { t.Helper(); editUsersFile(t, file, stdin, args...) }
	addConsoleUsers(t, file)
	const password = consolePassword
	farebeat(password+"\n", "add", "bus", "--role", "gateway", "--id", "1216", "--password")
	changes := reported("m1", "v1", "dark", "driver")
	id := changes[0].Fault.ID
	rig := newConsoleRig(t, nil, nil, func(db *store.Store) {
		if err := db.Faults().Save(t.Context(), changes...); err != nil {
			t.Fatal(err)
		}
	}, func(c *configs.Config) { c.Broker.UsersFile, c.Console.OpenViewers = file, false })
	jar := func(name, word string) *http.Client {
		t.Helper()
		code := rig.signIn(name, word)
		if want := map[bool]int{true: http.StatusSeeOther, false: http.StatusUnauthorized}[word == password && name != "bus" && name != "nobody"]; code != want {
			t.Errorf("%s signs in: %d, want %d", name, code, want)
		}
		return rig.client
	}
	want := func(what string, code, wanted int) {
		t.Helper()
		if code != wanted {
			t.Errorf("%s: %d, want %d", what, code, wanted)
		}
	}
	code, _ := rig.get("/faults")
	want("nobody looks", code, http.StatusSeeOther)
	code, _ = rig.post("/faults/"+id+"/acknowledge", url.Values{})
	want("nobody acknowledges", code, http.StatusUnauthorized)
	code, _ = rig.get("/live?page=/")
	want("nobody watches", code, http.StatusUnauthorized)
	jar("bus", password)
	jar("nobody", password)
	jar("operator", "wrong horse battery")
	jar("viewer", password)
	code, _ = rig.get("/faults/" + id)
	want("a viewer looks", code, http.StatusOK)
	code, _ = rig.post("/faults/"+id+"/acknowledge", url.Values{})
	want("a viewer acknowledges", code, http.StatusForbidden)
	code, _ = rig.post("/account/tokens", url.Values{"label": {"x"}, "role": {"admin"}, "days": {"30"}})
	want("a viewer makes an admin's token", code, http.StatusForbidden)
	operator := jar("operator", password)
	code, _ = rig.post("/faults/"+id+"/acknowledge", url.Values{"back": {"/"}})
	want("an operator acknowledges", code, http.StatusSeeOther)
	if f, _, err := rig.store.Faults().Get(t.Context(), id); err != nil || f.Attention.By != "operator" {
		t.Errorf("%+v %v", f.Attention, err)
	}
	code, body := rig.post("/account/tokens", url.Values{"label": {"wall"}, "role": {"viewer"}, "days": {"30"}})
	if want("an operator makes a token", code, http.StatusOK); !strings.Contains(body, "fbt_") {
		t.Error("the token is not shown")
	}
	farebeat("", "remove", "operator")
	if _, err := rig.server.users.console.Reload(time.Now()); err != nil {
		t.Fatal(err)
	}
	rig.client = operator
	code, _ = rig.get("/faults")
	want("an operator who was taken out of the file looks", code, http.StatusSeeOther)
}
