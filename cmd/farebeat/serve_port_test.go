package main

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A port that is taken is nobody's wrong command line: the same command works when the other program is gone.
func TestServeOnATakenPort(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for address, want := range map[string]struct {
		code int
		text string
	}{
		taken.Addr().String(): {exitFailed, "another program listens there"},
		"127.0.0.1:port":      {exitUsage, "127.0.0.1:port"},
	} {
		var errOut bytes.Buffer
		config := filepath.Join(t.TempDir(), "farebeat.yaml")
		text := "data: " + filepath.Join(t.TempDir(), "data") + "\nbroker:\n  listeners: [{name: a, kind: tcp, address: '" + address + "'}]\n"
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		code := run(t.Context(), []string{"serve", "--config", config}, strings.NewReader(""), &bytes.Buffer{}, &errOut)
		if code != want.code || !strings.Contains(errOut.String(), want.text) {
			t.Errorf("%s: code %d, want %d; %s", address, code, want.code, errOut.String())
		}
	}
}
