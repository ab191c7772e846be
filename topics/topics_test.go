package topics_test

import (
	"strings"
	"testing"
	"unicode"

	"pgregory.net/rapid"

	"github.com/farebeat/farebeat/topics"
)

const root = "farebeat/v1/hart/"

func newTree(t testing.TB) topics.Tree {
	t.Helper()
	tree, err := topics.New("hart")
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func TestTopics(t *testing.T) {
	tree := newTree(t)
	for topic, a := range map[string]topics.Address{
		"machine/V-0042/heartbeat":                      {Kind: topics.Heartbeat, Machine: "V-0042"},
		"machine/V-0042/state":                          {Kind: topics.MachineState, Machine: "V-0042"},
		"vehicle/01216/gateway":                         {Kind: topics.Gateway, Vehicle: "01216"},
		"vehicle/bus%207/fault/V-0042":                  {Kind: topics.VehicleFault, Vehicle: "bus 7", Machine: "V-0042"},
		"vehicle/01216/recovery/a%2Fb":                  {Kind: topics.Recovery, Vehicle: "01216", Machine: "a/b"},
		"vehicle/01216/transactions/V-0042/3-1-200":     {Kind: topics.Transactions, Vehicle: "01216", Machine: "V-0042", Batch: topics.BatchID{Epoch: 3, First: 1, Last: 200}},
		"vehicle/01216/receipt/V-0042":                  {Kind: topics.Receipt, Vehicle: "01216", Machine: "V-0042"},
		"route/2018-06-12%3A36/online":                  {Kind: topics.RouteOnline, Route: "2018-06-12:36"},
		"route/L%C3%ADnea%205%2FN/fault/01JDB70QX2":     {Kind: topics.RouteFault, Route: "Línea 5/N", Fault: "01JDB70QX2"},
		"fault/N-01JDB70QX2":                            {Kind: topics.CommonFault, Fault: "N-01JDB70QX2"},
		"report/hotline":                                {Kind: topics.Report, Source: "hotline"},
		"command/01216/c-3":                             {Kind: topics.Command, Vehicle: "01216", Command: "c-3"},
		"command/01216/c-3/result":                      {Kind: topics.CommandResult, Vehicle: "01216", Command: "c-3"},
		"event/major/machine_dark":                      {Kind: topics.Event, Severity: "major", EventKind: "machine_dark"},
		"fleet":                                         {Kind: topics.Fleet},
		"meta/asyncapi":                                 {Kind: topics.AsyncAPI},
		"machine/%E5%8C%97%25%F0%9F%9A%8D/heartbeat":    {Kind: topics.Heartbeat, Machine: "北%🚍"},
		"machine/" + strings.Repeat("m", 64) + "/state": {Kind: topics.MachineState, Machine: strings.Repeat("m", 64)},
	} {
		if got, err := tree.Build(a); err != nil || got != root+topic {
			t.Errorf("Build(%+v) = %q, %v; want %q", a, got, err, root+topic)
		}
		if got, err := tree.Parse(root + topic); err != nil || got != a {
			t.Errorf("Parse(%q) = %+v, %v; want %+v", topic, got, err, a)
		}
	}
}

// addresses draws any valid address.
func addresses() *rapid.Generator[topics.Address] {
	id := rapid.OneOf(
		rapid.StringMatching(`[a-zA-Z0-9 ._~/:%"é北-]{1,20}`),
		rapid.StringN(1, 12, 40).Filter(func(s string) bool {
			return strings.ToValidUTF8(s, "") == s && !strings.ContainsAny(s, "+#$") && !strings.ContainsFunc(s, unicode.IsControl)
		}))
	return rapid.Custom(func(t *rapid.T) topics.Address {
		spec := rapid.SampledFrom(topics.Specs()).Draw(t, "spec")
		a := topics.Address{Kind: spec.Kind}
		for level, field := range map[string]*string{
			"{machine}": &a.Machine, "{vehicle}": &a.Vehicle, "{route}": &a.Route, "{fault}": &a.Fault,
			"{source}": &a.Source, "{command}": &a.Command, "{severity}": &a.Severity, "{kind}": &a.EventKind,
		} {
			if strings.Contains(spec.Pattern, level) {
				*field = id.Draw(t, level)
			}
		}
		if strings.Contains(spec.Pattern, "{batch}") {
			first := rapid.Uint32Range(1, 1<<32-1).Draw(t, "first")
			a.Batch = topics.BatchID{Epoch: rapid.Uint32Range(1, 1<<32-1).Draw(t, "epoch"), First: first, Last: rapid.Uint32Range(first, 1<<32-1).Draw(t, "last")}
		}
		return a
	})
}

func TestBuildParseRoundTrip(t *testing.T) {
	tree := newTree(t)
	built := 0
	rapid.Check(t, func(t *rapid.T) {
		a := addresses().Draw(t, "address")
		topic, err := tree.Build(a)
		if err != nil {
			if !strings.Contains(err.Error(), "bytes, at most 256") {
				t.Fatal(err)
			}
			return
		}
		built++
		if got, err := tree.Parse(topic); err != nil || got != a {
			t.Fatalf("Parse(%q) = %+v, %v; want %+v", topic, got, err, a)
		}
		if strings.ContainsAny(topic, "+#$\x00") || strings.Count(topic, "/") >= topics.MaxLevels {
			t.Fatalf("%q is no topic of the tree", topic)
		}
		filter, err := tree.Filter(a)
		if err != nil || filter != topic {
			t.Fatalf("the filter of a whole address is its topic: %q, %v", filter, err)
		}
		if machine, ok := tree.HeartbeatMachine(topic); ok != (a.Kind == topics.Heartbeat) || machine != "" && machine != a.Machine {
			t.Fatalf("HeartbeatMachine(%q) = %q, %t", topic, machine, ok)
		}
	})
	if built < 20 {
		t.Errorf("only %d topics were built", built)
	}
}

func TestBuildErrors(t *testing.T) {
	tree := newTree(t)
	for _, tc := range []struct {
		a    topics.Address
		want string
	}{
		{topics.Address{}, `build topic: kind "" is not in the tree`},
		{topics.Address{Kind: "machine"}, `build topic: kind "machine" is not in the tree`},
		{topics.Address{Kind: topics.Heartbeat}, `build topic machine/heartbeat: machine is empty`},
		{topics.Address{Kind: topics.Heartbeat, Machine: "a+b"}, `build topic machine/heartbeat: machine "a+b": +, # and $ are MQTT's own`},
		{topics.Address{Kind: topics.Heartbeat, Machine: "$SYS"}, `build topic machine/heartbeat: machine "$SYS": +, # and $ are MQTT's own`},
		{topics.Address{Kind: topics.Heartbeat, Machine: "a\x00"}, `build topic machine/heartbeat: machine "a\x00": has a control character`},
		{topics.Address{Kind: topics.Heartbeat, Machine: "a\xff"}, `build topic machine/heartbeat: machine "a\xff": not UTF-8`},
		{topics.Address{Kind: topics.Heartbeat, Machine: strings.Repeat("m", 65)}, `build topic machine/heartbeat: machine "mmmmmmmmmmmmmmmm"...: 65 characters, at most 64`},
		{topics.Address{Kind: topics.VehicleFault, Machine: "m"}, `build topic vehicle/fault: vehicle is empty`},
		{topics.Address{Kind: topics.Transactions, Machine: "m", Vehicle: "v"}, `build topic vehicle/transactions: batch "0-0-0": want epoch-first-last, each from 1 to 4294967295`},
		{topics.Address{Kind: topics.Transactions, Machine: "m", Vehicle: "v", Batch: topics.BatchID{Epoch: 1, First: 5, Last: 4}}, `build topic vehicle/transactions: batch "1-5-4": ends before it begins`},
		{topics.Address{Kind: topics.RouteOnline, Route: strings.Repeat("北", 40)}, `build topic route/online: "farebeat/v1/hart/route/` + strings.Repeat("%E5%8C%97", 25) + `%E5%8C%9"...: 390 bytes, at most 256`},
	} {
		if got, err := tree.Build(tc.a); err == nil || err.Error() != tc.want {
			t.Errorf("Build(%+v) = %q, %v; want %s", tc.a, got, err, tc.want)
		}
	}
	if _, err := (topics.Tree{}).Build(topics.Address{Kind: topics.Fleet}); err == nil || err.Error() != "build topic fleet: the tree was not made by New" {
		t.Errorf("no tree: %v", err)
	}
}

func TestParseErrors(t *testing.T) {
	tree := newTree(t)
	long := strings.Repeat("m", 65)
	for topic, want := range map[string]string{
		"":                                               `topic "": does not begin with farebeat/v1/hart/`,
		"farebeat/v1/hart":                               `topic "farebeat/v1/hart": does not begin with farebeat/v1/hart/`,
		"farebeat/v2/hart/fleet":                         `topic "farebeat/v2/hart/fleet": does not begin with farebeat/v1/hart/`,
		"farebeat/v1/other/fleet":                        `topic "farebeat/v1/other/fleet": does not begin with farebeat/v1/hart/`,
		root:                                             `topic "farebeat/v1/hart/": not in the tree`,
		root + "fleet/":                                  `topic "farebeat/v1/hart/fleet/": not in the tree`,
		root + "machine/m":                               `topic "farebeat/v1/hart/machine/m": not in the tree`,
		root + "Machine/m/state":                         `topic "farebeat/v1/hart/Machine/m/state": not in the tree`,
		root + "machine//state":                          `topic "farebeat/v1/hart/machine//state": machine is empty`,
		root + "machine/a b/state":                       `topic "farebeat/v1/hart/machine/a b/state": machine "a b": ' ' must be percent-encoded`,
		root + "machine/+/state":                         `topic "farebeat/v1/hart/machine/+/state": machine "+": '+' must be percent-encoded`,
		root + "machine/a%2Bb/state":                     `topic "farebeat/v1/hart/machine/a%2Bb/state": machine "a+b": +, # and $ are MQTT's own`,
		root + "machine/a%2fb/state":                     `topic "farebeat/v1/hart/machine/a%2fb/state": machine "a%2fb": "%2f" is no percent-encoding of ours`,
		root + "machine/%41/state":                       `topic "farebeat/v1/hart/machine/%41/state": machine "%41": "%41" is no percent-encoding of ours`,
		root + "machine/a%2/state":                       `topic "farebeat/v1/hart/machine/a%2/state": machine "a%2": '%' must be percent-encoded`,
		root + "machine/%00/state":                       `topic "farebeat/v1/hart/machine/%00/state": machine "\x00": has a control character`,
		root + "machine/%FF/state":                       `topic "farebeat/v1/hart/machine/%FF/state": machine "\xff": not UTF-8`,
		root + "machine/" + long + "/state":              `topic "farebeat/v1/hart/machine/` + long + `/state": machine "mmmmmmmmmmmmmmmm"...: 65 characters, at most 64`,
		root + strings.Repeat("m", 240):                  `topic of 257 bytes: at most 256`,
		root + "vehicle/v/transactions/m/1":              `topic "farebeat/v1/hart/vehicle/v/transactions/m/1": batch "1": want epoch-first-last, each from 1 to 4294967295`,
		root + "vehicle/v/transactions/m/01-1-1":         `topic "farebeat/v1/hart/vehicle/v/transactions/m/01-1-1": batch "01-1-1": want epoch-first-last, each from 1 to 4294967295`,
		root + "vehicle/v/transactions/m/1-2-1":          `topic "farebeat/v1/hart/vehicle/v/transactions/m/1-2-1": batch "1-2-1": ends before it begins`,
		root + "vehicle/v/transactions/m/1--1":           `topic "farebeat/v1/hart/vehicle/v/transactions/m/1--1": batch "1--1": want epoch-first-last, each from 1 to 4294967295`,
		root + "vehicle/v/transactions/m/1-1-4294967296": `topic "farebeat/v1/hart/vehicle/v/transactions/m/1-1-4294967296": batch "1-1-4294967296": want epoch-first-last, each from 1 to 4294967295`,
	} {
		if a, err := tree.Parse(topic); err == nil || err.Error() != want {
			t.Errorf("Parse(%q) = %+v, %v\nwant %s", topic, a, err, want)
		}
		if m, ok := tree.HeartbeatMachine(topic); ok {
			t.Errorf("HeartbeatMachine(%q) = %q", topic, m)
		}
	}
	if _, err := (topics.Tree{}).Parse("fleet"); err == nil {
		t.Error("a tree that New did not make parses")
	}
}

func TestNew(t *testing.T) {
	for operator, want := range map[string]string{
		"":                      `topic tree: operator is empty`,
		"a#":                    `topic tree: operator "a#": +, # and $ are MQTT's own`,
		strings.Repeat("o", 65): `topic tree: operator "oooooooooooooooo"...: 65 characters, at most 64`,
		"a\nb":                  `topic tree: operator "a\nb": has a control character`,
		strings.Repeat("北", 20): `topic tree: operator "北北北北北北北北北北北北北北北北北北北北": 180 bytes when percent-encoded leave no room for the topics; take a shorter name`,
	} {
		if _, err := topics.New(operator); err == nil || err.Error() != want {
			t.Errorf("New(%q): %v\nwant %s", operator, err, want)
		}
	}
	tree, err := topics.New("Zürich VBZ")
	if err != nil || tree.Root() != "farebeat/v1/Z%C3%BCrich%20VBZ/" || tree.Operator() != "Zürich VBZ" {
		t.Errorf("%q, %q, %v", tree.Root(), tree.Operator(), err)
	}
}

func TestFilter(t *testing.T) {
	tree := newTree(t)
	for want, a := range map[string]topics.Address{
		"machine/+/heartbeat":            {Kind: topics.Heartbeat},
		"vehicle/01216/fault/+":          {Kind: topics.VehicleFault, Vehicle: "01216"},
		"vehicle/+/fault/V%2F1":          {Kind: topics.VehicleFault, Machine: "V/1"},
		"vehicle/+/transactions/+/+":     {Kind: topics.Transactions},
		"vehicle/v/transactions/+/1-1-9": {Kind: topics.Transactions, Vehicle: "v", Batch: topics.BatchID{Epoch: 1, First: 1, Last: 9}},
		"command/+/+/result":             {Kind: topics.CommandResult},
		"fleet":                          {Kind: topics.Fleet},
	} {
		if got, err := tree.Filter(a); err != nil || got != root+want {
			t.Errorf("Filter(%+v) = %q, %v; want %q", a, got, err, want)
		}
	}
	if _, err := tree.Filter(topics.Address{Kind: topics.Heartbeat, Machine: "+"}); err == nil {
		t.Error("an id may not be a wildcard")
	}
}

func TestHeartbeatMachineDoesNotAllocate(t *testing.T) {
	tree := newTree(t)
	topic := root + "machine/V-0042/heartbeat"
	if n := testing.AllocsPerRun(100, func() {
		if m, ok := tree.HeartbeatMachine(topic); !ok || m != "V-0042" {
			t.Fatal(m, ok)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestSpecs(t *testing.T) {
	seen := map[topics.Kind]bool{}
	for _, s := range topics.Specs() {
		if seen[s.Kind] {
			t.Errorf("%s is there twice", s.Kind)
		}
		seen[s.Kind] = true
		if s.Doc == "" || s.MaxBytes <= 0 || s.QoS > 1 || len(s.Writers) == 0 || len(s.Readers) == 0 {
			t.Errorf("%s: incomplete: %+v", s.Kind, s)
		}
		if got, ok := topics.Lookup(s.Kind); !ok || got.Pattern != s.Pattern {
			t.Errorf("Lookup(%s) = %+v, %t", s.Kind, got, ok)
		}
	}
	if _, ok := topics.Lookup("nothing"); ok {
		t.Error("there is a row for nothing")
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		root + "machine/V-0042/heartbeat", root + "machine/a%2Fb/heartbeat", root + "machine/%41/heartbeat", root + "machine//heartbeat", root + "machine/a/b/heartbeat",
		root + "vehicle/v/transactions/m/1-2-3", root + "vehicle/v/transactions/m/0-2-3", root + "command/v/c/result", root + "event/major/x", root + "fleet", root, "", "#",
		root + "machine/heartbeat", root + "machine/" + strings.Repeat("%C3%A9", 36) + "/heartbeat",
	} {
		f.Add(s)
	}
	tree := newTree(f)
	f.Fuzz(func(t *testing.T, topic string) {
		a, err := tree.Parse(topic)
		machine, ok := tree.HeartbeatMachine(topic)
		if ok != (err == nil && a.Kind == topics.Heartbeat) || ok && machine != a.Machine {
			t.Errorf("HeartbeatMachine(%q) = %q, %t; Parse: %+v, %v", topic, machine, ok, a, err)
		}
		if err != nil {
			return
		}
		if again, err := tree.Build(a); err != nil || again != topic {
			t.Errorf("Build(%+v) = %q, %v; parsed from %q", a, again, err, topic)
		}
	})
}

func BenchmarkHeartbeatMachine(b *testing.B) {
	tree := newTree(b)
	topic := root + "machine/V-0042/heartbeat"
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := tree.HeartbeatMachine(topic); !ok {
			b.Fatal("not a heartbeat")
		}
	}
}
