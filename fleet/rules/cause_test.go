package rules

import (
	"encoding/json"
	"fmt"
	"math/rand"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/farebeat/farebeat/fleet/counts"
	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/presence"
	"github.com/farebeat/farebeat/schemas"
)

// town is a fleet whose machines beat every 15 s, each at its own moment, unless somebody cuts them off. Each look is taken twice: by the running state,
// and by one that was stored and read again.
type town struct {
	t        testing.TB
	set      *Set
	presence *presence.Presence
	machines []*cab
	state    CauseState
	causes   Causes
	now      int // seconds since day
	told     []string
}

// cab is a machine with what it declares.
type cab struct {
	id  string
	hb  schemas.Heartbeat
	off int // seconds of its beat
	cut bool
}

// newTown makes vehicles with two machines each, spread over routes, depots and networks.
func newTown(t testing.TB, vehicles int, declare func(v int, hb *schemas.Heartbeat)) *town {
	board := counts.New(counts.Config{Start: day})
	w := &town{t: t, set: Default(time.UTC), presence: presence.New(presence.Config{}, board)}
	random := rand.New(rand.NewSource(1))
	for v := range vehicles {
		for i := range 2 {
			c := &cab{id: fmt.Sprint(v, "-", i), off: random.Intn(15), hb: schemas.Heartbeat{
				Boot: "b", State: schemas.Running, Vehicle: fmt.Sprint(v), Route: fmt.Sprint(v % 10), Depot: fmt.Sprint("depot", v%4),
				Network: []string{"A", "A", "B"}[v%3], Firmware: "1",
			}}
			if declare != nil {
				declare(v, &c.hb)
			}
			w.machines = append(w.machines, c)
		}
	}
	return w
}

// run lets time pass.
func (w *town) run(seconds int) {
	for range seconds {
		w.now++
		now := day.Add(time.Duration(w.now) * time.Second)
		for _, c := range w.machines {
			if !c.cut && w.now%15 == c.off {
				c.hb.Seq++
				c.hb.At = now
				w.presence.Heartbeat(now, c.id, &c.hb)
			}
		}
		if w.now%5 == 0 {
			w.look(now)
		}
	}
}

func (w *town) look(now time.Time) {
	w.presence.Tick(now)
	q := w.set.Question(w.state)
	q.Want = func(*presence.Brief) bool { return false }
	survey := w.presence.Survey(q, nil)
	b, err := json.Marshal(States{Causes: w.state})
	if err != nil {
		w.t.Fatal(err)
	}
	var stored States
	if err := json.Unmarshal(b, &stored); err != nil {
		w.t.Fatal(err)
	}
	before := map[faults.Subject]bool{}
	for _, o := range w.state.Outages {
		before[o.Subject] = true
	}
	again, twice := w.set.EvaluateCauses(now, &survey, false, stored.Causes)
	w.state, w.causes = w.set.EvaluateCauses(now, &survey, false, w.state)
	if diff := cmp.Diff(w.causes, twice); diff != "" {
		w.t.Fatalf("after %d s a restarted search decides otherwise: %s", w.now, diff)
	}
	if diff := cmp.Diff(w.state, again); diff != "" {
		w.t.Fatalf("after %d s a restarted search remembers otherwise: %s", w.now, diff)
	}
	for _, v := range w.causes.Verdicts {
		if v.Verdict.Firing != before[v.Subject] {
			w.told = append(w.told, fmt.Sprintf("%s %v", v.Subject, v.Verdict.Firing))
		}
	}
}

// cut takes machines off the air, or lets them return.
func (w *town) cut(yes bool, which func(*cab) bool) {
	for _, c := range w.machines {
		if which(c) {
			c.cut = yes
		}
	}
}

func (w *town) want(t testing.TB, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, w.told); diff != "" {
		t.Errorf("after %d s: %s", w.now, diff)
	}
	w.told = nil
}

