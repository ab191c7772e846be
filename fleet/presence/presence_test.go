package presence

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/fleet/counts"
	"github.com/farebeat/farebeat/schemas"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func at(s float64) time.Time { return noon.Add(time.Duration(s * float64(time.Second))) }

// world is a presence with its board and a heartbeat counter per machine.
type world struct {
	*Presence
	board *counts.Board
	seq   map[string]uint64
}

func newWorld(warmUp time.Duration) *world {
	b := counts.New(counts.Config{Start: noon, WarmUp: warmUp})
	return &world{New(Config{}, b), b, map[string]uint64{}}
}

// beat sends the next heartbeat of a machine; edit may change it.
func (w *world) beat(s float64, id string, edit ...func(*schemas.Heartbeat)) {
	w.seq[id]++
	hb := schemas.Heartbeat{Seq: w.seq[id], Boot: "b1", At: at(s), Vehicle: "v-" + id, Route: "36", State: schemas.Running}
	for _, f := range edit {
		f(&hb)
	}
	w.Heartbeat(at(s), id, &hb)
}

func route(r string) func(*schemas.Heartbeat) { return func(h *schemas.Heartbeat) { h.Route = r } }

func shutdown(h *schemas.Heartbeat) { h.State = schemas.ReadyForShutdown }

func pending(n uint32) func(*schemas.Heartbeat) {
	return func(h *schemas.Heartbeat) { h.Pending, h.LastSeq, h.Epoch = n, n, 1 }
}

// line is what a transition says, short: seconds after noon, from, to, reason.
func line(ts []Transition) []string {
	var out []string
	for _, t := range ts {
		out = append(out, fmt.Sprintf("%g %s %s>%s %s", t.At.Sub(noon).Seconds(), t.Machine, t.From, t.To, t.Reason))
	}
	return out
}

func (w *world) wantTick(t *testing.T, s float64, want ...string) {
	t.Helper()
	if d := cmp.Diff(want, line(w.Tick(at(s)))); d != "" {
		t.Errorf("tick at %g s (-want +got):\n%s", s, d)
	}
}

func (w *world) wantOnline(t *testing.T, s float64, route string, online, late, known int) {
	t.Helper()
	for _, r := range w.board.Rows(at(s)) {
		if r.Route == route {
			if r.Online != online || r.Late != late || r.Known != known {
				t.Errorf("at %g s route %s: online %d late %d known %d, want %d %d %d", s, route, r.Online, r.Late, r.Known, online, late, known)
			}
			return
		}
	}
	if online+late+known > 0 {
		t.Errorf("at %g s route %s has no row", s, route)
	}
}

func TestSilenceBecomesLateThenDark(t *testing.T) {
	w := newWorld(0)
	w.beat(0, "a")
	w.wantTick(t, 0, "0 a >UP heartbeats arrive")
	w.wantTick(t, 30)
	w.wantTick(t, 30.5, "30 a UP>LATE no heartbeat for 31s, one is due every 15s")
	w.wantOnline(t, 31, "36", 1, 1, 1)
	w.wantTick(t, 60)
	w.wantOnline(t, 60, "36", 1, 1, 1)
	w.wantTick(t, 61, "60 a LATE>DARK no heartbeat for 1m1s and no gateway sees it")
	w.wantOnline(t, 61, "36", 0, 0, 1)
	if d := cmp.Diff(map[string][]string{"36": {"a"}}, w.Survey(Question{Names: 100, Want: nobody}, nil).Names); d != "" {
		t.Errorf("missing (-want +got):\n%s", d)
	}
	w.beat(90, "a")
	w.wantTick(t, 91, "90 a DARK>UP heartbeats arrive")
	w.wantOnline(t, 91, "36", 1, 0, 1)
}

func TestHeartbeatAtTheDeadlineIsInTime(t *testing.T) {
	w := newWorld(0)
	w.beat(0, "a")
	w.wantTick(t, 1, "0 a >UP heartbeats arrive")
	w.wantTick(t, 60, "30 a UP>LATE no heartbeat for 1m0s, one is due every 15s")
	w.beat(60, "a")
	w.wantTick(t, 61, "60 a LATE>UP heartbeats arrive")
	if h := w.board.Rows(at(61))[0]; h.Min != 1 || h.Max != 1 || h.Online != 1 {
		t.Errorf("row %+v, want it online all the time", h)
	}
}

func TestAGapWithoutATickCountsAllTheSame(t *testing.T) {
	w := newWorld(0)
	w.beat(0, "a")
	w.beat(3000, "a") // silent for 49 minutes, and nobody looked
	w.wantTick(t, 3000, "3000 a >UP heartbeats arrive")
	w.board.Minute(at(3600))
	if h := w.board.Hours(at(3600))[0]; h.Online != (60+600)*time.Second {
		t.Errorf("online for %s, want 660 s", h.Online)
	}
}

