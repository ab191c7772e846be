package broker

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"github.com/farebeat/farebeat/topics"
)

func TestMaxHeartbeatIsTheTopicTables(t *testing.T) {
	spec, ok := topics.Lookup(topics.Heartbeat)
	if !ok || spec.MaxBytes != maxHeartbeat || spec.QoS != 0 || spec.Retain {
		t.Errorf("the table says %+v, the hook %d bytes", spec, maxHeartbeat)
	}
}

// An unknown name costs as much as a known one.
func TestUnknownUserIsCompared(t *testing.T) {
	if err := bcrypt.CompareHashAndPassword([]byte(unknownUser), []byte("x")); !errors.Is(err, bcrypt.ErrMismatchedHashAndPassword) {
		t.Errorf("compare: %v", err)
	}
	if cost, err := bcrypt.Cost([]byte(unknownUser)); err != nil || cost != bcrypt.DefaultCost {
		t.Errorf("cost %d: %v", cost, err)
	}
}

// slowMatches is MQTT 3.1.1, section 4.7, level by level.
func slowMatches(filter, topic []string) bool {
	if len(filter) == 0 {
		return len(topic) == 0
	}
	if filter[0] == "#" {
		return true
	}
	return len(topic) > 0 && (filter[0] == "+" || filter[0] == topic[0]) && slowMatches(filter[1:], topic[1:])
}

func FuzzMatches(f *testing.F) {
	for _, s := range [][2]string{{"a/#", "a"}, {"a/#", "a/b/c"}, {"+", "a/b"}, {"a/+", "a/"}, {"a/+/c", "a/b/c"}, {"a", "a/b"}, {"", ""}, {"+/#", "a"}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, filter, topic string) {
		if i := strings.Index(filter, "#"); i >= 0 && (i != len(filter)-1 || i > 0 && filter[i-1] != '/') {
			return // Mochi refuses it
		}
		if got, want := matches(filter, topic), slowMatches(strings.Split(filter, "/"), strings.Split(topic, "/")); got != want {
			t.Errorf("%q matches %q: %t, want %t", filter, topic, got, want)
		}
	})
}
