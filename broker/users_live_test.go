package broker_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/farebeat/farebeat/broker"
	"github.com/farebeat/farebeat/topics"
	"github.com/farebeat/farebeat/topics/session"
)

// usersFile is a users file, and the users of it.
type usersFile struct {
	t     *testing.T
	path  string
	users *broker.Users
	now   time.Time
}

func newUsersFile(t *testing.T, list ...broker.User) *usersFile {
	t.Helper()
	f := &usersFile{t: t, path: filepath.Join(t.TempDir(), "users"), now: time.Date(2026, 3, 2, 5, 10, 0, 0, time.UTC)}
	f.write(lines(list...))
	var err error
	if f.users, err = broker.OpenUsers(f.path, f.now); err != nil {
		t.Fatal(err)
	}
	return f
}

func lines(list ...broker.User) string {
	var b strings.Builder
	for _, u := range list {
		b.WriteString(u.Line() + "\n")
	}
	return b.String()
}

// write writes the file as of a time of its own, so that no two contents look alike.
func (f *usersFile) write(text string) {
	f.t.Helper()
	f.now = f.now.Add(time.Second)
	if err := os.WriteFile(f.path, []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
	if err := os.Chtimes(f.path, f.now, f.now); err != nil {
		f.t.Fatal(err)
	}
}

// poll polls once, and says what came: "new", "" or the error.
func (f *usersFile) poll() string {
	f.now = f.now.Add(time.Second)
	switch changed, err := f.users.Poll(f.now); {
	case err != nil:
		return strings.ReplaceAll(err.Error(), f.path, "FILE")
	case changed:
		return "new"
	}
	return ""
}

// set writes users and brings them into force.
func (f *usersFile) set(list ...broker.User) {
	f.t.Helper()
	f.write(lines(list...))
	if got := f.poll() + f.poll(); got != "new" {
		f.t.Fatalf("the polls said %q, want new", got)
	}
}

// person makes a user with a made secret as password.
func person(name string, role topics.Role) (broker.User, string) {
	secret, hash := broker.NewSecret()
	return broker.User{Name: name, Role: role, Hash: hash}, secret
}

func TestUsersFollowTheirFile(t *testing.T) {
	ann, _ := person("ann", topics.RoleViewer)
	bob, _ := person("bob", topics.RoleOperator)
	f := newUsersFile(t, ann)
	names := func(want ...string) {
		t.Helper()
		var got []string
		for _, u := range f.users.List() {
			got = append(got, u.Name)
			if u.Hash != "" {
				t.Errorf("the list shows the hash of %s", u.Name)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	said := func(want string) {
		t.Helper()
		if got := f.poll(); got != want {
			t.Errorf("the poll says %q, want %q", got, want)
		}
	}
	said("")
	f.write(lines(bob, ann))
	said("") // it may be in the middle of a write
	names("ann")
	said("new")
	names("ann", "bob")
	ann.Role = topics.RoleAdmin
	f.set(ann, bob)
	if role, ok := f.users.Role("ann"); role != topics.RoleAdmin || !ok {
		t.Errorf("ann is %s, %t", role, ok)
	}
	if role, ok := f.users.Role("eve"); role != "" || ok {
		t.Errorf("eve is %s, %t", role, ok)
	}

	f.write(lines(ann) + "eve:god::x\n")
	said("")
	said(`users file FILE line 2: user "eve": role "god": want one of [machine gateway fleet operator admin viewer third_party simulator]; the users stay as they were`)
	said("") // it is said once
	names("ann", "bob")
	f.write("")
	said("")
	said("users file FILE: is empty; for no users at all write a line that begins with #; the users stay as they were")
	if err := os.Chmod(f.path, 0o644); err != nil {
		t.Fatal(err)
	}
	f.write(lines(ann))
	said("")
	said("users file FILE: mode 0644 lets others read it: chmod 600 FILE; the users stay as they were")
	if err := os.Remove(f.path); err != nil {
		t.Fatal(err)
	}
	said("users file: stat FILE: no such file or directory; the users stay as they were")
	said("")
	names("ann", "bob")
	if s := f.users.Status(); s.Err == nil || s.Failures != 4 || s.Loads != 3 {
		t.Errorf("status %+v", s)
	}
	f.write(lines(ann, bob)) // as it was: the failure is over, and nobody is new
	said("")
	said("")
	if s := f.users.Status(); s.Err != nil || s.Loads != 3 {
		t.Errorf("status %+v", s)
	}
	f.write("# nobody any more\n")
	if changed, err := f.users.Reload(f.now); !changed || err != nil {
		t.Errorf("reload: %t, %v", changed, err)
	}
	names()
	if s := f.users.Status(); s.LoadedAt != f.now || s.Loads != 4 || s.File != f.path {
		t.Errorf("status %+v", s)
	}
}

func TestUsersOfAListStay(t *testing.T) {
	ann, secret := person("ann", topics.RoleViewer)
	users, err := broker.NewUsers([]broker.User{ann})
	if err != nil {
		t.Fatal(err)
	}
	if changed, err := users.Reload(time.Time{}); changed || err != nil {
		t.Errorf("%t, %v", changed, err)
	}
	if _, err := users.Check("ann", []byte(secret)); err != nil {
		t.Error(err)
	}
	if _, err := broker.OpenUsers(t.TempDir(), time.Time{}); err == nil || !strings.Contains(err.Error(), "it is a folder") {
		t.Errorf("a folder: %v", err)
	}
}

func TestTheRegistryTellsOfTheUsersFile(t *testing.T) {
	ann, _ := person("ann", topics.RoleViewer)
	f := newUsersFile(t, ann)
	reg := prometheus.NewRegistry()
	o := listening(f.users)
	o.Registry = reg
	start(t, o)
	for _, c := range []struct {
		text string
		want map[string]float64
	}{
		{lines(ann) + "# again\n", map[string]float64{"loads_total": 1, "failures_total": 0, "failing": 0}},
		{"?", map[string]float64{"loads_total": 1, "failures_total": 1, "failing": 1}},
		{"# nobody\n", map[string]float64{"loads_total": 2, "failures_total": 1, "failing": 0}},
	} {
		f.write(c.text)
		_, _ = f.users.Reload(f.now)
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]float64{}
		for _, fam := range families {
			if name, ok := strings.CutPrefix(fam.GetName(), "farebeat_broker_users_"); ok {
				got[name] = fam.GetMetric()[0].GetGauge().GetValue() + fam.GetMetric()[0].GetCounter().GetValue()
			}
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("after %q: %s", c.text, diff)
		}
	}
}

func TestWatchTakesNewUsersAndAHangup(t *testing.T) {
	ann, _ := person("ann", topics.RoleViewer)
	bob, _ := person("bob", topics.RoleViewer)
	f := newUsersFile(t, ann)
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		hangup := make(chan os.Signal)
		ctx, cancel := context.WithCancel(t.Context())
		var done sync.WaitGroup
		done.Go(func() { f.users.Watch(ctx, 5*time.Second, hangup, time.Now, slog.New(slog.NewTextHandler(&log, nil))) })
		f.write(lines(bob))
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if _, ok := f.users.Role("bob"); ok {
			t.Error("taken at the first look")
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if _, ok := f.users.Role("bob"); !ok {
			t.Error("not taken at the second look")
		}
		f.write(lines(ann, bob))
		hangup <- nil
		synctest.Wait()
		if _, ok := f.users.Role("ann"); !ok {
			t.Error("not taken at the hangup")
		}
		f.write("?")
		hangup <- nil
		time.Sleep(time.Hour)
		cancel()
		done.Wait()
		if n := strings.Count(log.String(), "the users were not loaded"); n != 1 || strings.Count(log.String(), "new users are in force") != 2 {
			t.Errorf("the log:\n%s", &log)
		}
	})
}

// listening are options of a broker with one address for users.
func listening(users *broker.Users) broker.Options {
	return broker.Options{Users: users, Listeners: []broker.Listener{{Name: "tcp", Kind: "tcp", Address: "127.0.0.1:0"}}}
}

// standing runs a paho session until the test ends. Each coming up and down is told.
func standing(t *testing.T, b *broker.Broker, name, secret string) (up, down <-chan struct{}) {
	t.Helper()
	ups, downs := make(chan struct{}, 16), make(chan struct{}, 16)
	s, err := session.New(session.Options{
		ClientID: name, Username: name, Password: secret, CleanSession: true, Servers: []string{"tcp://" + b.Addr("tcp")},
		Backoff: session.Backoff{Min: time.Millisecond, Max: 10 * time.Millisecond},
		Up:      func() { ups <- struct{}{} }, Down: func(error) { downs <- struct{}{} },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); done.Wait() })
	return ups, downs
}

// TestARemovedUserLosesItsSession is the whole of it with real clients: who is gone is out and stays out, who stays does not notice.
func TestARemovedUserLosesItsSession(t *testing.T) {
	ann, annSecret := person("ann", topics.RoleViewer)
	bob, bobSecret := person("bob", topics.RoleOperator)
	f := newUsersFile(t, ann, bob)
	b := start(t, listening(f.users))
	annUp, annDown := standing(t, b, "ann", annSecret)
	bobUp, bobDown := standing(t, b, "bob", bobSecret)
	<-annUp
	<-bobUp
	f.set(ann)
	<-bobDown
	if _, code := join(t, tcp(t, b, "tcp"), connect{id: "bob", user: "bob", password: bobSecret}); code != 5 {
		t.Errorf("bob is answered with %d, want 5", code)
	}
	for _, c := range b.Clients() {
		if c.User != "ann" {
			t.Errorf("%+v is connected", c)
		}
	}
	if len(annDown)+len(bobUp) > 0 {
		t.Errorf("ann's session ended %d times, bob's is up %d times", len(annDown), len(bobUp))
	}
	f.set(ann, bob)
	<-bobUp
}

func TestWhoseSessionsEndWhenUsersChange(t *testing.T) {
	secret, hash := broker.NewSecret()
	_, otherHash := broker.NewSecret()
	app := broker.User{Name: "app", Role: topics.RoleThirdParty, Hash: hash, Grants: []string{"machine/+/state"}}
	box := broker.User{Name: "box", Role: topics.RoleMachine, ID: "m1", Hash: hash}
	change := func(u broker.User, f func(*broker.User)) broker.User { f(&u); return u }
	for name, c := range map[string]struct {
		was, is []broker.User
		stays   bool
	}{
		"another is added":   {[]broker.User{app}, []broker.User{app, box}, true},
		"the order changes":  {[]broker.User{app, box}, []broker.User{box, app}, true},
		"removed":            {[]broker.User{app, box}, []broker.User{box}, false},
		"password":           {[]broker.User{app}, []broker.User{change(app, func(u *broker.User) { u.Hash = otherHash })}, false},
		"role":               {[]broker.User{app}, []broker.User{change(app, func(u *broker.User) { u.Role, u.Grants = topics.RoleViewer, nil })}, false},
		"one grant less":     {[]broker.User{app}, []broker.User{change(app, func(u *broker.User) { u.Grants = nil })}, false},
		"one grant more":     {[]broker.User{app}, []broker.User{change(app, func(u *broker.User) { u.Grants = []string{"machine/+/state", "report/#"} })}, false},
		"id":                 {[]broker.User{box}, []broker.User{change(box, func(u *broker.User) { u.ID = "m2" })}, false},
		"renamed":            {[]broker.User{box}, []broker.User{change(box, func(u *broker.User) { u.Name = "crate" })}, false},
		"no users are there": {[]broker.User{box}, nil, false},
	} {
		for _, version := range []byte{4, 5} {
			t.Run(fmt.Sprintf("%s v%d", name, version), func(t *testing.T) {
				var tap notes
				f := newUsersFile(t, c.was...)
				o := listening(f.users)
				o.Tap = &tap
				b := start(t, o)
				r, code := join(t, tcp(t, b, "tcp"), connect{id: "x", user: c.was[0].Name, password: secret, version: version})
				if code != 0 {
					t.Fatalf("refused with %d", code)
				}
				r.ping()
				f.write("# users\n" + lines(c.is...))
				if _, err := f.users.Reload(f.now); err != nil {
					t.Fatal(err)
				}
				if c.stays {
					r.ping()
					return
				}
				pk, err := r.read()
				if version == 5 {
					if err != nil || pk.ReasonCode != 0x98 {
						t.Errorf("%v %#x, %v, want DISCONNECT 0x98", pk.FixedHeader.Type, pk.ReasonCode, err)
					}
					_, err = r.read()
				}
				if err == nil || isTimeout(err) {
					t.Errorf("the connection stands: %v", err)
				}
				closeBroker(t, b)
				if c.was[0].Role == topics.RoleMachine {
					tap.want(t, "up m1", "down m1: its user was removed or changed")
				}
			})
		}
	}
}

// TestKeptSessionsOfUsersWhoChange: what waits for a client outlives a new password, and nothing else.
func TestKeptSessionsOfUsersWhoChange(t *testing.T) {
	secret, hash := broker.NewSecret()
	newSecret, newHash := broker.NewSecret()
	const topic = root + "machine/m1/state"
	was := broker.User{Name: "app", Role: topics.RoleThirdParty, Hash: hash, Grants: []string{"machine/+/state"}}
	for name, c := range map[string]struct {
		is   broker.User
		kept bool
	}{
		"password": {broker.User{Name: "app", Role: topics.RoleThirdParty, Hash: newHash, Grants: was.Grants}, true},
		"grants":   {broker.User{Name: "app", Role: topics.RoleThirdParty, Hash: newHash}, false},
		"removed":  {broker.User{Name: "other", Role: topics.RoleThirdParty, Hash: newHash, Grants: was.Grants}, false},
	} {
		for _, away := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s away=%t", name, away), func(t *testing.T) {
				f := newUsersFile(t, was)
				b := start(t, listening(f.users))
				r, code := join(t, tcp(t, b, "tcp"), connect{id: "x", user: "app", password: secret, keep: true})
				if code != 0 {
					t.Fatalf("refused with %d", code)
				}
				r.subscribe(1, topic)
				if away {
					r.bye()
					until(t, "it has left", func() bool { return b.Open() == 0 })
				}
				f.set(c.is)
				if !away {
					if _, err := r.read(); err == nil || isTimeout(err) {
						t.Fatalf("the connection stands: %v", err)
					}
				}
				until(t, "it has left", func() bool { return b.Open() == 0 })
				f.write(lines(broker.User{Name: "app", Role: topics.RoleThirdParty, Hash: newHash, Grants: was.Grants}))
				if _, err := f.users.Reload(f.now); err != nil {
					t.Fatal(err)
				}
				dial(t, b, fleetID, connect{id: "fleet"}).mustPublish(pub{topic, "UP", 1, true})
				r, present, code := connectRaw(t, tcp(t, b, "tcp"), connect{id: "x", user: "app", password: newSecret, keep: true})
				if code != 0 || present != c.kept {
					t.Fatalf("code %d, the session is present: %t, want %t", code, present, c.kept)
				}
				var want []string
				if c.kept {
					want = []string{"machine/m1/state=UP"}
				}
				r.expect(want...)
				if more := r.ping(); len(more) != 0 {
					t.Errorf("it was given %s as well", text(more[0]))
				}
			})
		}
	}
}