func TestGatewayThatSeesItMakesItStranded(t *testing.T) {
	w := newWorld(0)
	w.beat(0, "a", pending(17))
	w.Seen(at(50), "bus7", "a", -67)
	w.wantTick(t, 61, "60 a >STRANDED no heartbeat for 1m1s, but the gateway of vehicle bus7 sees it over BLE at -67 dBm: recovery works now")
	w.Gateway(at(70), "bus7", false)
	w.wantTick(t, 70, "70 a STRANDED>DARK no heartbeat for 1m10s and no gateway sees it")
	w.Gateway(at(80), "bus7", true)
	w.wantTick(t, 80)
	w.Seen(at(81), "bus7", "a", -60)
	w.wantTick(t, 81, "81 a DARK>STRANDED no heartbeat for 1m21s, but the gateway of vehicle bus7 sees it over BLE at -60 dBm: recovery works now")
	w.Seen(at(40), "bus9", "a", -20) // old news of another gateway
	if v, _ := w.View("a"); v.SeenBy != "bus7" || v.Vehicle != "v-a" || v.RSSI != -60 {
		t.Errorf("view %+v, want seen by bus7 at -60", v)
	}
	for s := 90.0; s <= 201; s += 15 {
		w.wantTick(t, s)
	}
	w.wantTick(t, 202, "202 a STRANDED>DARK no heartbeat for 3m22s and no gateway sees it")
}

// Our clock was a day ahead at the last sighting: the next one counts all the same.
func TestSightingOfAClockThatWasAhead(t *testing.T) {
	w := newWorld(0)
	w.beat(0, "a")
	w.Seen(at(24*3600), "bus7", "a", -67)
	w.Seen(at(50), "bus9", "a", -20)
	if v, _ := w.View("a"); v.SeenBy != "bus9" || !v.SeenAt.Equal(at(50)) {
		t.Errorf("seen by %q at %s, want bus9 at %s", v.SeenBy, v.SeenAt, at(50))
	}
}

func TestSightingsDoNotTouchAHealthyMachine(t *testing.T) {
	w := newWorld(0)
	w.beat(0, "a")
	w.Seen(at(1), "bus7", "a", -67)
	w.Gateway(at(2), "bus7", false)
	w.Seen(at(3), "bus7", "new", -67)
	w.Gateway(at(4), "bus7", true)
	w.wantTick(t, 5, "0 a >UP heartbeats arrive", "3 new >LATE no heartbeat yet, one is due every 15s")
	if v, _ := w.View("new"); v.SeenBy != "bus7" || !v.LastHeartbeat.IsZero() {
		t.Errorf("view %+v", v)
	}
}

func TestBrokenSessionShowsAtOnce(t *testing.T) {
	w := newWorld(0)
	w.SessionUp(at(0), "a")
	w.beat(1, "a")
	w.wantTick(t, 1, "1 a >UP heartbeats arrive")
	w.SessionUp(at(5), "a") // a takeover: the new one comes before the old one goes
	w.SessionDown(at(5), "a", "taken over")
	w.wantTick(t, 6)
	w.SessionDown(at(10), "a", "keep-alive ran out")
	w.wantTick(t, 10, "10 a UP>LATE its session with the broker was lost: keep-alive ran out")
	w.SessionUp(at(12), "a") // a session is no heartbeat
	w.wantTick(t, 12)
	w.beat(13, "a")
	w.wantTick(t, 13, "13 a LATE>UP heartbeats arrive")
	w.SessionDown(at(20), "a", "reset")
	w.wantTick(t, 74, "73 a UP>DARK no heartbeat for 1m1s and no gateway sees it")
	w.SessionDown(at(80), "nobody", "reset")
	if _, ok := w.View("nobody"); ok {
		t.Error("a session that ended made a machine")
	}
}

func TestPlannedSilenceIsRest(t *testing.T) {
	w := newWorld(0)
	w.beat(0, "a")
	w.beat(15, "a", shutdown, pending(3))
	ts := w.Tick(at(15))
	if d := cmp.Diff([]string{"15 a >PARKED it said readyForShutdown, with 3 transactions not yet sent"}, line(ts)); d != "" {
		t.Fatalf("(-want +got):\n%s", d)
	}
	if !ts[0].ParkedUnsent() {
		t.Error("parked with three transactions is no event")
	}
	w.SessionDown(at(16), "a", "closed")
	w.wantTick(t, 600)
	w.wantOnline(t, 600, "36", 0, 0, 0)
	w.beat(700, "a")
	w.wantTick(t, 700, "700 a PARKED>UP heartbeats arrive")
}

