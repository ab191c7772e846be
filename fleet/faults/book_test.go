package faults_test

import (
	"fmt"
	"math/rand"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/schemas"
)

func route(id string, kind faults.Kind, firing bool, online int) faults.RouteCheck {
	return faults.RouteCheck{
		Route: id, Online: online, Expected: 10,
		Verdict: faults.Verdict{Kind: kind, Firing: firing, Threshold: 7, Reason: "because"},
	}
}

func TestRouteLives(t *testing.T) {
	suspect := route("36", faults.RouteBelow, false, 5)
	suspect.Verdict.Suspect, suspect.Verdict.Since = true, at(5*s)
	opens := route("36", faults.RouteBelow, true, 5)
	opens.Verdict.Since = at(5 * s)
	blind := route("36", faults.RouteBelow, false, 10)
	blind.Blind = true
	for _, tt := range []struct {
		name string
		in   []faults.Input // one every 10 s
		want []string
	}{
		{"suspected, open, silent, below, closed", []faults.Input{
			suspect, opens, route("36", faults.RouteSilent, true, 0), route("36", faults.RouteBelow, true, 2), route("36", faults.RouteBelow, false, 9),
		}, []string{"10s opened route_below open", "20s updated route_silent open", "30s updated route_below open", "40s closed route_below closed"}},
		{"silent never closes with nothing heard, whatever the rule says", []faults.Input{
			route("36", faults.RouteSilent, true, 0), route("36", faults.RouteSilent, false, 0), route("36", faults.RouteBelow, false, 0), route("36", faults.RouteBelow, false, 1),
		}, []string{"0s opened route_silent open", "30s closed route_silent closed"}},
		{"blind closes nothing", []faults.Input{opens, blind, blind}, []string{"0s opened route_below open"}},
		{"only suspected tells nobody", []faults.Input{suspect, route("36", faults.RouteBelow, false, 9)}, nil},
		{"comes back: reopened", []faults.Input{
			route("36", faults.RouteBelow, true, 5), route("36", faults.RouteBelow, false, 9), route("36", faults.RouteBelow, true, 5),
		}, []string{"0s opened route_below open", "10s closed route_below closed", "20s reopened route_below open"}},
		{"reported by hand and heard", []faults.Input{
			faults.HandReport{Report: schemas.Report{ID: "a", Route: "36", By: "hotline", Text: "no machine works"}},
			route("36", faults.RouteBelow, false, 10),
		}, []string{"0s opened route_reported open"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLife(t)
			for i, in := range tt.in {
				l.apply(time.Duration(i)*10*s, in)
			}
			l.want(tt.want...)
		})
	}
}

func TestSuspectBecomesTheFaultOfItsID(t *testing.T) {
	b := faults.NewBook(faults.Policy{})
	in := route("36", faults.RouteBelow, false, 5)
	in.Verdict.Suspect, in.Verdict.Since = true, start
	if c := b.Apply(at(5*s), []faults.Input{in}); len(c) != 0 {
		t.Fatalf("a suspicion was told: %+v", c)
	}
	suspects := b.Suspects()
	if len(suspects) != 1 || suspects[0].Condition != schemas.Suspected {
		t.Fatalf("suspects = %+v", suspects)
	}
	in.Verdict.Firing, in.Verdict.Suspect = true, false
	c := b.Apply(at(30*s), []faults.Input{in})
	if len(c) != 1 || c[0].Fault.ID != suspects[0].ID || !c[0].Fault.SuspectedAt.Equal(start) || !c[0].Fault.OpenedAt.Equal(at(30*s)) {
		t.Errorf("opened %+v, want the id %s, suspected at %v", c, suspects[0].ID, start)
	}
	if len(b.Suspects()) != 0 {
		t.Error("it is suspected still")
	}
}

func TestNumbersMakeFewRevisions(t *testing.T) {
	b := faults.NewBook(faults.Policy{})
	b.Apply(start, []faults.Input{route("36", faults.RouteBelow, true, 5)})
	saved := 0
	for i := range 60 {
		saved += len(b.Apply(at(time.Duration(i)*s), []faults.Input{route("36", faults.RouteBelow, true, i%2)}))
	}
	if saved != 1 {
		t.Errorf("%d revisions in a minute of changing numbers, want 1", saved)
	}
}

func platform(firing bool) faults.CauseCheck { return cause(faults.Subject{}, firing) }

func cause(s faults.Subject, firing bool) faults.CauseCheck {
	return faults.CauseCheck{Subject: s, Verdict: faults.Verdict{Kind: faults.CauseKind(s), Firing: firing, Reason: "many"}, Lost: 4990, Known: 5000}
}

