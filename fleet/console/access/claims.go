package access

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/farebeat/farebeat/fleet/console/audit"
)

// claims are what a provider says of somebody, as JSON gives it.
type claims map[string]any

// trusted leaves out an email address that nobody has proved to own.
func (c claims) trusted() claims {
	if verified := c["email_verified"]; verified != true && verified != "true" {
		delete(c, "email")
	}
	return c
}

// fill adds what c lacks and more has.
func (c claims) fill(more claims) {
	for k, v := range more {
		if _, has := c[k]; !has {
			c[k] = v
		}
	}
}

// values are the texts of a claim, one or a list. Where no claim has the name, its dots lead into objects: realm_access.roles.
func (c claims) values(name string) []string {
	value, found := c[name]
	if !found {
		first, rest, deeper := strings.Cut(name, ".")
		inner, isObject := c[first].(map[string]any)
		if !deeper || !isObject {
			return nil
		}
		return claims(inner).values(rest)
	}
	switch v := value.(type) {
	case string:
		return []string{v}
	case []any:
		var out []string
		for _, x := range v {
			if text, ok := x.(string); ok {
				out = append(out, text)
			}
		}
		return out
	}
	return nil
}

// role is the highest that a value of the claim is listed for; ErrNoRole where there is none.
func (o OIDC) role(c claims) (Role, error) {
	have := c.values(o.Claim)
	listed := func(values []string) bool {
		return slices.ContainsFunc(have, func(v string) bool { return slices.Contains(values, v) })
	}
	switch {
	case listed(o.Admins):
		return Admin, nil
	case listed(o.Operators):
		return Operator, nil
	case listed(o.Viewers):
		return Viewer, nil
	case len(have) == 0:
		return "", fmt.Errorf("%w: the provider gave no text in the claim %q", ErrNoRole, o.Claim)
	}
	return "", fmt.Errorf("%w: none of the values of the claim %q is listed for one: %s", ErrNoRole, o.Claim, audit.Text(fmt.Sprintf("%q", have), 300))
}

var errNoName = errors.New("the provider gave neither preferred_username nor a proved email")

// person is the name under which audit and faults have somebody.
func (c claims) person() (string, error) {
	for _, claim := range []string{"preferred_username", "email"} {
		name, _ := c[claim].(string)
		if name == "" {
			continue
		}
		if name != audit.Text(name, audit.MaxName) {
			return "", fmt.Errorf("the provider's %s %.80q is not one line of at most %d bytes", claim, name, audit.MaxName)
		}
		return name, nil
	}
	return "", errNoName
}
