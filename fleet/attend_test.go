package fleet

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/orders"
	"github.com/farebeat/farebeat/schemas"
)

// What people order about faults is done, kept with who and why, and done once, also where the disk fails meanwhile.
func TestOrdersAboutFaults(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "farebeat.db")
	db := openStore(t, path)
	a := newAlone(t, db)
	a.o.Orders = filepath.Join(dir, "orders")
	a.pass(2*time.Minute, "m1", "m2")
	a.pass(2*time.Minute, "m1")
	open := a.engine.OpenFaults()
	if len(open) != 1 {
		t.Fatalf("%d faults", len(open))
	}
	n := 0
	give := func(o faults.Order) {
		t.Helper()
		n++
		o.ID, o.At, o.By = fmt.Sprint("o", n), a.now, "anna"
		if o.Fault == "" {
			o.Fault = open[0].ID
		}
		if _, err := orders.Leave(FaultOrders(a.o.Orders), o); err != nil {
			t.Fatal(err)
		}
	}
	state := func() (string, schemas.FaultCondition) {
		f, _ := a.engine.book.Get(open[0].ID)
		return fmt.Sprint(f.Attention.State, " ", f.Attention.By, " ", f.Attention.Note), f.Condition
	}
	for _, tc := range []struct {
		order faults.Order
		want  string
	}{
		{faults.Order{Verb: faults.VerbAcknowledge, Note: "seen"}, "acknowledged anna seen"},
		{faults.Order{Verb: faults.VerbAssign, Note: "Bo goes"}, "assigned anna Bo goes"},
		{faults.Order{Verb: faults.VerbShelve, Until: a.now.Add(time.Hour)}, "shelved anna "},
		{faults.Order{Verb: faults.VerbUnsee}, "unseen anna "},
		{faults.Order{Verb: faults.VerbAcknowledge, Fault: "M-other"}, "unseen anna "}, // refused
	} {
		give(tc.order)
		a.pass(10*time.Second, "m1")
		if got, _ := state(); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.order.Verb, got, tc.want)
		}
		if orders.AnyLeft(FaultOrders(a.o.Orders)) {
			t.Errorf("%s: its file is still there", tc.order.Verb)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	give(faults.Order{Verb: faults.VerbAssign, Note: "Cy goes"})
	give(faults.Order{Verb: faults.VerbAbandon, Note: "burnt out"})
	a.pass(3*time.Minute, "m1") // they are not followed again and again meanwhile
	if !orders.AnyLeft(FaultOrders(a.o.Orders)) {
		t.Error("the file is gone although the disk failed")
	}
	db = openStore(t, path)
	defer db.Close()
	a.o.Store = db
	a.pass(20*time.Second, "m1")
	if _, condition := state(); condition != schemas.Abandoned || orders.AnyLeft(FaultOrders(a.o.Orders)) {
		t.Errorf("%s, and its file may be there", condition)
	}
	list, err := db.Audit(t.Context(), time.Time{}, time.Time{}, "anna", 100)
	if err != nil {
		t.Fatal(err)
	}
	var did []string
	for _, e := range list {
		did = append(did, e.Change+" "+e.Note)
	}
	if want := []string{"acknowledged seen", "updated Bo goes", "shelved ", "updated ", "updated Cy goes", "abandoned burnt out"}; !slices.Equal(did, want) {
		t.Errorf("audit %q, want %q", did, want)
	}
	if none, err := db.Audit(t.Context(), a.now.Add(time.Hour), time.Time{}, "", 100); len(none) != 0 || err != nil {
		t.Errorf("%v, %v", none, err)
	}
}

// A fault that ended long ago is seen at last, so that it is listed as unseen no more, also after two orders at once.
func TestOrdersAboutFaultsThatEnded(t *testing.T) {
	dir := t.TempDir()
	db := openStore(t, filepath.Join(dir, "farebeat.db"))
	defer db.Close()
	a := newAlone(t, db)
	a.o.Orders = filepath.Join(dir, "orders")
	a.pass(2*time.Minute, "m1", "m2")
	a.pass(2*time.Minute, "m1")
	id := a.engine.OpenFaults()[0].ID
	a.pass(time.Hour, "m1", "m2")
	if _, held := a.engine.book.Get(id); held {
		t.Fatal("the engine holds it still: the case is another")
	}
	for i, verb := range []faults.Verb{faults.VerbAcknowledge, faults.VerbAssign} {
		o := faults.Order{ID: fmt.Sprint("o", i), Verb: verb, Fault: id, At: a.now.Add(time.Duration(i)), By: fmt.Sprint("person ", i)}
		if _, err := orders.Leave(FaultOrders(a.o.Orders), o); err != nil {
			t.Fatal(err)
		}
	}
	a.pass(10*time.Second, "m1", "m2")
	f, events, err := db.Faults().Get(t.Context(), id)
	if err != nil || f.Attention.State != schemas.Assigned || f.Attention.By != "person 1" {
		t.Errorf("%+v, %v", f.Attention, err)
	}
	if n := len(events); n < 2 || events[n-2].By != "person 0" || events[n-1].By != "person 1" {
		t.Errorf("events %+v", events)
	}
	unseen, err := db.Faults().List(t.Context(), faults.Query{Unfinished: true})
	if err != nil || len(unseen) != 0 {
		t.Errorf("%d are listed as unseen, %v", len(unseen), err)
	}
}

// A part that fails is one fault while it does, and one that is no longer configured leaves none behind.
func TestParts(t *testing.T) {
	db := openStore(t, filepath.Join(t.TempDir(), "farebeat.db"))
	defer db.Close()
	a := newAlone(t, db)
	var failure error
	a.o.Parts = []Part{{Name: "influx", Kind: faults.SeriesSink, Failure: func() error { return failure }}}
	standing := func() (out []string) {
		for _, f := range a.engine.OpenFaults() {
			out = append(out, fmt.Sprint(f.Kind, " ", f.Subject, " ", f.Reason))
		}
		return out
	}
	a.pass(time.Minute)
	failure = errors.New("401 unauthorized")
	a.pass(time.Minute)
	if got := standing(); !slices.Equal(got, []string{"series_sink service influx 401 unauthorized"}) {
		t.Errorf("standing %v", got)
	}
	failure = nil
	a.pass(time.Minute)
	if got := standing(); len(got) != 0 {
		t.Errorf("standing %v", got)
	}
	failure = errors.New("again")
	a.pass(30 * time.Minute)
	if got := standing(); len(got) != 1 {
		t.Errorf("standing %v", got)
	}
	a.o.Parts = nil
	a.pass(11 * time.Minute) // it came back once, so it must be gone for a while
	if got := standing(); len(got) != 0 {
		t.Errorf("of a part that is gone: %v", got)
	}
}
