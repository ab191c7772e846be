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
	Grants []string // filters that a third party may read beyond its role, with the root or without
}

// owns reports whether an address is below the id of a machine or gateway. For other roles it
// always is. An identity without a name owns nothing.
func (id Identity) owns(a *Address) bool {
	switch id.Role {
	case RoleMachine:
		return id.Name != "" && a.Machine == id.Name
	case RoleGateway:
		return id.Name != "" && a.Vehicle == id.Name
	}
	return true
}

// MayWrite returns nil if the identity may publish on topic; else why not, in one sentence.
func (t Tree) MayWrite(id Identity, topic string) error {
	a, err := t.Parse(topic)
	if err != nil {
		return err
	}
	if r := t.row(a.Kind); !slices.Contains(r.Writers, id.Role) {
		return fmt.Errorf("topic %q: role %s may not write %s", topic, id.Role, a.Kind)
	}
	if !id.owns(&a) {
		return fmt.Errorf("topic %q: the %s %q may write only below its own id", topic, id.Role, id.Name)
	}
	return nil
}

// MayRead returns nil if everything that filter can match may be read by the identity;
// else why not. A topic is a filter that matches itself. Confidential topics do not count where
// a filter matches others as well: the broker keeps them back from whoever MayReceive refuses.
func (t Tree) MayRead(id Identity, filter string) error {
	if t.rows == nil {
		return fmt.Errorf("filter %q: the tree was not made by New", filter)
	}
	if err := CheckFilter(filter); err != nil {
		return err
	}
	for _, r := range *t.rows {
		if all, err := t.below(Address{Kind: r.Kind}); err == nil && r.Confidential && covers(all, filter) && !slices.Contains(r.Readers, id.Role) {
			return fmt.Errorf("filter %q: role %s may not read %s", filter, id.Role, r.Kind)
		}
	}
	for _, granted := range t.readable(id) {
		if covers(granted, filter) {
			return nil
		}
	}
	return fmt.Errorf("filter %q: role %s may not read all that it matches", filter, id.Role)
}

// Confidential reports whether a topic is one that only some of its subscribers may get.
func (t Tree) Confidential(topic string) bool {
	rest, ok := strings.CutPrefix(topic, t.root)
	if !ok || t.rows == nil {
		return false
	}
	for _, r := range *t.rows {
		if r.Confidential && matchesLevels(r.levels, rest) {
			return true
		}
	}
	return false
}

// matchesLevels reports whether a topic after the root is of a row, without looking at its identifiers.
func matchesLevels(levels []string, rest string) bool {
	for i, l := range levels {
		level, after, more := strings.Cut(rest, "/")
		if more != (i < len(levels)-1) || l[0] != '{' && l != level {
			return false
		}
		rest = after
	}
	return true
}

// MayReceive returns nil if a message on topic may be delivered to the identity, whose subscription it matches.
func (t Tree) MayReceive(id Identity, topic string) error {
	if !t.Confidential(topic) {
		return nil
	}
	a, err := t.Parse(topic)
	if err != nil {
		return err
	}
	if !slices.Contains(t.row(a.Kind).Readers, id.Role) || !id.owns(&a) {
		return fmt.Errorf("topic %q: the %s %q may not read it", topic, id.Role, id.Name)
	}
	return nil
}

// readable lists filters that together match what an identity may read.
func (t Tree) readable(id Identity) []string {
	var filters []string
	switch id.Role {
	case RoleFleet, RoleOperator, RoleAdmin, RoleViewer:
		return []string{t.root + "#"}
	case RoleThirdParty:
		filters = append(filters, t.root+"route/#", t.root+"meta/#")
		for _, g := range id.Grants {
			if CheckFilter(g) == nil { // else it would cover more than it seems to
				filters = append(filters, t.root+strings.TrimPrefix(g, t.root))
			}
		}
	case RoleMachine, RoleGateway:
		if id.Name == "" {
			return nil // an empty id would match any
		}
	}
	for _, r := range *t.rows {
		if !slices.Contains(r.Readers, id.Role) {
			continue
		}
		a := Address{Kind: r.Kind}
		if id.Role == RoleGateway {
			a.Vehicle = id.Name
		}
		if id.Role == RoleMachine {
			a.Machine = id.Name
		}
		if f, err := t.below(a); err == nil {
			filters = append(filters, f)
		}
	}
	return filters
}

// below is the filter of an address and all below it. New levels come at the end only, so what lies below is of the
// same kind; and where all of the last levels are free, "#" stands for them.
func (t Tree) below(a Address) (string, error) {
	f, err := t.Filter(a)
	for strings.HasSuffix(f, "/+") {
		f = strings.TrimSuffix(f, "/+")
	}
	return f + "/#", err
}

// CheckFilter checks a subscription filter by the rules of MQTT 3.1.1, section 4.7, and the bounds
// of the tree. Grants that it refuses grant nothing, so whoever reads them from a file asks it first.
func CheckFilter(filter string) error {
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

// covers reports whether every topic that inner matches is matched by outer, both of them filters
// below the root of a tree, so that no topic begins with $.
func covers(outer, inner string) bool {
	o, i := strings.Split(outer, "/"), strings.Split(inner, "/")
	for n, level := range o {
		if level == "#" {
			return true // matches the level above as well, see MQTT 3.1.1, 4.7.1.2
		}
		if n >= len(i) || i[n] == "#" || level != "+" && level != i[n] {
			return false
		}
	}
	return len(i) == len(o)
}
