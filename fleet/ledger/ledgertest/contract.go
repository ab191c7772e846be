package ledgertest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/fleet/ledger"
)

// TestStore is the contract of ledger.Store. open makes an empty one.
func TestStore(t *testing.T, open func(t *testing.T) ledger.Store) {
	t.Run("all or nothing", func(t *testing.T) { allOrNothing(t, open(t)) })
	t.Run("keys are there once", func(t *testing.T) { keysOnce(t, open(t)) })
	t.Run("spans", func(t *testing.T) { spans(t, open(t)) })
	t.Run("records", func(t *testing.T) { records(t, open(t)) })
	t.Run("days add up", func(t *testing.T) { days(t, open(t)) })
	t.Run("evidence", func(t *testing.T) { evidence(t, open(t)) })
	t.Run("a sum near 64 bits", func(t *testing.T) { nearOverflow(t, open(t)) })
	t.Run("certificates", func(t *testing.T) { certificates(t, open(t)) })
	t.Run("what is to be certified", func(t *testing.T) { toIssue(t, open(t)) })
	t.Run("machines and epochs", func(t *testing.T) { machines(t, open(t)) })
}

func update(t *testing.T, s ledger.Store, fn func(ledger.Tx) error) {
	t.Helper()
	if err := s.Update(context.Background(), fn); err != nil {
		t.Fatal(err)
	}
}

func view(t *testing.T, s ledger.Store, fn func(ledger.View) error) {
	t.Helper()
	if err := s.View(context.Background(), fn); err != nil {
		t.Fatal(err)
	}
}

func row(machine string, epoch, seq uint32) ledger.Row {
	return ledger.Row{
		Machine: machine, Epoch: epoch, Seq: seq, ServiceDate: "2018-06-12", EventTime: Start(), AmountMinor: 225, Currency: "USD",
		Vehicle: "v", ReceivedAt: Start(), Record: fmt.Appendf(nil, "record %d", seq),
	}
}

func day(machine, date string, first, last uint32) ledger.Day {
	return ledger.Day{
		Machine: machine, ServiceDate: date, Epoch: 1, Currency: "USD",
		First: first, Last: last, Records: uint64(last - first + 1), SumMinor: int64(last-first+1) * -225,
	}
}

func bad(seq uint32, kind ledger.Kind, record string) ledger.Quarantined {
	return ledger.Quarantined{
		Machine: "m", Epoch: 1, Seq: seq, Kind: kind, Detail: "why", Vehicle: "v",
		Record: []byte(record), Held: []byte("held"), FirstAt: Start(), LastAt: Start(), Times: 1,
	}
}

func allOrNothing(t *testing.T, s ledger.Store) {
	boom := errors.New("boom")
	steps := []func(ledger.Tx) error{
		func(tx ledger.Tx) error { return tx.Append([]ledger.Row{row("m", 1, 1)}) },
		func(tx ledger.Tx) error {
			return tx.ReplaceSpans("m", 1, nil, ledger.Spans{{First: 1, Last: 1}})
		},
		func(tx ledger.Tx) error { return tx.AddDays([]ledger.Day{day("m", "2018-06-12", 1, 1)}) },
		func(tx ledger.Tx) error {
			return tx.Quarantine([]ledger.Quarantined{bad(1, ledger.Forged, "x")})
		},
	}
	for fail := range len(steps) + 1 {
		err := s.Update(context.Background(), func(tx ledger.Tx) error {
			for _, step := range steps[:fail] {
				if err := step(tx); err != nil {
					return err
				}
			}
			return boom
		})
		if !errors.Is(err, boom) {
			t.Fatalf("the caller's error became %v", err)
		}
	}
	view(t, s, func(v ledger.View) error {
		machines, err := v.Machines("", 10)
		kinds, err2 := v.CountQuarantined("", "")
		if len(machines) != 0 || len(kinds) != 0 {
			t.Errorf("left behind: machines %v, evidence %v", machines, kinds)
		}
		return errors.Join(err, err2)
	})
	update(t, s, func(tx ledger.Tx) error {
		for _, step := range steps {
			if err := step(tx); err != nil {
				return err
			}
		}
		got, err := tx.Spans("m", 1, ledger.Every(), 0) // its own writes
		if len(got) != 1 {
			t.Errorf("a transaction does not see what it wrote: %v", got)
		}
		return err
	})
}

