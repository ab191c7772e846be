package rules

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// watched is a rules file and the Live of it.
type watched struct {
	t    *testing.T
	path string
	live *Live
	now  time.Time
}

func newWatched(t *testing.T, text string) *watched {
	t.Helper()
	w := &watched{t: t, path: filepath.Join(t.TempDir(), "rules.yaml"), now: day}
	w.write(text)
	var err error
	if w.live, err = OpenLive(w.path, time.UTC, w.now); err != nil {
		t.Fatal(err)
	}
	return w
}

// write writes the file as of a time of its own, so that no two contents look alike.
func (w *watched) write(text string) {
	w.t.Helper()
	w.now = w.now.Add(time.Second)
	if err := os.WriteFile(w.path, []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Chtimes(w.path, w.now, w.now); err != nil {
		w.t.Fatal(err)
	}
}

// poll polls once, and says what came: "new", "" or the error.
func (w *watched) poll() string {
	w.now = w.now.Add(time.Second)
	before := w.live.Set()
	changed, err := w.live.Poll(w.now)
	if changed != (before != w.live.Set()) {
		w.t.Errorf("changed is %v, the set is another one: %v", changed, before != w.live.Set())
	}
	switch {
	case err != nil:
		return err.Error()
	case changed:
		return "new"
	}
	return ""
}

func (w *watched) want(polls ...string) {
	w.t.Helper()
	for i, want := range polls {
		if got := w.poll(); got != want && (want == "" || !strings.Contains(got, want)) {
			w.t.Errorf("poll %d: %q, want %q", i+1, got, want)
		}
	}
}

func (w *watched) minOnline() int { return w.live.Set().RuleAt("", 7, "hand").MinOnline }

func TestAChangedFileIsTakenAtTheSecondPoll(t *testing.T) {
	w := newWatched(t, "route: {min_online: 3}")
	w.want("", "")
	w.write("route: {min_online: 4}")
	w.want("", "new", "")
	if s := w.live.Status(); w.minOnline() != 4 || s.Loads != 2 || s.Err != nil || s.File != w.path || !s.LoadedAt.Equal(w.now.Add(-time.Second)) {
		t.Errorf("min_online %d, %+v", w.minOnline(), s)
	}
	for n := range 4 { // as long as somebody writes, nothing is read
		w.write(fmt.Sprintf("route: {min_online: %d", n+50))
		w.want("")
	}
	w.write("route: {min_online: 5}")
	w.want("", "new")
	w.write("# the same rules\nroute:\n  min_online: 5\n")
	before := w.live.Set()
	w.want("", "", "")
	if w.live.Set() != before || w.live.Status().Loads != 3 {
		t.Error("an equal file is another set")
	}
}

func TestAWrongFileKeepsTheOldRulesAndIsSaidOnce(t *testing.T) {
	w := newWatched(t, "route: {min_online: 3}")
	w.write("route: {min_online: 4}\nmachine: {silence: 0s}")
	w.want("", "rules.yaml: line 2: machine: silence: 0s is not between 1s and 24h; the rules stay as they were", "", "")
	if s := w.live.Status(); w.minOnline() != 3 || s.Err == nil || s.Loads != 1 {
		t.Errorf("min_online %d, %+v: nothing of a wrong file may hold", w.minOnline(), s)
	}
	w.write("route: {min_onlin: 4}")
	w.want("", `unknown key "min_onlin"`, "")
	w.write("")
	w.want("", "is empty; for the default rules write overrides: []", "")
	w.write("route: {min_online: 3}")
	w.want("", "")
	if s := w.live.Status(); s.Err != nil || w.minOnline() != 3 {
		t.Errorf("%+v: the file is right again", s)
	}
}

func TestAMissingFileKeepsTheOldRules(t *testing.T) {
	w := newWatched(t, "route: {min_online: 3}")
	away := w.path + ".away"
	move := func(from, to string) {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	move(w.path, away)
	w.want("no such file", "", "")
	if s := w.live.Status(); w.minOnline() != 3 || !errors.Is(s.Err, fs.ErrNotExist) {
		t.Errorf("min_online %d, %+v", w.minOnline(), s)
	}
	move(away, w.path)
	w.want("", "", "")
	if s := w.live.Status(); s.Err != nil || s.Loads != 1 {
		t.Errorf("%+v: it is back as it was", s)
	}
	move(w.path, away)
	w.want("no such file")
	w.write("route: {min_online: 4}")
	w.want("", "new")
	if err := os.Remove(w.path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(w.path, 0o755); err != nil {
		t.Fatal(err)
	}
	w.want("it is a folder", "")
	if w.minOnline() != 4 {
		t.Error("a folder took the rules away")
	}
}

func TestOpenLiveRefuses(t *testing.T) {
	if _, err := OpenLive(filepath.Join(t.TempDir(), "no.yaml"), time.UTC, day); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(bad, []byte("rout: 1"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenLive(bad, time.UTC, day); err == nil || !strings.Contains(err.Error(), "line 1") {
		t.Errorf("%v", err)
	}
	fixed := NewLive(Default(time.UTC))
	if changed, err := fixed.Poll(day); changed || err != nil || fixed.Set() == nil {
		t.Errorf("a set without a file changed: %v, %v", changed, err)
	}
}

func TestWatchLogsOnceAndEndsWithItsContext(t *testing.T) {
	w := newWatched(t, "route: {min_online: 3}")
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		ctx, cancel := context.WithCancel(t.Context())
		var watching sync.WaitGroup
		watching.Go(func() { w.live.Watch(ctx, 5*time.Second, time.Now, slog.New(slog.NewTextHandler(&log, nil))) })
		watching.Go(func() { NewLive(Default(time.UTC)).Watch(ctx, 5*time.Second, time.Now, slog.Default()) })
		pass := func() {
			time.Sleep(21 * time.Second)
			synctest.Wait()
		}
		pass()
		w.write("route: {off: maybe}")
		pass()
		w.write("route: {min_online: 4}\noverrides: [{routes: [a], off: true}]")
		pass()
		cancel()
		watching.Wait()
		if text := log.String(); strings.Count(text, "\n") != 2 || !strings.Contains(text, "level=ERROR") || !strings.Contains(text, "routes=1") || w.minOnline() != 4 {
			t.Errorf("min_online %d, log:\n%s", w.minOnline(), text)
		}
	})
}

func parsed(t testing.TB, text string) *Set {
	t.Helper()
	s, err := Parse("r", []byte(text), time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestReloadOfAnEqualFileChangesNothing(t *testing.T) {
	const text = "overrides: [{routes: ['36'], for: {m: 10, of: 10, every: 1m}}, {hours: ['07-09'], min_ratio: 0.9}]"
	one, two := newLine(t, 5*time.Second, 10, "hand"), newLine(t, 5*time.Second, 10, "hand")
	one.set, two.set = parsed(t, text), parsed(t, text)
	for i, clock := range []string{"07:20:00", "07:23:00", "07:26:00", "07:29:00", "07:40:00", "07:41:00"} {
		change := online(10 - 5*min(i, 1))
		if i > 4 {
			change = online(10)
		}
		one.until(clock, change)
		two.until(clock, change)
		two.set = parsed(t, "# "+clock+"\n"+text)
		if !reflect.DeepEqual(one.state, two.state) || !reflect.DeepEqual(one.history, two.history) {
			t.Errorf("until %s a reload changed\n%+v to\n%+v", clock, one.state, two.state)
		}
	}
	if len(one.history) == 0 {
		t.Error("nothing fired")
	}
}

func TestReloadToAStricterRuleNeedsItsFullFor(t *testing.T) {
	// Two of the three minutes that the stricter rule wants passed before it came.
	l := newLine(t, 5*time.Second, 10, "hand")
	l.set = parsed(t, "route: {min_online: 8, for: {m: 10, of: 10, every: 1m}}")
	l.until("07:20:00")
	l.until("07:27:00", online(5))
	l.set = parsed(t, "route: {min_online: 8, for: {m: 4, of: 4, every: 30s}}")
	l.until("07:40:00", online(5))
	l.want("07:29:00 route_below")

	// What was no breach is one now: from now on.
	l = newLine(t, 5*time.Second, 10, "hand")
	l.set = parsed(t, "route: {min_online: 4, for: {m: 3, of: 3, every: 1m}}")
	l.until("07:20:00", online(5))
	l.set = parsed(t, "route: {min_online: 8, for: {m: 3, of: 3, every: 1m}}")
	l.until("07:40:00", online(5))
	l.want("07:23:00 route_below")

	// Another route's rule is another matter.
	l = newLine(t, 5*time.Second, 10, "hand")
	l.set = minuteRule(t)
	l.until("07:20:00")
	l.until("07:27:00", online(5))
	before := l.set
	text, err := before.YAML()
	if err != nil {
		t.Fatal(err)
	}
	l.set = parsed(t, strings.Replace(string(text), "overrides:\n", "overrides:\n  - {routes: [other], off: true}\n", 1))
	if l.set.Equal(before) {
		t.Fatal("the sets are equal")
	}
	l.until("07:59:00", online(5))
	l.want("07:30:00 route_below")
}

func TestReloadClosesNothingByItself(t *testing.T) {
	l := newLine(t, 5*time.Second, 10, "hand")
	l.set = parsed(t, "route: {min_online: 8, keep_firing_for: 10m}")
	l.until("07:20:00")
	l.until("07:30:00", online(5))
	l.until("07:36:00", online(10)) // well for six minutes of ten
	l.set = parsed(t, "route: {min_online: 7, keep_firing_for: 5m}")
	l.until("08:00:00", online(10))
	l.want("07:20:30 route_below", "07:41:00 ")
	if l.state.Kind != "" || l.state.Rules == 0 {
		t.Errorf("%+v", l.state)
	}
	// To another threshold: the fault stands as long as the new rule says so.
	l = newLine(t, 5*time.Second, 10, "hand")
	l.set = parsed(t, "route: {min_online: 8}")
	l.until("07:20:00")
	l.until("07:30:00", online(5))
	l.set = parsed(t, "route: {min_online: 6}")
	l.until("07:40:00", online(5))
	l.until("07:50:00", online(7))
	l.want("07:20:30 route_below", "07:42:00 ")
}

// Another rule for causes begins none and ends none by itself: what fires ends when its machines are back.
func TestReloadOfTheCausesKeepsWhatFires(t *testing.T) {
	w := newTown(t, 60, nil)
	w.run(60)
	w.cut(true, func(c *cab) bool { return c.hb.Network == "B" })
	w.run(60)
	w.want(t, "network B true")
	w.set = parsed(t, "causes: {network: {off: true}, depot: {machines: 2, share: 0.1}}")
	w.run(600)
	w.want(t)
	w.cut(false, func(*cab) bool { return true })
	w.run(40)
	w.want(t, "network B false")
}

func TestStatesOfBeforeKeepTheirWindow(t *testing.T) {
	l := newLine(t, 5*time.Second, 10, "hand")
	l.set = minuteRule(t)
	l.until("07:20:00")
	l.until("07:27:00", online(5))
	l.state.Rules = 0 // as a program that did not note it stored it
	l.until("07:59:00", online(5))
	l.want("07:30:00 route_below")
}

// Whatever was online, and whatever the rules before: after a reload nothing opens sooner than the new `for`, and nothing
// closes sooner than the new keep_firing_for, counted from the reload.
func TestAReloadDecidesNothingByItself(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(name string) *Set {
			r, machine, platform, _ := defaults()
			r.MinOnline = rapid.IntRange(1, 10).Draw(t, name+" min_online")
			r.For.Of = rapid.IntRange(1, 8).Draw(t, name+" of")
			r.For.M = rapid.IntRange(1, r.For.Of).Draw(t, name+" m")
			r.For.Every = time.Duration(rapid.IntRange(1, 12).Draw(t, name+" every")) * 5 * time.Second
			r.KeepFiring = time.Duration(rapid.IntRange(0, 40).Draw(t, name+" keep")) * 5 * time.Second
			s, err := compile(time.UTC, r, machine, platform, nil)
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		before, after := draw("before"), draw("after")
		online := rapid.SliceOfN(rapid.IntRange(1, 12), 20, 60).Draw(t, "online")
		reload := rapid.IntRange(1, len(online)*6-1).Draw(t, "reload")
		var st RouteState
		var at time.Time
		fires := false
		for i := range len(online) * 6 { // each number for 30 s
			now, set := day.Add(time.Duration(i)*5*time.Second), before
			if i >= reload {
				set = after
			}
			if i == reload {
				at = now
			}
			in := RouteInput{Route: "a", Online: online[i/6], Known: 12, Expected: 12, ExpectedNow: 12, Lowest: 12, Source: "hand"}
			var v Verdict
			st, v = set.EvaluateRoute(now, in, st)
			if !before.Equal(after) && i >= reload && v.Firing != fires {
				rule := after.RuleAt("a", 7, "hand")
				if least := time.Duration(rule.For.M-1) * rule.For.Every; v.Firing && now.Sub(at) < least-time.Second {
					t.Fatalf("opened %v after the reload, its for takes %v", now.Sub(at), least)
				}
				if !v.Firing && now.Sub(at) < rule.KeepFiring {
					t.Fatalf("closed %v after the reload, its keep_firing_for is %v", now.Sub(at), rule.KeepFiring)
				}
				at = day.Add(-time.Hour) // only the first change is about the reload
			}
			fires = v.Firing
		}
	})
}
