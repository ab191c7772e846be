package access_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/fleet/console/access"
	"github.com/farebeat/farebeat/fleet/console/audit"
)

func TestWhoMayWhat(t *testing.T) {
	for _, c := range []struct {
		have access.Role
		may  string
	}{
		{access.Viewer, "viewer"},
		{access.Operator, "viewer operator"},
		{access.Admin, "viewer operator admin"},
		{"", ""},
		{"root", ""},
		{"Admin", ""},
	} {
		var may []string
		for _, need := range append(access.Roles(), "", "root") {
			if c.have.Covers(need) {
				may = append(may, string(need))
			}
		}
		if got := strings.Join(may, " "); got != c.may {
			t.Errorf("%q may %q, want %q", c.have, got, c.may)
		}
	}
}

// What each role may is asked for by the holder of each secret.
func TestEverySecretMayWhatItsRoleMay(t *testing.T) {
	c := newConsole(t, nil)
	secrets := map[string]string{"nobody": "", "made up": strings.Repeat("A", 43)}
	for _, name := range []string{"vera", "otto", "anna"} {
		secret, id := c.signIn(name)
		secrets[name] = secret
		secrets[name+"'s token"], _ = c.token(id, id.Role, time.Hour)
	}
	_, anna := c.signIn("anna")
	secrets["anna's token to look"], _ = c.token(anna, access.Viewer, time.Hour)
	secrets["a wrong token"] = "fbt_" + strings.Repeat("A", 43)
	for who, want := range map[string]string{
		"nobody": "signed out, signed out, signed out", "made up": "signed out, signed out, signed out", "a wrong token": "bad token, bad token, bad token",
		"vera": "vera, vera is no operator, vera is no admin", "vera's token": "vera, vera is no operator, vera is no admin",
		"otto": "otto, otto, otto is no admin", "otto's token": "otto, otto, otto is no admin",
		"anna": "anna, anna, anna", "anna's token": "anna, anna, anna",
		"anna's token to look": "anna, anna is no operator, anna is no admin",
	} {
		var got []string
		for _, role := range access.Roles() {
			id, err := c.gate.Identify(request(secrets[who]))
			switch {
			case err != nil:
				got = append(got, whoOf(id, err))
			case id.Role.Covers(role):
				got = append(got, id.Name)
			default:
				got = append(got, fmt.Sprintf("%s is no %s", id.Name, role))
			}
		}
		if got := strings.Join(got, ", "); got != want {
			t.Errorf("%s:\n%s, want\n%s", who, got, want)
		}
	}
}

func TestASignInIsToldToTheAudit(t *testing.T) {
	c := newConsole(t, nil)
	for _, x := range []struct{ name, password string }{
		{"anna", "wrong"}, {"hunter2", "x"}, {"", "x"}, {"anna", ""}, {"anna\n", "x"}, {strings.Repeat("n", 200), "x"}, {"anna", strings.Repeat("p", 2000)},
	} {
		if _, _, err := c.gate.SignIn(ctx, x.name, x.password, phone); !errors.Is(err, access.ErrBadPassword) {
			t.Errorf("%.20q %.20q: %v", x.name, x.password, err)
		}
	}
	_, id := c.signIn("anna")
	want := access.Identity{Name: "anna", Role: access.Admin, Via: "password", Pass: id.Pass}
	if id != want || len(id.Pass) != 16 {
		t.Errorf("%+v", id)
	}
	list := c.entries()
	if got := c.audited(); got != strings.Join([]string{
		"anna sign_in refused", " sign_in refused", " sign_in refused", "anna sign_in refused", " sign_in refused", " sign_in refused",
		"anna sign_in refused", "anna sign_in done",
	}, "\n") {
		t.Error(got)
	}
	for _, e := range list {
		if strings.Contains(fmt.Sprint(e), "hunter2") {
			t.Errorf("what may be a password is in the audit: %+v", e)
		}
	}
	last := list[len(list)-1]
	if diff := cmp.Diff(audit.Entry{
		N: 8, At: c.now, By: "anna", Role: "admin", Via: "password", Action: "sign_in", Subject: "console", Detail: "session " + id.Pass,
		Outcome: "done", Remote: phone,
	}, last); diff != "" {
		t.Error(diff)
	}
}

func TestAUserWithoutARoleHereIsRefused(t *testing.T) {
	c := newConsole(t, nil)
	c.users.set("gw-1216", "gateway")
	if _, _, err := c.gate.SignIn(ctx, "gw-1216", "gw-1216's password", phone); !errors.Is(err, access.ErrNoRole) {
		t.Error(err)
	}
}

