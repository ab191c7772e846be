package draft

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/farebeat/farebeat/fleet/counts"
	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/replay"
	"github.com/farebeat/farebeat/schemas"
)

var theDay = Span{From: monday, To: monday.AddDate(0, 0, 1)}

// try begins a trial.
func (b *bench) try(id string, s Span) Trial {
	b.t.Helper()
	t, err := b.Try(id, s, "anna")
	if err != nil {
		b.t.Fatal(err)
	}
	return t
}

// carryOut does what Run does of the trial that was begun, and gives what became of it.
func (b *bench) carryOut() Trial {
	b.t.Helper()
	b.run(b.t.Context(), <-b.jobs)
	t, ok := b.Trial()
	if !ok || !t.Over() {
		b.t.Fatalf("the trial is not over: %+v", t)
	}
	return t
}

func TestAStricterThresholdFiresInThePast(t *testing.T) {
	b := newBench(t, first, nil)
	b.history()
	b.try(b.check(first).ID, theDay)
	if r := b.carryOut().Result; r == nil || r.Faults != 0 || r.Pages != 0 || r.RouteMinutes != 6*60 || r.Routes != 1 {
		t.Errorf("by the rules in force: %+v", r)
	}
	if began := b.try(b.check(strict).ID, theDay); began.State != Running || began.By != "anna" || began.Percent() != 0 {
		t.Errorf("as it begins: %+v", began)
	}
	trial := b.carryOut()
	r := trial.Result
	if trial.State != Done || trial.Percent() != 100 || r == nil {
		t.Fatalf("%+v", trial)
	}
	want := []TrialFault{{Outcome: OutcomeNew, Route: "A", Kind: faults.RouteBelow, Pages: 1, Live: []string{}, Online: 3, Expected: 5, Threshold: 4}}
	if diff := cmp.Diff(want, r.List, cmpopts.IgnoreFields(TrialFault{}, "Opened", "Closed", "Reason")); diff != "" {
		t.Fatal(diff)
	}
	// Three samples of four, one a minute, from 12:00 on.
	f := r.List[0]
	if f.Opened.Before(monday.Add(12*time.Hour+2*time.Minute)) || f.Opened.After(monday.Add(12*time.Hour+4*time.Minute)) {
		t.Errorf("it began at %s", f.Opened)
	}
	if f.Closed.Before(monday.Add(14*time.Hour)) || f.Closed.After(monday.Add(15*time.Hour)) || f.Reason == "" {
		t.Errorf("it ended at %s, %q", f.Closed, f.Reason)
	}
	if diff := cmp.Diff([]TrialRoute{{Route: "A", Faults: 1, New: 1, Pages: 1}}, r.ByRoute); diff != "" {
		t.Error(diff)
	}
	weeks := 6.0 / (7 * 24)
	if per := 100 / weeks; r.New != 1 || r.Missed != 0 || cmp.Diff(per, r.PagesPer100, cmpopts.EquateApprox(0.001, 0)) != "" {
		t.Errorf("%d new, %d missed, %v pages in 100 route-weeks, want 1, 0, %v", r.New, r.Missed, r.PagesPer100, per)
	}
	if !slices.Equal(r.Limits, replay.Limits()) || len(r.Limits) == 0 {
		t.Error("what a replay cannot know is not told")
	}
	if s := b.Summary(trial.Draft); !strings.Contains(s, "1 new faults, 0 missed, 1 pages") {
		t.Errorf("the audit log says %q", s)
	}
}

func TestWhatFiredAndWouldNotIsTold(t *testing.T) {
	b := newBench(t, first, nil)
	b.history()
	live := faults.Fault{
		ID: "R-1", Revision: 1, Kind: faults.RouteBelow, Subject: faults.Subject{Route: "A"}, Severity: schemas.Major, Condition: schemas.Closed, Reason: "too few", Told: true,
		Attention: faults.Attention{State: schemas.Unseen}, Route: &faults.RouteFacts{Online: 3, Expected: 5, Threshold: 4},
		OpenedAt: monday.Add(12*time.Hour + 5*time.Minute), UpdatedAt: monday.Add(14 * time.Hour), ClosedAt: monday.Add(14 * time.Hour),
	}
	if err := b.db.Faults().Save(t.Context(), faults.Change{Fault: live}); err != nil {
		t.Fatal(err)
	}
	b.try(b.check(first).ID, theDay)
	if r := b.carryOut().Result; r.Live != 1 || r.Missed != 1 || r.New != 0 || r.List[0].Outcome != OutcomeMissed || r.List[0].Live[0] != "R-1" {
		t.Errorf("by loose rules: %+v", r)
	}
	b.try(b.check(strict).ID, theDay)
	if r := b.carryOut().Result; r.Live != 1 || r.Missed != 0 || r.New != 0 || r.List[0].Outcome != OutcomeBoth {
		t.Errorf("by strict rules: %+v", r)
	}
}

func TestOneTrialAtATime(t *testing.T) {
	b := newBench(t, first, nil)
	b.history()
	id := b.check(strict).ID
	b.try(id, theDay)
	if _, err := b.Try(b.check(first).ID, theDay, "otto"); !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), "anna") {
		t.Errorf("a second one: %v", err)
	}
	if trial, _ := b.Trial(); trial.Draft != id || trial.By != "anna" {
		t.Errorf("the newest is %+v", trial)
	}
	b.carryOut()
	b.try(b.check(first).ID, theDay)
	b.carryOut()
}

