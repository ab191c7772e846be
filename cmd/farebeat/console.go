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
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", c.Address)
	if err != nil {
		return nil, fmt.Errorf("serve the console: %w: set console.address to another address, or to nothing", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, listener.Close())
		}
	}()
	if err := consoleIsSafe(c); err != nil {
		return nil, usageError(err)
	}
	if c.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return nil, usageError(fmt.Errorf("console.cert_file: %w", err))
		}
		listener = tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}})
	}
	cs := &consoleServer{listener: listener, logger: o.logger}
	cs.view = view.New(view.Options{
		Fleet: func() *fleet.Fleet { return s.fleet }, Store: o.store, Expect: o.engine.Expect, Rules: o.rulesInForce(), Zone: o.engine.Location, Now: o.now,
		Wall: time.Now, Tick: o.tick, Broker: func() view.Broker { return brokerView(s.broker, o.config.Broker.Listeners) }, Why: o.why(), Sinks: sinkNames(o.config), Days: o.days(),
	})
	cs.desk = draft.New(draft.Options{
		Live: o.liveRules(), File: o.rulesFile(), Zone: o.engine.Location, Frames: o.store.Counts(), Faults: o.store.Faults(), Routes: cs.knownRoutes,
		Expect: o.engine.Expect, Deadline: o.engine.WarmUp, Policy: o.engine.Policy, Now: o.now, Logger: o.logger,
	})
	gate := gateOptions(o, s.users)
	if cs.gate, err = access.New(gate); err != nil {
		return nil, usageError(fmt.Errorf("console: %w", err))
	}
	cs.act, err = act.New(act.Options{
		Orders: o.orders, Store: o.store.Faults(), Ledger: func() *ledger.Ledger { return s.fleet.Ledger() }, Audit: o.store.AuditLog(), Rules: cs.desk, Tree: o.tree, Now: o.now, Patience: time.Duration(float64(commandPatience) * max(o.speed, 1)), Logger: o.logger,
		Session: session.Options{ClientID: "console", Logger: o.logger, Dial: func(ctx context.Context) (net.Conn, error) {
			return s.broker.Dial(ctx, topics.Identity{Role: topics.RoleOperator, Name: "console"})
		}},
	})
	if err != nil {
		return nil, err
	}
	cs.explore, err = explore.New(explore.Options{
		Tree: o.tree, Now: o.now, Logger: o.logger,
		Session: session.Options{Dial: func(ctx context.Context) (net.Conn, error) {
			return s.broker.Dial(ctx, topics.Identity{Role: topics.RoleViewer, Name: "explorer"})
		}},
	})
	if err != nil {
		return nil, err
	}
	calls, err := api.New(api.Options{
		Rules: cs.desk, Explore: cs.explore,
		View: cs.view, Act: cs.act, Gate: cs.gate, Audit: o.store.AuditLog(), Status: console.Status, Logger: o.logger,
		TIDES: func(ctx context.Context, w io.Writer, f ledger.Filter) error {
			_, err := export.WriteTIDES(ctx, w, o.tree.Operator(), filepath.Dir(o.store.Path()), s.fleet.Ledger(), f)
			return err
		},
	})
	if err != nil {
		return nil, err
	}
	cs.console, err = console.New(console.Options{
		Operator: o.tree.Operator(), View: cs.view, Act: cs.act, Gate: cs.gate, Audit: o.store.AuditLog(), OIDC: c.OIDC.Issuer != "", API: calls, Rules: cs.desk, MQTT: s.broker.ReadOnlyHandler(gate.Open != nil), Explore: cs.explore, Speed: o.speed, Logger: o.logger,
	})
	return cs, err
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
func (c *consoleServer) url() string { return "http://" + c.listener.Addr().String() }

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
