package dispatch_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/fleet/dispatch"
	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
)

var start = time.Date(2026, 11, 23, 7, 20, 0, 123_456_789, time.FixedZone("CET", 3600))

func dispatcher(t testing.TB, cfg dispatch.Config) *dispatch.Dispatcher {
	t.Helper()
	tree, err := topics.New("demo")
	if err != nil {
		t.Fatal(err)
	}
	return dispatch.New(tree, cfg)
}

// machineFault is an open fault of a machine as a book makes it.
func machineFault(t testing.TB, machine, vehicle string, kind faults.Kind) (faults.Fault, faults.Change) {
	t.Helper()
	b := faults.NewBook(faults.Policy{})
	changes := b.Apply(start, []faults.Input{faults.MachineCheck{
		Machine: machine, Vehicle: vehicle, Route: "36", State: schemas.Dark, LastHeartbeat: start.Add(-75 * time.Second), Pending: 17, Epoch: 3, LastSeq: 48211,
		Verdicts: []faults.Verdict{{Kind: kind, Firing: true, Reason: "No heartbeat for 1m15s."}},
	}})
	if len(changes) != 1 {
		t.Fatalf("%d changes", len(changes))
	}
	return changes[0].Fault, changes[0]
}

func routeFault(t testing.TB) faults.Fault {
	t.Helper()
	b := faults.NewBook(faults.Policy{})
	b.Apply(start, []faults.Input{faults.RouteCheck{Route: "7/8 b", Online: 3, Expected: 9, Verdict: faults.Verdict{Kind: faults.RouteBelow, Firing: true, Threshold: 6, Reason: "Too few."}}})
	return b.Open()[0]
}

func TestCarrier(t *testing.T) {
	online := func(vehicles ...string) func(string) bool {
		return func(v string) bool { return strings.Contains(strings.Join(vehicles, ","), v) }
	}
	for _, tt := range []struct {
		w      dispatch.Whereabouts
		online func(string) bool
		want   string
	}{
		{dispatch.Whereabouts{}, online("v1"), ""},
		{dispatch.Whereabouts{Vehicle: "v1"}, online(), "v1"},
		{dispatch.Whereabouts{SeenBy: "v2"}, online(), "v2"},
		{dispatch.Whereabouts{Vehicle: "v1", SeenBy: "v2"}, online("v1", "v2"), "v1"},
		{dispatch.Whereabouts{Vehicle: "v1", SeenBy: "v2"}, online("v2"), "v2"},
		{dispatch.Whereabouts{Vehicle: "v1", SeenBy: "v2"}, online(), "v1"},
		{dispatch.Whereabouts{Depot: "d"}, online(), "d"},
		{dispatch.Whereabouts{SeenBy: "v2", Depot: "d"}, online("d"), "v2"},
		{dispatch.Whereabouts{Vehicle: "v1", Depot: "d"}, online("d"), "v1"},
	} {
		if got := dispatch.Carrier(tt.w, tt.online); got != tt.want {
			t.Errorf("%+v: %q, want %q", tt.w, got, tt.want)
		}
	}
}

func TestWhatStandsForAMachine(t *testing.T) {
	f, _ := machineFault(t, "m 1", "v1", faults.MachineSilent)
	want, lost := dispatcher(t, dispatch.Config{}).Want(start, []faults.Fault{f})
	payload, ok := want["farebeat/v1/demo/vehicle/v1/fault/m%201"]
	if !ok || len(want) != 1 || len(lost) != 0 {
		t.Fatalf("standing %v, lost %v", want, lost)
	}
	var got schemas.CloudEvent[schemas.MachineFault]
	if err := schemas.Decode(payload, schemas.NameVehicleFault, &got); err != nil {
		t.Fatal(err)
	}
	heard, opened := time.Date(2026, 11, 23, 6, 18, 45, 123_000_000, time.UTC), time.Date(2026, 11, 23, 6, 20, 0, 123_000_000, time.UTC)
	if diff := cmp.Diff(schemas.CloudEvent[schemas.MachineFault]{
		SpecVersion: "1.0", ID: f.ID + ".r1.collect", Source: "/farebeat/v1/demo/fleet", Type: dispatch.TypeMachineFault,
		Subject: "m 1", Time: opened, DataContentType: "application/json",
		Data: schemas.MachineFault{
			Fault: f.ID, Kind: "machine_silent", Severity: schemas.Major, Title: faults.MachineSilent.Entry().Title, Condition: schemas.Open,
			Machine: "m 1", Vehicle: "v1", Route: "36", OpenedAt: opened, AsOf: opened, Reason: "No heartbeat for 1m15s.",
			NextStep: faults.MachineSilent.Entry().NextStep, LastHeartbeat: &heard, Collect: true, Pending: 17, Epoch: 3, LastSeq: 48211,
		},
	}, got); diff != "" {
		t.Error(diff)
	}
}