func TestATextThatIsCheckedAgainWhileItIsTriedWasTried(t *testing.T) {
	b := newBench(t, first, nil)
	b.history()
	id := b.check(strict).ID
	b.try(id, theDay)
	b.check(strict)
	b.carryOut()
	if d, err := b.Draft(id); err != nil || d.Tried == nil {
		t.Errorf("%+v, %v", d.Tried, err)
	}
	if _, err := b.Save(Saving{ID: id, Was: b.was()}); err != nil {
		t.Errorf("what was tried: %v", err)
	}
}

func TestOnlyTheVeryTextThatWasTriedIsSaved(t *testing.T) {
	b := newBench(t, first, nil)
	b.history()
	b.try(b.check(strict).ID, theDay)
	b.carryOut()
	if _, err := b.Save(Saving{ID: b.check(strict + "# one letter more\n").ID, Was: b.was()}); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "not tried") {
		t.Errorf("another text: %v", err)
	}
}

// One route says nothing of the others, and takes nothing away from a trial of all.
func TestATrialOfOneRouteIsNoneOfTheDraft(t *testing.T) {
	b := newBench(t, first, nil)
	b.history()
	id := b.check(strict).ID
	one := Span{From: theDay.From, To: theDay.To, Route: "A"}
	for _, step := range []struct {
		what          string
		span          Span
		before, after bool // what was tried
	}{
		{"one route", one, false, false},
		{"all routes", theDay, false, true},
		{"one route after all", one, true, true},
	} {
		if began := b.try(id, step.span); began.DraftTried != step.before {
			t.Errorf("%s: as it begins: %+v", step.what, began)
		}
		trial := b.carryOut()
		if trial.State != Done || trial.Route != step.span.Route || trial.Result.Faults != 1 || trial.DraftTried != step.after {
			t.Errorf("%s: the latest is %+v", step.what, trial)
		}
		d, err := b.Draft(id)
		if err != nil || (d.Tried != nil) != step.after || d.Tried != nil && d.Tried.Route != "" {
			t.Errorf("%s: the draft has %+v, %v", step.what, d.Tried, err)
		}
		if said := strings.Contains(b.Summary(id), "not tried on all routes"); said == step.after {
			t.Errorf("%s: the audit log says %q", step.what, b.Summary(id))
		}
		if step.after {
			continue
		}
		if _, err := b.Save(Saving{ID: id, Was: b.was()}); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "all routes") {
			t.Errorf("%s: saved: %v", step.what, err)
		}
	}
	if _, err := b.Save(Saving{ID: id, Was: b.was()}); err != nil {
		t.Errorf("what was tried on all routes: %v", err)
	}
	// The trial of one draft says nothing of another.
	other := b.check(strict + "# one letter more\n").ID
	b.try(other, one)
	if trial := b.carryOut(); trial.DraftTried {
		t.Errorf("another text: %+v", trial)
	}
}

// stopper are stored minutes; reading one stops the trial.
type stopper struct {
	minutes replay.Frames
	stop    func() error
}

func (s *stopper) Frames(ctx context.Context, from, to time.Time, each func(counts.Frame) error) error {
	return s.minutes.Frames(ctx, from, to, func(f counts.Frame) error {
		err := s.stop()
		<-ctx.Done() // it hears of it a moment later
		return errors.Join(err, each(f))
	})
}

func TestATrialIsStopped(t *testing.T) {
	s := &stopper{}
	b := newBench(t, first, func(f replay.Frames) replay.Frames { s.minutes = f; return s })
	b.history()
	if err := b.Stop(); !errors.Is(err, ErrInvalid) {
		t.Errorf("none was running: %v", err)
	}
	s.stop = b.Stop
	id := b.check(strict).ID
	b.try(id, theDay)
	if trial := b.carryOut(); trial.State != Stopped || trial.Result != nil {
		t.Errorf("%+v", trial)
	}
	if _, err := b.Save(Saving{ID: id, Was: b.was()}); !errors.Is(err, ErrInvalid) {
		t.Errorf("what was not tried to the end: %v", err)
	}
}

func TestATrialThatCannotBe(t *testing.T) {
	b := newBench(t, first, nil)
	b.history()
	id := b.check(strict).ID
	for name, s := range map[string]Span{
		"backwards":      {From: theDay.To, To: theDay.From},
		"too long":       {From: monday.AddDate(0, 0, -32), To: monday},
		"unknown source": {From: theDay.From, To: theDay.To, Source: "guess"},
	} {
		if _, err := b.Try(id, s, "anna"); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := b.Try("none", theDay, "anna"); !errors.Is(err, ErrGone) {
		t.Errorf("an unknown draft: %v", err)
	}
	if _, ok := b.Trial(); ok {
		t.Error("there is a trial")
	}
	b.try(id, Span{From: monday.AddDate(0, 0, -20), To: monday.AddDate(0, 0, -10)})
	if trial := b.carryOut(); trial.State != Failed || !strings.Contains(trial.Error, "2026-11-03") {
		t.Errorf("days of which nothing is stored: %+v", trial)
	}
}
