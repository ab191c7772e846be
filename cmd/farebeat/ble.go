package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/farebeat/farebeat/edge/ble"
	"github.com/farebeat/farebeat/edge/ble/worker"
)

// radioName is what a radio key names: a folder of Unix sockets, or a Bluetooth adapter.
type radioName struct {
	dir     string
	adapter string
	mtu     int // 0: the usual
}

// parseRadio reads socket:DIR or ble:hciN.
func parseRadio(key, radio string) (radioName, error) {
	scheme, rest, _ := strings.Cut(radio, ":")
	switch {
	case scheme == "socket" && rest != "":
		return radioName{dir: rest}, nil
	case scheme == "ble":
		name, mtu, err := ble.AdapterName(rest)
		if err != nil {
			return radioName{}, usageError(fmt.Errorf("%s: %w", key, err))
		}
		return radioName{adapter: name, mtu: mtu}, nil
	}
	return radioName{}, usageError(fmt.Errorf("%s %q: want socket:DIR or ble:hci0", key, radio))
}

// radioFlag joins --radio and --ble, which is short for --radio ble:.
func radioFlag(radio, adapter string) (string, error) {
	if adapter == "" {
		return radio, nil
	}
	if radio != "" {
		return "", usageError(errors.New("--radio and --ble exclude each other"))
	}
	return "ble:" + adapter, nil
}

// gatewayRadio opens a gateway's radio.
func gatewayRadio(r radioName, logger *slog.Logger) (radio ble.Radio, stop func() error, err error) {
	if r.adapter == "" {
		return ble.NewSockets(r.dir), func() error { return nil }, nil
	}
	self, err := os.Executable()
	if err != nil {
		return nil, nil, fmt.Errorf("find the program for the Bluetooth worker: %w", err)
	}
	radio, stop = workerRadio(self, r, logger)
	return radio, stop, nil
}

// workerRadio is a Bluetooth adapter behind a process of the program.
func workerRadio(program string, r radioName, logger *slog.Logger) (radio ble.Radio, stop func() error) {
	w := worker.Start(worker.Options{Log: logger.With("adapter", r.adapter), Command: func() *exec.Cmd {
		cmd := exec.Command(program, "edge", "ble-worker", "--adapter", r.adapter, "--mtu", strconv.Itoa(r.mtu))
		// Not the agent's environment, which has its password. go-ble logs packets with stack traces unless LOGXI says no.
		cmd.Env = []string{"LOGXI=*=OFF", "GOMEMLIMIT=24MiB", "GOMAXPROCS=2"}
		return cmd
	}})
	return w, w.Close
}

// putMachine has a machine on air until off.
func putMachine(ctx context.Context, r radioName, id string, machine ble.Peripheral, logger *slog.Logger) (off func(), err error) {
	if r.adapter == "" {
		return ble.NewSockets(r.dir).Put(id, machine)
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		ble.Station{Adapter: r.adapter, MTU: r.mtu, Log: logger}.Run(ctx, machine)
	}()
	return func() { cancel(); <-done }, nil
}

func newBLEWorkerCmd() *cobra.Command {
	var adapter string
	var mtu int
	cmd := &cobra.Command{
		Use:     "ble-worker",
		Short:   "Serve a Bluetooth adapter to the agent, which starts this itself",
		Hidden:  true,
		Example: "  farebeat edge ble-worker --adapter hci0",
		RunE: func(cmd *cobra.Command, _ []string) error {
			out := cmd.OutOrStdout()
			os.Stdout = os.Stderr // whoever prints must not break the protocol
			// A signal to all of a service's processes is for the agent, which then ends this one: machines hear that links end.
			ctx := context.WithoutCancel(cmd.Context())
			return worker.Child{
				In: cmd.InOrStdin(), Out: out, Abort: func() { os.Exit(exitFailed) },
				Open: func(ctx context.Context) (worker.Device, error) { return ble.OpenAdapter(ctx, adapter, mtu) },
			}.Serve(ctx)
		},
	}
	cmd.Flags().StringVar(&adapter, "adapter", "hci0", "Bluetooth adapter")
	cmd.Flags().IntVar(&mtu, "mtu", 0, "ATT_MTU to ask for; 0: the usual")
	return cmd
}
