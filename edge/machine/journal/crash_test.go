package journal

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/farebeat/farebeat/schemas"
)

// witness stands for everybody who ever read a record: the gateway, the ledger.
// It knows what the journal confirmed, and that no key may stand for two records.
type witness struct {
	confirmed map[Ref][]byte // by Append, not yet released
	seen      map[Ref][]byte // by anyone, ever
	doubt     map[Ref]bool   // in a release whose end nobody saw
	ticket    uint64         // the counter that was confirmed last
}

func newWitness() *witness {
	return &witness{confirmed: map[Ref][]byte{}, seen: map[Ref][]byte{}, doubt: map[Ref]bool{}}
}

func (w *witness) clone() *witness {
	return &witness{confirmed: maps.Clone(w.confirmed), seen: maps.Clone(w.seen), doubt: maps.Clone(w.doubt), ticket: w.ticket}
}

// look compares what the journal holds with what it must hold. At most extra
// records may be there that were never confirmed.
func (w *witness) look(t rapid.TB, j *Journal, extra int) {
	t.Helper()
	held := map[Ref][]byte{}
	for _, r := range j.Ranges() {
		recs, err := j.Records(r.Epoch, r.First, int(r.Next-r.First))
		if err != nil {
			t.Fatal(err)
		}
		for _, rec := range recs {
			held[Ref{rec.Epoch, rec.Seq}] = rec.Payload
		}
	}
	for ref, b := range w.confirmed {
		if got, ok := held[ref]; !ok && !w.doubt[ref] {
			t.Fatalf("record %+v was confirmed and is lost; damage: %v", ref, j.Damage())
		} else if ok && !bytes.Equal(got, b) {
			t.Fatalf("record %+v changed", ref)
		} else if !ok {
			delete(w.confirmed, ref) // the release had reached the disk
		}
	}
	clear(w.doubt)
	for ref, b := range held {
		if _, ok := w.confirmed[ref]; !ok {
			extra--
			w.confirmed[ref] = b
		}
		if old, ok := w.seen[ref]; ok && !bytes.Equal(old, b) {
			t.Fatalf("key %+v stands for two records", ref)
		}
		w.seen[ref] = b
	}
	if got := j.TicketMark().Counter; got != w.ticket && got != w.ticket+1 {
		t.Fatalf("the mark of ticket %d was confirmed, that of %d is kept", w.ticket, got)
	}
	w.ticket = j.TicketMark().Counter
	if extra < 0 {
		t.Fatalf("%d records came out of nowhere", -extra)
	}
	if _, err := j.Verify(); err != nil {
		t.Fatal(err)
	}
}

func (w *witness) append(t rapid.TB, j *Journal, i int) error {
	ref, err := j.Append(testTap(i%50), 1)
	if err != nil {
		return err
	}
	recs, err := j.Records(ref.Epoch, ref.Seq, 1)
	if err != nil {
		return err
	}
	if len(recs) != 1 {
		t.Fatalf("record %+v was confirmed and cannot be read", ref)
	}
	if old, ok := w.seen[ref]; ok && !bytes.Equal(old, recs[0].Payload) {
		t.Fatalf("key %+v stands for two records", ref)
	}
	w.seen[ref], w.confirmed[ref] = recs[0].Payload, recs[0].Payload
	return nil
}

// accept keeps the mark of the next ticket.
func (w *witness) accept(j *Journal) error {
	err := j.KeepTicketMark(TicketMark{Counter: w.ticket + 1, IssuedAt: time.UnixMilli(int64(w.ticket))})
	if err == nil {
		w.ticket++
	}
	return err
}

