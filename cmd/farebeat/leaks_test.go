//go:build unix

package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/farebeat/farebeat/broker"
	"github.com/farebeat/farebeat/fleet/counts"
	"github.com/farebeat/farebeat/fleet/keys"
	"github.com/farebeat/farebeat/fleet/store"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
	"github.com/farebeat/farebeat/topics/session"
)

// leaks is a whole service with a gateway and a machine in this process, each as its command line runs it, at the most talkative level,
// with receivers that refuse everything and send back what they got.
type leaks struct {
	t        *testing.T
	c        *canaries
	dir      string
	config   string
	broker   string
	console  string
	metrics  string
	out      lockedBuffer // everything that any process says
	refused  chan string  // what a receiver refused
	client   *http.Client
	mu       sync.Mutex
	messages []session.Delivery
}

// secret is 30 random characters that nothing else has by chance.
func (l *leaks) secret(name string) string { return l.c.text(name, "canary"+rand.Text()[:24]) }

func (l *leaks) file(name, text string) string {
	l.t.Helper()
	path := filepath.Join(l.dir, name)
	put(l.t, path, text)
	return path
}

func newLeaks(t *testing.T) *leaks {
	l := &leaks{t: t, c: &canaries{forms: map[string][][]byte{}}, dir: t.TempDir(), refused: make(chan string, 256)}
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	l.client = &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	l.broker, l.console, l.metrics = freePort(t), freePort(t), freePort(t)
	l.users()
	master := make([]byte, keys.Size)
	_, _ = rand.Read(master)
	l.file("master", l.c.hex("master key", master)+"\n")
	k, err := keys.NewMaster(master)
	if err != nil {
		t.Fatal(err)
	}
	key, err := k.Machine(t.Context(), "7-1")
	if err != nil {
		t.Fatal(err)
	}
	l.file("machine", l.c.hex("machine key", key[:])+"\n")
	cert, tlsKey := selfSigned(t)
	l.file("cert", cert)
	l.file("tlskey", tlsKey)
	l.c.text("TLS key", strings.Split(tlsKey, "\n")[1])
	hook := make([]byte, 32)
	_, _ = rand.Read(hook)
	l.c.plant("webhook secret", hook)
	l.file("hook", "whsec_"+base64.StdEncoding.EncodeToString(hook)+"\n")
	l.file("influx", l.secret("InfluxDB token")+"\n")
	l.file("alertmanager", "Bearer "+l.secret("Alertmanager credentials")+"\n")
	l.file("oidc", l.secret("OIDC client secret")+"\n")
	l.configure()
	l.counts()
	return l
}

// users makes a file of users, and a file with the password of each.
func (l *leaks) users() {
	var lines []string
	for name, u := range map[string]broker.User{
		"gw-7": {Role: topics.RoleGateway, ID: "7"}, "m-7-1": {Role: topics.RoleMachine, ID: "7-1"}, "ada": {Role: topics.RoleAdmin}, "otto": {Role: topics.RoleOperator}, "vera": {Role: topics.RoleViewer},
	} {
		password := l.secret("password of " + name)
		hash, err := broker.HashPassword(password)
		if err != nil {
			l.t.Fatal(err)
		}
		u.Name, u.Hash = name, hash
		l.c.text("hash of "+name, hash)
		l.file(name, password+"\n")
		lines = append(lines, u.Line())
	}
	l.file("users", strings.Join(lines, "\n")+"\n")
	l.file("wrong", l.secret("wrong password")+"\n")
}

// echo refuses every request and sends back all of it.
func (l *leaks) echo(name string, code int) string {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body) //nolint:errcheck // what came is sent back
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(map[string]any{"error": fmt.Sprint(r.URL, r.Header, string(b)), "message": fmt.Sprint(r.Header), "code": "invalid"})
		select {
		case l.refused <- name:
		default:
		}
	}))
	l.t.Cleanup(server.Close)
	return server.URL
}

