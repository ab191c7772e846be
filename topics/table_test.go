package topics_test

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/farebeat/farebeat/topics"
)

// actor is a column of the table of rights: an identity, the name of its column, and what it may read, in filters by hand.
type actor struct {
	name  string
	id    topics.Identity
	reads []string // after the root; together all that it may subscribe to, confidential topics aside
}

// actors are one of each role: the machine 01216-1, the gateway of its vehicle 01216, a third party without and one with grants,
// of which that to tickets must open nothing, and somebody without a role.
func actors() []actor {
	all := []string{"#"}
	public := []string{"route/#", "meta/#", "vehicle/+/fault/#", "fault/#", "event/#", "fleet/#"}
	grants := []string{"vehicle/+/transactions/#", root + "machine/01216-1/state", "vehicle/+/ticket/#"}
	return []actor{
		{"machine", topics.Identity{Role: topics.RoleMachine, Name: "01216-1"}, []string{"fleet/#", "meta/asyncapi/#"}},
		{"gateway", topics.Identity{Role: topics.RoleGateway, Name: "01216"}, []string{
			"vehicle/01216/fault/#", "vehicle/01216/receipt/#", "vehicle/01216/ticket/#", "command/01216/#", "fleet/#", "meta/asyncapi/#",
		}},
		{"fleet", topics.Identity{Role: topics.RoleFleet, Name: "fleet"}, all},
		{"operator", topics.Identity{Role: topics.RoleOperator, Name: "dispatcher"}, all},
		{"admin", topics.Identity{Role: topics.RoleAdmin, Name: "chief"}, all},
		{"viewer", topics.Identity{Role: topics.RoleViewer, Name: "wall"}, all},
		{"third_party", topics.Identity{Role: topics.RoleThirdParty, Name: "passenger-app"}, public},
		{
			"third_party with grants",
			topics.Identity{Role: topics.RoleThirdParty, Name: "settlement", Grants: grants},
			append(slices.Clone(public), "vehicle/+/transactions/#", "machine/01216-1/state"),
		},
		{"simulator", topics.Identity{Role: topics.RoleSimulator, Name: "city"}, []string{
			"vehicle/+/fault/#", "vehicle/+/receipt/#", "vehicle/+/ticket/#", "command/#", "fleet/#", "meta/asyncapi/#",
		}},
		{"nobody", topics.Identity{}, nil},
	}
}

// wholeTable is every right there is, written by hand from the design and not from Specs: p may publish, s may subscribe to the topic itself,
// w may subscribe to it for every id at once, r gets its messages. Columns as of actors.
const wholeTable = `
topic                                      machine gateway fleet operator admin viewer third granted simulator nobody
machine/01216-1/heartbeat                  p       -       swr   swr      swr   swr    -     -       p         -
machine/01217-1/heartbeat                  -       -       swr   swr      swr   swr    -     -       p         -
machine/01216-1/state                      -       -       pswr  swr      swr   swr    -     sr      -         -
machine/01217-1/state                      -       -       pswr  swr      swr   swr    -     -       -         -
vehicle/01216/gateway                      -       p       swr   swr      swr   swr    -     -       p         -
vehicle/01217/gateway                      -       -       swr   swr      swr   swr    -     -       p         -
vehicle/01216/fault/01216-1                -       sr      pswr  swr      swr   swr    swr   swr     swr       -
vehicle/01217/fault/01217-1                -       -       pswr  swr      swr   swr    swr   swr     swr       -
vehicle/01216/recovery/01216-1             -       p       swr   swr      swr   swr    -     -       p         -
vehicle/01217/recovery/01217-1             -       -       swr   swr      swr   swr    -     -       p         -
vehicle/01216/transactions/01216-1/3-1-200 -       p       pswr  swr      swr   swr    -     swr     p         -
vehicle/01217/transactions/01217-1/3-1-200 -       -       pswr  swr      swr   swr    -     swr     p         -
vehicle/01216/receipt/01216-1              -       sr      pswr  swr      swr   swr    -     -       swr       -
vehicle/01217/receipt/01217-1              -       -       pswr  swr      swr   swr    -     -       swr       -
vehicle/01216/ticket/01216-1               -       sr      pswr  -        -     -      -     -       swr       -
vehicle/01217/ticket/01217-1               -       -       pswr  -        -     -      -     -       swr       -
route/36/online                            -       -       pswr  swr      swr   swr    swr   swr     -         -
route/36/fault/R-1                         -       -       pswr  swr      swr   swr    swr   swr     -         -
fault/C-1                                  -       -       pswr  swr      swr   swr    swr   swr     -         -
report/hotline                             -       -       swr   pswr     pswr  swr    -     -       -         -
command/01216/c-7                          -       sr      pswr  pswr     pswr  swr    -     -       swr       -
command/01217/c-7                          -       -       pswr  pswr     pswr  swr    -     -       swr       -
command/01216/c-7/result                   -       psr     swr   swr      swr   swr    -     -       pswr      -
command/01217/c-7/result                   -       -       swr   swr      swr   swr    -     -       pswr      -
event/major/machine_silent                 -       -       pswr  swr      swr   swr    swr   swr     -         -
fleet                                      sr      sr      psr   sr       sr    sr     sr    sr      sr        -
meta/asyncapi                              sr      sr      psr   sr       sr    sr     sr    sr      sr        -
`

