package fleet

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/farebeat/farebeat/fleet/dispatch"
	"github.com/farebeat/farebeat/fleet/expect"
	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/rules"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
)

// town is an engine with its dispatcher, and machines of which some are cut off.
type town struct {
	t       *testing.T
	engine  *Engine
	tell    *dispatch.Dispatcher
	now     time.Time
	cut     map[int]bool
	n       int
	seq     uint64
	told    []string
	collect int // gateways that are sent to collect
	most    int // at once so far
}

const cityRoutes = 200

func newTown(t *testing.T, machines int) *town {
	tree, err := topics.New("demo")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	var rows []expect.RouteHour
	for r := range cityRoutes {
		for h := range 24 {
			rows = append(rows, expect.RouteHour{Route: fmt.Sprint("R", r), Hour: h, Vehicles: machines / cityRoutes})
		}
	}
	c := &town{
		t: t, now: now, n: machines, cut: map[int]bool{}, tell: dispatch.New(tree, dispatch.Config{}),
		engine: NewEngine(EngineConfig{Location: time.UTC, Expect: expect.NewByHand(rows, time.UTC), Rules: rules.Default(time.UTC)}, now),
	}
	c.run(2 * time.Minute)
	c.wantTold()
	return c
}

// run lets time pass: each machine beats every 15 s, at one of three moments.
func (c *town) run(d time.Duration) {
	c.t.Helper()
	var payload []byte
	for end := c.now.Add(d); c.now.Before(end); {
		c.now = c.now.Add(5 * time.Second)
		c.seq++
		for i := int(c.seq % 3); i < c.n; i += 3 {
			if c.cut[i] {
				continue
			}
			payload = schemas.AppendHeartbeat(payload[:0], &schemas.Heartbeat{
				Seq: c.seq, Boot: "b7", At: c.now, Vehicle: fmt.Sprint("v", i), Route: fmt.Sprint("R", i%cityRoutes), State: schemas.Running,
				Network: c.network(i), Depot: fmt.Sprint("depot", i%7), Firmware: "2.4.1",
			})
			if err := c.engine.Heartbeat(c.now, fmt.Sprint("m", i), payload); err != nil {
				c.t.Fatal(err)
			}
		}
		c.round()
	}
}

func (c *town) network(i int) string {
	if i < c.n/2 {
		return "31026"
	}
	return "310410"
}

func (c *town) round() {
	for _, change := range c.engine.Round(c.now, nil).Changes {
		if _, told, err := c.tell.Event(change); err != nil {
			c.t.Fatal(err)
		} else if told {
			c.told = append(c.told, change.Fault.Subject.String()+" "+change.Event.Change)
		}
	}
	if c.seq%6 != 0 {
		return
	}
	want, _ := c.tell.Want(c.now, c.engine.OpenFaults())
	c.collect = 0
	for _, payload := range want {
		var e schemas.CloudEvent[schemas.MachineFault]
		if schemas.Decode(payload, schemas.NameVehicleFault, &e) == nil && e.Data.Collect {
			c.collect++
		}
	}
	c.most = max(c.most, c.collect)
}

func (c *town) wantTold(want ...string) {
	c.t.Helper()
	if !slices.Equal(c.told, want) {
		c.t.Fatalf("%s: told of %d things, %v ..., want %v", c.now.Format(time.TimeOnly), len(c.told), c.told[:min(len(c.told), 5)], want)
	}
	c.told = nil
}

// 5,000 machines are lost at once by one SIM operator, and return one by one: one fault, told once, closed once, and no
// gateway scans meanwhile.
func TestOneOperatorLosesFiveThousandMachines(t *testing.T) {
	machines := 10_000
	if underRace {
		machines = 1_000
	}
	c := newTown(t, machines)
	for i := range machines / 2 {
		c.cut[i] = true
	}
	c.run(2 * time.Minute)
	c.wantTold("network 31026 opened")
	standing := map[faults.Kind]int{}
	for _, f := range c.engine.OpenFaults() {
		standing[f.Kind]++
		if f.Kind != faults.NetworkLost && (f.Parent == "" || f.Told) {
			t.Fatalf("%s stands alone", f.Subject)
		}
	}
	if standing[faults.NetworkLost] != 1 || standing[faults.MachineSilent] != machines/2 {
		t.Fatalf("standing %v", standing)
	}
	c.run(5 * time.Minute)
	for i := range machines / 2 { // over seven minutes
		c.cut[i] = false
		if i%(machines/160) == 0 {
			c.run(5 * time.Second)
		}
	}
	c.run(time.Minute)
	c.wantTold("network 31026 closed")
	c.run(10 * time.Minute)
	c.wantTold()
	if open := c.engine.OpenFaults(); len(open) != 0 {
		t.Errorf("%d faults are left, the first is %s", len(open), open[0].Subject)
	}
	if c.most > c.n/20 { // to the last ones, whose cause is over
		t.Errorf("%d gateways were sent to collect at once", c.most)
	}
}
