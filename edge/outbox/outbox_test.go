package outbox_test

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/edge/outbox"
	"github.com/farebeat/farebeat/schemas"
)

var start = time.Date(2026, 3, 1, 6, 0, 0, 0, time.UTC)

func body(machine string, epoch, seq uint32) []byte {
	return fmt.Appendf(nil, `{"machine":%q,"epoch":%d,"seq":%d,"evidence":"%s"}`, machine, epoch, seq, strings.Repeat("x", 150))
}

func records(machine string, epoch, first, last uint32) []outbox.Record {
	var out []outbox.Record
	for seq := uint64(first); seq <= uint64(last); seq++ {
		out = append(out, outbox.Record{Epoch: epoch, Seq: uint32(seq), Body: body(machine, epoch, uint32(seq))})
	}
	return out
}

func open(t testing.TB, path string) *outbox.Outbox {
	t.Helper()
	o, err := outbox.Open(t.Context(), path, outbox.Options{Now: func() time.Time { return start }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := o.Close(); err != nil {
			t.Error(err)
		}
	})
	return o
}

func fresh(t testing.TB) *outbox.Outbox {
	return open(t, filepath.Join(t.TempDir(), "edge", "outbox.db"))
}

func appendAll(t testing.TB, o *outbox.Outbox, machine string, rs []outbox.Record) outbox.Outcome {
	t.Helper()
	out, err := o.Append(t.Context(), machine, rs)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func seal(t testing.TB, o *outbox.Outbox, machine string, mode outbox.Mode) []outbox.BatchID {
	t.Helper()
	ids, err := o.Seal(t.Context(), machine, mode)
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

func receipt(machine string, epoch, completeTo, highest uint32, gaps ...[2]uint32) schemas.Receipt {
	return schemas.Receipt{Machine: machine, AsOf: start, Epochs: []schemas.EpochReceipt{{
		Epoch: epoch, CompleteTo: completeTo, Highest: highest, Gaps: gaps, MAC: strings.Repeat("A", 43),
	}}}
}

func take(t testing.TB, o *outbox.Outbox, r schemas.Receipt) []outbox.BatchID {
	t.Helper()
	gone, err := o.Receipt(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return gone
}

func id(machine string, epoch, first, last uint32) outbox.BatchID {
	return outbox.BatchID{Machine: machine, Epoch: epoch, First: first, Last: last}
}

func wantHeld(t testing.TB, o *outbox.Outbox, machine string, want map[uint32]outbox.Intervals) {
	t.Helper()
	got, err := o.Held(t.Context(), machine)
	if err != nil {
		t.Fatal(err)
	}
	for epoch, set := range got {
		if len(set) == 0 {
			delete(got, epoch)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("held (-want +got):\n%s", diff)
	}
}

func wantOpen(t testing.TB, o *outbox.Outbox, want ...outbox.BatchID) {
	t.Helper()
	got, err := o.OpenBatches(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("open batches (-want +got):\n%s", diff)
	}
}

func TestRecordsComeBackAsTheyWent(t *testing.T) {
	o := fresh(t)
	if got := appendAll(t, o, "m-1", records("m-1", 3, 1, 250)); got != (outbox.Outcome{New: 250}) {
		t.Fatalf("outcome %+v", got)
	}
	appendAll(t, o, "m-2", records("m-2", 1, 7, 9))
	if got := seal(t, o, "m-1", outbox.FullBatches); !cmp.Equal(got, []outbox.BatchID{id("m-1", 3, 1, 200)}) {
		t.Fatalf("full batches: %v", got)
	}
	if got, err := o.Unsealed(t.Context()); err != nil || !cmp.Equal(got, []string{"m-1", "m-2"}) {
		t.Fatalf("unsealed: %v, %v", got, err)
	}
	if got := seal(t, o, "m-1", outbox.Everything); !cmp.Equal(got, []outbox.BatchID{id("m-1", 3, 201, 250)}) {
		t.Fatalf("the rest: %v", got)
	}
	if got := seal(t, o, "m-1", outbox.Everything); got != nil {
		t.Fatalf("sealed twice: %v", got)
	}
	wantOpen(t, o, id("m-1", 3, 1, 200), id("m-1", 3, 201, 250))
	b, err := o.Load(t.Context(), id("m-1", 3, 201, 250))
	if err != nil {
		t.Fatal(err)
	}
	if !b.SealedAt.Equal(start) || len(b.Records) != 50 {
		t.Fatalf("batch of %d records sealed at %v", len(b.Records), b.SealedAt)
	}
	for i, got := range b.Records {
		if want := body("m-1", 3, uint32(201+i)); !bytes.Equal(got, want) {
			t.Fatalf("record %d is %q, want %q", 201+i, got, want)
		}
	}
}

func TestDuplicatesCostNothing(t *testing.T) {
	o := fresh(t)
	appendAll(t, o, "m-1", records("m-1", 3, 1, 20))
	got := appendAll(t, o, "m-1", records("m-1", 3, 11, 30))
	if want := (outbox.Outcome{New: 10, Duplicate: 10}); got != want {
		t.Fatalf("outcome %+v, want %+v", got, want)
	}
	// The same record twice in one call.
	got = appendAll(t, o, "m-1", append(records("m-1", 3, 31, 31), records("m-1", 3, 31, 31)...))
	if want := (outbox.Outcome{New: 1, Duplicate: 1}); got != want {
		t.Fatalf("outcome %+v, want %+v", got, want)
	}
	wantHeld(t, o, "m-1", map[uint32]outbox.Intervals{3: {{First: 1, Last: 31}}})
}

func TestConflictKeepsBoth(t *testing.T) {
	o := fresh(t)
	appendAll(t, o, "m-1", records("m-1", 3, 1, 3))
	other := outbox.Record{Epoch: 3, Seq: 2, Body: []byte(`{"forged":true}`)}
	for range 2 { // the second time, it is in quarantine already
		if got := appendAll(t, o, "m-1", []outbox.Record{other}); got != (outbox.Outcome{Conflict: 1}) {
			t.Fatalf("outcome %+v", got)
		}
	}
	q, err := o.Quarantine(t.Context(), "m-1")
	if err != nil {
		t.Fatal(err)
	}
	want := []outbox.Quarantined{{Machine: "m-1", Record: other, Reason: "the same key with other bytes", At: start}}
	if diff := cmp.Diff(want, q); diff != "" {
		t.Fatalf("quarantine (-want +got):\n%s", diff)
	}
	seal(t, o, "m-1", outbox.Everything)
	b, err := o.Load(t.Context(), id("m-1", 3, 1, 3))
	if err != nil || !bytes.Equal(b.Records[1], body("m-1", 3, 2)) {
		t.Fatalf("the first record was replaced: %q, %v", b.Records, err)
	}
	take(t, o, receipt("m-1", 3, 3, 3))
	if s, err := o.Stats(t.Context()); err != nil || s != (outbox.Stats{SlotsToClear: 1, Quarantined: 1}) {
		t.Fatalf("after the receipt: %+v, %v", s, err)
	}
}

func TestOnlyACoveringReceiptFrees(t *testing.T) {
	whole := map[uint32]outbox.Intervals{3: {{First: 1, Last: 250}}, 4: {{First: 1, Last: 10}}}
	first, second, fourth := id("m-1", 3, 1, 200), id("m-1", 3, 201, 250), id("m-1", 4, 1, 10)
	for name, c := range map[string]struct {
		receipt schemas.Receipt
		gone    []outbox.BatchID
		held    map[uint32]outbox.Intervals
	}{
		"nothing held":          {receipt("m-1", 3, 0, 0), nil, whole},
		"no epoch at all":       {schemas.Receipt{Machine: "m-1"}, nil, whole},
		"one record short":      {receipt("m-1", 3, 199, 199), nil, whole},
		"a gap in the middle":   {receipt("m-1", 3, 99, 200, [2]uint32{100, 100}), nil, whole},
		"a gap at the very end": {receipt("m-1", 3, 199, 200, [2]uint32{200, 200}), nil, whole},
		"another machine":       {receipt("m-2", 3, 250, 250), nil, whole},
		"another epoch":         {receipt("m-1", 2, 250, 250), nil, whole},
		"the first batch": {
			receipt("m-1", 3, 230, 230),
			[]outbox.BatchID{first},
			map[uint32]outbox.Intervals{3: {{First: 201, Last: 250}}, 4: {{First: 1, Last: 10}}},
		},
		"the second, the first has a gap": {
			receipt("m-1", 3, 4, 250, [2]uint32{5, 6}),
			[]outbox.BatchID{second},
			map[uint32]outbox.Intervals{3: {{First: 1, Last: 200}}, 4: {{First: 1, Last: 10}}},
		},
		"all, and more": {
			schemas.Receipt{Machine: "m-1", Epochs: []schemas.EpochReceipt{{Epoch: 4, CompleteTo: 10, Highest: 10}, {Epoch: 3, CompleteTo: 900, Highest: 900}}},
			[]outbox.BatchID{first, second, fourth},
			map[uint32]outbox.Intervals{},
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := fresh(t)
			appendAll(t, o, "m-1", append(records("m-1", 3, 1, 250), records("m-1", 4, 1, 10)...))
			seal(t, o, "m-1", outbox.Everything)
			for range 2 { // the same receipt again changes nothing more
				gone := take(t, o, c.receipt)
				if diff := cmp.Diff(c.gone, gone); diff != "" {
					t.Fatalf("cleared (-want +got):\n%s", diff)
				}
				c.gone = nil
				wantHeld(t, o, "m-1", c.held)
			}
			got, ok, err := o.LatestReceipt(t.Context(), c.receipt.Machine)
			if err != nil || !ok || !cmp.Equal(got, c.receipt) {
				t.Fatalf("latest receipt %+v, %v, %v", got, ok, err)
			}
		})
	}
}

func TestAReceiptThatContradictsItselfChangesNothing(t *testing.T) {
	for want, r := range map[string]schemas.Receipt{
		"complete to 9 but speaks only of records up to 5": receipt("m-1", 3, 9, 5),
		"gap 7-6 does not lie within 1-9":                  receipt("m-1", 3, 0, 9, [2]uint32{7, 6}),
		"gap 0-3 does not lie within 1-9":                  receipt("m-1", 3, 0, 9, [2]uint32{0, 3}),
		"gap 8-10 does not lie within 1-9":                 receipt("m-1", 3, 0, 9, [2]uint32{8, 10}),
		"gap 4-6 is out of order":                          receipt("m-1", 3, 0, 9, [2]uint32{5, 7}, [2]uint32{4, 6}),
		"complete to 5 but has a gap 5-6":                  receipt("m-1", 3, 5, 9, [2]uint32{5, 6}),
		"speaks of epoch 3 twice": {Machine: "m-1", Epochs: []schemas.EpochReceipt{
			{Epoch: 3, CompleteTo: 9, Highest: 9}, {Epoch: 3, CompleteTo: 1, Highest: 1},
		}},
		"it names no machine": receipt("", 3, 9, 9),
	} {
		t.Run(want, func(t *testing.T) {
			o := fresh(t)
			appendAll(t, o, "m-1", records("m-1", 3, 1, 9))
			seal(t, o, "m-1", outbox.Everything)
			gone, err := o.Receipt(t.Context(), r)
			if err == nil || !strings.Contains(err.Error(), want) || gone != nil {
				t.Fatalf("cleared %v, error %v", gone, err)
			}
			wantHeld(t, o, "m-1", map[uint32]outbox.Intervals{3: {{First: 1, Last: 9}}})
			if _, ok, err := o.LatestReceipt(t.Context(), "m-1"); ok || err != nil {
				t.Fatalf("the receipt was kept: %v, %v", ok, err)
			}
		})
	}
}

func TestAReceiptFreesWhatWasNeverSealed(t *testing.T) {
	o := fresh(t)
	appendAll(t, o, "m-1", records("m-1", 3, 1, 20))
	take(t, o, receipt("m-1", 3, 4, 12, [2]uint32{5, 8}))
	wantHeld(t, o, "m-1", map[uint32]outbox.Intervals{3: {{First: 5, Last: 8}, {First: 13, Last: 20}}})
	if got := appendAll(t, o, "m-1", records("m-1", 3, 3, 6)); got != (outbox.Outcome{Covered: 2, Duplicate: 2}) {
		t.Fatalf("outcome %+v", got)
	}
}

// A ledger restored from a backup holds less than it once said: what it lost is
// wanted again, and the slot that was to be cleared is in use again.
func TestALedgerThatLostRecordsGetsThemAgain(t *testing.T) {
	o := fresh(t)
	appendAll(t, o, "m-1", records("m-1", 3, 1, 9))
	seal(t, o, "m-1", outbox.Everything)
	take(t, o, receipt("m-1", 3, 9, 9))
	if got, err := o.SlotsToClear(t.Context()); err != nil || !cmp.Equal(got, []outbox.BatchID{id("m-1", 3, 1, 9)}) {
		t.Fatalf("slots to clear %v, %v", got, err)
	}
	take(t, o, receipt("m-1", 3, 0, 0))
	if got := appendAll(t, o, "m-1", records("m-1", 3, 1, 9)); got.New != 9 {
		t.Fatalf("outcome %+v", got)
	}
	seal(t, o, "m-1", outbox.Everything)
	if got, err := o.SlotsToClear(t.Context()); err != nil || got != nil {
		t.Fatalf("the slot in use would be cleared: %v, %v", got, err)
	}
	wantOpen(t, o, id("m-1", 3, 1, 9))
}

func TestAFullOutboxPushesBack(t *testing.T) {
	o := fresh(t)
	limit := uint32(schemas.MaxOpenBatches * schemas.MaxBatch)
	for first := uint32(1); first < limit; first += 1600 {
		appendAll(t, o, "m-1", records("m-1", 3, first, first+1599))
	}
	if _, err := o.Append(t.Context(), "m-1", records("m-1", 3, limit+1, limit+1)); !errors.Is(err, outbox.ErrFull) {
		t.Fatalf("error %v", err)
	}
	appendAll(t, o, "m-2", records("m-2", 3, 1, 1)) // another machine is not held up
	if got := seal(t, o, "m-1", outbox.Everything); len(got) != schemas.MaxOpenBatches {
		t.Fatalf("%d batches", len(got))
	}
	if _, err := o.Append(t.Context(), "m-1", records("m-1", 3, limit+1, limit+1)); !errors.Is(err, outbox.ErrFull) {
		t.Fatalf("error %v", err)
	}
	wantHeld(t, o, "m-1", map[uint32]outbox.Intervals{3: {{First: 1, Last: limit}}})
	take(t, o, receipt("m-1", 3, 200, 200))
	appendAll(t, o, "m-1", records("m-1", 3, limit+1, limit+200))
	if _, err := o.Append(t.Context(), "m-1", records("m-1", 3, limit+201, limit+201)); !errors.Is(err, outbox.ErrFull) {
		t.Fatalf("error %v", err)
	}
}

func TestScatteredRecordsAlsoFillIt(t *testing.T) {
	o := fresh(t)
	for i := range uint32(schemas.MaxOpenBatches) {
		appendAll(t, o, "m-1", records("m-1", 3, 2*i+1, 2*i+1))
	}
	if _, err := o.Append(t.Context(), "m-1", records("m-1", 3, 999, 999)); !errors.Is(err, outbox.ErrFull) {
		t.Fatalf("error %v", err)
	}
	appendAll(t, o, "m-1", records("m-1", 3, 2, 2)) // this one joins two runs
	appendAll(t, o, "m-1", records("m-1", 3, 999, 999))
}

func TestAFullDiskLosesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "outbox.db")
	o, err := outbox.Open(t.Context(), path, outbox.Options{MaxBytes: 256 << 10, Now: func() time.Time { return start }})
	if err != nil {
		t.Fatal(err)
	}
	var stored uint32
	for {
		if _, err = o.Append(t.Context(), "m-1", records("m-1", 3, stored+1, stored+10)); err != nil {
			break
		}
		if stored += 10; stored > 5000 {
			t.Fatal("the limit of 256 KiB does not hold")
		}
	}
	if !errors.Is(err, outbox.ErrNoSpace) || !strings.Contains(err.Error(), "free space on the disk") {
		t.Fatalf("error %v", err)
	}
	if stored < 100 {
		t.Fatalf("only %d records fitted", stored)
	}
	wantHeld(t, o, "m-1", map[uint32]outbox.Intervals{3: {{First: 1, Last: stored}}})
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
	o = open(t, path)
	wantHeld(t, o, "m-1", map[uint32]outbox.Intervals{3: {{First: 1, Last: stored}}})
	appendAll(t, o, "m-1", records("m-1", 3, stored+1, stored+10))
}

func TestBadRecordsAreRefused(t *testing.T) {
	o := fresh(t)
	good := records("m-1", 3, 1, 1)
	for want, c := range map[string]struct {
		machine string
		record  outbox.Record
	}{
		"no machine": {"", good[0]},
		"record 3-0: epochs and sequence numbers":         {"m-1", outbox.Record{Epoch: 3, Body: []byte("{}")}},
		"record 0-3: epochs and sequence numbers":         {"m-1", outbox.Record{Seq: 3, Body: []byte("{}")}},
		"record 3-2 has 0 bytes, want 1 to 4096":          {"m-1", outbox.Record{Epoch: 3, Seq: 2}},
		"record 3-2 has 4097 bytes, want 1 to 4096":       {"m-1", outbox.Record{Epoch: 3, Seq: 2, Body: make([]byte, 4097)}},
		"machine m-1, record 9-4294967295 has 5000 bytes": {"m-1", outbox.Record{Epoch: 9, Seq: top, Body: make([]byte, 5000)}},
	} {
		_, err := o.Append(t.Context(), c.machine, append(good, c.record))
		if !errors.Is(err, outbox.ErrBadRecord) || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	wantHeld(t, o, "m-1", map[uint32]outbox.Intervals{}) // not even the good one beside the bad
}

func TestSessionNumbersGrow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "outbox.db")
	now := start
	var last uint64
	for range 3 {
		o, err := outbox.Open(t.Context(), path, outbox.Options{Now: func() time.Time { return now }})
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			n, err := o.NextSession(t.Context())
			if err != nil || n <= last {
				t.Fatalf("session %d after %d, %v", n, last, err)
			}
			last = n
		}
		now = now.Add(-time.Hour) // the clock is put back
		if err := o.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAHostileMachineCannotFillTheQuarantine(t *testing.T) {
	o := fresh(t)
	appendAll(t, o, "m-1", records("m-1", 3, 1, 1))
	forge := func(from, to int) []outbox.Record {
		var rs []outbox.Record
		for i := from; i < to; i++ {
			rs = append(rs, outbox.Record{Epoch: 3, Seq: 1, Body: fmt.Appendf(nil, `{"n":%d}`, i)})
		}
		return rs
	}
	appendAll(t, o, "m-1", forge(0, 1000))
	if _, err := o.Append(t.Context(), "m-1", forge(1000, 1001)); !errors.Is(err, outbox.ErrBadRecord) || !strings.Contains(err.Error(), "have the machine replaced") {
		t.Fatalf("error %v", err)
	}
	if s, err := o.Stats(t.Context()); err != nil || s != (outbox.Stats{Records: 1, Machines: 1, Quarantined: 1000}) {
		t.Fatalf("%+v, %v", s, err)
	}
}

func TestLoadOfAClosedBatch(t *testing.T) {
	o := fresh(t)
	appendAll(t, o, "m-1", records("m-1", 3, 1, 9))
	seal(t, o, "m-1", outbox.Everything)
	take(t, o, receipt("m-1", 3, 9, 9))
	if _, err := o.Load(t.Context(), id("m-1", 3, 1, 9)); !errors.Is(err, outbox.ErrNotFound) {
		t.Fatalf("error %v", err)
	}
	if err := o.SlotCleared(t.Context(), id("m-1", 3, 1, 9)); err != nil {
		t.Fatal(err)
	}
	if got, err := o.SlotsToClear(t.Context()); err != nil || got != nil {
		t.Fatalf("slots to clear %v, %v", got, err)
	}
}
