package notify

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/schemas"
)

// newAlertRig makes a rig with Alertmanagers instead of the webhook.
func newAlertRig(t *testing.T, names ...string) *rig {
	t.Helper()
	r := newRig(t)
	r.o.Webhooks = nil
	for _, name := range names {
		r.o.Alertmanagers = append(r.o.Alertmanagers, Alertmanager{Name: name, URL: "https://" + name, Authorization: "Bearer " + name})
	}
	return r
}

// alertsOf decodes a request.
func alertsOf(t *testing.T, q request) []alert {
	t.Helper()
	var out []alert
	if err := json.Unmarshal(q.body, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// taken lists what one Alertmanager took since the last call, short.
func (r *rig) taken(name string) []string {
	r.t.Helper()
	r.net.mu.Lock()
	defer r.net.mu.Unlock()
	var out []string
	r.net.got = slices.DeleteFunc(r.net.got, func(q request) bool {
		if q.url != "https://"+name+"/api/v2/alerts" {
			return false
		}
		for _, a := range alertsOf(r.t, q) {
			state := "ended"
			if a.EndsAt.After(q.at) {
				state = "fires"
				if want := q.at.Add(livesFor * time.Minute).Truncate(time.Millisecond); !a.EndsAt.Equal(want) {
					r.t.Errorf("ends at %s, want %s", a.EndsAt, want)
				}
			}
			out = append(out, fmt.Sprintf("%s %s %s", a.Labels["fault"], a.Labels["severity"], state))
		}
		return true
	})
	slices.Sort(out)
	return out
}

func (r *rig) wantAlerts(name string, want ...string) {
	r.t.Helper()
	if diff := cmp.Diff(want, r.taken(name)); diff != "" {
		r.t.Errorf("%s: %s", name, diff)
	}
}

func TestStateIsSentAgainAndAgainToAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newAlertRig(t, "am1", "am2")
		a := machineLife("a")
		r.save(a.opened()) // before we knew of Alertmanager: it stands all the same
		r.start()
		defer func() { r.kill() }()
		pass(time.Second)
		for _, name := range []string{"am1", "am2"} {
			r.wantAlerts(name, "a major fires")
		}
		r.save(newLife("b", faults.Subject{Route: "36"}, faults.RouteSilent, time.Now()).opened())
		pass(time.Second)
		r.wantAlerts("am1", "b critical fires") // at once, what changed
		pass(58 * time.Second)
		r.wantAlerts("am1", "a major fires", "b critical fires") // a minute after the first time
		pass(time.Minute)
		r.wantAlerts("am1", "a major fires", "b critical fires")
		r.save(a.closed())
		pass(time.Second)
		r.wantAlerts("am1", "a major ended")
		pass(time.Minute)
		r.wantAlerts("am1", "b critical fires")
		got := r.taken("am2")
		if want := []string{"a major ended", "a major fires", "a major fires", "b critical fires", "b critical fires", "b critical fires", "b critical fires"}; !cmp.Equal(got, want) {
			t.Errorf("am2: %q", got)
		}
		if err := r.n.Failure(); err != nil {
			t.Error(err)
		}
		if s := r.n.Status()[0]; s.Sent != 8 || s.Lag != 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestWhatAnAlertSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newAlertRig(t, "am")
		r.start()
		defer func() { r.kill() }()
		pass(time.Second)
		a := machineLife("a")
		opened := time.Now().UTC()
		r.save(a.change(faults.ChangeOpened, func(f *faults.Fault) { f.Reason = "No heartbeat \xff." }))
		pass(90 * time.Second)
		ended := time.Now().UTC()
		r.save(a.change(faults.ChangeClosed, func(f *faults.Fault) { f.Machine.Vehicle, f.Machine.Route = "v9", "" }))
		pass(time.Second)
		if len(r.net.got) != 3 { // when it opened, when all was due, and when it closed
			t.Fatalf("%d requests", len(r.net.got))
		}
		entry := faults.MachineSilent.Entry()
		first, last := r.net.got[0], r.net.got[2]
		want := alert{
			Labels: map[string]string{
				"alertname": "FarebeatCustody", "fault": "a", "machine": "m-a", "operator": "demo", "severity": "major", "vehicle": "v1", "route": "36",
			},
			Annotations: map[string]string{
				"summary": "Machine silent: machine m-a", "description": "No heartbeat \uFFFD.", "next_step": entry.NextStep, "kind": "machine_silent",
				"severity": "major", "condition": "open", "attention": "unseen", "vehicle": "v1", "route": "36",
			},
			StartsAt: opened, EndsAt: opened.Add(3 * time.Minute),
		}
		if diff := cmp.Diff([]alert{want}, alertsOf(t, first)); diff != "" {
			t.Error(diff)
		}
		want.EndsAt = ended
		want.Annotations["condition"], want.Annotations["vehicle"] = "closed", "v9"
		delete(want.Annotations, "route")
		if diff := cmp.Diff([]alert{want}, alertsOf(t, last)); diff != "" {
			t.Error(diff)
		}
		if first.header.Get("Authorization") != "Bearer am" || first.header.Get("Content-Type") != "application/json" {
			t.Errorf("%v", first.header)
		}
	})
}

