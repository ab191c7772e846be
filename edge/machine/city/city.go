package city

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/farebeat/farebeat/edge/machine"
	"github.com/farebeat/farebeat/edge/machine/journal"
	"github.com/farebeat/farebeat/topics"
)

// Uplink is one machine's way to the broker. An uplink keeps itself connected;
// while it is not, Publish returns an error soon. Its methods are called by one
// goroutine at a time.
type Uplink interface {
	// Publish sends one message that is not retained.
	Publish(ctx context.Context, topic string, qos byte, payload []byte) error
	// Up reports whether the broker can be reached now: a tap is stored where it cannot.
	Up() bool
	// Cut loses the link as a dead zone or a loss of power does: no goodbye.
	Cut()
	// Close ends the link in order.
	Close() error
}

// Options of a city.
type Options struct {
	Clock   *Clock
	Duties  []Duty
	Tree    topics.Tree
	Dir     string // journals, a folder a machine; made where it is not there
	Zone    *time.Location
	Key     func(machine string) []byte                                   // 32 bytes
	Connect func(ctx context.Context, machine string) (Uplink, error)     // asked again with the next heartbeat after an error
	Radio   func(ctx context.Context, m *machine.Machine) (func(), error) // puts a machine that booted on the air, returns how to take it off; nil: no radio

	Name        func(vehicle string) string // of the vehicle's machine, default vehicle-1
	Journal     journal.Options             // of each machine; FirstEpoch must grow from run to run where Dir is thrown away and the ledger is not
	Interval    time.Duration               // between heartbeats, simulated, default 15 s
	Layover     time.Duration               // a shorter rest belongs to the trip before it; 0: none
	TapsPerHour float64                     // of each machine on duty, at random
	Fare        func(r *rand.Rand) machine.Fare
	Currency    string // default USD
	Firmware    string
	Home        func(vehicle string) (depot, network string) // what the vehicle's machine says of itself; nil: nothing
	Outages     []Outage
	Seed        uint64
	Lanes       int           // workers, default 16
	Timeout     time.Duration // of one Connect or Publish, real, default 5 s
	Logger      *slog.Logger
}

// maxTaps bounds Options.TapsPerHour.
const maxTaps = 100_000