func TestASessionExpires(t *testing.T) {
	c := newConsole(t, func(o *access.Options) { o.SessionLength, o.IdleLength = 10*time.Hour, time.Hour })
	secret, _ := c.signIn("otto")
	for range 10 {
		c.want(secret, "otto operator password")
		c.after(time.Hour - time.Second)
	}
	c.want(secret, "otto operator password")
	c.after(10 * time.Second)
	c.want(secret, "signed out") // ten hours, though it was in use
	idle, _ := c.signIn("otto")
	c.after(time.Hour - time.Second)
	c.want(idle, "otto operator password")
	c.after(time.Hour)
	c.want(idle, "signed out")
	c.after(-time.Minute) // ended is ended
	c.want(idle, "signed out")
	if got, want := c.audited(), "otto sign_in done\notto session_end done\notto sign_in done\notto session_end done"; got != want {
		t.Errorf("%s, want\n%s", got, want)
	}
}

func TestASessionOutlivesARestart(t *testing.T) {
	c := newConsole(t, nil)
	secret, id := c.signIn("otto")
	token, _ := c.token(id, access.Viewer, 48*time.Hour)
	c.stop()
	c.after(3 * time.Hour)
	c.start()
	c.want(secret, "otto operator password")
	c.want(token, "otto viewer token")
	c.stop()
	file, err := os.ReadFile(c.path)
	if err != nil || len(file) == 0 {
		t.Fatal(err)
	}
	if strings.Contains(string(file), secret) || strings.Contains(string(file), token) {
		t.Error("a secret stands in the store")
	}
	c.start()
}

// Who is gone from the users file, or lowered in it, is out at the next request. A token does what its maker still may.
func TestTheUsersFileIsAskedAtEachRequest(t *testing.T) {
	c := newConsole(t, nil)
	secret, anna := c.signIn("anna")
	token, _ := c.token(anna, access.Operator, 300*24*time.Hour)
	stream := anna
	c.users.set("anna", access.Operator)
	if _, err := c.gate.Check(ctx, stream); !errors.Is(err, access.ErrSignedOut) {
		t.Errorf("a stream of a user who was lowered: %v", err)
	}
	c.want(secret, "signed out")
	c.want(token, "anna operator token")
	c.users.set("anna", access.Viewer)
	c.want(token, "anna viewer token")
	c.users.set("anna", "gateway")
	c.want(token, "bad token")
	c.users.set("anna", access.Admin)
	c.want(secret, "signed out")
	c.want(token, "anna operator token")

	secret, anna = c.signIn("anna")
	c.users.set("anna", "")
	c.want(secret, "signed out")
	c.want(token, "bad token")
	if _, err := c.gate.Check(ctx, access.Identity{Name: "anna", Via: "token", Pass: anna.Pass}); !errors.Is(err, access.ErrSignedOut) && !errors.Is(err, access.ErrBadToken) {
		t.Error(err)
	}

	secret, vera := c.signIn("vera")
	c.users.set("vera", access.Operator)
	c.want(secret, "vera operator password")
	if id, err := c.gate.Check(ctx, vera); whoOf(id, err) != "vera operator password" {
		t.Error(id, err)
	}
}

func TestSigningOut(t *testing.T) {
	c := newConsole(t, nil)
	first, id := c.signIn("otto")
	second, secondID := c.signIn("otto")
	vera, veraID := c.signIn("vera")
	_, anna := c.signIn("anna")
	token, _ := c.token(id, access.Operator, time.Hour)
	if err := c.gate.SignOut(ctx, id, desk); err != nil {
		t.Fatal(err)
	}
	c.want(first, "signed out")
	c.want(second, "otto operator password")
	if err := c.gate.SignOut(ctx, access.Identity{Via: "token", Pass: id.Pass}, desk); !errors.Is(err, access.ErrInvalid) {
		t.Errorf("a token signs out: %v", err)
	}
	if err := c.gate.Revoke(ctx, veraID, desk, secondID.Pass); !errors.Is(err, access.ErrNoPass) {
		t.Errorf("a viewer signs another out: %v", err)
	}
	c.want(second, "otto operator password")
	third, thirdID := c.signIn("otto")
	for _, pass := range []string{secondID.Pass, thirdID.Pass} {
		if err := c.gate.Revoke(ctx, anna, desk, pass); err != nil {
			t.Error(err)
		}
	}
	c.want(second, "signed out")
	c.want(third, "signed out")
	c.want(token, "otto operator token")
	c.want(vera, "vera viewer password")
	if err := c.gate.Revoke(ctx, veraID, desk, veraID.Pass); err != nil {
		t.Error(err)
	}
	c.want(vera, "signed out")
	got := strings.Join(strings.Split(c.audited(), "\n")[5:], "\n")
	if want := "otto sign_out done\nvera session_end refused\notto sign_in done\nanna session_end done\nanna session_end done\nvera session_end done"; got != want {
		t.Errorf("%s, want\n%s", got, want)
	}
}

