package hci

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
)

// Each cause has a sentinel of its own and the command that mends it.
func TestExplain(t *testing.T) {
	for name, tc := range map[string]struct {
		err  error
		m    machineState
		want error
		mend string
	}{
		"no Bluetooth in the kernel": {err: syscall.EAFNOSUPPORT, want: ErrNoBluetooth, mend: "modprobe bluetooth"},
		"no HCI in the kernel":       {err: syscall.EPROTONOSUPPORT, want: ErrNoBluetooth, mend: "modprobe bluetooth"},
		"no adapter at all":          {err: syscall.ENODEV, want: ErrNoAdapter, mend: "modprobe btusb"},
		"another adapter":            {err: syscall.ENODEV, m: machineState{adapters: []string{"hci0", "hci2"}}, want: ErrNoAdapter, mend: "there is hci0, hci2"},
		"no capability":              {err: syscall.EPERM, want: ErrPermission, mend: "setcap cap_net_admin+ep"},
		"no capability, in a unit":   {err: syscall.EACCES, want: ErrPermission, mend: "AmbientCapabilities=CAP_NET_ADMIN"},
		"bluetoothd has it":          {err: syscall.EBUSY, want: ErrBusy, mend: "bluetoothctl power off"},
		"it is up already":           {err: syscall.EALREADY, want: ErrBusy, mend: "hciconfig hci1 down"},
		"another farebeat has it":    {err: syscall.EUSERS, want: ErrBusy, mend: "another farebeat"},
		"blocked by software":        {err: syscall.ERFKILL, m: machineState{soft: true}, want: ErrBlocked, mend: "rfkill unblock bluetooth"},
		"blocked by a switch":        {err: syscall.ERFKILL, m: machineState{hard: true}, want: ErrBlocked, mend: "hardware switch"},
		"blocked and busy":           {err: syscall.EBUSY, m: machineState{soft: true}, want: ErrBlocked, mend: "rfkill unblock bluetooth"},
	} {
		err := explain("hci1", os.NewSyscallError("bind", tc.err), tc.m)
		for _, s := range []error{ErrNoBluetooth, ErrNoAdapter, ErrBusy, ErrPermission, ErrBlocked, ErrGone, ErrStuck} {
			if errors.Is(err, s) != (s == tc.want) {
				t.Errorf("%s: %v: is %v", name, err, s)
			}
		}
		if !errors.Is(err, tc.err) || !strings.Contains(err.Error(), tc.mend) || !strings.Contains(err.Error(), "hci1") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := explain("hci1", syscall.EIO, machineState{}); !errors.Is(err, syscall.EIO) {
		t.Error(err)
	}
}

func TestLost(t *testing.T) {
	for err, want := range map[error]error{
		syscall.EPIPE: ErrGone, syscall.ENODEV: ErrGone, syscall.ENETDOWN: ErrGone, io.EOF: ErrGone, os.ErrClosed: ErrClosed,
		fmt.Errorf("%w: command", ErrStuck): ErrStuck, syscall.EIO: syscall.EIO,
	} {
		if got := lost("hci1", err); !errors.Is(got, want) {
			t.Errorf("%v became %v", err, got)
		}
	}
}

// Wherever this runs, opening what is not there has an error of ours.
func TestOpenNothing(t *testing.T) {
	for _, adapter := range []string{"hci4711", "hci", "", "usb0", "hci99999999"} {
		_, err := Open(t.Context(), adapter)
		if !errors.Is(err, ErrNoAdapter) && !errors.Is(err, ErrNoBluetooth) && !errors.Is(err, ErrPermission) {
			t.Errorf("%q: %v", adapter, err)
		}
	}
}