// line is a row of wholeTable.
type line struct {
	topic  string
	rights []string // one of each actor
}

func table(t testing.TB) []line {
	t.Helper()
	var lines []line
	for text := range strings.Lines(wholeTable) {
		words := strings.Fields(text)
		if len(words) == 0 || words[0] == "topic" {
			continue
		}
		if len(words) != 1+len(actors()) {
			t.Fatalf("%q: %d columns", text, len(words))
		}
		lines = append(lines, line{words[0], words[1:]})
	}
	return lines
}

// wildcards lists every filter of MQTT that matches a topic: each level as it is or +, cut off anywhere with #.
func wildcards(topic string) []string {
	levels := strings.Split(topic, "/")
	var out []string
	for n := range len(levels) + 1 {
		for choice := range 1 << n {
			var f []string
			for i := range n {
				if choice>>i&1 == 1 {
					f = append(f, "+")
				} else {
					f = append(f, levels[i])
				}
			}
			if n == len(levels) {
				out = append(out, strings.Join(f, "/"))
			}
			out = append(out, strings.Join(append(f, "#"), "/"))
		}
	}
	return out
}

// every is a topic's filter for all ids at once; the topic itself where it has no id.
func every(t testing.TB, tr topics.Tree, topic string) string {
	t.Helper()
	a, err := tr.Parse(topic)
	if err != nil {
		t.Fatal(err)
	}
	f, err := tr.Filter(topics.Address{Kind: a.Kind})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// probe asks for each right on a topic.
func probe(t testing.TB, tr topics.Tree, id topics.Identity, topic string) string {
	t.Helper()
	var got string
	if tr.MayWrite(id, topic) == nil {
		got += "p"
	}
	if tr.MayRead(id, topic) == nil {
		got += "s"
	}
	if f := every(t, tr, topic); f != topic && tr.MayRead(id, f) == nil {
		got += "w"
	}
	if tr.MayReceive(id, topic) == nil && slices.ContainsFunc(wildcards(topic), func(f string) bool { return tr.MayRead(id, f) == nil }) {
		got += "r"
	}
	if got == "" {
		return "-"
	}
	return got
}

// TestWholeTable is role x topic x action.
func TestWholeTable(t *testing.T) {
	tr := newTree(t)
	other, err := topics.New("tampa")
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[topics.Kind]bool{}
	for _, l := range table(t) {
		a, err := tr.Parse(root + l.topic)
		if err != nil {
			t.Fatal(err)
		}
		kinds[a.Kind] = true
		for i, who := range actors() {
			if got := probe(t, tr, who.id, root+l.topic); got != l.rights[i] {
				t.Errorf("%s, %s: %s, want %s", l.topic, who.name, got, l.rights[i])
			}
			if got := probe(t, other, who.id, other.Root()+l.topic); who.name != "third_party with grants" && got != l.rights[i] {
				t.Errorf("%s, %s: %s with another operator, want %s", l.topic, who.name, got, l.rights[i])
			}
			foreign := other.Root() + l.topic
			for _, f := range wildcards(foreign) {
				if tr.MayRead(who.id, f) == nil {
					t.Errorf("%s reads %s of another operator", who.name, f)
				}
			}
			if tr.MayWrite(who.id, foreign) == nil {
				t.Errorf("%s writes %s of another operator", who.name, foreign)
			}
		}
	}
	roles := map[topics.Role]bool{}
	for _, who := range actors() {
		roles[who.id.Role] = true
	}
	for _, s := range topics.Specs() {
		if !kinds[s.Kind] {
			t.Errorf("who may what on %s?", s.Kind)
		}
	}
	for _, r := range topics.Roles() {
		if !roles[r] {
			t.Errorf("what may %s?", r)
		}
	}
}

// TestWildcardsOfTheWholeTable asks for every filter that matches a topic of the table, from # on. What should be is from the filters by hand of
// actors; one of only tickets is for their readers.
func TestWildcardsOfTheWholeTable(t *testing.T) {
	tr := newTree(t)
	asked, allowed := map[string]bool{}, 0
	for _, l := range table(t) {
		for _, f := range wildcards(root + l.topic) {
			if asked[f] {
				continue
			}
			asked[f] = true
			for _, who := range actors() {
				want := within(who.reads, f)
				if r := who.id.Role; onlyTickets(f) && r != topics.RoleFleet && r != topics.RoleSimulator && r != topics.RoleGateway {
					want = false
				}
				if got := tr.MayRead(who.id, f) == nil; got != want {
					t.Errorf("%s may subscribe to %s: %t, want %t", who.name, f, got, want)
				} else if got {
					allowed++
				}
			}
		}
	}
	if len(asked) < 500 || allowed < 500 {
		t.Errorf("%d filters were asked for, %d allowed", len(asked), allowed)
	}
}

// within reports whether all that a filter can match is matched by one of list: words that stand nowhere else take the places of its wildcards.
func within(list []string, filter string) bool {
	rest, ok := strings.CutPrefix(filter, root)
	if !ok {
		return false
	}
	levels := strings.Split(rest, "/")
	for i, l := range levels {
		if l == "+" {
			levels[i] = "any"
		}
	}
	samples := [][]string{levels}
	if n := len(levels) - 1; levels[n] == "#" {
		samples = nil
		for more := range 3 {
			if n+more > 0 {
				samples = append(samples, append(slices.Clone(levels[:n]), slices.Repeat([]string{"any"}, more)...))
			}
		}
	}
	return slices.ContainsFunc(list, func(outer string) bool {
		for _, s := range samples {
			if !matches(strings.Split(outer, "/"), s) {
				return false
			}
		}
		return true
	})
}

func onlyTickets(filter string) bool {
	levels := strings.Split(strings.TrimPrefix(filter, root), "/")
	return len(levels) > 2 && levels[0] == "vehicle" && levels[2] == "ticket"
}

// TestRightsDocument keeps docs/acl.md what the tree says.
func TestRightsDocument(t *testing.T) {
	const file = "../docs/acl.md"
	want := []byte(rightsMD(t))
	if *update {
		if err := os.WriteFile(file, want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s is not what the tree grants (%v); run: go test ./topics -run TestRightsDocument -update", file, err)
	}
}

// rightsMD asks the tree about every row of the topic table, for one's own ids and for others'.
func rightsMD(t testing.TB) string {
	t.Helper()
	tr := newTree(t)
	var b strings.Builder
	b.WriteString(rightsHead)
	b.WriteString("| Topic after `farebeat/v1/{operator}/` | Whose |")
	for _, who := range actors() {
		fmt.Fprintf(&b, " %s |", strings.ReplaceAll(who.name, "_", "\\_"))
	}
	b.WriteString("\n|---|---|" + strings.Repeat("---|", len(actors())) + "\n")
	for _, s := range topics.Specs() {
		own := topics.Address{
			Kind: s.Kind, Machine: "01216-1", Vehicle: "01216", Route: "36", Fault: "F-1", Source: "hotline", Command: "c-7", Severity: "major", EventKind: "machine_silent",
			Batch: topics.BatchID{Epoch: 3, First: 1, Last: 200},
		}
		theirs := own
		theirs.Machine, theirs.Vehicle = "01217-1", "01217"
		b.WriteString(rightsRows(t, tr, s, own, theirs))
	}
	b.WriteString(rightsTail)
	return b.String()
}

// rightsRows are one or two rows of the document.
func rightsRows(t testing.TB, tr topics.Tree, s topics.Spec, own, theirs topics.Address) string {
	t.Helper()
	var b strings.Builder
	row := func(whose string, a topics.Address) {
		topic, err := tr.Build(a)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "| `%s` | %s |", s.Pattern, whose)
		for _, who := range actors() {
			fmt.Fprintf(&b, " %s |", strings.ReplaceAll(strings.ToUpper(probe(t, tr, who.id, topic)), "-", ""))
		}
		b.WriteString("\n")
	}
	if !strings.Contains(s.Pattern, "{machine}") && !strings.Contains(s.Pattern, "{vehicle}") {
		row("", own)
		return b.String()
	}
	row("own", own)
	row("another's", theirs)
	return b.String()
}

const rightsHead = `# Who may do what

<!-- Generated by asking the topic tree: go test ./topics -run TestRightsDocument -update -->

Every right that there is over MQTT. What is not here is refused, counted and logged ([topics.md](topics.md) says what a client sees of it). The broker asks
the same code for every publish, every subscription and every will, on every listener; a listener with ` + "`read_only`" + ` takes the P away from all.

- **P** may publish on it
- **S** may subscribe to the topic itself
- **W** may subscribe to it for all ids at once, such as ` + "`vehicle/+/fault/+`" + `
- **R** gets its messages

*Own* is of the machine or the vehicle that a machine or gateway was authenticated as; other roles have no ids of their own. *third\_party with grants* is one that was granted
` + "`vehicle/+/transactions/#`, `machine/{own}/state` and `vehicle/+/ticket/#`" + `; the last of them opens nothing. *nobody* is a client of which nothing is known.

`

const rightsTail = `
- **Wildcards**: a filter is granted if all that it can match may be read, and refused as a whole otherwise; it is never narrowed.
- **Tickets** hold secrets. Whoever reads everything may subscribe to ` + "`#`" + ` and gets all but them, live, retained, and what waited for a client that was away.
  A filter of nothing but tickets is refused to those who are not their readers, and no grant opens it ([why](decisions/0010-tickets-on-their-own-topic.md)).
- **Another operator's tree** is closed to everybody, in all actions: a process serves one operator ([why](decisions/0020-one-operator-a-process.md)).
- **A gateway** may write about any machine on its own vehicle's topics. What binds it to a machine is the ticket that it was given: the fleet looks at that
  ([why](decisions/0021-a-ticket-is-the-binding.md)).
- **Grants** are a third party's alone. They are kept in the users file: ` + "`farebeat feed grant`, `revoke` and `list`" + ` ([operations.md](operations.md)).
- **The simulator** speaks for any machine and gateway. The broker admits it only with ` + "`broker.allow_simulator`" + `, for test cities.
`
