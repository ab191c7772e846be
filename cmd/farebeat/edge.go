package main

import (
	"errors"
	"net/url"
	"path/filepath"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/farebeat/farebeat/configs"
	"github.com/farebeat/farebeat/edge"
	"github.com/farebeat/farebeat/edge/outbox"
	"github.com/farebeat/farebeat/topics"
)

func newEdgeCmd() *cobra.Command {
	var flags configFlags
	var vehicle, radio, adapter string
	var rim rim
	cmd := &cobra.Command{
		Use:   "edge",
		Short: "Run the agent on a vehicle's gateway",
		Long: `Run the agent on a vehicle's gateway until interrupted: it waits for faults of its vehicle's
machines, reads their stored transactions over the radio and sends them to the ledger.

--ble hci0 reaches machines over a Bluetooth adapter, which is then the agent's alone, and needs the capability
CAP_NET_ADMIN. --radio socket:DIR reaches machines of this host (farebeat machine) through Unix sockets in a folder.
What was read and is not yet receipted is under the folder of the key data.`,
		Example: "  FAREBEAT_CLIENT_PASSWORD=... farebeat edge --vehicle 1216 --radio socket:/run/farebeat --set client.username=gw-1216",
		RunE: func(cmd *cobra.Command, _ []string) error {
			radio, err := radioFlag(radio, adapter)
			if err != nil {
				return err
			}
			c, err := flags.load(given("edge.vehicle", vehicle, "edge.radio", radio)...)
			if err != nil {
				return err
			}
			return runEdge(cmd, c, rim)
		},
	}
	flags.register(cmd)
	rim.registerClock(cmd)
	cmd.Flags().StringVar(&vehicle, "vehicle", "", "vehicle id of the gateway's vehicle")
	cmd.Flags().StringVar(&radio, "radio", "", "how machines are reached: ble:hci0 or socket:DIR")
	cmd.Flags().StringVar(&adapter, "ble", "", "Bluetooth adapter, short for --radio ble:")
	cmd.AddCommand(newBLEWorkerCmd())
	return cmd
}

// given makes key=value of the flags that were set; pairs are key, value.
func given(pairs ...string) []string {
	var set []string
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			set = append(set, pairs[i]+"="+pairs[i+1])
		}
	}
	return set
}

// agentTurn is how often an agent's loop goes round at least.
const agentTurn = time.Second

func runEdge(cmd *cobra.Command, c configs.Config, rim rim) (err error) {
	if c.Edge.Vehicle == "" {
		return usageError(errors.New("edge.vehicle is required: give --vehicle"))
	}
	name, err := parseRadio("edge.radio", c.Edge.Radio)
	if err != nil {
		return err
	}
	tree, err := topics.New(c.Operator)
	if err != nil {
		return usageError(err)
	}
	so, err := clientOptions(c.Client, "gateway-"+c.Edge.Vehicle)
	if err != nil {
		return err
	}
	logger := newLogger(cmd.ErrOrStderr(), parseLevel(c.Log.Level))
	so.Logger = logger
	stopRenewal, err := startRenewal(cmd.Context(), c.Client, rim.now, logger)
	if err != nil {
		return err
	}
	defer stopRenewal()
	service, err := underSystemd(agentTurn, "an agent's loop", logger)
	if err != nil {
		return usageError(err)
	}
	defer service.stopWith(cmd.Context())()
	box, err := outbox.Open(cmd.Context(), filepath.Join(c.Data, "outbox-"+url.PathEscape(c.Edge.Vehicle)+".db"), outbox.Options{Now: rim.now})
	if err != nil {
		return err
	}
	if d := box.Damage(); d != nil {
		logger.Error("the outbox was damaged and is kept; what could be read was taken over, the machines still hold the rest",
			"cause", d.Cause, "kept", d.Aside, "records", d.Records)
	}
	defer func() { err = errors.Join(err, box.Close()) }()
	radio, stopRadio, err := gatewayRadio(name, logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopRadio()) }()
	ready := sync.OnceFunc(service.ready) // an agent that turns is one that works
	agent, err := edge.New(edge.Options{
		Vehicle: c.Edge.Vehicle, Tree: tree, Connect: edge.OverMQTT(c.Edge.Vehicle, so), Radio: radio, Outbox: box, Now: rim.now, Logger: logger, Turned: func() { ready(); service.turned() },
		Timing: edge.Timing{Recollect: c.Edge.RecollectEvery}, Limits: edge.Limits{Tick: agentTurn},
	})
	if err != nil {
		return usageError(err)
	}
	return agent.Run(cmd.Context())
}
