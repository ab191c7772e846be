package city_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/edge/machine"
	"github.com/farebeat/farebeat/edge/machine/city"
	"github.com/farebeat/farebeat/edge/machine/journal"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
)

// ears hears what the machines say, in place of a broker.
type ears struct {
	t     testing.TB
	tree  topics.Tree
	clock *city.Clock

	mu     sync.Mutex
	heard  []heard
	events []string // "07:20:00 cut 1-1"
	deaf   bool     // publishing fails
	busy   bool     // connecting fails
	away   bool     // links are there and reach nobody
	radios map[string]bool
}

type heard struct {
	at      time.Time
	machine string
	hb      schemas.Heartbeat
}

type link struct {
	*ears
	machine string
}

func (e *ears) note(format string, args ...any) {
	e.events = append(e.events, e.clock.Now().Format("15:04:05 ")+fmt.Sprintf(format, args...))
}

func (e *ears) connect(_ context.Context, machine string) (city.Uplink, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.busy {
		return nil, errors.New("no network")
	}
	e.note("connect %s", machine)
	return &link{e, machine}, nil
}

func (e *ears) radio(_ context.Context, m *machine.Machine) (func(), error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.radios[m.ID()] = true
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.radios, m.ID())
	}, nil
}

func (l *link) Publish(_ context.Context, topic string, qos byte, payload []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.deaf {
		return errors.New("not connected")
	}
	a, err := l.tree.Parse(topic)
	if err != nil || a.Machine != l.machine || qos != 0 {
		l.t.Errorf("machine %s publishes to %s with QoS %d: %v", l.machine, topic, qos, err)
	}
	h := heard{at: l.clock.Now(), machine: a.Machine}
	if err := schemas.Decode(payload, schemas.NameHeartbeat, &h.hb); err != nil {
		l.t.Errorf("machine %s: %v", l.machine, err)
	}
	l.heard = append(l.heard, h)
	return nil
}

func (l *link) Up() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.away
}

func (l *link) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.note("cut %s", l.machine)
}

func (l *link) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.note("close %s", l.machine)
	return nil
}

// of are the times and states of one machine's heartbeats.
func (e *ears) of(machine string) []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []string
	for _, h := range e.heard {
		if h.machine == machine {
			out = append(out, fmt.Sprintf("%s %s %s", h.at.Format("15:04:05"), h.hb.Route, h.hb.State))
		}
	}
	return out
}

func (e *ears) set(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f()
}

var day = time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)

func at(clock string) time.Time {
	t, err := time.Parse(time.TimeOnly, clock)
	if err != nil {
		panic(err)
	}
	return day.Add(t.Sub(t.Truncate(24 * time.Hour)))
}

func trip(vehicle, route, from, to string) city.Duty {
	return city.Duty{Vehicle: vehicle, Route: route, Trip: "trip-" + from, From: at(from), To: at(to)}
}

func newCity(t testing.TB, start string, speed float64, change func(*city.Options)) (*city.City, *ears) {
	t.Helper()
	tree, err := topics.New("test")
	if err != nil {
		t.Fatal(err)
	}
	clock := city.NewClock(at(start), speed, time.Now)
	e := &ears{t: t, tree: tree, clock: clock, radios: map[string]bool{}}
	o := city.Options{
		Clock: clock, Tree: tree, Dir: filepath.Join(t.TempDir(), "journals"), Zone: time.UTC, Connect: e.connect, Radio: e.radio, Lanes: 3,
		Key: func(m string) []byte { return bytes.Repeat([]byte(m[:1]), 32) }, Journal: journal.Options{NoSync: true}, Layover: 30 * time.Minute,
	}
	change(&o)
	c, err := city.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c, e
}

// live runs a city until its day is over.
func live(t *testing.T, c *city.City) {
	t.Helper()
	if err := c.Run(t.Context()); err != nil {
		t.Error(err)
	}
}

// settle gives the ledger's receipt for all that a machine holds.
func settle(t *testing.T, m *machine.Machine) {
	t.Helper()
	for _, e := range m.Audit() {
		r := schemas.EpochReceipt{Epoch: e.Epoch, CompleteTo: e.Last, Highest: e.Last}
		r.MAC = schemas.ReceiptMAC(bytes.Repeat([]byte(m.ID()[:1]), 32), m.ID(), r)
		if err := m.Receipt(t.Context(), []schemas.EpochReceipt{r}); err != nil {
			t.Error(err)
		}
	}
}

