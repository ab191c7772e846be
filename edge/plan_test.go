package edge

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/farebeat/farebeat/edge/outbox"
)

func set(ivs ...uint32) outbox.Intervals {
	var out []outbox.Interval
	for i := 0; i < len(ivs); i += 2 {
		out = append(out, outbox.Interval{First: ivs[i], Last: ivs[i+1]})
	}
	return outbox.Of(out...)
}

func TestPlan(t *testing.T) {
	const top = 1<<32 - 1
	for name, c := range map[string]struct {
		unreleased, receipted, held Records
		want                        []Range
	}{
		"a first contact reads everything": {
			unreleased: Records{3: set(1, 300)},
			want:       []Range{{3, 1, 300}},
		},
		"nothing unreleased, nothing to read": {receipted: Records{3: set(1, 300)}},
		"a cut recovery resumes after what the outbox holds": {
			unreleased: Records{3: set(1, 300)}, held: Records{3: set(1, 120)},
			want: []Range{{3, 121, 300}},
		},
		"what the ledger holds is not read": {
			unreleased: Records{3: set(101, 300)}, receipted: Records{3: set(1, 200)}, held: Records{3: set(201, 250)},
			want: []Range{{3, 251, 300}},
		},
		"a gap in the ledger is read again": {
			unreleased: Records{3: set(1, 300)}, receipted: Records{3: set(1, 99, 150, 300)},
			want: []Range{{3, 100, 149}},
		},
		"holes on both sides": {
			unreleased: Records{3: set(1, 20)}, receipted: Records{3: set(3, 5, 11, 12)}, held: Records{3: set(5, 7, 20, 20)},
			want: []Range{{3, 1, 2}, {3, 8, 10}, {3, 13, 19}},
		},
		"older epochs first": {
			unreleased: Records{4: set(1, 5), 2: set(90, 99), 3: set(1, 1)},
			want:       []Range{{2, 90, 99}, {3, 1, 1}, {4, 1, 5}},
		},
		"a receipt of another epoch says nothing": {
			unreleased: Records{4: set(1, 5)}, receipted: Records{3: set(1, 5)},
			want: []Range{{4, 1, 5}},
		},
		"the end of the counter": {
			unreleased: Records{1: set(top-3, top)}, receipted: Records{1: set(1, top-2)},
			want: []Range{{1, top - 1, top}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, Plan(c.unreleased, c.receipted, c.held)); diff != "" {
				t.Errorf("plan (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPostpone(t *testing.T) {
	plan := []Range{{2, 90, 99}, {3, 1, 300}}
	for name, c := range map[string]struct {
		avoid Records
		want  []Range
	}{
		"nothing":             {nil, plan},
		"one in the middle":   {Records{3: set(5, 5)}, []Range{{2, 90, 99}, {3, 1, 4}, {3, 6, 300}, {3, 5, 5}}},
		"the first":           {Records{2: set(90, 91)}, []Range{{2, 92, 99}, {3, 1, 300}, {2, 90, 91}}},
		"what is not planned": {Records{2: set(1, 50), 7: set(1, 9)}, plan},
		"everything":          {Records{2: set(1, 500), 3: set(1, 500)}, plan},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, Postpone(plan, c.avoid)); diff != "" {
				t.Errorf("plan (-want +got):\n%s", diff)
			}
		})
	}
}

// Every record that the machine has and neither the ledger nor the outbox holds
// is in exactly one range; nothing else is; the order is oldest first.
func TestPlanReadsExactlyWhatIsMissing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		unreleased, receipted, held := drawRecords(t, "unreleased"), drawRecords(t, "receipted"), drawRecords(t, "held")
		has := func(r Records, epoch, seq uint32) bool {
			return r[epoch].Covers(outbox.Interval{First: seq, Last: seq})
		}
		times := map[[2]uint32]int{}
		var before Range
		for _, r := range Plan(unreleased, receipted, held) {
			if r.Epoch < before.Epoch || (r.Epoch == before.Epoch && r.First <= before.Last+1 && before.Last > 0) {
				t.Fatalf("range %v comes after %v", r, before)
			}
			before = r
			for seq := r.First; seq <= r.Last; seq++ {
				times[[2]uint32{r.Epoch, seq}]++
			}
		}
		for epoch := range uint32(4) {
			for seq := uint32(1); seq <= 40; seq++ {
				want := 0
				if has(unreleased, epoch, seq) && !has(receipted, epoch, seq) && !has(held, epoch, seq) {
					want = 1
				}
				if got := times[[2]uint32{epoch, seq}]; got != want {
					t.Fatalf("record %d-%d is planned %d times, want %d", epoch, seq, got, want)
				}
			}
		}
	})
}

func drawRecords(t *rapid.T, label string) Records {
	out := Records{}
	for range rapid.IntRange(0, 6).Draw(t, label) {
		epoch := rapid.Uint32Range(0, 3).Draw(t, "epoch")
		first := rapid.Uint32Range(1, 35).Draw(t, "first")
		out[epoch] = out[epoch].Union(set(first, first+rapid.Uint32Range(0, 5).Draw(t, "more")))
	}
	return out
}
