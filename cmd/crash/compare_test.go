//go:build unix

package main

import (
	"fmt"
	"strings"
	"testing"
)

// sound is a run on which all is well: two machines, one of them with two epochs, and a record that was not witnessed
// because a kill came between disk and word.
func sound() Evidence {
	var e Evidence
	add := func(machine string, epoch, last uint32) {
		for seq := uint32(1); seq <= last; seq++ {
			s := Stored{Key{machine, epoch, seq}, fmt.Sprintf("%s-%d-%d", machine, epoch, seq), int64(100 * seq)}
			if seq != 3 {
				e.Witnessed = append(e.Witnessed, s)
			}
			e.Ledger = append(e.Ledger, s)
		}
		e.Journals = append(e.Journals, Written{Machine: machine, Epoch: epoch, Last: last, Released: last})
	}
	add("1-1", 1, 5)
	add("1-1", 2, 4)
	add("2-1", 1, 7)
	return e
}

func TestCompareFindsNothingWhereAllIsWell(t *testing.T) {
	if v := Compare(sound()); !v.Good() || v.String() != "lost 0, doubled 0, conflicts 0, stuck faults 0" {
		t.Errorf("%s: %q", &v, v.Findings)
	}
}

func TestCompareFinds(t *testing.T) {
	drop := func(list []Stored, k Key) []Stored {
		var out []Stored
		for _, s := range list {
			if s.Key != k {
				out = append(out, s)
			}
		}
		return out
	}
	at := Key{"1-1", 1, 4}
	tests := map[string]struct {
		harm func(e *Evidence)
		want string // begins with
	}{
		"a lost record":                       {func(e *Evidence) { e.Ledger = drop(e.Ledger, at) }, "lost 1, doubled 0, conflicts 0,"},
		"a lost record that nobody witnessed": {func(e *Evidence) { e.Ledger = drop(e.Ledger, Key{"2-1", 1, 3}) }, "lost 1,"},
		"a lost record of which the journal forgot": {func(e *Evidence) {
			e.Ledger, e.Journals[2].Last, e.Journals[2].Released = drop(e.Ledger, Key{"2-1", 1, 7}), 6, 6
		}, "lost 1,"},
		"a row twice":                           {func(e *Evidence) { e.Ledger = append(e.Ledger, e.Ledger[2]) }, "lost 0, doubled 1,"},
		"the same bytes under another number":   {func(e *Evidence) { e.Ledger[1].SHA256 = e.Ledger[0].SHA256 }, "lost 0, doubled 1,"},
		"a row that the machine never wrote":    {func(e *Evidence) { e.Ledger = append(e.Ledger, Stored{Key{"1-1", 1, 6}, "x", 1}) }, "lost 0, doubled 1,"},
		"a row of an epoch that never was":      {func(e *Evidence) { e.Ledger = append(e.Ledger, Stored{Key{"1-1", 9, 1}, "x", 1}) }, "lost 0, doubled 1,"},
		"other bytes":                           {func(e *Evidence) { e.Ledger[0].SHA256 = "x" }, "lost 0, doubled 0, conflicts 0, stuck faults 0, altered 1"},
		"another amount":                        {func(e *Evidence) { e.Ledger[0].Amount++ }, "lost 0, doubled 0, conflicts 0, stuck faults 0, altered 1"},
		"a number used for two records":         {func(e *Evidence) { e.Witnessed = append(e.Witnessed, Stored{at, "x", 1}) }, "lost 0, doubled 0, conflicts 1,"},
		"a record in quarantine":                {func(e *Evidence) { e.Quarantined = 2 }, "lost 0, doubled 0, conflicts 2,"},
		"a stuck fault":                         {func(e *Evidence) { e.OpenFaults = 1 }, "lost 0, doubled 0, conflicts 0, stuck faults 1"},
		"a record that the machine still keeps": {func(e *Evidence) { e.Journals[0].Released = 3 }, "lost 0, doubled 0, conflicts 0, stuck faults 0, not released 2"},
		"damage in a journal":                   {func(e *Evidence) { e.Journals[0].Lost = [][2]uint32{{2, 3}} }, "lost 0, doubled 0, conflicts 0, stuck faults 0, damaged in a journal 2"},
		"a broken chain":                        {func(e *Evidence) { e.Problems = 1 }, "lost 0, doubled 0, conflicts 0, stuck faults 0, not proved 1"},
		"a gap":                                 {func(e *Evidence) { e.Missing = 1 }, "lost 0, doubled 0, conflicts 0, stuck faults 0, not proved 1"},
		"a slot at the broker":                  {func(e *Evidence) { e.Slots = 1 }, "lost 0, doubled 0, conflicts 0, stuck faults 0, slots left 1"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			e := sound()
			tt.harm(&e)
			v := Compare(e)
			if v.Good() || !strings.HasPrefix(v.String(), tt.want) || len(v.Findings) == 0 {
				t.Errorf("%s, want %s: %q", &v, tt.want, v.Findings)
			}
		})
	}
	e := sound()
	e.Ledger = drop(e.Ledger, at)
	if v := Compare(e); v.First == nil || *v.First != at {
		t.Errorf("the first record is %v, want %v", v.First, at)
	}
}

func TestCompareBoundsItsFindings(t *testing.T) {
	e := sound()
	for i := range uint32(1000) {
		e.Witnessed = append(e.Witnessed, Stored{Key{"2-1", 5, i + 1}, "x", 1})
	}
	if v := Compare(e); v.Lost != 1000 || len(v.Findings) != maxFindings {
		t.Errorf("%d lost, %d findings", v.Lost, len(v.Findings))
	}
}
