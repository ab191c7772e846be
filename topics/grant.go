package topics

import (
	"fmt"
	"slices"
	"strings"
)

// Reach lists the topics some of whose messages a filter below the root can match, in the order of Specs; those that are confidential
// are not among them, for no filter opens them.
func Reach(filter string) []Spec {
	return slices.DeleteFunc(reach(filter), func(s Spec) bool { return s.Confidential })
}

func reach(filter string) (list []Spec) {
	if CheckFilter(filter) != nil {
		return nil
	}
	levels := strings.Split(filter, "/")
	for _, s := range Specs() {
		if meets(levels, strings.Split(s.Pattern, "/")) {
			list = append(list, s)
		}
	}
	return list
}

// meets reports whether some topic of a pattern is matched by a filter.
func meets(filter, pattern []string) bool {
	for i, f := range filter {
		if f == "#" {
			return true // also of the level above, which is the whole pattern then
		}
		if i >= len(pattern) || f != "+" && !mayStand(f, pattern[i]) {
			return false
		}
	}
	return len(filter) == len(pattern)
}

// mayStand reports whether a level of a topic is one of a level of a pattern.
func mayStand(level, of string) bool {
	return (&Address{}).set(of, level) == nil && (of[0] == '{' || of == level)
}

// CheckGrant says why a filter, which is without the root, is not to be granted to a third party: it is none, is outside of the tree, matches nothing
// in it, or also what is confidential. A grant that came by another way opens no more than Reach says.
func CheckGrant(filter string) error {
	if err := CheckFilter(filter); err != nil {
		return err
	}
	if strings.ContainsFunc(filter, func(r rune) bool { return r <= ' ' || r == ',' || r == 0x7f }) {
		return fmt.Errorf("filter %q: spaces, commas and control characters are percent-encoded in topics", filter)
	}
	if strings.HasPrefix(filter, "farebeat/") {
		return fmt.Errorf("filter %q: give it without farebeat/v1/{operator}/, such as vehicle/+/transactions/#", filter)
	}
	list := reach(filter)
	if len(list) == 0 {
		return fmt.Errorf("filter %q: matches no topic of the tree; docs/topics.md lists them", filter)
	}
	for _, s := range list {
		if s.Confidential {
			return fmt.Errorf("filter %q: also matches %s, which holds secrets and is delivered to nobody but its vehicle's gateway; name the topics that are meant, such as vehicle/+/transactions/#",
				filter, s.Pattern)
		}
	}
	return nil
}
