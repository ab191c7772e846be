package topics_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/farebeat/farebeat/topics"
)

// identities are one of each role. The gateway is that of vehicle 01216, the machine on it is 01216-1.
func identities() []topics.Identity {
	return []topics.Identity{
		{Role: topics.RoleMachine, Name: "01216-1"},
		{Role: topics.RoleGateway, Name: "01216"},
		{Role: topics.RoleFleet, Name: "fleet"},
		{Role: topics.RoleOperator, Name: "dispatcher"},
		{Role: topics.RoleAdmin, Name: "chief"},
		{Role: topics.RoleViewer, Name: "wall"},
		{Role: topics.RoleThirdParty, Name: "passenger-app"},
		{Role: topics.RoleSimulator, Name: "city"},
	}
}

// rights is who may write and read a topic of wholeTable, one letter a role: Machine, Gateway, Fleet, Operator, Admin, Viewer,
// Third party, Simulator.
func rights(t testing.TB) map[string]struct{ write, read string } {
	t.Helper()
	all := map[string]struct{ write, read string }{}
	for _, l := range table(t) {
		may := all[l.topic]
		for i, letter := range map[int]string{0: "M", 1: "G", 2: "F", 3: "O", 4: "A", 5: "V", 6: "T", 8: "S"} {
			if strings.Contains(l.rights[i], "p") {
				may.write += letter
			}
			if strings.Contains(l.rights[i], "s") {
				may.read += letter
			}
		}
		all[l.topic] = may
	}
	return all
}

func TestMayReadFilters(t *testing.T) {
	tr := newTree(t)
	granted := topics.Identity{Role: topics.RoleThirdParty, Name: "settlement", Grants: []string{"vehicle/+/transactions/#", root + "machine/+/state", "machine/#/x", "report/+", "vehicle/+/ticket/#"}}
	by := map[string]topics.Identity{"settlement": granted}
	for _, id := range identities() {
		by[string(id.Role)] = id
	}
	for _, tc := range []struct{ who, filter, err string }{
		{"machine", root + "fleet", ""},
		{"machine", root + "fleet/#", ""},
		{"machine", root + "#", "may not read all"},
		{"machine", root + "machine/01216-1/heartbeat", "may not read all"},
		{"machine", "#", "may not read all"},
		{"gateway", root + "vehicle/01216/fault/+", ""},
		{"gateway", root + "vehicle/01216/fault/#", ""},
		{"gateway", root + "vehicle/01216/receipt/01216-1", ""},
		{"gateway", root + "command/01216/+", ""},
		{"gateway", root + "command/01216/#", ""},
		{"gateway", root + "vehicle/01216/#", "may not read all"},
		{"gateway", root + "vehicle/+/fault/+", "may not read all"},
		{"gateway", root + "vehicle/012160/fault/+", "may not read all"},
		{"gateway", root + "command/#", "may not read all"},
		{"gateway", root + "+", "may not read all"},
		{"gateway", root + "+/#", "may not read all"},
		{"fleet", root + "#", ""},
		{"fleet", root + "+/+/fault/#", ""},
		{"fleet", "farebeat/v1/#", "may not read all"},
		{"fleet", "$SYS/#", "may not read all"},
		{"viewer", root + "vehicle/#", ""},
		{"viewer", "farebeat/v1/other/#", "may not read all"},
		{"viewer", root + "vehicle/+/ticket/#", "may not read vehicle/ticket"},
		{"operator", root + "vehicle/01216/ticket/01216-1", "may not read vehicle/ticket"},
		{"operator", root + "vehicle/+/+/01216-1", ""},
		{"admin", root + "#", ""},
		{"admin", root + "vehicle/01216/ticket/01216-1", "may not read vehicle/ticket"},
		{"gateway", root + "vehicle/01216/ticket/+", ""},
		{"gateway", root + "vehicle/+/ticket/+", "may not read all"},
		{"third_party", root + "vehicle/+/ticket/+", "may not read vehicle/ticket"},
		{"operator", root + "vehicle/+/transactions/#", ""},
		{"third_party", root + "route/#", ""},
		{"third_party", root + "route/36/+", ""},
		{"third_party", root + "vehicle/+/fault/#", ""},
		{"third_party", root + "vehicle/01216/fault/+", ""},
		{"third_party", root + "event/+/opened", ""},
		{"third_party", root + "meta/#", ""},
		{"third_party", root + "vehicle/+/transactions/#", "may not read all"},
		{"third_party", root + "vehicle/#", "may not read all"},
		{"third_party", root + "vehicle/+/+/01216-1", "may not read all"},
		{"third_party", root + "machine/+/state", "may not read all"},
		{"settlement", root + "vehicle/+/transactions/#", ""},
		{"settlement", root + "vehicle/01216/transactions/01216-1/3-1-200", ""},
		{"settlement", root + "machine/+/state", ""},
		{"settlement", root + "vehicle/+/ticket/+", "may not read vehicle/ticket"}, // no grant opens it
		{"settlement", root + "machine/+/heartbeat", "may not read all"},
		{"settlement", root + "machine/a/x", "may not read all"},
		{"settlement", root + "report/+", ""},
		{"settlement", root + "report/#", "may not read all"},
		{"simulator", root + "vehicle/+/fault/+", ""},
		{"simulator", root + "vehicle/+/receipt/#", ""},
		{"simulator", root + "machine/+/heartbeat", "may not read all"},
		{"simulator", root + "#", "may not read all"},
		{"fleet", "", "want 1 to 256"},
		{"fleet", root + strings.Repeat("x", 256), "want 1 to 256"},
		{"fleet", root + "#/x", "+ and # stand alone, # last"},
		{"fleet", root + "route/3+", "+ and # stand alone, # last"},
		{"fleet", root + "route#", "+ and # stand alone, # last"},
	} {
		err := tr.MayRead(by[tc.who], tc.filter)
		if (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
			t.Errorf("%s reads %s: %v, want %q", tc.who, tc.filter, err, tc.err)
		}
	}
}

