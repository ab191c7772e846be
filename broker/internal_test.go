package broker

import (
	"errors"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

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

// deadlines writes down the read deadline.
type deadlines struct {
	net.Conn
	read time.Time
}

func (d *deadlines) SetReadDeadline(t time.Time) error { d.read = t; return nil }

// One and a half keep-alives, the longest as well: Mochi reckons modulo 65,536 s.
func TestKeepAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d deadlines
		c := newConn(&d, &d, nil, nil)
		if got := time.Until(d.read); got != connectTimeout {
			t.Errorf("before CONNECT: %s", got)
		}
		time.Sleep(time.Second)
		_ = c.SetDeadline(time.Now())
		if got := time.Until(d.read); got != connectTimeout-time.Second {
			t.Errorf("CONNECT was put off: %s", got)
		}
		for keepAlive, want := range map[time.Duration]time.Duration{
			time.Second: 1500 * time.Millisecond, 43_691 * time.Second: 65_536_500 * time.Millisecond, 65_535 * time.Second: 98_302_500 * time.Millisecond,
		} {
			c.keepAlive.Store(int64(keepAlive))
			_ = c.SetDeadline(time.Now())
			if got := time.Until(d.read); got != want {
				t.Errorf("keep-alive %s: deadline in %s, want %s", keepAlive, got, want)
			}
		}
		c.keepAlive.Store(0)
		if _ = c.SetDeadline(time.Now()); !d.read.IsZero() {
			t.Errorf("no keep-alive: %s", d.read)
		}
	})
}
