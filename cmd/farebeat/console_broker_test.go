package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/fleet/console/view"
)

func TestLimitsThatWereMetAreShown(t *testing.T) {
	ignore := cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".Meaning" }, cmp.Ignore())
	for _, tc := range []struct {
		limited map[string]uint64
		want    []view.Counter
	}{
		{map[string]uint64{"sessions": 0, "payload": 0}, []view.Counter{{Name: "limits met"}}},
		{
			map[string]uint64{"slow_reader": 2, "payload": 0, "connect_bytes": 5},
			[]view.Counter{{Name: "limits met", Total: 7}, {Name: "limit: connect bytes", Total: 5}, {Name: "limit: slow reader", Total: 2}},
		},
	} {
		if diff := cmp.Diff(tc.want, limitsMet(tc.limited), ignore); diff != "" {
			t.Errorf("%v: %s", tc.limited, diff)
		}
	}
}
