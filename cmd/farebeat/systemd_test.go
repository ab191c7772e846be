//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/farebeat/farebeat/configs"
	"github.com/farebeat/farebeat/fleet"
)

// notifySocket is what systemd listens on.
type notifySocket struct {
	t    *testing.T
	conn *net.UnixConn
}

func newNotifySocket(t *testing.T, watchdog time.Duration) *notifySocket {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	t.Setenv("WATCHDOG_USEC", strconv.FormatInt(watchdog.Microseconds(), 10))
	return &notifySocket{t, conn}
}

// next waits for a message; "" where none comes within patience.
func (s *notifySocket) next(patience time.Duration) string {
	s.t.Helper()
	b := make([]byte, 256)
	if err := s.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		s.t.Fatal(err)
	}
	n, err := s.conn.Read(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return ""
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return string(b[:n])
}

func (s *notifySocket) want(states ...string) {
	s.t.Helper()
	for _, state := range states {
		if got := s.next(time.Minute); got != state {
			s.t.Fatalf("systemd was told %q, want %q", got, state)
		}
	}
}

// TestSystemdIsTold: that it serves, that it turns, that it stops.
func TestSystemdIsTold(t *testing.T) {
	dir := t.TempDir()
	for name, args := range map[string][]string{
		"serve": {"serve", "--config", loopback(t), "--set", "data=" + filepath.Join(dir, "data"), "--set", "console.address=", "--set", "broker.metrics_address=", "--set", "fleet.tick=100ms"},
		"edge":  {"edge", "--vehicle", "7", "--radio", "socket:" + dir, "--set", "client.server=tcp://" + freePort(t), "--set", "data=" + dir},
	} {
		t.Run(name, func(t *testing.T) {
			systemd := newNotifySocket(t, 2*time.Second)
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan int, 1)
			var errOut lockedBuffer
			go func() { ended <- run(ctx, args, strings.NewReader(""), &bytes.Buffer{}, &errOut) }()
			systemd.want("READY=1", "WATCHDOG=1", "WATCHDOG=1", "WATCHDOG=1")
			stop()
			got := "WATCHDOG=1"
			for got == "WATCHDOG=1" { // one more may have been on its way
				got = systemd.next(time.Minute)
			}
			if code := <-ended; got != "STOPPING=1" || code != exitOK {
				t.Errorf("told %q, exit code %d\n%s", got, code, errOut.bytes())
			}
		})
	}
}

// TestAStalledRoundStopsTheWatchdog: whatever else of the service goes on, systemd hears of it only while rounds are made.
func TestAStalledRoundStopsTheWatchdog(t *testing.T) {
	systemd := newNotifySocket(t, 200*time.Millisecond)
	service, err := underSystemd(50*time.Millisecond, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	hang, hangs, on := make(chan struct{}), make(chan struct{}), make(chan struct{})
	rig := newConsoleRig(t, nil, nil, nil, nil, func(o *serverOptions) {
		count := o.watch
		o.turned = service.turned
		o.watch = func(r fleet.Round) {
			count(r)
			select {
			case <-hang:
				hangs <- struct{}{}
				<-on
			default:
			}
		}
	})
	systemd.want("WATCHDOG=1", "WATCHDOG=1")
	close(hang)
	<-hangs
	for systemd.next(200*time.Millisecond) != "" { // what was told before
	}
	if got := systemd.next(time.Second); got != "" { // five times what the watchdog waits for
		t.Errorf("told %q while no round was made", got)
	}
	if code, _ := rig.get("/signin"); code >= 500 {
		t.Errorf("the rest of the service does not answer: %d", code)
	}
	hang = nil // only the goroutine of rounds reads it, and that waits
	close(on)
	systemd.want("WATCHDOG=1")
}

func TestAWatchdogThatCannotWaitIsRefused(t *testing.T) {
	newNotifySocket(t, 9*time.Second)
	var errOut bytes.Buffer
	args := []string{"serve", "--config", loopback(t), "--set", "data=" + t.TempDir(), "--set", "console.address=", "--set", "broker.metrics_address="}
	if code := run(t.Context(), args, strings.NewReader(""), &bytes.Buffer{}, &errOut); code != exitUsage || !strings.Contains(errOut.String(), "fleet.tick") || !strings.Contains(errOut.String(), "set WatchdogSec of the unit to 10s or more") {
		t.Errorf("code %d, %s", code, errOut.String())
	}
}

// exposure is the most that `systemd-analyze security` of systemd 252 may find, in tenths, out of 100. It found 12 and 19.
var exposure = map[string]string{"farebeat.service": "15", "farebeat-edge.service": "22"}

// TestUnits has systemd itself judge the units.
func TestUnits(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not installed")
	}
	units := filepath.Join("..", "..", "configs", "systemd")
	for name, most := range exposure {
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join(units, name))
			if err != nil {
				t.Fatal(err)
			}
			program, err := os.Executable() // it is there, and can be run
			if err != nil {
				t.Fatal(err)
			}
			unit := filepath.Join(t.TempDir(), name)
			put(t, unit, strings.ReplaceAll(string(text), "/usr/local/bin/farebeat", program))
			out, err := exec.CommandContext(t.Context(), analyze, "verify", "--man=no", unit).CombinedOutput()
			if err != nil || len(bytes.TrimSpace(out)) > 0 {
				t.Errorf("verify: %v\n%s", err, out)
			}
			out, err = exec.CommandContext(t.Context(), analyze, "security", "--offline=true", "--no-pager", "--threshold="+most, unit).CombinedOutput()
			_, overall, found := strings.Cut(string(out), "Overall exposure level")
			if err != nil || !found {
				t.Errorf("security: %v\n%s", err, out)
			}
			t.Logf("exposure %s", strings.TrimSpace(overall))
		})
	}
	files, err := os.ReadDir(units)
	if err != nil || len(files) != len(exposure) {
		t.Errorf("%v, %v: name each unit in exposure", files, err)
	}
}

