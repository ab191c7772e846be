package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/farebeat/farebeat/configs"
	"github.com/farebeat/farebeat/edge/machine/city"
	"github.com/farebeat/farebeat/edge/machine/trace"
	"github.com/farebeat/farebeat/fleet/expect/gtfs"
	"github.com/farebeat/farebeat/fleet/keys"
	"github.com/farebeat/farebeat/topics"
	"github.com/farebeat/farebeat/topics/session"
)

// simulateOptions are the flags of `farebeat simulate`.
type simulateOptions struct {
	gtfs, trace, date, start, zone, master, dir string
	speed, taps                                 float64
	length                                      time.Duration
	cut, stop                                   []string
	seed                                        uint64
	gateways, asJSON                            bool
}

func newSimulateCmd() *cobra.Command {
	var flags configFlags
	var o simulateOptions
	cmd := &cobra.Command{
		Use:   "simulate",
		Short: "Run a city of payment machines against a broker",
		Long: `Run a city of payment machines against a broker: on a timetable (--gtfs and --date; Tampa's without
--gtfs) or on a recorded day (--trace, as farebeat replay reads it). The user of the configuration needs
the role simulator, and the broker must allow it (broker.allow_simulator).

--cut and --stop inject faults and may be repeated: a cut machine loses its uplink, a stopped one its
power. Keys: route, vehicle, machine, share or count, at (07:20, +90s), for.

Machines live by the simulated clock. With --date or --start it is another than that of the fleet service, which then has a
machine_clock fault of each machine beside those that are injected; without them, and at speed 1, the clocks agree.

The machines' keys derive from the fleet's master key (--master-key). A speed other than 1 suits a
fleet service that is only loaded, since its own clock does not run faster.

Heartbeats have QoS 0, and a broker drops those that it refuses without a word. So the first of each
connection is sent with QoS 1. If the broker takes none of them it ends with exit code 1, at once where
they are refused.`,
		Example: "  farebeat simulate --gtfs feed.zip --cut route=36,share=0.3,at=+90s,for=15m --master-key farebeat-data/master.key --gateways",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := flags.load()
			if err != nil {
				return err
			}
			return runSimulate(cmd, c, o)
		},
	}
	flags.register(cmd)
	f := cmd.Flags()
	f.StringVar(&o.gtfs, "gtfs", "", "GTFS feed")
	f.StringVar(&o.trace, "trace", "", "recorded day (CSV, gzip allowed) in the timetable's place")
	f.StringVar(&o.date, "date", "", "service date of the timetable, YYYY-MM-DD; today without it")
	f.StringVar(&o.start, "start", "", "time of day at which it begins; now without it")
	f.StringVar(&o.zone, "tz", "UTC", "time zone of a trace; a feed names its own")
	f.StringVar(&o.master, "master-key", "", "master key file of the fleet")
	f.StringVar(&o.dir, "dir", "", "folder of journals and outboxes to keep; a temporary one is used and removed without it")
	f.Float64Var(&o.speed, "speed", 1, "simulated seconds in a second")
	f.Float64Var(&o.taps, "taps", 60, "taps an hour and machine")
	f.DurationVar(&o.length, "for", 0, "end after this long; with the timetable or an interrupt without it")
	f.StringArrayVar(&o.cut, "cut", nil, "machines that lose their uplink, e.g. route=36,share=0.3,at=07:20,for=15m")
	f.StringArrayVar(&o.stop, "stop", nil, "machines that lose their power, likewise")
	f.Uint64Var(&o.seed, "seed", 1, "of everything that is random")
	f.BoolVar(&o.gateways, "gateways", false, "also run a gateway on each vehicle")
	f.BoolVar(&o.asJSON, "json", false, "print one JSON object at the end")
	cmd.MarkFlagsMutuallyExclusive("gtfs", "trace")
	must(cmd.MarkFlagRequired("master-key"))
	return cmd
}