func TestADayOfOneBus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, e := newCity(t, "06:00:00", 60, func(o *city.Options) {
			o.Duties = []city.Duty{
				trip("1", "A", "06:01:00", "06:02:00"),
				trip("1", "B", "06:02:00", "06:02:30"), // at once
				trip("1", "C", "06:03:00", "06:03:20"), // after a layover
				trip("1", "D", "07:00:00", "07:00:15"), // after a rest in the depot
			}
		})
		live(t, c)
		want := []string{
			"06:01:00 A running", "06:01:15 A running", "06:01:30 A running", "06:01:45 A running",
			"06:02:00 B running", "06:02:15 B running", "06:02:30 B running", "06:02:45 B running",
			"06:03:00 C running", "06:03:15 C running", "06:03:20 C readyForShutdown", "06:03:35 C readyForShutdown",
			"07:00:00 D running", "07:00:15 D readyForShutdown", "07:00:30 D readyForShutdown",
		}
		if diff := cmp.Diff(want, e.of("1-1")); diff != "" {
			t.Errorf("heartbeats (-want +got):\n%s", diff)
		}
		wantEvents := []string{"06:01:00 connect 1-1", "06:03:50 close 1-1", "07:00:00 connect 1-1", "07:00:45 close 1-1"}
		if diff := cmp.Diff(wantEvents, e.events); diff != "" {
			t.Errorf("links (-want +got):\n%s", diff)
		}
		if len(e.radios) > 0 {
			t.Errorf("on the air after the day: %v", e.radios)
		}
		if s := c.Stats(); s.Heartbeats != uint64(len(want)) || s.On != 0 || s.Machines != 1 || s.Skipped != 0 {
			t.Errorf("%+v", s)
		}
		if err := c.Run(t.Context()); err == nil {
			t.Error("a city ran twice")
		}
	})
}

func TestTheTripIsNamedOnlyWhileItRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, e := newCity(t, "06:00:00", 1, func(o *city.Options) {
			o.Duties = []city.Duty{trip("1", "A", "06:00:00", "06:00:15"), trip("1", "A", "06:00:30", "06:00:45")}
		})
		live(t, c)
		var trips []string
		for _, h := range e.heard {
			trips = append(trips, h.hb.Trip)
		}
		if want := []string{"trip-06:00:00", "", "trip-06:00:30", "", ""}; !slices.Equal(trips, want) {
			t.Errorf("trips %q, want %q", trips, want)
		}
	})
}

func TestACutMachineStoresAndComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, e := newCity(t, "06:00:00", 10, func(o *city.Options) {
			o.Duties = []city.Duty{trip("1", "A", "06:00:00", "09:00:00"), trip("2", "B", "06:00:00", "09:00:00")}
			o.TapsPerHour = 60
			o.Outages = []city.Outage{{Kind: city.Cut, Route: "A", Share: 1, At: at("07:00:00"), For: time.Hour}}
		})
		done := make(chan struct{})
		go func() { defer close(done); live(t, c) }()
		time.Sleep(c.Clock().Real(90 * time.Minute)) // 07:30
		synctest.Wait()
		m, _ := c.Machine("1-1")
		half, _ := m.Journal()
		if s := c.Stats(); s.Cut != 1 || s.On != 2 || half.Pending < 15 || half.Pending > 50 {
			t.Errorf("in the middle of the cut: %+v, %+v", s, half)
		}
		if !e.radios["1-1"] {
			t.Error("the radio of a cut machine is silent")
		}
		time.Sleep(c.Clock().Real(65 * time.Minute)) // 08:35
		synctest.Wait()
		settle(t, m)
		<-done

		gap := false
		beats := e.of("1-1")
		for i := 1; i < len(beats); i++ {
			gap = gap || strings.HasPrefix(beats[i-1], "06:59:45") && strings.HasPrefix(beats[i], "08:00:00")
		}
		if !gap {
			t.Errorf("the heartbeats do not stop at 07:00 and go on at 08:00: %v", beats)
		}
		if want := []string{"06:00:00 connect 1-1", "07:00:00 cut 1-1", "08:00:00 connect 1-1", "09:00:30 close 1-1"}; !slices.Equal(only(e.events, "1-1"), want) {
			t.Errorf("links %q, want %q", only(e.events, "1-1"), want)
		}
		if got := only(e.events, "2-1"); len(got) != 2 {
			t.Errorf("the machine on the other route: %q", got)
		}
		audit := c.Audit()
		if len(audit) != 1 || audit[0].Machine != "1-1" || audit[0].Pending != 0 || len(audit[0].Epochs) != 1 || uint64(audit[0].Epochs[0].Last) != audit[0].Counters.Written {
			t.Errorf("audit %+v", audit)
		}
		if s := c.Stats(); s.Written < 40 || s.Written > 90 || s.Online < 200 || s.Refused != 0 || s.Outages != 1 || s.Cut != 0 {
			t.Errorf("%+v", s)
		}
	})
}

