package fleet_test

import (
	"strings"
	"testing"
	"time"

	"github.com/farebeat/farebeat/fleet"
	"github.com/farebeat/farebeat/fleet/expect"
	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/rules"
	"github.com/farebeat/farebeat/schemas"
)

// machineDay drives an engine second by second.
type machineDay struct {
	t      *testing.T
	engine *fleet.Engine
	now    time.Time
	seq    uint64
	kinds  []faults.Kind // of faults that opened
}

func newMachineDay(t *testing.T, rows ...expect.RouteHour) *machineDay {
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	return &machineDay{t: t, now: now, engine: fleet.NewEngine(fleet.EngineConfig{
		Location: time.UTC, Interval: 15 * time.Second, Expect: expect.NewByHand(rows, time.UTC), Rules: rules.Default(time.UTC),
	}, now)}
}

func (d *machineDay) beat(machine, route string, state schemas.RunState) {
	d.t.Helper()
	d.seq++
	b := schemas.AppendHeartbeat(nil, &schemas.Heartbeat{Seq: d.seq, Boot: "b", At: d.now, Vehicle: "v" + machine, Route: route, State: state})
	if err := d.engine.Heartbeat(d.now, machine, b); err != nil {
		d.t.Fatal(err)
	}
}

// pass lets time go by, a round every 5 s.
func (d *machineDay) pass(by time.Duration) fleet.Round {
	var last fleet.Round
	for end := d.now.Add(by); d.now.Before(end); {
		d.now = d.now.Add(5 * time.Second)
		last = d.engine.Round(d.now, nil)
		for _, c := range last.Changes {
			if c.Event.Change == faults.ChangeOpened {
				d.kinds = append(d.kinds, c.Fault.Kind)
			}
		}
	}
	return last
}

func online(r fleet.Round) map[string]int {
	out := map[string]int{}
	for _, v := range r.Routes {
		out[v.Route] = v.Online
	}
	return out
}

func TestBadHeartbeatsChangeNothing(t *testing.T) {
	d := newMachineDay(t)
	for payload, want := range map[string]string{
		``: `heartbeat of machine "m1"`, `{}`: "seq", `[]`: "object", `{"seq":1}`: "boot",
		`{"seq":-1,"boot":"b","at":"2026-11-20T12:00:00.000Z","state":"running"}`:     "seq",
		`{"seq":1,"boot":"b","at":"noon","state":"running"}`:                          "at",
		`{"seq":1,"boot":"b","at":"2026-11-20T12:00:00.000Z","state":"dancing"}`:      "state",
		`{"seq":"1","boot":"b","at":"2026-11-20T12:00:00.000Z","state":"running"}`:    "seq",
		`{"seq":1,"boot":"b","at":"2026-11-20T12:00:00.000Z","state":"running"} more`: "after",
	} {
		if err := d.engine.Heartbeat(d.now, "m1", []byte(payload)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", payload, err, want)
		}
	}
	if s := d.engine.Presence().Stats(); s.Machines != 0 {
		t.Errorf("%d machines are known", s.Machines)
	}
}

func TestAMachineCountsOnItsLatestRouteOnly(t *testing.T) {
	d := newMachineDay(t)
	d.beat("m1", "A", schemas.Running)
	d.beat("m2", "A", schemas.Running)
	if got := online(d.pass(5 * time.Second)); got["A"] != 2 {
		t.Errorf("before: %v", got)
	}
	d.beat("m1", "B", schemas.Running)
	if got := online(d.pass(5 * time.Second)); got["A"] != 1 || got["B"] != 1 {
		t.Errorf("after: %v", got)
	}
}

func TestParkingOpensNoFault(t *testing.T) {
	d := newMachineDay(t)
	d.beat("parked", "A", schemas.Running)
	d.beat("silent", "A", schemas.Running)
	d.pass(10 * time.Second)
	d.beat("parked", "A", schemas.ReadyForShutdown)
	d.pass(5 * time.Minute)
	if len(d.kinds) != 1 || d.kinds[0] != faults.MachineSilent {
		t.Errorf("opened: %v, want that of the silent machine only", d.kinds)
	}
}

// A `for` that began before a restart goes on after it: hand-set numbers need three of four
// samples, ten seconds apart.
func TestAForSurvivesARestart(t *testing.T) {
	rows := []expect.RouteHour{{Route: "A", Hour: 12, Vehicles: 4}}
	d := newMachineDay(t, rows...)
	for range 8 {
		for _, m := range []string{"m1", "m2", "m3", "m4"} {
			d.beat(m, "A", schemas.Running)
		}
		d.pass(15 * time.Second)
	}
	for _, m := range []string{"m2", "m3", "m4"} {
		d.beat(m, "A", schemas.ReadyForShutdown)
	}
	d.beat("m1", "A", schemas.Running)
	d.pass(15 * time.Second)
	if len(d.kinds) != 0 {
		t.Fatalf("opened before the restart: %v", d.kinds)
	}
	memory, err := d.engine.Remember(d.now)
	if err != nil {
		t.Fatal(err)
	}
	opens := func(recall bool) time.Duration {
		again := newMachineDay(t, rows...)
		again.engine = fleet.NewEngine(fleet.EngineConfig{Location: time.UTC, Interval: 15 * time.Second, Expect: expect.NewByHand(rows, time.UTC), Rules: rules.Default(time.UTC)}, d.now)
		again.now, again.seq = d.now, d.seq
		if recall {
			if err := again.engine.Recall(d.now, memory); err != nil {
				t.Fatal(err)
			}
		}
		for again.now.Sub(d.now) < 5*time.Minute && len(again.kinds) == 0 {
			again.beat("m1", "A", schemas.Running)
			again.pass(5 * time.Second)
		}
		return again.now.Sub(d.now)
	}
	if with, without := opens(true), opens(false); with >= without {
		t.Errorf("the fault opened %s after a restart that remembers, %s after one that does not", with, without)
	}
}