func keysOnce(t *testing.T, s ledger.Store) {
	twice := s.Update(context.Background(), func(tx ledger.Tx) error { return tx.Append([]ledger.Row{row("m", 1, 1), row("m", 1, 1)}) })
	if twice == nil {
		t.Error("one key twice in a transaction")
	}
	update(t, s, func(tx ledger.Tx) error {
		return tx.Append([]ledger.Row{row("m", 1, 1), row("m", 2, 1), row("n", 1, 1), row("m", 1, 2)})
	})
	again := s.Update(context.Background(), func(tx ledger.Tx) error { return tx.Append([]ledger.Row{row("m", 1, 2)}) })
	if again == nil {
		t.Error("one key twice in two transactions")
	}
	gone := s.Update(context.Background(), func(tx ledger.Tx) error { return tx.ReplaceSpans("m", 1, ledger.Spans{{First: 1, Last: 2}}, nil) })
	if gone == nil {
		t.Error("a span was taken away that is not there")
	}
}

func spans(t *testing.T, s ledger.Store) {
	all := ledger.Spans{{First: 2, Last: 10}, {First: 12, Last: 12}, {First: 20, Last: 4294967295}}
	update(t, s, func(tx ledger.Tx) error {
		if err := tx.ReplaceSpans("m", 1, nil, ledger.Spans{{First: 2, Last: 5}, {First: 7, Last: 9}, {First: 12, Last: 12}}); err != nil {
			return err
		}
		if err := tx.ReplaceSpans("m", 2, nil, ledger.Spans{{First: 1, Last: 99}}); err != nil {
			return err
		}
		return tx.ReplaceSpans("m", 1, ledger.Spans{{First: 2, Last: 5}, {First: 7, Last: 9}, {First: 12, Last: 12}}, all)
	})
	view(t, s, func(v ledger.View) error {
		for _, c := range []struct {
			over  ledger.Span
			limit int
			want  ledger.Spans
		}{
			{ledger.Every(), 0, all},
			{ledger.Every(), 2, all[:2]},
			{ledger.Span{First: 1, Last: 1}, 0, nil},
			{ledger.Span{First: 1, Last: 2}, 0, all[:1]},
			{ledger.Span{First: 5, Last: 6}, 0, all[:1]},
			{ledger.Span{First: 10, Last: 12}, 0, all[:2]},
			{ledger.Span{First: 11, Last: 11}, 0, nil},
			{ledger.Span{First: 13, Last: 19}, 0, nil},
			{ledger.Span{First: 13, Last: 20}, 0, all[2:]},
			{ledger.Span{First: 4294967295, Last: 4294967295}, 0, all[2:]},
		} {
			got, err := v.Spans("m", 1, c.over, c.limit)
			if diff := cmp.Diff(c.want, got); err != nil || diff != "" {
				t.Errorf("over %v, limit %d: %v %s", c.over, c.limit, err, diff)
			}
		}
		return nil
	})
}

func records(t *testing.T, s ledger.Store) {
	var all []ledger.Row
	for seq := uint32(1); seq <= 20; seq++ {
		all = append(all, row("m", 1, seq))
	}
	shuffled := slices.Concat(all[10:], all[:10], []ledger.Row{row("m", 2, 5), row("n", 1, 5)})
	update(t, s, func(tx ledger.Tx) error { return tx.Append(shuffled) })
	stop := errors.New("stop")
	view(t, s, func(v ledger.View) error {
		var got []ledger.Row
		err := v.Records("m", 1, ledger.Span{First: 3, Last: 17}, func(r ledger.Row) error {
			got = append(got, r)
			return nil
		})
		if diff := cmp.Diff(all[2:17], got); err != nil || diff != "" {
			t.Errorf("%v %s", err, diff)
		}
		calls := 0
		if err := v.Records("m", 1, ledger.Every(), func(ledger.Row) error { calls++; return stop }); !errors.Is(err, stop) || calls != 1 {
			t.Errorf("%d calls, error %v", calls, err)
		}
		return nil
	})
}

func days(t *testing.T, s ledger.Store) {
	for _, d := range [][]ledger.Day{
		{day("m", "2018-06-12", 5, 9), day("n", "2018-06-12", 1, 1)},
		{day("m", "2018-06-13", 10, 12)},
		{day("m", "2018-06-12", 1, 4)},
		{day("m", "2018-06-12", 13, 13)},
	} {
		update(t, s, func(tx ledger.Tx) error { return tx.AddDays(d) })
	}
	sum := day("m", "2018-06-12", 1, 13)
	sum.Records, sum.SumMinor = 10, -2250
	second, other := day("m", "2018-06-13", 10, 12), day("n", "2018-06-12", 1, 1)
	view(t, s, func(v ledger.View) error {
		for _, c := range []struct {
			machine, from, to string
			want              []ledger.Day
		}{
			{"", "", "", []ledger.Day{sum, second, other}},
			{"m", "", "", []ledger.Day{sum, second}},
			{"m", "2018-06-13", "", []ledger.Day{second}},
			{"", "", "2018-06-12", []ledger.Day{sum, other}},
			{"", "2018-06-14", "2018-06-20", nil},
		} {
			var got []ledger.Day
			err := v.Days(c.machine, c.from, c.to, func(d ledger.Day) error {
				got = append(got, d)
				return nil
			})
			if diff := cmp.Diff(c.want, got); err != nil || diff != "" {
				t.Errorf("machine %q, %s to %s: %v %s", c.machine, c.from, c.to, err, diff)
			}
		}
		return nil
	})
}

