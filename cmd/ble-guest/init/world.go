//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// What the host put into the guest's files.
const (
	operator  = "guest"
	broker    = "127.0.0.1:1883"
	keysDir   = "/etc/farebeat/keys"      // a file for each machine
	secretDir = "/etc/farebeat/passwords" // a file for each user
	serveData = workDir + "/serve"
)

// world is the fleet's side of the guest, which all scenarios share.
type world struct {
	serve    *process
	watcher  *watcher
	plugging sync.Mutex // the kernel gives a new adapter the lowest number that is free
}

// secret is where the password of a user is.
func secret(user string) string { return filepath.Join(secretDir, user) }

// newWorld starts broker and fleet.
func newWorld(ctx context.Context) (*world, error) {
	if err := os.MkdirAll(logsDir, 0o700); err != nil {
		return nil, err
	}
	password, err := os.ReadFile(secret("watcher"))
	if err != nil {
		return nil, err
	}
	w := &world{}
	if w.serve, err = start("serve", nil, "serve", "--config", config, "--set", "data="+serveData); err != nil {
		return nil, err
	}
	w.watcher, err = watch(ctx, strings.TrimSpace(string(password)))
	return w, err
}

// client are the flags of a program that joins the broker as a user.
func client(user string) []string {
	return []string{"--config", config, "--set", "client.server=tcp://" + broker, "--set", "client.username=" + user, "--set", "client.password_file=" + secret(user)}
}

// report has a machine reported as an operator does.
func (w *world) report(ctx context.Context, machine, vehicle string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	_, err := command(ctx, append([]string{"report", "--machine", machine, "--vehicle", vehicle, "Reader dark"}, client("operator")...)...)
	return err
}

// verify proves all records and stops the fleet.
func (w *world) verify(ctx context.Context) (string, error) {
	out, err := command(ctx, "ledger", "verify", "--config", config, "--set", "data="+serveData)
	err = errors.Join(err, w.serve.stop())
	if alarm := alarms("serve"); len(alarm) > 0 {
		err = errors.Join(err, fmt.Errorf("serve broke: %s", alarm[0]))
	}
	return strings.TrimSpace(string(out)), err
}