// TestMayReceive: what a wildcard of anybody matches besides is kept back where it is confidential.
func TestMayReceive(t *testing.T) {
	tr := newTree(t)
	all := topics.Identity{Role: topics.RoleThirdParty, Name: "settlement", Grants: []string{"#", "vehicle/+/ticket/#"}}
	for path, want := range rights(t) {
		if got := tr.Confidential(root + path); got != strings.Contains(path, "/ticket/") {
			t.Errorf("%s: confidential %t", path, got)
		}
		for i, id := range append(identities(), all) {
			letter := (want.read + "?")[max(0, strings.IndexByte(want.read, "MGFOAVTS?"[i])):][:1]
			may := tr.MayReceive(id, root+path) == nil
			if should := !strings.Contains(path, "/ticket/") || letter == "MGFOAVTS?"[i:i+1] && i < len(identities()); may != should {
				t.Errorf("%s to %s %q: %t, want %t", path, id.Role, id.Name, may, should)
			}
		}
	}
	for _, near := range []string{"vehicle/01216/ticket", "vehicle/01216/ticket/a/b", "vehicle/01216/tickets/a", "machine/01216/ticket/a", "", "vehicle"} {
		if tr.Confidential(root + near) {
			t.Errorf("%s is confidential", near)
		}
	}
	if tr.MayReceive(topics.Identity{Role: topics.RoleGateway, Name: "%"}, root+"vehicle/%/ticket/x") == nil {
		t.Error("a topic that is none was delivered")
	}
}

// TestNobody: an identity that was not filled in may do nothing.
func TestNobody(t *testing.T) {
	tr := newTree(t)
	for _, id := range []topics.Identity{{}, {Role: topics.RoleMachine}, {Role: topics.RoleGateway}, {Role: "root", Name: "x"}, {Role: topics.RoleGateway, Name: "+"}} {
		for path := range rights(t) {
			if err := tr.MayWrite(id, root+path); err == nil {
				t.Errorf("%+v writes %s", id, path)
			}
			if err := tr.MayRead(id, root+path); err == nil && path != "fleet" && path != "meta/asyncapi" { // no id in them
				t.Errorf("%+v reads %s", id, path)
			}
		}
		for _, f := range []string{root + "#", root + "vehicle/+/fault/+", root + "vehicle/+/receipt/#", root + "command/+/+"} {
			if tr.MayRead(id, f) == nil {
				t.Errorf("%+v reads %s", id, f)
			}
		}
	}
	if (topics.Tree{}).MayRead(topics.Identity{Role: topics.RoleFleet}, "farebeat") == nil {
		t.Error("a tree that New did not make lets read")
	}
}

func TestMayWriteSaysWhy(t *testing.T) {
	tr := newTree(t)
	for _, tc := range []struct {
		id          topics.Identity
		topic, want string
	}{
		{topics.Identity{Role: topics.RoleViewer, Name: "wall"}, "fleet", "role viewer may not write fleet"},
		{topics.Identity{Role: topics.RoleMachine, Name: "m1"}, "machine/m2/heartbeat", `the machine "m1" may write only below its own id`},
		{topics.Identity{Role: topics.RoleGateway, Name: "v1"}, "vehicle/v2/gateway", `the gateway "v1" may write only below its own id`},
		{topics.Identity{Role: topics.RoleFleet, Name: "fleet"}, "vehicle/v2/door", "not in the tree"},
	} {
		if err := tr.MayWrite(tc.id, root+tc.topic); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.topic, err, tc.want)
		}
	}
}

