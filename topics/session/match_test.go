package session

import (
	"strings"
	"testing"
)

// slowMatch is MQTT 3.1.1, section 4.7, level by level.
func slowMatch(filter, topic []string) bool {
	if len(filter) == 0 {
		return len(topic) == 0
	}
	if filter[0] == "#" {
		return true
	}
	return len(topic) > 0 && (filter[0] == "+" || filter[0] == topic[0]) && slowMatch(filter[1:], topic[1:])
}

func FuzzMatches(f *testing.F) {
	for _, s := range [][2]string{
		{"a", "a"},
		{"a/#", "a"},
		{"a/#", "a/b/c"},
		{"#", "$SYS/x"},
		{"+/x", "$SYS/x"},
		{"+", "a/b"},
		{"a/+", "a/"},
		{"a/+/c", "a/b/c"},
		{"a/b", "a"},
		{"a", "a/b"},
		{"", ""},
		{"/", "/"},
		{"+/+", "/"},
		{"a/b/#", "a"},
	} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, filter, topic string) {
		if checkFilter(filter, 0) != nil || topic == "" {
			return
		}
		want := slowMatch(strings.Split(filter, "/"), strings.Split(topic, "/"))
		if topic[0] == '$' && (filter[0] == '+' || filter[0] == '#') {
			want = false
		}
		if got := matches(filter, topic); got != want {
			t.Errorf("matches(%q, %q) = %t, want %t", filter, topic, got, want)
		}
	})
}