func only(events []string, machine string) []string {
	var out []string
	for _, e := range events {
		if strings.HasSuffix(e, " "+machine) {
			out = append(out, e)
		}
	}
	return out
}

// A machine that was cut until after its last trip holds money: it stays on the
// air until that is home, and says goodbye when it can.
func TestAMachineWithMoneyDoesNotGoHome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, e := newCity(t, "06:00:00", 10, func(o *city.Options) {
			o.Duties = []city.Duty{trip("1", "A", "06:00:00", "07:00:00")}
			o.TapsPerHour = 120
			o.Outages = []city.Outage{{Kind: city.Cut, Share: 1, At: at("06:30:00"), For: 2 * time.Hour}}
		})
		done := make(chan struct{})
		go func() { defer close(done); live(t, c) }()
		time.Sleep(c.Clock().Real(110 * time.Minute)) // 07:50
		synctest.Wait()
		if !e.radios["1-1"] || c.Stats().On != 1 {
			t.Error("the machine went home with money in it")
		}
		m, _ := c.Machine("1-1")
		settle(t, m)
		<-done
		beats := e.of("1-1")
		if got, want := beats[len(beats)-2:], []string{"08:30:00 A readyForShutdown", "08:30:15 A readyForShutdown"}; !slices.Equal(got, want) {
			t.Errorf("goodbyes %q, want %q", got, want)
		}
	})
}

func TestAStoppedMachineIsSilentInEveryWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, e := newCity(t, "06:00:00", 10, func(o *city.Options) {
			o.Duties = []city.Duty{trip("1", "A", "06:00:00", "06:30:00"), trip("1", "B", "06:30:00", "07:00:00")}
			o.TapsPerHour = 120
			o.Outages = []city.Outage{{Kind: city.Stop, Machine: "1-1", Share: 1, At: at("06:10:00"), For: 30 * time.Minute}}
		})
		done := make(chan struct{})
		go func() { defer close(done); live(t, c) }()
		time.Sleep(c.Clock().Real(20 * time.Minute))
		synctest.Wait()
		s := c.Stats()
		if s.Stopped != 1 || s.On != 0 || e.radios["1-1"] {
			t.Errorf("stopped: %+v, on the air: %v", s, e.radios["1-1"])
		}
		time.Sleep(c.Clock().Real(15 * time.Minute))
		synctest.Wait()
		if now := c.Stats(); now.Online != s.Online || now.Heartbeats != s.Heartbeats || now.Refused != 0 {
			t.Errorf("a machine without power worked: before %+v, after %+v", s, now)
		}
		<-done
		if want := []string{"06:00:00 connect 1-1", "06:10:00 cut 1-1", "06:40:00 connect 1-1", "07:00:30 close 1-1"}; !slices.Equal(e.events, want) {
			t.Errorf("links %q, want %q", e.events, want)
		}
		boots := map[string]bool{}
		for _, h := range e.heard {
			boots[h.hb.Boot] = true
			if h.at.Equal(at("06:40:00")) && (h.hb.Route != "B" || h.hb.Seq != 1) {
				t.Errorf("after the power came back: %+v", h.hb)
			}
		}
		if len(boots) != 2 {
			t.Errorf("%d boots, want 2", len(boots))
		}
	})
}

func TestPowerThatComesBackAfterTheDay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, e := newCity(t, "06:00:00", 10, func(o *city.Options) {
			o.Duties = []city.Duty{trip("1", "A", "06:00:00", "06:30:00")}
			o.Outages = []city.Outage{{Kind: city.Stop, Share: 1, At: at("06:10:00"), For: time.Hour}}
		})
		live(t, c)
		beats := e.of("1-1")
		if got, want := beats[len(beats)-2:], []string{"07:10:00 A readyForShutdown", "07:10:15 A readyForShutdown"}; !slices.Equal(got, want) {
			t.Errorf("last heartbeats %q, want %q", got, want)
		}
	})
}
