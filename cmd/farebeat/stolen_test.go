package main

import (
	"context"
	"encoding/json"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/farebeat/farebeat/configs"
	"github.com/farebeat/farebeat/fleet/console/access"
	"github.com/farebeat/farebeat/fleet/enrol"
	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/orders"
	"github.com/farebeat/farebeat/fleet/store"
	"github.com/farebeat/farebeat/fleet/tickets"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
	"github.com/farebeat/farebeat/topics/session"
)

// device is one that was enrolled and is connected with its certificate.
type device struct {
	session  *session.Session
	up, down chan struct{}
	end      func()
}

// enrolled enrols an identity as a technician does, and returns the folder of what the device has.
func enrolled(t *testing.T, rig *consoleRig, role, name string, more ...string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "device")
	args := append([]string{"enrol", role, name, "--data", rig.server.o.config.Data, "--url", rig.server.ids.url(), "--no-qr"}, more...)
	url, _ := farebeat(t, exitOK, args...)
	farebeat(t, exitOK, "join", strings.TrimSpace(url), "--out", out)
	return out
}

// connected connects a device as its configuration says, to the broker of rig.
func connected(t *testing.T, rig *consoleRig, dir, filter string, handle session.Handler) *device {
	t.Helper()
	c, err := configs.Load(configs.Options{File: filepath.Join(dir, "farebeat.yaml")})
	if err != nil {
		t.Fatal(err)
	}
	o, err := clientOptions(c.Client, "device")
	if err != nil {
		t.Fatal(err)
	}
	d := &device{up: make(chan struct{}, 64), down: make(chan struct{}, 64)}
	o.Servers = []string{"ssl://" + rig.server.broker.Addr("machines")} // a port that nobody knew before
	o.Backoff = session.Backoff{Min: 50 * time.Millisecond, Max: 100 * time.Millisecond}
	o.Up, o.Down = func() { d.up <- struct{}{} }, func(error) { d.down <- struct{}{} }
	if d.session, err = session.New(o); err != nil {
		t.Fatal(err)
	}
	d.session.Handle(filter, 1, handle)
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() { _ = d.session.Run(ctx) })
	d.end = func() { cancel(); done.Wait() }
	t.Cleanup(d.end)
	return d
}

// await waits for one of two things of a test.
func await[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(time.Minute):
		t.Fatalf("waited for: %s", what)
		panic("unreachable")
	}
}