func (w *witness) release(j *Journal, upTo uint32) error {
	cur := j.Stats()
	upTo = min(upTo, cur.LastSeq)
	r := schemas.EpochReceipt{Epoch: cur.Epoch, CompleteTo: upTo, Highest: upTo}
	r.MAC = schemas.ReceiptMAC(testKey, testMachine, r)
	for ref := range w.confirmed {
		if ref.Epoch == cur.Epoch && ref.Seq <= upTo {
			w.doubt[ref] = true
		}
	}
	if _, err := j.Release([]schemas.EpochReceipt{r}); err != nil {
		return err
	}
	for ref := range w.doubt {
		delete(w.confirmed, ref)
	}
	clear(w.doubt)
	return nil
}

// script is a day in the life of a journal: it rolls segments, releases, begins
// an epoch. It ends with the first error.
func script(t rapid.TB, j *Journal, w *witness) error {
	for i := range 14 {
		if err := w.append(t, j, i); err != nil {
			return err
		}
		if i == 6 || i == 11 {
			if err := w.release(j, uint32(i-1)); err != nil {
				return err
			}
		}
		if i == 8 {
			if err := j.NewEpoch(); err != nil {
				return err
			}
		}
		if i == 2 || i == 9 {
			if err := w.accept(j); err != nil {
				return err
			}
		}
	}
	return nil
}

var crashOptions = Options{SegmentBytes: 1600}

// Where neither the write nor taking it back succeeds, only the disk can say.
func TestADiskThatStaysBrokenBreaksTheJournal(t *testing.T) {
	d := newPowerDisk()
	w := newWitness()
	j := openOn(t, d, crashOptions)
	for i := range 2 {
		if err := w.append(t, j, i); err != nil {
			t.Fatal(err)
		}
	}
	d.dead = true
	if _, err := j.Append(testTap(3), 1); !errors.Is(err, ErrBroken) || !errors.Is(err, errPower) {
		t.Fatalf("got %v", err)
	}
	d.dead = false
	for name, err := range map[string]error{"append": w.append(t, j, 4), "release": w.release(j, 1), "epoch": j.NewEpoch()} {
		if !errors.Is(err, ErrBroken) {
			t.Errorf("%s on a broken journal: %v", name, err)
		}
	}
	w.look(t, openOn(t, d, crashOptions), 1)
}

func TestAnyOrderOfEvents(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := Options{SegmentBytes: rapid.SampledFrom([]int{1, 900, 3000}).Draw(t, "segment")}
		d := newPowerDisk()
		w := newWitness()
		o.filesystem = d
		open := func() *Journal {
			o.filesystem = d
			j, err := Open(testDir, testMachine, testKey, o)
			if err != nil {
				t.Fatal(err)
			}
			return j
		}
		j := open()
		i, epochs := 0, 0
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				i++
				if err := w.append(t, j, i); err != nil {
					t.Fatal(err)
				}
			},
			"release": func(t *rapid.T) {
				if err := w.release(j, uint32(rapid.IntRange(0, 12).Draw(t, "up to"))); err != nil {
					t.Fatal(err)
				}
			},
			"epoch": func(t *rapid.T) {
				if epochs++; epochs > maxEpochs/2 { // damage begins epochs, too
					t.Skip("enough epochs")
				}
				if err := j.NewEpoch(); err != nil {
					t.Fatal(err)
				}
			},
			"open again": func(*rapid.T) { j = open() },
			"power fails": func(t *rapid.T) {
				d.failAt = d.ops + rapid.IntRange(1, 8).Draw(t, "after")
				for n := 0; w.append(t, j, n) == nil; n++ {
				}
				d = d.reboot(rapid.Uint64().Draw(t, "seed"))
				j = open()
				w.look(t, j, 1)
			},
			"": func(t *rapid.T) { w.look(t, j, 0) },
		})
	})
}

func ExampleDamage() {
	fmt.Println(Damage{File: "0000000003-0000000001.seg", Offset: 612, Bytes: 511, Epoch: 3, LostFirst: 2, LostLast: 2, Problem: problemMiddle})
	// Output: 0000000003-0000000001.seg byte 612, 511 bytes: bytes that are no record; they are set aside; records 2 to 2 of epoch 3 are lost
}
