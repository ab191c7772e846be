//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/farebeat/farebeat/configs"
	"github.com/farebeat/farebeat/fleet/keys"
)

// readers are the commands that read each secret, by the file of filesOf that holds it.
func readers(t *testing.T, dir string) map[string][]string {
	serve := []string{"serve", "--set", "console.address=" + freePort(t), "--set", "broker.metrics_address="}
	machine := []string{
		"machine", "run", "--id", "m", "--vehicle", "v", "--route", "r", "--key-file", filepath.Join(dir, "machine"), "--set", "data=" + filepath.Join(dir, "machine-data"),
	}
	return map[string][]string{
		"tlskey": serve, "users": serve, "master": serve, "token": serve, "hook": serve, "credentials": serve, "sitekey": serve, "people": serve, "secret": serve,
		"password": machine, "ownkey": machine, "machine": machine,
	}
}

// TestOpenSecretsAreRefusedByWhoReadsThem: not only `config check` refuses a file with a secret that others may read or change.
func TestOpenSecretsAreRefusedByWhoReadsThem(t *testing.T) {
	dir, config := filesOf(t)
	c, err := configs.Load(configs.Options{File: config})
	if err != nil {
		t.Fatal(err)
	}
	commands := readers(t, dir)
	modes := []fs.FileMode{0o644, 0o660, 0o604, 0o602, 0o640}
	if underRace { // each is a whole start of the program
		modes = modes[:1]
	}
	for _, f := range namedFiles(t.Context(), c) {
		if f.private == nil {
			continue
		}
		name := filepath.Base(f.path)
		command, ok := commands[name]
		if !ok {
			t.Errorf("%s: no command here reads it", f.key)
			continue
		}
		delete(commands, name)
		for _, mode := range modes {
			tls := name == "tlskey" || name == "sitekey" || name == "ownkey"
			if tls && mode == 0o640 && os.Geteuid() == 0 {
				continue // root may let its group read one
			}
			t.Run(fmt.Sprintf("%s %04o", f.key, mode), func(t *testing.T) {
				dir, config := filesOf(t)
				path := filepath.Join(dir, name)
				text, err := os.ReadFile(config)
				if err != nil {
					t.Fatal(err)
				}
				put(t, config, strings.ReplaceAll(string(text), "127.0.0.1:8883", freePort(t)))
				if err := os.Chmod(path, mode); err != nil {
					t.Fatal(err)
				}
				args := append(append([]string{}, readers(t, dir)[name]...), "--config", config)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // it is not refused then
				defer cancel()
				var errOut bytes.Buffer
				code := run(ctx, args, strings.NewReader(""), &errOut, &errOut)
				if ctx.Err() != nil || code == exitOK || !strings.Contains(errOut.String(), path) || !strings.Contains(errOut.String(), "chmod 600 "+path) {
					t.Errorf("%v: exit code %d\n%s", command, code, errOut.String())
				}
			})
		}
	}
	for name := range commands {
		t.Errorf("%s is no secret of the configuration", name)
	}
}

// TestGroupOfRootMayReadTLSKeys: as Debian's ssl-cert and Let's Encrypt's hooks have them.
func TestGroupOfRootMayReadTLSKeys(t *testing.T) {
	dir, config := filesOf(t)
	for _, name := range []string{"tlskey", "sitekey"} {
		if err := os.Chmod(filepath.Join(dir, name), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	want := exitUsage
	if os.Geteuid() == 0 {
		want = exitOK
	}
	if code, problems := checkConfig(t, config); code != want {
		t.Errorf("code %d, %q", code, problems)
	}
}

// TestMasterKeyFromElsewhere: environment, credential and file give the same machine keys, and two different ones are refused.
func TestMasterKeyFromElsewhere(t *testing.T) {
	secret := bytes.Repeat([]byte{0xc4}, keys.Size)
	text := hex.EncodeToString(secret)
	master, err := keys.NewMaster(secret)
	if err != nil {
		t.Fatal(err)
	}
	key, err := master.Machine(t.Context(), "m-1")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	credentials := filepath.Join(dir, "credentials")
	if err := os.Mkdir(credentials, 0o700); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(credentials, "master-key"), text+"\n")
	put(t, filepath.Join(credentials, "other"), text)
	farebeat := func(args ...string) (int, string, string) {
		var out, errOut bytes.Buffer
		code := run(t.Context(), append(args, "--set", "data="+filepath.Join(dir, "data")), strings.NewReader(""), &out, &errOut)
		return code, out.String(), errOut.String()
	}
	wantKey := func(from string, args ...string) {
		t.Helper()
		if code, out, errOut := farebeat(append([]string{"machine", "key", "m-1"}, args...)...); code != exitOK || out != hex.EncodeToString(key[:])+"\n" {
			t.Errorf("%s: exit code %d, %s%s", from, code, out, errOut)
		}
	}
	t.Run("environment", func(t *testing.T) {
		t.Setenv("FAREBEAT_FLEET_MASTER_KEY", text)
		wantKey("environment")
		if _, there := os.LookupEnv("FAREBEAT_FLEET_MASTER_KEY"); there {
			t.Error("it is still in the environment, for whatever the process starts")
		}
		for _, bad := range []string{text[1:], "z" + text[1:]} {
			t.Setenv("FAREBEAT_FLEET_MASTER_KEY", bad)
			if code, _, errOut := farebeat("config", "check"); code != exitUsage || !strings.Contains(errOut, "fleet.master_key: master key: want 64 hexadecimal digits") || strings.Contains(errOut, bad[:20]) {
				t.Errorf("exit code %d, %s", code, errOut)
			}
		}
	})
	t.Run("credential", func(t *testing.T) {
		t.Setenv("CREDENTIALS_DIRECTORY", credentials)
		wantKey("the credential master-key")
		wantKey("a named credential", "--set", "fleet.master_key_file=credential:other")
		if code, out, errOut := farebeat("config", "print"); code != exitOK || strings.Contains(out, credentials) {
			t.Errorf("%d: %s%s", code, out, errOut)
		}
		data := filepath.Join(dir, "data")
		if err := os.Mkdir(data, 0o700); err != nil {
			t.Fatal(err)
		}
		put(t, filepath.Join(data, "master.key"), text)
		if code, _, errOut := farebeat("config", "check"); code != exitOK {
			t.Errorf("the same key twice: %s", errOut)
		}
		put(t, filepath.Join(data, "master.key"), strings.Repeat("00", keys.Size))
		if code, _, errOut := farebeat("config", "check"); code != exitUsage || !strings.Contains(errOut, "there are two master keys") {
			t.Errorf("exit code %d, %s", code, errOut)
		}
		if code, _, errOut := farebeat("serve", "--set", "console.address=", "--set", "broker.metrics_address=", "--config", loopback(t)); code == exitOK || !strings.Contains(errOut, "there are two master keys") {
			t.Errorf("serve: exit code %d, %s", code, errOut)
		}
	})
}

// loopback is a configuration whose broker takes any free port.
func loopback(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "farebeat.yaml")
	put(t, path, "broker:\n  listeners: [{name: a, kind: tcp, address: '"+freePort(t)+"'}]\n")
	return path
}