func TestWhatStandsForARoute(t *testing.T) {
	f := routeFault(t)
	want, lost := dispatcher(t, dispatch.Config{}).Want(start, []faults.Fault{f})
	payload, ok := want["farebeat/v1/demo/route/7%2F8%20b/fault/"+f.ID]
	if !ok || len(lost) != 0 {
		t.Fatalf("standing %v, lost %v", want, lost)
	}
	var got schemas.CloudEvent[schemas.RouteFault]
	if err := schemas.Decode(payload, schemas.NameRouteFault, &got); err != nil {
		t.Fatal(err)
	}
	if d := got.Data; d.Route != "7/8 b" || d.Online != 3 || d.Expected != 9 || d.Threshold != 6 {
		t.Errorf("%+v", d)
	}
}

func TestAMachineHasOneTopicForItsGravestFault(t *testing.T) {
	code, _ := machineFault(t, "m1", "v1", faults.MachineCode)
	unsent, _ := machineFault(t, "m1", "v1", faults.MachineUnsent) // minor, but money
	clock, _ := machineFault(t, "m1", "v1", faults.MachineClock)
	d := dispatcher(t, dispatch.Config{})
	kind := func(open ...faults.Fault) string {
		want, _ := d.Want(start, open)
		if len(want) != 1 {
			t.Fatalf("%d topics stand", len(want))
		}
		var got schemas.CloudEvent[schemas.MachineFault]
		for _, payload := range want {
			if err := schemas.Decode(payload, schemas.NameVehicleFault, &got); err != nil {
				t.Fatal(err)
			}
		}
		return got.Data.Kind
	}
	if got := kind(code, unsent, clock); got != "machine_unsent" {
		t.Errorf("%s stands, want the one with money at risk", got)
	}
	if a, b := kind(code, clock), kind(clock, code); a != "machine_fault_code" || b != a {
		t.Errorf("%s and %s stand, want the graver in any order", a, b)
	}
}

func TestWhatDoesNotStand(t *testing.T) {
	ended, _ := machineFault(t, "m1", "v1", faults.MachineSilent)
	ended.ClosedAt, ended.Condition = start, schemas.Closed
	given, _ := machineFault(t, "m2", "v1", faults.MachineSilent)
	given.Condition = schemas.Abandoned
	suspect, _ := faults.Suspect(faults.RouteCheck{Route: "36", Verdict: faults.Verdict{Kind: faults.RouteBelow, Suspect: true, Since: start}})
	homeless, _ := machineFault(t, "m3", "", faults.MachineSilent)
	broken, _ := machineFault(t, "m4", "v#", faults.MachineSilent)
	want, lost := dispatcher(t, dispatch.Config{}).Want(start, []faults.Fault{ended, given, suspect, homeless, broken})
	if len(want) != 0 {
		t.Errorf("standing: %v", want)
	}
	reasons := map[string]string{}
	for _, l := range lost {
		reasons[l.Fault] = l.Reason
	}
	if len(reasons) != 2 || !strings.Contains(reasons[homeless.ID], `no vehicle is known to carry machine "m3"`) || !strings.Contains(reasons[broken.ID], "v#") {
		t.Errorf("unrouted: %v", reasons)
	}
}

