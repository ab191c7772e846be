package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/farebeat/farebeat/configs"
	"github.com/farebeat/farebeat/topics"
	"github.com/farebeat/farebeat/topics/session"
)

// TestAGrantIsInForceWhileTheServiceRuns: a third party that was refused is let in by farebeat feed grant, and out again by revoke.
func TestAGrantIsInForceWhileTheServiceRuns(t *testing.T) {
	file := filepath.Join(t.TempDir(), "users")
	feed := func(args ...string) string {
		t.Helper()
		var out, errOut bytes.Buffer
		if code := run(t.Context(), append(append([]string{"feed"}, args...), "--file", file), strings.NewReader(""), &out, &errOut); code != exitOK {
			t.Fatalf("%v: %d %s", args, code, errOut.String())
		}
		return strings.TrimSpace(out.String())
	}
	secret := feed("grant", "bank", "--read", "report/#")
	hangup := make(chan os.Signal)
	rig := newConsoleRig(t, nil, nil, nil, func(c *configs.Config) {
		c.Broker.UsersFile, c.Broker.Listeners = file, []configs.Listener{{Name: "look", Kind: "ws", Address: "127.0.0.1:0", ReadOnly: true}}
	}, func(o *serverOptions) { o.hangup = hangup })
	filter, err := rig.server.o.tree.Filter(topics.Address{Kind: topics.MachineState})
	if err != nil {
		t.Fatal(err)
	}
	up, down := make(chan struct{}, 16), make(chan struct{}, 16)
	s, err := session.New(session.Options{
		ClientID: "bank", Username: "bank", Password: secret, CleanSession: true, Servers: []string{"ws://" + rig.server.broker.Addr("look")},
		Backoff: session.Backoff{Min: time.Millisecond, Max: 10 * time.Millisecond},
		Up:      func() { up <- struct{}{} }, Down: func(error) { down <- struct{}{} },
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Handle(filter, 1, func(context.Context, *session.Delivery) error { return nil })
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() { _ = s.Run(ctx) })
	defer done.Wait()
	defer cancel()
	for rig.server.broker.Stats().RefusedRead == 0 {
		rig.pass(1)
	}
	if len(up) > 0 {
		t.Fatal("it is in without a grant")
	}
	feed("grant", "bank", "--read", "machine/+/state")
	hangup <- nil
	<-up
	feed("revoke", "bank", "--read", "machine/+/state")
	hangup <- nil
	<-down
	refused := rig.server.broker.Stats().RefusedRead
	for rig.server.broker.Stats().RefusedRead < refused+1 {
		rig.pass(1)
	}
	if len(up) > 0 {
		t.Error("it is in again")
	}
}
