package notify

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/fleet/dispatch"
	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/schemas"
)

// wantTaken compares what the receiver took with ids.
func (r *rig) wantTaken(ids ...string) {
	r.t.Helper()
	got, _ := r.net.ids()
	if diff := cmp.Diff(ids, got); diff != "" {
		r.t.Error(diff)
	}
}

func TestEventsAreSignedAndComeInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		old := machineLife("old")
		r.save(old.opened()) // before the webhook was configured
		old2 := secret(t, 2)
		r.o.Webhooks[0].Secrets = append(r.o.Webhooks[0].Secrets, old2)
		r.start()
		defer func() { r.kill() }()
		a, b := machineLife("a"), newLife("b", faults.Subject{Route: "36"}, faults.RouteSilent, time.Now())
		opened := a.opened()
		r.save(opened, b.opened())
		pass(time.Second)
		r.save(old.closed(), b.change("", nil))
		pass(time.Second)
		r.wantTaken("a.1", "b.1", "old.2")
		q := r.net.got[0]
		for _, s := range []Secret{secret(t, 1), old2} {
			if err := Verify(s, q.header, q.body, time.Now()); err != nil {
				t.Error(err)
			}
		}
		if err := Verify(secret(t, 3), q.header, q.body, time.Now()); !errors.Is(err, ErrSignature) {
			t.Errorf("another secret: %v", err)
		}
		if got := q.header.Get("Content-Type"); got != contentType {
			t.Errorf("content type %q", got)
		}
		m, _, err := dispatch.New(tree(t), dispatch.Config{}).Event(opened)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(m.Payload), string(q.body)); diff != "" {
			t.Errorf("not what stands on the event topic: %s", diff)
		}
		if s := r.n.Status()[0]; s.Sent != 3 || s.Failed != 0 || s.Lag != 0 || s.Failure != nil {
			t.Errorf("%+v", s)
		}
	})
}

func TestWhatIsNotToldOnMQTTIsNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		a, b := machineLife("a"), machineLife("b")
		r.net.script(down)
		under := func(f *faults.Fault) { f.Parent = "P-1" }
		r.save(a.change(faults.ChangeOpened, under), b.opened())
		r.save(a.change(faults.ChangeUpdated, func(f *faults.Fault) { f.Parent = "" }), b.change(faults.ChangeUpdated, under))
		pass(time.Second)
		r.kill() // the same decision is taken after a restart, though both faults look otherwise now
		r.net.script(nil)
		r.start()
		defer func() { r.kill() }()
		pass(time.Second)
		r.wantTaken("b.1", "a.2", "b.2") // who heard that b opened hears on
	})
}

func TestFilter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		w := r.o.Webhooks[0]
		add := func(name string, change func(*Webhook)) {
			v := w
			v.Name, v.URL = name, "https://"+name
			change(&v)
			r.o.Webhooks = append(r.o.Webhooks, v)
		}
		r.o.Webhooks = nil
		add("major", func(w *Webhook) { w.MinSeverity = schemas.Major })
		add("clock", func(w *Webhook) { w.Kinds = []faults.Kind{faults.MachineClock} })
		add("36", func(w *Webhook) { w.Routes = []string{"36", "40"} })
		r.start()
		defer func() { r.kill() }()
		clock := newLife("clock", faults.Subject{Machine: "m"}, faults.MachineClock, time.Now())
		clock.fault.Machine.Route = "7"
		r.save(machineLife("silent").opened(), clock.opened(), newLife("r36", faults.Subject{Route: "36"}, faults.RouteBelow, time.Now()).opened(),
			newLife("r7", faults.Subject{Route: "7"}, faults.RouteSilent, time.Now()).opened())
		pass(time.Second)
		got := map[string][]string{}
		for _, q := range r.net.got {
			got[q.url] = append(got[q.url], q.id)
		}
		want := map[string][]string{"https://major": {"silent.1", "r36.1", "r7.1"}, "https://clock": {"clock.1"}, "https://36": {"silent.1", "r36.1"}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}

func TestWhoHearsOfAFaultHearsOfItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.o.Webhooks[0].MinSeverity, r.o.Webhooks[0].Routes = schemas.Critical, []string{"36"}
		r.start()
		a, b := newLife("a", faults.Subject{Machine: "m"}, faults.MachineFilling, time.Now()), machineLife("b")
		r.save(a.opened(), b.opened())
		r.save(a.change(faults.ChangeUpdated, func(f *faults.Fault) { f.Severity, f.Kind = schemas.Critical, faults.MachineFull }))
		pass(time.Second)
		r.kill()
		r.start()
		defer func() { r.kill() }()
		r.save(a.change(faults.ChangeUpdated, func(f *faults.Fault) { f.Severity, f.Kind, f.Machine.Route = schemas.Major, faults.MachineSilent, "7" }))
		r.save(a.closed(), b.closed())
		pass(time.Second)
		r.wantTaken("a.2", "a.3", "a.4")
	})
}

func TestACursorThatIsNoneIsNotPassedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		if err := r.store.SetMeta(context.Background(), map[string][]byte{"notify.webhook.desk": []byte("{")}); err != nil {
			t.Fatal(err)
		}
		if _, err := New(context.Background(), r.o); err == nil || !strings.Contains(err.Error(), "notify.webhook.desk") {
			t.Error(err)
		}
	})
}

// What is not taken is tried again, more and more rarely, and nothing overtakes it.
func TestAnOutageDelaysAndLosesNothing(t *testing.T) {
	for name, answer := range map[string]answering{
		"network": down, "503": says(503), "408": says(408), "425": says(425), "429": says(429), "404": says(404), "301": says(301, "Location", "https://elsewhere"),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				r.start()
				defer func() { r.kill() }()
				r.net.script(answer)
				r.save(machineLife("a").opened())
				pass(10 * time.Minute)
				r.save(machineLife("b").opened())
				if err := r.n.Failure(); err != nil {
					t.Errorf("after 10 min: %v", err)
				}
				pass(2 * time.Hour)
				_, tries := r.net.ids()
				if tries < 24 || tries > 80 { // 2 h in steps of 2.5 to 5 min, and a dozen before
					t.Errorf("%d tries", tries)
				}
				for i, q := range r.net.tries[1:] {
					if wait := q.at.Sub(r.net.tries[i].at); wait > maxWait || q.id != "a.1" {
						t.Errorf("try %d of %s after %s", i, q.id, wait)
					}
				}
				err := r.n.Failure()
				if err == nil || !strings.Contains(err.Error(), "webhook desk has taken no notification since") {
					t.Errorf("after two hours: %v", err)
				}
				if text := r.logged() + err.Error(); strings.Contains(text, "hidden") || strings.Count(text, "level=WARN") > 4 {
					t.Errorf("logged: %s", text)
				}
				if s := r.n.Status()[0]; s.Lag < 2*time.Hour || s.Failed < 24 {
					t.Errorf("%+v", s)
				}
				r.net.script(nil)
				pass(maxWait + time.Second)
				r.wantTaken("a.1", "b.1")
				if s := r.n.Status()[0]; s.Failure != nil || s.Lag != 0 || s.Sent != 2 {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}

func TestRetryAfterIsHonoured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		defer func() { r.kill() }()
		for _, id := range []string{"seconds", "date"} {
			value := map[string]string{"seconds": "1200", "date": time.Now().Add(20 * time.Minute).UTC().Format(http.TimeFormat)}[id]
			r.net.tries = nil
			r.net.script(says(503, "Retry-After", value))
			begun := time.Now()
			r.save(machineLife(id).opened())
			pass(time.Second)
			r.net.script(nil)
			pass(25 * time.Minute)
			if n := len(r.net.tries); n != 2 || r.net.tries[1].at.Sub(begun) < 20*time.Minute-time.Second {
				t.Errorf("%s: %d tries, the last after %s", value, n, r.net.tries[n-1].at.Sub(begun))
			}
		}
	})
}

