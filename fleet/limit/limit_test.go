package limit_test

import (
	"testing"
	"time"

	"github.com/farebeat/farebeat/fleet/limit"
)

func TestEachMinute(t *testing.T) {
	table, at := limit.EachMinute(), time.Date(2026, 11, 29, 5, 10, 0, 0, time.UTC)
	for _, x := range []struct {
		key   string
		after time.Duration
		due   bool
	}{
		{"a", 0, true},
		{"a", 0, false},
		{"b", time.Second, true},
		{"a", 59 * time.Second, false},
		{"a", time.Minute, true},
		{"b", time.Minute, false},
		{"b", time.Minute + time.Second, true},
		{"a", 30 * time.Second, false}, // the clock was set back
	} {
		if due := table.Due(x.key, at.Add(x.after)); due != x.due {
			t.Errorf("%s after %s: %t, want %t", x.key, x.after, due, x.due)
		}
	}
}
