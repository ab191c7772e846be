package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/farebeat/farebeat/broker"
	"github.com/farebeat/farebeat/fleet/keys"
	"github.com/farebeat/farebeat/topics"
)

// simulateAgainst lets one vehicle drive for at most length, and returns the exit code and what was printed.
func simulateAgainst(t *testing.T, server, user, password, length string) (int, string) {
	t.Helper()
	dir := t.TempDir()
	master, day := filepath.Join(dir, "master.key"), filepath.Join(dir, "day.csv")
	if _, err := keys.Create(master); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(day, []byte("vehicle_id,route_id,from_epoch,to_epoch\n1,A,1723374000,1723377600\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out, errOut bytes.Buffer
	code := run(t.Context(), []string{
		"simulate", "--trace", day, "--master-key", master, "--speed", "60", "--for", length, "--set", "operator=hart",
		"--set", "client.server=" + server, "--set", "client.username=" + user, "--set", "client.password=" + password,
	}, strings.NewReader(""), &out, &errOut)
	return code, errOut.String() + out.String()
}

// TestSimulateTellsThatItIsRefused: heartbeats have QoS 0, which a broker drops without a word. A city of which
// nothing is taken must not look like one that runs.
func TestSimulateTellsThatItIsRefused(t *testing.T) {
	tree, err := topics.New("hart")
	if err != nil {
		t.Fatal(err)
	}
	secret, hash := broker.NewSecret()
	users, err := broker.NewUsers([]broker.User{
		{Name: "city", Role: topics.RoleSimulator, Hash: hash}, {Name: "ann", Role: topics.RoleViewer, Hash: hash},
	})
	if err != nil {
		t.Fatal(err)
	}
	b, err := broker.New(broker.Options{
		Tree: tree, Users: users, AllowSimulator: true, Listeners: []broker.Listener{{Name: "a", Kind: "tcp", Address: "127.0.0.1:0"}},
	})
	if err == nil {
		err = b.Start(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	server := "tcp://" + b.Addr("a")
	if code, text := simulateAgainst(t, server, "city", secret, "10s"); code != exitOK {
		t.Errorf("the role simulator: code %d, %s", code, text)
	}
	if n := b.Stats().Heartbeats; n < 2 {
		t.Errorf("%d heartbeats of the role simulator were taken", n)
	}
	for _, c := range []struct{ user, password, length string }{
		{"ann", secret, "1m"}, // it gives up by itself
		{"city", "wrong", "10s"},
	} {
		code, text := simulateAgainst(t, server, c.user, c.password, c.length)
		if code != exitFailed || !strings.Contains(text, "took no heartbeat") || !strings.Contains(text, `"`+c.user+`"`) || !strings.Contains(text, "broker.allow_simulator") {
			t.Errorf("user %s: code %d, %s", c.user, code, text)
		}
	}
}
