package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/farebeat/farebeat/configs"
	"github.com/farebeat/farebeat/fleet"
	"github.com/farebeat/farebeat/fleet/certs"
	"github.com/farebeat/farebeat/fleet/console"
	"github.com/farebeat/farebeat/fleet/console/access"
	"github.com/farebeat/farebeat/fleet/console/act"
	"github.com/farebeat/farebeat/fleet/console/api"
	"github.com/farebeat/farebeat/fleet/console/draft"
	"github.com/farebeat/farebeat/fleet/console/explore"
	"github.com/farebeat/farebeat/fleet/console/export"
	"github.com/farebeat/farebeat/fleet/console/view"
	"github.com/farebeat/farebeat/fleet/expect"
	"github.com/farebeat/farebeat/fleet/ledger"
	"github.com/farebeat/farebeat/fleet/rules"
	"github.com/farebeat/farebeat/topics"
	"github.com/farebeat/farebeat/topics/session"
)

// consoleServer is the console with the address that it is served on.
type consoleServer struct {
	listener net.Listener
	scheme   string
	console  *console.Console
	view     *view.Reader
	act      *act.Actions
	gate     *access.Gate
	desk     *draft.Desk
	explore  *explore.Explorer
	logger   *slog.Logger
}

// newConsole opens the console's address and makes what serves there; nil where none is configured. fleet is asked later, when the service
// is made.
func newConsole(ctx context.Context, o serverOptions, s *server) (_ *consoleServer, err error) {
	c := o.config.Console
	if c.Address == "" {
		return nil, nil
	}
	listener, err := listenForConsole(ctx, c, s.shown[consoleCertificate], s.doors)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, listener.Close())
		}
	}()
	cs := &consoleServer{listener: listener, scheme: "http", logger: o.logger}
	if c.CertFile != "" {
		cs.scheme = "https"
	}
	cs.view = view.New(view.Options{
		Fleet: func() *fleet.Fleet { return s.fleet }, Store: o.store, Expect: o.engine.Expect, Rules: o.rulesInForce(), Zone: o.engine.Location, Now: o.now,
		Wall: time.Now, Tick: o.tick, Broker: func() view.Broker { return brokerView(s.broker, o.config.Broker.Listeners) }, Why: o.why(), Sinks: sinkNames(o.config), Days: o.days(),
	})
	cs.desk = draft.New(draft.Options{
		Live: o.liveRules(), File: o.rulesFile(), Zone: o.engine.Location, Frames: o.store.Counts(), Faults: o.store.Faults(), Routes: cs.knownRoutes,
		Expect: o.triedExpectation(), Deadline: o.engine.WarmUp, Policy: o.engine.Policy, Now: o.now, Logger: o.logger,
	})
	gate := gateOptions(o, s.users)
	if cs.gate, err = access.New(gate); err != nil {
		return nil, usageError(fmt.Errorf("console: %w", err))
	}
	if err := cs.dialBroker(o, s); err != nil {
		return nil, err
	}
	return cs, cs.answer(o, s, gate.Open != nil)
}

