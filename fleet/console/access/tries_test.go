package access_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/farebeat/farebeat/fleet/console/access"
)

// tryWrong tries wrong passwords until one is not looked at, and says how many were.
func (c *console) tryWrong(name, remote string) int {
	c.t.Helper()
	for n := range 200 {
		_, _, err := c.gate.SignIn(ctx, name, "wrong", remote)
		if errors.Is(err, access.ErrTooMany) {
			return n
		}
		if !errors.Is(err, access.ErrBadPassword) {
			c.t.Fatal(err)
		}
	}
	return 200
}

func TestAttemptsArePacedByName(t *testing.T) {
	c := newConsole(t, nil)
	if n := c.tryWrong("anna", phone); n != 10 {
		t.Errorf("%d attempts at once", n)
	}
	_, _, err := c.gate.SignIn(ctx, "anna", "anna's password", desk)
	var many access.TooMany
	if !errors.As(err, &many) || many.After <= 0 || many.After > 30*time.Second {
		t.Errorf("the right password from elsewhere: %v", err)
	}
	c.after(many.After)
	if _, _, err := c.gate.SignIn(ctx, "anna", "anna's password", desk); err != nil {
		t.Errorf("after the wait: %v", err)
	}
	if n := c.tryWrong("otto", phone); n != 10 {
		t.Errorf("another name has %d attempts", n)
	}
	c.after(time.Hour)
	if n := c.tryWrong("anna", "198.51.100.1"); n != 10 {
		t.Errorf("%d attempts after an hour", n)
	}
}

// Who signed in from an address is not kept out from there by strangers who try their name.
func TestAStrangerKeepsNobodyOut(t *testing.T) {
	c := newConsole(t, nil)
	c.signIn("anna")
	for i := range 50 {
		c.tryWrong("anna", fmt.Sprint("198.51.100.", i))
	}
	if _, _, err := c.gate.SignIn(ctx, "anna", "anna's password", desk); !errors.Is(err, access.ErrTooMany) {
		t.Errorf("from elsewhere: %v", err)
	}
	c.signIn("anna")
	if n := c.tryWrong("anna", phone); n > 10 {
		t.Errorf("%d attempts from the address", n)
	}
}

func TestAttemptsArePacedByAddress(t *testing.T) {
	c := newConsole(t, nil)
	// 2001:db8::/64 is one client, whatever addresses it takes.
	n := 0
	for ; n < 100; n++ {
		_, _, err := c.gate.SignIn(ctx, fmt.Sprint("name ", n), "wrong", fmt.Sprintf("[2001:db8::%x]:4000", n))
		if errors.Is(err, access.ErrTooMany) {
			break
		}
	}
	if n != 30 {
		t.Errorf("%d attempts at once", n)
	}
	if _, _, err := c.gate.SignIn(ctx, "anna", "anna's password", "[2001:db8:0:1::1]:4000"); err != nil {
		t.Errorf("from another network: %v", err)
	}
	c.after(3 * time.Second)
	if _, _, err := c.gate.SignIn(ctx, "anna", "anna's password", "2001:db8::77"); err != nil {
		t.Errorf("after the wait: %v", err)
	}
}

// However many names and addresses there are: nobody's attempts are forgotten for them, and the audit grows by a bounded number of lines.
func TestAFloodMakesNothingForgotten(t *testing.T) {
	c := newConsole(t, nil)
	if n := c.tryWrong("anna", phone); n != 10 {
		t.Fatal(n)
	}
	for i := range 6000 {
		c.gate.SignIn(ctx, fmt.Sprint("n", i), "wrong", fmt.Sprintf("10.%d.%d.1", i/256, i%256))
	}
	if _, _, err := c.gate.SignIn(ctx, "anna", "wrong", "10.200.0.1"); !errors.Is(err, access.ErrTooMany) {
		t.Errorf("after the flood: %v", err)
	}
	if n := len(c.entries()); n != 100 {
		t.Errorf("%d audit entries", n)
	}
	if _, err := c.gate.Prune(ctx); err != nil {
		t.Fatal(err)
	}
	list := c.entries()
	if last := list[len(list)-1]; len(list) != 101 || last.Detail != fmt.Sprint(11+6000+1-100, " refusals that are not listed") {
		t.Errorf("%d entries, the last: %+v", len(list), last)
	}
	c.after(time.Hour)
	c.signIn("anna")
	c.gate.SignIn(ctx, "anna", "wrong", "10.201.0.1")
	for range 3 {
		c.after(time.Hour)
		if n := c.tryWrong("eve", phone); n != 10 {
			t.Errorf("an hour after the flood %d attempts", n)
		}
	}
}

// Checking a password takes a processor for a while: no more than half of them are taken, few wait, and the others are told so.
func TestPasswordsAreCheckedFewAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now, most atomic.Int32
		let := make(chan struct{})
		c := newConsole(t, nil)
		c.users.during = func() {
			n := now.Add(1)
			for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
			}
			<-let
			now.Add(-1)
		}
		slots := max(1, runtime.GOMAXPROCS(0)/2)
		var mu sync.Mutex
		outcomes := map[string]int{}
		for i := range 100 {
			go func() {
				_, _, err := c.gate.SignIn(ctx, fmt.Sprint("n", i), "wrong", fmt.Sprint("192.0.2.", i))
				mu.Lock()
				defer mu.Unlock()
				outcomes[fmt.Sprint(err)]++
			}()
		}
		synctest.Wait()
		gone, leave := context.WithCancel(ctx)
		leave()
		mu.Lock()
		busy := outcomes[access.ErrBusy.Error()]
		mu.Unlock()
		if int(now.Load()) != slots || busy != 100-32-slots {
			t.Errorf("%d are checked, %d are told to come again", now.Load(), busy)
		}
		if _, _, err := c.gate.SignIn(gone, "x", "y", desk); !errors.Is(err, access.ErrBusy) {
			t.Errorf("one more: %v", err)
		}
		close(let)
		synctest.Wait()
		if int(most.Load()) != slots || outcomes[access.ErrBadPassword.Error()] != 32+slots {
			t.Errorf("%d at once; %v", most.Load(), outcomes)
		}
	})
}

// Whatever is typed: who does not know the password is not let in, and the audit stays readable.
func FuzzSignIn(f *testing.F) {
	f.Add("anna", "anna's password", "127.0.0.1:80")
	f.Add("anna\x00", "anna's password", "[::1]:80")
	f.Add("Anna", "", "@")
	f.Add(strings.Repeat("\xff", 300), strings.Repeat("x", 2000), strings.Repeat("9", 300))
	f.Add("", "' OR 1=1 --", "")
	c := newConsole(f, nil)
	f.Fuzz(func(t *testing.T, name, password, remote string) {
		c.after(5 * time.Second)
		secret, id, err := c.gate.SignIn(ctx, name, password, remote)
		_, known := c.users.Role(name)
		switch right := known && password == name+"'s password"; {
		case err == nil && !right:
			t.Fatalf("%q %q came in", name, password)
		case err == nil:
			if who := whoOf(c.gate.Identify(request(secret))); who != fmt.Sprintf("%s %s password", name, id.Role) {
				t.Error(who)
			}
		case !errors.Is(err, access.ErrBadPassword) && !errors.Is(err, access.ErrTooMany):
			t.Errorf("%q %q: %v", name, password, err)
		}
	})
}
