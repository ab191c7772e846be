package broker_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/broker"
	"github.com/farebeat/farebeat/topics"
)

func TestLoadUsersErrors(t *testing.T) {
	sha := "sha256:" + strings.Repeat("0a", 32)
	for name, c := range map[string]struct {
		text string
		mode os.FileMode
		want string
	}{
		"readable by the group": {"", 0o640, "users file FILE: mode 0640 lets others read it: chmod 600 FILE"},
		"readable by others":    {"", 0o604, "users file FILE: mode 0604 lets others read it: chmod 600 FILE"},
		"too few fields":        {"# ok\n\nann:viewer\n", 0o600, "users file FILE line 3: want name:role:id:hash:grants"},
		"no name":               {":viewer::" + sha, 0o600, `users file FILE line 1: user "": want a name without colon, hash or space`},
		"a space in the name":   {"a b:viewer::" + sha, 0o600, `users file FILE line 1: user "a b": want a name without colon, hash or space`},
		"role":                  {"ann:god::" + sha, 0o600, `users file FILE line 1: user "ann": role "god": want one of [machine gateway fleet operator admin viewer third_party simulator]`},
		"machine without id":    {"m1:machine::" + sha, 0o600, `users file FILE line 1: user "m1": an id is given for the roles machine and gateway, and only for them`},
		"viewer with id":        {"ann:viewer:x:" + sha, 0o600, `users file FILE line 1: user "ann": an id is given for the roles machine and gateway, and only for them`},
		"plain password":        {"ann:viewer::secret", 0o600, `users file FILE line 1: user "ann": the hash is neither bcrypt nor sha256`},
		"half a bcrypt hash":    {"ann:viewer::$2a$10$abc", 0o600, `users file FILE line 1: user "ann": the hash is neither bcrypt nor sha256`},
		"half a sha256 hash":    {"ann:viewer::sha256:0a", 0o600, `users file FILE line 1: user "ann": the sha256 hash is not 64 hex digits in lower case`},
		"twice":                 {"ann:viewer::" + sha + "\nann:operator::" + sha, 0o600, `users file FILE: user "ann": given twice`},
		"an endless line":       {strings.Repeat("x", 1<<17), 0o600, "users file FILE line too long: bufio.Scanner: token too long"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "users")
			if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, c.mode); err != nil {
				t.Fatal(err)
			}
			_, err := broker.LoadUsers(path)
			if want := strings.ReplaceAll(c.want, "FILE", path); err == nil || err.Error() != want {
				t.Errorf("got  %v\nwant %s", err, want)
			}
		})
	}
	if _, err := broker.LoadUsers(filepath.Join(t.TempDir(), "none")); err == nil || !os.IsNotExist(unwrap(err)) {
		t.Errorf("no file: %v", err)
	}
}

func unwrap(err error) error {
	for {
		u, ok := err.(interface{ Unwrap() error })
		if !ok {
			return err
		}
		if os.IsNotExist(err) {
			return err
		}
		err = u.Unwrap()
	}
}

func TestUsersCheck(t *testing.T) {
	secret, secretHash := broker.NewSecret()
	bcrypted, err := broker.HashPassword("correct horse")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "users")
	list := []broker.User{
		{Name: "box", Role: topics.RoleMachine, ID: "m1", Hash: secretHash},
		{Name: "app", Role: topics.RoleThirdParty, Hash: bcrypted, Grants: []string{"machine/+/state", "report/#"}},
	}
	if err := os.WriteFile(path, []byte("# users\n"+list[0].Line()+"\n\n"+list[1].Line()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	users, err := broker.LoadUsers(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, password string
		want           topics.Identity
	}{
		{"box", secret, topics.Identity{Role: topics.RoleMachine, Name: "m1"}},
		{"app", "correct horse", topics.Identity{Role: topics.RoleThirdParty, Name: "app", Grants: list[1].Grants}},
		{"box", "", topics.Identity{}},
		{"box", secretHash, topics.Identity{}},
		{"m1", secret, topics.Identity{}},
		{"app", "correct", topics.Identity{}},
		{"nobody", "x", topics.Identity{}},
	} {
		got, err := users.Check(c.name, []byte(c.password))
		if diff := cmp.Diff(c.want, got); diff != "" || (err == nil) != (c.want.Name != "") {
			t.Errorf("%s: %v %s", c.name, err, diff)
		}
	}
	if _, err := broker.HashPassword(strings.Repeat("x", 73)); err == nil {
		t.Error("bcrypt would cut a password of 73 bytes")
	}
}

func FuzzParseUsers(f *testing.F) {
	sha := "sha256:" + strings.Repeat("0a", 32)
	for _, s := range []string{"", "# x", "ann:viewer::" + sha, "m:machine:m1:" + sha + ":", "t:third_party::" + sha + ":route/#,a:b", "a:b:c", ":::", "a:viewer::$2a$10$7EqJtq98hPqEX7fNZaFWoOhi5B0a0lC4Tj5n0mBrdvhlNr7Yv8bK2:x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		list, err := broker.ParseUsers(strings.NewReader(text))
		if err != nil {
			return
		}
		var again strings.Builder
		for _, u := range list {
			again.WriteString(u.Line() + "\n")
		}
		got, err := broker.ParseUsers(strings.NewReader(again.String()))
		if diff := cmp.Diff(list, got); err != nil || diff != "" {
			t.Errorf("%q became %q: %v %s", text, again.String(), err, diff)
		}
	})
}
