package access

import "time"

// The parts of OpenID Connect that need no provider.
var (
	RoleOf = OIDC.role
	NameOf = func(c map[string]any) (string, error) { return claims(c).trusted().person() }
)

// ParseFlow tells whether a cookie is one of a sign-in on its way, and where that leads.
func ParseFlow(text string, now time.Time) (next string, ok bool) {
	f, ok := parseFlow(text, now)
	return f.next, ok
}