// Whatever becomes of a fault, its labels are what they were; one that gets graver has one more alert.
func TestOneFaultStaysOneAlert(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newAlertRig(t, "am")
		r.start()
		a := newLife("a", faults.Subject{Machine: "m"}, faults.MachineUnsent, time.Now())
		name := func(kind faults.Kind) func(*faults.Fault) {
			return func(f *faults.Fault) { f.Kind, f.Severity = kind, kind.Entry().Severity }
		}
		labels := map[string]bool{}
		for _, c := range []struct {
			kind  faults.Kind
			alter func(*faults.Fault)
			want  int
		}{
			{faults.MachineUnsent, nil, 1},
			{faults.MachineFilling, func(f *faults.Fault) { f.Machine.Vehicle, f.Machine.Route = "v2", "7" }, 1},
			{faults.MachineSilent, nil, 2},
			{faults.MachineFull, nil, 3},
			{faults.MachineUnstable, func(f *faults.Fault) {
				f.Attention = faults.Attention{State: schemas.Acknowledged, By: "anna", At: time.Now()}
				f.Condition, f.Reason = schemas.Recovering, "another"
			}, 3},
		} {
			r.save(a.change(faults.ChangeUpdated, func(f *faults.Fault) {
				name(c.kind)(f)
				if c.alter != nil {
					c.alter(f)
				}
			}))
			r.kill()
			r.start() // a restart knows no more than the store
			pass(2 * time.Minute)
			for _, q := range r.net.got {
				for _, a := range alertsOf(t, q) {
					labels[fmt.Sprint(a.Labels)] = true
				}
			}
			if len(labels) != c.want {
				t.Errorf("after %s: %d alerts: %v", c.kind, len(labels), labels)
			}
		}
		r.net.got = nil
		r.save(a.closed())
		pass(time.Second)
		r.wantAlerts("am", "a critical ended", "a major ended", "a minor ended")
		r.kill()
	})
}

func TestWhatDoesNotStandIsEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newAlertRig(t, "am")
		r.start()
		defer func() { r.kill() }()
		lives := map[string]*life{}
		for _, id := range []string{"acked", "child", "given", "shelved"} {
			lives[id] = machineLife(id)
			r.save(lives[id].opened())
		}
		born := machineLife("born") // under a parent from its first moment
		r.save(born.change(faults.ChangeOpened, func(f *faults.Fault) { f.Parent = "P-1" }))
		pass(time.Second)
		r.wantAlerts("am", "acked major fires", "child major fires", "given major fires", "shelved major fires")
		attend := func(to schemas.Attention) func(*faults.Fault) {
			return func(f *faults.Fault) { f.Attention = faults.Attention{State: to, By: "anna", At: time.Now()} }
		}
		r.save(
			lives["acked"].change(faults.ChangeAcknowledged, attend(schemas.Acknowledged)), lives["shelved"].change(faults.ChangeShelved, attend(schemas.Shelved)),
			lives["child"].change(faults.ChangeUpdated, func(f *faults.Fault) { f.Parent = "P-1" }), lives["given"].change(faults.ChangeAbandoned, nil),
		)
		pass(time.Second)
		r.wantAlerts("am", "acked major fires", "child major ended", "given major ended", "shelved major ended")
		pass(time.Minute)
		r.wantAlerts("am", "acked major fires")
		r.save(
			born.change(faults.ChangeUpdated, func(f *faults.Fault) { f.Parent = "" }), lives["shelved"].change(faults.ChangeUpdated, attend(schemas.Unseen)),
			lives["child"].change(faults.ChangeUpdated, func(f *faults.Fault) { f.Parent = "" }),
		)
		pass(time.Second)
		r.wantAlerts("am", "born major fires", "child major fires", "shelved major fires")
		r.save(lives["child"].closed(), lives["child"].change(faults.ChangeReopened, nil))
		pass(time.Second)
		r.wantAlerts("am", "child major fires")
	})
}

