//go:build unix

// Command ble-guest runs Farebeat's own edge agent and machines over the real Bluetooth stack of Linux, without a radio: it
// boots a guest in QEMU with Debian's kernel and virtual controllers, where command init does harm to them. scripts/ble-guest
// calls it and says what is needed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// The exit codes.
const (
	exitFailed     = 1 // the guest could not be run
	exitUsage      = 2
	exitDifference = 3  // a scenario failed
	exitSkipped    = 77 // QEMU or the kernel cannot be had here
)

// errMissing says that something is not there that the guest is made of.
var errMissing = errors.New("cannot be had here")

type options struct {
	scenario string
	seed     uint64
	patience time.Duration
	keep     bool
	json     bool
	cache    string
	kernel   bool
}

func main() {
	var o options
	flag.StringVar(&o.scenario, "scenario", "", "names, separated by commas; all without it")
	flag.Uint64Var(&o.seed, "seed", 1, "of all that is random")
	flag.DurationVar(&o.patience, "patience", 10*time.Minute, "how long the guest may take")
	flag.BoolVar(&o.keep, "keep", false, "print the ends of all logs, and keep the work folder with the console's text")
	flag.BoolVar(&o.json, "json", false, "print one JSON object for each scenario instead of a table")
	flag.StringVar(&o.cache, "cache", "", "folder for the kernel; without it ble-guest in the user's cache folder")
	flag.BoolVar(&o.kernel, "kernel", false, "print where the guest's kernel is, which is had first if need be, and run nothing")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "ble-guest: it takes flags only: see -h")
		os.Exit(exitUsage)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, o, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, o options, out, progress io.Writer) int {
	if o.kernel {
		return printKernel(ctx, o, out, progress)
	}
	dir, err := os.MkdirTemp("", "fb-ble-guest-")
	if err != nil {
		fmt.Fprintln(progress, "ble-guest:", err)
		return exitFailed
	}
	t, err := play(ctx, o, dir, progress)
	if o.keep || errors.Is(err, errBroken) {
		fmt.Fprintln(progress, "ble-guest: the guest's console is kept in", dir)
	} else {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	code := tell(err, progress)
	if t == nil || code == exitSkipped {
		return code
	}
	if err := t.print(out, o.json); err != nil {
		fmt.Fprintln(progress, "ble-guest:", err)
		return exitFailed
	}
	if !t.passed() {
		return exitDifference
	}
	return code
}

// tell says why something did not go well, and returns the exit code for it: 0 for nil.
func tell(err error, progress io.Writer) int {
	switch {
	case errors.Is(err, errMissing):
		fmt.Fprintln(progress, "ble-guest: skipped:", err)
		return exitSkipped
	case err != nil:
		fmt.Fprintln(progress, "ble-guest:", err)
		return exitFailed
	}
	return 0
}

// printKernel says where the kernel is, for other guests.
func printKernel(ctx context.Context, o options, out, progress io.Writer) int {
	k, err := o.findKernel(ctx, progress)
	if err == nil {
		_, err = fmt.Fprintln(out, k.image)
	}
	return tell(err, progress)
}

func (o options) findKernel(ctx context.Context, progress io.Writer) (kernel, error) {
	if o.cache == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return kernel{}, fmt.Errorf("%w: give --cache", err)
		}
		o.cache = cache + "/farebeat/ble-guest"
	}
	return findKernel(ctx, o.cache, progress)
}

// play makes the guest and runs it.
func play(ctx context.Context, o options, dir string, progress io.Writer) (*table, error) {
	k, err := o.findKernel(ctx, progress)
	if err != nil {
		return nil, err
	}
	image, err := makeImage(ctx, dir, k)
	if err != nil {
		return nil, err
	}
	return boot(ctx, o, dir, k, image, progress)
}
