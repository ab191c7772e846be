package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/farebeat/farebeat/broker"
	brokerstore "github.com/farebeat/farebeat/broker/store"
	"github.com/farebeat/farebeat/configs"
	"github.com/farebeat/farebeat/fleet"
	"github.com/farebeat/farebeat/fleet/console/access"
	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/keys"
	"github.com/farebeat/farebeat/fleet/ledger"
	"github.com/farebeat/farebeat/fleet/notify"
	"github.com/farebeat/farebeat/fleet/presence"
	"github.com/farebeat/farebeat/fleet/rules"
	"github.com/farebeat/farebeat/fleet/store"
	"github.com/farebeat/farebeat/topics"
	"github.com/farebeat/farebeat/topics/session"
)

func newServeCmd() *cobra.Command {
	var flags configFlags
	var rim rim
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the broker and the fleet service",
		Long: `Run the embedded MQTT broker and the fleet service until interrupted.

Everything durable is under the folder of the key data: farebeat.db (ledger, faults,
counts), broker.db (retained messages and sessions) and master.key, from which the machines'
keys derive. Keep a copy of the key.`,
		Example: "  farebeat serve --config /etc/farebeat/farebeat.yaml",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := flags.load()
			if err != nil {
				return err
			}
			return runServe(cmd, c, rim)
		},
	}
	flags.register(cmd)
	rim.registerServe(cmd)
	return cmd
}

// storePath is where a data folder keeps the fleet's store.
func storePath(data string) string { return filepath.Join(data, "farebeat.db") }

// ordersPath is the folder in a data folder where the command line leaves orders for the service that runs.
func ordersPath(data string) string { return filepath.Join(data, "orders") }

// brokerStorePath is where the broker's store is, "" for none.
func brokerStorePath(c configs.Config) string {
	switch c.Broker.StoreFile {
	case "":
		return filepath.Join(c.Data, "broker.db")
	case "none":
		return ""
	}
	return c.Broker.StoreFile
}

func parseLevel(level string) slog.Level {
	var l slog.Level
	must(l.UnmarshalText([]byte(level))) // validated by configs
	return l
}

func runServe(cmd *cobra.Command, c configs.Config, rim rim) (err error) {
	ctx := cmd.Context()
	logger := newLogger(cmd.ErrOrStderr(), parseLevel(c.Log.Level))
	tree, err := topics.New(c.Operator)
	if err != nil {
		return usageError(err)
	}
	service, err := underSystemd(c.Fleet.Tick, "fleet.tick", logger)
	if err != nil {
		return usageError(err)
	}
	defer service.stopWith(ctx)()
	known, err := readKnowledge(ctx, c, rim.now, logger)
	if err != nil {
		return err
	}
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	known.expected.hangup = hangup
	again := make(chan os.Signal, 1) // for the users
	signal.Notify(again, syscall.SIGHUP)
	defer signal.Stop(again)
	known.engine.Policy.StableFor, known.engine.Policy.ClearFor = rim.patience, rim.patience
	if err := os.MkdirAll(c.Data, 0o700); err != nil {
		return fmt.Errorf("make the data folder: %w", err)
	}
	if err := os.MkdirAll(ordersPath(c.Data), 0o700); err != nil { // else who orders first makes it
		return fmt.Errorf("make the folder of orders: %w", err)
	}
	db, err := store.Open(ctx, storePath(c.Data), store.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	var retained *brokerstore.Store
	if path := brokerStorePath(c); path != "" {
		if retained, err = brokerstore.Open(ctx, path, brokerstore.Options{}); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, retained.Close()) }()
	}

	s, err := newServer(ctx, serverOptions{
		tree: tree, config: c, engine: known.engine, expected: known.expected, rules: known.rules, store: db, brokerStore: retained,
		openKeys: func(ctx context.Context) (keys.Keys, error) { return masterKey(ctx, c, db, logger) },
		tick:     c.Fleet.Tick, slotGrace: rim.patience, now: rim.now, logger: logger, orders: ordersPath(c.Data), hangup: again, turned: service.turned,
	})
	if err != nil {
		return err
	}
	return s.run(ctx, func() {
		for _, l := range c.Broker.Listeners {
			fmt.Fprintf(cmd.ErrOrStderr(), "farebeat: %s on %s://%s\n", l.Name, l.Kind, s.broker.Addr(l.Name))
		}
		if s.console != nil {
			fmt.Fprintf(cmd.ErrOrStderr(), "farebeat: console on %s\n", s.console.url())
		}
		if url := s.ids.url(); url != "" {
			fmt.Fprintf(cmd.ErrOrStderr(), "farebeat: enrolment on %s\n", url)
		}
		service.ready()
	})
}