// The end of a fault is sent until it is taken, whatever happens to us and to Alertmanager meanwhile.
func TestAnEndIsNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newAlertRig(t, "am")
		r.start()
		a := machineLife("a")
		r.save(a.opened())
		pass(time.Second)
		r.wantAlerts("am", "a major fires")
		for _, answer := range []answering{down, says(500), says(401), says(302)} {
			r.net.script(answer)
			if a.fault.ClosedAt.IsZero() {
				r.save(a.closed())
			}
			pass(20 * time.Minute)
			if err := r.n.Failure(); err == nil || !strings.Contains(err.Error(), "alertmanager am has taken no notification") {
				t.Error(err)
			}
			r.kill()
			r.start()
		}
		r.net.script(nil)
		pass(time.Minute)
		r.wantAlerts("am", "a major ended")
		r.kill()
		r.start()
		pass(5 * time.Minute)
		r.wantAlerts("am") // once it was taken, no more
		r.kill()
	})
}

// What an Alertmanager refuses for a day is set aside: it does not keep the end of other faults for ever.
func TestRefusedAlertsAreSetAside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newAlertRig(t, "am")
		r.start()
		defer func() { r.kill() }()
		r.net.script(func(q request) (int, http.Header, error) {
			if strings.Contains(string(q.body), `"m-bad"`) {
				return answered(400)
			}
			return answered(200)
		})
		bad := machineLife("bad")
		r.save(bad.opened(), bad.closed())
		pass(DefaultRefusedFor - time.Minute)
		if s := r.n.Status()[0]; s.SetAside != 0 || s.Failure == nil {
			t.Errorf("%+v", s)
		}
		pass(5 * time.Minute)
		r.save(machineLife("good").opened())
		pass(time.Second)
		// Where all that stands is sent at the same moment, it may come twice: Alertmanager takes it for one.
		if got := slices.Compact(r.taken("am")); !slices.Equal(got, []string{"good major fires"}) {
			t.Errorf("taken: %q", got)
		}
		if s := r.n.Status()[0]; s.SetAside != 2 || s.Failure != nil || s.Lag != 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestManyAlertsGoInParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newAlertRig(t, "am")
		r.start()
		defer func() { r.kill() }()
		var opened, closed []faults.Change
		for i := range 2*maxAlerts + 1 {
			l := machineLife(fmt.Sprintf("f%04d", i))
			opened, closed = append(opened, l.opened()), append(closed, l.closed())
		}
		r.save(opened...)
		pass(time.Second)
		if got := r.taken("am"); len(got) != len(opened) || strings.Contains(strings.Join(got, ","), "ended") {
			t.Errorf("%d alerts fire", len(got))
		}
		pass(time.Minute)
		sizes := map[int]int{}
		for _, q := range r.net.got {
			sizes[len(alertsOf(t, q))]++
		}
		if diff := cmp.Diff(map[int]int{500: 2, 1: 1}, sizes); diff != "" {
			t.Error(diff)
		}
		r.taken("am")
		r.save(closed...)
		pass(time.Second)
		if got := r.taken("am"); len(got) != len(closed) || strings.Contains(strings.Join(got, ","), "fires") {
			t.Errorf("%d alerts ended", len(got))
		}
	})
}

func TestAClockThatWasAheadMakesNoAlertThatIsRefused(t *testing.T) {
	now := time.Date(2026, 11, 23, 7, 0, 0, 0, time.UTC)
	f := faults.Fault{ID: "a", Kind: faults.Platform, OpenedAt: now.Add(time.Hour), UpdatedAt: now.Add(2 * time.Hour), ClosedAt: now.Add(2 * time.Hour)}
	for _, a := range alerts("demo", f, originOf(f, nil), now, now.Add(time.Minute)) {
		if a.EndsAt.After(now) || a.StartsAt.After(a.EndsAt) {
			t.Errorf("%+v", a)
		}
	}
}

func TestAlertNames(t *testing.T) {
	for family, want := range map[faults.Family]string{"custody": "FarebeatCustody", "rider_sense": "FarebeatRiderSense", "": "Farebeat", "_x": "FarebeatX"} {
		if got := alertName(family); got != want {
			t.Errorf("%q: %q", family, got)
		}
	}
}