func TestTheOldestOfTooManySessionsEnds(t *testing.T) {
	c := newConsole(t, nil)
	var secrets []string
	for range 22 {
		secret, _ := c.signIn("otto")
		secrets = append(secrets, secret)
		c.after(time.Minute)
	}
	for i, secret := range secrets {
		want := "otto operator password"
		if i < 2 {
			want = "signed out"
		}
		c.want(secret, want)
	}
}

func TestRunTakesOutWhatHasExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newConsole(t, func(o *access.Options) { o.Now = time.Now })
		c.now = time.Now()
		_, id := c.signIn("otto")
		c.token(id, access.Viewer, 5*time.Hour)
		runCtx, cancel := context.WithCancel(ctx)
		ended := make(chan error)
		go func() { ended <- c.gate.Run(runCtx) }()
		for _, step := range []struct {
			length time.Duration
			left   int
		}{{3 * time.Hour, 2}, {time.Hour + 11*time.Minute, 1}, {time.Hour, 0}} {
			time.Sleep(step.length)
			synctest.Wait()
			if list, err := c.store.Passes().List(ctx, access.PassQuery{}); err != nil || len(list) != step.left {
				t.Errorf("after %v: %+v, %v", step.length, list, err)
			}
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestWhatNoGateIsMadeOf(t *testing.T) {
	c := newConsole(t, nil)
	good := access.Options{Passes: c.store.Passes(), Audit: c.store.AuditLog(), Users: c.users}
	for want, change := range map[string]func(*access.Options){
		"needs a store":       func(o *access.Options) { o.Passes = nil },
		"and an audit":        func(o *access.Options) { o.Audit = nil },
		"nobody could":        func(o *access.Options) { o.Users = nil },
		`the role "root"`:     func(o *access.Options) { o.Open = &access.Identity{Role: "root"} },
		"no negative time":    func(o *access.Options) { o.IdleLength = -1 },
		"issuer \"\"":         func(o *access.Options) { o.OIDC = &access.OIDC{} },
		"http:// with a loop": func(o *access.Options) { o.OIDC = &access.OIDC{Issuer: "http://idp.example"} },
		"client id": func(o *access.Options) {
			o.OIDC = &access.OIDC{Issuer: "https://idp.example", RedirectURL: "https://console.example/oidc"}
		},
		"nobody could come in": func(o *access.Options) {
			o.OIDC = &access.OIDC{Issuer: "https://idp.example", RedirectURL: "https://console.example/oidc", ClientID: "c", Claim: "groups"}
		},
		"client secret": func(o *access.Options) {
			o.OIDC = &access.OIDC{
				Issuer: "https://idp.example", RedirectURL: "https://console.example/oidc", ClientID: "c", Claim: "groups", Admins: []string{"a"},
				SecretFile: "/nonexistent",
			}
		},
	} {
		o := good
		change(&o)
		if _, err := access.New(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
	}
}

func TestWhileTheDiskFailsPeopleCanLook(t *testing.T) {
	c := newConsole(t, nil)
	secret, _ := c.signIn("otto")
	failing := newConsole(t, nil)
	touched := 0
	failing.opts = func(o *access.Options) { o.Passes = failingDisk{c.store.Passes(), &touched} }
	failing.stop()
	failing.start()
	failing.want(secret, "otto operator password")
	failing.after(2 * time.Minute)
	failing.want(secret, "otto operator password")
	if failing.want(secret, "otto operator password"); touched != 1 {
		t.Errorf("tried %d times within a minute", touched)
	}
	failing.after(time.Minute)
	if failing.want(secret, "otto operator password"); touched != 2 {
		t.Errorf("tried %d times", touched)
	}
	if _, _, err := failing.gate.SignIn(ctx, "otto", "otto's password", phone); !errors.Is(err, errDisk) {
		t.Errorf("somebody signs in: %v", err)
	}
}

var errDisk = errors.New("no space left on the device")

// failingDisk is a store that can only be read.
type failingDisk struct {
	access.Passes
	touched *int
}

func (d failingDisk) Touch(context.Context, string, time.Time) error { *d.touched++; return errDisk }

func (d failingDisk) Add(context.Context, access.Pass) error { return errDisk }

func (d failingDisk) Remove(context.Context, access.PassQuery) (int, error) { return 0, errDisk }