func TestWhatLostMachinesHaveInCommon(t *testing.T) {
	for name, tc := range map[string]struct {
		cut  func(*cab) bool
		want string
	}{
		"everything":             {func(*cab) bool { return true }, "platform true"},
		"a network":              {func(c *cab) bool { return c.hb.Network == "A" }, "network A true"},
		"the other":              {func(c *cab) bool { return c.hb.Network == "B" }, "network B true"},
		"a depot":                {func(c *cab) bool { return c.hb.Depot == "depot2" }, "depot depot2 true"},
		"a vehicle":              {func(c *cab) bool { return c.hb.Vehicle == "17" }, "vehicle 17 true"},
		"half of a vehicle":      {func(c *cab) bool { return c.id == "17-0" }, ""},
		"four fifths of one":     {func(c *cab) bool { return c.hb.Depot == "depot1" && c.hb.Route != "5" }, "depot depot1 true"},
		"a tenth here and there": {func(c *cab) bool { return c.off == 3 && c.id[len(c.id)-1] == '0' }, ""},
		"a firmware":             {func(c *cab) bool { return c.hb.Firmware == "2" }, "firmware 2 true"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newTown(t, 120, func(v int, hb *schemas.Heartbeat) {
				if v%7 == 0 {
					hb.Firmware = "2"
				}
			})
			w.run(60)
			w.cut(true, tc.cut)
			w.run(52)
			w.run(13)
			var want []string
			if tc.want != "" {
				want = []string{tc.want}
			}
			w.want(t, want...)
			w.run(1200)
			w.want(t)
			w.cut(false, tc.cut)
			w.run(30)
			if tc.want != "" {
				want = []string{tc.want[:len(tc.want)-len("true")] + "false"}
			}
			w.want(t, want...)
			w.run(600)
			w.want(t)
		})
	}
}

// Machines cut off at one instant fall silent over a heartbeat interval: the cause is named before the first of them is a fault of its own.
func TestCauseIsNamedBeforeItsMachines(t *testing.T) {
	set := Default(time.UTC)
	for _, vehicles := range []int{10, 100, 1000} {
		w := newTown(t, vehicles, nil)
		w.run(60)
		w.cut(true, func(c *cab) bool { return c.hb.Network == "A" })
		first := int(set.machine.Silence/time.Second) - 15 // a machine that was cut off right before its beat
		for range first + 5 {
			w.run(1)
			if len(w.told) > 0 {
				break
			}
		}
		if w.now-60 > first {
			t.Errorf("%d vehicles: named after %d s, the first machine is a fault after %d s", vehicles, w.now-60, first)
		}
		w.want(t, "network A true")
	}
}

func TestTwoCausesAtOnce(t *testing.T) {
	w := newTown(t, 120, func(v int, hb *schemas.Heartbeat) {
		hb.Network, hb.Depot = fmt.Sprint("N", v%5), fmt.Sprint("D", v/5%6)
	})
	w.run(60)
	w.cut(true, func(c *cab) bool { return c.hb.Network == "N1" || c.hb.Depot == "D2" })
	w.run(60)
	w.want(t, "network N1 true", "depot D2 true")
	if len(w.causes.Routes) == 0 {
		t.Error("no route is explained")
	}
}

// A route is explained where at least half of its lost machines were taken by the cause.
func TestRoutesExplained(t *testing.T) {
	w := newTown(t, 60, func(v int, hb *schemas.Heartbeat) {
		hb.Route = "mixed"
		if v < 20 {
			hb.Depot, hb.Route = "far", "far"
			if v < 4 {
				hb.Route = "mixed"
			}
		}
	})
	w.run(60)
	w.cut(true, func(c *cab) bool { return c.hb.Depot == "far" || c.hb.Vehicle == "30" })
	w.run(60)
	want := map[string]faults.Subject{"far": {Depot: "far"}, "mixed": {Depot: "far"}}
	if diff := cmp.Diff(want, w.causes.Routes); diff != "" {
		t.Error(diff)
	}
}

// The depot goes first and then everything: the depot's outage is explained by the platform's.
func TestGreaterCauseComesLater(t *testing.T) {
	w := newTown(t, 120, nil)
	w.run(60)
	w.cut(true, func(c *cab) bool { return c.hb.Depot == "depot0" })
	w.run(65)
	w.want(t, "depot depot0 true")
	w.cut(true, func(*cab) bool { return true })
	w.run(65)
	w.want(t, "platform true")
	for _, v := range w.causes.Verdicts {
		if v.Subject.Depot != "" && (!v.Explained || v.Under != (faults.Subject{})) {
			t.Errorf("%+v is not explained by the platform", v)
		}
	}
	w.cut(false, func(*cab) bool { return true })
	w.run(30)
	w.want(t, "platform false", "depot depot0 false")
}

