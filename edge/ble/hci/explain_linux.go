package hci

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
)

// machineState is what a host's file system says of its adapters, for the words of an error.
type machineState struct {
	adapters []string // such as hci0
	soft     bool     // rfkill blocks the adapter by software
	hard     bool     // or by a switch
}

// explain says what keeps an adapter from being opened and how to mend it. err is what the system call said.
func explain(adapter string, err error, m machineState) error {
	have := "none is plugged in: try `modprobe btusb` and `dmesg | grep -i bluetooth`"
	if len(m.adapters) > 0 {
		have = "there is " + strings.Join(m.adapters, ", ") + ": name one of them"
	}
	unblock := "`rfkill unblock bluetooth`"
	if m.hard {
		unblock = "its hardware switch"
	}
	var why error
	var mend string
	switch {
	case errors.Is(err, syscall.EAFNOSUPPORT), errors.Is(err, syscall.EPROTONOSUPPORT):
		why, mend = ErrNoBluetooth, "load it with `modprobe bluetooth`, or install a kernel that has it"
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EACCES):
		why = ErrPermission
		mend = "`setcap cap_net_admin+ep` on the program's file, or AmbientCapabilities=CAP_NET_ADMIN in its systemd unit"
	case errors.Is(err, syscall.ENODEV), errors.Is(err, syscall.ENXIO):
		why, mend = ErrNoAdapter, have
	case errors.Is(err, syscall.ERFKILL), m.soft, m.hard:
		why, mend = ErrBlocked, "switch it on with "+unblock
	case errors.Is(err, syscall.EBUSY), errors.Is(err, syscall.EALREADY):
		why = ErrBusy
		mend = fmt.Sprintf("release it with `bluetoothctl power off`, `hciconfig %s down` or `systemctl stop bluetooth`", adapter)
	case errors.Is(err, syscall.EUSERS):
		why = ErrBusy
		mend = "another farebeat or HCI program holds it: stop that, or use another adapter"
	default:
		return fmt.Errorf("open Bluetooth adapter %s: %w", adapter, err)
	}
	return fmt.Errorf("open Bluetooth adapter %s: %w: %s (%w)", adapter, why, mend, err)
}