// under puts a check under a cause.
func under[T faults.MachineCheck | faults.RouteCheck | faults.CauseCheck](in T, s faults.Subject) T {
	c := faults.Context{Under: s, Explained: true}
	switch in := any(&in).(type) {
	case *faults.MachineCheck:
		in.Context = c
	case *faults.RouteCheck:
		in.Context = c
	case *faults.CauseCheck:
		in.Context = c
	}
	return in
}

func darkMachine(i int) faults.MachineCheck {
	return faults.MachineCheck{
		Machine: fmt.Sprint("m", i), Vehicle: fmt.Sprint("v", i), State: schemas.Dark, LastHeartbeat: start,
		Verdicts: []faults.Verdict{{Kind: faults.MachineSilent, Firing: true}},
	}
}

// The broker's disk that fails is one fault, beside whatever else stands, and it closes by itself.
func TestBrokerStore(t *testing.T) {
	b := faults.NewBook(faults.Policy{})
	check := func(firing bool, reason string) faults.StoreCheck {
		return faults.StoreCheck{Verdict: faults.Verdict{Kind: faults.BrokerStore, Firing: firing, Reason: reason}}
	}
	if changes := b.Apply(at(0), []faults.Input{check(false, ""), platform(true)}); len(changes) != 1 {
		t.Fatalf("%d changes while all is well with it, want the platform's", len(changes))
	}
	for i := range 3 {
		changes := b.Apply(at(time.Duration(i+1)*s), []faults.Input{check(true, "no space")})
		if i == 0 && (len(changes) != 1 || changes[0].Fault.Kind != faults.BrokerStore || changes[0].Fault.Reason != "no space" || changes[0].Fault.Severity != schemas.Critical) {
			t.Fatalf("opened: %+v", changes)
		}
		if i > 0 && len(changes) != 0 {
			t.Errorf("told again: %+v", changes)
		}
	}
	changes := b.Apply(at(10*s), []faults.Input{check(false, "it is written again")})
	if len(changes) != 1 || !changes[0].Fault.Ended() || changes[0].Event.Reason != "it is written again" || len(b.Open()) != 1 {
		t.Errorf("closed: %+v", changes)
	}
}

// told lists the events that people are told of.
func told(changes []faults.Change) (out []string) {
	for _, c := range changes {
		if c.Told() {
			out = append(out, c.Fault.Subject.String()+" "+c.Event.Change)
		}
	}
	return out
}

// A network is lost with a hundred machines and a route: people hear of one fault. The machines come back one by one, nobody hears of that
// either; three stay away, and stand alone once the network was back for a while.
func TestOneCauseOneFault(t *testing.T) {
	b := faults.NewBook(faults.Policy{})
	network := faults.Subject{Network: "26201"}
	round := func(after time.Duration, in ...faults.Input) []string { return told(b.Apply(at(after), in)) }
	var in []faults.Input
	for i := range 100 {
		in = append(in, under(darkMachine(i), network))
	}
	in = append(in, under(route("36", faults.RouteSilent, true, 0), network), cause(network, true)) // last, and still first
	if got := round(75*s, in...); !slices.Equal(got, []string{"network 26201 opened"}) {
		t.Fatalf("told of %v", got)
	}
	if n := len(b.Open()); n != 102 {
		t.Fatalf("%d faults, want all 102", n)
	}
	heard := func(i int, at time.Time) faults.MachineCheck {
		m := darkMachine(i)
		m.State, m.Verdicts, m.LastHeartbeat = schemas.Up, nil, at
		return m
	}
	for second := range 200 { // machine i is back from second 2i on
		now := 100*s + time.Duration(second)*s
		in := []faults.Input{cause(network, second < 190), route("36", faults.RouteSilent, second < 50, 5)}
		for i := range 100 {
			if i >= 97 || second < 2*i {
				in = append(in, under(darkMachine(i), network))
			} else {
				in = append(in, heard(i, at(now)))
			}
		}
		want := []string(nil)
		if second == 190 {
			want = []string{"network 26201 closed"}
		}
		if got := round(now, in...); !slices.Equal(got, want) {
			t.Fatalf("second %d: told of %v, want %v", second, got, want)
		}
	}
	rest := []faults.Input{cause(network, false), darkMachine(97), darkMachine(98), darkMachine(99)}
	if got := round(290*s+299*s, rest...); got != nil {
		t.Fatalf("told of %v while the network is just back", got)
	}
	got := round(290*s+300*s, rest...)
	if want := []string{"machine m97 opened", "machine m98 opened", "machine m99 opened"}; !slices.Equal(got, want) {
		t.Errorf("told of %v, want %v", got, want)
	}
	for _, f := range b.Open() {
		if f.Parent != "" || !f.Told {
			t.Errorf("%s stands under %q, told %v", f.Subject, f.Parent, f.Told)
		}
	}
}

