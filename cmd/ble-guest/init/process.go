//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

const (
	program  = "/bin/farebeat"
	config   = "/etc/farebeat/farebeat.yaml"
	logsDir  = workDir + "/logs"
	stopTime = 10 * time.Second
)

// process is a program of Farebeat that runs until it is stopped.
type process struct {
	name  string
	cmd   *exec.Cmd
	ended chan struct{} // closed when it is gone and all it printed was read

	mu    sync.Mutex
	asked bool // we ended it
}

// start runs farebeat with args. line gets what it prints to standard output, a line at a time; nil: nobody.
func start(name string, line func([]byte), args ...string) (*process, error) {
	log, err := os.OpenFile(filepath.Join(logsDir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	p := &process{name: name, cmd: exec.Command(program, args...), ended: make(chan struct{})} //nolint:noctx // it lives until it is stopped
	p.cmd.Stderr = log
	out, err := p.cmd.StdoutPipe()
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		log.Close()
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		defer close(p.ended)
		in := bufio.NewScanner(out)
		for in.Scan() {
			if line != nil {
				line(in.Bytes())
			}
		}
		err := p.cmd.Wait()
		p.mu.Lock()
		if !p.asked {
			fmt.Fprintf(log, "ended by itself: %v\n", err)
		}
		p.mu.Unlock()
		log.Close()
	}()
	return p, nil
}

// alive reports whether the program runs.
func (p *process) alive() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// stop ends the program in order. One that is gone already, that fails or that takes too long is an error.
func (p *process) stop() error {
	if !p.alive() {
		return fmt.Errorf("%s ended by itself: %s", p.name, p.cmd.ProcessState)
	}
	p.mu.Lock()
	p.asked = true
	p.mu.Unlock()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop %s: %w", p.name, err)
	}
	select {
	case <-p.ended:
	case <-time.After(stopTime):
		_ = p.cmd.Process.Signal(syscall.SIGQUIT) // its goroutines go into the log
		select {
		case <-p.ended:
		case <-time.After(time.Second):
			_ = p.cmd.Process.Kill()
			<-p.ended
		}
		return fmt.Errorf("stop %s: it went on for %s", p.name, stopTime)
	}
	if !p.cmd.ProcessState.Success() {
		return fmt.Errorf("stop %s: %s", p.name, p.cmd.ProcessState)
	}
	return nil
}

// command runs farebeat to its end and returns what it printed.
func command(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	var out, failure bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &failure
	if err := cmd.Run(); err != nil {
		return out.Bytes(), fmt.Errorf("farebeat %s %s: %w: %s", args[0], args[1], err, bytes.TrimSpace(failure.Bytes()))
	}
	return out.Bytes(), nil
}

// tail is the end of a program's log.
func tail(name string, lines int) [][]byte {
	b, err := os.ReadFile(filepath.Join(logsDir, name+".log"))
	if err != nil {
		return nil
	}
	all := bytes.Split(bytes.TrimSpace(b), []byte("\n"))
	return all[max(0, len(all)-lines):]
}

// alarms are the lines of a program's log that say that it broke.
func alarms(name string) []string {
	b, _ := os.ReadFile(filepath.Join(logsDir, name+".log")) //nolint:errcheck // no log: no alarm
	var out []string
	for line := range bytes.Lines(b) {
		for _, mark := range []string{"panic:", "fatal error:", "DATA RACE"} {
			if bytes.Contains(line, []byte(mark)) {
				out = append(out, name+": "+string(bytes.TrimSpace(line)))
			}
		}
	}
	return out
}