// provider is an OpenID Connect provider that knows nobody, and says so with all that it was sent.
func (l *leaks) provider() string {
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	l.t.Cleanup(server.Close)
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{
			"issuer": server.URL, "authorization_endpoint": server.URL + "/authorize", "token_endpoint": server.URL + "/token", "jwks_uri": server.URL + "/keys",
			"id_token_signing_alg_values_supported": []string{"RS256"},
		})
	})
	mux.HandleFunc("/token", func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body) //nolint:errcheck // what came is sent back
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusUnauthorized)
		_ = json.NewEncoder(w).Encode(map[string]string{"error": "invalid_client", "error_description": fmt.Sprint(r.Header, string(b))})
	})
	return server.URL
}

func (l *leaks) configure() {
	l.config = l.file("farebeat.yaml", strings.NewReplacer("DIR", l.dir, "BROKER", l.broker, "CONSOLE", l.console, "METRICS", l.metrics, "ENROL", freePort(l.t),
		"INFLUX", l.echo("influx", http.StatusUnauthorized), "HOOK", l.echo("hook", http.StatusUnauthorized)+"/"+l.secret("webhook path")+"?token="+l.secret("webhook query"),
		"NOBODY", "http://"+freePort(l.t)+"/"+l.secret("path to nobody"), "ALERTMANAGER", l.echo("alertmanager", http.StatusUnauthorized), "PROVIDER", l.provider(),
	).Replace(`log: {level: debug}
data: DIR/data
broker:
  listeners: [{name: mqtts, kind: tls, address: "BROKER", cert_file: DIR/cert, key_file: DIR/tlskey}]
  users_file: DIR/users
  metrics_address: "METRICS"
fleet:
  master_key_file: DIR/master
  tick: 200ms
  influx: [{name: grafana, url: "INFLUX", org: ops, bucket: farebeat, token_file: DIR/influx}]
  notify:
    webhooks:
      - {name: desk, url: "HOOK", secret_file: DIR/hook}
      - {name: nobody, url: "NOBODY", secret_file: DIR/hook}
    alertmanagers: [{name: am, url: "ALERTMANAGER", credentials_file: DIR/alertmanager}]
console:
  address: "CONSOLE"
  open_viewers: false
  oidc: {issuer: "PROVIDER", client_id: farebeat, client_secret_file: DIR/oidc, redirect_url: "http://CONSOLE/signin/oidc/callback", admins: [a]}
enrol: {address: "ENROL"}
client: {server: "ssl://BROKER", ca_file: DIR/cert}
`))
}

// counts gives the InfluxDB something to refuse.
func (l *leaks) counts() {
	if err := os.Mkdir(filepath.Join(l.dir, "data"), 0o700); err != nil {
		l.t.Fatal(err)
	}
	db, err := store.Open(l.t.Context(), storePath(filepath.Join(l.dir, "data")), store.Options{})
	if err != nil {
		l.t.Fatal(err)
	}
	f := counts.Frame{At: time.Now().UTC().Truncate(time.Minute).Add(-time.Minute), Rows: []counts.RouteMinute{{Route: "36", Online: 1, Known: 1, Min: 1, Max: 1}}}
	if err := db.Counts().SaveFrame(l.t.Context(), f); err != nil {
		l.t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		l.t.Fatal(err)
	}
}

// farebeat runs one command line to its end.
func (l *leaks) farebeat(want int, args ...string) {
	l.t.Helper()
	var said bytes.Buffer
	code := run(l.t.Context(), append(args, "--config", l.config), strings.NewReader(""), &said, &said)
	if code != want {
		l.t.Errorf("%s: exit code %d, want %d\n%s", args, code, want, said.Bytes())
	}
	_, _ = l.out.Write(said.Bytes())
}

// start runs a command line until the test ends.
func (l *leaks) start(args ...string) {
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		run(ctx, append(args, "--config", l.config), strings.NewReader(""), &l.out, &l.out)
	}()
	l.t.Cleanup(func() {
		stop()
		<-ended
	})
}

func (l *leaks) as(user string) []string {
	return []string{"--set", "client.username=" + user, "--set", "client.password_file=" + filepath.Join(l.dir, user)}
}

