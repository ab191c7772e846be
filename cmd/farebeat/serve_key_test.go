package main

import (
	"bytes"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestNoKeyBeforeTheListeners: a first start that finds an address taken leaves no master key, so that nobody keeps a
// copy of one that was never used.
func TestNoKeyBeforeTheListeners(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err == nil {
		err = free.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	for name, broker := range map[string]string{
		"broker":  "broker:\n  listeners: [{name: a, kind: tcp, address: 'TAKEN'}]\n  metrics_address: ''\nconsole: {address: ''}\n",
		"metrics": "broker:\n  listeners: [{name: a, kind: tcp, address: 'FREE'}]\n  metrics_address: 'TAKEN'\nconsole: {address: ''}\n",
		"console": "broker:\n  listeners: [{name: a, kind: tcp, address: 'FREE'}]\n  metrics_address: ''\nconsole: {address: 'TAKEN'}\n",
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			text := strings.NewReplacer("TAKEN", taken.Addr().String(), "FREE", free.Addr().String()).Replace(broker)
			config := filepath.Join(dir, "farebeat.yaml")
			if err := os.WriteFile(config, []byte("data: "+filepath.Join(dir, "data")+"\n"+text), 0o600); err != nil {
				t.Fatal(err)
			}
			var errOut bytes.Buffer
			if code := run(t.Context(), []string{"serve", "--config", config}, strings.NewReader(""), &bytes.Buffer{}, &errOut); code != exitFailed {
				t.Errorf("code %d, %s", code, errOut.String())
			}
			if !strings.Contains(errOut.String(), "address already in use") {
				t.Errorf("%s", errOut.String())
			}
			if _, err := os.Stat(filepath.Join(dir, "data", "master.key")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("there is a master key: %v", err)
			}
		})
	}
}
