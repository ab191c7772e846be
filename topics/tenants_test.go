package topics_test

import (
	"crypto/x509"
	"net/url"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/farebeat/farebeat/topics"
)

// operators are names that are near each other: prefixes, case, what is encoded, and what looks like an encoding or a path.
func operators() []string {
	return []string{"hart", "hart2", "ha", "h", "Hart", "HART", "hart ", "hart%32", "%68art", "hart/", "hart/hart2", "har", "härt", "..", ".", "v1", "farebeat", "-", "hart.", "ha/rt"}
}

func trees(t testing.TB) []topics.Tree {
	t.Helper()
	var list []topics.Tree
	for _, name := range operators() {
		tr, err := topics.New(name)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, tr)
	}
	return list
}

// greedy are the actors, and a third party that was granted what is other operators', by any name.
func greedy(others ...string) []topics.Identity {
	var ids []topics.Identity
	for _, who := range actors() {
		ids = append(ids, who.id)
	}
	grants := []string{"#", "+/#", "+/+/#", "/#", "../#", "$SYS/#", "farebeat/#", "farebeat/v1/#", "farebeat/v1/+/#", "farebeat/v1/+/vehicle/#"}
	for _, r := range others {
		grants = append(grants, r+"#", r+"vehicle/#", "/"+r+"#", "../"+r+"#", r+"vehicle/+/fault/01216-1", strings.ToUpper(r)+"#")
	}
	return append(ids, topics.Identity{Role: topics.RoleThirdParty, Name: "greedy", Grants: grants})
}

// TestNoRightReachesAnotherOperator tries each identity of each operator on each topic of each other, and on every filter that matches it.
func TestNoRightReachesAnotherOperator(t *testing.T) {
	all := trees(t)
	roots := make([]string, len(all))
	for i, tr := range all {
		roots[i] = tr.Root()
	}
	lines, tried := table(t), 0
	for i, a := range all {
		others := slices.Delete(slices.Clone(roots), i, i+1)
		ids := greedy(others[:3]...)
		for j, b := range all {
			if i == j {
				continue
			}
			if strings.HasPrefix(b.Root(), a.Root()) {
				t.Fatalf("%s is within %s", b.Root(), a.Root())
			}
			for n, l := range lines {
				topic := b.Root() + l.topic
				if _, err := a.Parse(topic); err == nil {
					t.Fatalf("%s is of operator %q, too", topic, a.Operator())
				}
				if _, ok := a.HeartbeatMachine(topic); ok {
					t.Fatalf("%s is a heartbeat of operator %q, too", topic, a.Operator())
				}
				if (i+j+n)%4 > 0 {
					continue // each of the many pairs with a quarter of the topics
				}
				for _, id := range ids {
					tried++
					if a.MayWrite(id, topic) == nil || a.MayRead(id, topic) == nil {
						t.Errorf("%s %q of %q may on %s", id.Role, id.Name, a.Operator(), topic)
					}
				}
			}
			if (i+1)%len(all) != j {
				continue // the filters are many, and one neighbour is as near as the next
			}
			for _, f := range wildcards(b.Root() + "vehicle/01216/ticket/01216-1") {
				for _, id := range ids {
					if a.MayRead(id, f) == nil {
						t.Errorf("%s %q of %q may read %s", id.Role, id.Name, a.Operator(), f)
					}
				}
			}
		}
	}
	if tried < 25_000 {
		t.Errorf("only %d were tried", tried)
	}
}

// TestNoFilterReachesAnotherOperator: whatever filter and grant somebody thinks of, what is allowed matches no topic of another operator.
func TestNoFilterReachesAnotherOperator(t *testing.T) {
	all, lines := trees(t), table(t)
	words := append([]string{"", "+", "#", "farebeat", "v1", "vehicle", "machine", "fault", "ticket", "01216", "01216-1", "$SYS", "$share", "g", "%2F", "+hart", "Farebeat"}, operators()...)
	allowed := 0
	rapid.Check(t, func(t *rapid.T) {
		filter := rapid.Custom(func(t *rapid.T) string {
			start := rapid.SampledFrom([]string{"", "", "farebeat/v1/", "farebeat/v1/hart/", "farebeat/v1/hart2/", "farebeat/v1/+/", "/farebeat/v1/hart/", "$share/g/farebeat/v1/hart/"}).Draw(t, "start")
			return start + strings.Join(rapid.SliceOfN(rapid.SampledFrom(words), 1, 7).Draw(t, "levels"), "/")
		})
		a := rapid.SampledFrom(all).Draw(t, "operator")
		b := rapid.SampledFrom(all).Filter(func(b topics.Tree) bool { return b.Root() != a.Root() }).Draw(t, "other")
		ids := append(greedy(b.Root()), topics.Identity{Role: topics.RoleThirdParty, Name: "x", Grants: rapid.SliceOfN(filter, 1, 3).Draw(t, "grants")})
		for _, f := range rapid.SliceOfN(filter, 50, 50).Draw(t, "filters") {
			for _, id := range ids {
				if a.MayWrite(id, f) == nil && !strings.HasPrefix(f, a.Root()) {
					t.Fatalf("%s of %q writes %s", id.Role, a.Operator(), f)
				}
				if a.MayRead(id, f) != nil {
					continue
				}
				allowed++
				if !strings.HasPrefix(f+"/", a.Root()) {
					t.Fatalf("%s %v of %q reads %s", id.Role, id.Grants, a.Operator(), f)
				}
				for _, l := range lines {
					if matches(strings.Split(f, "/"), strings.Split(b.Root()+l.topic, "/")) {
						t.Fatalf("%s %v of %q reads %s, and with it %s of %q", id.Role, id.Grants, a.Operator(), f, l.topic, b.Operator())
					}
				}
			}
		}
	})
	if allowed == 0 {
		t.Error("nothing was allowed: the filters are not near enough")
	}
}

// TestNoCertificateReachesAnotherOperator: who an operator's certificate names is nobody to each other operator.
func TestNoCertificateReachesAnotherOperator(t *testing.T) {
	all := trees(t)
	for _, a := range all {
		for _, who := range actors() {
			if who.name == "nobody" {
				continue
			}
			uri, err := a.CertificateURI(who.id)
			if err != nil {
				t.Fatal(err)
			}
			again, err := url.Parse(uri.String()) // as it is read from a certificate
			if err != nil {
				t.Fatal(err)
			}
			for _, b := range all {
				id, err := b.CertificateIdentity(&x509.Certificate{URIs: []*url.URL{again}})
				if (err == nil) != (a.Operator() == b.Operator()) {
					t.Errorf("%s at operator %q: %+v, %v", uri, b.Operator(), id, err)
				}
			}
		}
	}
}