func TestSilenceAfterTheDutyIsRest(t *testing.T) {
	w := newWorld(0)
	for _, id := range []string{"rests", "works", "lost"} {
		w.beat(0, id)
	}
	w.beat(50, "rests")
	w.beat(50, "works")
	w.Tick(at(61))
	for _, id := range []string{"rests", "works", "lost", "nobody"} {
		w.DutyEnded(at(70), id)
	}
	w.wantTick(t, 111, "110 rests UP>PARKED it fell silent after its duty ended", "110 works UP>PARKED it fell silent after its duty ended")
	w.beat(112, "works") // it works on after all
	w.wantTick(t, 112, "112 works PARKED>UP heartbeats arrive")
	w.wantTick(t, 173, "172 works UP>DARK no heartbeat for 1m1s and no gateway sees it")
	if v, _ := w.View("lost"); v.State != schemas.Dark {
		t.Errorf("the machine that was lost before is %s, want DARK", v.State)
	}
}

func TestOutOfServiceIsCountedNowhere(t *testing.T) {
	w := newWorld(0)
	w.beat(0, "a")
	w.SetOutOfService(at(5), "a", true, "smashed")
	w.wantTick(t, 5, "5 a >OUT_OF_SERVICE taken out of service: smashed")
	w.beat(15, "a")
	w.SessionDown(at(16), "a", "reset")
	w.wantTick(t, 300)
	w.wantOnline(t, 300, "36", 0, 0, 0)
	if v, _ := w.View("a"); v.OutOfService != "smashed" || v.LastHeartbeat != at(15) {
		t.Errorf("view %+v", v)
	}
	w.SetOutOfService(at(310), "a", false, "")
	w.wantTick(t, 310, "75 a OUT_OF_SERVICE>DARK no heartbeat for 4m55s and no gateway sees it")
	w.beat(320, "a")
	w.wantTick(t, 320, "320 a DARK>UP heartbeats arrive")
}

func TestOldNewsChangesNothing(t *testing.T) {
	w := newWorld(0)
	w.seq["a"] = 10
	w.beat(0, "a")
	old := func(s float64, boot string, seq uint64) {
		w.Heartbeat(at(s), "a", &schemas.Heartbeat{Seq: seq, Boot: boot, At: at(-9e9), Vehicle: "x", Route: "99", State: schemas.ReadyForShutdown})
	}
	old(5, "b1", 11)
	old(5, "b1", 3)
	old(6, "b1", 4)
	old(7, "b1", 5)
	if v, _ := w.View("a"); v.State != schemas.Up || v.Route != "36" || v.Skew != 0 || v.LastHeartbeat != at(0) {
		t.Errorf("after old news: %+v", v)
	}
	w.Heartbeat(at(10), "a", &schemas.Heartbeat{Seq: 1, Boot: "b2", At: at(10), Route: "37", State: schemas.Running})
	old(11, "b1", 900)
	if v, _ := w.View("a"); v.Route != "37" || v.Vehicle != "v-a" {
		t.Errorf("the boot before changed %+v", v)
	}
	if s := w.Stats(); s.Stale != 5 || s.Heartbeats != 2 {
		t.Errorf("stats %+v, want 5 stale, 2 heartbeats", s)
	}
}

func TestCounterThatBeganAnewIsHeardAgain(t *testing.T) {
	w := newWorld(0)
	w.seq["a"] = 1000
	w.beat(0, "a")
	w.seq["a"] = 0 // a reboot that kept its boot name
	for s := 15.0; s <= 60; s += 15 {
		w.beat(s, "a")
	}
	if v, _ := w.View("a"); v.LastHeartbeat != at(45) && v.LastHeartbeat != at(60) {
		t.Errorf("last heard at %s, want it heard again", v.LastHeartbeat)
	}
	w.Heartbeat(at(70), "a", &schemas.Heartbeat{Seq: 1, Boot: "b2", At: at(70), State: schemas.Running})
	w.Heartbeat(at(200), "a", &schemas.Heartbeat{Seq: 1, Boot: "b1", At: at(200), State: schemas.Running}) // names are used again
	if v, _ := w.View("a"); v.LastHeartbeat != at(200) {
		t.Errorf("last heard at %s, want 200 s after noon", v.LastHeartbeat)
	}
}

func TestTheMachinesClockIsNotBelieved(t *testing.T) {
	w := newWorld(0)
	for i, clock := range []time.Time{{}, at(1e9), at(-1e9), time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)} {
		w.beat(float64(15*i), "a", func(h *schemas.Heartbeat) { h.At = clock })
	}
	w.wantTick(t, 46, "0 a >UP heartbeats arrive")
	if v, _ := w.View("a"); v.Skew < 50*365*24*time.Hour {
		t.Errorf("skew %s of a clock in the year 9999", v.Skew)
	}
}