// TestUnitsFitTheProgram: the watchdog waits for two rounds of any allowed length, and the program reads what the units give.
func TestUnitsFitTheProgram(t *testing.T) {
	c := configs.Default()
	c.Fleet.Tick = time.Minute // the most that is valid
	for name, turn := range map[string]time.Duration{"farebeat.service": c.Fleet.Tick, "farebeat-edge.service": agentTurn} {
		text, err := os.ReadFile(filepath.Join("..", "..", "configs", "systemd", name))
		if err != nil {
			t.Fatal(err)
		}
		_, value, _ := strings.Cut(string(text), "\nWatchdogSec=")
		value, _, _ = strings.Cut(value, "\n")
		wait, err := time.ParseDuration(strings.NewReplacer("min", "m", "60", "60s").Replace(value))
		if err != nil || wait < 2*turn {
			t.Errorf("%s: WatchdogSec=%s for turns of %v: %v", name, value, turn, err)
		}
		_, start, _ := strings.Cut(string(text), "\nExecStart=/usr/local/bin/farebeat ")
		start, _, _ = strings.Cut(start, "\n")
		unitRuns(t, name, strings.Fields(start))
		if !strings.Contains(string(text), "\nRestartPreventExitStatus="+strconv.Itoa(exitUsage)+"\n") {
			t.Errorf("%s starts a service again whose configuration is wrong", name)
		}
	}
}

// TestWhatTheWatchdogAbortsIsStartedAgain: Go ends an aborted program, as one that panics, with the exit code of a wrong configuration, after which the
// units start nothing. With their environment it dies of the signal.
func TestWhatTheWatchdogAbortsIsStartedAgain(t *testing.T) {
	for _, name := range []string{"farebeat.service", "farebeat-edge.service"} {
		text, err := os.ReadFile(filepath.Join("..", "..", "configs", "systemd", name))
		if err != nil {
			t.Fatal(err)
		}
		systemd := newNotifySocket(t, time.Minute)
		dir := t.TempDir()
		cmd := exec.CommandContext(t.Context(), "farebeat", "serve", "--config", loopback(t), "--set", "data="+dir, "--set", "console.address=", "--set", "broker.metrics_address=")
		cmd.Env = append(os.Environ(), "WATCHDOG_PID=")
		for line := range strings.Lines(string(text)) {
			if value, ok := strings.CutPrefix(strings.TrimSpace(line), "Environment="); ok {
				cmd.Env = append(cmd.Env, value)
			}
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		systemd.want("READY=1")
		if err := cmd.Process.Signal(syscall.SIGABRT); err != nil {
			t.Fatal(err)
		}
		var ended *exec.ExitError
		if err := cmd.Wait(); !errors.As(err, &ended) || ended.Sys().(syscall.WaitStatus).Signal() != syscall.SIGABRT {
			t.Errorf("%s: %v, which systemd takes for a wrong configuration if it is exit status %d", name, err, exitUsage)
		}
	}
}

// unitRuns wants a unit's arguments to be a command of the program with a configuration that it takes.
func unitRuns(t *testing.T, name string, args []string) {
	t.Helper()
	cmd, flags, err := newRootCmd().Find(args)
	if err == nil {
		err = cmd.ParseFlags(flags)
	}
	if want := map[string]string{"farebeat.service": "serve", "farebeat-edge.service": "edge"}[name]; err != nil || cmd.Name() != want {
		t.Fatalf("%s runs %q, want %s: %v", name, args, want, err)
	}
	set, err := cmd.Flags().GetStringArray("set")
	if err != nil {
		t.Fatal(err)
	}
	if c, err := configs.Load(configs.Options{Set: set}); err != nil || c.Data != "/var/lib/farebeat" {
		t.Errorf("%s: data in %q, %v", name, c.Data, err)
	}
	if file := cmd.Flag("config").Value.String(); file != "/etc/farebeat/farebeat.yaml" {
		t.Errorf("%s reads %q", name, file)
	}
}
