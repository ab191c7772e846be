package enrol

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/farebeat/farebeat/fleet/limit"
	"github.com/farebeat/farebeat/fleet/orders"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
)

// Options say what a registry works with.
type Options struct {
	Tree  topics.Tree
	CA    *CA // required. Without its key nothing is signed
	Store Store
	// MachineKey is the key of a machine; Epoch the highest epoch of its that the ledger knows of, 0 for none.
	MachineKey func(ctx context.Context, machine string) ([]byte, error)
	Epoch      func(ctx context.Context, machine string) (uint32, error)
	// Joined is called with a permit of a gateway before its certificate is given out, at least once; nil: nobody is told. alone says that no other
	// certificate of that gateway is good. An error keeps the certificate back until the device asks again.
	Joined   func(ctx context.Context, p Permit, alone bool) error
	Orders   string        // folder in which the command line leaves orders, see Order; empty: none
	TimeZone string        // told to devices, as Broker, the URL of the broker
	Broker   string        //
	Validity time.Duration // of devices' certificates; 0: DefaultValidity
	Now      func() time.Time
	Logger   *slog.Logger
}

// Registry issues, renews and revokes certificates. It is safe for concurrent use.
type Registry struct {
	o     Options
	stats Stats
	log   *limit.Table // what is logged once a minute
	waits *limit.Table // requests of devices that wait, each of which is written to the ledger's store; of all together

	wake chan struct{} // one token: something changed

	mu     sync.RWMutex
	void   map[string]topics.Identity // serials that are revoked
	before map[identity]time.Time     // certificates that were issued before are void
	latest []Certificate
}

// Stats count since the start.
type Stats struct {
	Issued, Renewed, Waiting, Followed atomic.Uint64
	refused                            sync.Map // reason to *atomic.Uint64; the reasons are the constants
}

// Refused is how often devices got nothing, by reason.
func (s *Stats) Refused() map[string]uint64 {
	out := map[string]uint64{}
	s.refused.Range(func(k, n any) bool {
		out[k.(string)] = n.(*atomic.Uint64).Load()
		return true
	})
	return out
}

func (s *Stats) refuse(reason string) {
	n, _ := s.refused.LoadOrStore(reason, new(atomic.Uint64))
	n.(*atomic.Uint64).Add(1)
}

// identity is a key of maps: an Identity without grants.
type identity struct {
	role topics.Role
	name string
}