// TestAStolenGateway: one order ends the session of a gateway, voids its tickets and keeps it out; the one that takes its place reads on.
func TestAStolenGateway(t *testing.T) {
	rig := newConsoleRig(t, consoleRole(access.Viewer), nil, nil, func(c *configs.Config) {
		farebeat(t, exitOK, "ca", "init", "--data", c.Data, "--host", "127.0.0.1")
		server := filepath.Join(c.Data, "server.pem")
		c.Enrol.Address = "127.0.0.1:0"
		c.Broker.Listeners = []configs.Listener{{
			Name: "machines", Kind: "tls", Address: "127.0.0.1:0", CertFile: server, KeyFile: server, ClientCAFile: filepath.Join(c.Data, "ca.pem"), ClientCertRequired: true,
		}}
	})
	tree, data := rig.server.o.tree, rig.server.o.config.Data
	got := make(chan string, 64)
	listen := func(who string) session.Handler {
		return func(_ context.Context, d *session.Delivery) error {
			if len(d.Payload) == 0 {
				got <- who + " cleared"
			} else {
				got <- who + " ticket"
			}
			return nil
		}
	}
	stolenDir := enrolled(t, rig, "gateway", "v1")
	stolen := connected(t, rig, stolenDir, tree.Root()+"vehicle/v1/ticket/+", listen("stolen"))
	await(t, "the gateway is connected", stolen.up)

	orderCollection(t, rig, "v1", "m1")
	if what := await(t, "a ticket", got); what != "stolen ticket" {
		t.Fatal(what)
	}
	refused := rig.server.broker.Stats().RefusedConnect
	begun := time.Now()
	out, _ := farebeat(t, exitOK, "revoke", "gateway", "v1", "--reason", "stolen at the depot", "--data", data)
	await(t, "its session ends", stolen.down)
	t.Logf("%s after the order was begun its session had ended; %s", time.Since(begun).Round(time.Millisecond), strings.TrimSpace(out))
	for rig.server.broker.Stats().RefusedConnect == refused {
		rig.pass(1)
	}
	if len(stolen.up) > 0 {
		t.Error("it came back")
	}
	list := func() []tickets.Ticket {
		t.Helper()
		list, err := rig.store.Tickets().List(t.Context(), tickets.Query{Vehicle: "v1"})
		if err != nil || len(list) != 1 {
			t.Fatalf("%+v, %v", list, err)
		}
		return list
	}
	for list()[0].Stands() { // the order is on disk already; the ticket is cleared in the same round
		rig.pass(1)
	}
	orders, err := rig.store.Tickets().Orders(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, revoked := tickets.Revoked(orders)["v1"]; !revoked || list()[0].Stands() {
		t.Errorf("its tickets: %+v, revoked %t", list(), revoked)
	}
	farebeat(t, exitUsage, "join", "https://"+strings.TrimPrefix(rig.server.ids.url(), "https://"), "--out", stolenDir) // it has no code

	if identitiesEvery > 2*time.Second {
		t.Errorf("orders are looked for every %s: a revocation is to hold within 2 s", identitiesEvery)
	}

	heirDir := enrolled(t, rig, "gateway", "v1", "--replace")
	heir := connected(t, rig, heirDir, tree.Root()+"vehicle/v1/ticket/+", listen("heir"))
	await(t, "the one in its place is connected", heir.up)
	orderCollection(t, rig, "v1", "m1")
	for what := await(t, "its ticket", got); what != "heir ticket"; what = await(t, "its ticket", got) {
		if what == "stolen ticket" {
			t.Error("the stolen one got another ticket")
		}
	}
	if len(stolen.up) > 0 {
		t.Error("it came back with its successor")
	}
}

// orderCollection asks a vehicle's gateway to read a machine, as an operator.
func orderCollection(t *testing.T, rig *consoleRig, vehicle, machine string) {
	t.Helper()
	tree, now := rig.server.o.tree, time.Now()
	c := schemas.Command{ID: randomID(), At: now, By: "ops", Verb: schemas.VerbCollect, Machine: machine, ExpiresAt: now.Add(10 * time.Minute)}
	topic, err := tree.Build(topics.Address{Kind: topics.Command, Vehicle: vehicle, Command: c.ID})
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	up := make(chan struct{}, 1)
	s, err := session.New(session.Options{CleanSession: true, Up: func() { up <- struct{}{} }, Dial: func(ctx context.Context) (net.Conn, error) {
		return rig.server.broker.Dial(ctx, topics.Identity{Role: topics.RoleOperator, Name: "ops"})
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() { _ = s.Run(ctx) })
	defer func() { cancel(); done.Wait() }()
	await(t, "an operator is connected", up)
	if err := s.Publish(ctx, session.Message{Topic: topic, QoS: 1, Payload: body}); err != nil {
		t.Fatal(err)
	}
}

// TestTicketsAreGivenAgainToASuccessorOnly: to a gateway whose permit is younger than the revocation and that has the only good certificate of its vehicle.
func TestTicketsAreGivenAgainToASuccessorOnly(t *testing.T) {
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "fleet.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	at := time.Date(2026, 11, 29, 5, 10, 0, 0, time.UTC)
	if err := db.Tickets().Give(t.Context(), tickets.Order{ID: "r", Action: tickets.Revoke, Vehicle: "v1", At: at, By: "ops", Reason: "stolen"}); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		vehicle string
		made    time.Time
		alone   bool
		want    int
	}{
		{"v1", at.Add(time.Minute), true, 1},
		{"v1", at.Add(time.Minute), false, 0}, // another unit is good still: the stolen one may be it
		{"v1", at.Add(-time.Minute), true, 0}, // a code from before may be what was stolen
		{"v1", at, true, 0},
		{"v2", at.Add(time.Minute), true, 0}, // nobody revoked its
	} {
		dir := filepath.Join(t.TempDir(), "orders")
		p := enrol.Permit{ID: "p", Role: topics.RoleGateway, Name: tc.vehicle, MadeAt: tc.made, By: "ann"}
		if err := restoreTickets(db, dir)(t.Context(), p, tc.alone); err != nil {
			t.Fatal(err)
		}
		left, err := orders.Take[tickets.Order](dir)
		if err != nil || len(left) != tc.want {
			t.Errorf("%+v: %+v, %v", tc, left, err)
		}
		if len(left) == 1 && (left[0].Order.Action != tickets.Restore || left[0].Order.Vehicle != "v1") {
			t.Errorf("%+v", left[0].Order)
		}
	}
}

// TestCertificatesThatRunOutAreFaults: of devices that did not renew, by name, and of the authority.
func TestCertificatesThatRunOutAreFaults(t *testing.T) {
	rig := newConsoleRig(t, consoleRole(access.Viewer), nil, nil, func(c *configs.Config) {
		farebeat(t, exitOK, "ca", "init", "--data", c.Data, "--host", "127.0.0.1")
		c.Enrol.Address = "127.0.0.1:0"
	})
	enrolled(t, rig, "gateway", "v1")
	for poll := rig.server.ids.registry.Expiring(time.Now().AddDate(2, 0, 0)); len(poll) == 0; poll = rig.server.ids.registry.Expiring(time.Now().AddDate(2, 0, 0)) {
		rig.pass(1)
	}
	for _, tc := range []struct {
		after              time.Duration
		devices, authority string
	}{
		{0, "", ""},
		{300 * 24 * time.Hour, "", ""},
		{310 * 24 * time.Hour, "1 certificates of devices are not renewed: gateway v1 (until", ""},
		{(10*365 - 20) * 24 * time.Hour, "gateway v1", "authority expires"},
	} {
		later := *rig.server.ids
		later.now = func() time.Time { return time.Now().Add(tc.after) }
		for _, p := range later.parts() {
			want := map[string]string{"device certificates": tc.devices, "authority": tc.authority}[p.Name]
			kind := map[string]faults.Kind{"device certificates": faults.DeviceIdentity, "authority": faults.Certificate}[p.Name]
			if err := p.Failure(); p.Kind != kind || (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("after %s, %s (%s): %v, want %q", tc.after, p.Name, p.Kind, err, want)
			}
		}
		if n := len(later.parts()); n != 2 {
			t.Errorf("%d parts", n)
		}
	}
}