func TestDiffBringsTheBrokerToWhatIsWanted(t *testing.T) {
	d := dispatcher(t, dispatch.Config{})
	a, _ := machineFault(t, "m1", "v1", faults.MachineSilent)
	b, _ := machineFault(t, "m2", "v2", faults.MachineSilent)
	standing := map[string]dispatch.Digest{}
	publish := func(now time.Time, open ...faults.Fault) (out []string) {
		want, _ := d.Want(now, open)
		for _, m := range want.Diff(standing) {
			_, name, _ := strings.Cut(m.Topic, "vehicle/")
			if len(m.Payload) == 0 {
				delete(standing, m.Topic)
				out = append(out, "clear "+name)
				continue
			}
			standing[m.Topic] = dispatch.DigestOf(m.Payload)
			out = append(out, "set "+name)
		}
		return out
	}
	for i, tt := range []struct {
		open []faults.Fault
		want []string
	}{
		{[]faults.Fault{a, b}, []string{"set v1/fault/m1", "set v2/fault/m2"}},
		{[]faults.Fault{b, a}, nil}, // equal to the byte, later and in any order
		{[]faults.Fault{moved(a), b}, []string{"clear v1/fault/m1", "set v3/fault/m1"}},
		{[]faults.Fault{moved(a)}, []string{"clear v2/fault/m2"}},
		{nil, []string{"clear v3/fault/m1"}},
	} {
		if diff := cmp.Diff(tt.want, publish(start.Add(time.Duration(i)*time.Minute), tt.open...)); diff != "" {
			t.Errorf("step %d: %s", i, diff)
		}
	}
}

func moved(f faults.Fault) faults.Fault {
	m := *f.Machine
	m.Vehicle = "v3"
	f.Machine, f.Revision = &m, f.Revision+1
	return f
}

// collecting counts the notices that tell a gateway to collect.
func collecting(t *testing.T, d *dispatch.Dispatcher, now time.Time, open []faults.Fault) int {
	t.Helper()
	want, lost := d.Want(now, open)
	if len(lost) > 0 {
		t.Fatalf("unrouted: %v", lost[0])
	}
	n := 0
	for _, payload := range want {
		if strings.Contains(string(payload), `"collect":true`) {
			n++
		}
	}
	return n
}

func TestABurstIsSpread(t *testing.T) {
	d := dispatcher(t, dispatch.Config{PerSecond: 10})
	var open []faults.Fault
	for i := range 100 {
		f, _ := machineFault(t, fmt.Sprint("m", i), fmt.Sprint("v", i), faults.MachineSilent)
		open = append(open, f)
	}
	for second, want := range map[int]int{0: 10, 1: 20, 4: 50, 9: 100, 99: 100} {
		if got := collecting(t, d, start.Add(time.Duration(second)*time.Second), open); got != want {
			t.Errorf("after %d s %d gateways collect, want %d", second, got, want)
		}
	}
	// Once told, a gateway is not called back because others come or go or it makes progress.
	before, _ := d.Want(start.Add(4*time.Second), open)
	for i := range open {
		m := *open[i].Machine
		m.Pending = uint32(i)
		open[i].Machine = &m
	}
	after, _ := d.Want(start.Add(4*time.Second), open)
	for topic, payload := range before {
		if strings.Contains(string(payload), `"collect":true`) && !strings.Contains(string(after[topic]), `"collect":true`) {
			t.Errorf("%s was called back", topic)
		}
	}
	later, _ := machineFault(t, "late", "late", faults.MachineSilent)
	later.OpenedAt = start.Add(time.Minute)
	if got := collecting(t, d, start.Add(time.Minute), append(open[50:], later)); got != 51 {
		t.Errorf("%d collect, want all 51", got)
	}
}

func TestChildrenWaitForTheirParent(t *testing.T) {
	b := faults.NewBook(faults.Policy{})
	network := faults.Subject{Network: "26201"}
	in := []faults.Input{
		faults.CauseCheck{Subject: network, Verdict: faults.Verdict{Kind: faults.NetworkLost, Firing: true, Reason: "many"}, Known: 60},
		faults.RouteCheck{Route: "36", Verdict: faults.Verdict{Kind: faults.RouteSilent, Firing: true}, Context: faults.Context{Under: network, Explained: true}},
	}
	for i := range 30 {
		of := network
		if i%2 == 1 {
			of = faults.Subject{Route: "36"} // its grandparent is the network
		}
		in = append(in, faults.MachineCheck{
			Machine: fmt.Sprint("m", i), Vehicle: fmt.Sprint("v", i), State: schemas.Dark,
			Verdicts: []faults.Verdict{{Kind: faults.MachineSilent, Firing: true}}, Context: faults.Context{Under: of, Explained: true},
		})
	}
	changes := b.Apply(start, in)
	d := dispatcher(t, dispatch.Config{Patience: 15 * time.Minute})
	told := 0
	for _, c := range changes {
		if _, ok, err := d.Event(c); err != nil {
			t.Fatal(err)
		} else if ok {
			told++
		}
	}
	if told != 1 {
		t.Errorf("%d events for one cause, want 1", told)
	}
	if got := collecting(t, d, start.Add(14*time.Minute), b.Open()); got != 0 {
		t.Errorf("%d gateways scan although their parent stands", got)
	}
	if got := collecting(t, d, start.Add(16*time.Minute), b.Open()); got != 30 {
		t.Errorf("%d gateways collect after the patience is over, want 30", got)
	}
	b.Apply(start.Add(time.Minute), []faults.Input{faults.CauseCheck{Subject: network, Verdict: faults.Verdict{Kind: faults.NetworkLost}, Known: 60}})
	if got := collecting(t, d, start.Add(time.Minute), b.Open()); got != 30 {
		t.Errorf("%d gateways collect after the parent closed, want 30", got)
	}
}

