package store_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/store"
	"github.com/farebeat/farebeat/schemas"
)

// fault makes one that was opened so many minutes after noon.
func fault(id string, minutes int, change func(*faults.Fault)) faults.Fault {
	f := faults.Fault{
		ID: id, Revision: 1, Subject: faults.Subject{Machine: id + "-machine"}, Kind: faults.MachineSilent, Severity: schemas.Major,
		Condition: schemas.Open, Reason: "silent", OpenedAt: noon().Add(time.Duration(minutes) * time.Minute), UpdatedAt: noon(),
		Attention: faults.Attention{State: schemas.Unseen},
	}
	if change != nil {
		change(&f)
	}
	return f
}

func event(f faults.Fault, number uint64, change string) faults.Change {
	return faults.Change{Fault: f, Event: faults.Event{Fault: f.ID, Number: number, At: noon(), Change: change, Kind: f.Kind, Reason: f.Reason}}
}

func saveFaults(t testing.TB, s *store.Store, changes ...faults.Change) {
	t.Helper()
	if err := s.Faults().Save(ctx, changes...); err != nil {
		t.Fatal(err)
	}
}

func TestFaultIsKeptWithItsHistory(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	f := fault("M-1", 0, func(f *faults.Fault) {
		f.Machine = &faults.MachineFacts{Vehicle: "v", Route: "36", Pending: 9, Custody: []faults.Custody{{Epoch: 1, LastSeq: 9}}, Onsets: []time.Time{noon()}}
		f.Reports = []faults.Reported{{ID: "r", At: noon().Add(123456789), By: "driver", Text: "dark"}}
		f.SuspectedAt = noon().Add(-time.Minute)
	})
	saveFaults(t, s, event(f, 1, faults.ChangeOpened))
	closed := f
	closed.Revision, closed.Condition, closed.ClosedAt = 2, schemas.Closed, noon().Add(time.Hour)
	saveFaults(t, s, event(closed, 2, faults.ChangeClosed))
	saveFaults(t, s, event(f, 1, faults.ChangeUpdated), event(closed, 2, faults.ChangeClosed)) // an older revision, the same events
	shut(t, s)
	s = open(t, dir)
	got, events, err := s.Faults().Get(ctx, "M-1")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(closed, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]faults.Event{event(f, 1, faults.ChangeOpened).Event, event(closed, 2, faults.ChangeClosed).Event}, events); diff != "" {
		t.Error(diff)
	}
	if open, err := s.Faults().Open(ctx); len(open) != 0 || err != nil {
		t.Errorf("open: %+v, %v", open, err)
	}
	if _, _, err := s.Faults().Get(ctx, "M-2"); !errors.Is(err, faults.ErrNotFound) || !strings.Contains(err.Error(), "M-2") {
		t.Errorf("an unknown fault: %v", err)
	}
	same := closed
	same.Reason = "the same revision again"
	saveFaults(t, s, faults.Change{Fault: same})
	if got, events, err := s.Faults().Get(ctx, "M-1"); err != nil || got.Reason != same.Reason || len(events) != 2 {
		t.Errorf("%+v, %d events, %v", got, len(events), err)
	}
	saveFaults(t, s) // nothing
}

func TestOpenFaultsAreThoseThatHaveNotEnded(t *testing.T) {
	s := open(t, t.TempDir())
	saveFaults(t, s,
		event(fault("a", 1, nil), 1, faults.ChangeOpened),
		faults.Change{Fault: fault("b", 2, func(f *faults.Fault) { f.Condition, f.OpenedAt = schemas.Suspected, time.Time{} })},
		event(fault("c", 3, func(f *faults.Fault) { f.Condition = schemas.Abandoned }), 1, faults.ChangeAbandoned),
		event(fault("d", 4, func(f *faults.Fault) { f.Condition, f.ClosedAt = schemas.Closed, noon() }), 1, faults.ChangeClosed))
	open, err := s.Faults().Open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, f := range open {
		ids = append(ids, f.ID)
	}
	if diff := cmp.Diff([]string{"a", "b", "c"}, ids); diff != "" {
		t.Error(diff)
	}
	if !open[1].OpenedAt.IsZero() {
		t.Errorf("a suspected fault was opened at %s", open[1].OpenedAt)
	}
}