// masterKey reads the fleet's key, or makes one for a ledger that is empty.
func masterKey(ctx context.Context, c configs.Config, db *store.Store, logger *slog.Logger) (*keys.Master, error) {
	if c.Fleet.MasterKey != "" {
		master, err := loadMaster(c)
		if err != nil {
			return nil, usageError(err)
		}
		return master, oneMaster(c, master)
	}
	path := masterKeyPath(c)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if err := keyIsLost(ctx, path, db); err != nil {
			return nil, err
		}
	}
	master, created, err := keys.LoadOrCreate(path)
	if created {
		logger.Warn("a new master key was made; keep a copy of it", "file", path)
	}
	if err != nil {
		return nil, err
	}
	return master, oneMaster(c, master)
}

// keyIsLost is an error if the ledger holds records. With another key than the one that they were minted under, every
// machine would be a stranger.
func keyIsLost(ctx context.Context, path string, db *store.Store) error {
	var machines []string
	err := db.Ledger().View(ctx, func(v ledger.View) (err error) { machines, err = v.Machines("", 1); return err })
	if err == nil && len(machines) > 0 {
		err = fmt.Errorf("there is no master key at %s, but the ledger holds records of machine %s and others: put the key's copy there, or name it with fleet.master_key_file", path, machines[0])
	}
	return err
}

// knowledge is what the engine decides by, and what keeps it up to date.
type knowledge struct {
	engine   fleet.EngineConfig
	expected *expectations
	rules    *rules.Live
}

// rulesEvery is how often the rules file is looked at. One that changed is read after two looks.
const rulesEvery = 5 * time.Second

// readKnowledge turns the configuration into what the engine decides by.
func readKnowledge(ctx context.Context, c configs.Config, now func() time.Time, logger *slog.Logger) (knowledge, error) {
	expected, err := newExpectations(ctx, c, now, logger)
	if err != nil {
		return knowledge{}, err
	}
	live := rules.NewLive(rules.Default(expected.zone))
	if file := c.Fleet.RulesFile; file != "" {
		if live, err = rules.OpenLive(file, expected.zone, now()); err != nil {
			return knowledge{}, usageError(err)
		}
	}
	interval := c.Fleet.HeartbeatInterval
	return knowledge{expected: expected, rules: live, engine: fleet.EngineConfig{
		Location: expected.zone, Interval: interval, WarmUp: presence.Config{Interval: interval, DeadlineIntervals: 4}.Deadline(),
		Expect: expected.live, Rules: live.Set(), DepotGateways: depotGateways(c.Fleet.Depots),
	}}, nil
}

func depotGateways(list []configs.Depot) map[string]string {
	gateways := make(map[string]string, len(list))
	for _, d := range list {
		gateways[d.Name] = d.Gateway
	}
	return gateways
}

// serverOptions say what a server is made of.
type serverOptions struct {
	tree        topics.Tree
	config      configs.Config
	engine      fleet.EngineConfig
	expected    *expectations // kept up to date while the server runs; nil: engine.Expect stays as it is
	rules       *rules.Live   // likewise; nil: engine.Rules stay as they are
	store       *store.Store
	brokerStore *brokerstore.Store // nil: in memory
	keys        keys.Keys
	// openKeys is asked where keys is nil, once all listeners are bound: a first start that fails on an address makes no key.
	openKeys  func(context.Context) (keys.Keys, error)
	tick      time.Duration // on the wall
	slotGrace time.Duration // 0: the default
	now       func() time.Time
	hangup    <-chan os.Signal // asks for the users to be read again; nil for never
	orders    string           // folder of orders about tickets, "" for none
	watch     func(fleet.Round)
	turned    func()           // called at the end of each round; may be nil
	speed     float64          // seconds of now in one on the wall; 0: 1
	open      *access.Identity // who everybody is at the console without signing in; nil: as configured
	logger    *slog.Logger
}

// parts are what may fail while the service goes on.
func (o serverOptions) parts(n *notify.Notifier) []fleet.Part {
	parts := notifyParts(n)
	if o.expected != nil {
		parts = append(parts, fleet.Part{Name: "timetable", Kind: faults.TimetableOver, Failure: o.expected.failure})
	}
	if o.rules != nil {
		parts = append(parts, fleet.Part{Name: "rules", Kind: faults.RulesFile, Failure: func() error { return o.rules.Status().Err }})
	}
	return parts
}

// inForce is the source of the rules; nil where they never change.
func (o serverOptions) inForce() func() *rules.Set {
	if o.rules == nil {
		return nil
	}
	return o.rules.Set
}

