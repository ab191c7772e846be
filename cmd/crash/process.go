//go:build unix

package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is one program of the system under test, over all its lives. Its methods are called by one goroutine,
// except for what mu guards.
type process struct {
	name, kind string
	binary     string
	args       func(offset time.Duration) []string
	dir        string        // its data, on a disk of its own where that can be had
	logs       string        // folder
	line       func([]byte)  // takes what it prints to standard output; nil: nobody
	offset     time.Duration // of its clock
	mounted    bool          // dir is a disk of its own
	filled     bool

	mu      sync.Mutex
	cmd     *exec.Cmd
	ended   chan struct{} // closed when the program of cmd is gone and all it printed is read
	asked   bool          // we ended it
	unasked int           // times that it ended by itself
	lastErr string
}

// start begins a life.
func (p *process) start() error {
	log, err := os.OpenFile(filepath.Join(p.logs, p.name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	fmt.Fprintf(log, "-- start %s, clock %+gh\n", time.Now().UTC().Format(time.RFC3339Nano), p.offset.Hours())
	outRead, outWrite, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd := exec.Command(p.binary, p.args(p.offset)...) //nolint:noctx // it lives until it is killed
	cmd.Stdout, cmd.Stderr = outWrite, log
	// What configures the tests is no key of the program, which refuses variables that it does not know.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "FAREBEAT_") })
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt of ours is not meant for it
	err = cmd.Start()
	_ = outWrite.Close()
	if err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	ended := make(chan struct{})
	p.mu.Lock()
	p.cmd, p.ended, p.asked = cmd, ended, false
	p.mu.Unlock()
	go func() {
		read(outRead, p.line)
		err := cmd.Wait()
		_ = log.Close()
		p.mu.Lock()
		if !p.asked {
			p.unasked++
			p.lastErr = fmt.Sprint(err)
		}
		p.mu.Unlock()
		close(ended)
	}()
	return nil
}

func read(r io.ReadCloser, line func([]byte)) {
	defer r.Close()
	in := bufio.NewReader(r)
	for {
		b, err := in.ReadBytes('\n')
		if err != nil {
			return // an end without a newline is a line that a kill cut
		}
		if line != nil {
			line(b)
		}
	}
}

// alarms are the lines of its log that say that the program broke.
func (p *process) alarms() ([]string, error) {
	log, err := os.Open(filepath.Join(p.logs, p.name+".log"))
	if err != nil {
		return nil, err
	}
	var out []string
	read(log, func(line []byte) {
		for _, mark := range []string{"panic:", "DATA RACE", "fatal error:"} {
			if bytes.Contains(line, []byte(mark)) {
				out = append(out, p.name+": "+string(bytes.TrimSpace(line)))
			}
		}
	})
	return out, nil
}

// alive reports whether the program runs.
func (p *process) alive() bool {
	p.mu.Lock()
	ended := p.ended
	p.mu.Unlock()
	if ended == nil {
		return false
	}
	select {
	case <-ended:
		return false
	default:
		return true
	}
}

// kill ends it as a loss of power does, and reports whether it ran.
func (p *process) kill() bool {
	ran := p.alive()
	p.signal(syscall.SIGKILL)
	p.mu.Lock()
	ended := p.ended
	p.mu.Unlock()
	if ended != nil {
		<-ended
	}
	return ran
}

func (p *process) signal(sig syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		p.asked = true
		_ = p.cmd.Process.Signal(sig) // one that is gone already is what was wanted
	}
}

// stop ends it in order. A program that does not go in time, or goes with an error, is an error.
func (p *process) stop(ctx context.Context, patience time.Duration) error {
	if !p.alive() {
		return fmt.Errorf("%s does not run", p.name)
	}
	p.signal(syscall.SIGTERM)
	p.mu.Lock()
	ended, cmd := p.ended, p.cmd
	p.mu.Unlock()
	select {
	case <-ended:
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(patience):
		p.signal(syscall.SIGQUIT) // its goroutines go to the log
		<-ended
		return fmt.Errorf("%s did not stop within %s; its goroutines are in its log", p.name, patience)
	}
	if code := cmd.ProcessState.ExitCode(); code != 0 {
		return fmt.Errorf("%s stopped with exit code %d", p.name, code)
	}
	return nil
}

// revive starts a program that ended by itself, for want of a disk for example.
func (p *process) revive() error {
	if p.alive() {
		return nil
	}
	return p.start()
}
