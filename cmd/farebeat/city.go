package main

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net"
	"net/url"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/farebeat/farebeat/edge"
	"github.com/farebeat/farebeat/edge/ble"
	"github.com/farebeat/farebeat/edge/machine"
	"github.com/farebeat/farebeat/edge/machine/city"
	"github.com/farebeat/farebeat/edge/machine/journal"
	"github.com/farebeat/farebeat/edge/ors"
	"github.com/farebeat/farebeat/edge/outbox"
	"github.com/farebeat/farebeat/fleet/expect/gtfs"
	"github.com/farebeat/farebeat/fleet/keys"
	"github.com/farebeat/farebeat/topics"
	"github.com/farebeat/farebeat/topics/session"
)

// cityOptions say what a simulated city is made of.
type cityOptions struct {
	operator string
	clock    *city.Clock
	duties   []city.Duty
	dir      string // journals and outboxes
	zone     *time.Location
	keys     *keys.Master                                 // of the machines, or key
	key      func(machine string) []byte                  // 32 bytes
	name     func(vehicle string) string                  // of the vehicle's machine; vehicle-1 if nil
	home     func(vehicle string) (depot, network string) // what its machine says of itself; nil: nothing
	taps     float64                                      // an hour and machine
	outages  []city.Outage
	seed     uint64
	journal  journal.Options
	offline  bool          // no machine ever connects
	gateways bool          // an edge agent on every vehicle
	pace     time.Duration // how long a packet from a machine takes over the air
	interval time.Duration // between heartbeats; 0: 15 s
	// patience is how long a machine waits for its first connection before it works without one, while the
	// session goes on trying; 0: it waits for as long as the city lets it, and asks anew with its next heartbeat.
	patience time.Duration
	// beats is told what becomes of the first heartbeat of each connection; nil: it is sent as all others are.
	beats *firstBeats
	// connect is how a machine or gateway reaches the broker. cut loses the connection without a goodbye.
	connect func(id topics.Identity) (o session.Options, cut func())
	logger  *slog.Logger
}

// simulatedCity is a city, the air around each vehicle, and the gateways.
type simulatedCity struct {
	o      cityOptions
	tree   topics.Tree
	city   *city.City
	airs   map[string]*ble.Air
	boxes  []*outbox.Outbox
	agents []*edge.Agent
}

func newSimulatedCity(ctx context.Context, o cityOptions) (c *simulatedCity, err error) {
	tree, err := topics.New(o.operator)
	if err != nil {
		return nil, usageError(err)
	}
	if o.key == nil {
		o.key = func(id string) []byte {
			key, err := o.keys.Machine(ctx, id)
			must(err) // a key derived in memory
			return key[:]
		}
	}
	c = &simulatedCity{o: o, tree: tree, airs: map[string]*ble.Air{}}
	c.city, err = city.New(city.Options{
		Clock: o.clock, Duties: o.duties, Tree: tree, Dir: filepath.Join(o.dir, "machines"), Zone: o.zone,
		Key: o.key, Name: o.name,
		Connect: c.uplink, Radio: c.onAir, Journal: o.journal, Layover: 30 * time.Minute, Interval: o.interval,
		TapsPerHour: o.taps, Outages: o.outages, Seed: o.seed, Firmware: "simulated", Home: o.home, Logger: o.logger,
	})
	if err != nil {
		return nil, err
	}
	for _, m := range c.city.Machines() {
		c.airs[m.Vehicle()] = ble.NewAir()
	}
	if !o.gateways {
		return c, nil
	}
	for _, m := range c.city.Machines() {
		if err := c.addGateway(ctx, m); err != nil {
			return nil, errors.Join(err, c.close())
		}
	}
	return c, nil
}

func (c *simulatedCity) addGateway(ctx context.Context, m *machine.Machine) error {
	vehicle := m.Vehicle()
	box, err := outbox.Open(ctx, filepath.Join(c.o.dir, "outboxes", "v-"+url.PathEscape(vehicle)+".db"), outbox.Options{Now: c.o.clock.Now})
	if err != nil {
		return err
	}
	c.boxes = append(c.boxes, box)
	so, _ := c.o.connect(topics.Identity{Role: topics.RoleGateway, Name: vehicle})
	agent, err := edge.New(edge.Options{
		Vehicle: vehicle, Machines: []string{m.ID()}, Tree: c.tree, Connect: edge.OverMQTT(vehicle, so),
		Radio: c.airs[vehicle], Outbox: box, Now: c.o.clock.Now, Logger: c.o.logger,
		Timing: edge.Timing{Recollect: time.Minute, Listen: -1},
		Limits: edge.Limits{Tick: c.real(time.Second), Scan: 2 * time.Second, Progress: 250 * time.Millisecond, Confirm: c.real(10 * time.Second), Resend: 20 * time.Second},
	})
	c.agents = append(c.agents, agent)
	return err
}

