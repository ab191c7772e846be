package presence

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/schemas"
)

func nobody(*Brief) bool { return false }

func TestSurvey(t *testing.T) {
	w := newWorld(0)
	of := func(vehicle, depot, network string) func(*schemas.Heartbeat) {
		return func(hb *schemas.Heartbeat) {
			hb.Vehicle, hb.Depot, hb.Network, hb.Firmware = vehicle, depot, network, "2.4.1"
		}
	}
	w.beat(0, "a", of("1", "north", "A"))
	w.beat(0, "b", of("1", "north", "B"))
	w.beat(0, "c", of("2", "south", "A"))
	w.beat(0, "parked", of("2", "south", "A"), func(hb *schemas.Heartbeat) { hb.State = schemas.ReadyForShutdown })
	w.beat(40, "c", of("2", "north", "A")) // it moved
	w.Tick(at(50))
	group := func(d Dimension, name string) Group { return Group{d, name} }
	ask := func(q Question) (Survey, []string) {
		var wanted []string
		q.Want = func(b *Brief) bool { return b.Silence > 45*time.Second && !b.Parked }
		s := w.Survey(q, func(v View) { wanted = append(wanted, v.Machine+" "+v.Network) })
		return s, wanted
	}
	got, wanted := ask(Question{LostAfter: 45 * time.Second, FreshUntil: 60 * time.Second, Outages: map[Group]time.Time{group(ByDepot, "south"): noon, group(ByNetwork, "A"): at(-1)}})
	if diff := cmp.Diff(Tally{Known: 3, Lost: 2, Fresh: 2}, got.All); diff != "" {
		t.Error(diff)
	}
	want := map[Group]Tally{
		group(ByVehicle, "1"): {2, 2, 2, 0}, group(ByDepot, "north"): {3, 2, 2, 0}, group(ByNetwork, "A"): {2, 1, 1, 1}, group(ByNetwork, "B"): {1, 1, 1, 0},
		group(ByFirmware, "2.4.1"): {3, 2, 2, 0},
	}
	if diff := cmp.Diff(want, got.Groups); diff != "" {
		t.Error(diff)
	}
	if len(wanted) != 2 || len(got.Missing) != 2 || *got.Missing[0].Groups[ByVehicle] != group(ByVehicle, "1") || len(got.Names) != 0 {
		t.Errorf("wanted %v, missing %+v, names %v", wanted, got.Missing, got.Names)
	}
	w.Tick(at(70))
	got, _ = ask(Question{LostAfter: 45 * time.Second, FreshUntil: 60 * time.Second, Everyone: at(-1), Names: 1})
	if diff := cmp.Diff(Tally{Known: 3, Lost: 2, Since: 2}, got.All); diff != "" {
		t.Error(diff)
	}
	if len(got.Names["36"]) != 1 {
		t.Errorf("names %v, want one of two", got.Names)
	}
	// What a machine said of itself outlives a restart.
	again := newWorld(0)
	if err := again.Restore(at(70), w.Snapshot(at(70))); err != nil {
		t.Fatal(err)
	}
	again.Tick(at(70))
	restored := again.Survey(Question{LostAfter: 45 * time.Second, FreshUntil: 60 * time.Second, Everyone: at(-1), Names: 1, Want: nobody}, nil)
	if diff := cmp.Diff(got.Groups, restored.Groups); diff != "" {
		t.Error(diff)
	}
}
