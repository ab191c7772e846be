package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// target is a broker under load, a process of its own.
type target struct {
	name           string
	address        string
	user, password string
	process        *exec.Cmd
	log            *bytes.Buffer
}

// farebeat starts the whole fleet service: its broker with the durable store, presence, counts and ledger.
func farebeat(ctx context.Context, binary, dir string) (target, error) {
	users := filepath.Join(dir, "users")
	out, err := exec.CommandContext(ctx, binary, "users", "add", "bench", "--role", "simulator", "--file", users).Output()
	if err != nil {
		return target{}, fmt.Errorf("users add: %w", err)
	}
	address, err := freeAddress(ctx)
	if err != nil {
		return target{}, err
	}
	config := fmt.Sprintf(`operator: bench
data: %s
log: {level: error}
broker:
  listeners: [{name: mqtt, kind: tcp, address: %q, anonymous_readers: true}]
  users_file: %s
  metrics_address: ""
  allow_simulator: true
console: {address: ""}
`, filepath.Join(dir, "data"), address, users)
	path := filepath.Join(dir, "farebeat.yaml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		return target{}, err
	}
	t := target{name: "farebeat serve", address: address, user: "bench", password: strings.TrimSpace(string(out))}
	return t.start(ctx, exec.CommandContext(ctx, binary, "serve", "--config", path))
}

// mosquitto starts the peer with its persistence on, which it writes when it ends and every 30 minutes, not before it
// acknowledges.
func mosquitto(ctx context.Context, binary, dir string) (target, error) {
	address, err := freeAddress(ctx)
	if err != nil {
		return target{}, err
	}
	_, port, _ := net.SplitHostPort(address)
	config := fmt.Sprintf("listener %s 127.0.0.1\nallow_anonymous true\npersistence true\npersistence_location %s/\nmax_queued_messages 0\nmax_inflight_messages 0\nuser root\n", port, dir)
	path := filepath.Join(dir, "mosquitto.conf")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		return target{}, err
	}
	t := target{name: "mosquitto", address: address}
	return t.start(ctx, exec.CommandContext(ctx, binary, "-c", path))
}

func freeAddress(ctx context.Context) (string, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// start runs the process and returns when it listens.
func (t target) start(ctx context.Context, cmd *exec.Cmd) (target, error) {
	t.process, t.log = cmd, &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = t.log, t.log
	if err := cmd.Start(); err != nil {
		return t, fmt.Errorf("start %s: %w", t.name, err)
	}
	deadline := time.Now().Add(30 * time.Second)
	for time.Now().Before(deadline) && ctx.Err() == nil {
		c, err := net.Dial("tcp", t.address)
		if err == nil {
			return t, c.Close()
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.stop()
	return t, fmt.Errorf("%s does not listen at %s: %s", t.name, t.address, t.log)
}

// stop ends the process, by a kill if it does not go.
func (t target) stop() {
	_ = t.process.Process.Signal(syscall.SIGTERM)
	timer := time.AfterFunc(20*time.Second, func() { _ = t.process.Process.Kill() })
	defer timer.Stop()
	_ = t.process.Wait()
}

// usage is what a process cost so far.
type usage struct {
	cpu time.Duration // user and system
	rss int64         // bytes now
}

// usage reads /proc (proc(5)); clock ticks are 1/100 s on Linux.
func (t target) usage() (usage, error) {
	pid := strconv.Itoa(t.process.Process.Pid)
	stat, err := os.ReadFile(filepath.Join("/proc", pid, "stat"))
	if err != nil {
		return usage{}, err
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 22 {
		return usage{}, fmt.Errorf("/proc/%s/stat: %d fields", pid, len(fields))
	}
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	pages, err3 := strconv.ParseInt(fields[21], 10, 64)
	if err := errors.Join(err1, err2, err3); err != nil {
		return usage{}, fmt.Errorf("/proc/%s/stat: %w", pid, err)
	}
	return usage{time.Duration(user+system) * 10 * time.Millisecond, pages * int64(os.Getpagesize())}, nil
}
