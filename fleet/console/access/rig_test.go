package access_test

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/farebeat/farebeat/fleet/console/access"
	"github.com/farebeat/farebeat/fleet/console/audit"
	"github.com/farebeat/farebeat/fleet/store"
)

var ctx = context.Background()

const (
	phone = "192.0.2.7"
	desk  = "192.0.2.8"
)

// userFile is a users file that changes under the console.
type userFile struct {
	mu     sync.Mutex
	byName map[string]user
	during func() // while a password is checked
}

type user struct {
	password string
	role     access.Role
}

func (u *userFile) Check(name string, password []byte) (access.Role, error) {
	if u.during != nil {
		u.during()
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	have, found := u.byName[name]
	if !found || subtle.ConstantTimeCompare([]byte(have.password), password) != 1 {
		return "", access.ErrBadPassword
	}
	return have.role, nil
}

func (u *userFile) Role(name string) (access.Role, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	have, found := u.byName[name]
	return have.role, found
}

func (u *userFile) set(name string, role access.Role) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if role == "" {
		delete(u.byName, name)
		return
	}
	u.byName[name] = user{name + "'s password", role}
}

// console is a gate over a real store, with a clock that the test turns.
type console struct {
	t     testing.TB
	path  string
	store *store.Store
	users *userFile
	now   time.Time
	gate  *access.Gate
	opts  func(*access.Options)
}

// newConsole has the users vera (viewer), otto (operator) and anna (admin), each with the password "NAME's password".
func newConsole(t testing.TB, opts func(*access.Options)) *console {
	t.Helper()
	c := &console{
		t: t, path: filepath.Join(t.TempDir(), "fleet.db"), users: &userFile{byName: map[string]user{}},
		now: time.Date(2026, 11, 23, 5, 10, 0, 0, time.UTC), opts: opts,
	}
	c.users.set("vera", access.Viewer)
	c.users.set("otto", access.Operator)
	c.users.set("anna", access.Admin)
	c.start()
	t.Cleanup(func() { c.stop() })
	return c
}

func (c *console) start() {
	c.t.Helper()
	s, err := store.Open(ctx, c.path, store.Options{Readers: 1})
	if err != nil {
		c.t.Fatal(err)
	}
	o := access.Options{Users: c.users, Passes: s.Passes(), Audit: s.AuditLog(), Now: func() time.Time { return c.now }}
	if c.opts != nil {
		c.opts(&o)
	}
	g, err := access.New(o)
	if err != nil {
		c.t.Fatal(err)
	}
	c.store, c.gate = s, g
}

func (c *console) stop() {
	c.t.Helper()
	if err := c.store.Close(); err != nil {
		c.t.Error(err)
	}
}

func (c *console) after(d time.Duration) { c.now = c.now.Add(d) }

// signIn signs a user in from the phone.
func (c *console) signIn(name string) (secret string, id access.Identity) {
	c.t.Helper()
	secret, id, err := c.gate.SignIn(ctx, name, name+"'s password", phone+":50123")
	if err != nil {
		c.t.Fatalf("%s signs in: %v", name, err)
	}
	return secret, id
}

// request is one with a session, a token or nothing.
func request(secret string) *http.Request {
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, "http://console.example/", nil)
	switch {
	case strings.HasPrefix(secret, "fbt_"):
		r.Header.Set("Authorization", "Bearer "+secret)
	case secret != "":
		r.AddCookie(&http.Cookie{Name: "farebeat_session", Value: secret})
	}
	return r
}

// who says who the holder of a secret is: "name role via", or the error in short.
func (c *console) who(secret string) string {
	c.t.Helper()
	id, err := c.gate.Identify(request(secret))
	return whoOf(id, err)
}

func whoOf(id access.Identity, err error) string {
	switch {
	case errors.Is(err, access.ErrSignedOut):
		return "signed out"
	case errors.Is(err, access.ErrBadToken):
		return "bad token"
	case errors.Is(err, access.ErrForeignHost):
		return "foreign host"
	case err != nil:
		return err.Error()
	}
	return fmt.Sprintf("%s %s %s", id.Name, id.Role, id.Via)
}

func (c *console) want(secret, want string) {
	c.t.Helper()
	if got := c.who(secret); got != want {
		c.t.Errorf("at %s: %q, want %q", c.now.Format(time.DateTime), got, want)
	}
}

// audited gives the audit, oldest first, each as "by action outcome".
func (c *console) audited() string {
	c.t.Helper()
	var out []string
	for _, e := range c.entries() {
		out = append(out, fmt.Sprintf("%s %s %s", e.By, e.Action, e.Outcome))
	}
	return strings.Join(out, "\n")
}

func (c *console) entries() []audit.Entry {
	c.t.Helper()
	list, err := c.store.AuditLog().List(ctx, audit.Query{Limit: audit.MaxLimit})
	if err != nil {
		c.t.Fatal(err)
	}
	for i, j := 0, len(list)-1; i < j; i, j = i+1, j-1 {
		list[i], list[j] = list[j], list[i]
	}
	return list
}

func (c *console) token(by access.Identity, role access.Role, length time.Duration) (secret string, p access.Pass) {
	c.t.Helper()
	secret, p, err := c.gate.NewToken(ctx, by, phone, access.TokenRequest{Label: "Grafana", Role: role, ExpiresAt: c.now.Add(length)})
	if err != nil {
		c.t.Fatal(err)
	}
	return secret, p
}
