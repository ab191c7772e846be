//go:build unix

package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/farebeat/farebeat/cmd/ble-guest/result"
)

// errBroken says that the guest ended without its last word.
var errBroken = errors.New("the guest broke")

// qemu emulates all of the guest, since virtual machines can rarely be made inside of another one. There is neither a disk nor a network.
// An emulated processor's own clock is sound, though Linux doubts it, and the only one that is quick to read.
func qemu(ctx context.Context, k kernel, image, arguments string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-machine", "pc,accel=tcg", "-cpu", "max", "-smp", strconv.Itoa(min(max(runtime.NumCPU(), 2), 4)), "-m", "2048",
		"-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot",
		"-kernel", k.image, "-initrd", image, "-append", "console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off clocksource=tsc tsc=reliable -- "+arguments)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// boot runs the guest and reads its console to the end. The table has what it said, also where there is an error.
func boot(ctx context.Context, o options, dir string, k kernel, image string, progress io.Writer) (*table, error) {
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		return nil, fmt.Errorf("qemu-system-x86_64 %w: apt-get install --no-install-recommends qemu-system-x86: %w", errMissing, err)
	}
	console, err := os.Create(filepath.Join(dir, "console.log"))
	if err != nil {
		return nil, err
	}
	defer console.Close()
	ctx, cancel := context.WithTimeout(ctx, o.patience)
	defer cancel()
	arguments := fmt.Sprintf("-seed=%d", o.seed)
	if o.scenario != "" {
		arguments += " -scenario=" + o.scenario
	}
	if o.keep {
		arguments += " -logs"
	}
	begun := time.Now()
	guest := qemu(ctx, k, image, arguments)
	out, err := guest.StdoutPipe()
	if err != nil {
		return nil, err
	}
	guest.Stderr = console
	if err := guest.Start(); err != nil {
		return nil, fmt.Errorf("start QEMU: %w", err)
	}
	t := &table{}
	lines := bufio.NewReader(io.TeeReader(out, console))
	for err == nil {
		var line string
		if line, err = lines.ReadString('\n'); line != "" {
			t.take(line, progress)
		}
	}
	if err := errors.Join(notEOF(err), guest.Wait(), ctx.Err()); err != nil {
		return t, fmt.Errorf("%w: %w", errBroken, err)
	}
	t.Seconds = time.Since(begun).Seconds()
	t.CPUSeconds = (guest.ProcessState.UserTime() + guest.ProcessState.SystemTime()).Seconds()
	slices.SortFunc(t.Scenarios, func(a, b result.Scenario) int { return cmp.Compare(a.Number, b.Number) })
	if t.End == nil {
		return t, fmt.Errorf("%w: it ended without a result, its last words were %q", errBroken, strings.Join(t.last, ""))
	}
	return t, nil
}

func notEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// take reads a line of the console.
func (t *table) take(text string, progress io.Writer) {
	l, err := result.Parse(text)
	switch {
	case errors.Is(err, result.ErrOther):
		if t.last = append(t.last, text); len(t.last) > 10 {
			t.last = t.last[1:]
		}
	case err != nil:
		t.Garbled = append(t.Garbled, err.Error())
	case l.Boot != nil:
		fmt.Fprintf(progress, "ble-guest: Linux %s, up after %.1f s\n", l.Boot.Kernel, l.Boot.Seconds)
	case l.Scenario != nil:
		t.Scenarios = append(t.Scenarios, *l.Scenario)
		verdict := "passed"
		if !l.Scenario.Passed() {
			verdict = "FAILED: " + strings.Join(l.Scenario.Findings, "; ")
		}
		fmt.Fprintf(progress, "ble-guest: %s: %s\n", l.Scenario.Name, verdict)
	case l.End != nil:
		t.End = l.End
	default:
		fmt.Fprintf(progress, "ble-guest: %s\n", l.Note)
	}
}
