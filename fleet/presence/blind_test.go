package presence

import (
	"errors"
	"testing"
	"time"

	"github.com/farebeat/farebeat/fleet/counts"
	"github.com/farebeat/farebeat/schemas"
)

func TestOurBlindnessIsNobodysSilence(t *testing.T) {
	w := newWorld(time.Minute)
	w.Tick(at(0))
	for s := 0.0; s <= 600; s += 15 {
		w.Tick(at(s))
		w.beat(s, "a")
		w.beat(s, "b")
	}
	w.Tick(at(600))
	w.SetBlind(at(610), true)
	for _, id := range []string{"a", "b"} {
		w.SessionDown(at(611), id, "broker stopped")
	}
	for s := 610.0; s <= 1210; s++ {
		if ts := w.Tick(at(s)); len(ts) != 0 || !w.Blind(at(s)) {
			t.Fatalf("at %g s: blind %v, %v", s, w.Blind(at(s)), line(ts))
		}
	}
	w.SetBlind(at(1210), false)
	w.SessionUp(at(1240), "a")
	w.beat(1265, "a") // 55 s after sight came back
	for s := 1211.0; s < 1270; s++ {
		if ts := w.Tick(at(s)); len(ts) != 0 || !w.Blind(at(s)) {
			t.Fatalf("at %g s: blind %v, %v", s, w.Blind(at(s)), line(ts))
		}
	}
	w.wantTick(t, 1271, "1270 b UP>DARK no heartbeat for 1m11s and no gateway sees it")
	if w.Blind(at(1271)) {
		t.Error("blind after the warm-up")
	}
	w.beat(1280, "a")
	w.SessionDown(at(1281), "a", "reset") // the session counted before our blindness is not a second one
	w.wantTick(t, 1282, "1281 a UP>LATE its session with the broker was lost: reset")
}

func TestARestartIsNobodysSilence(t *testing.T) {
	w := newWorld(time.Minute)
	w.beat(0, "up", pending(4))
	w.beat(0, "dark", route("37"))
	w.beat(0, "rests", shutdown)
	w.SetOutOfService(at(0), "out", true, "smashed")
	w.LedgerProgress(at(0), "up", 1, 4)
	w.Seen(at(20), "bus7", "up", -70)
	w.beat(40, "up", pending(4))
	w.Tick(at(65))
	saved := w.Snapshot(at(66))
	state := w.board.AppendState(nil, at(66))

	b := counts.New(counts.Config{Start: at(1066), WarmUp: time.Minute})
	if err := b.RestoreState(at(1066), state); err != nil {
		t.Fatal(err)
	}
	r := &world{New(Config{}, b), b, w.seq}
	if err := r.Restore(at(1066), saved); err != nil {
		t.Fatal(err)
	}
	for s := 1066.0; s < 1126; s++ {
		r.wantTick(t, s)
	}
	v, _ := r.View("up")
	if v.State != schemas.Up || !v.Home() || v.Pending != 4 || v.SeenBy != "bus7" || v.LastHeartbeat != at(40) || v.Silence != 85*time.Second {
		t.Errorf("view %+v", v)
	}
	for id, want := range map[string]schemas.MachineCondition{"dark": schemas.Dark, "rests": schemas.Parked, "out": schemas.OutOfService} {
		if v, _ := r.View(id); v.State != want {
			t.Errorf("%s is %s after the restart, want %s", id, v.State, want)
		}
	}
	r.wantOnline(t, 1126, "36", 1, 0, 1)
	r.wantOnline(t, 1126, "37", 0, 0, 1)
	r.wantTick(t, 1127, "1126 up UP>STRANDED no heartbeat for 1m27s, but the gateway of vehicle bus7 sees it over BLE at -70 dBm: recovery works now")
	r.board.Minute(at(3600))
	for _, h := range r.board.Hours(at(3600)) {
		want := map[string]int{"36": 1, "37": 1}[h.Route]
		if h.Distinct != want || h.Heard != (6+3600-1066-60)*time.Second {
			t.Errorf("hour of %s: distinct %d, heard %s, want %d and 2480 s", h.Route, h.Distinct, h.Heard, want)
		}
	}
}

func TestRestoreRefusesNonsense(t *testing.T) {
	good := Saved{Machine: "a", State: schemas.Up}
	for want, saved := range map[string][]Saved{
		`presence: restore: entry 1, machine "b": state "GREEN" is none of the six`: {good, {Machine: "b", State: "GREEN"}},
		`presence: restore: entry 0, machine "": state "UP" is none of the six`:     {{State: schemas.Up}},
		`presence: restore: entry 1: machine "a" is there twice`:                    {good, good},
	} {
		w := newWorld(0)
		if err := w.Restore(noon, saved); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
		if n := w.Stats().Machines; n != 0 {
			t.Errorf("%d machines after an error", n)
		}
	}
	w := newWorld(0)
	w.beat(0, "a")
	if err := w.Restore(noon, nil); !errors.Is(err, ErrNotEmpty) {
		t.Errorf("%v, want ErrNotEmpty", err)
	}
}
