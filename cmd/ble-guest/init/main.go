//go:build linux

// Command init is the first process of a Linux guest that has virtual Bluetooth adapters: it runs Farebeat's own programs
// over them, does harm, and prints what became of each machine's records. It is of no use elsewhere; command ble-guest
// makes the guest.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/farebeat/farebeat/cmd/ble-guest/result"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "init: this is the first process of a guest: run scripts/ble-guest")
		os.Exit(2)
	}
	c := &console{w: os.Stdout}
	end := result.End{}
	if err := run(context.Background(), c, os.Args[1:], &end); err != nil {
		end.Failed = err.Error()
	}
	end.Seconds = sinceBoot().Seconds()
	c.say(result.Line{End: &end})
	powerOff()
}

// console is where the host listens.
type console struct {
	mu sync.Mutex
	w  io.Writer
}

func (c *console) say(l result.Line) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = result.Write(c.w, l) // without a console nobody can be told so
}

func (c *console) note(format string, args ...any) {
	c.say(result.Line{Note: fmt.Sprintf(format, args...)})
}

// run is the guest's life; args are those behind "--" on the kernel's command line.
func run(ctx context.Context, c *console, args []string, end *result.End) error {
	flags := flag.NewFlagSet("init", flag.ContinueOnError)
	only := flags.String("scenario", "", "names, separated by commas; all without it")
	seed := flags.Uint64("seed", 1, "of all that is random")
	logs := flags.Bool("logs", false, "print all logs, also where all is well")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := errors.Join(mounts(), loopbackUp(), loadModules()); err != nil {
		return err
	}
	c.say(result.Line{Boot: &result.Boot{Kernel: release(), Seconds: sinceBoot().Seconds()}})
	chosen, err := choose(*only)
	if err != nil {
		return err
	}
	w, err := newWorld(ctx)
	if err != nil {
		c.logs("serve")
		return err
	}
	c.note("broker and fleet run after %.1f s", sinceBoot().Seconds())
	playAll(ctx, c, w, chosen, *seed, *logs)
	if u, ok := usage(os.Getpid()); ok {
		c.note("the controllers took %.1f s of CPU time", u.CPUSeconds)
	}
	end.Verify, err = w.verify(ctx)
	if err != nil || *logs {
		c.logs("serve")
	}
	return err
}

// lanes is how many scenarios are played at a time: most of their time they wait for a supervision timeout or a back-off.
const lanes = 3

// playAll plays scenarios, the ones that are measured alone first.
func playAll(ctx context.Context, c *console, w *world, chosen []scenario, seed uint64, logs bool) {
	queue := make(chan *stage, len(chosen))
	one := func(st *stage) {
		r := st.run(ctx)
		c.say(result.Line{Scenario: &r})
		if logs || !r.Passed() {
			c.logs(st.programs()...)
		}
	}
	for i, s := range chosen {
		st := newStage(w, s, i+1, seed)
		if s.alone {
			one(st)
		} else {
			queue <- st
		}
	}
	close(queue)
	var wg sync.WaitGroup
	for range lanes {
		wg.Go(func() {
			for st := range queue {
				one(st)
			}
		})
	}
	wg.Wait()
}

// logLines is how much of a program's log is printed.
const logLines = 60

// logs prints the ends of programs' logs.
func (c *console) logs(names ...string) {
	for _, name := range names {
		for _, line := range tail(name, logLines) {
			c.note("%s| %s", name, line)
		}
	}
}

func sinceBoot() time.Duration {
	b, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return 0
	}
	s, _, _ := strings.Cut(string(b), " ")
	d, err := time.ParseDuration(s + "s")
	if err != nil {
		return 0
	}
	return d
}

func release() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}
