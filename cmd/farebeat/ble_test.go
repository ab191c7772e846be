package main

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/farebeat/farebeat/edge/ble"
	"github.com/farebeat/farebeat/edge/ble/hci"
)

func TestParseRadio(t *testing.T) {
	for radio, want := range map[string]radioName{
		"socket:/run/farebeat": {dir: "/run/farebeat"}, "ble:hci0": {adapter: "hci0"}, "ble:hci1,mtu=23": {adapter: "hci1", mtu: 23},
	} {
		if got, err := parseRadio("edge.radio", radio); err != nil || got != want {
			t.Errorf("%s: %+v, %v", radio, got, err)
		}
	}
	for radio, want := range map[string]string{
		"": "want socket:DIR or ble:hci0", "socket:": "want socket:DIR", "ble:": "not a Bluetooth adapter", "hci0": "want socket:DIR or ble:hci0",
		"ble:hci0,mtu=5": "mtu=23 to mtu=515", "usb:0": "want socket:DIR",
	} {
		_, err := parseRadio("edge.radio", radio)
		var coded *codedError
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "edge.radio") || !errors.As(err, &coded) || coded.code != exitUsage {
			t.Errorf("%q: %v", radio, err)
		}
	}
}

func TestRadioFlags(t *testing.T) {
	for _, args := range [][]string{
		{"edge", "--vehicle", "1", "--radio", "socket:x", "--ble", "hci0"},
		{"edge", "--vehicle", "1", "--ble", "usb0"},
		{"machine", "run", "--radio", "socket:x", "--ble", "hci0"},
		{"edge", "--vehicle", "1", "--radio", "air"},
	} {
		if code := run(t.Context(), args, strings.NewReader(""), io.Discard, io.Discard); code != exitUsage {
			t.Errorf("%v: exit code %d", args, code)
		}
	}
}

// The worker's command tells the agent why it cannot open an adapter.
func TestBLEWorkerCommand(t *testing.T) {
	var out, errOut bytes.Buffer
	if code := run(t.Context(), []string{"edge", "ble-worker", "--adapter", "hci4711"}, strings.NewReader(""), &out, &errOut); code != exitOK {
		t.Errorf("exit code %d: %s", code, errOut.String())
	}
	if !strings.Contains(out.String(), "open Bluetooth adapter hci4711: ") {
		t.Errorf("it says %q", out.String())
	}
}

// Where there is no program for its worker, the gateway's radio says so.
func TestGatewayRadioWithoutProgram(t *testing.T) {
	self := filepath.Join(t.TempDir(), "none")
	radio, stop := workerRadio(self, radioName{adapter: "hci4711"}, slog.New(slog.DiscardHandler))
	err := radio.Scan(t.Context(), func(ble.Advertisement) {})
	if err == nil || errors.Is(err, hci.ErrBusy) || !strings.Contains(err.Error(), self) {
		t.Errorf("scan: %v", err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}
