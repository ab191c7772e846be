package presence

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/farebeat/farebeat/schemas"
)

// TestBoardAgreesWithTheMachines draws evidence in any order, and compares the board with
// the machines themselves, and transitions with states.
func TestBoardAgreesWithTheMachines(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(time.Duration(rapid.IntRange(0, 60).Draw(t, "warm-up")) * time.Second)
		told := map[string]schemas.MachineCondition{}
		now := 0.0
		for range rapid.IntRange(1, 120).Draw(t, "steps") {
			now += float64(rapid.SampledFrom([]int{0, 0, 1, 7, 15, 31, 61, 121}).Draw(t, "wait"))
			id := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "machine")
			act(t, w, now, id)
			if rapid.Bool().Draw(t, "tick") {
				checkTick(t, w, now, told)
			}
		}
		checkTick(t, w, now, told)
	})
}

func act(t *rapid.T, w *world, now float64, id string) {
	switch rapid.IntRange(0, 10).Draw(t, "act") {
	case 0, 1, 2:
		w.beat(now, id, route(rapid.SampledFrom([]string{"", "36", "37"}).Draw(t, "route")))
	case 3:
		w.beat(now, id, shutdown)
	case 4:
		w.SessionUp(at(now), id)
	case 5:
		w.SessionDown(at(now), id, "reset")
	case 6:
		w.Seen(at(now), "bus", id, -60)
	case 7:
		w.Gateway(at(now), "bus", rapid.Bool().Draw(t, "gateway"))
	case 8:
		w.SetBlind(at(now), rapid.Bool().Draw(t, "blind"))
	case 9:
		w.SetOutOfService(at(now), id, rapid.Bool().Draw(t, "out"), "why")
	case 10:
		w.DutyEnded(at(now), id)
	}
}

func checkTick(t *rapid.T, w *world, now float64, told map[string]schemas.MachineCondition) {
	for _, tr := range w.Tick(at(now)) {
		if told[tr.Machine] != tr.From || tr.From == tr.To {
			t.Fatalf("%s goes %s>%s, but was %s", tr.Machine, tr.From, tr.To, told[tr.Machine])
		}
		if tr.At.After(at(now)) {
			t.Fatalf("%s changes at %s, after %s", tr.Machine, tr.At, at(now))
		}
		told[tr.Machine] = tr.To
	}
	online, known := map[string]int{}, map[string]int{}
	r := w.sight.Read(at(now))
	judged := !r.Blind && r.Seeing > r.Returned+r.WarmUp // at the last instant of the warm-up nobody is judged yet
	w.Each(func(v View) {
		if told[v.Machine] != v.State {
			t.Fatalf("%s is %s, was told %s", v.Machine, v.State, told[v.Machine])
		}
		switch v.State {
		case schemas.Up, schemas.Late:
			online[v.Route]++
			known[v.Route]++
		case schemas.Stranded, schemas.Dark:
			known[v.Route]++
		}
		if v.State == schemas.Up && judged && v.Silence > w.limits.late {
			t.Fatalf("%s is UP after %s of silence", v.Machine, v.Silence)
		}
	})
	for _, r := range w.board.Rows(at(now)) {
		if r.Online != online[r.Route] || r.Known != known[r.Route] || r.Min > r.Online || r.Max < r.Online {
			t.Fatalf("board says %+v, machines say %d online, %d known", r, online[r.Route], known[r.Route])
		}
	}
}

func TestManyAtOnce(t *testing.T) {
	w := newWorld(0)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 2000 {
				id := fmt.Sprint("m", g, "-", i%50)
				now := at(float64(i) / 100)
				w.SessionUp(now, id)
				w.Heartbeat(now, id, &schemas.Heartbeat{Seq: uint64(i + 1), Boot: "b", At: now, Route: fmt.Sprint(i / 50 % 7), State: schemas.Running})
				w.Seen(now, fmt.Sprint("v", i%5), id, -60)
				w.LedgerProgress(now, id, 1, uint32(i))
				switch i % 100 {
				case 7:
					w.Gateway(now, fmt.Sprint("v", i%5), i%200 > 100)
				case 8:
					w.Tick(now)
					w.board.Minute(now)
				case 9:
					w.Survey(Question{Names: 5, Want: nobody}, nil)
					w.Snapshot(now)
				}
			}
		})
	}
	wg.Wait()
	w.Tick(at(21))
	total := 0
	for _, r := range w.board.Minute(at(21)) {
		total += r.Online
	}
	if s := w.Stats(); s.Machines != 400 || total != 400 || s.States[schemas.Up] != 400 {
		t.Errorf("stats %+v, %d on the board, want 400 UP", s, total)
	}
}