// matches is MQTT's rule for a filter and a topic, level by level.
func matches(filter, topic []string) bool {
	if len(filter) == 0 {
		return len(topic) == 0
	}
	if filter[0] == "#" {
		return true
	}
	return len(topic) > 0 && (filter[0] == "+" || filter[0] == topic[0]) && matches(filter[1:], topic[1:])
}

// TestMayReadIsContainment: a filter is allowed exactly if each topic that it can match is
// allowed, for every filter over the words of the tree.
func TestMayReadIsContainment(t *testing.T) {
	tr := newTree(t)
	words := []string{"vehicle", "01216", "01217", "fault", "transactions", "machine", "fleet", "route", "36", "event", "+", "#"}
	all := slices.DeleteFunc(slices.Clone(words), func(w string) bool { return w == "+" || w == "#" })
	all = append(all, "a-word-that-no-filter-has")
	ids := identities()
	ids[6].Grants = []string{"vehicle/+/transactions/#", "machine/36"}
	allowed := 0
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.SampledFrom(ids).Draw(t, "identity")
		filter := rapid.SliceOfN(rapid.SampledFrom(words), 1, 3).Draw(t, "filter")
		if i := slices.Index(filter, "#"); i >= 0 {
			filter = filter[:i+1]
		}
		may := tr.MayRead(id, root+strings.Join(filter, "/")) == nil
		every := true
		for topic := range sequences(all, 4) {
			if matches(filter, topic) && tr.MayRead(id, root+strings.Join(topic, "/")) != nil {
				every = false
				if may {
					t.Fatalf("%s may read %v, but not %v", id.Role, filter, topic)
				}
				break
			}
		}
		if every && !may {
			t.Fatalf("%s may not read %v, but all that it matches", id.Role, filter)
		}
		if may {
			allowed++
		}
	})
	if allowed == 0 {
		t.Error("nothing was allowed")
	}
}

// sequences yields every sequence of 1 to n words.
func sequences(words []string, n int) func(func([]string) bool) {
	var walk func(prefix []string, yield func([]string) bool) bool
	walk = func(prefix []string, yield func([]string) bool) bool {
		for _, w := range words {
			s := append(slices.Clip(prefix), w)
			if !yield(s) || len(s) < n && !walk(s, yield) {
				return false
			}
		}
		return true
	}
	return func(yield func([]string) bool) { walk(nil, yield) }
}

// FuzzMay: no topic or filter panics; what may be written is a topic of the tree.
func FuzzMay(f *testing.F) {
	for _, path := range slices.Sorted(maps.Keys(rights(f))) {
		f.Add(root+path, 1)
	}
	for i, s := range []string{"#", "+", root + "#", root + "vehicle/+/fault/#", "$SYS/#", "$share/g/" + root + "#", "", "\x00", root + "a/\xff"} {
		f.Add(s, i)
	}
	tr := newTree(f)
	f.Fuzz(func(t *testing.T, topic string, who int) {
		ids := identities()
		id := ids[(who%len(ids)+len(ids))%len(ids)]
		if tr.MayWrite(id, topic) == nil {
			if a, err := tr.Parse(topic); err != nil || id.Role == topics.RoleMachine && a.Machine != id.Name || id.Role == topics.RoleGateway && a.Vehicle != id.Name {
				t.Errorf("%s writes %q: %+v, %v", id.Role, topic, a, err)
			}
		}
		if tr.MayRead(id, topic) == nil && !strings.HasPrefix(topic, root) && topic+"/" != root {
			t.Errorf("%s reads %q", id.Role, topic)
		}
	})
}

func BenchmarkConfidential(b *testing.B) {
	tr := newTree(b)
	b.ReportAllocs()
	for b.Loop() {
		if tr.Confidential(root+"vehicle/01216/fault/01216-1") || !tr.Confidential(root+"vehicle/01216/ticket/01216-1") {
			b.Fatal("wrong")
		}
	}
}

func BenchmarkMayWrite(b *testing.B) {
	tr := newTree(b)
	id := topics.Identity{Role: topics.RoleGateway, Name: "01216"}
	b.ReportAllocs()
	for b.Loop() {
		if err := tr.MayWrite(id, root+"vehicle/01216/transactions/01216-1/3-1-200"); err != nil {
			b.Fatal(err)
		}
	}
}