func TestAReceiverThatIsGoneIsLeftAloneUntilItsConfigurationChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		r.net.script(says(410))
		a := machineLife("a")
		r.save(a.opened())
		pass(time.Hour)
		r.save(a.closed())
		pass(time.Hour)
		if _, tries := r.net.ids(); tries != 1 {
			t.Errorf("%d tries", tries)
		}
		if err := r.n.Failure(); err == nil || !strings.Contains(err.Error(), "410 Gone") {
			t.Error(err)
		}
		r.kill()
		r.net.script(nil)
		r.start() // nothing changed
		pass(time.Hour)
		if _, tries := r.net.ids(); tries != 1 {
			t.Errorf("%d tries after a restart", tries)
		}
		if err := r.n.Failure(); err == nil || !strings.Contains(err.Error(), "410 Gone") {
			t.Errorf("after a restart: %v", err)
		}
		r.kill()
		r.o.Webhooks[0].URL = "https://new.example/"
		r.start()
		defer func() { r.kill() }()
		pass(time.Minute)
		r.wantTaken("a.1", "a.2")
		if err := r.n.Failure(); err != nil {
			t.Error(err)
		}
	})
}

func TestWhatIsRefusedForTooLongIsSetAside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		defer func() { r.kill() }()
		r.net.script(func(q request) (int, http.Header, error) {
			if q.id == "bad.1" {
				return answered(422)
			}
			return answered(204)
		})
		r.save(machineLife("bad").opened(), machineLife("good").opened())
		pass(DefaultRefusedFor - time.Minute)
		r.wantTaken()
		pass(10 * time.Minute)
		r.wantTaken("good.1")
		if s := r.n.Status()[0]; s.SetAside != 1 || s.Sent != 1 || s.Skipped != 0 {
			t.Errorf("%+v", s)
		}
		if !strings.Contains(r.logged(), "event=bad.1") || !strings.Contains(r.logged(), "said 422") {
			t.Errorf("logged: %s", r.logged())
		}
	})
}

func TestWhatIsTooOldIsSkipped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		r.net.script(down)
		r.save(machineLife("a").opened())
		pass(DefaultMaxAge - time.Hour)
		r.save(machineLife("b").opened())
		r.kill()
		pass(2 * time.Hour)
		r.net.script(nil)
		r.start()
		defer func() { r.kill() }()
		pass(time.Minute)
		r.wantTaken("b.1")
		if s := r.n.Status()[0]; s.Skipped != 1 || s.Sent != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// What cannot be an event of the schemas is set aside at once: it would never be one.
func TestAnEventThatCannotBeMadeStopsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		defer func() { r.kill() }()
		r.save(newLife("bad", faults.Subject{Route: strings.Repeat("x", 1000)}, faults.RouteSilent, time.Now()).opened(), machineLife("good").opened())
		pass(time.Second)
		r.wantTaken("good.1")
		if s := r.n.Status()[0]; s.SetAside != 1 {
			t.Errorf("%+v", s)
		}
	})
}

func TestTest(t *testing.T) {
	net := &receiver{}
	o := Options{
		Tree: tree(t), Now: time.Now, Transport: net,
		Webhooks:      []Webhook{{Name: "desk", URL: "https://desk", Secrets: []Secret{secret(t, 1)}}},
		Alertmanagers: []Alertmanager{{Name: "am", URL: "http://am/", Authorization: "Bearer x"}},
	}
	for range 2 {
		a, err := Test(context.Background(), o, "desk")
		if err != nil || a != (Answer{200, "said 200"}) {
			t.Fatalf("%+v, %v", a, err)
		}
	}
	first, second := net.got[0], net.got[1]
	if first.id == second.id || !strings.Contains(string(first.body), TypeTest) {
		t.Errorf("%s, %s: %s", first.id, second.id, first.body)
	}
	if err := Verify(secret(t, 1), first.header, first.body, time.Now()); err != nil {
		t.Error(err)
	}
	if _, err := Test(context.Background(), o, "am"); err != nil {
		t.Error(err)
	}
	if q := net.got[2]; q.url != "http://am/api/v2/alerts" || q.header.Get("Authorization") != "Bearer x" || !strings.Contains(string(q.body), "FarebeatTest") {
		t.Errorf("%+v", q)
	}
	if _, err := Test(context.Background(), o, "nobody"); !errors.Is(err, ErrUnknown) {
		t.Error(err)
	}
	net.script(says(401))
	if a, err := Test(context.Background(), o, "desk"); a.Status != 401 || err == nil || err.Error() != "it answered 401 Unauthorized: said 401" {
		t.Errorf("%+v, %v", a, err)
	}
}