// What people were told of before its cause was found is told of until its end.
func TestToldBeforeItsCause(t *testing.T) {
	b := faults.NewBook(faults.Policy{})
	depot := faults.Subject{Depot: "north"}
	round := func(after time.Duration, in ...faults.Input) string { return fmt.Sprint(told(b.Apply(at(after), in))) }
	for _, step := range []struct {
		after time.Duration
		in    []faults.Input
		want  string
	}{
		{0, []faults.Input{darkMachine(1)}, "[machine m1 opened]"},
		{10 * s, []faults.Input{cause(depot, true), under(darkMachine(1), depot), under(darkMachine(2), depot)}, "[depot north opened]"},
		{20 * s, []faults.Input{platform(true), under(cause(depot, true), faults.Subject{})}, "[platform opened]"},
	} {
		if got := round(step.after, step.in...); got != step.want {
			t.Errorf("after %v told of %s, want %s", step.after, got, step.want)
		}
	}
	open := b.Open()
	parents := map[string]string{}
	for _, f := range open {
		for _, p := range open {
			if p.ID == f.Parent {
				parents[f.Subject.String()] = p.Subject.String()
			}
		}
	}
	if diff := cmp.Diff(map[string]string{"machine m1": "depot north", "machine m2": "depot north", "depot north": "platform"}, parents); diff != "" {
		t.Error(diff)
	}
	for i := range 3 {
		var in []faults.Input
		for n := 1; n <= 2; n++ {
			m := darkMachine(n)
			m.State, m.Verdicts, m.LastHeartbeat = schemas.Up, nil, at(30*s+time.Duration(i)*15*s)
			in = append(in, m)
		}
		want := "[]"
		if i == 1 {
			want = "[machine m1 closed]"
		}
		if got := round(30*s+time.Duration(i)*15*s, in...); got != want {
			t.Errorf("heard %d times: told of %s, want %s", i+1, got, want)
		}
	}
}

// In a maintenance window faults are kept and nobody is told; what still stands at its end is told then, what was known before is not told again.
func TestMaintenance(t *testing.T) {
	b := faults.NewBook(faults.Policy{})
	in := func(i int, window string) faults.MachineCheck {
		m := darkMachine(i)
		m.Context.Maintenance = window
		return m
	}
	for _, step := range []struct {
		after time.Duration
		in    []faults.Input
		want  string
	}{
		{0, []faults.Input{in(1, "")}, "[machine m1 opened]"},
		{10 * s, []faults.Input{in(1, "night"), in(2, "night"), in(3, "night")}, "[]"},
		{20 * s, []faults.Input{in(1, ""), in(2, ""), in(3, "night")}, "[machine m2 opened]"},
		{30 * s, []faults.Input{in(1, ""), in(2, ""), in(3, "night")}, "[]"},
		{40 * s, []faults.Input{in(1, "night"), in(2, "night"), in(3, "night")}, "[]"},
		{50 * s, []faults.Input{in(1, ""), in(2, ""), in(3, "")}, "[machine m3 opened]"},
	} {
		if got := fmt.Sprint(told(b.Apply(at(step.after), step.in))); got != step.want {
			t.Errorf("after %v told of %s, want %s", step.after, got, step.want)
		}
	}
}

func TestRestoreKeepsOnePlaceOneFault(t *testing.T) {
	mk := func(id string, opened, closed time.Duration) faults.Fault {
		f := faults.Fault{ID: id, Kind: faults.MachineSilent, Condition: schemas.Open, Subject: faults.Subject{Machine: "m1"}, OpenedAt: at(opened)}
		if closed != 0 {
			f.Condition, f.ClosedAt = schemas.Closed, at(closed)
		}
		return f
	}
	b := faults.NewBook(faults.Policy{})
	b.Restore([]faults.Fault{mk("live", 0, 0), mk("ended", 10*s, 20*s)})
	if open := b.Open(); len(open) != 1 || open[0].ID != "live" {
		t.Errorf("open = %+v, want the live one", open)
	}
	if _, ok := b.Get("ended"); ok {
		t.Error("the place holds two faults")
	}
	if !b.Concerns("m1") || b.Concerns("m2") {
		t.Error("Concerns is wrong")
	}
}