// New makes a registry and reads what is revoked.
func New(ctx context.Context, o Options) (*Registry, error) {
	if o.CA == nil || o.Store == nil {
		return nil, errors.New("identities: an authority and a store are required")
	}
	if o.Validity <= 0 {
		o.Validity = DefaultValidity
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	r := &Registry{o: o, log: limit.EachMinute(), waits: waits(), wake: make(chan struct{}, 1)}
	r.before = map[identity]time.Time{}
	if _, err := r.refresh(ctx); err != nil {
		return nil, err
	}
	return r, nil
}

// Stats are the registry's own.
func (r *Registry) Stats() *Stats { return &r.stats }

// join gives a device the certificate of its permit, or puts it on the list of those that wait.
func (r *Registry) join(ctx context.Context, a ask) (schemas.EnrolAnswer, error) {
	now := r.now()
	var p *Permit
	var why string
	if err := r.o.Store.View(ctx, func(v View) (err error) { p, why, err = choose(v, now, a); return err }); err != nil {
		return schemas.EnrolAnswer{}, err
	}
	if p == nil {
		return r.wait(ctx, now, a, why)
	}
	epoch, key, err := r.ofMachine(ctx, *p)
	if err != nil {
		return schemas.EnrolAnswer{}, err
	}
	var c Certificate
	var fresh bool
	err = r.o.Store.Update(ctx, func(t Tx) error {
		now := r.now()
		again, _, err := choose(t, now, a)
		if err != nil {
			return err
		}
		if again == nil || again.ID != p.ID {
			return refuse(http.StatusConflict, CodeUsed, "the permit changed in this moment: ask again")
		}
		p, fresh = again, again.Serial == ""
		c, err = grant(t, now, *again, a, epoch, r.signer(a, now))
		return err
	})
	if err != nil {
		return schemas.EnrolAnswer{}, err
	}
	r.changed()
	if err := r.joined(ctx, *p, c); err != nil {
		return schemas.EnrolAnswer{}, err
	}
	if fresh {
		r.stats.Issued.Add(1)
		r.o.Logger.Info("a device was enrolled", "role", c.Role, "name", c.Name, "serial", c.Serial, "until", c.NotAfter, "by", c.By, "how", c.How, "remote", a.remote)
	}
	answer := c.answer(r.o)
	if c.Role == topics.RoleMachine {
		answer = withKey(answer, key)
	}
	return answer, nil
}

// joined tells of a gateway that was given a certificate.
func (r *Registry) joined(ctx context.Context, p Permit, c Certificate) error {
	if c.Role != topics.RoleGateway || r.o.Joined == nil {
		return nil
	}
	alone := true
	err := r.o.Store.View(ctx, func(v View) error {
		list, err := v.Certificates(c.identity())
		alone = !slices.ContainsFunc(list, func(o Certificate) bool { return o.Serial != c.Serial && o.Good(r.now()) })
		return err
	})
	if err != nil {
		return err
	}
	return r.o.Joined(ctx, p, alone)
}

// ofMachine asks for what only a machine gets.
func (r *Registry) ofMachine(ctx context.Context, p Permit) (epoch uint32, key []byte, err error) {
	if p.Role != topics.RoleMachine {
		return 0, nil, nil
	}
	if r.o.Epoch == nil || r.o.MachineKey == nil {
		return 0, nil, errors.New("enrol a machine: the keys of machines are not here")
	}
	if epoch, err = r.o.Epoch(ctx, p.Name); err != nil {
		return 0, nil, err
	}
	key, err = r.o.MachineKey(ctx, p.Name)
	return epoch, key, err
}

// retry is after how many seconds a device that waits may ask again. Ours has pauses of its own, which grow.
const retry = 10

// waits lets all that may wait ask twice at once, and then 32 a second: when all ask as often as the answer says, it is 26.
func waits() *limit.Table {
	return limit.New(limit.Options{Every: time.Second / 32, Burst: 2 * maxWaiting, Keys: 1, Shared: 1, Sweep: time.Minute})
}

func (r *Registry) wait(ctx context.Context, now time.Time, a ask, why string) (schemas.EnrolAnswer, error) {
	if after := r.waits.Take("", now); after > 0 {
		return schemas.EnrolAnswer{}, tooOften("unknown devices", after)
	}
	var known *Waiting
	err := r.o.Store.Update(ctx, func(t Tx) (err error) {
		if known, err = t.Waiting(a.key.Fingerprint); err != nil {
			return err
		}
		return wait(t, now, a, why)
	})
	if err != nil {
		return schemas.EnrolAnswer{}, err
	}
	if known != nil && !known.DismissedAt.IsZero() {
		return schemas.EnrolAnswer{}, refuse(http.StatusForbidden, Dismissed, "an administrator dismissed this device; a code lets it in nevertheless")
	}
	if known == nil {
		r.stats.Waiting.Add(1)
		r.o.Logger.Warn("an unknown device waits to be admitted", "says_role", a.role, "says_name", a.name, "key", a.key.Fingerprint, "remote", a.remote, "code", why)
	}
	return schemas.EnrolAnswer{Status: schemas.EnrolWaiting, Fingerprint: a.key.Fingerprint, Reason: why, Retry: retry}, nil
}

func (r *Registry) signer(a ask, now time.Time) func(topics.Identity) (*x509.Certificate, error) {
	return func(id topics.Identity) (*x509.Certificate, error) {
		return r.o.CA.IssueClient(a.key.Public, r.o.Tree, id, now, r.o.Validity)
	}
}

// renew gives the owner of a certificate, which was verified, the next one.
func (r *Registry) renew(ctx context.Context, old *x509.Certificate, a ask) (schemas.EnrolAnswer, error) {
	id, err := r.o.Tree.CertificateIdentity(old)
	if err != nil {
		return schemas.EnrolAnswer{}, refuse(http.StatusForbidden, NoCertificate, "%v", err)
	}
	if err := r.Void(old); err != nil {
		return schemas.EnrolAnswer{}, refuse(http.StatusForbidden, Revoked, "%v: the device has to be enrolled again", err)
	}
	var c Certificate
	err = r.o.Store.Update(ctx, func(t Tx) (err error) {
		now := r.now()
		c, err = renew(t, now, old, id, a, r.signer(a, now))
		return err
	})
	if err != nil {
		return schemas.EnrolAnswer{}, err
	}
	r.changed()
	r.stats.Renewed.Add(1)
	r.o.Logger.Info("a device renewed its certificate", "role", c.Role, "name", c.Name, "serial", c.Serial, "until", c.NotAfter, "remote", a.remote)
	return c.answer(r.o), nil
}

// now is to the millisecond, as it is kept.
func (r *Registry) now() time.Time { return r.o.Now().UTC().Truncate(time.Millisecond) }

func (r *Registry) changed() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Void says why a certificate, whose signature was checked before, is good no more: it was revoked. One of ours that the register does not know is
// good, if its identity was not revoked since: a store that was restored from a backup does not know those that were issued later. Of one of another
// authority, if a listener trusts it, only the latter is asked. It asks memory only.
func (r *Registry) Void(cert *x509.Certificate) error {
	issued, ours := cert.NotBefore, r.o.CA.Signed(cert)
	if ours {
		issued = issuedAt(cert)
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	if _, revoked := r.void[Serial(cert)]; revoked && ours {
		return fmt.Errorf("certificate %s was revoked", Serial(cert))
	}
	if len(r.before) == 0 {
		return nil
	}
	id, err := r.o.Tree.CertificateIdentity(cert)
	if err != nil {
		return nil //nolint:nilerr // it is nobody's, and lets nobody in
	}
	if at, ok := r.before[identity{id.Role, id.Name}]; ok && issued.Before(at) {
		return fmt.Errorf("certificate %s of %s %s was issued before all of its were revoked", Serial(cert), id.Role, id.Name)
	}
	return nil
}

// Expiring lists certificates in the last sixth of their life, or over, that nothing took the place of: of each identity the one that ends last,
// by role and name. It asks memory only.
func (r *Registry) Expiring(now time.Time) []Certificate {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var out []Certificate
	for _, c := range r.latest {
		if left := c.NotAfter.Sub(now); left < c.NotAfter.Sub(c.IssuedAt)/6 {
			out = append(out, c)
		}
	}
	return out
}

// refresh reads what is revoked, and tells whose certificates are void since.
func (r *Registry) refresh(ctx context.Context) ([]topics.Identity, error) {
	void, before := map[string]topics.Identity{}, map[identity]time.Time{}
	var latest []Certificate
	err := r.o.Store.View(ctx, func(v View) error {
		clear(void)
		latest = nil
		list, err := v.Revocations()
		for _, g := range list {
			before[identity{g.Role, g.Name}] = g.At
		}
		return joined(err, v.Revoked(r.now(), func(c Certificate) { void[c.Serial] = c.identity() }), v.Latest(func(c Certificate) { latest = append(latest, c) }))
	})
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	fresh := map[identity]bool{}
	for serial, id := range void {
		if _, known := r.void[serial]; !known {
			fresh[identity{id.Role, id.Name}] = true
		}
	}
	for id, at := range before {
		fresh[id] = fresh[id] || at.After(r.before[id])
	}
	for id, at := range r.before { // of an order that could not be saved
		if at.After(before[id]) {
			before[id] = at
		}
	}
	maps.DeleteFunc(fresh, func(_ identity, is bool) bool { return !is })
	r.void, r.before, r.latest = void, before, latest
	return sorted(fresh), nil
}

func sorted(set map[identity]bool) []topics.Identity {
	var out []topics.Identity
	for id := range set {
		out = append(out, topics.Identity{Role: id.role, Name: id.name})
	}
	slices.SortFunc(out, func(a, b topics.Identity) int {
		if a.Role != b.Role {
			return strings.Compare(string(a.Role), string(b.Role))
		}
		return strings.Compare(a.Name, b.Name)
	})
	return out
}

// Watch takes orders and looks for what changed, after every and at once when a device was given a certificate, until ctx ends. changed is told
// whose certificates became void, after Void says so.
func (r *Registry) Watch(ctx context.Context, every time.Duration, changed func([]topics.Identity)) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	stale := false // the store may say more than is known here
	for {
		ids, followed := r.follow(ctx)
		if stale = stale || followed; stale {
			void, err := r.refresh(ctx)
			if stale = err != nil; stale && ctx.Err() == nil {
				r.complain("read", "what is revoked could not be read; what was revoked before holds", "error", err)
			}
			ids = append(ids, void...)
		}
		if len(ids) > 0 {
			changed(ids)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-r.wake:
			stale = true
		}
	}
}

// follow takes what the command line ordered, and reports whether anything was saved. A file is removed when its order is on disk. A revocation
// holds at once, also while it cannot be saved; whose those are is void.
func (r *Registry) follow(ctx context.Context) (void []topics.Identity, saved bool) {
	if r.o.Orders == "" || !orders.AnyLeft(r.o.Orders) {
		return nil, false
	}
	left, err := orders.Take[Order](r.o.Orders)
	if err != nil {
		r.complain("orders", "an order about identities was not taken", "error", err)
	}
	for _, l := range left {
		err := Follow(ctx, r.o.Store, l.Order)
		if err == nil {
			saved = true
			r.stats.Followed.Add(1)
			r.o.Logger.Info("an order about identities", "action", l.Order.Action, "role", l.Order.Role, "name", l.Order.Name, "by", l.Order.By, "reason", l.Order.Reason)
			err = os.Remove(l.Path)
		} else if l.Order.Action == Revoke {
			void = append(void, r.holds(l.Order)...)
		}
		if err != nil {
			r.complain("orders", "an order about identities could not be saved; it is tried again", "action", l.Order.Action, "name", l.Order.Name, "error", err)
		}
	}
	return void, saved
}

// holds voids in memory what an order that cannot be saved revokes.
func (r *Registry) holds(o Order) []topics.Identity {
	r.mu.Lock()
	defer r.mu.Unlock()
	id, at := identity{o.Role, o.Name}, o.At.Truncate(time.Second).Add(time.Second)
	if !at.After(r.before[id]) {
		return nil
	}
	r.before[id] = at
	return []topics.Identity{{Role: o.Role, Name: o.Name}}
}

// Follow does what an administrator ordered, in a store that nobody else writes. An order that was followed already changes nothing.
func Follow(ctx context.Context, s Store, o Order) error {
	if err := o.Validate(); err != nil {
		return err
	}
	return s.Update(ctx, func(t Tx) error { return follow(t, o) })
}

// complain logs an error once a minute.
func (r *Registry) complain(what, message string, args ...any) {
	if r.log.Due(what, r.o.Now()) {
		r.o.Logger.Error(message, args...)
	}
}

// sumOf is what is kept of a code.
func sumOf(code string) *[sha256.Size]byte {
	if code == "" {
		return nil
	}
	sum := sha256.Sum256([]byte(code))
	return &sum
}
