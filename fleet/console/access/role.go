package access

import (
	"errors"
	"slices"
)

// Role is what somebody may do at the console.
type Role string

// The roles, each of which may do what the one before it may.
const (
	Viewer   Role = "viewer"   // look
	Operator Role = "operator" // act on faults, machines and gateways
	Admin    Role = "admin"    // change rules, and who may come in
)

// Roles lists the roles, lowest first.
func Roles() []Role { return []Role{Viewer, Operator, Admin} }

// Covers reports whether r may do what need may. An unknown role covers nothing and is covered by nothing.
func (r Role) Covers(need Role) bool {
	have, want := slices.Index(Roles(), r), slices.Index(Roles(), need)
	return have >= 0 && want >= 0 && have >= want
}

// lower is the role of the two that may do less; unknown where one of them is.
func lower(a, b Role) Role {
	switch {
	case a.Covers(b):
		return b
	case b.Covers(a):
		return a
	}
	return ""
}

// The ways in.
const (
	ViaPassword = "password"
	ViaOIDC     = "oidc"
	ViaToken    = "token"
	ViaOpen     = "open" // a loopback address that needs no sign-in
)

// Identity is who makes a request.
type Identity struct {
	Name string `json:"name"`           // who, as audit and faults name it; of a token its maker
	Role Role   `json:"role"`           // as of now
	Via  string `json:"via"`            // ViaPassword, ViaOIDC, ViaToken or ViaOpen
	Pass string `json:"pass,omitempty"` // public id of the session or token, empty for open
}

// ErrBadPassword says that there is no such user or that it has another password; nobody is told which.
var ErrBadPassword = errors.New("user name or password is wrong")

// Users is the users file. It is safe for concurrent use.
type Users interface {
	// Check returns the role of the user who knows the password, else ErrBadPassword. It takes as long for an unknown user.
	Check(name string, password []byte) (Role, error)
	// Role is a user's role as the file says now; false: there is no such user any more.
	Role(name string) (Role, bool)
}