// A rule that was killed remembers the beginning of a fault that was given up since: what it says next is another fault.
func TestNoFaultGetsTheIDOfOneThatEnded(t *testing.T) {
	b := faults.NewBook(faults.Policy{})
	stale := route("36", faults.RouteSilent, true, 0)
	stale.Verdict.Since = start
	first := b.Apply(at(30*s), []faults.Input{stale})[0].Fault.ID
	well := stale
	well.Verdict.Firing = false
	b.Apply(at(60*s), []faults.Input{well, faults.Abandon{Fault: first, By: "anna", Reason: "a road works"}})
	changes := b.Apply(at(70*s), []faults.Input{stale})
	if len(changes) != 1 || changes[0].Event.Change != faults.ChangeOpened {
		t.Fatalf("changes = %+v, want one that opens", changes)
	}
	if f := changes[0].Fault; f.ID == first || !f.SuspectedAt.Equal(at(70*s)) {
		t.Errorf("%s began at %v, want another id than %s, and the moment of the round", f.ID, f.SuspectedAt, first)
	}
}

// A fault that was put aside before anyone was told of it is not told of after a restart either, but when its shelf ends.
func TestRestoreKeepsWhatNobodyWasTold(t *testing.T) {
	b := faults.NewBook(faults.Policy{})
	b.Apply(at(0), []faults.Input{platform(true)})
	b.Apply(at(10*s), []faults.Input{under(darkMachine(1), faults.Subject{})})
	machine := func() faults.Fault {
		for _, f := range b.Open() {
			if f.Subject.Machine != "" {
				return f
			}
		}
		t.Fatal("the machine has no fault")
		return faults.Fault{}
	}
	b.Apply(at(20*s), []faults.Input{faults.Attend{Fault: machine().ID, To: schemas.Shelved, By: "anna", Until: at(3600 * s)}})
	b.Apply(at(30*s), []faults.Input{platform(false), under(darkMachine(1), faults.Subject{})})
	b.Apply(at(1000*s), []faults.Input{darkMachine(1)})
	if f := machine(); f.Told || f.Parent != "" {
		t.Fatalf("told %v, parent %q: the case is another", f.Told, f.Parent)
	}
	stored := b.Open()
	b = faults.NewBook(faults.Policy{})
	b.Restore(stored)
	if machine().Told {
		t.Error("after the restart it counts as told")
	}
	if got := told(b.Apply(at(3600*s), []faults.Input{darkMachine(1)})); len(got) != 1 {
		t.Errorf("when the shelf ended people were told %q, want once", got)
	}
}

// Whatever comes, in any order and as often as it likes: the fault is closed when the machine is
// heard and the ledger complete, and not before.
func TestNoOrderLeavesAFaultWrong(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := faults.NewBook(faults.Policy{})
		check := faults.MachineCheck{
			Machine: "m1", Vehicle: "v1", State: schemas.Dark, LastHeartbeat: start, Epoch: 1, LastSeq: 10, Pending: 10,
			Verdicts: []faults.Verdict{{Kind: faults.MachineSilent, Firing: true}},
		}
		b.Apply(at(75*s), []faults.Input{check})
		id := b.Open()[0].ID
		last := rapid.Uint32Range(10, 40).Draw(t, "last")
		var in []faults.Input
		for i := range 5 {
			in = append(in,
				faults.LedgerProgress{Machine: "m1", Epoch: 1, CompleteTo: last * uint32(i+1) / 5},
				faults.RecoveryReport{Recovery: schemas.Recovery{
					AsOf: at(time.Duration(80+i) * s), Machine: "m1", Fault: id, State: schemas.RecoveryReading, Epoch: 1, LastSeq: last, Total: last, Receipted: last * uint32(i+1) / 5,
				}})
		}
		in = append(in, in...)
		seed := rapid.Int64().Draw(t, "order")
		rand.New(rand.NewSource(seed)).Shuffle(len(in), func(i, j int) { in[i], in[j] = in[j], in[i] })
		complete := uint32(0)
		for i, x := range in {
			now := at(time.Duration(100+i) * s)
			b.Apply(now, []faults.Input{x, check})
			if l, ok := x.(faults.LedgerProgress); ok {
				complete = max(complete, l.CompleteTo)
			}
			f, ok := b.Get(id)
			if !ok || f.Ended() {
				t.Fatalf("closed while the machine is silent, after %+v", x)
			}
			declared := f.Machine.Recovery != nil && f.Machine.Recovery.Declared
			if got, want := f.Condition == schemas.Recovered, declared && complete >= last; got != want {
				t.Fatalf("recovered = %v with the ledger at %d of %d, declared %v", got, complete, last, declared)
			}
		}
		for i := range 3 { // heard, but its storage not yet released
			check.State, check.Verdicts, check.LastSeq = schemas.Up, nil, last
			check.LastHeartbeat = at(time.Duration(200+i*15) * s)
			b.Apply(at(time.Duration(200+i*15)*s), []faults.Input{check})
			if f, _ := b.Get(id); f.Ended() {
				t.Fatal("closed while the machine holds transactions")
			}
		}
		check.Pending, check.LastHeartbeat = 0, at(300*s)
		b.Apply(at(300*s), []faults.Input{check})
		if f, _ := b.Get(id); f.Condition != schemas.Closed {
			t.Fatalf("condition %s, want closed", f.Condition)
		}
	})
}