func TestSaveIsAllOrNothing(t *testing.T) {
	s := open(t, t.TempDir())
	bad := fault("z", 0, func(f *faults.Fault) {
		f.Severity = schemas.Severity("\xff")
		f.OpenedAt = time.Date(20000, 1, 1, 0, 0, 0, 0, time.UTC)
	})
	if err := s.Faults().Save(ctx, faults.Change{Fault: fault("a", 0, nil)}, faults.Change{Fault: bad}); err == nil || !strings.Contains(err.Error(), "save fault z") {
		t.Fatalf("a year that JSON does not have: %v", err)
	}
	if open, err := s.Faults().Open(ctx); len(open) != 0 || err != nil {
		t.Errorf("%+v, %v", open, err)
	}
}

// List says the same as Query.Matches and Compare over all faults, whatever is asked, page by page.
func TestListIsMatchesInOrder(t *testing.T) {
	s := open(t, t.TempDir())
	var all []faults.Fault
	conditions := []schemas.FaultCondition{schemas.Suspected, schemas.Open, schemas.Recovering, schemas.Closed, schemas.Abandoned}
	attentions := []schemas.Attention{"", schemas.Unseen, schemas.Acknowledged, schemas.Shelved}
	for i := range 60 {
		all = append(all, fault(fmt.Sprintf("F-%02d", (i*37)%60), i%17, func(f *faults.Fault) {
			f.Condition, f.Attention.State = conditions[i%5], attentions[i%4]
			f.Kind = faults.Kinds()[i%len(faults.Kinds())]
			switch i % 3 {
			case 0:
				f.Subject = faults.Subject{Route: fmt.Sprint(i % 4)}
			case 1:
				f.Subject = faults.Subject{Machine: fmt.Sprint("m", i%5)}
				f.Machine = &faults.MachineFacts{Route: fmt.Sprint(i % 4), Vehicle: fmt.Sprint("v", i%3)}
			}
			if f.Condition == schemas.Suspected {
				f.OpenedAt = time.Time{}
			}
			if f.Condition == schemas.Closed {
				f.ClosedAt = f.OpenedAt.Add(time.Duration(i%7) * time.Minute)
			}
		}))
	}
	for _, f := range all {
		saveFaults(t, s, faults.Change{Fault: f})
	}
	slices.SortFunc(all, faults.Compare)
	rapid.Check(t, func(t *rapid.T) {
		minute := func(label string) time.Time {
			if m := rapid.IntRange(-1, 20).Draw(t, label); m >= 0 {
				return noon().Add(time.Duration(m) * time.Minute)
			}
			return time.Time{}
		}
		q := faults.Query{
			Conditions: rapid.SliceOfN(rapid.SampledFrom(conditions), 0, 2).Draw(t, "conditions"),
			Attentions: rapid.SliceOfN(rapid.SampledFrom(attentions), 0, 2).Draw(t, "attentions"),
			Kinds:      rapid.SliceOfN(rapid.SampledFrom(faults.Kinds()), 0, 3).Draw(t, "kinds"),
			Machine:    rapid.SampledFrom([]string{"", "", "m1", "m2"}).Draw(t, "machine"),
			Route:      rapid.SampledFrom([]string{"", "", "1", "2"}).Draw(t, "route"),
			Vehicle:    rapid.SampledFrom([]string{"", "", "", "v1"}).Draw(t, "vehicle"),
			From:       minute("from"), To: minute("to"),
			Live:       rapid.Bool().Draw(t, "live"),
			Unfinished: rapid.Bool().Draw(t, "unfinished"),
			Limit:      rapid.IntRange(1, 20).Draw(t, "limit"),
		}
		var want, got []faults.Fault
		for _, f := range all {
			if q.Matches(f) {
				want = append(want, f)
			}
		}
		for {
			page, err := s.Faults().List(ctx, q)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, page...)
			if len(page) > q.Limit {
				t.Fatalf("a page of %d, limit %d", len(page), q.Limit)
			}
			if len(page) < q.Limit {
				break
			}
			q.After = page[len(page)-1].ID
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
	})
	if _, err := s.Faults().List(ctx, faults.Query{After: "none"}); !errors.Is(err, faults.ErrNotFound) {
		t.Errorf("after an unknown fault: %v", err)
	}
}
