package topics_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/farebeat/farebeat/topics"
)

func TestCheckGrant(t *testing.T) {
	for _, tc := range []struct{ filter, reaches, err string }{
		{"vehicle/+/transactions/#", "vehicle/transactions", ""},
		{"vehicle/01216/transactions/+/3-1-200", "vehicle/transactions", ""},
		{"vehicle/01216/transactions/+/first", "", "matches no topic of the tree"},
		{"machine/+/+", "machine/heartbeat machine/state", ""},
		{"machine/#", "machine/heartbeat machine/state", ""},
		{"machine/V%2042/state", "machine/state", ""},
		{"machine/V%42/state", "", "matches no topic of the tree"}, // not our encoding
		{"report/+", "report", ""},
		{"command/#", "command command/result", ""},
		{"command/+/+/result/#", "command/result", ""},
		{"fleet/#", "fleet", ""},
		{"+/+/online", "route/online command event", ""}, // ids may be any word,
		{"+", "fleet", ""},
		{"+/+", "fault report meta/asyncapi", ""},
		{"vehicle", "", "matches no topic of the tree"},
		{"vehicles/#", "", "matches no topic of the tree"},
		{"vehicle/+/fault/+/x", "", "matches no topic of the tree"},
		{"/#", "", "matches no topic of the tree"},
		{"$SYS/#", "", "matches no topic of the tree"},
		{"$share/g/vehicle/+/fault/+", "", "matches no topic of the tree"},
		{"#", "", "also matches vehicle/{vehicle}/ticket/{machine}, which holds secrets"},
		{"vehicle/#", "", "also matches vehicle/{vehicle}/ticket/{machine}"},
		{"vehicle/01216/#", "", "also matches vehicle/{vehicle}/ticket/{machine}"},
		{"+/+/+/01216-1", "", "also matches vehicle/{vehicle}/ticket/{machine}"},
		{"vehicle/+/ticket/#", "", "also matches vehicle/{vehicle}/ticket/{machine}"},
		{"vehicle/01216/ticket/01216-1", "", "also matches vehicle/{vehicle}/ticket/{machine}"},
		{root + "vehicle/+/fault/#", "", "give it without farebeat/v1/{operator}/"},
		{"farebeat/v1/tampa/#", "", "give it without farebeat/v1/{operator}/"},
		{"machine/a b/state", "", "spaces, commas"},
		{"machine/+/state,report/+", "", "spaces, commas"},
		{"machine/+/state\n", "", "spaces, commas"},
		{"", "", "want 1 to 256"},
		{"machine/#/state", "", "# last"},
	} {
		err := topics.CheckGrant(tc.filter)
		if (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
			t.Errorf("%q: %v, want %q", tc.filter, err, tc.err)
		}
		if tc.err != "" {
			continue
		}
		var kinds []string
		for _, s := range topics.Reach(tc.filter) {
			kinds = append(kinds, string(s.Kind))
		}
		if got := strings.Join(kinds, " "); got != tc.reaches {
			t.Errorf("%q reaches %s, want %s", tc.filter, got, tc.reaches)
		}
	}
}

// FuzzGrant: what may be granted opens what Reach says, and never a ticket.
func FuzzGrant(f *testing.F) {
	for _, s := range []string{"vehicle/+/transactions/#", "#", "machine/01216-1/state", "+/+", "vehicle/+/+/01216-1", "report/hotline", "fleet/#", "a,b", "\x00", "%"} {
		f.Add(s)
	}
	tr := newTree(f)
	lines := table(f)
	public := actors()[6].id
	f.Fuzz(func(t *testing.T, filter string) {
		err := topics.CheckGrant(filter)
		reach := topics.Reach(filter)
		if err == nil && len(reach) == 0 {
			t.Errorf("%q may be granted and reaches nothing", filter)
		}
		id := topics.Identity{Role: topics.RoleThirdParty, Name: "x", Grants: []string{filter}}
		for _, l := range lines {
			a, parseErr := tr.Parse(root + l.topic)
			if parseErr != nil {
				t.Fatal(parseErr)
			}
			reached := slices.ContainsFunc(reach, func(s topics.Spec) bool { return s.Kind == a.Kind })
			opened := tr.MayRead(id, root+l.topic) == nil && tr.MayRead(public, root+l.topic) != nil
			if opened && !reached && !strings.HasPrefix(filter, root) {
				t.Errorf("%q opens %s, which it does not reach", filter, l.topic)
			}
			if a.Kind == topics.Ticket && (opened || reached || tr.MayReceive(id, root+l.topic) == nil) {
				t.Errorf("%q opens %s", filter, l.topic)
			}
		}
	})
}