// wait waits until what any process says has text in it.
func (l *leaks) wait(text string) {
	l.t.Helper()
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for end := time.After(time.Minute); !bytes.Contains(l.out.bytes(), []byte(text)); {
		select {
		case <-poll.C:
		case <-end:
			l.t.Fatalf("nobody said %q:\n%s", text, l.out.bytes())
		}
	}
}

// listen keeps every message that a user may read.
func (l *leaks) listen(user, filter string) {
	c := mustLoad(l.t, l.config).Client
	c.Username, c.PasswordFile = user, filepath.Join(l.dir, user)
	o, err := clientOptions(c, "listener-"+user)
	if err != nil {
		l.t.Fatal(err)
	}
	o.CleanSession = true
	h, err := startSession(l.t.Context(), o, func(s *session.Session) {
		s.Handle(filter, 1, func(_ context.Context, d *session.Delivery) error {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.messages = append(l.messages, *d)
			return nil
		})
	})
	if err != nil {
		l.t.Fatalf("%v\n%s", err, l.out.bytes())
	}
	l.t.Cleanup(func() { h.close() })
}

// get reads a page or an answer of the API, as whoever is signed in.
func (l *leaks) get(address string) (string, []byte) {
	l.t.Helper()
	return l.ask(http.MethodGet, address, nil, "")
}

func (l *leaks) ask(method, address string, form url.Values, token string) (where string, body []byte) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, address, strings.NewReader(form.Encode()))
	if err != nil {
		l.t.Fatal(err)
	}
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := l.client.Do(req)
	if err != nil {
		l.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err = io.ReadAll(res.Body)
	if err != nil {
		l.t.Fatal(err)
	}
	return res.Header.Get("Location"), body
}

// nothing wants no secret in b.
func (l *leaks) nothing(where string, b []byte, may ...string) {
	l.t.Helper()
	if names := l.c.found(b, may...); names != nil {
		line := b
		for part := range bytes.Lines(b) {
			if l.c.found(part, may...) != nil {
				line = part
				break
			}
		}
		l.t.Errorf("%s shows %q:\n%.2000s", where, names, line)
	}
}

// TestNoSecretLeaks provokes every kind of trouble, and looks for every secret in everything that anybody can read.
func TestNoSecretLeaks(t *testing.T) {
	l := newLeaks(t)
	l.authority()
	l.start("serve")
	l.wait("console on")
	l.listen("vera", l.all())
	l.listen("gw-7", l.tickets("7"))
	l.start(append([]string{"edge", "--vehicle", "7", "--radio", "socket:" + l.dir, "--set", "data=" + l.dir}, l.as("gw-7")...)...)
	machine := []string{"machine", "run", "--id", "7-1", "--vehicle", "7", "--route", "36", "--key-file", filepath.Join(l.dir, "machine"), "--radio", "socket:" + l.dir, "--stock", "20", "--heartbeat", "1s"}
	l.start(append(append(machine, "--set", "data="+filepath.Join(l.dir, "m")), l.as("m-7-1")...)...)
	stranger := []string{"--set", "client.username=gw-7", "--set", "client.password_file=" + filepath.Join(l.dir, "wrong")}
	l.start(append([]string{"edge", "--vehicle", "8", "--radio", "socket:" + l.dir, "--set", "data=" + filepath.Join(l.dir, "other")}, stranger...)...)

	l.wait("broker connection up\" broker=ssl://" + l.broker + " client=gateway-7") // a command is for who is there
	l.farebeat(exitOK, append([]string{"report", "--machine", "7-1", "--vehicle", "7", "dark"}, l.as("otto")...)...)
	l.farebeat(exitOK, append([]string{"collect", "7-1", "--vehicle", "7", "--timeout", "1m"}, l.as("otto")...)...)
	l.farebeat(exitFailed, append([]string{"report", "--machine", "7-1", "dark"}, stranger...)...)
	for missing := map[string]bool{"influx": true, "hook": true, "alertmanager": true}; len(missing) > 0; {
		delete(missing, <-l.refused)
	}
	l.enrol()
	l.wrongFiles()
	l.seeTickets()
	l.lookAround()
	l.nothing("what the processes said", l.out.bytes())
	l.nothing("config print", l.printed())
	l.mu.Lock()
	defer l.mu.Unlock()
	tickets := 0
	for _, m := range l.messages {
		var may []string
		if strings.Contains(m.Topic, "/vehicle/7/ticket/") {
			tickets++
			may = []string{"ticket"}
		}
		l.nothing("topic "+m.Topic, append([]byte(m.Topic+" "), m.Payload...), may...)
	}
	if len(l.messages) < 10 || tickets == 0 {
		t.Errorf("%d messages, %d of them tickets", len(l.messages), tickets)
	}
	t.Logf("%d secrets; %d bytes said, %d messages", len(l.c.forms), len(l.out.bytes()), len(l.messages))
}