func (o *Options) defaults() error {
	if o.Clock == nil || o.Dir == "" || o.Zone == nil || o.Key == nil || o.Connect == nil {
		return errors.New("city: Clock, Dir, Zone, Key and Connect are required")
	}
	if o.Interval < 0 || o.Layover < 0 || !(o.TapsPerHour >= 0) || o.TapsPerHour > maxTaps {
		return fmt.Errorf("city: interval %s and layover %s must not be negative, taps per hour %g between 0 and %d", o.Interval, o.Layover, o.TapsPerHour, maxTaps)
	}
	if o.Name == nil {
		o.Name = func(vehicle string) string { return vehicle + "-1" }
	}
	if o.Fare == nil {
		o.Fare = anyFare
	}
	o.Interval = cmp.Or(o.Interval, 15*time.Second)
	o.Currency = cmp.Or(o.Currency, "USD")
	o.Lanes = cmp.Or(max(o.Lanes, 0), 16)
	o.Timeout = cmp.Or(o.Timeout, 5*time.Second)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// anyFare is a plausible tap.
func anyFare(r *rand.Rand) machine.Fare {
	media := []string{"Contactless bank card", "Smart card", "Mobile device"}
	amounts := []int64{100, 200, 200, 200, 240, 400}
	return machine.Fare{
		AmountMinor: amounts[r.IntN(len(amounts))], Media: media[r.IntN(len(media))],
		TokenID: fmt.Sprintf("tok-%016x", r.Uint64()),
	}
}

// City is a simulated city. Its methods are safe for concurrent use.
type City struct {
	o     Options
	clock *Clock
	units []*unit
	byID  map[string]*unit
	lock  io.Closer

	ran   atomic.Bool
	tally tally
	wake  chan struct{} // of capacity 1: orders waits

	mu     sync.Mutex
	orders []func(*scheduler) // from other goroutines to the scheduler
}

// New makes the machines of a city, all switched off. Close gives their journals
// free.
func New(o Options) (*City, error) {
	if err := o.defaults(); err != nil {
		return nil, err
	}
	groups, err := byVehicle(o.Duties)
	if err != nil {
		return nil, fmt.Errorf("city: %w", err)
	}
	o.Duties = nil
	c := &City{o: o, clock: o.Clock, byID: make(map[string]*unit, len(groups)), wake: make(chan struct{}, 1)}
	for i, duties := range groups {
		u, err := c.unit(i, duties)
		if err != nil {
			return nil, fmt.Errorf("city: %w", err)
		}
		if c.byID[u.m.ID()] != nil {
			return nil, fmt.Errorf("city: two vehicles carry a machine %q", u.m.ID())
		}
		c.units = append(c.units, u)
		c.byID[u.m.ID()] = u
	}
	if c.lock, err = journal.LockDir(o.Dir); err != nil {
		return nil, fmt.Errorf("city: journals in %s: %w", o.Dir, err)
	}
	return c, nil
}

func (c *City) unit(i int, duties []Duty) (*unit, error) {
	vehicle := duties[0].Vehicle
	id := c.o.Name(vehicle)
	topic, err := c.o.Tree.Build(topics.Address{Kind: topics.Heartbeat, Machine: id})
	if err != nil {
		return nil, err
	}
	jo := c.o.Journal
	jo.NoLock = true // the city holds the lock of all
	var depot, network string
	if c.o.Home != nil {
		depot, network = c.o.Home(vehicle)
	}
	m, err := machine.New(machine.Options{
		Depot: depot, Network: network,
		ID: id, Vehicle: vehicle, Key: c.o.Key(id), Dir: filepath.Join(c.o.Dir, "m-"+url.PathEscape(id)), Journal: jo,
		Zone: c.o.Zone, Currency: c.o.Currency, Firmware: c.o.Firmware, Now: c.clock.Now, Logger: c.o.Logger,
	})
	if err != nil {
		return nil, err
	}
	return &unit{m: m, topic: topic, duties: duties, lane: i % c.o.Lanes, index: -1}, nil
}

// Close gives the journals free. Call it after Run.
func (c *City) Close() error { return c.lock.Close() }

// Clock is the city's clock.
func (c *City) Clock() *Clock { return c.clock }

// Now is the simulated time.
func (c *City) Now() time.Time { return c.clock.Now() }

// Machine returns a machine by its id.
func (c *City) Machine(id string) (*machine.Machine, bool) {
	u, ok := c.byID[id]
	if !ok {
		return nil, false
	}
	return u.m, true
}

// Machines returns all machines, in the order of their vehicles' names.
func (c *City) Machines() []*machine.Machine {
	out := make([]*machine.Machine, len(c.units))
	for i, u := range c.units {
		out[i] = u.m
	}
	return out
}

// Vehicles returns the vehicles, one a machine, in order.
func (c *City) Vehicles() []string {
	out := make([]string, len(c.units))
	for i, u := range c.units {
		out[i] = u.m.Vehicle()
	}
	return out
}

// Audit is what one machine wrote, for a comparison with the ledger.
type Audit struct {
	Machine  string
	Counters machine.Counters     // of this city's life
	Epochs   []journal.EpochAudit // of the journal's life
	Pending  int                  // records without a receipt
}

// Audit lists the machines that ever stored a transaction.
func (c *City) Audit() []Audit {
	var out []Audit
	for _, u := range c.units {
		a := Audit{Machine: u.m.ID(), Counters: u.m.Counters(), Epochs: u.m.Audit()}
		if s, ok := u.m.Journal(); ok {
			a.Pending = s.Pending
		}
		wrote := func(e journal.EpochAudit) bool { return e.Last > 0 }
		if a.Counters.Written > 0 || slices.ContainsFunc(a.Epochs, wrote) {
			out = append(out, a)
		}
	}
	return out
}

// tally is counted by the workers.
type tally struct {
	on, cut, stopped                      atomic.Int64
	heartbeats, failed, skipped, connects atomic.Uint64
	outages, missed                       atomic.Uint64
	lag                                   atomic.Int64
}

// Stats are the city's counters.
type Stats struct {
	Machines     int
	On           int           // switched on
	Cut          int           // without an uplink by an outage
	Stopped      int           // without power by an outage
	Heartbeats   uint64        // sent
	Failed       uint64        // heartbeats that the uplink refused
	Skipped      uint64        // heartbeats not sent because the simulation was behind
	Reconnects   uint64        // attempts to connect that failed
	Outages      uint64        // begun
	Missed       uint64        // outages that found no machine
	Online       uint64        // taps authorized online
	Written      uint64        // taps stored
	WrittenMinor int64         // their sum, minor units
	Refused      uint64        // taps refused
	Pending      int           // records without a receipt
	PendingMinor int64         // their sum
	Behind       time.Duration // how far the timetable is behind the clock, real time
}

// Stats counts; it asks every machine.
func (c *City) Stats() Stats {
	t := &c.tally
	s := Stats{
		Machines: len(c.units), On: int(t.on.Load()), Cut: int(t.cut.Load()), Stopped: int(t.stopped.Load()),
		Heartbeats: t.heartbeats.Load(), Failed: t.failed.Load(), Skipped: t.skipped.Load(), Reconnects: t.connects.Load(),
		Outages: t.outages.Load(), Missed: t.missed.Load(), Behind: c.clock.Real(time.Duration(t.lag.Load())),
	}
	for _, u := range c.units {
		n := u.m.Counters()
		s.Online += n.Online
		s.Written += n.Written
		s.WrittenMinor += n.WrittenMinor
		s.Refused += n.Refused
		if j, ok := u.m.Journal(); ok {
			s.Pending += j.Pending
			s.PendingMinor += j.PendingAmount
		}
	}
	return s
}

// Inject adds an outage while the city runs. One that is due already begins at once.
func (c *City) Inject(o Outage) {
	c.order(func(s *scheduler) { s.outages = byTime(append(s.outages, o)) })
}

// EndOutages gives every machine its uplink and its power back.
func (c *City) EndOutages() { c.order((*scheduler).endOutages) }

// StopTaps ends all taps: what is to be brought home no longer grows.
func (c *City) StopTaps() { c.order((*scheduler).stopTaps) }

func (c *City) order(f func(*scheduler)) {
	c.mu.Lock()
	c.orders = append(c.orders, f)
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Run lets the city live until its timetable is over and every machine is
// switched off, or ctx ends, which is no error. A city runs once.
func (c *City) Run(ctx context.Context) error {
	if !c.ran.CompareAndSwap(false, true) {
		return errors.New("run city: it ran already; make a new one")
	}
	var wg sync.WaitGroup
	lanes := make([]chan job, c.o.Lanes)
	for i := range lanes {
		lanes[i] = make(chan job, 256)
		wg.Go(func() {
			w := &worker{city: c}
			for j := range lanes[i] {
				w.do(ctx, j)
			}
			w.end(i)
		})
	}
	c.clock.Begin()
	newScheduler(c, lanes).run(ctx)
	for _, l := range lanes {
		close(l)
	}
	wg.Wait()
	return nil
}