func TestOnOneRouteOnly(t *testing.T) {
	w := newWorld(0)
	w.beat(0, "a")
	w.beat(15, "a", route("37"))
	w.wantOnline(t, 15, "36", 0, 0, 0)
	w.wantOnline(t, 15, "37", 1, 0, 1)
	w.beat(30, "a", route(""))
	w.wantOnline(t, 30, "37", 0, 0, 0)
	w.beat(45, "a", route("36"))
	w.Tick(at(200)) // dark on 36
	w.beat(200, "a", route("37"))
	w.wantOnline(t, 200, "36", 0, 0, 0)
	w.wantOnline(t, 200, "37", 1, 0, 1)
	if !w.Forget(at(201), "a") || w.Forget(at(202), "a") {
		t.Error("forget reports the wrong thing")
	}
	w.wantOnline(t, 203, "37", 0, 0, 0)
	if ts := w.Tick(at(400)); len(ts) != 0 {
		t.Errorf("a forgotten machine says %v", line(ts))
	}
}

func TestMovesAreReportedWhereWanted(t *testing.T) {
	b := counts.New(counts.Config{Start: noon})
	w := &world{New(Config{ReportMoves: true}, b), b, map[string]uint64{}}
	w.beat(0, "a")
	w.Tick(at(0))
	w.beat(15, "a", route("37"))
	ts := w.Tick(at(16))
	if len(ts) != 1 || ts[0].From != schemas.Up || ts[0].To != schemas.Up || ts[0].Route != "37" || ts[0].At != at(16) {
		t.Errorf("move reported as %+v", ts)
	}
}

func TestLedgerProgressNeverGoesBack(t *testing.T) {
	w := newWorld(0)
	w.LedgerProgress(at(0), "a", 3, 5) // before anyone heard of it
	w.LedgerProgress(at(0), "a", 2, 900)
	w.beat(1, "a", func(h *schemas.Heartbeat) { h.Epoch, h.LastSeq = 3, 6 })
	if v, _ := w.View("a"); v.Home() || v.LedgerEpoch != 3 || v.LedgerComplete != 5 {
		t.Errorf("view %+v, want 3/5 and not home", v)
	}
	w.LedgerProgress(at(2), "a", 3, 6)
	w.LedgerProgress(at(2), "a", 3, 4)
	if v, _ := w.View("a"); !v.Home() {
		t.Errorf("view %+v, want home", v)
	}
}

func TestMachinesAreBounded(t *testing.T) {
	b := counts.New(counts.Config{Start: noon})
	w := &world{New(Config{Shards: 3, MaxMachines: 40}, b), b, map[string]uint64{}}
	for i := range 1000 {
		w.beat(0, fmt.Sprint("m", i))
	}
	if s := w.Stats(); s.Machines < 40 || s.Machines > 100 || uint64(s.Machines)+s.Refused != 1000 {
		t.Errorf("stats %+v, want about 40 machines and the others refused", s)
	}
	if n := w.Config().Shards; n != 4 {
		t.Errorf("%d shards, want 4", n)
	}
	w.beat(0, "")
	if _, ok := w.View(""); ok {
		t.Error("a machine without a name is known")
	}
}

func TestHeartbeatOfAKnownMachineAllocatesNothing(t *testing.T) {
	w := newWorld(0)
	hb := schemas.Heartbeat{Boot: "b1", Vehicle: "v", Route: "36", State: schemas.Running}
	s := 0.0
	beat := func() {
		s++
		hb.Seq, hb.At = hb.Seq+1, at(s)
		w.Heartbeat(at(s), "a", &hb)
	}
	beat()
	if n := testing.AllocsPerRun(1000, beat); n != 0 {
		t.Errorf("%g allocations a heartbeat, want 0", n)
	}
}

// Since when a machine declares unsent transactions is by our clock, also over a restart.
func TestUnsentSince(t *testing.T) {
	w := newWorld(0)
	since := func() time.Time { v, _ := w.View("a"); return v.UnsentSince }
	w.beat(0, "a")
	if !since().IsZero() {
		t.Errorf("none is unsent, since %s", since())
	}
	w.beat(15, "a", pending(3))
	w.beat(30, "a", pending(5))
	if !since().Equal(at(15)) {
		t.Errorf("unsent since %s, want %s", since(), at(15))
	}
	saved := w.Snapshot(at(31))
	w = newWorld(0)
	if err := w.Restore(at(31), saved); err != nil || !since().Equal(at(15)) {
		t.Errorf("after a restart: unsent since %s, %v", since(), err)
	}
	w.seq["a"] = 10
	w.beat(45, "a", pending(0))
	if !since().IsZero() {
		t.Errorf("all is sent, since %s", since())
	}
}
