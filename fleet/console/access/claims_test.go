package access_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/farebeat/farebeat/fleet/console/access"
)

func claimsOf(t testing.TB, text string) map[string]any {
	t.Helper()
	var c map[string]any
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestClaimsMakeRoles(t *testing.T) {
	for _, x := range []struct{ claim, claims, want string }{
		{"groups", `{"groups": ["staff", "depot"]}`, "operator"},
		{"groups", `{"groups": ["depot", "it", "control"]}`, "admin"},
		{"groups", `{"groups": "control"}`, "viewer"},
		{"groups", `{"groups": ["Depot"]}`, `none of the values of the claim "groups" is listed for one: ["Depot"]`},
		{"groups", `{"groups": []}`, `the provider gave no text in the claim "groups"`},
		{"groups", `{"groups": [1, null, {"it": true}, "depot"]}`, "operator"},
		{"groups", `{"groups": {"it": true}}`, `no text`},
		{"groups", `{}`, `no text`},
		{"realm_access.roles", `{"realm_access": {"roles": ["it"]}}`, "admin"},
		{"realm_access.roles", `{"realm_access.roles": "depot", "realm_access": {"roles": ["it"]}}`, "operator"},
		{"realm_access.roles", `{"realm_access": "it"}`, "no text"},
		{"https://city.example/role", `{"https://city.example/role": "it"}`, "admin"},
	} {
		o := access.OIDC{Claim: x.claim, Viewers: []string{"control", "staff"}, Operators: []string{"depot"}, Admins: []string{"it"}}
		role, err := access.RoleOf(o, claimsOf(t, x.claims))
		if err != nil && (!errors.Is(err, access.ErrNoRole) || role != "" || !strings.Contains(err.Error(), x.want)) || err == nil && string(role) != x.want {
			t.Errorf("%s of %s: %q, %v", x.claim, x.claims, role, err)
		}
	}
}

func TestClaimsMakeNames(t *testing.T) {
	for claims, want := range map[string]string{
		`{"preferred_username": "anna", "email": "a@city.example", "email_verified": true}`: "anna",
		`{"email": "a@city.example", "email_verified": true}`:                               "a@city.example",
		`{"email": "a@city.example", "email_verified": "true"}`:                             "a@city.example",
		`{"email": "a@city.example", "email_verified": false}`:                              "neither",
		`{"email": "a@city.example"}`:                                                       "neither",
		`{"preferred_username": ["anna"], "sub": "x"}`:                                      "neither",
		`{"preferred_username": "an\nna"}`:                                                  "one line",
		`{"preferred_username": "` + strings.Repeat("a", 129) + `"}`:                        "one line",
	} {
		name, err := access.NameOf(claimsOf(t, claims))
		if err != nil && (name != "" || !strings.Contains(err.Error(), want)) || err == nil && name != want {
			t.Errorf("%s: %q, %v", claims, name, err)
		}
	}
}

// FuzzFlow reads cookies that may be anybody's.
func FuzzFlow(f *testing.F) {
	now := time.Unix(1_800_000_000, 0)
	f.Add("next=%2Ffaults&nonce=n&state=s&until=1800000060&verifier=v")
	f.Add("next=%2F%2Fevil.example&nonce=n&state=s&until=1800000060&verifier=v")
	f.Add("until=9223372036854775807&state=%zz;")
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		next, ok := access.ParseFlow(text, now)
		if ok && next != access.LocalPath(next) {
			t.Errorf("%q leads to %q", text, next)
		}
		if _, later := access.ParseFlow(text, now.Add(11*time.Minute)); ok && later {
			t.Errorf("%q is good for more than ten minutes", text)
		}
	})
}