func TestQueryMatches(t *testing.T) {
	f := faults.Fault{
		ID: "M-1", Kind: faults.MachineSilent, Condition: schemas.Closed, Subject: faults.Subject{Machine: "m1"},
		OpenedAt: at(10 * s), ClosedAt: at(20 * s), Attention: faults.Attention{State: schemas.Acknowledged},
		Machine: &faults.MachineFacts{Vehicle: "v1", Route: "36"},
	}
	for _, tt := range []struct {
		q    faults.Query
		want bool
	}{
		{faults.Query{}, true},
		{faults.Query{Machine: "m1", Route: "36", Vehicle: "v1", Kinds: []faults.Kind{faults.MachineSilent}}, true},
		{faults.Query{Machine: "m2"}, false},
		{faults.Query{Route: "37"}, false},
		{faults.Query{Vehicle: "v2"}, false},
		{faults.Query{Kinds: []faults.Kind{faults.RouteBelow}}, false},
		{faults.Query{Conditions: []schemas.FaultCondition{schemas.Open}}, false},
		{faults.Query{Attentions: []schemas.Attention{schemas.Unseen}}, false},
		{faults.Query{From: at(19 * s), To: at(30 * s)}, true},
		{faults.Query{From: at(20 * s)}, false},
		{faults.Query{To: at(10 * s)}, false},
		{faults.Query{To: at(11 * s)}, true},
		{faults.Query{Unfinished: true}, false},
	} {
		if got := tt.q.Matches(f); got != tt.want {
			t.Errorf("%+v matches = %v, want %v", tt.q, got, tt.want)
		}
	}
	f.Attention.State = schemas.Unseen
	if !(faults.Query{Unfinished: true}).Matches(f) {
		t.Error("a closed fault that nobody saw must stay listed")
	}
	list := []faults.Fault{{ID: "a", OpenedAt: start}, {ID: "b", OpenedAt: start}, {ID: "c", OpenedAt: at(s)}}
	slices.SortFunc(list, faults.Compare)
	if got := list[0].ID + list[1].ID + list[2].ID; got != "cba" {
		t.Errorf("order %s, want cba", got)
	}
	for limit, want := range map[int]int{0: faults.DefaultLimit, 5: 5, 1 << 30: faults.MaxLimit} {
		if got := (faults.Query{Limit: limit}).Bound(); got != want {
			t.Errorf("bound of limit %d = %d, want %d", limit, got, want)
		}
	}
}

func TestStepIgnoresOtherSubjects(t *testing.T) {
	b := faults.NewBook(faults.Policy{})
	b.Apply(start, []faults.Input{darkMachine(1)})
	f := b.Open()[0]
	for _, in := range []faults.Input{
		darkMachine(2), route("36", faults.RouteSilent, true, 0), platform(true),
		faults.LedgerProgress{Machine: "m2", Epoch: 1, CompleteTo: 3},
		faults.Abandon{Fault: "other"},
		faults.Attend{Fault: "other", To: schemas.Acknowledged},
	} {
		got, changes := faults.Policy{}.Step(at(s), f, in)
		if diff := cmp.Diff(f, got); diff != "" || len(changes) != 0 {
			t.Errorf("%T about another subject changed the fault: %s", in, diff)
		}
	}
}

func BenchmarkApply(b *testing.B) {
	for _, faulty := range []int{0, 500} {
		b.Run(fmt.Sprintf("5000_routes_%d_machines", faulty), func(b *testing.B) {
			book := faults.NewBook(faults.Policy{})
			var in []faults.Input
			for i := range 5000 {
				in = append(in, route(fmt.Sprint(i), faults.RouteBelow, false, 10))
			}
			for i := range faulty {
				in = append(in, darkMachine(i))
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				book.Apply(at(time.Duration(i)*5*s), in)
			}
		})
	}
}
