package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
)

// authority makes the fleet's authority, whose key is a secret like the others.
func (l *leaks) authority() {
	l.farebeat(exitOK, "ca", "init", "--host", "127.0.0.1")
	l.plantKey("authority's key", filepath.Join(l.dir, "data", "ca.key"))
	l.plantKey("server's key", filepath.Join(l.dir, "data", "server.pem"))
}

// plantKey plants the first line of a private key in a PEM file.
func (l *leaks) plantKey(name, file string) {
	l.t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		l.t.Fatal(err)
	}
	_, key, ok := strings.Cut(string(text), "PRIVATE KEY-----\n")
	if !ok {
		l.t.Fatalf("%s has no key", file)
	}
	l.c.text(name, key[:strings.IndexByte(key, '\n')])
}

// code lets a device have a certificate, and plants the code, which is shown to who ordered it and to nobody else.
func (l *leaks) code(args ...string) (url string) {
	l.t.Helper()
	var out, said bytes.Buffer
	if code := run(l.t.Context(), append(append([]string{"enrol"}, args...), "--no-qr", "--config", l.config), strings.NewReader(""), &out, &said); code != exitOK {
		l.t.Fatalf("%v: %s", args, said.Bytes())
	}
	_, _ = l.out.Write(said.Bytes())
	url = strings.TrimSpace(out.String())
	path, _, _ := strings.Cut(url, "#")
	l.c.text("code of "+args[1], path[strings.LastIndexByte(path, '/')+1:])
	return url
}

// join runs a device.
func (l *leaks) join(want int, url, folder string, more ...string) {
	l.t.Helper()
	var said bytes.Buffer
	if code := run(l.t.Context(), append([]string{"join", url, "--out", folder}, more...), strings.NewReader(""), &said, &said); code != want {
		l.t.Errorf("join: exit code %d, want %d: %s", code, want, said.Bytes())
	}
	_, _ = l.out.Write(said.Bytes())
}

// enrol lets devices in, and others not: with a code that was used, that is none, and with a file in their way.
func (l *leaks) enrol() {
	gateway, machine := filepath.Join(l.dir, "device-9"), filepath.Join(l.dir, "device-9-1")
	url := l.code("gateway", "9")
	l.join(exitOK, url, gateway)
	l.plantKey("gateway's key", filepath.Join(gateway, "device.pem"))
	l.join(exitUsage, url, gateway)
	l.join(exitFailed, url, filepath.Join(l.dir, "device-late"), "--timeout", "1s")
	l.join(exitOK, l.code("machine", "9-1", "--vehicle", "9"), machine, "--route", "36")
	l.plantKey("machine's TLS key", filepath.Join(machine, "device.pem"))
	key, err := os.ReadFile(filepath.Join(machine, "machine.key"))
	if err != nil {
		l.t.Fatal(err)
	}
	l.c.text("key of machine 9-1", strings.TrimSpace(string(key)))
	made := l.c.text("code that is none", "CANARYCANARYCANARYCANARYAB")
	address, sum, _ := strings.Cut(url, "#")
	l.join(exitFailed, address[:strings.LastIndexByte(address, '/')+1]+made+"#"+sum, filepath.Join(l.dir, "device-wrong"), "--timeout", "1s")
	l.farebeat(exitOK, "enrol", "list")
	l.farebeat(exitOK, "revoke", "machine", "9-1", "--reason", "lost")
}
