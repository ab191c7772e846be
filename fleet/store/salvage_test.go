package store_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/farebeat/farebeat/fleet/keys"
	"github.com/farebeat/farebeat/fleet/ledger"
	"github.com/farebeat/farebeat/fleet/ledger/ledgertest"
	"github.com/farebeat/farebeat/fleet/store"
)

var damages = flag.Int("damages", 40, "how many files TestNoDamageIsSilent damages")

// image is a store as a crash leaves it: the file and its log.
type image struct {
	file, log []byte
	machines  []*ledgertest.Machine
}

// crashed makes a store of which a part is in the file and the newest part in the log only.
func crashed(t *testing.T) image {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fleet.db")
	var im image
	for i := range 3 {
		im.machines = append(im.machines, ledgertest.New(t, fmt.Sprint("m-", i), fmt.Sprint("v-", i), 1).Mint(90))
	}
	first, err := store.Open(context.Background(), path, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range im.machines {
		for n := uint32(1); n < 60; n += 10 {
			take(t, newLedger(t, first), m, n, n+9)
		}
	}
	if err := first.SetMeta(context.Background(), map[string][]byte{"empty": {}, "full": []byte("x")}); err != nil {
		t.Fatal(err)
	}
	saveFaults(t, first, event(fault("f-1", 1, nil), 1, "opened"), event(fault("f-2", 2, nil), 1, "opened"))
	shut(t, first)
	second := open(t, filepath.Dir(path))
	for _, m := range im.machines {
		for n := uint32(61); n < 90; n += 10 {
			take(t, newLedger(t, second), m, n, n+9)
		}
	}
	im.file, im.log = read(t, path), read(t, path+"-wal")
	return im
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// put writes the image into a folder of its own.
func (im image) put(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fleet.db")
	if err := errors.Join(os.WriteFile(path, im.file, 0o600), os.WriteFile(path+"-wal", im.log, 0o600)); err != nil {
		t.Fatal(err)
	}
	return path
}

// damage changes one of the two files at random and says how; touched holds the bytes that differ.
func (im image) damage(r *rand.Rand) (out image, what string, touched func(inLog bool, from, to int) bool) {
	out = image{bytes.Clone(im.file), bytes.Clone(im.log), im.machines}
	inLog := r.IntN(3) == 0
	b := &out.file
	if inLog {
		b = &out.log
	}
	at := r.IntN(len(*b))
	end := at + 1
	switch kind := r.IntN(4); kind {
	case 0:
		(*b)[at] ^= byte(1 + r.IntN(255))
		what = "byte changed"
	case 1:
		end = min(len(*b), at+16+r.IntN(9000))
		for i := at; i < end; i++ {
			(*b)[i] = byte(r.Uint32())
		}
		what = "noise"
	case 2:
		at -= at % 512
		end = min(len(*b), at+512*(1+r.IntN(24)))
		clear((*b)[at:end])
		what = "zeros"
	case 3:
		end = len(*b)
		*b = (*b)[:at]
		what = "cut off"
	}
	return out, fmt.Sprintf("%s at %d to %d of %d, log %v", what, at, end, len(im.file), inLog), func(l bool, from, to int) bool {
		return l == inLog && from < end && at < to
	}
}

// intact reports whether a page that was not touched has the record.
func (im image) intact(record []byte, touched func(inLog bool, from, to int) bool) bool {
	for _, part := range []struct {
		b          []byte
		inLog      bool
		head, unit int
	}{{im.file, false, 0, 4096}, {im.log, true, 32, 4096 + 24}} {
		for at := 0; ; at++ {
			i := bytes.Index(part.b[at:], record)
			if i < 0 {
				break
			}
			at += i
			page := part.head + (at-part.head)/part.unit*part.unit
			if !touched(part.inLog, page, page+part.unit) {
				return true
			}
		}
	}
	return false
}

// Whatever is done to the file or its log: the store opens with a prefix of what was committed, or says that it is damaged,
// and a repair brings every record back of which one page is whole. What it says that it holds, it holds.
func TestNoDamageIsSilent(t *testing.T) {
	im := crashed(t)
	trials := *damages
	if testing.Short() {
		trials = min(trials, 12)
	}
	opened, named := 0, 0
	for seed := range trials {
		bad, what, touched := im.damage(rand.New(rand.NewPCG(uint64(seed), 3)))
		path := bad.put(t)
		if err := opensWithPrefix(t, path, im.machines); err == nil {
			opened++
			continue
		} else if named++; !strings.Contains(err.Error(), "farebeat repair") {
			t.Errorf("seed %d, %s: no way out in %q", seed, what, err)
		}
		path = bad.put(t)
		report, err := store.Repair(context.Background(), path, ledgertest.Keys(t), store.Options{})
		if err != nil {
			t.Errorf("seed %d, %s: %v", seed, what, err)
			continue
		}
		checkRepaired(t, fmt.Sprintf("seed %d, %s", seed, what), path, report, func(record []byte) bool { return bad.intact(record, touched) }, im.machines)
		if !bytes.Equal(read(t, report.Aside), bad.file) {
			t.Errorf("seed %d: the damaged file is not what it was", seed)
		}
	}
	t.Logf("%d damages: %d times it opens with what was committed up to a point, %d times it is named and repaired", trials, opened, named)
	if opened == 0 || named == 0 {
		t.Error("the damages show only one side")
	}
}

// A frame of the log that rots takes everything behind it along, without a word of SQLite: unless it is of the last transaction,
// which may never have been confirmed, the store does not open. A repair brings all back but what the frame alone had.
func TestRottenLogIsNamed(t *testing.T) {
	im := crashed(t)
	const unit = 4096 + 24
	frames, last := (len(im.log)-32)/unit, 0
	for n := range frames - 1 {
		if binary.BigEndian.Uint32(im.log[32+n*unit+4:]) != 0 {
			last = n + 1 // the first frame behind the last but one transaction's end
		}
	}
	if last < 10 {
		t.Fatalf("%d frames, the last transaction begins at %d", frames, last)
	}
	named := 0
	for n := range frames {
		rotten := image{im.file, bytes.Clone(im.log), im.machines}
		rotten.log[32+n*unit+2000] ^= 4
		err := opensWithPrefix(t, rotten.put(t), im.machines)
		switch {
		case n < last && (!errors.Is(err, store.ErrDamaged) || !strings.Contains(err.Error(), fmt.Sprintf("frame %d of its log", n))):
			t.Errorf("frame %d of %d: %v", n, frames, err)
		case n >= last && err != nil:
			t.Errorf("frame %d of the last transaction: %v", n, err)
		case n < last:
			named++
		}
	}
	t.Logf("%d of %d frames named", named, frames)
	torn := image{im.file, im.log[:32+last*unit+100], im.machines}
	if err := opensWithPrefix(t, torn.put(t), im.machines); err != nil {
		t.Errorf("a torn end: %v", err)
	}
}

// opensWithPrefix opens a store and reads everything. nil means that it holds what was committed up to a point, byte for byte.
func opensWithPrefix(t *testing.T, path string, machines []*ledgertest.Machine) error {
	t.Helper()
	s, err := store.Open(context.Background(), path, store.Options{})
	if errors.Is(err, store.ErrForeign) {
		return fmt.Errorf("%w: run farebeat repair", err)
	}
	if err != nil {
		return err
	}
	defer s.Close() //nolint:errcheck // it is thrown away
	if err := s.Check(context.Background()); err != nil {
		return err
	}
	p, err := newLedger(t, s).Verify(context.Background(), ledger.Filter{}, nil)
	if err != nil {
		return err
	}
	if !p.OK() {
		return fmt.Errorf("found by verify, for farebeat repair: %v", p.Findings)
	}
	ended := false // batches were committed machine by machine
	for round := range 2 {
		for _, m := range machines {
			n := held(t, s, m, func([]byte) bool { return false })
			if from, to := []int{0, 60}[round], []int{60, 90}[round]; n < to {
				if ended && n > from {
					t.Errorf("machine %s has %d records, and one before it lacks some", m.ID, n)
				}
				ended = true
			}
			if n%10 != 0 {
				t.Errorf("half a batch: %d records of %s", n, m.ID)
			}
		}
	}
	return nil
}

// held counts the records of a machine, which must be those that it minted, and all that are demanded.
func held(t *testing.T, s *store.Store, m *ledgertest.Machine, demanded func(record []byte) bool) int {
	t.Helper()
	have := map[uint32]bool{}
	err := s.Ledger().View(context.Background(), func(v ledger.View) error {
		return v.Records(m.ID, 1, ledger.Every(), func(r ledger.Row) error {
			have[r.Seq] = true
			if !bytes.Equal(r.Record, m.Records[r.Seq-1]) || r.AmountMinor != 225 || r.Machine != m.ID {
				t.Errorf("record %d of %s is not what the machine wrote", r.Seq, m.ID)
			}
			return nil
		})
	})
	if err != nil {
		t.Error(err)
	}
	for i, record := range m.Records {
		if !have[uint32(i)+1] && demanded(record) {
			t.Errorf("record %d of %s is whole in a page, and lost", i+1, m.ID)
		}
	}
	return len(have)
}

func checkRepaired(t *testing.T, what, path string, report store.Repaired, whole func([]byte) bool, machines []*ledgertest.Machine) {
	t.Helper()
	s, err := store.Open(context.Background(), path, store.Options{})
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	defer shut(t, s)
	l, records := newLedger(t, s), 0
	if p := prove(t, l); !p.OK() {
		t.Errorf("%s: %+v", what, p.Findings)
	}
	for _, m := range machines {
		n := held(t, s, m, whole)
		records += n
		// The receipt never covers what is not there.
		r, err := l.Receipt(context.Background(), m.ID)
		if err != nil {
			t.Fatal(err)
		}
		covered := 0
		for _, e := range r.Epochs {
			covered += int(e.Highest)
			for _, g := range e.Gaps {
				covered -= int(g[1]-g[0]) + 1
			}
		}
		if covered != n {
			t.Errorf("%s: the receipt of %s covers %d records, %d are there", what, m.ID, covered, n)
		}
		take(t, l, m, 1, 90) // the machine sends it again: nothing stands in the way
	}
	if report.Ledger.Records != records {
		t.Errorf("%s: reported %+v, there are %d", what, report.Ledger, records)
	}
	if p := prove(t, l); !p.OK() || p.Records != 270 {
		t.Errorf("%s: after they were sent again %d records, %+v", what, p.Records, p.Findings)
	}
}

func TestRepairOfAWholeStoreChangesNothing(t *testing.T) {
	im := crashed(t)
	path := im.put(t)
	report, err := store.Repair(context.Background(), path, ledgertest.Keys(t), store.Options{})
	if err != nil || report.Found != "" || report.Ledger != (store.TakenIn{Records: 270}) || report.Lost != nil {
		t.Fatalf("%+v, %v", report, err)
	}
	for _, table := range report.Tables {
		want := map[string]int{"meta": 2, "fault": 2, "fault_event": 2, "fault_order": 2}
		if table.Rows != want[table.Name] || table.Lost != "" {
			t.Errorf("%+v", table)
		}
	}
	checkRepaired(t, "whole", path, report, func([]byte) bool { return true }, im.machines)
	s := open(t, filepath.Dir(path))
	if v, err := s.Meta(context.Background(), "empty"); err != nil || v == nil || len(v) != 0 {
		t.Errorf("%v, %v", v, err)
	}
}

func TestRepairRefuses(t *testing.T) {
	ctx := context.Background()
	used := open(t, t.TempDir())
	if _, err := store.Repair(ctx, used.Path(), ledgertest.Keys(t), store.Options{}); !errors.Is(err, store.ErrInUse) {
		t.Errorf("a store in use: %v", err)
	}
	if _, err := store.Repair(ctx, filepath.Join(t.TempDir(), "none"), ledgertest.Keys(t), store.Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	text := filepath.Join(t.TempDir(), "notes.txt")
	if err := os.WriteFile(text, []byte(strings.Repeat("notes ", 2000)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Repair(ctx, text, ledgertest.Keys(t), store.Options{}); err == nil || !strings.Contains(err.Error(), "restore the last backup") {
		t.Errorf("text: %v", err)
	}
	if got := read(t, text); len(got) != 12000 {
		t.Error("the text was changed")
	}
	interrupted := crashed(t).put(t)
	if err := os.Rename(interrupted, interrupted+".repaired"); err != nil {
		t.Fatal(err)
	}
	for _, readOnly := range []bool{false, true} {
		if _, err := store.Open(ctx, interrupted, store.Options{ReadOnly: readOnly}); !errors.Is(err, store.ErrRepairPending) {
			t.Errorf("a repair was interrupted: %v", err)
		}
	}
}

// A file with the wrong master key would lose everything: it is refused.
func TestRepairWithTheWrongKey(t *testing.T) {
	path := crashed(t).put(t)
	if _, err := store.Repair(context.Background(), path, otherKeys(t), store.Options{}); !errors.Is(err, store.ErrWrongKey) {
		t.Errorf("error %v", err)
	}
	if err := opensWithPrefix(t, path, nil); err != nil {
		t.Errorf("it is not as it was: %v", err)
	}
}

func TestMergeAddsWhatIsMissing(t *testing.T) {
	im := crashed(t)
	path := im.put(t)
	s := open(t, t.TempDir())
	l := newLedger(t, s)
	take(t, l, im.machines[0], 1, 5)
	other := ledgertest.New(t, "m-1", "v-9", 1).Mint(1) // the same key, another vehicle in it
	take(t, l, other, 1, 1)
	want := store.TakenIn{Records: 264, Duplicate: 5, Conflict: 1}
	for round := range 2 {
		got, err := s.Merge(context.Background(), path, ledgertest.Keys(t))
		if err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Errorf("round %d: %+v, want %+v", round, got, want)
		}
		want = store.TakenIn{Duplicate: 269, Conflict: 1}
	}
	n, err := l.Totals(context.Background(), ledger.Filter{})
	if err != nil || n.Records != 270 {
		t.Errorf("%+v, %v", n, err)
	}
}

func otherKeys(t *testing.T) keys.Keys {
	t.Helper()
	k, err := keys.NewMaster([]byte("another key that is not secret.."))
	if err != nil {
		t.Fatal(err)
	}
	return k
}
