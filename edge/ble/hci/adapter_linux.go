package hci

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// adaptersDir is where the kernel lists adapters.
const adaptersDir = "/sys/class/bluetooth"

// Open takes an adapter of this host, such as hci0, for this process alone: it is not taken from another program. Errors
// wrap one of the sentinels of this package and say how to mend it.
func Open(ctx context.Context, adapter string) (*Host, error) {
	t, err := userChannel(adapter)
	if err != nil {
		return nil, explain(adapter, err, lookAround(adapter))
	}
	return Start(ctx, t, Params{Name: adapter})
}

// userChannel binds a socket to an adapter's HCI user channel, which no other program can use meanwhile.
func userChannel(adapter string) (*os.File, error) {
	digits, ok := strings.CutPrefix(adapter, "hci")
	id, err := strconv.ParseUint(digits, 10, 16)
	if !ok || err != nil {
		return nil, fmt.Errorf("%w: %q is not an adapter's name such as hci0", unix.ENODEV, adapter)
	}
	fd, err := unix.Socket(unix.AF_BLUETOOTH, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.BTPROTO_HCI)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrHCI{Dev: uint16(id), Channel: unix.HCI_CHANNEL_USER}); err != nil {
		return nil, errors.Join(os.NewSyscallError("bind", err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), adapter), nil
}

// lookAround reads what helps to explain why an adapter cannot be opened.
func lookAround(adapter string) machineState {
	var m machineState
	found, _ := filepath.Glob(filepath.Join(adaptersDir, "hci*")) //nolint:errcheck // the pattern is sound
	for _, path := range found {
		if name := filepath.Base(path); !strings.Contains(name, ":") { // hci0:64 is a connection
			m.adapters = append(m.adapters, name)
		}
	}
	set := func(file string) bool {
		paths, _ := filepath.Glob(filepath.Join(adaptersDir, filepath.Base(adapter), "rfkill*", file)) //nolint:errcheck // it only helps
		for _, path := range paths {
			if b, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(b)) == "1" {
				return true
			}
		}
		return false
	}
	m.soft, m.hard = set("soft"), set("hard")
	return m
}
