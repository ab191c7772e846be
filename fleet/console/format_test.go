package console

import "testing"

func TestALinkLeavesOutWhatIsEmptyOnly(t *testing.T) {
	for _, c := range []struct {
		pairs []any
		want  string
	}{
		{nil, "/rules"},
		{[]any{"find", "", "hour", 8}, "/rules?hour=8"},
		{[]any{"hour", 0, "days", "workday"}, "/rules?hour=0&days=workday"}, // midnight is an hour, and a route may be called 0
		{[]any{"find", "a&b"}, "/rules?find=a%26b"},
	} {
		if got := link("/rules", c.pairs...); got != c.want {
			t.Errorf("%v: %s, want %s", c.pairs, got, c.want)
		}
	}
}

func TestAPagerLeadsToItsNeighbours(t *testing.T) {
	for _, c := range []struct {
		page          int
		before, after string
	}{
		{1, "", "/rules?hour=0&page=2"},
		{2, "/rules?hour=0&page=1", "/rules?hour=0&page=3"},
		{3, "/rules?hour=0&page=2", ""},
	} {
		p := pagerOf(c.page, 3, 250, "routes", "/rules", "hour", 0)
		if p.Before != c.before || p.After != c.after {
			t.Errorf("page %d leads to %q and %q, want %q and %q", c.page, p.Before, p.After, c.before, c.after)
		}
	}
}
