package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/spf13/cobra"

	"github.com/farebeat/farebeat/configs"
	"github.com/farebeat/farebeat/edge/machine/city"
	"github.com/farebeat/farebeat/edge/machine/journal"
	"github.com/farebeat/farebeat/edge/ors"
	"github.com/farebeat/farebeat/fleet/durable"
	"github.com/farebeat/farebeat/topics"
	"github.com/farebeat/farebeat/topics/session"
)

func newMachineCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "machine", Short: "The reference payment machine"}
	cmd.AddCommand(newMachineRunCmd(), newMachineKeyCmd())
	return cmd
}

func newMachineRunCmd() *cobra.Command {
	var flags configFlags
	var id, vehicle, route, key, radio, adapter string
	var offline bool
	var rim rim
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run one reference payment machine",
		Long: `Run one payment machine until interrupted: it sends heartbeats, sells simulated tickets, keeps
what it sold without an uplink in a journal, and gives it to the vehicle's gateway over the radio.

The key file holds the machine's key, see farebeat machine key. With --offline it never connects,
so that everything it sells is stored.`,
		Example: "  farebeat machine run --id 1216-1 --vehicle 1216 --route 36 --key-file m.key --radio socket:/run/farebeat",
		RunE: func(cmd *cobra.Command, _ []string) error {
			radio, err := radioFlag(radio, adapter)
			if err != nil {
				return err
			}
			c, err := flags.load(given("machine.id", id, "machine.vehicle", vehicle, "machine.route", route, "machine.key_file", key, "machine.radio", radio)...)
			if err != nil {
				return err
			}
			return runMachine(cmd, c, offline, rim)
		},
	}
	flags.register(cmd)
	rim.registerMachine(cmd)
	f := cmd.Flags()
	f.StringVar(&id, "id", "", "machine id")
	f.StringVar(&vehicle, "vehicle", "", "vehicle that carries it")
	f.StringVar(&route, "route", "", "GTFS route_id that it serves")
	f.StringVar(&key, "key-file", "", "file with the machine's key")
	f.StringVar(&radio, "radio", "", "where it is on air: ble:hci0 or socket:DIR")
	f.StringVar(&adapter, "ble", "", "Bluetooth adapter, short for --radio ble:")
	f.BoolVar(&offline, "offline", false, "never connect to the broker")
	return cmd
}

func newMachineKeyCmd() *cobra.Command {
	var flags storeFlags
	var out string
	cmd := &cobra.Command{
		Use:   "key ID",
		Short: "Print the key of a machine, derived from the fleet's master key, or write it into a file",
		Long: `Print the key of a machine, derived from the fleet's master key. With --out it goes into a new file that only its owner
may read (mode 0600), as farebeat machine run wants it; a file that is there is not overwritten.`,
		Example: "  farebeat machine key 1216-1 --data farebeat-data --out m.key",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := flags.config.load(given("data", flags.data)...)
			if err != nil {
				return err
			}
			master, err := loadMaster(c)
			if err != nil {
				return usageError(err)
			}
			key, err := master.Machine(cmd.Context(), args[0])
			if err != nil {
				return usageError(err)
			}
			text := hex.EncodeToString(key[:]) + "\n"
			if out == "" {
				_, err = io.WriteString(cmd.OutOrStdout(), text)
				return err
			}
			if err := durable.Create(out, []byte(text), 0o600); errors.Is(err, fs.ErrExist) {
				return usageError(fmt.Errorf("--out %s: it is there and is not overwritten; name another file, or remove it first", out))
			} else if err != nil {
				return fmt.Errorf("--out: %w", err)
			}
			return nil
		},
	}
	flags.registerData(cmd)
	cmd.Flags().StringVar(&out, "out", "", "new file with mode 0600; standard output without it")
	return cmd
}

// powerOnAfter is when a machine's duty begins: a duty that began before would boot it at any time within an interval.
const powerOnAfter = 20 * time.Millisecond

// firstConnection is how long a machine that was switched on waits for the broker before it sells without.
const firstConnection = 500 * time.Millisecond

// witness prints every record that is on the disk, one JSON object a line.
func witness(w io.Writer) func(journal.Record) {
	return func(r journal.Record) {
		fmt.Fprintf(w, `{"epoch":%d,"seq":%d,"sha256":"%x","amount":%d}`+"\n", r.Epoch, r.Seq, sha256.Sum256(r.Payload), r.Amount)
	}
}

func runMachine(cmd *cobra.Command, c configs.Config, offline bool, rim rim) (err error) {
	if c.Machine.ID == "" || c.Machine.Vehicle == "" || c.Machine.Route == "" || c.Machine.KeyFile == "" {
		return usageError(errors.New("machine.id, machine.vehicle, machine.route and machine.key_file are required: give --id, --vehicle, --route and --key-file"))
	}
	key, err := readKey(c.Machine.KeyFile)
	if err != nil {
		return err
	}
	if !offline {
		if _, err := clientOptions(c.Client, "machine-"+c.Machine.ID); err != nil {
			return err
		}
	}
	zone, err := time.LoadLocation(c.TimeZone)
	if err != nil {
		return usageError(err)
	}
	logger := newLogger(cmd.ErrOrStderr(), parseLevel(c.Log.Level))
	stopRenewal, err := startRenewal(cmd.Context(), c.Client, rim.now, logger)
	if err != nil {
		return err
	}
	defer stopRenewal()
	clock := city.NewClock(rim.now(), 1, time.Now)
	begins := clock.Now().Add(powerOnAfter)
	kept := journal.Options{FirstEpoch: c.Machine.FirstEpoch}
	if rim.witness {
		kept.Stored = witness(cmd.OutOrStdout())
	}
	sim, err := newSimulatedCity(cmd.Context(), cityOptions{
		clock: clock, dir: c.Data, zone: zone, taps: c.Machine.TapsPerHour, seed: uint64(time.Now().UnixNano()), logger: logger,
		operator: c.Operator, key: func(string) []byte { return key },
		name:    func(string) string { return c.Machine.ID },
		home:    func(string) (depot, network string) { return c.Machine.Depot, c.Machine.Network },
		duties:  []city.Duty{{Vehicle: c.Machine.Vehicle, Route: c.Machine.Route, From: begins, To: begins.AddDate(10, 0, 0)}},
		offline: offline, journal: kept, interval: rim.interval, patience: firstConnection,
		connect: func(topics.Identity) (session.Options, func()) {
			so, optErr := clientOptions(c.Client, "machine-"+c.Machine.ID)
			if optErr != nil {
				logger.Error("cannot connect", "error", optErr)
			}
			so.Logger = logger
			return so, func() {}
		},
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sim.close()) }()
	m, _ := sim.city.Machine(c.Machine.ID)
	if err := rim.fill(m, c.Machine.Route); err != nil {
		return err
	}
	if c.Machine.Radio != "" {
		radio, err := parseRadio("machine.radio", c.Machine.Radio)
		if err != nil {
			return err
		}
		off, err := putMachine(cmd.Context(), radio, m.ID(), ors.OnAir(cmd.Context(), m), logger)
		if err != nil {
			return err
		}
		defer off()
	}
	return sim.run(cmd.Context())
}

// machineJournal is how a machine's journal is kept where nobody says otherwise.
func machineJournal(throwaway bool) journal.Options {
	if !throwaway {
		return journal.Options{}
	}
	// A thrown-away journal must not use a number again that a ledger may know.
	return journal.Options{FirstEpoch: uint32(time.Now().Unix()), NoSync: true}
}
