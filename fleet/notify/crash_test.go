package notify

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
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

// Who is ended in good order remembers what was taken, even at the last moment.
func TestAnEndInGoodOrderTellsNothingTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		a := machineLife("a")
		ended := make(chan struct{})
		stop := r.kill
		r.net.script(func(request) (int, http.Header, error) {
			go func() { stop(); close(ended) }()
			synctest.Wait() // it was told to end
			return answered(http.StatusOK)
		})
		r.save(a.opened())
		<-ended
		r.net.script(nil)
		r.start()
		r.save(a.closed())
		pass(time.Minute)
		r.kill()
		got, tries := r.net.ids()
		if want := []string{"a.1", "a.2"}; !slices.Equal(got, want) || tries != 2 {
			t.Errorf("%q in %d requests", got, tries)
		}
	})
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

// happening is one thing that happens to us.
type happening struct {
	What    string
	Fault   string
	Change  string // of the fault
	Parent  string
	Vehicle string
	Answers []string // of the receivers, in turn
	Seconds int
}

func happenings() *rapid.Generator[happening] {
	from := func(values ...string) *rapid.Generator[string] { return rapid.SampledFrom(values) }
	return rapid.Custom(func(t *rapid.T) happening {
		h := happening{What: from("change", "change", "change", "answers", "disk fails", "disk works", "time", "time", "kill").Draw(t, "what")}
		switch h.What {
		case "change":
			h.Fault, h.Parent, h.Vehicle = from("a", "b", "c").Draw(t, "fault"), from("", "", "P-1").Draw(t, "parent"), from("v1", "v2").Draw(t, "vehicle")
			h.Change = from("", faults.ChangeOpened, faults.ChangeUpdated, faults.ChangeClosed).Draw(t, "change")
		case "answers":
			h.Answers = rapid.SliceOfN(from("ok", "ok", "lost", "refused", "busy", "broken", "down"), 1, 5).Draw(t, "answers")
		case "time":
			h.Seconds = rapid.IntRange(0, 600).Draw(t, "seconds")
		}
		return h
	})
}

// Whatever receivers answer, whenever we are killed and whenever the disk fails: every event that is told of is delivered,
// in order, and each id is one event.
func TestAnyOrderOfAnswersAndKills(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		story := rapid.SliceOfN(happenings(), 1, 40).Draw(rt, "story")
		var p problems
		synctest.Test(t, func(t *testing.T) { live(t, &p, story) }) // nothing is drawn in the bubble, which has another goroutine
		for _, text := range p.list {
			rt.Error(text)
		}
	})
}

// problems gathers what went wrong.
type problems struct {
	mu   sync.Mutex
	list []string
}

func (p *problems) Errorf(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.list = append(p.list, fmt.Sprintf(format, args...))
}

// desks are two receivers that answer as they are told, in turn.
type desks struct {
	*problems
	mu        sync.Mutex
	answers   []string
	asked     int
	bodies    map[string]string   // by id
	delivered map[string][]string // ids by address
}

func (d *desks) tell(answers ...string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.answers = answers
}

func (d *desks) answer(q request) (int, http.Header, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	answer := d.answers[d.asked%len(d.answers)]
	d.asked++
	if body, ok := d.bodies[q.id]; ok && body != string(q.body) {
		d.Errorf("%s was another event before", q.id)
	}
	d.bodies[q.id] = string(q.body)
	if answer == "ok" || answer == "lost" {
		d.delivered[q.url] = append(d.delivered[q.url], q.id)
	}
	switch answer {
	case "ok":
		return answered(http.StatusOK)
	case "refused":
		return answered(http.StatusBadRequest)
	case "busy":
		return answered(http.StatusTooManyRequests, "Retry-After", "7")
	case "broken":
		return answered(http.StatusInternalServerError)
	}
	return 0, nil, errDown // "down"; or "lost": it was taken, and the answer was not heard
}

func live(t *testing.T, p *problems, story []happening) {
	r := newRig(t)
	b := &brittle{Store: r.store}
	r.o.Store = b
	w := r.o.Webhooks[0]
	w.Name, w.URL = "second", "https://second.example"
	r.o.Webhooks = append(r.o.Webhooks, w)
	r.o.RefusedFor, r.o.MaxAge = 1000*time.Hour, 1000*time.Hour // nothing may be left out
	d := &desks{problems: p, answers: []string{"ok"}, bodies: map[string]string{}, delivered: map[string][]string{}}
	r.net.script(d.answer)
	r.start()
	var broken atomic.Bool
	b.before = func() error {
		if broken.Load() {
			return errors.New("the disk failed")
		}
		return nil
	}
	lives := map[string]*life{"a": machineLife("a"), "b": machineLife("b"), "c": machineLife("c")}
	var want []string
	for _, h := range story {
		switch h.What {
		case "change":
			c := lives[h.Fault].change(h.Change, func(f *faults.Fault) { f.Parent, f.Machine.Vehicle = h.Parent, h.Vehicle })
			if c.Told() {
				want = append(want, c.Event.ID())
			}
			r.save(c)
		case "answers":
			d.tell(h.Answers...)
		case "disk fails", "disk works":
			broken.Store(h.What == "disk fails")
		case "time":
			pass(time.Duration(h.Seconds) * time.Second)
		case "kill":
			r.kill()
			r.start()
		}
	}
	d.tell("ok")
	broken.Store(false)
	pass(20 * time.Minute)
	r.kill()
	if len(want) > 0 && len(d.delivered) != 2 {
		p.Errorf("%d of 2 receivers heard anything", len(d.delivered))
	}
	for _, url := range slices.Sorted(maps.Keys(d.delivered)) {
		checkDelivered(p, d.delivered[url], want, len(want)*1000)
	}
}
