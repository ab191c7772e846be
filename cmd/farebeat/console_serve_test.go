package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/farebeat/farebeat/broker"
	"github.com/farebeat/farebeat/configs"
	"github.com/farebeat/farebeat/fleet/console/access"
	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
	"github.com/farebeat/farebeat/topics/session"
)

func TestTheConsoleIsNotServedInClearBeyondThisComputer(t *testing.T) {
	for _, x := range []struct {
		c  configs.Console
		ok bool
	}{
		{configs.Console{Address: "127.0.0.1:8080"}, true},
		{configs.Console{Address: "[::1]:8080"}, true},
		{configs.Console{Address: "localhost:8080"}, true},
		{configs.Console{Address: ":8080"}, false},
		{configs.Console{Address: "0.0.0.0:8080"}, false},
		{configs.Console{Address: "[::]:8080"}, false},
		{configs.Console{Address: "10.0.0.1:8080"}, false},
		{configs.Console{Address: "console.example:443"}, false},
		{configs.Console{Address: "127.0.0.1.example:443"}, false},
		{configs.Console{Address: "127.0.0.1"}, false}, // no port
		{configs.Console{Address: "10.0.0.1:8080", CertFile: "cert", KeyFile: "key"}, true},
		{configs.Console{Address: "10.0.0.1:8080", PlainHTTP: true}, true},
	} {
		if err := consoleIsSafe(x.c); (err == nil) != x.ok {
			t.Errorf("%+v: %v", x.c, err)
		}
	}
}

func TestTheConsoleIsServedOverTLS(t *testing.T) {
	dir := t.TempDir()
	cert, key := selfSigned(t)
	certFile, keyFile := filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	for path, text := range map[string]string{certFile: cert, keyFile: key} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	rig := newConsoleRig(t, consoleRole(access.Viewer), nil, nil, func(c *configs.Config) { c.Console.CertFile, c.Console.KeyFile = certFile, keyFile })
	if !strings.HasPrefix(rig.base, "https://") {
		t.Errorf("it tells people to look at %s", rig.base)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(cert))
	rig.client.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, rig.base+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := rig.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusOK || res.ProtoMajor != 2 { // HTTP/1 has six connections for all tabs of a browser, and each live page holds one
		t.Errorf("%s over %s", res.Status, res.Proto)
	}
}

// TestMQTTThroughTheConsoleOnlyReads: who signs in hears what their role may, and an admin publishes nothing there.
func TestMQTTThroughTheConsoleOnlyReads(t *testing.T) {
	file := filepath.Join(t.TempDir(), "users")
	secret := usersCommand(t, file, "add", "ada", "--role", "admin")
	rig := newConsoleRig(t, nil, nil, nil, func(c *configs.Config) {
		c.Broker.UsersFile, c.Broker.Listeners = file, []configs.Listener{{Name: "in", Kind: "ws", Address: "127.0.0.1:0"}}
	})
	tree := rig.server.o.tree
	heard := make(chan string, 1024)
	connect := func(id, server string) (*session.Session, <-chan struct{}) {
		up, down := make(chan struct{}, 16), make(chan struct{}, 16)
		s, err := session.New(session.Options{
			ClientID: id, Username: "ada", Password: secret, CleanSession: true, Servers: []string{server},
			Up: func() { up <- struct{}{} }, Down: func(error) { down <- struct{}{} },
		})
		if err != nil {
			t.Fatal(err)
		}
		s.Handle(tree.Root()+"fleet/#", 1, func(_ context.Context, d *session.Delivery) error {
			heard <- id
			return nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		var done sync.WaitGroup
		done.Go(func() { _ = s.Run(ctx) })
		t.Cleanup(func() {
			cancel()
			done.Wait()
		})
		<-up
		return s, down
	}
	topic, err := tree.Build(topics.Address{Kind: topics.Report, Source: "ada"})
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(schemas.Report{ID: "r1", At: time.Now(), Machine: "m1", Vehicle: "v1", Text: "dark", By: "ada"})
	if err != nil {
		t.Fatal(err)
	}
	report := session.Message{Topic: topic, QoS: 1, Payload: body}
	reports := func() int {
		t.Helper()
		list, err := rig.store.Faults().List(t.Context(), faults.Query{Live: true, Machine: "m1"})
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}

	tab, down := connect("tab", "ws"+strings.TrimPrefix(rig.base, "http")+"/mqtt")
	if id := <-heard; id != "tab" {
		t.Errorf("heard by %s", id)
	}
	tabs := slices.DeleteFunc(rig.server.broker.Clients(), func(c broker.ClientInfo) bool { return c.ID != "tab" })
	if len(tabs) != 1 || !tabs[0].ReadOnly || tabs[0].Role != topics.RoleAdmin {
		t.Errorf("%+v", tabs)
	}
	_ = tab.Publish(t.Context(), report) // it may be told, or not any more
	<-down                               // whoever publishes where one only reads is put out
	rig.pass(3)
	if n := reports(); n != 0 {
		t.Errorf("a report that came through the console is %d faults", n)
	}

	desk, _ := connect("desk", "ws://"+rig.server.broker.Addr("in"))
	if err := desk.Publish(t.Context(), report); err != nil {
		t.Fatal(err)
	}
	for reports() == 0 { // the same report, where one may publish
		rig.pass(1)
	}
}
