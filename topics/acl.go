package topics

import (
	"fmt"
	"slices"
	"strings"
)

// Identity is who a connection was authenticated as.
type Identity struct {
	Role   Role
	Name   string   // the machine's or vehicle's id for those roles, else the user's name
	Grants []string // filters that a third party may read beyond its role, from the root on
}

// MayWrite returns nil if the identity may publish on topic; else why not, in one sentence.
func (t Tree) MayWrite(id Identity, topic string) error {
	a, err := t.Parse(topic)
	if err != nil {
		return err
	}
	spec, _ := Lookup(a.Kind)
	if !slices.Contains(spec.Writers, id.Role) {
		return fmt.Errorf("topic %q: role %s may not write %s", topic, id.Role, a.Kind)
	}
	if id.Role == RoleMachine && a.Machine != id.Name {
		return fmt.Errorf("topic %q: machine %q may write only its own", topic, id.Name)
	}
	if id.Role == RoleGateway && a.Vehicle != id.Name {
		return fmt.Errorf("topic %q: the gateway of vehicle %q may write only its own", topic, id.Name)
	}
	return nil
}

// MayRead returns nil if everything that filter can match may be read by the identity;
// else why not.
func (t Tree) MayRead(id Identity, filter string) error {
	if err := validFilter(filter); err != nil {
		return err
	}
	for _, granted := range t.readable(id) {
		if covers(granted, filter) {
			return nil
		}
	}
	return fmt.Errorf("filter %q: role %s may not read all that it matches", filter, id.Role)
}

// readable lists the filters of what an identity may read.
func (t Tree) readable(id Identity) []string {
	var filters []string
	switch id.Role {
	case RoleFleet, RoleOperator, RoleViewer:
		filters = append(filters, t.root+"#")
	case RoleThirdParty:
		filters = append(filters, t.root+"route/#", t.root+"event/#")
		for _, g := range id.Grants {
			filters = append(filters, t.root+strings.TrimPrefix(g, t.root))
		}
	}
	for _, spec := range Specs() {
		if !slices.Contains(spec.Readers, id.Role) {
			continue
		}
		a := Address{Kind: spec.Kind}
		if id.Role == RoleGateway {
			a.Vehicle = id.Name
		}
		if id.Role == RoleMachine {
			a.Machine = id.Name
		}
		if f, err := t.Filter(a); err == nil {
			// New levels come at the end only, so what lies below is covered, too.
			filters = append(filters, f+"/#")
		}
	}
	return filters
}

func validFilter(filter string) error {
	if filter == "" || len(filter) > MaxTopic {
		return fmt.Errorf("filter of %d bytes: want 1 to %d", len(filter), MaxTopic)
	}
	levels := strings.Split(filter, "/")
	for i, l := range levels {
		if strings.ContainsAny(l, "+#") && len(l) > 1 || l == "#" && i != len(levels)-1 {
			return fmt.Errorf("filter %q: + and # stand alone, # last", filter)
		}
	}
	return nil
}

// covers reports whether every topic that inner matches is matched by outer.
func covers(outer, inner string) bool {
	o, i := strings.Split(outer, "/"), strings.Split(inner, "/")
	for n, level := range o {
		if level == "#" {
			return true // matches the level above as well, see MQTT 4.7.1.2
		}
		if n >= len(i) {
			return len(o) == n+1 && level == "#"
		}
		if i[n] == "#" || level != "+" && level != i[n] {
			return false
		}
	}
	return len(i) == len(o)
}