// all is what a viewer may read.
func (l *leaks) all() string {
	tree, err := topics.New("local")
	if err != nil {
		l.t.Fatal(err)
	}
	return tree.Root() + "#"
}

func (l *leaks) tickets(vehicle string) string {
	tree, err := topics.New("local")
	if err != nil {
		l.t.Fatal(err)
	}
	filter, err := tree.Filter(topics.Address{Kind: topics.Ticket, Vehicle: vehicle})
	if err != nil {
		l.t.Fatal(err)
	}
	return filter
}

// seeTickets plants the secrets of the tickets that the gateway was given.
func (l *leaks) seeTickets() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range l.messages {
		if !strings.Contains(m.Topic, "/ticket/") || len(m.Payload) == 0 {
			continue
		}
		var ticket schemas.Ticket
		if err := schemas.Decode(m.Payload, schemas.NameTicket, &ticket); err != nil {
			l.t.Fatal(err)
		}
		secret, err := base64.RawURLEncoding.DecodeString(ticket.Secret)
		if err != nil {
			l.t.Fatal(err)
		}
		l.c.plant("ticket "+hex.EncodeToString(secret[:2]), secret)
	}
}

// wrongFiles puts each secret where it is read as something else, or is not quite itself: errors tell what is wrong without it.
func (l *leaks) wrongFiles() {
	spoilt := l.file("spoilt", l.secret("spoilt secret")+"\n"+l.secret("second line")+"\n")
	for _, key := range []string{"fleet.master_key_file", "machine.key_file", "broker.users_file", "console.users_file", "console.oidc.client_secret_file", "client.ca_file"} {
		l.farebeat(exitUsage, "config", "check", "--set", key+"="+spoilt)
	}
	for file, text := range map[string]string{"hook": "whsec_" + l.secret("no base64") + "!\n", "influx": "a\n" + l.secret("two lines"), "alertmanager": l.secret("no scheme"), "tlskey": l.secret("no PEM")} {
		path := filepath.Join(l.dir, file)
		good, err := os.ReadFile(path)
		if err != nil {
			l.t.Fatal(err)
		}
		put(l.t, path, text)
		l.farebeat(exitUsage, "config", "check")
		put(l.t, path, string(good))
	}
	l.t.Setenv("FAREBEAT_FLEET_MASTER_KEY", l.secret("master key that is none"))
	l.farebeat(exitUsage, "config", "check", "--set", "fleet.master_key_file=")
	l.t.Setenv("FAREBEAT_CLIENT_PASSWORD", l.secret("password twice"))
	l.farebeat(exitUsage, append([]string{"config", "check"}, l.as("otto")...)...)
}

func (l *leaks) printed() []byte {
	l.t.Setenv("FAREBEAT_CLIENT_PASSWORD", l.secret("password in the environment"))
	var out bytes.Buffer
	if code := run(l.t.Context(), []string{"config", "print", "--config", l.config}, strings.NewReader(""), &out, &out); code != exitOK {
		l.t.Errorf("%s", out.Bytes())
	}
	return out.Bytes()
}