func runSimulate(cmd *cobra.Command, c configs.Config, o simulateOptions) (err error) {
	master, err := keys.Load(o.master)
	if err != nil {
		return usageError(err)
	}
	duties, zone, start, err := simulatedDuties(cmd, o)
	if err != nil {
		return err
	}
	outages, err := parseOutages(o, start, zone)
	if err != nil {
		return usageError(err)
	}
	dir := o.dir
	if dir == "" {
		if dir, err = os.MkdirTemp("", "farebeat-simulate-"); err != nil {
			return fmt.Errorf("make a temporary folder: %w", err)
		}
		defer func() { _ = os.RemoveAll(dir) }() // a temporary folder that stays harms nobody
	}
	if _, err := clientOptions(c.Client, "check"); err != nil {
		return err
	}
	logger := newLogger(cmd.ErrOrStderr(), parseLevel(c.Log.Level))
	ctx, giveUp := context.WithCancelCause(cmd.Context())
	defer giveUp(nil)
	beats := &firstBeats{giveUp: giveUp}
	sim, err := newSimulatedCity(ctx, cityOptions{
		clock: city.NewClock(start, o.speed, time.Now), duties: onDuty(duties, start), dir: dir, zone: zone, keys: master, operator: c.Operator,
		home: simulatedHome, taps: o.taps, outages: outages, seed: o.seed, gateways: o.gateways, journal: machineJournal(o.dir == ""), logger: logger, beats: beats,
		connect: func(id topics.Identity) (session.Options, func()) {
			so, optErr := clientOptions(c.Client, "sim-"+string(id.Role)+"-"+id.Name)
			must(optErr) // checked above
			cutter := &cuttable{}
			server := so.Servers[0]
			so.Dial = func(ctx context.Context) (net.Conn, error) {
				return cutter.dial(ctx, func(ctx context.Context) (net.Conn, error) { return dialBroker(ctx, server, so.TLS) })
			}
			return so, cutter.cut
		},
	})
	if err != nil {
		return err
	}
	if o.length > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, o.length, errOver)
		defer cancel()
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "farebeat: %d machines from %s on, at %gx\n", len(sim.city.Machines()), start.In(zone).Format("2006-01-02 15:04 MST"), o.speed)
	err = errors.Join(sim.run(ctx), sim.close(), beats.verdict(c.Client.Server, c.Client.Username))
	stats := sim.city.Stats()
	if o.asJSON {
		return errors.Join(err, json.NewEncoder(cmd.OutOrStdout()).Encode(stats))
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%d machines, %d heartbeats, %d transactions stored, %d of them without a receipt\n", stats.Machines, stats.Heartbeats, stats.Written, stats.Pending)
	return err
}

// dialBroker opens the connection below MQTT, so that it can be cut.
func dialBroker(ctx context.Context, server string, config *tls.Config) (net.Conn, error) {
	u, err := url.Parse(server)
	if err != nil {
		return nil, err
	}
	switch u.Scheme {
	case "tcp", "mqtt":
		return (&net.Dialer{}).DialContext(ctx, "tcp", u.Host)
	case "ssl", "tls", "mqtts":
		return (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", u.Host)
	}
	return nil, fmt.Errorf("client.server %q: simulate speaks tcp and tls", server)
}

func parseOutages(o simulateOptions, start time.Time, zone *time.Location) ([]city.Outage, error) {
	var list []city.Outage
	for kind, specs := range map[city.OutageKind][]string{city.Cut: o.cut, city.Stop: o.stop} {
		for _, spec := range specs {
			outage, err := city.ParseOutage(kind, spec, start, zone)
			if err != nil {
				return nil, err
			}
			list = append(list, outage)
		}
	}
	return list, nil
}

// simulatedDuties reads what the city drives, in which zone, and when it begins.
func simulatedDuties(cmd *cobra.Command, o simulateOptions) ([]city.Duty, *time.Location, time.Time, error) {
	if o.trace != "" {
		return tracedDuties(o)
	}
	feed, err := openFeed(cmd, o.gtfs)
	if err != nil {
		return nil, nil, time.Time{}, err
	}
	now := time.Now().In(feed.Location)
	date := gtfs.DateOf(now)
	if o.date != "" {
		if date, err = gtfs.ParseDate(o.date); err != nil {
			return nil, nil, time.Time{}, usageError(fmt.Errorf("--date: %w", err))
		}
	}
	start := date.Midnight(feed.Location).Add(now.Sub(gtfs.DateOf(now).Midnight(feed.Location)))
	if o.start != "" {
		if start, err = time.ParseInLocation("2006-01-02 15:04", date.String()+" "+o.start, feed.Location); err != nil {
			return nil, nil, time.Time{}, usageError(fmt.Errorf("--start %q: want a time of day such as 06:50", o.start))
		}
	}
	duties := dutiesOn(feed, date)
	if len(duties) == 0 {
		return nil, nil, time.Time{}, differenceError("the timetable has no service on %s", date)
	}
	return duties, feed.Location, start, nil
}

// tracedDuties shifts a recorded day so that it begins now, or at its own time where the clock is given.
func tracedDuties(o simulateOptions) ([]city.Duty, *time.Location, time.Time, error) {
	zone, err := time.LoadLocation(o.zone)
	if err != nil {
		return nil, nil, time.Time{}, usageError(fmt.Errorf("--tz %q: want a time zone such as America/New_York", o.zone))
	}
	if o.date != "" || o.start != "" {
		return nil, nil, time.Time{}, usageError(errors.New("--date and --start go with a timetable: a trace begins now"))
	}
	recorded, err := trace.ReadFile(o.trace)
	if err != nil {
		return nil, nil, time.Time{}, usageError(err)
	}
	start := time.Now().Truncate(time.Second)
	return city.FromTrace(recorded.Intervals(trace.JoinGap), start), zone, start, nil
}
