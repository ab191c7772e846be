package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/farebeat/farebeat/configs"
	"github.com/farebeat/farebeat/fleet"
	"github.com/farebeat/farebeat/fleet/certs"
	"github.com/farebeat/farebeat/fleet/durable"
	"github.com/farebeat/farebeat/fleet/enrol"
	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/keys"
	"github.com/farebeat/farebeat/fleet/ledger"
	"github.com/farebeat/farebeat/fleet/orders"
	"github.com/farebeat/farebeat/fleet/store"
	"github.com/farebeat/farebeat/fleet/tickets"
	"github.com/farebeat/farebeat/topics"
)

// identitiesEvery is how often orders about identities are looked for: a revocation is in force within it.
const identitiesEvery = time.Second

// identities are the fleet's certificate authority and the register of who has a certificate, with the address where devices get one.
type identities struct {
	registry *enrol.Registry // nil: there is no authority
	listener net.Listener    // nil: devices cannot join
	tls      *tls.Config
	keys     keys.Keys // set before run
	now      func() time.Time

	authority *x509.Certificate // nil: there is none
}

// caPath and caKeyPath are where the authority of a configuration is.
func caPath(c configs.Config) string { return orPath(c.Enrol.CAFile, c.Data, "ca.pem") }

func caKeyPath(c configs.Config) string { return orPath(c.Enrol.CAKeyFile, c.Data, "ca.key") }

func orPath(path, dir, name string) string {
	if path != "" {
		return path
	}
	return filepath.Join(dir, name)
}

// identityOrders is the folder, in that of all orders, for those about identities.
func identityOrders(c configs.Config) string { return filepath.Join(ordersPath(c.Data), "identities") }

// openIdentities reads the authority, if there is one, and opens the address where devices join. The keys of machines are set later.
func openIdentities(ctx context.Context, o serverOptions) (_ *identities, err error) {
	ids := &identities{now: o.now}
	c := o.config
	ca, err := openCA(c)
	if err == nil && ca == nil {
		err = nobodyIsRevoked(ctx, c, o.store)
	}
	if err != nil || ca == nil {
		return ids, err
	}
	ids.authority = ca.Certificate()
	if err := durable.MkdirAll(identityOrders(c), 0o700); err != nil { // else who orders first makes it
		return nil, fmt.Errorf("make the folder of orders: %w", err)
	}
	ids.registry, err = enrol.New(ctx, enrol.Options{
		Tree: o.tree, CA: ca, Store: o.store.Identities(), MachineKey: ids.machineKey, Joined: restoreTickets(o.store, o.orders),
		Epoch:  func(ctx context.Context, machine string) (uint32, error) { return highestEpoch(ctx, o.store, machine) },
		Orders: identityOrders(c), TimeZone: c.TimeZone, Broker: brokerURL(c), Validity: c.Enrol.Validity, Now: o.now, Logger: o.logger,
	})
	if err != nil || c.Enrol.Address == "" {
		return ids, err
	}
	if ids.tls, err = ids.registry.TLS(enrolHosts(c.Enrol)); err != nil {
		return nil, usageError(fmt.Errorf("enrol.names: %w", err))
	}
	if ids.listener, err = (&net.ListenConfig{}).Listen(ctx, "tcp", c.Enrol.Address); err != nil {
		return nil, fmt.Errorf("serve enrolment: %w: set enrol.address to another address, or to nothing", err)
	}
	return ids, nil
}

// nobodyIsRevoked is an error if there is no authority to judge certificates by, and certificates that may be revoked come in.
func nobodyIsRevoked(ctx context.Context, c configs.Config, s *store.Store) error {
	if !slices.ContainsFunc(c.Broker.Listeners, func(l configs.Listener) bool { return l.ClientCAFile != "" }) {
		return nil
	}
	revoked := false
	err := s.Identities().View(ctx, func(v enrol.View) error {
		list, err := v.Revocations()
		revoked = len(list) > 0
		return err
	})
	if err == nil && revoked {
		err = usageError(fmt.Errorf("there is no authority at %s, but certificates were revoked, and a listener takes certificates: put ca.pem there, or name it with enrol.ca_file", caPath(c)))
	}
	return err
}