// real is a simulated duration on the wall, but never a busy loop.
func (c *simulatedCity) real(d time.Duration) time.Duration {
	return max(c.o.clock.Real(d), 50*time.Millisecond)
}

// onAir puts a machine on the air around its vehicle until its power goes.
func (c *simulatedCity) onAir(ctx context.Context, m *machine.Machine) (func(), error) {
	air := c.airs[m.Vehicle()]
	air.Set(m.ID(), ors.OnAir(ctx, m))
	air.Spoil(m.ID(), ble.Faults{Pace: c.o.pace})
	return func() { air.Set(m.ID(), nil) }, nil
}

// run lets the city live until its timetable is over or ctx ends; gateways go on until ctx ends.
func (c *simulatedCity) run(ctx context.Context) error {
	group, inner := errgroup.WithContext(ctx)
	group.Go(func() error { return c.city.Run(inner) })
	for _, a := range c.agents {
		group.Go(func() error { return a.Run(inner) })
	}
	return group.Wait()
}

func (c *simulatedCity) close() error {
	errs := []error{c.city.Close()}
	for _, b := range c.boxes {
		errs = append(errs, b.Close())
	}
	for _, a := range c.airs {
		a.Wait()
	}
	return errors.Join(errs...)
}

// uplink connects one machine to the broker.
func (c *simulatedCity) uplink(ctx context.Context, id string) (city.Uplink, error) {
	if c.o.offline {
		return nil, errors.New("it is to stay offline")
	}
	so, cut := c.o.connect(topics.Identity{Role: topics.RoleMachine, Name: id})
	up := make(chan struct{})
	var once sync.Once
	so.CleanSession = true
	so.Up = func() { once.Do(func() { close(up) }) }
	s, err := session.New(so)
	if err != nil {
		return nil, err
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	u := &uplink{session: s, cut: cut, stop: stop, ended: make(chan struct{}), beats: c.o.beats}
	go func() {
		defer close(u.ended)
		_ = s.Run(running) // it ends with running, and says nothing else
	}()
	waiting := ctx
	if c.o.patience > 0 {
		var enough context.CancelFunc
		waiting, enough = context.WithTimeout(ctx, c.o.patience)
		defer enough()
	}
	select {
	case <-up:
		return u, nil
	case <-waiting.Done():
		if ctx.Err() == nil {
			return u, nil // it comes up later, or not
		}
		u.Cut()
		if c.o.beats != nil {
			c.o.beats.unconnected(ctx, s.Stats().Refused)
		}
		return nil, fmt.Errorf("connect machine %s: %w", id, ctx.Err())
	}
}

// uplink is one machine's session with the broker.
type uplink struct {
	session *session.Session
	cut     func()
	stop    func()
	ended   chan struct{}
	beats   *firstBeats // nil when it has told
}

// Publish implements city.Uplink.
func (u *uplink) Publish(ctx context.Context, topic string, qos byte, payload []byte) error {
	if u.beats == nil {
		return u.session.Publish(ctx, session.Message{Topic: topic, QoS: qos, Payload: payload})
	}
	err := u.session.Publish(ctx, session.Message{Topic: topic, QoS: 1, Payload: payload})
	u.beats.sent(ctx, err)
	if err == nil {
		u.beats = nil
	}
	return err
}

// Up implements city.Uplink.
func (u *uplink) Up() bool { return u.session.Connected() }

// Cut implements city.Uplink.
func (u *uplink) Cut() {
	u.cut()
	u.stop()
	<-u.ended
}

// Close implements city.Uplink.
func (u *uplink) Close() error {
	u.stop()
	<-u.ended
	return nil
}

// cuttable remembers the newest connection that a dialler made, so that it can be lost.
type cuttable struct {
	mu   sync.Mutex
	conn net.Conn
	gone bool
}

func (c *cuttable) dial(ctx context.Context, dial func(context.Context) (net.Conn, error)) (net.Conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone {
		return nil, net.ErrClosed
	}
	conn, err := dial(ctx)
	c.conn = conn
	return conn, err
}

func (c *cuttable) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone = true
	if c.conn != nil {
		c.conn.Close()
	}
}

// dutiesOn lists what a timetable's vehicles drive on a date.
func dutiesOn(feed *gtfs.Feed, date gtfs.Date) []city.Duty {
	var out []city.Duty
	for _, d := range feed.Duties(date) {
		if d.To.After(d.From) {
			out = append(out, city.Duty{Vehicle: d.Vehicle, Route: d.Route, Trip: d.Trip, From: d.From, To: d.To})
		}
	}
	return out
}

// simulatedHome spreads the simulated machines over two depots and two mobile networks.
func simulatedHome(vehicle string) (depot, network string) {
	h := fnv.New32a()
	_, _ = h.Write([]byte(vehicle)) // it never fails
	n := h.Sum32()
	return []string{"north", "south"}[n%2], []string{"001-01", "001-02"}[n/2%2] // test networks of ITU-T E.212
}
