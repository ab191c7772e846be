package ledger_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/fleet/ledger"
	"github.com/farebeat/farebeat/fleet/ledger/ledgertest"
	"github.com/farebeat/farebeat/schemas"
)

// onDays makes a machine write the records from each number on with a service date.
func onDays(m *ledgertest.Machine, dates map[uint32]string) *ledgertest.Machine {
	m.Change = func(tx *schemas.Transaction) {
		for from, newest := uint32(0), uint32(0); from <= tx.Seq; from++ {
			if date, ok := dates[from]; ok && from >= newest {
				newest, tx.ServiceDate = from, date
			}
		}
	}
	return m
}

// TestNoDateHidesAGap: asked for days, the ledger names every gap that may be of one of them, also where it has no
// record of that day.
func TestNoDateHidesAGap(t *testing.T) {
	at := func(text string) time.Time {
		out, err := time.Parse(time.RFC3339, text)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	declared := ledger.Declarations{
		"silent": {At: at("2018-06-16T08:00:00Z"), Epochs: map[uint32]uint32{3: 7}, Pending: 7, OldestPending: at("2018-06-14T06:00:00Z")},
		"tail":   {At: at("2018-06-16T08:00:00Z"), Epochs: map[uint32]uint32{1: 5}, Pending: 2, OldestPending: at("2018-06-14T06:00:00Z")},
		"lost":   {At: at("2018-06-16T08:00:00Z"), Epochs: map[uint32]uint32{1: 5}, Pending: 1, OldestPending: at("2018-06-20T06:00:00Z")},
	}
	h := newHouse(t)
	between := onDays(ledgertest.New(t, "between", "v", 1), map[uint32]string{1: "2018-06-12", 5: "2018-06-14"}).Mint(8)
	h.take(between, 1, 3)
	h.take(between, 6, 8)
	h.take(onDays(ledgertest.New(t, "head", "v", 2), map[uint32]string{1: "2018-06-14"}).Mint(4), 3, 4)
	for epoch, date := range map[uint32]string{1: "2018-06-12", 3: "2018-06-16"} { // epoch 2 is the machine's own word
		h.take(onDays(ledgertest.New(t, "epochs", "v", epoch), map[uint32]string{1: date}).Mint(2), 1, 2)
	}
	declared["epochs"] = ledger.Declaration{At: at("2018-06-16T08:00:00Z"), Epochs: map[uint32]uint32{2: 3}}
	// Its clock went back, so that the day before the gap is the later one.
	clock := onDays(ledgertest.New(t, "clock", "v", 1), map[uint32]string{1: "2018-06-16", 5: "2018-06-12"}).Mint(8)
	h.take(clock, 1, 3)
	h.take(clock, 5, 8)
	for _, id := range []string{"tail", "lost"} {
		h.take(ledgertest.New(t, id, "v", 1).Mint(3), 1, 3) // of 2018-06-12
	}

	all := []string{"between 1 4-5", "clock 1 4-4", "epochs 2 1-3 tail", "head 2 1-2", "lost 1 4-5 tail", "silent 3 1-7 tail", "tail 1 4-5 tail"}
	for _, c := range []struct {
		from, to string
		without  []string
	}{
		{"", "", nil},
		{"2018-06-13", "2018-06-13", nil}, // a day may end a day later in UTC
		{"2018-06-14", "2018-06-14", nil},
		{"2018-06-12", "2018-06-12", []string{"silent 3 1-7 tail", "tail 1 4-5 tail"}}, // both hold nothing as old as that
		{"2018-06-11", "2018-06-11", []string{"between 1 4-5", "clock 1 4-4", "epochs 2 1-3 tail", "lost 1 4-5 tail", "silent 3 1-7 tail", "tail 1 4-5 tail"}},
		{"2018-06-15", "2018-06-15", []string{"between 1 4-5", "head 2 1-2"}},
		{"2018-06-17", "", []string{"between 1 4-5", "clock 1 4-4", "epochs 2 1-3 tail", "head 2 1-2"}},
	} {
		for _, machine := range []string{"", "silent", "between"} {
			var want []string
			for _, gap := range all {
				var id string
				fmt.Sscan(gap, &id)
				if !slices.Contains(c.without, gap) && (machine == "" || machine == id) {
					want = append(want, gap)
				}
			}
			var got []string
			err := h.Gaps(context.Background(), ledger.Filter{Machine: machine, From: c.from, To: c.to}, declared, func(g ledger.Gap) error {
				line := fmt.Sprintf("%s %d %d-%d", g.Machine, g.Epoch, g.First, g.Last)
				if g.Tail {
					line += " tail"
				}
				got = append(got, line)
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			slices.Sort(got)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("machine %q from %q to %q: %s", machine, c.from, c.to, diff)
			}
		}
	}
}
