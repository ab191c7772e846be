package expect

import (
	"cmp"
	"slices"

	"github.com/farebeat/farebeat/fleet/expect/gtfs"
)

// Change is an hour of a route in which two feeds expect different numbers.
type Change struct {
	Date     gtfs.Date
	Route    string
	Hour     int // 0 to 23
	Old, New int // the most at once
}

// Comparison is how a feed differs from the one before it.
type Comparison struct {
	Dates   []gtfs.Date // that were compared
	Added   []string    // routes that only the new feed has, sorted
	Gone    []string    // routes that only the old feed has, sorted
	Changes []Change    // by date, route and hour
}

// Same reports that nothing differs.
func (c Comparison) Same() bool { return len(c.Added)+len(c.Gone)+len(c.Changes) == 0 }

// Compare tells on dates that both feeds cover how many vehicles old and next expect on each route.
func Compare(old, next *gtfs.Feed, dates []gtfs.Date) Comparison {
	c := Comparison{Dates: dates, Added: missingFrom(old.Routes(), next.Routes()), Gone: missingFrom(next.Routes(), old.Routes())}
	for _, date := range dates {
		type key struct {
			route string
			hour  int
		}
		numbers := map[key]*Change{}
		at := func(r RouteHour) *Change {
			k := key{r.Route, r.Hour}
			if numbers[k] == nil {
				numbers[k] = &Change{Date: date, Route: r.Route, Hour: r.Hour}
			}
			return numbers[k]
		}
		for _, r := range PerHour(old, date) {
			at(r).Old = r.Vehicles
		}
		for _, r := range PerHour(next, date) {
			at(r).New = r.Vehicles
		}
		var changes []Change
		for _, n := range numbers {
			if n.Old != n.New {
				changes = append(changes, *n)
			}
		}
		slices.SortFunc(changes, func(a, b Change) int {
			return cmp.Or(cmp.Compare(a.Route, b.Route), cmp.Compare(a.Hour, b.Hour))
		})
		c.Changes = append(c.Changes, changes...)
	}
	return c
}

// missingFrom lists those of names that have lacks. Both are sorted.
func missingFrom(have, names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		_, found := slices.BinarySearch(have, name)
		return found
	})
}