// server is a broker and a fleet service in one process.
type server struct {
	o       serverOptions
	broker  *broker.Broker
	fleet   *fleet.Fleet
	notify  *notify.Notifier
	series  *exporters
	reg     *prometheus.Registry
	doors   *doors
	metrics net.Listener   // nil: none
	console *consoleServer // nil: none
	users   userFiles
	shown   certificates
	ids     *identities
}

// tap joins the broker to the fleet, which is made after it.
type tap struct{ fleet *fleet.Fleet }

func (t *tap) Heartbeat(machine string, payload []byte) { t.fleet.Heartbeat(machine, payload) }
func (t *tap) SessionUp(machine string)                 { t.fleet.SessionUp(machine) }
func (t *tap) SessionDown(machine, reason string)       { t.fleet.SessionDown(machine, reason) }

// newServer binds the listeners and makes what serves on them. Run closes it.
func newServer(ctx context.Context, o serverOptions) (_ *server, err error) {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	shown, err := openCertificates(o.config)
	if err != nil {
		return nil, err
	}
	bo := brokerOptions(o, shown, reg)
	users, err := openUsers(o)
	if err != nil {
		return nil, err
	}
	ids, err := openIdentities(ctx, o)
	if err != nil {
		return nil, err
	}
	bo.Users, bo.Void = users.broker, ids.void()
	t := &tap{}
	bo.Tap = t
	b, err := broker.New(bo)
	if err != nil {
		ids.close()
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%w: another program listens there; stop it, or name another address in broker.listeners", err)
	case err != nil:
		return nil, usageError(err)
	}
	s := &server{o: o, broker: b, users: users, shown: shown, ids: ids, reg: reg, doors: newDoors(reg, o.logger)}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if err := s.listenMetrics(ctx); err != nil {
		return nil, err
	}
	if s.console, err = newConsole(ctx, o, s); err != nil {
		return nil, err
	}
	if o.keys == nil {
		if o.keys, err = o.openKeys(ctx); err != nil {
			return nil, err
		}
	}
	ids.keys = o.keys
	told, err := notifyOptions(o.config, o.tree, o.now, o.logger)
	if err != nil {
		return nil, err
	}
	told.Store = o.store
	if s.notify, err = notify.New(ctx, told); err != nil { // before the fleet saves anything that is to be told
		return nil, err
	}
	if s.series, err = newExporters(ctx, o.config, o.store, o.now, o.logger); err != nil {
		return nil, err
	}
	s.fleet, err = fleet.New(ctx, fleet.Options{
		Tree: o.tree, Store: o.store, Keys: o.keys, Engine: o.engine, Tick: o.tick, SlotGrace: o.slotGrace, Now: o.now, Watch: s.watch, Turned: o.turned, Logger: o.logger, BrokerFailure: b.StoreFailure,
		TicketValidity: o.config.Fleet.TicketValidity, Orders: o.orders, FaultsSaved: s.faultsSaved, CountsSaved: s.series.poke, Parts: s.parts(), Rules: o.inForce(),
		Session: session.Options{
			ClientID: "fleet", Logger: o.logger,
			Dial: func(ctx context.Context) (net.Conn, error) {
				return b.Dial(ctx, topics.Identity{Role: topics.RoleFleet, Name: "fleet"})
			},
		},
	})
	if err != nil {
		return nil, err
	}
	t.fleet = s.fleet
	reg.MustRegister(fleetCollector{s.fleet}, notifyCollector{s.notify}, s.series)
	if ids.registry != nil {
		reg.MustRegister(identityCollector{ids.registry, o.now})
	}
	if o.expected != nil {
		reg.MustRegister(o.expected.collectors()...)
	}
	return s, nil
}

// parts are what may fail while the service goes on.
func (s *server) parts() []fleet.Part {
	return slices.Concat(s.o.parts(s.notify), s.series.parts(), s.users.parts(), s.shown.parts(s.o.now), s.ids.parts())
}

// watch gives a round to whoever looks.
func (s *server) watch(r fleet.Round) {
	if s.console != nil {
		s.console.observe(r)
	}
	if s.o.watch != nil {
		s.o.watch(r)
	}
}

func (s *server) faultsSaved() {
	s.notify.Poke()
	if s.console != nil {
		s.console.view.FaultsSaved()
	}
}

