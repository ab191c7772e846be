package main

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/farebeat/farebeat/broker"
	"github.com/farebeat/farebeat/configs"
	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/topics"
	"github.com/farebeat/farebeat/topics/session"
)

// usersCommand runs `farebeat users` on a file and returns what it printed.
func usersCommand(t *testing.T, file string, args ...string) string {
	t.Helper()
	var out, errOut bytes.Buffer
	if code := run(t.Context(), append(append([]string{"users"}, args...), "--file", file), strings.NewReader(""), &out, &errOut); code != exitOK {
		t.Fatalf("%v: %d %s", args, code, errOut.String())
	}
	return strings.TrimSpace(out.String())
}

// TestUsersChangeWhileTheServiceRuns: who is removed on the command line is out; a file that is wrong is a fault until it is right, and puts
// nobody out.
func TestUsersChangeWhileTheServiceRuns(t *testing.T) {
	file := filepath.Join(t.TempDir(), "users")
	annSecret := usersCommand(t, file, "add", "ann", "--role", "viewer")
	bobSecret := usersCommand(t, file, "add", "bob", "--role", "operator")
	hangup := make(chan os.Signal)
	rig := newConsoleRig(t, nil, nil, nil, func(c *configs.Config) {
		c.Broker.UsersFile, c.Broker.Listeners = file, []configs.Listener{{Name: "look", Kind: "ws", Address: "127.0.0.1:0", ReadOnly: true}}
	}, func(o *serverOptions) { o.hangup = hangup })
	ends := map[string]chan struct{}{}
	for name, secret := range map[string]string{"ann": annSecret, "bob": bobSecret} {
		up, down := make(chan struct{}, 16), make(chan struct{}, 16)
		ends[name] = down
		s, err := session.New(session.Options{
			ClientID: name, Username: name, Password: secret, CleanSession: true, Servers: []string{"ws://" + rig.server.broker.Addr("look")},
			Up: func() { up <- struct{}{} }, Down: func(error) { down <- struct{}{} },
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var done sync.WaitGroup
		done.Go(func() { _ = s.Run(ctx) }) // bob is refused in the end
		defer done.Wait()
		defer cancel()
		<-up
	}
	for _, c := range rig.server.broker.Clients() {
		if !c.InProcess && !c.ReadOnly {
			t.Errorf("%+v may publish on a listener that only reads", c)
		}
	}
	usersCommand(t, file, "remove", "bob")
	<-ends["bob"] // by itself, within seconds

	live := func() []faults.Fault {
		t.Helper()
		list, err := rig.store.Faults().List(t.Context(), faults.Query{Kinds: []faults.Kind{faults.UsersFile}, Live: true})
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	until := func(what string, is func() bool) {
		t.Helper()
		for !is() {
			if t.Context().Err() != nil {
				t.Fatal(what)
			}
			rig.pass(1)
		}
	}
	right, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("ann:boss::x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	hangup <- nil
	until("no fault", func() bool { return len(live()) == 1 })
	if f := live()[0]; !strings.Contains(f.Reason, `line 1: user "ann": role "boss"`) {
		t.Errorf("the fault says %q", f.Reason)
	}
	if err := os.WriteFile(file, right, 0o600); err != nil {
		t.Fatal(err)
	}
	hangup <- nil
	until("the fault stays", func() bool { return len(live()) == 0 })
	if len(ends["ann"]) > 0 {
		t.Error("ann lost her session")
	}
}

// TestAHangupIsForEachUsersFile: the broker's and the console's are looked at by two, and both are asked.
func TestAHangupIsForEachUsersFile(t *testing.T) {
	dir := t.TempDir()
	c := configs.Default()
	c.Broker.UsersFile, c.Console.UsersFile = filepath.Join(dir, "machines"), filepath.Join(dir, "people")
	for _, file := range []string{c.Broker.UsersFile, c.Console.UsersFile} {
		usersCommand(t, file, "add", "ann", "--role", "viewer")
	}
	users, err := openUsers(serverOptions{config: c, now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	if len(users.parts()) != 2 {
		t.Errorf("%d parts that may fail, want 2", len(users.parts()))
	}
	synctest.Test(t, func(t *testing.T) {
		hangup := make(chan os.Signal)
		ctx, cancel := context.WithCancel(t.Context())
		var done sync.WaitGroup
		done.Go(func() { users.watch(ctx, hangup, time.Now, slog.New(slog.DiscardHandler)) })
		for _, file := range []string{c.Broker.UsersFile, c.Console.UsersFile} {
			usersCommand(t, file, "add", "bob", "--role", "operator")
		}
		hangup <- nil
		synctest.Wait()
		users.each(func(name string, u *broker.Users) {
			if role, ok := u.Role("bob"); !ok || role != topics.RoleOperator {
				t.Errorf("%s: bob is %q, %t", name, role, ok)
			}
		})
		cancel()
		done.Wait()
	})
}

// TestCommandsOnOneUsersFileWaitForEachOther: none undoes what another did.
func TestCommandsOnOneUsersFileWaitForEachOther(t *testing.T) {
	file := filepath.Join(t.TempDir(), "users")
	var all sync.WaitGroup
	for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		all.Go(func() {
			var out bytes.Buffer
			if code := run(t.Context(), []string{"users", "add", name, "--role", "viewer", "--file", file}, strings.NewReader(""), &out, &out); code != exitOK {
				t.Errorf("%s: %d %s", name, code, out.String())
			}
		})
	}
	all.Wait()
	if n := strings.Count(usersCommand(t, file, "list"), "viewer"); n != 8 {
		t.Errorf("%d users, want 8", n)
	}
}