// listenForConsole opens the console's address, with live if it is not nil.
func listenForConsole(ctx context.Context, c configs.Console, live *certs.Live, d *doors) (net.Listener, error) {
	if err := consoleIsSafe(c); err != nil {
		return nil, usageError(err)
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", c.Address)
	if err != nil {
		return nil, fmt.Errorf("serve the console: %w: set console.address to another address, or to nothing", err)
	}
	listener = d.console(listener)
	if live != nil {
		listener = tls.NewListener(listener, live.Server("h2", "http/1.1"))
	}
	return listener, nil
}

// dialBroker makes what orders and listens at the broker: as an operator what people order, as a viewer what they look at.
func (c *consoleServer) dialBroker(o serverOptions, s *server) (err error) {
	as := func(role topics.Role, name string) func(context.Context) (net.Conn, error) {
		return func(ctx context.Context) (net.Conn, error) {
			return s.broker.Dial(ctx, topics.Identity{Role: role, Name: name})
		}
	}
	c.act, err = act.New(act.Options{
		Orders: o.orders, Store: o.store.Faults(), Ledger: func() *ledger.Ledger { return s.fleet.Ledger() }, Audit: o.store.AuditLog(), Rules: c.desk, Tree: o.tree, Now: o.now,
		Patience: time.Duration(float64(commandPatience) * max(o.speed, 1)), Logger: o.logger,
		Session: session.Options{ClientID: "console", Logger: o.logger, Dial: as(topics.RoleOperator, "console")},
	})
	if err != nil {
		return err
	}
	c.explore, err = explore.New(explore.Options{Tree: o.tree, Now: o.now, Logger: o.logger, Session: session.Options{Dial: as(topics.RoleViewer, "explorer")}})
	return err
}

// answer makes what answers to HTTP. open says that whoever comes may look.
func (c *consoleServer) answer(o serverOptions, s *server, open bool) error {
	calls, err := api.New(api.Options{
		Rules: c.desk, Explore: c.explore,
		View: c.view, Act: c.act, Gate: c.gate, Audit: o.store.AuditLog(), Status: console.Status, Logger: o.logger,
		TIDES: func(ctx context.Context, w io.Writer, f ledger.Filter) error {
			_, err := export.WriteTIDES(ctx, w, o.tree.Operator(), filepath.Dir(o.store.Path()), s.fleet.Ledger(), f)
			return err
		},
	})
	if err != nil {
		return err
	}
	c.console, err = console.New(console.Options{
		Operator: o.tree.Operator(), View: c.view, Act: c.act, Gate: c.gate, Audit: o.store.AuditLog(), OIDC: o.config.Console.OIDC.Issuer != "", API: calls, Rules: c.desk,
		MQTT: s.broker.ReadOnlyHandler(open), Explore: c.explore, Speed: o.speed, Logger: o.logger,
	})
	return err
}

// consoleIsSafe refuses to serve in clear, or to whoever comes, beyond this computer.
func consoleIsSafe(c configs.Console) error {
	host, _, err := net.SplitHostPort(c.Address)
	if err != nil || access.LoopbackHost(host) {
		return err
	}
	if c.CertFile == "" && !c.PlainHTTP {
		return fmt.Errorf("console.address %s is not a loopback address and there is no console.cert_file: passwords would be sent in clear. "+
			"Give a certificate, or set console.plain_http where a proxy in front has one", c.Address)
	}
	return nil
}

// gateOptions say who may come in. Whoever reaches a loopback address may look, unless the configuration says no.
func gateOptions(o serverOptions, users userFiles) access.Options {
	c := o.config.Console
	g := access.Options{
		Passes: o.store.Passes(), Audit: o.store.AuditLog(), Open: o.open, Secure: c.PlainHTTP, SessionLength: c.SessionLength, Now: time.Now, Logger: o.logger,
	}
	if users.console != nil {
		g.Users = people{users.console}
	}
	host, _, _ := net.SplitHostPort(c.Address)
	if g.Open == nil && c.OpenViewers && access.LoopbackHost(host) {
		g.Open = &access.Identity{Name: "anyone", Role: access.Viewer, Via: access.ViaOpen}
	}
	if c.OIDC.Issuer != "" {
		g.OIDC = &access.OIDC{
			Issuer: c.OIDC.Issuer, ClientID: c.OIDC.ClientID, SecretFile: c.OIDC.ClientSecretFile, RedirectURL: c.OIDC.RedirectURL, Claim: c.OIDC.RoleClaim,
			Viewers: c.OIDC.Viewers, Operators: c.OIDC.Operators, Admins: c.OIDC.Admins,
		}
	}
	return g
}

// commandPatience is how long a gateway may take to answer what somebody asks in the console.
const commandPatience = 5 * time.Minute

// why tells what each source says of a route; nil where the sources are not known one by one.
func (o serverOptions) why() func(string, time.Time) expect.Why {
	if o.expected == nil {
		return nil
	}
	return o.expected.why
}

// days tells what type of day a date is; nil: by its weekday.
func (o serverOptions) days() func() expect.Days {
	if o.expected == nil {
		return nil
	}
	return o.expected.calendar
}

// triedExpectation is what rules are tried with on stored days: as in `farebeat rules replay`, and where the service has a source of its own, that.
func (o serverOptions) triedExpectation() expect.Source {
	if o.expected == nil {
		return o.engine.Expect
	}
	return replayedExpectation(o.config.Fleet, o.engine.Expect)
}

// rulesInForce is what is decided by now.
func (o serverOptions) rulesInForce() func() *rules.Set {
	if o.rules != nil {
		return o.rules.Set
	}
	return func() *rules.Set { return o.engine.Rules }
}

// liveRules is what holds the rules in force.
func (o serverOptions) liveRules() *rules.Live {
	if o.rules != nil {
		return o.rules
	}
	return rules.NewLive(o.engine.Rules)
}

// rulesFile is the rules file of the configuration, "" for none.
func (o serverOptions) rulesFile() string {
	if o.rules == nil {
		return ""
	}
	return o.rules.Status().File
}

// knownRoutes are those of which the newest round says anything; nil before the first.
func (c *consoleServer) knownRoutes() map[string]bool { return c.view.KnownRoutes() }

// observe gives a round to the open pages.
func (c *consoleServer) observe(r fleet.Round) {
	c.view.Observe(r)
	c.console.Poke()
}

// url is where a browser finds the console.
func (c *consoleServer) url() string { return c.scheme + "://" + c.listener.Addr().String() }

// run serves until ctx ends.
func (c *consoleServer) run(ctx context.Context) error {
	server := &http.Server{
		Handler: c.console, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: 2 * time.Minute, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 32 << 10, ErrorLog: log.New(slogWriter{c.logger}, "", 0),
	}
	group, inner := errgroup.WithContext(ctx)
	group.Go(func() error { c.view.Run(inner); return nil })
	group.Go(func() error { c.desk.Run(inner); return nil })
	group.Go(func() error { return c.act.Run(inner) })
	group.Go(func() error { return c.gate.Run(inner) })
	group.Go(func() error { return c.explore.Run(inner) })
	group.Go(func() error { c.console.Run(inner); return nil })
	group.Go(func() error {
		if err := server.Serve(c.listener); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve the console: %w", err)
		}
		return nil
	})
	group.Go(func() error {
		<-inner.Done()
		return server.Close() // streams never end by themselves
	})
	return group.Wait()
}

func (c *consoleServer) close() { _ = c.listener.Close() } // it may be closed already

// slogWriter takes what net/http has to say of its connections, which is a client's affair.
type slogWriter struct{ logger *slog.Logger }

// Write implements io.Writer.
func (w slogWriter) Write(p []byte) (int, error) {
	w.logger.Debug("console", "text", string(p))
	return len(p), nil
}