func evidence(t *testing.T, s ledger.Store) {
	again := bad(1, ledger.Forged, "x")
	again.LastAt = Start().AddDate(0, 0, 1)
	other := bad(7, ledger.Conflict, "y")
	other.Machine, other.Vehicle, other.Held = "n", "w", nil
	update(t, s, func(tx ledger.Tx) error {
		return tx.Quarantine([]ledger.Quarantined{bad(1, ledger.Forged, "x"), bad(1, ledger.Forged, "z"), bad(1, ledger.Malformed, "x"), other, again})
	})
	first := again
	first.Times = 2
	want := []ledger.Quarantined{first, bad(1, ledger.Forged, "z"), bad(1, ledger.Malformed, "x"), other}
	view(t, s, func(v ledger.View) error {
		var got []ledger.Quarantined
		for after := int64(0); ; { // a page of one at a time
			n := len(got)
			if err := v.Quarantined("", after, 1, func(q ledger.Quarantined) error {
				if q.ID <= after {
					t.Errorf("ID %d after %d", q.ID, after)
				}
				after, q.ID = q.ID, 0
				got = append(got, q)
				return nil
			}); err != nil {
				return err
			}
			if len(got) == n {
				break
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		keys := map[string]int{}
		err := v.Evidence("m", func(epoch, seq uint32, kind ledger.Kind) error {
			keys[fmt.Sprint(epoch, seq, kind)]++
			return nil
		})
		if diff := cmp.Diff(map[string]int{fmt.Sprint(1, 1, ledger.Forged): 2, fmt.Sprint(1, 1, ledger.Malformed): 1}, keys); err != nil || diff != "" {
			t.Errorf("evidence: %v %s", err, diff)
		}
		for _, c := range []struct {
			machine, vehicle string
			want             map[ledger.Kind]int
		}{
			{"", "", map[ledger.Kind]int{ledger.Forged: 2, ledger.Malformed: 1, ledger.Conflict: 1}},
			{"m", "", map[ledger.Kind]int{ledger.Forged: 2, ledger.Malformed: 1}},
			{"", "w", map[ledger.Kind]int{ledger.Conflict: 1}},
			{"m", "w", map[ledger.Kind]int{}},
		} {
			counts, err := v.CountQuarantined(c.machine, c.vehicle)
			if diff := cmp.Diff(c.want, counts); err != nil || diff != "" {
				t.Errorf("machine %q, vehicle %q: %v %s", c.machine, c.vehicle, err, diff)
			}
		}
		return nil
	})
}

func machines(t *testing.T, s ledger.Store) {
	update(t, s, func(tx ledger.Tx) error {
		for _, m := range []string{"b", "a", "c", "d"} {
			for _, epoch := range []uint32{1, 3, 2} {
				if err := tx.Append([]ledger.Row{row(m, epoch, 1), row(m, epoch, 2)}); err != nil {
					return err
				}
				if err := tx.ReplaceSpans(m, epoch, nil, ledger.Spans{{First: 1, Last: 2}}); err != nil {
					return err
				}
			}
		}
		return nil
	})
	view(t, s, func(v ledger.View) error {
		for _, c := range []struct {
			after string
			limit int
			want  []string
		}{{"", 9, []string{"a", "b", "c", "d"}}, {"", 2, []string{"a", "b"}}, {"b", 9, []string{"c", "d"}}, {"d", 9, nil}} {
			got, err := v.Machines(c.after, c.limit)
			if diff := cmp.Diff(c.want, got); err != nil || diff != "" {
				t.Errorf("after %q: %v %s", c.after, err, diff)
			}
		}
		epochs, err := v.Epochs("b")
		if diff := cmp.Diff([]uint32{3, 2, 1}, epochs); diff != "" {
			t.Error(diff)
		}
		none, err2 := v.Epochs("z")
		if len(none) != 0 {
			t.Errorf("epochs of nobody: %v", none)
		}
		complete := 0
		err3 := v.Complete(func(_ string, epoch, to uint32) error {
			if epoch != 3 || to != 2 {
				t.Errorf("complete: epoch %d to %d", epoch, to)
			}
			complete++
			return nil
		})
		if complete != 4 {
			t.Errorf("%d machines are complete", complete)
		}
		return errors.Join(err, err2, err3)
	})
}

func nearOverflow(t *testing.T, s ledger.Store) {
	rich := day("m", "2018-06-12", 1, 1)
	for _, sum := range []int64{5e18, 5e18, -5e18, -5e18, -5e18} {
		rich.SumMinor = sum
		err := s.Update(context.Background(), func(tx ledger.Tx) error { return tx.AddDays([]ledger.Day{rich}) })
		if err != nil && !errors.Is(err, ledger.ErrOverflow) {
			t.Fatal(err)
		}
	}
	view(t, s, func(v ledger.View) error {
		return v.Days("m", "", "", func(d ledger.Day) error { // +5, not +5, -5, -5, not -5
			if d.SumMinor != -5e18 || d.Records != 3 {
				t.Errorf("the sum is %d of %d records", d.SumMinor, d.Records)
			}
			return nil
		})
	})
}

func issue(machine, date string, revision uint32, complete bool, records uint64) ledger.Issued {
	return ledger.Issued{
		Machine: machine, ServiceDate: date, Revision: revision, IssuedAt: Start().AddDate(0, 0, int(revision)),
		Complete: complete, Records: records, Body: fmt.Appendf(nil, "%s %s %d", machine, date, revision),
	}
}

func certificates(t *testing.T, s ledger.Store) {
	all := []ledger.Issued{
		issue("m", "2018-06-12", 1, false, 9), issue("m", "2018-06-12", 2, true, 10), issue("n", "2018-06-12", 1, true, 1), issue("m", "2018-06-13", 1, true, 3),
	}
	update(t, s, func(tx ledger.Tx) error {
		for _, c := range []int{3, 1, 2, 0} {
			if err := tx.Issue(all[c]); err != nil {
				return err
			}
		}
		return nil
	})
	if s.Update(context.Background(), func(tx ledger.Tx) error { return tx.Issue(issue("m", "2018-06-12", 2, false, 99)) }) == nil {
		t.Error("a revision was issued twice")
	}
	view(t, s, func(v ledger.View) error {
		newest, err := v.Issued("m", "2018-06-12")
		if diff := cmp.Diff(&all[1], newest); err != nil || diff != "" {
			t.Errorf("%v %s", err, diff)
		}
		if none, err := v.Issued("n", "2018-06-13"); none != nil || err != nil {
			t.Errorf("a certificate of nothing: %v, %v", none, err)
		}
		for _, c := range []struct {
			machine, from, to string
			want              []ledger.Issued
		}{
			{"", "", "", all},
			{"m", "", "", []ledger.Issued{all[0], all[1], all[3]}},
			{"", "2018-06-13", "", all[3:]},
			{"n", "", "2018-06-12", all[2:3]},
		} {
			var got []ledger.Issued
			err := v.EachIssued(c.machine, c.from, c.to, func(i ledger.Issued) error { got = append(got, i); return nil })
			if diff := cmp.Diff(c.want, got); err != nil || diff != "" {
				t.Errorf("machine %q, %s to %s: %v %s", c.machine, c.from, c.to, err, diff)
			}
		}
		return nil
	})
}

func toIssue(t *testing.T, s ledger.Store) {
	late := bad(1, ledger.Conflict, "x")
	late.Machine, late.FirstAt = "conflicted", Start().AddDate(0, 0, 9)
	old := late
	old.Machine, old.FirstAt, old.Record = "looked at", Start(), []byte("y")
	yen := day("grown", "2018-06-12", 3, 3)
	yen.Currency = "JPY"
	update(t, s, func(tx ledger.Tx) error {
		for _, m := range []string{"new", "done", "open", "grown", "conflicted", "looked at"} {
			if err := tx.AddDays([]ledger.Day{day(m, "2018-06-12", 1, 2), day(m, "2018-06-20", 9, 9)}); err != nil {
				return err
			}
			if m != "new" {
				if err := tx.Issue(issue(m, "2018-06-12", 1, false, 1)); err != nil {
					return err
				}
				if err := tx.Issue(issue(m, "2018-06-12", 2, m != "open", 2)); err != nil {
					return err
				}
			}
		}
		return errors.Join(tx.AddDays([]ledger.Day{yen, day("done", "2018-06-10", 1, 1)}), tx.Quarantine([]ledger.Quarantined{late, old}))
	})
	view(t, s, func(v ledger.View) error {
		for date, want := range map[string][]string{
			"2018-06-12": {"conflicted", "grown", "new", "open"}, "2018-06-10": {"done"}, "2018-06-11": nil,
			"2018-06-20": {"conflicted", "done", "grown", "looked at", "new", "open"},
		} {
			got, err := v.ToIssue(date)
			if diff := cmp.Diff(want, got); err != nil || diff != "" {
				t.Errorf("%s: %v %s", date, err, diff)
			}
		}
		return nil
	})
}