// brokerOptions turns the configuration into the broker's options, but for the tap and the users.
func brokerOptions(o serverOptions, shown certificates, reg *prometheus.Registry) broker.Options {
	bo := broker.Options{
		Tree: o.tree, AllowSimulator: o.config.Broker.AllowSimulator, Now: o.now, Logger: o.logger, Registry: reg, Store: o.brokerStore,
		Limits: broker.Limits(o.config.Broker.Limits),
	}
	for _, l := range o.config.Broker.Listeners {
		bl := broker.Listener{Name: l.Name, Kind: l.Kind, Address: l.Address, AnonymousReaders: l.AnonymousReaders, ReadOnly: l.ReadOnly}
		if live := shown[listenerCertificate(l.Name)]; live != nil {
			bl.TLS, bl.Leaves = live.Server(), leaves(live)
			if l.Kind == "wss" {
				bl.TLS = live.Server("http/1.1") // WebSocket begins there
			}
		}
		bo.Listeners = append(bo.Listeners, bl)
	}
	return bo
}

// close ends the listeners and the broker. It may be called again.
func (s *server) close() error {
	err := s.broker.Close()
	if s.metrics != nil {
		_ = s.metrics.Close() // it may be closed already
	}
	if s.console != nil {
		s.console.close()
	}
	s.ids.close()
	return err
}

// run serves until ctx ends; started is called when the listeners are open.
func (s *server) run(ctx context.Context, started func()) error {
	if err := s.broker.Start(ctx); err != nil {
		return errors.Join(err, s.close())
	}
	started()
	group, inner := errgroup.WithContext(ctx)
	group.Go(func() error { return s.fleet.Run(inner) })
	group.Go(func() error { return s.notify.Run(inner) })
	group.Go(func() error { s.series.run(inner); return nil })
	if s.o.rules != nil {
		group.Go(func() error { s.o.rules.Watch(inner, rulesEvery, s.o.now, s.o.logger); return nil })
	}
	if s.o.expected != nil {
		group.Go(func() error { s.o.expected.run(inner, s.o.store); return nil })
	}
	group.Go(func() error { s.shown.watch(inner, s.o.logger); return nil })
	group.Go(func() error { return s.ids.run(inner, s.certificatesVoid) })
	group.Go(func() error { s.users.watch(inner, s.o.hangup, s.o.now, s.o.logger); return nil })
	if s.console != nil {
		group.Go(func() error { return s.console.run(inner) })
	}
	if s.metrics != nil {
		group.Go(func() error { return serveMetrics(inner, s.metrics, s.metricsHandler()) })
	}
	return errors.Join(group.Wait(), s.close())
}

func (s *server) listenMetrics(ctx context.Context) error {
	address := s.o.config.Broker.MetricsAddress
	if address == "" {
		return nil
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("serve metrics: %w: set broker.metrics_address to another address, or to nothing", err)
	}
	s.metrics = s.doors.metrics(listener)
	return nil
}

func (s *server) metricsHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.reg, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") })
	if s.o.config.Fleet.Notify.GTFSRT {
		mux.Handle("GET /gtfs-rt/alerts", notify.ServiceAlertsHandler(s.o.store.Faults(), s.o.now, s.o.logger))
	}
	return mux
}

func serveMetrics(ctx context.Context, listener net.Listener, handler http.Handler) error {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}

// fleetCollector gives the fleet's figures to Prometheus.
type fleetCollector struct{ f *fleet.Fleet }

// Describe implements prometheus.Collector.
func (c fleetCollector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

// Collect implements prometheus.Collector.
func (c fleetCollector) Collect(ch chan<- prometheus.Metric) {
	stats, book := c.f.Stats(), c.f.Ledger().Stats()
	for name, value := range map[string]uint64{
		"heartbeats_total":         stats.Heartbeats.Load(),
		"refused_messages_total":   stats.Refused.Load(),
		"fault_saves_failed_total": stats.SaveFailed.Load(),
		"tickets_issued_total":     stats.TicketsIssued.Load(),
		"tickets_renewed_total":    stats.TicketsRenewed.Load(),
		"tickets_revoked_total":    stats.TicketsRevoked.Load(),
		"tickets_failed_total":     stats.TicketsFailed.Load(),
		"commands_refused_total":   stats.CommandsRefused.Load(),
		"unticketed_batches_total": stats.UnticketedBatches.Load(),
		"unticketed_reports_total": stats.UnticketedReports.Load(),
		"ledger_records_total":     book.New,
		"ledger_duplicates_total":  book.Duplicate,
		"ledger_conflicts_total":   book.Conflict,
		"ledger_forged_total":      book.Forged,
		"ledger_malformed_total":   book.Malformed,
	} {
		help := strings.ReplaceAll(strings.TrimSuffix(name, "_total"), "_", " ") + " since the start"
		ch <- prometheus.MustNewConstMetric(prometheus.NewDesc("farebeat_fleet_"+name, help, nil, nil), prometheus.CounterValue, float64(value))
	}
}