func TestEvent(t *testing.T) {
	_, c := machineFault(t, "m1", "v1", faults.MachineSilent)
	c.Event.Reason = strings.Repeat("ä", 600)
	d := dispatcher(t, dispatch.Config{})
	m, ok, err := d.Event(c)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	if m.Topic != "farebeat/v1/demo/event/major/machine_silent" {
		t.Errorf("topic %s", m.Topic)
	}
	var got schemas.CloudEvent[schemas.FaultEvent]
	if err := schemas.Decode(m.Payload, schemas.NameEvent, &got); err != nil {
		t.Fatal(err)
	}
	if got.ID != c.Fault.ID+".1" || got.Type != "io.farebeat.fault.opened" || got.Data.Machine != "m1" || got.Data.Vehicle != "v1" || got.Data.Route != "36" || got.Data.Attention != schemas.Unseen {
		t.Errorf("%+v", got)
	}
	c.Event = faults.Event{}
	if _, ok, err := d.Event(c); ok || err != nil {
		t.Errorf("a change without an event was told: %v %v", ok, err)
	}
}

// Every kind makes messages that the schemas accept.
func TestEveryKindCanBeTold(t *testing.T) {
	d := dispatcher(t, dispatch.Config{})
	for _, k := range faults.Kinds() {
		var in faults.Input = faults.RouteCheck{Route: "36", Verdict: faults.Verdict{Kind: k, Firing: true, Reason: "because"}}
		switch k.Entry().Family {
		case faults.FamilyCause:
			subject := map[faults.Kind]faults.Subject{
				faults.VehicleLost: {Vehicle: "x"}, faults.DepotLost: {Depot: "x"}, faults.NetworkLost: {Network: "x"}, faults.FirmwareLost: {Firmware: "x"},
			}[k]
			in = faults.CauseCheck{Subject: subject, Verdict: faults.Verdict{Kind: faults.CauseKind(subject), Firing: true}}
		case faults.FamilyService:
			in = faults.ServiceCheck{Service: "influx", Verdict: faults.Verdict{Kind: k, Firing: true, Reason: "because"}}
		case faults.FamilyStore:
			in = faults.StoreCheck{Verdict: faults.Verdict{Kind: k, Firing: true, Reason: "because"}}
		case faults.FamilyCustody, faults.FamilyCode, faults.FamilyClock:
			in = faults.MachineCheck{Machine: "m1", Vehicle: "v1", Verdicts: []faults.Verdict{{Kind: k, Firing: true}}}
		}
		changes := faults.NewBook(faults.Policy{}).Apply(start, []faults.Input{in})
		if len(changes) != 1 {
			t.Errorf("%s: %d changes", k, len(changes))
			continue
		}
		if _, ok, err := d.Event(changes[0]); !ok || err != nil {
			t.Errorf("%s: event %v, %v", k, ok, err)
		}
		want, lost := d.Want(start, []faults.Fault{changes[0].Fault})
		if len(lost) != 0 || len(want) != 1 {
			t.Errorf("%s: standing %v, unrouted %v", k, want, lost)
		}
	}
}

func BenchmarkWant1000Faults(b *testing.B) {
	d := dispatcher(b, dispatch.Config{})
	var open []faults.Fault
	for i := range 1000 {
		f, _ := machineFault(b, fmt.Sprint("m", i), fmt.Sprint("v", i), faults.MachineSilent)
		open = append(open, f)
	}
	standing := map[string]dispatch.Digest{}
	b.ReportAllocs()
	for b.Loop() {
		want, _ := d.Want(start, open)
		want.Diff(standing)
	}
}