// openCA reads the authority; nil where there is none and nothing asks for one. Where devices may not join its key may be elsewhere.
func openCA(c configs.Config) (*enrol.CA, error) {
	if _, err := os.Stat(caPath(c)); errors.Is(err, fs.ErrNotExist) && c.Enrol.Address == "" && c.Enrol.CAFile == "" {
		return nil, nil
	}
	key := caKeyPath(c)
	if _, err := os.Stat(key); errors.Is(err, fs.ErrNotExist) && c.Enrol.Address == "" {
		key = ""
	}
	ca, err := enrol.LoadCA(caPath(c), key)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: `farebeat ca init` makes one, or name it with enrol.ca_file and enrol.ca_key_file", err)
	}
	if err != nil {
		return nil, usageError(err)
	}
	return ca, nil
}

// enrolHosts are the names that devices reach the address by.
func enrolHosts(e configs.Enrol) []string {
	hosts := slices.Clone(e.Names)
	if host, _, err := net.SplitHostPort(e.Address); err == nil && !anyAddress(host) && !slices.Contains(hosts, host) {
		hosts = append(hosts, host)
	}
	return hosts
}

// anyAddress reports whether a host is no name but all addresses of this computer.
func anyAddress(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "" || err == nil && ip.IsUnspecified()
}

// brokerURL is what devices are told of the broker, "" if there is none for them.
func brokerURL(c configs.Config) string {
	if c.Enrol.Broker != "" {
		return c.Enrol.Broker
	}
	for _, l := range c.Broker.Listeners {
		host, port, err := net.SplitHostPort(l.Address)
		if l.Kind != "tls" || err != nil {
			continue
		}
		if hosts := enrolHosts(c.Enrol); anyAddress(host) && len(hosts) > 0 {
			host = hosts[0]
		}
		return "ssl://" + net.JoinHostPort(host, port)
	}
	return ""
}

func (i *identities) machineKey(ctx context.Context, machine string) ([]byte, error) {
	key, err := i.keys.Machine(ctx, machine)
	return key[:], err
}

// highestEpoch is the highest epoch that a machine is known to have had, 0 for none: of what the ledger holds, and of what it said of itself.
func highestEpoch(ctx context.Context, s *store.Store, machine string) (highest uint32, err error) {
	var held []uint32
	err = s.Ledger().View(ctx, func(v ledger.View) (err error) { held, err = v.Epochs(machine); return err })
	if err != nil {
		return 0, err
	}
	said, err := declarations(ctx, s)
	if err != nil {
		return 0, err
	}
	for epoch := range said[machine].Epochs {
		held = append(held, epoch)
	}
	for _, e := range held {
		highest = max(highest, e)
	}
	return highest, nil
}

// restoreTickets ends the revocation of a vehicle's tickets when a new gateway of it joins: one whose permit was made after the revocation, and who
// has the only certificate that is good. The order lies in the folder before the gateway has its certificate.
func restoreTickets(s *store.Store, dir string) func(context.Context, enrol.Permit, bool) error {
	return func(ctx context.Context, p enrol.Permit, alone bool) error {
		if dir == "" || !alone {
			return nil
		}
		all, err := s.Tickets().Orders(ctx)
		if err != nil {
			return err
		}
		revoked, is := tickets.Revoked(all)[p.Name]
		if !is || !revoked.At.Before(p.MadeAt) {
			return nil
		}
		_, err = orders.Leave(dir, tickets.Order{ID: "restore" + p.ID, Action: tickets.Restore, Vehicle: p.Name, At: p.MadeAt, By: p.By, Reason: "another gateway was enrolled"})
		return err
	}
}

// void says why a client's certificate is good no more: what broker.Options.Void asks at each CONNECT. It is nil where there is no authority, which
// voids nothing.
func (i *identities) void() func(*x509.Certificate) error {
	if i.registry == nil {
		return nil
	}
	return i.registry.Void
}

// watch takes orders about identities until ctx ends, and tells when certificates became void.
func (i *identities) watch(ctx context.Context, changed func([]topics.Identity)) {
	if i.registry != nil {
		i.registry.Watch(ctx, identitiesEvery, changed)
	}
}

// run serves devices and watches until ctx ends.
func (i *identities) run(ctx context.Context, changed func([]topics.Identity)) error {
	group, inner := errgroup.WithContext(ctx)
	group.Go(func() error { i.watch(inner, changed); return nil })
	if i.listener != nil {
		group.Go(func() error { return i.registry.Serve(inner, i.listener, i.tls) })
	}
	return group.Wait()
}

// close gives the address up. It may be called again.
func (i *identities) close() {
	if i.listener != nil {
		_ = i.listener.Close() // it may be closed already
	}
}

