package notify

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/store"
)

// brittle is a store whose cursor writes a test can stop.
type brittle struct {
	*store.Store
	before, after func() error // of a cursor's write; an error of before keeps it from being written
}

func (b *brittle) SetMeta(ctx context.Context, values map[string][]byte) error {
	if b.before != nil {
		if err := b.before(); err != nil {
			return err
		}
	}
	err := b.Store.SetMeta(ctx, values)
	if err == nil && b.after != nil {
		err = b.after()
	}
	return err
}

// The process is killed at every point of the way of every event, and started again: all arrive, in order, and what
// arrives twice has the same id.
func TestKilledAnywhereNothingIsLost(t *testing.T) {
	const events = 6
	points := []string{"before the request", "before the answer", "before the cursor's write", "after the cursor's write"}
	for point, name := range points {
		for nth := 1; nth <= events; nth++ {
			t.Run(fmt.Sprintf("%s of event %d", name, nth), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { killAt(t, point, nth, events) })
			})
		}
	}
}

func killAt(t *testing.T, point, nth, events int) {
	r := newRig(t)
	b := &brittle{Store: r.store}
	r.o.Store = b
	dead := false
	passed := 0
	at := func(here int) error {
		if here != point {
			return nil
		}
		if passed++; passed != nth {
			return nil
		}
		dead = true
		return errors.New("killed")
	}
	var got []string
	r.net.script(func(q request) (int, http.Header, error) {
		if err := at(0); err != nil {
			return 0, nil, err
		}
		got = append(got, q.id)
		if err := at(1); err != nil {
			return 0, nil, err
		}
		return answered(http.StatusNoContent)
	})
	r.start()
	b.before, b.after = func() error { return at(2) }, func() error { return at(3) }
	lives := []*life{machineLife("a"), machineLife("b")}
	var want []string
	for i := range events {
		c := lives[i%2].change(faults.ChangeUpdated, nil)
		want = append(want, c.Event.ID())
		r.save(c)
	}
	synctest.Wait()
	if !dead {
		t.Fatal("the point was never reached")
	}
	r.kill() // whatever it holds in memory is gone
	r.start()
	pass(2 * time.Minute)
	r.kill()
	checkDelivered(t, got, want, 1)
	if fresh := point == 0 || point == 3; fresh != (len(got) == len(want)) {
		t.Errorf("%d deliveries of %d events", len(got), len(want))
	}
}

// checkDelivered wants all of want, in order once what came again is left out, and no more of those than restarts.
func checkDelivered(t interface {
	Errorf(format string, args ...any)
}, got, want []string, again int,
) {
	seen := map[string]bool{}
	var once []string
	for _, id := range got {
		if !seen[id] {
			seen[id] = true
			once = append(once, id)
		}
	}
	if diff := cmp.Diff(want, once); diff != "" {
		t.Errorf("after leaving out what came again: %s", diff)
	}
	if len(got)-len(once) > again {
		t.Errorf("%d came again, want at most %d: %v", len(got)-len(once), again, got)
	}
	last := -1
	for _, id := range got { // what comes again is the last one
		if i := slices.Index(want, id); i < last {
			t.Errorf("%s came after a later one: %v", id, got)
		} else {
			last = i
		}
	}
}

// Whatever receivers answer, whenever we are killed and whenever the disk fails: every event that is told of is delivered,
// in order, and each id is one event.
func TestAnyOrderOfAnswersAndKills(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		synctest.Test(t, func(t *testing.T) { anyOrder(t, rt) })
	})
}

func anyOrder(t *testing.T, rt *rapid.T) {
	r := newRig(t)
	b := &brittle{Store: r.store}
	r.o.Store = b
	w := r.o.Webhooks[0]
	w.Name, w.URL = "second", "https://second.example"
	r.o.Webhooks = append(r.o.Webhooks, w)
	r.o.RefusedFor, r.o.MaxAge = 1000*time.Hour, 1000*time.Hour // nothing may be left out
	bodies := map[string]string{}
	delivered := map[string][]string{}
	answers := []string{"ok"}
	// Called by both channels, one at a time under the lock.
	respond := func(q request) (int, http.Header, error) {
		r.net.mu.Lock()
		defer r.net.mu.Unlock()
		answer := answers[len(r.net.tries)%len(answers)]
		if body, ok := bodies[q.id]; ok && body != string(q.body) {
			rt.Errorf("%s was another event before", q.id)
		}
		bodies[q.id] = string(q.body)
		switch answer {
		case "ok", "lost":
			delivered[q.url] = append(delivered[q.url], q.id)
		}
		switch answer {
		case "ok":
			return answered(200)
		case "refused":
			return answered(400)
		case "busy":
			return answered(429, "Retry-After", "7")
		case "broken":
			return answered(500)
		}
		return 0, nil, errDown // "down"; or "lost": it was taken, but the answer was not heard
	}
	r.net.script(respond)
	r.start()
	var disk error
	b.before = func() error { return disk }
	lives := map[string]*life{}
	var want []string
	rt.Repeat(map[string]func(*rapid.T){
		"change": func(rt *rapid.T) {
			id := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "fault")
			if lives[id] == nil {
				lives[id] = machineLife(id)
			}
			parent := rapid.SampledFrom([]string{"", "", "P-1"}).Draw(rt, "parent")
			name := rapid.SampledFrom([]string{"", faults.ChangeOpened, faults.ChangeUpdated, faults.ChangeClosed}).Draw(rt, "change")
			c := lives[id].change(name, func(f *faults.Fault) {
				f.Parent, f.Machine.Vehicle = parent, rapid.SampledFrom([]string{"v1", "v2"}).Draw(rt, "vehicle")
			})
			if c.Told() && parent == "" {
				want = append(want, c.Event.ID())
			}
			r.save(c)
		},
		"answers": func(rt *rapid.T) {
			r.net.mu.Lock()
			defer r.net.mu.Unlock()
			answers = rapid.SliceOfN(rapid.SampledFrom([]string{"ok", "ok", "lost", "refused", "busy", "broken", "down"}), 1, 5).Draw(rt, "answers")
		},
		"disk": func(rt *rapid.T) {
			synctest.Wait()
			if disk = nil; rapid.Bool().Draw(rt, "fails") {
				disk = errors.New("the disk failed")
			}
		},
		"time": func(rt *rapid.T) {
			pass(time.Duration(rapid.IntRange(0, 600).Draw(rt, "seconds")) * time.Second)
		},
		"kill": func(*rapid.T) {
			r.kill()
			failing := disk
			disk = nil // New reads only what is there
			r.start()
			disk = failing
		},
	})
	synctest.Wait()
	r.net.script(func(q request) (int, http.Header, error) {
		r.net.mu.Lock()
		answers = []string{"ok"}
		r.net.mu.Unlock()
		return respond(q)
	})
	disk = nil
	pass(20 * time.Minute)
	r.kill()
	for _, url := range slices.Sorted(maps.Keys(delivered)) {
		checkDelivered(rt, delivered[url], want, 1<<20)
	}
	if len(want) > 0 && len(delivered) != 2 {
		rt.Errorf("%d of 2 receivers heard anything", len(delivered))
	}
}
