package store_test

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/ledger/ledgertest"
	"github.com/farebeat/farebeat/fleet/store"
	"github.com/farebeat/farebeat/schemas"
)

// shownEvents is the order of events, short.
func shownEvents(t *testing.T, list []store.NumberedEvent, err error) (out []string) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		line := fmt.Sprintf("%d %s %s told=%v", e.N, e.Event.ID(), e.Event.Change, e.Told())
		if m := e.Fault.Machine; m != nil {
			line += " " + m.Vehicle + "/" + m.Route
		}
		out = append(out, line)
	}
	return out
}

func TestEventsComeInTheOrderInWhichTheyWereSaved(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if n, err := s.LastEvent(ctx); n != 0 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	on := func(id, vehicle, route, parent string, revision uint64) faults.Fault {
		return fault(id, 0, func(f *faults.Fault) {
			f.Revision, f.Parent, f.Machine = revision, parent, &faults.MachineFacts{Vehicle: vehicle, Route: route}
		})
	}
	z, a := event(on("z", "v1", "36", "", 1), 1, faults.ChangeOpened), event(on("a", "v2", "7", "P-1", 1), 1, faults.ChangeOpened)
	a.Event.Quiet = true
	saveFaults(t, s, z, a)
	saveFaults(t, s, faults.Change{Fault: on("z", "v9", "36", "", 2)}) // nobody is told of it
	freed, moved := event(on("a", "v2", "7", "", 2), 2, faults.ChangeUpdated), event(on("z", "v3", "8", "", 3), 2, faults.ChangeUpdated)
	saveFaults(t, s, freed, moved, z) // the first once more
	shut(t, s)
	s = open(t, dir)
	list, err := s.Events(ctx, 0, 10)
	want := []string{
		"1 z.1 opened told=true v1/36", "2 a.1 opened told=false v2/7", "3 a.2 updated told=true v2/7", "4 z.2 updated told=true v3/8",
	}
	if diff := cmp.Diff(want, shownEvents(t, list, err)); diff != "" {
		t.Error(diff)
	}
	if c := list[0].Change(); c.Event != z.Event || c.Fault.Subject != z.Fault.Subject || c.Fault.Revision != 3 {
		t.Errorf("%+v", c)
	}
	list, err = s.Events(ctx, 1, 2)
	if diff := cmp.Diff(want[1:3], shownEvents(t, list, err)); diff != "" {
		t.Error(diff)
	}
	list, err = s.EventsOf(ctx, "z")
	if diff := cmp.Diff([]string{want[0], want[3]}, shownEvents(t, list, err)); diff != "" {
		t.Error(diff)
	}
	if list, err := s.EventsOf(ctx, "nobody"); len(list) != 0 || err != nil {
		t.Errorf("%v, %v", list, err)
	}
	if n, err := s.LastEvent(ctx); n != 4 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
}

// What comes after a repair is numbered above all that was given out before, even if the file forgot some of it.
func TestARepairedStoreNumbersEventsAboveAllBefore(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	empty := filepath.Join(t.TempDir(), "fleet.db")
	none, err := store.Open(context.Background(), empty, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	shut(t, none)
	saveFaults(t, s, event(fault("a", 0, nil), 1, faults.ChangeOpened), event(fault("b", 0, nil), 1, faults.ChangeOpened))
	shut(t, s)
	for _, path := range []string{s.Path(), empty} {
		if _, err := store.Repair(ctx, path, ledgertest.Keys(t), store.Options{}); err != nil {
			t.Fatal(err)
		}
		s := open(t, filepath.Dir(path))
		before, err := s.LastEvent(ctx)
		if err != nil {
			t.Fatal(err)
		}
		closed := fault("c", 1, func(f *faults.Fault) { f.Condition, f.ClosedAt = schemas.Closed, noon().Add(time.Hour) })
		saveFaults(t, s, event(closed, 1, faults.ChangeClosed))
		if n, err := s.LastEvent(ctx); n < before+1<<32 || err != nil {
			t.Errorf("%d after %d, %v", n, before, err)
		}
	}
}
