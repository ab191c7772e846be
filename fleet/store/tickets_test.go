package store_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/fleet/ledger/ledgertest"
	"github.com/farebeat/farebeat/fleet/store"
	"github.com/farebeat/farebeat/fleet/tickets"
)

func ticket(machine, vehicle string, counter uint64) tickets.Ticket {
	return tickets.Ticket{
		Pair: tickets.Pair{Machine: machine, Vehicle: vehicle}, Counter: counter, IssuedAt: noon(), ExpiresAt: noon().Add(time.Hour),
		Reason: "F-1", Sealed: []byte{1, 2}, Fault: true,
	}
}

func listTickets(t testing.TB, s *store.Store, q tickets.Query) []tickets.Ticket {
	t.Helper()
	list, err := s.Tickets().List(ctx, q)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestTicketsComeBackAsTheyWere(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	a, b, c := ticket("m1", "v1", 7), ticket("m1", "v2", 9), ticket("m2", "v1", 1<<50)
	b.Fault, b.FarewellUntil, b.CommandUntil = false, noon().Add(time.Hour), noon().Add(time.Minute)
	if err := s.Tickets().Save(ctx, c, b, a); err != nil {
		t.Fatal(err)
	}
	old := a
	old.Counter, old.Reason = 6, "older"
	gone := c
	gone.Sealed, gone.Fault = nil, false
	if err := s.Tickets().Save(ctx, old, gone); err != nil {
		t.Fatal(err)
	}
	if err := s.Tickets().Save(ctx); err != nil {
		t.Fatal(err)
	}
	shut(t, s)
	s = open(t, dir)
	gone.Sealed = []byte{}
	opts := cmp.Comparer(func(x, y []byte) bool { return string(x) == string(y) })
	if diff := cmp.Diff([]tickets.Ticket{a, b, gone}, listTickets(t, s, tickets.Query{}), opts); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]tickets.Ticket{a, b}, listTickets(t, s, tickets.Query{Machine: "m1"}), opts); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]tickets.Ticket{b}, listTickets(t, s, tickets.Query{Vehicle: "v2"}), opts); diff != "" {
		t.Error(diff)
	}
	if listTickets(t, s, tickets.Query{Machine: "m2"})[0].Stands() {
		t.Error("what was withdrawn stands")
	}
}

func TestOrdersAboutTicketsAreKeptOnce(t *testing.T) {
	s := open(t, t.TempDir())
	var want []tickets.Order
	for i, action := range []tickets.Action{tickets.Revoke, tickets.Restore, tickets.Revoke} {
		o := tickets.Order{ID: fmt.Sprint("o", i), Action: action, Vehicle: "v", At: noon().Add(-time.Duration(i) * time.Minute), By: "anna", Reason: "stolen"}
		want = append(want, o)
		for range 2 {
			if err := s.Tickets().Give(ctx, o); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.Tickets().Give(ctx, tickets.Order{ID: "x"}); err == nil || !strings.Contains(err.Error(), "action") {
		t.Error(err)
	}
	got, err := s.Tickets().Orders(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// After a restore and after a repair no number is given again that the lost part of the store may have given.
func TestTheFloorOfTicketsRises(t *testing.T) {
	floor := func(s *store.Store) uint64 {
		t.Helper()
		n, err := s.Tickets().Floor(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	path := filepath.Join(t.TempDir(), "fleet.db")
	openAt := func() *store.Store {
		s, err := store.Open(ctx, path, store.Options{Now: noon})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := openAt()
	if floor(s) != 0 {
		t.Errorf("floor %d of a new store", floor(s))
	}
	const skip = 1 << 40
	if err := s.Restored(ctx); err != nil {
		t.Fatal(err)
	}
	if got, want := floor(s), uint64(noon().UnixMilli())+skip; got != want {
		t.Errorf("floor %d, want %d", got, want)
	}
	if err := s.Tickets().Save(ctx, ticket("m", "v", 1<<50)); err != nil {
		t.Fatal(err)
	}
	shut(t, s)
	if _, err := store.Repair(ctx, path, ledgertest.Keys(t), store.Options{Now: noon}); err != nil {
		t.Fatal(err)
	}
	s = openAt()
	defer shut(t, s)
	if got := floor(s); got != 1<<50+skip {
		t.Errorf("floor %d after the repair", got)
	}
	if list := listTickets(t, s, tickets.Query{}); len(list) != 1 || list[0].Counter != 1<<50 || !list[0].Fault {
		t.Errorf("after the repair: %+v", list)
	}
	if err := s.SetMeta(ctx, map[string][]byte{"ticket.floor": {0x80}}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Tickets().Floor(ctx); err == nil || !strings.Contains(err.Error(), "by hand") {
		t.Error(err)
	}
}
