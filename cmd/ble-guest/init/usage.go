//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/farebeat/farebeat/cmd/ble-guest/result"
)

// ticksPerSecond is the unit of CPU times in /proc, USER_HZ.
const ticksPerSecond = 100

// usage reads what a process took, false where it is gone.
func usage(pid int) (result.Usage, bool) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return result.Usage{}, false
	}
	var u result.Usage
	for line := range strings.Lines(string(status)) {
		key, value, _ := strings.Cut(line, ":")
		fields := strings.Fields(value)
		if len(fields) != 2 {
			continue
		}
		n, err := strconv.Atoi(fields[0])
		if err != nil {
			continue
		}
		switch key {
		case "VmHWM":
			u.PeakKiB = n
		case "VmRSS":
			u.ResidentKiB = n
		}
	}
	if f, ok := stat(pid); ok && u.PeakKiB > 0 { // one that just died has no memory
		user, errUser := strconv.ParseFloat(f[11], 64)
		system, errSystem := strconv.ParseFloat(f[12], 64)
		if errUser == nil && errSystem == nil {
			u.CPUSeconds = (user + system) / ticksPerSecond
		}
		return u, true
	}
	return result.Usage{}, false
}

// stat are the fields of /proc/PID/stat behind the name, from the state on.
func stat(pid int) ([]string, bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, false
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	return f, len(f) > 12
}

// workerOf finds the process that serves an agent's radio.
func workerOf(agent int) (pid int, ok bool) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, false
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if f, ok := stat(pid); !ok || f[1] != strconv.Itoa(agent) || f[0] == "Z" {
			continue
		}
		line, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err == nil && bytes.Contains(line, []byte("ble-worker")) {
			return pid, true
		}
	}
	return 0, false
}

// meter watches an agent and its workers.
type meter struct {
	agent   result.Usage
	workers map[int]result.Usage
	last    int // pid of the latest worker
}

// sampleEvery is how often figures are read: a worker that is killed is known to that precision.
const sampleEvery = 500 * time.Millisecond

// watch samples until ctx ends.
func (m *meter) watch(ctx context.Context, agent int) {
	m.workers = map[int]result.Usage{}
	ticker := time.NewTicker(sampleEvery)
	defer ticker.Stop()
	for {
		if u, ok := usage(agent); ok {
			m.agent = u
		}
		if u, ok := usage(m.last); ok && m.last != 0 {
			m.workers[m.last] = u
		} else if pid, ok := workerOf(agent); ok {
			m.last = pid
			m.workers[pid], _ = usage(pid)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// worker is what all workers took.
func (m *meter) worker() result.Usage {
	sum := m.workers[m.last]
	sum.CPUSeconds = 0
	for _, u := range m.workers {
		sum.PeakKiB = max(sum.PeakKiB, u.PeakKiB)
		sum.CPUSeconds += u.CPUSeconds
	}
	return sum
}
