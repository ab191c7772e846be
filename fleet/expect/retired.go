package expect

import "slices"

// Retired remembers routes that a timetable named once and its successor does not: nobody drives them any more, however
// well history knows them. Routes that no timetable ever named are history's.
type Retired struct {
	Named []string `json:"named"` // by the last timetable, sorted
	Gone  []string `json:"gone"`  // by an earlier one only, sorted
}

// After is what is to be remembered when a timetable names these routes.
func (r Retired) After(named []string) Retired {
	named = sortedSet(named)
	return Retired{Named: named, Gone: missingFrom(named, sortedSet(slices.Concat(r.Gone, r.Named)))}
}

// Keep forgets routes that are not known any more.
func (r Retired) Keep(known func(route string) bool) Retired {
	r.Gone = slices.DeleteFunc(slices.Clone(r.Gone), func(route string) bool { return !known(route) })
	return r
}

func sortedSet(names []string) []string {
	names = slices.Clone(names)
	slices.Sort(names)
	return slices.Compact(names)
}

// Named lists every route of the feed, whatever the date, sorted.
func (t *Timetable) Named() []string { return t.feed.Routes() }

// Named lists every route of the table, whatever the date, sorted.
func (t *Table) Named() []string {
	var all []string
	for _, routes := range t.routes {
		all = append(all, routes...)
	}
	return sortedSet(all)
}

// Knows reports whether history saw a route.
func (h *History) Knows(route string) bool { return h.routes[route] != nil }

// Without is the same history, which says nothing of some routes.
func (h *History) Without(routes []string) *History {
	other := *h
	other.silent = map[string]bool{}
	for _, route := range routes {
		other.silent[route] = true
	}
	for kind := range other.rosters {
		other.rosters[kind] = slices.DeleteFunc(slices.Clone(h.rosters[kind]), func(route string) bool { return other.silent[route] })
	}
	return &other
}
