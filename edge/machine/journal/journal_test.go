package journal

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/schemas"
)

const (
	testDir     = "/journal"
	testMachine = "01216-1"
)

var testKey = bytes.Repeat([]byte{7}, 32)

func testTap(i int) *schemas.Transaction {
	return &schemas.Transaction{
		EventTime: time.Date(2026, 11, 22, 7, 0, i, 0, time.UTC), TZ: "Europe/Berlin", ServiceDate: "2026-11-22",
		AmountMinor: int64(200 + i), Currency: "EUR", FareAction: "Enter", Media: "Contactless bank card", TokenID: fmt.Sprintf("tok-%d", i), Offline: true,
	}
}

func openOn(t testing.TB, fsys filesystem, o Options) *Journal {
	t.Helper()
	o.filesystem = fsys
	j, err := Open(testDir, testMachine, testKey, o)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func fill(t testing.TB, j *Journal, n int) {
	t.Helper()
	for i := range n {
		if _, err := j.Append(testTap(i), 1); err != nil {
			t.Fatal(err)
		}
	}
}

// all reads every record without a receipt, by its key.
func all(t testing.TB, j *Journal) map[Ref][]byte {
	t.Helper()
	out := map[Ref][]byte{}
	for _, r := range j.Ranges() {
		for next := r.First; next < r.Next; {
			recs, err := j.Records(r.Epoch, next, 3)
			if err != nil {
				t.Fatal(err)
			}
			if len(recs) == 0 {
				t.Fatalf("range %+v has no record at %d", r, next)
			}
			for _, rec := range recs {
				out[Ref{rec.Epoch, rec.Seq}] = rec.Payload
				next = rec.Seq + 1
			}
		}
	}
	return out
}

func receipt(epoch, completeTo, highest uint32, gaps ...[2]uint32) []schemas.EpochReceipt {
	r := schemas.EpochReceipt{Epoch: epoch, CompleteTo: completeTo, Highest: highest, Gaps: gaps}
	r.MAC = schemas.ReceiptMAC(testKey, testMachine, r)
	return []schemas.EpochReceipt{r}
}

func TestAJournalOnTheRealDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	open := func() *Journal {
		j, err := Open(dir, testMachine, testKey, Options{SegmentBytes: 2000})
		if err != nil {
			t.Fatal(err)
		}
		return j
	}
	j := open()
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("a journal without records made its directory: %v", err)
	}
	fill(t, j, 20)
	if _, err := Open(dir, testMachine, testKey, Options{}); !errors.Is(err, errInUse) {
		t.Errorf("a second opening: %v", err)
	}
	want := all(t, j)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := j.Append(testTap(1), 1); !errors.Is(err, ErrClosed) {
		t.Errorf("append after Close: %v", err)
	}
	j = open()
	defer j.Close()
	if diff := cmp.Diff(want, all(t, j)); diff != "" {
		t.Fatalf("after opening again (-want +got):\n%s", diff)
	}
	if n, err := j.Verify(); n != 20 || err != nil {
		t.Errorf("verified %d: %v", n, err)
	}
	s := j.Stats()
	if s.Pending != 20 || s.PendingAmount != 20*200+190 || s.LastSeq != 20 || s.Epoch != 1 || !s.OldestPending.Equal(testTap(0).EventTime) {
		t.Errorf("stats %+v", s)
	}
	segments := func() int { return len(must(filepath.Glob(filepath.Join(dir, "*.seg")))) }
	before := segments()
	if n, err := j.Release(receipt(1, 20, 20)); n != 20 || err != nil {
		t.Fatalf("released %d: %v", n, err)
	}
	if before < 3 || segments() != 1 {
		t.Errorf("%d segments before the release, %d after", before, segments())
	}
	if s := j.Stats(); s.Pending != 0 || s.PendingAmount != 0 || s.Bytes != 0 || s.LastSeq != 20 || !s.OldestPending.IsZero() {
		t.Errorf("stats after the release %+v", s)
	}
	if ref, err := j.Append(testTap(0), 1); err != nil || ref != (Ref{1, 21}) {
		t.Errorf("next record is %+v: %v", ref, err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestRecordsLeaveOnlyByReceipt(t *testing.T) {
	forged := receipt(1, 5, 5)
	forged[0].CompleteTo, forged[0].Highest = 9, 9
	other := schemas.EpochReceipt{Epoch: 1, CompleteTo: 9, Highest: 9}
	other.MAC = schemas.ReceiptMAC(testKey, "01217-1", other)
	for name, tc := range map[string]struct {
		receipts []schemas.EpochReceipt
		released int
		err      error
	}{
		"nothing held":        {receipt(1, 0, 0), 0, nil},
		"complete to 4":       {receipt(1, 4, 4), 4, nil},
		"a gap":               {receipt(1, 4, 9, [2]uint32{5, 6}), 4, nil},
		"unknown old epoch":   {append(receipt(1, 3, 3), receipt(7, 0, 0)...), 3, nil},
		"forged":              {forged, 0, schemas.ErrMAC},
		"another machine's":   {[]schemas.EpochReceipt{other}, 0, schemas.ErrMAC},
		"good and forged":     {append(receipt(1, 4, 4), forged...), 0, schemas.ErrMAC},
		"more than written":   {receipt(1, 11, 11), 0, ErrAhead},
		"an epoch not begun":  {append(receipt(1, 2, 2), receipt(4, 1, 1)...), 2, ErrAhead},
		"twice, the longer":   {append(receipt(1, 2, 2), receipt(1, 6, 6)...), 6, nil},
		"twice, then shorter": {append(receipt(1, 6, 6), receipt(1, 2, 2)...), 6, nil},
	} {
		t.Run(name, func(t *testing.T) {
			disk := newPowerDisk()
			j := openOn(t, disk, Options{SegmentBytes: 1500})
			fill(t, j, 10)
			n, err := j.Release(tc.receipts)
			if n != tc.released || !errors.Is(err, tc.err) {
				t.Fatalf("released %d: %v", n, err)
			}
			left := all(t, j)
			if len(left) != 10-tc.released {
				t.Errorf("%d records are left", len(left))
			}
			if diff := cmp.Diff(left, all(t, openOn(t, disk, Options{}))); diff != "" {
				t.Errorf("opened again (-before +after):\n%s", diff)
			}
		})
	}
}

// A journal that was rolled back, or a machine that was cloned, must not give a
// number to a second record.
func TestAReceiptAheadBeginsAnEpochBeyondIt(t *testing.T) {
	j := openOn(t, newPowerDisk(), Options{})
	fill(t, j, 3)
	if _, err := j.Release(receipt(5, 8, 8)); !errors.Is(err, ErrAhead) {
		t.Fatal(err)
	}
	ref, err := j.Append(testTap(0), 1)
	if err != nil || ref != (Ref{6, 1}) {
		t.Errorf("next record is %+v: %v", ref, err)
	}
	if got := len(all(t, j)); got != 4 {
		t.Errorf("%d records, want the 3 old ones and the new one", got)
	}
}

func TestAFullJournalRefusesAndKeepsAll(t *testing.T) {
	var warned []int
	j := openOn(t, newPowerDisk(), Options{MaxRecords: 20, Warn: func(p int) { warned = append(warned, p) }})
	fill(t, j, 20)
	if _, err := j.Append(testTap(20), 1); !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "20 records without a receipt, at most 20") {
		t.Errorf("the 21st: %v", err)
	}
	if got := len(all(t, j)); got != 20 {
		t.Errorf("%d records", got)
	}
	if _, err := j.Release(receipt(1, 15, 15)); err != nil {
		t.Fatal(err)
	}
	fill(t, j, 6)
	if want := []int{50, 80, 95, 50}; !slices.Equal(warned, want) {
		t.Errorf("warned at %v, want %v", warned, want)
	}
	small := openOn(t, newPowerDisk(), Options{MaxBytes: 6000})
	for i := range 100 {
		if _, err := small.Append(testTap(i), 1); err != nil {
			if !errors.Is(err, ErrFull) || small.Stats().Bytes > 6000 || i < 2 {
				t.Errorf("record %d with %d bytes held: %v", i, small.Stats().Bytes, err)
			}
			return
		}
	}
	t.Error("the bound in bytes never held")
}

func TestARecordThatIsNotValidChangesNothing(t *testing.T) {
	j := openOn(t, newPowerDisk(), Options{})
	bad := testTap(1)
	bad.Currency = "euro"
	if _, err := j.Append(bad, 1); err == nil || !strings.Contains(err.Error(), "currency") {
		t.Errorf("got %v", err)
	}
	if ref, err := j.Append(testTap(1), 1); err != nil || ref != (Ref{1, 1}) {
		t.Errorf("then %+v: %v", ref, err)
	}
}

func TestEpochs(t *testing.T) {
	disk := newPowerDisk()
	j := openOn(t, disk, Options{FirstEpoch: 41})
	fill(t, j, 2)
	if err := j.NewEpoch(); err != nil {
		t.Fatal(err)
	}
	j = openOn(t, disk, Options{FirstEpoch: 99}) // only for a journal that is new
	fill(t, j, 3)
	want := []Range{{41, 1, 3}, {42, 1, 4}}
	if diff := cmp.Diff(want, j.Ranges()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if n, err := j.Verify(); n != 5 || err != nil {
		t.Errorf("verified %d: %v", n, err)
	}
	if _, err := j.Release(receipt(42, 3, 3)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want[:1], j.Ranges()); diff != "" {
		t.Errorf("after the newer epoch's release (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]EpochAudit{{Epoch: 41, Last: 2}, {Epoch: 42, Last: 3, Released: 3}}, openOn(t, disk, Options{}).Audit()); diff != "" {
		t.Errorf("audit (-want +got):\n%s", diff)
	}
	j.mu.Lock()
	j.current().last = math.MaxUint32 - 1
	j.mu.Unlock()
	if ref, err := j.Append(testTap(0), 1); err != nil || ref != (Ref{43, 1}) {
		t.Errorf("after the last number: %+v: %v", ref, err)
	}
}

func TestTheDirectoryOfAnotherMachineIsRefused(t *testing.T) {
	disk := newPowerDisk()
	fill(t, openOn(t, disk, Options{}), 1)
	_, err := Open(testDir, "other", testKey, Options{filesystem: disk})
	if !errors.Is(err, errOtherMachine) {
		t.Errorf("with the state file: %v", err)
	}
	delete(disk.names, testDir+"/state")
	_, err = Open(testDir, "other", testKey, Options{filesystem: disk})
	if !errors.Is(err, errOtherMachine) {
		t.Errorf("by the segment: %v", err)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for _, o := range []Options{{MaxRecords: -1}, {MaxBytes: -1}, {SegmentBytes: maxSegment + 1}} {
		if _, err := Open(t.TempDir(), "m", testKey, o); err == nil {
			t.Errorf("%+v was accepted", o)
		}
	}
	if _, err := Open(t.TempDir(), "", testKey, Options{}); err == nil {
		t.Error("a machine without a name was accepted")
	}
}

func BenchmarkAppend(b *testing.B) {
	for _, noSync := range []bool{false, true} {
		b.Run(fmt.Sprintf("nosync=%t", noSync), func(b *testing.B) {
			j, err := Open(b.TempDir(), testMachine, testKey, Options{NoSync: noSync, MaxRecords: math.MaxInt, MaxBytes: math.MaxInt64 / 200})
			if err != nil {
				b.Fatal(err)
			}
			defer j.Close()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := j.Append(testTap(1), 1); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkOpen20000(b *testing.B) {
	dir := b.TempDir()
	j := must(Open(dir, testMachine, testKey, Options{NoSync: true}))
	fill(b, j, 20000)
	if err := j.Close(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		j := must(Open(dir, testMachine, testKey, Options{}))
		if j.Stats().Pending != 20000 {
			b.Fatal("records are missing")
		}
		_ = j.Close()
	}
}
