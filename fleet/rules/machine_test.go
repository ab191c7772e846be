package rules

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/schemas"
)

func TestMachineRules(t *testing.T) {
	set := Default(time.UTC)
	oldest := day.Add(-6 * time.Minute)
	for _, tt := range []struct {
		name string
		in   MachineInput
		want []faults.Kind
	}{
		{"heard", MachineInput{State: schemas.Up, Silence: 14 * time.Second}, nil},
		{"silent for 60 s", MachineInput{State: schemas.Late, Silence: 60 * time.Second}, nil},
		{"silent for 69 s", MachineInput{State: schemas.Dark, Silence: 69 * time.Second}, nil},
		{"silent for 70 s", MachineInput{State: schemas.Dark, Silence: 70 * time.Second}, []faults.Kind{faults.MachineSilent}},
		{"silent and seen", MachineInput{State: schemas.Stranded, Silence: time.Hour}, []faults.Kind{faults.MachineSilent}},
		{"silent while we are blind", MachineInput{State: schemas.Dark, Silence: time.Hour, Blind: true}, nil},
		{"parked", MachineInput{State: schemas.Parked, Silence: time.Hour}, nil},
		{"parked with money", MachineInput{State: schemas.Parked, Silence: time.Hour, Pending: 1}, []faults.Kind{faults.MachineParked}},
		{"out of service", MachineInput{State: schemas.OutOfService, Silence: time.Hour, Pending: 1}, nil},
		{"defective", MachineInput{State: schemas.Up, RunState: schemas.Defective}, []faults.Kind{faults.MachineCode}},
		{"a code", MachineInput{State: schemas.Up, RunState: schemas.Running, Fault: "E42"}, []faults.Kind{faults.MachineCode}},
		{"an old code of a silent machine", MachineInput{State: schemas.Dark, Silence: time.Hour, Fault: "E42"}, []faults.Kind{faults.MachineSilent}},
		{"clock ahead", MachineInput{State: schemas.Up, Skew: 301 * time.Second}, []faults.Kind{faults.MachineClock}},
		{"clock behind", MachineInput{State: schemas.Up, Skew: -301 * time.Second}, []faults.Kind{faults.MachineClock}},
		{"clock within", MachineInput{State: schemas.Up, Skew: -300 * time.Second}, nil},
		{"unsent", MachineInput{State: schemas.Up, Pending: 1, OldestPending: oldest}, []faults.Kind{faults.MachineUnsent}},
		{"unsent, but only by a clock behind", MachineInput{State: schemas.Up, Pending: 1, OldestPending: oldest, Skew: -2 * time.Minute}, nil},
		{"unsent, by a clock that was ahead when it sold", MachineInput{State: schemas.Up, Pending: 1, OldestPending: day.Add(24 * time.Hour), UnsentSince: oldest}, []faults.Kind{faults.MachineUnsent}},
		{"unsent for a moment, by a clock that was ahead", MachineInput{State: schemas.Up, Pending: 1, OldestPending: day.Add(24 * time.Hour), UnsentSince: day}, nil},
		{"unsent for a moment", MachineInput{State: schemas.Up, Pending: 1, OldestPending: day}, nil},
		{"unsent, age not told", MachineInput{State: schemas.Up, Pending: 1}, nil},
		{"half full", MachineInput{State: schemas.Up, Pending: 10_000}, []faults.Kind{faults.MachineFilling}},
		{"not half full", MachineInput{State: schemas.Up, Pending: 9_999}, nil},
		{"nearly full and silent", MachineInput{State: schemas.Dark, Silence: time.Hour, Pending: 19_000}, []faults.Kind{faults.MachineSilent, faults.MachineFull}},
		{"beyond the cap", MachineInput{State: schemas.Up, Pending: 1<<32 - 1}, []faults.Kind{faults.MachineFull}},
	} {
		verdicts := set.EvaluateMachine(day, tt.in)
		var got []faults.Kind
		for _, v := range verdicts {
			if !v.Firing || !strings.HasSuffix(v.Reason, ".") {
				t.Errorf("%s: verdict %+v does not fire with a sentence", tt.name, v)
			}
			got = append(got, v.Kind)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
		if len(got) > 0 && !set.Attention(&tt.in) {
			t.Errorf("%s: Attention would not have looked", tt.name)
		}
	}
	if v := set.EvaluateMachine(day, MachineInput{State: schemas.Up, Pending: 16_000}); len(v) != 1 || v[0].Threshold != 80 {
		t.Errorf("at 80 %%: %+v", v)
	}
}

// A look every 5 s at any phase opens it by 75 s, and a gap of 60 s never does.
func TestSilenceAtEveryPhase(t *testing.T) {
	set := Default(time.UTC)
	fires := func(silence time.Duration) bool {
		return len(set.EvaluateMachine(day, MachineInput{State: schemas.Dark, Silence: silence})) > 0
	}
	for phase := time.Duration(0); phase < 5*time.Second; phase += 100 * time.Millisecond {
		opened := time.Duration(-1)
		for silence := phase; silence <= 80*time.Second && opened < 0; silence += 5 * time.Second {
			if fires(silence) {
				opened = silence
			}
		}
		if opened <= 60*time.Second || opened > 75*time.Second {
			t.Errorf("phase %v: open at %v, want within (60 s, 75 s]", phase, opened)
		}
	}
}

func TestNoAllocationForAHealthyMachine(t *testing.T) {
	set := Default(time.UTC)
	in := MachineInput{State: schemas.Up, Silence: 10 * time.Second, RunState: schemas.Running}
	if n := testing.AllocsPerRun(100, func() {
		if set.Attention(&in) || set.Lost(&in) {
			t.Error("a healthy machine needs no look")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