// They return one by one: the cause ends once, when nearly all are back. A rest that stays away is not of it for ever.
func TestReturnOneByOne(t *testing.T) {
	w := newTown(t, 200, nil)
	w.run(60)
	var gone []*cab
	for _, c := range w.machines {
		if c.hb.Network == "B" {
			c.cut, gone = true, append(gone, c)
		}
	}
	w.run(60)
	w.want(t, "network B true")
	for _, c := range gone[:len(gone)-5] {
		c.cut = false
		w.run(30)
	}
	w.want(t)
	w.run(14 * 60)
	w.want(t)
	w.run(3 * 60)
	w.want(t, "network B false")
	for _, c := range gone {
		c.cut = false
	}
	w.run(1200)
	w.want(t)
}

// While we are blind nothing begins and nothing ends.
func TestCausesWhileBlind(t *testing.T) {
	set := Default(time.UTC)
	all := presence.Survey{All: presence.Tally{Known: 100, Lost: 100, Fresh: 100, Since: 100}}
	for i := range 100 {
		all.Missing = append(all.Missing, presence.Missing{Route: fmt.Sprint(i % 9), Fresh: true, LastHeard: day})
	}
	var st CauseState
	for i := range 20 {
		if st, _ = set.EvaluateCauses(day.Add(time.Duration(i)*5*time.Second), &all, true, st); len(st.Outages) != 0 {
			t.Fatal("a cause began while we were blind")
		}
	}
	for i := range 4 {
		st, _ = set.EvaluateCauses(day.Add(time.Duration(100+5*i)*time.Second), &all, false, st)
	}
	if len(st.Outages) != 1 {
		t.Fatal("no cause began with open eyes")
	}
	st, causes := set.EvaluateCauses(day.Add(200*time.Second), &presence.Survey{}, true, st)
	if len(st.Outages) != 1 || len(causes.Verdicts) != 1 || !causes.Verdicts[0].Verdict.Firing {
		t.Error("a cause ended while we were blind")
	}
}

// Machines fall silent, and then we go blind before that is long enough: the cause that is found afterwards took them all, and stands.
func TestCauseFoundAfterBlindness(t *testing.T) {
	w := newTown(t, 30, nil)
	w.run(120)
	w.cut(true, func(c *cab) bool { return c.hb.Network == "A" })
	w.run(30)
	at := func() time.Time { return day.Add(time.Duration(w.now) * time.Second) }
	w.presence.SetBlind(at(), true)
	w.now += 600
	for _, c := range w.machines {
		if !c.cut { // they were heard by us first, so that only the others are silent
			c.hb.Seq++
			w.presence.Heartbeat(at(), c.id, &c.hb)
		}
	}
	w.presence.SetBlind(at(), false)
	var reason string
	for range 60 {
		w.run(5)
		if len(w.told) > 0 && reason == "" {
			reason = w.causes.Verdicts[0].Verdict.Reason
		}
	}
	w.want(t, "network A true")
	if want := "40 machines fell silent together within 2m0s, all in mobile network A; 40 of 40 are lost now."; reason != want {
		t.Errorf("it began with %q, want %q", reason, want)
	}
	w.cut(false, func(*cab) bool { return true })
	w.run(60)
	w.want(t, "network A false")
}

// One machine that is heard shows that its vehicle has power: what is left is a fault of the other.
func TestAVehicleIsBackWithItsFirstMachine(t *testing.T) {
	w := newTown(t, 10, nil)
	w.run(60)
	w.cut(true, func(c *cab) bool { return c.hb.Vehicle == "3" })
	w.run(120)
	w.want(t, "vehicle 3 true")
	w.cut(false, func(c *cab) bool { return c.id == "3-1" })
	w.run(40)
	w.want(t, "vehicle 3 false")
	w.run(600)
	w.want(t)
}

