package orders_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/fleet/orders"
	"github.com/farebeat/farebeat/fleet/tickets"
)

func order(id, vehicle string, at time.Time) tickets.Order {
	return tickets.Order{ID: id, Action: tickets.Revoke, Vehicle: vehicle, At: at, By: "anna", Reason: "stolen"}
}

func TestOrdersAreTakenInTheOrderOfTime(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "orders")
	if list, err := orders.Take[tickets.Order](dir); len(list) > 0 || err != nil {
		t.Fatalf("of a folder that is not there: %v, %v", list, err)
	}
	later, earlier := order("a", "v 1/ä", noon().Add(time.Minute)), order("b", "v2", noon())
	for _, o := range []tickets.Order{later, earlier} {
		if _, err := orders.Leave(dir, o); err != nil {
			t.Fatal(err)
		}
	}
	list, err := orders.Take[tickets.Order](dir)
	if err != nil || len(list) != 2 {
		t.Fatalf("%v, %v", list, err)
	}
	if diff := cmp.Diff([]tickets.Order{earlier, later}, []tickets.Order{list[0].Order, list[1].Order}); diff != "" {
		t.Error(diff)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestWhatIsNoOrderIsSetAside(t *testing.T) {
	dir := t.TempDir()
	path, err := orders.Leave(dir, order("good", "v", noon()))
	if err != nil {
		t.Fatal(err)
	}
	for name, body := range map[string]string{
		"1.json": "", "2.json": `{"id":"x"}`, "3.json": strings.Repeat(" ", 9<<10), "4.json": `{"unknown":1}`, "5.json.new": "half", "6.json": "{}{}",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "7.json"), 0o700); err != nil {
		t.Fatal(err)
	}
	list, err := orders.Take[tickets.Order](dir)
	if len(list) != 1 || list[0].Path != path || err == nil || strings.Count(err.Error(), "not an order") != 6 {
		t.Fatalf("%v, %v", list, err)
	}
	if list, err := orders.Take[tickets.Order](dir); len(list) != 1 || err != nil {
		t.Errorf("again: %v, %v", list, err)
	}
	if _, err := os.Stat(orders.Refused(filepath.Join(dir, "2.json"))); err != nil {
		t.Error(err)
	}
}

func TestOrdersThatCannotBe(t *testing.T) {
	good := order("id", "v", noon())
	for want, change := range map[string]func(*tickets.Order){
		"id":      func(o *tickets.Order) { o.ID = "" },
		"letters": func(o *tickets.Order) { o.ID = "../x" },
		"action":  func(o *tickets.Order) { o.Action = "burn" },
		"vehicle": func(o *tickets.Order) { o.Vehicle = "" },
		"when":    func(o *tickets.Order) { o.At = time.Time{} },
		"who":     func(o *tickets.Order) { o.By = "" },
		"reason":  func(o *tickets.Order) { o.Reason = strings.Repeat("x", tickets.MaxReason+1) },
		"want 1":  func(o *tickets.Order) { o.Reason = "" },
	} {
		o := good
		change(&o)
		if _, err := orders.Leave(t.TempDir(), o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	restore := good
	restore.Action, restore.Reason = tickets.Restore, ""
	if err := restore.Validate(); err != nil {
		t.Error(err)
	}
}

func TestRevokedIsTheLatestOrder(t *testing.T) {
	again := order("3", "a", noon())
	back := order("2", "a", noon())
	back.Action = tickets.Restore
	got := tickets.Revoked([]tickets.Order{order("1", "a", noon()), order("4", "b", noon()), back, again})
	if got["a"].ID != "3" || got["b"].ID != "4" || len(got) != 2 {
		t.Errorf("%v", got)
	}
	if got := tickets.Revoked([]tickets.Order{order("1", "a", noon()), back}); len(got) != 0 {
		t.Errorf("%v", got)
	}
}

func FuzzTake(f *testing.F) {
	f.Add([]byte(`{"id":"x","action":"revoke","vehicle":"v","at":"2026-11-20T12:00:00Z","by":"anna","reason":"stolen"}`))
	f.Add([]byte(`{"id":"x","action":"restore","vehicle":"v","at":"2026-11-20T12:00:00Z","by":"anna","reason":""}`))
	f.Add([]byte(`{}`))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, body []byte) {
		path := filepath.Join(dir, "o.json")
		if err := os.WriteFile(path, body, 0o600); err != nil {
			t.Fatal(err)
		}
		list, err := orders.Take[tickets.Order](dir)
		if (err == nil) == (len(list) == 0) {
			t.Fatalf("%v, %v", list, err)
		}
		if err == nil {
			if bad := list[0].Order.Validate(); bad != nil {
				t.Fatal(bad)
			}
		} else if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("it was left: %v", err)
		}
	})
}

func noon() time.Time { return time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC) }