// url is where devices join, "" if they cannot.
func (i *identities) url() string {
	if i.listener == nil {
		return ""
	}
	return "https://" + i.listener.Addr().String()
}

// parts are what is wrong with the certificates of devices.
func (i *identities) parts() []fleet.Part {
	if i.registry == nil {
		return nil
	}
	return []fleet.Part{
		{Name: "device certificates", Kind: faults.DeviceIdentity, Failure: func() error { return expiring(i.registry.Expiring(i.now())) }},
		{Name: "authority", Kind: faults.Certificate, Failure: func() error {
			if i.now().After(certs.ExpiryNear(i.authority)) {
				return fmt.Errorf("the fleet's authority expires %s, and with it every certificate of a device", i.authority.NotAfter.UTC().Format(time.RFC3339))
			}
			return nil
		}},
	}
}

// maxNamed bounds what an error lists.
const maxNamed = 5

// expiring says which certificates are about to be over, nil for none.
func expiring(list []enrol.Certificate) error {
	if len(list) == 0 {
		return nil
	}
	slices.SortStableFunc(list, func(a, b enrol.Certificate) int { return a.NotAfter.Compare(b.NotAfter) })
	var names []string
	for _, c := range list[:min(len(list), maxNamed)] {
		names = append(names, fmt.Sprintf("%s %s (until %s)", c.Role, c.Name, c.NotAfter.UTC().Format(time.DateOnly)))
	}
	if more := len(list) - len(names); more > 0 {
		names = append(names, fmt.Sprintf("and %d more, see farebeat enrol list", more))
	}
	return fmt.Errorf("%d certificates of devices are not renewed: %s", len(list), strings.Join(names, ", "))
}

// certificatesVoid ends the sessions of those whose certificates became void.
func (s *server) certificatesVoid(ids []topics.Identity) {
	for _, id := range ids {
		s.o.logger.Warn("certificates are void", "role", id.Role, "name", id.Name)
	}
	s.broker.CertificatesChanged()
}

// identityCollector gives the registry's figures to Prometheus.
type identityCollector struct {
	r   *enrol.Registry
	now func() time.Time
}

// Describe implements prometheus.Collector.
func (c identityCollector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

// Collect implements prometheus.Collector.
func (c identityCollector) Collect(ch chan<- prometheus.Metric) {
	s := c.r.Stats()
	for name, v := range map[string]struct {
		help string
		n    uint64
	}{
		"issued_total":  {"certificates given to devices that joined since the start", s.Issued.Load()},
		"renewed_total": {"certificates renewed since the start", s.Renewed.Load()},
		"waiting_total": {"unknown devices put on the list of those that wait since the start", s.Waiting.Load()},
		"orders_total":  {"orders about identities taken since the start", s.Followed.Load()},
	} {
		ch <- prometheus.MustNewConstMetric(prometheus.NewDesc("farebeat_enrol_"+name, v.help, nil, nil), prometheus.CounterValue, float64(v.n))
	}
	refused := prometheus.NewDesc("farebeat_enrol_refused_total", "requests of devices that got nothing since the start, by reason", []string{"reason"}, nil)
	for reason, n := range s.Refused() {
		ch <- prometheus.MustNewConstMetric(refused, prometheus.CounterValue, float64(n), reason)
	}
	left := prometheus.NewDesc("farebeat_enrol_expiring_certificates", "certificates of devices in the last sixth of their life, or over, that nothing took the place of", nil, nil)
	ch <- prometheus.MustNewConstMetric(left, prometheus.GaugeValue, float64(len(c.r.Expiring(c.now()))))
}

// giveIdentityOrder gives an order to the store, or where `farebeat serve` writes that, to it. running says which.
func giveIdentityOrder(ctx context.Context, c configs.Config, o enrol.Order, timeout time.Duration) (running bool, err error) {
	if err := o.Validate(); err != nil {
		return false, usageError(err)
	}
	return giveOrder(ctx, c, identityOrders(c), o, timeout, func(s *store.Store) error { return enrol.Follow(ctx, s.Identities(), o) })
}

// startRenewal keeps a client's certificate from running out, in the background, until ctx ends or the returned function is called.
func startRenewal(ctx context.Context, c configs.Client, now func() time.Time, logger *slog.Logger) (stop func(), err error) {
	r, err := renewer(c, now, logger)
	if err != nil || r == nil {
		return func() {}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.Run(ctx)
	}()
	return func() { cancel(); <-done }, nil
}
