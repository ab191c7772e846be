package notify

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// documented is the program in docs/notifications.md in this language.
func documented(t *testing.T, language string) string {
	t.Helper()
	doc, err := os.ReadFile("../../docs/notifications.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(doc), "```"+language+"\n")
	program, _, ended := strings.Cut(rest, "```\n")
	if !found || !ended {
		t.Fatalf("docs/notifications.md shows no program in %s", language)
	}
	return program
}

func TestDocumentedReceiverInGo(t *testing.T) {
	dir := t.TempDir()
	source, program := filepath.Join(dir, "main.go"), filepath.Join(dir, "receiver")
	if err := os.WriteFile(source, []byte(documented(t, "go")), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "build", "-o", program, source).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	tryReceiver(t, program)
}

func TestDocumentedReceiverInPython(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("there is no python3 here")
	}
	source := filepath.Join(t.TempDir(), "receiver.py")
	if err := os.WriteFile(source, []byte(documented(t, "python")), 0o600); err != nil {
		t.Fatal(err)
	}
	tryReceiver(t, python, source)
}

// tryReceiver runs a receiver and sends it what it must take and what it must not.
func tryReceiver(t *testing.T, command ...string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	cmd := exec.Command(command[0], append(command[1:], address)...)
	cmd.Env = append(os.Environ(), "WEBHOOK_SECRET="+secretText(1))
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() { _ = cmd.Wait(); close(exited) }()
	stop := func() { _ = cmd.Process.Kill(); <-exited }
	defer stop()
	for {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
			break
		}
		select {
		case <-exited:
			t.Fatal("it ended")
		case <-time.After(10 * time.Millisecond):
		}
	}
	for _, c := range []struct {
		name    string
		secrets []Secret
		ahead   time.Duration
		want    int
	}{
		{"signed", []Secret{secret(t, 1)}, 0, 204},
		{"signed with two", []Secret{secret(t, 2), secret(t, 1)}, 0, 204},
		{"another secret", []Secret{secret(t, 2)}, 0, 401},
		{"old", []Secret{secret(t, 1)}, -time.Hour, 401},
	} {
		o := Options{
			Tree: tree(t), Now: func() time.Time { return time.Now().Add(c.ahead) },
			Webhooks: []Webhook{{Name: "desk", URL: "http://" + address, Secrets: c.secrets}},
		}
		got, err := Test(t.Context(), o, "desk")
		var refusal *sendError
		if got.Status != c.want || (err != nil) != (c.want != 204) || err != nil && !errors.As(err, &refusal) {
			t.Errorf("%s: %+v, %v", c.name, got, err)
		}
	}
	stop()
	if n := strings.Count(out.String(), `"type":"`+TypeTest+`"`); n != 2 {
		t.Errorf("it took %d events: %s", n, out.String())
	}
}