var link = regexp.MustCompile(`(?:href|src|action)="(/[^"#]*)"`)

// lookAround signs in, wrongly first, and reads every page and every answer of the API that the admin can have.
func (l *leaks) lookAround() {
	base := "http://" + l.console
	signIn := func(password string) string {
		where, body := l.ask(http.MethodPost, base+"/signin", url.Values{"name": {"ada"}, "password": {password}}, "")
		l.nothing("the sign-in", body)
		return where
	}
	signIn(l.secret("wrong password at the console"))
	if _, body := l.ask(http.MethodGet, base+"/api/v1/now", nil, "fbt_"+l.secret("wrong token")); len(body) > 0 {
		l.nothing("the API to a wrong token", body)
	}
	l.foreignSignIn(base)
	password, err := os.ReadFile(filepath.Join(l.dir, "ada"))
	if err != nil {
		l.t.Fatal(err)
	}
	if where := signIn(strings.TrimSpace(string(password))); where == "" {
		l.t.Fatal("the admin could not sign in")
	}
	at, err := url.Parse(base)
	if err != nil {
		l.t.Fatal(err)
	}
	for _, c := range l.client.Jar.Cookies(at) {
		l.c.text("cookie "+c.Name, c.Value)
	}
	seen, todo := map[string]bool{}, []string{"/", "/account", "/audit", "/broker", "/topics"}
	for len(todo) > 0 && len(seen) < 300 {
		path := todo[0]
		todo = todo[1:]
		if seen[path] || strings.HasPrefix(path, "/signout") || strings.HasPrefix(path, "/live") {
			continue
		}
		seen[path] = true
		_, body := l.get(base + strings.ReplaceAll(path, "&amp;", "&"))
		l.nothing("page "+path, body)
		for _, m := range link.FindAllSubmatch(body, -1) {
			todo = append(todo, string(m[1]))
		}
	}
	answers := l.answers(base)
	for _, path := range []string{"/metrics", "/healthz"} {
		_, body := l.get("http://" + l.metrics + path)
		l.nothing(path, body)
	}
	if len(seen) < 20 || answers < 30 {
		l.t.Errorf("%d pages and %d answers of the API are too few to say anything", len(seen), answers)
	}
	l.t.Logf("%d pages, %d answers of the API", len(seen), answers)
}

// answers asks every question of the API's document.
func (l *leaks) answers(base string) int {
	_, text := l.get(base + "/api/v1/openapi.json")
	var doc struct {
		Paths map[string]map[string]json.RawMessage `json:"paths"`
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		l.t.Fatalf("%v: %s", err, text)
	}
	n := 0
	now := time.Now().UTC()
	fill := strings.NewReplacer("{id}", "7-1", "{route}", "36", "{machine}", "7-1", "{date}", now.Format(time.DateOnly))
	query := url.Values{
		"route": {"36"}, "format": {"csv"}, "from": {now.Add(-time.Hour).Format(time.RFC3339)}, "to": {now.Format(time.RFC3339)}, "topic": {"local/fleet"},
	}.Encode()
	for path, methods := range doc.Paths {
		if _, ok := methods["get"]; !ok {
			continue
		}
		for _, q := range []string{"", "?" + query} {
			_, body := l.get(base + "/api/v1" + fill.Replace(path) + q)
			l.nothing("the API's "+path+q, body)
		}
		n++
	}
	return n
}

// foreignSignIn comes back from the provider with a code that it does not know.
func (l *leaks) foreignSignIn(base string) {
	where, body := l.get(base + "/signin/oidc")
	l.nothing("the way to the provider", append(body, where...))
	to, err := url.Parse(where)
	if err != nil || to.Query().Get("state") == "" {
		l.t.Fatalf("%q, %v: %s", where, err, body)
	}
	where, body = l.get(base + "/signin/oidc/callback?" + url.Values{"state": {to.Query().Get("state")}, "code": {l.secret("code of the provider")}}.Encode())
	l.nothing("the way back", append(body, where...))
	_, body = l.get(base + where)
	l.nothing("the page after it", body)
}