// Whatever is cut off and returns, in any order: when all are back no cause stands, and while a whole network is away one that explains it does.
func TestNoOrderLeavesACause(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		w := newTown(t, rapid.IntRange(20, 60).Draw(r, "vehicles"), nil)
		w.run(60)
		for range rapid.IntRange(1, 6).Draw(r, "events") {
			which := rapid.SampledFrom([]func(*cab) bool{
				func(c *cab) bool { return c.hb.Network == "A" }, func(c *cab) bool { return c.hb.Depot == "depot1" },
				func(c *cab) bool { return c.hb.Vehicle == "3" }, func(c *cab) bool { return c.off < 5 }, func(*cab) bool { return true },
			}).Draw(r, "which")
			w.cut(rapid.Bool().Draw(r, "cut"), which)
			w.run(rapid.IntRange(1, 200).Draw(r, "seconds"))
		}
		w.cut(false, func(*cab) bool { return true })
		w.run(40)
		if len(w.state.Outages) != 0 {
			r.Fatalf("all are back, and there stand %+v", w.state.Outages)
		}
		w.run(200)
		w.cut(true, func(c *cab) bool { return c.hb.Network == "A" })
		w.run(65)
		if _, ok := w.state.Explains("0", "depot0", "A", "1"); !ok {
			r.Fatalf("network A is away and nothing explains it")
		}
		w.cut(false, func(*cab) bool { return true })
		w.run(40)
		if len(w.state.Outages) != 0 {
			r.Fatalf("all are back again, and there stand %+v", w.state.Outages)
		}
	})
}

func TestMaintenanceWindows(t *testing.T) {
	berlin := berlin(t)
	set, err := Parse("m.yaml", []byte(`
maintenance:
  - {name: north at night, depots: [north], days: [sat], hours: "22:00-04:30"}
  - {name: route works, routes: ["36"], from: "2026-11-24 10:00", until: "2026-11-24 12:00"}
  - {name: the night the clock goes back, hours: "01:00-03:30", machines: [m1]}
`), berlin)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		at    string
		place Place
		want  string
	}{
		{"2026-11-28T21:59:59+01:00", Place{Depot: "north"}, ""},
		{"2026-11-28T22:00:00+01:00", Place{Depot: "north"}, "north at night"},
		{"2026-11-29T04:29:59+01:00", Place{Depot: "north", Machine: "x"}, "north at night"},
		{"2026-11-29T04:30:00+01:00", Place{Depot: "north"}, ""},
		{"2026-11-29T22:30:00+01:00", Place{Depot: "north"}, ""}, // Sunday
		{"2026-11-28T23:00:00+01:00", Place{Depot: "south"}, ""},
		{"2026-11-28T23:00:00+01:00", Place{}, ""}, // of the platform nothing was said
		{"2026-11-24T10:00:00+01:00", Place{Machine: "m", Route: "36"}, "route works"},
		{"2026-11-24T12:00:00+01:00", Place{Machine: "m", Route: "36"}, ""},
		{"2026-10-25T02:59:00+02:00", Place{Machine: "m1"}, "the night the clock goes back"},
		{"2026-10-25T02:59:00+01:00", Place{Machine: "m1"}, "the night the clock goes back"},
		{"2026-10-25T03:29:00+01:00", Place{Machine: "m1"}, "the night the clock goes back"},
		{"2026-10-25T03:30:00+01:00", Place{Machine: "m1"}, ""},
	} {
		at, err := time.Parse(time.RFC3339, tc.at)
		if err != nil {
			t.Fatal(err)
		}
		if got := set.Maintenance(at, tc.place); got != tc.want {
			t.Errorf("%s %+v: %q, want %q", tc.at, tc.place, got, tc.want)
		}
	}
	for text, want := range map[string]string{
		"maintenance: [{hours: '1:00-2:00'}]":                                           "line 1: maintenance: name is missing",
		"maintenance: [{name: n}]":                                                      "n: give either from and until, or hours and days",
		"maintenance: [{name: n, hours: '1-2'}]":                                        `n: hours "1-2": want a span such as "22:00-04:30"`,
		"maintenance: [{name: n, hours: '22:00-04:00', days: [Sunday]}]":                `n: days: "Sunday" is none of mon`,
		"maintenance: [{name: n, from: 2026-11-24, until: '2026-11-24 12:00'}]":         `n: from "2026-11-24": want a local time`,
		"maintenance: [{name: n, from: '2026-11-24 12:00', until: '2026-11-24 12:00'}]": "n: until 2026-11-24 12:00 is not after",
		"maintenance: [{name: n, hours: '22:00-04:00', routes: ['']}]":                  "n: an id is empty",
		"causes: {depot: {machines: 1}}":                                                "line 1: causes: depot: machines must be 2 or more",
		"causes: {depot: {share: 1.5}}":                                                 "depot: machines must be 2 or more and share in (0, 1], got 5 and 1.5",
		"causes: {depo: {share: 1.5}}":                                                  `unknown key "depo"; known here are vehicle, depot, network, firmware`,
	} {
		if _, err := Parse("m.yaml", []byte(text), berlin); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s:\n got %v\nwant %s", text, err, want)
		}
	}
}