// TestARevokedGrantIsNotResumed: the file changed while the broker was off, and the session with the subscription is on disk.
func TestARevokedGrantIsNotResumed(t *testing.T) {
	ann, secret := person("app", topics.RoleThirdParty)
	ann.Grants = []string{"machine/+/state", "report/#"}
	file := filepath.Join(t.TempDir(), "broker.db")
	for i, grants := range [][]string{{"machine/+/state", "report/#"}, {"machine/+/state", "event/#"}, {"report/#"}} {
		ann.Grants = grants
		users, err := broker.NewUsers([]broker.User{ann})
		if err != nil {
			t.Fatal(err)
		}
		withStore(t, file, listening(users), func(b *broker.Broker, _ *disk) {
			r, present, code := connectRaw(t, tcp(t, b, "tcp"), connect{id: "x", user: "app", password: secret, keep: true})
			if code != 0 || present != (i == 1) {
				t.Fatalf("run %d: code %d, the session is present: %t", i, code, present)
			}
			if i == 0 {
				r.subscribe(1, root+"machine/+/state")
			}
			dial(t, b, fleetID, connect{id: "fleet"}).mustPublish(pub{root + "machine/m1/state", fmt.Sprint(i), 1, true})
			if i < 2 {
				r.expect("machine/m1/state=" + fmt.Sprint(i))
			}
			if more := r.ping(); len(more) != 0 {
				t.Errorf("run %d: it was given %s", i, text(more[0]))
			}
			r.bye()
		})
	}
}

// TestNobodySlipsInWhileUsersChange: a client whose password was checked just before its user was removed does not stay.
func TestNobodySlipsInWhileUsersChange(t *testing.T) {
	ann, secret := person("ann", topics.RoleViewer)
	f := newUsersFile(t, ann)
	b := start(t, listening(f.users))
	for range 100 {
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				c, err := net.Dial("tcp", b.Addr("tcp"))
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Close()
				r := &raw{t: t, net: c, version: 4}
				r.start(connect{id: fmt.Sprint("x", i), user: "ann", password: secret})
				for { // admitted or not, it is closed in the end
					if _, err := r.read(); err != nil {
						if isTimeout(err) {
							t.Error("ann stays")
						}
						return
					}
				}
			})
		}
		f.write("# nobody\n")
		if _, err := f.users.Reload(f.now); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		f.write(lines(ann))
		if _, err := f.users.Reload(f.now); err != nil {
			t.Fatal(err)
		}
	}
}
