package journal

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/farebeat/farebeat/schemas"
)

// filled is a disk with a journal of n records in segments of the given size,
// and the records.
func filled(t testing.TB, n, segment int) (*powerDisk, map[Ref][]byte) {
	t.Helper()
	d := newPowerDisk()
	j := openOn(t, d, Options{SegmentBytes: segment})
	fill(t, j, n)
	return d, all(t, j)
}

// frames are the places of the frames of a segment file.
func frames(t testing.TB, b []byte) []placed {
	t.Helper()
	e, f := binary.LittleEndian.Uint32(b[8:]), binary.LittleEndian.Uint32(b[12:])
	_, ok, records, holes := scan(b, e, f)
	if !ok || len(holes) > 0 {
		t.Fatalf("the segment is damaged before the test damages it: %v", holes)
	}
	return records
}

func TestTornTails(t *testing.T) {
	d, want := filled(t, 5, 1<<20)
	name := d.files(testDir, ".seg")[0]
	whole := d.names[name].data
	last := frames(t, whole)[4]
	for size := last.off; size < len(whole); size++ {
		for _, zeros := range []int{0, len(whole) - size} {
			d := d.clone()
			d.put(name, append(slices.Clone(whole[:size]), make([]byte, zeros)...))
			j := openOn(t, d, Options{})
			ref, err := j.Append(testTap(4), 1)
			if err != nil {
				t.Fatal(err)
			}
			if size == last.off && zeros == 0 && len(j.Damage()) > 0 {
				t.Fatalf("a file that ends with a record is called damaged: %v", j.Damage())
			}
			got := all(t, j)
			for i := range uint32(4) {
				if !bytes.Equal(got[Ref{1, i + 1}], want[Ref{1, i + 1}]) {
					t.Fatalf("cut at %d, %d zeros: record %d is not what it was", size, zeros, i+1)
				}
			}
			// Zeros behind half a frame could be a confirmed record that rotted; all else is torn.
			if wantRef := (Ref{1, 5}); zeros == 0 && ref != wantRef {
				t.Fatalf("cut at %d: the next record is %+v, want %+v: %v", size, ref, wantRef, j.Damage())
			}
			if again := openOn(t, d, Options{}); len(again.Damage()) > 0 && ref.Epoch == 1 {
				t.Fatalf("cut at %d, %d zeros: the repair left damage: %v", size, zeros, again.Damage())
			}
		}
	}
}

// Whatever byte rots: all other records stay, and no number is ever used for a
// second record.
func TestEveryByteRots(t *testing.T) {
	d, want := filled(t, 3, 1000)
	for _, name := range append(d.files(testDir, ".seg"), testDir+"/state") {
		for i := range d.names[name].data {
			rotten := d.clone()
			rotten.names[name].data[i] ^= 0x41
			j := openOn(t, rotten, Options{})
			if len(j.Damage()) == 0 {
				t.Fatalf("%s byte %d rotted and nobody said so", name, i)
			}
			got := all(t, j)
			lost := 0
			for ref, b := range want {
				if g, ok := got[ref]; !ok {
					lost++
				} else if !bytes.Equal(g, b) {
					t.Fatalf("%s byte %d: record %+v changed", name, i, ref)
				}
			}
			if lost > 1 || len(got)+lost != 3 {
				t.Fatalf("%s byte %d: %d records lost, %d there", name, i, lost, len(got))
			}
			if lost == 1 && len(rotten.files(testDir+"/quarantine", ".bad")) == 0 {
				t.Fatalf("%s byte %d: a lost record's bytes were not set aside", name, i)
			}
			ref, err := j.Append(testTap(9), 1)
			if err != nil {
				t.Fatalf("%s byte %d: %v", name, i, err)
			}
			if want[ref] != nil {
				t.Fatalf("%s byte %d: number %+v is used again", name, i, ref)
			}
			after := openOn(t, rotten, Options{})
			if diff := cmp.Diff(all(t, j), all(t, after)); diff != "" {
				t.Fatalf("%s byte %d, opened again (-before +after):\n%s", name, i, diff)
			}
		}
	}
}

func TestDamageIsReportedAndSurvived(t *testing.T) {
	seg := func(i int) string { return testDir + "/" + segmentName(1, uint32(2*i+1)) }
	for name, tc := range map[string]struct {
		harm   func(d *powerDisk)
		ranges []Range
		next   Ref
		want   string // in the first report
	}{
		"two records in the middle": {
			func(d *powerDisk) { clear(d.names[seg(1)].data[60:]) },
			[]Range{{1, 1, 3}, {1, 5, 7}},
			Ref{1, 7},
			"bytes that are no record; they are set aside; records 3 to 4 of epoch 1 are lost",
		},
		"a segment in the middle is gone": {
			func(d *powerDisk) { delete(d.names, seg(1)) },
			[]Range{{1, 1, 3}, {1, 5, 7}},
			Ref{1, 7},
			"numbers were used and their records are not there; records 3 to 4 of epoch 1 are lost",
		},
		"the first segment is gone": {
			func(d *powerDisk) { delete(d.names, seg(0)) },
			[]Range{{1, 3, 7}},
			Ref{1, 7},
			"records 1 to 2 of epoch 1 are lost",
		},
		"the state file is gone": {
			func(d *powerDisk) { delete(d.names, testDir+"/state") },
			[]Range{{1, 1, 7}},
			Ref{1, 7},
			"",
		},
		"the state file is cut": {
			func(d *powerDisk) { d.put(testDir+"/state", d.names[testDir+"/state"].data[:9]) },
			[]Range{{1, 1, 7}},
			Ref{1, 7},
			"the state file is damaged; the release pointer is taken from the segments, records may be sent twice",
		},
		"stale frames behind the last": {
			func(d *powerDisk) {
				f := d.names[seg(2)]
				f.data = append(f.data, f.data[frames(t, f.data)[0].off:]...)
			},
			[]Range{{1, 1, 7}},
			Ref{2, 1},
			"the last record does not match its checksum; its bytes are set aside and a new epoch begins; records 7 to 7 of epoch 1 are lost",
		},
		"foreign files": {
			func(d *powerDisk) {
				d.put(testDir+"/notes.txt", []byte("x"))
				d.put(testDir+"/1-1.seg", []byte("x"))
				d.put(testDir+"/state.tmp", []byte("x"))
			},
			[]Range{{1, 1, 7}},
			Ref{1, 7},
			"",
		},
		"everything but the state file is gone": {
			func(d *powerDisk) {
				j := openOn(t, d, Options{})
				if _, err := j.Release(receipt(1, 3, 3)); err != nil {
					t.Fatal(err)
				}
				for _, f := range d.files(testDir, ".seg") {
					delete(d.names, f)
				}
			},
			nil,
			Ref{2, 1},
			"records that were used are not there; a new epoch begins",
		},
		"the newest segment is gone after a release": {
			func(d *powerDisk) {
				j := openOn(t, d, Options{})
				if _, err := j.Release(receipt(1, 1, 1)); err != nil {
					t.Fatal(err)
				}
				delete(d.names, seg(2))
			},
			[]Range{{1, 2, 5}},
			Ref{2, 1},
			"records that were used are not there; a new epoch begins",
		},
	} {
		t.Run(name, func(t *testing.T) {
			d, _ := filled(t, 6, 1000)
			if n := len(d.files(testDir, ".seg")); n != 3 {
				t.Fatalf("%d segments, the test wants 3 of 2 records", n)
			}
			tc.harm(d)
			j := openOn(t, d, Options{})
			if diff := cmp.Diff(tc.ranges, j.Ranges()); diff != "" {
				t.Errorf("ranges (-want +got):\n%s", diff)
			}
			var reports []string
			for _, r := range j.Damage() {
				reports = append(reports, r.String())
			}
			if text := strings.Join(reports, "\n"); !strings.Contains(text, tc.want) || tc.want == "" && text != "" {
				t.Errorf("reported %q, want %q", text, tc.want)
			}
			if ref, err := j.Append(testTap(0), 1); err != nil || ref != tc.next {
				t.Errorf("next record is %+v, want %+v: %v", ref, tc.next, err)
			}
			if _, err := j.Verify(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestAReceiptPassesOverWhatIsLost(t *testing.T) {
	d, _ := filled(t, 6, 1000)
	delete(d.names, testDir+"/"+segmentName(1, 3))
	j := openOn(t, d, Options{})
	if n, err := j.Release(receipt(1, 2, 6, [2]uint32{3, 4})); n != 4 || err != nil {
		t.Errorf("released %d: %v", n, err)
	}
	if got := j.Stats().Pending; got != 0 {
		t.Errorf("%d pending", got)
	}
}

// All of an epoch is lost: it is reported until a receipt for a later epoch shows that somebody heard of it, and not for ever.
func TestALostEpochIsReportedUntilALaterReceipt(t *testing.T) {
	d, _ := filled(t, 1, 1000)
	name := d.files(testDir, ".seg")[0]
	d.names[name].data[frames(t, d.names[name].data)[0].off+100] ^= 1
	j := openOn(t, d, Options{})
	if ref, err := j.Append(testTap(1), 1); err != nil || ref != (Ref{2, 1}) || j.Lost() != 1 {
		t.Fatalf("appended %+v, %d lost: %v", ref, j.Lost(), err)
	}
	if again := openOn(t, d, Options{}); again.Lost() != 1 {
		t.Errorf("%d lost at the next start", again.Lost())
	}
	if n, err := j.Release(receipt(2, 1, 1)); n != 1 || err != nil || j.Lost() != 0 {
		t.Errorf("released %d, %d lost: %v", n, j.Lost(), err)
	}
	if again := openOn(t, d, Options{}); again.Lost() != 0 || len(again.Damage()) > 0 {
		t.Errorf("%d lost after the receipt: %v", again.Lost(), again.Damage())
	}
}

func TestADamagedStateWithoutSegmentsIsAQuestionForAPerson(t *testing.T) {
	d := newPowerDisk()
	d.put(testDir+"/state", []byte("FBS1nonsense"))
	o := Options{filesystem: d}
	if _, err := Open(testDir, testMachine, testKey, o); err == nil || !strings.Contains(err.Error(), "move the directory away") {
		t.Errorf("got %v", err)
	}
}

// A record that rots while the journal is open is not sent, and not kept secret.
func TestARecordRotsWhileTheJournalIsOpen(t *testing.T) {
	d := newPowerDisk()
	j := openOn(t, d, Options{})
	fill(t, j, 3)
	f := d.names[d.files(testDir, ".seg")[0]]
	f.data[frames(t, f.data)[1].off+100] ^= 1
	recs, err := j.Records(1, 1, 10)
	if err != nil || len(recs) != 2 || recs[1].Seq != 3 {
		t.Fatalf("read %d records: %v", len(recs), err)
	}
	if dmg := j.Damage(); len(dmg) != 1 || dmg[0].LostFirst != 2 {
		t.Errorf("damage %v", dmg)
	}
	if s := j.Stats(); s.Pending != 2 || s.PendingAmount != 200+202 {
		t.Errorf("stats %+v", s)
	}
	if diff := cmp.Diff([]Range{{1, 1, 2}, {1, 3, 4}}, j.Ranges()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]EpochAudit{{Epoch: 1, Last: 3, Lost: [][2]uint32{{2, 2}}}}, j.Audit()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestAForgedRecordIsFoundByVerify(t *testing.T) {
	for name, harm := range map[string]func(p []byte){
		"amount": func(p []byte) {
			i := bytes.Index(p, []byte(`"amount_minor":2`))
			p[i+len(`"amount_minor":`)] = '9'
		},
		"mac": func(p []byte) { p[len(p)-10] ^= 2 },
	} {
		d, _ := filled(t, 3, 1<<20)
		f := d.names[d.files(testDir, ".seg")[0]]
		p := frames(t, f.data)[1]
		harm(p.Payload) // a thief fixes the sums as well
		copy(f.data[p.off:], appendFrame(nil, &p.Record))
		if n, err := openOn(t, d, Options{}).Verify(); n != 1 || !errors.Is(err, schemas.ErrMAC) {
			t.Errorf("%s: proved %d: %v", name, n, err)
		}
	}
}

func TestARecordFromElsewhereBreaksTheChain(t *testing.T) {
	d, _ := filled(t, 3, 1<<20)
	other := testTap(40)
	other.Machine, other.Epoch, other.Seq = testMachine, 1, 2
	payload, _, err := schemas.MintTransaction(testKey, schemas.Genesis("x", 1), other)
	if err != nil {
		t.Fatal(err)
	}
	f := d.names[d.files(testDir, ".seg")[0]]
	p := frames(t, f.data)
	p[1].Payload = payload
	f.data = append(f.data[:p[1].off:p[1].off], appendFrame(appendFrame(nil, &p[1].Record), &p[2].Record)...)
	if n, err := openOn(t, d, Options{}).Verify(); n != 1 || !errors.Is(err, errChain) {
		t.Errorf("proved %d: %v", n, err)
	}
}

// The newest segment holds no record yet and the ones before it are gone: its
// header carries the chain on.
func TestTheChainGoesOnOverAReclaimedSegment(t *testing.T) {
	d := newPowerDisk()
	o := Options{SegmentBytes: 1}
	j := openOn(t, d, o)
	fill(t, j, 1)
	first := all(t, j)[Ref{1, 1}]
	d.failAt, d.once = d.ops+5, true // create, truncate, write, sync of the header; then the directory
	for ; ; d.failAt++ {
		if _, err := j.Append(testTap(1), 1); err == nil {
			t.Fatal("the append did not fail in the new segment")
		}
		if len(d.files(testDir, ".seg")) == 2 {
			break
		}
		d.failAt = d.ops + 6
	}
	if _, err := j.Release(receipt(1, 1, 1)); err != nil {
		t.Fatal(err)
	}
	if n := len(d.files(testDir, ".seg")); n != 1 {
		t.Fatalf("%d segments, want the new one alone", n)
	}
	j = openOn(t, d, o)
	if ref, err := j.Append(testTap(1), 1); err != nil || ref != (Ref{1, 2}) {
		t.Fatalf("%+v: %v", ref, err)
	}
	tx, err := schemas.ParseTransaction(all(t, j)[Ref{1, 2}])
	if err != nil {
		t.Fatal(err)
	}
	if hash := schemas.HashRecord(first); tx.Prev != base64.RawURLEncoding.EncodeToString(hash[:]) {
		t.Error("the second record is not chained to the first")
	}
}

// Power fails after the release pointer is written and before its segments go.
func TestOpenReclaimsWhatIsReleased(t *testing.T) {
	d, _ := filled(t, 6, 1000)
	before := d.clone()
	if _, err := openOn(t, d, Options{}).Release(receipt(1, 4, 4)); err != nil {
		t.Fatal(err)
	}
	before.put(testDir+"/state", d.names[testDir+"/state"].data)
	j := openOn(t, before, Options{})
	if n := len(before.files(testDir, ".seg")); n != 1 {
		t.Errorf("%d segments are left", n)
	}
	if diff := cmp.Diff([]Range{{1, 5, 7}}, j.Ranges()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestAnOversizedSegmentIsNotOurs(t *testing.T) {
	d, _ := filled(t, 1, 1<<20)
	d.put(testDir+"/"+segmentName(1, 1), make([]byte, maxSegment+(64<<10)+1))
	if _, err := Open(testDir, testMachine, testKey, Options{filesystem: d}); err == nil || !strings.Contains(err.Error(), "more than any segment") {
		t.Errorf("got %v", err)
	}
}

// FuzzOpen gives Open any bytes as segment and state. It must neither panic nor
// refuse to take the next record, and what it then holds must stay.
func FuzzOpen(f *testing.F) {
	d, _ := filled(f, 3, 1<<20)
	seg, st := d.names[d.files(testDir, ".seg")[0]].data, d.names[testDir+"/state"].data
	f.Add(seg, st)
	f.Add(seg[:len(seg)-7], []byte{})
	f.Add(seg[60:], st)
	f.Add(append(slices.Clone(seg), seg...), st[:10])
	f.Add([]byte(headerMagic), []byte(stateMagic))
	f.Fuzz(func(t *testing.T, seg, st []byte) {
		d := newPowerDisk()
		d.put(testDir+"/"+segmentName(1, 1), seg)
		d.put(testDir+"/state", st)
		o := Options{filesystem: d, MaxRecords: 1 << 20, MaxBytes: 1 << 30}
		j, err := Open(testDir, testMachine, testKey, o)
		if err != nil {
			if errors.Is(err, errOtherMachine) {
				return
			}
			t.Fatal(err)
		}
		ref, err := j.Append(testTap(1), 1)
		if err != nil {
			t.Fatal(err)
		}
		before := all(t, j)
		if _, ok := before[ref]; !ok {
			t.Fatalf("record %+v was confirmed and is not there", ref)
		}
		if diff := cmp.Diff(before, all(t, openOn(t, d, o))); diff != "" {
			t.Fatalf("opened again (-before +after):\n%s", diff)
		}
	})
}

// Frames that match their sums and still make no sense: stale, doubled, of
// another epoch, at the end of all numbers.
func TestFramesInAnyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seqs := rapid.SliceOf(rapid.SampledFrom([]uint32{1, 2, 3, 4, 90, 1 << 31, math.MaxUint32 - 2, math.MaxUint32 - 1, math.MaxUint32})).Draw(t, "seqs")
		epochs := rapid.SliceOfN(rapid.SampledFrom([]uint32{1, 1, 1, 2}), len(seqs), len(seqs)).Draw(t, "epochs")
		first := rapid.SampledFrom([]uint32{1, 3, math.MaxUint32}).Draw(t, "first")
		h := header{epoch: 1, first: first, prev: schemas.Genesis(testMachine, 1), machine: testMachine}
		b := h.append(nil)
		for i, seq := range seqs {
			b = appendFrame(b, &Record{Epoch: epochs[i], Seq: seq, Amount: 5, Kind: KindTransaction, Payload: []byte("x")})
		}
		d := newPowerDisk()
		d.put(testDir+"/"+segmentName(1, first), b)
		o := Options{filesystem: d}
		j, err := Open(testDir, testMachine, testKey, o)
		if err != nil {
			t.Fatal(err)
		}
		ref, err := j.Append(testTap(1), 1)
		if err != nil {
			t.Fatal(err)
		}
		if ref.Epoch == 1 && slices.ContainsFunc(seqs, func(s uint32) bool { return s >= ref.Seq && s != math.MaxUint32 && s >= first }) && !slices.Contains(epochs, 2) {
			t.Fatalf("the next record is %+v", ref)
		}
		again, err := Open(testDir, testMachine, testKey, o)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(j.Ranges(), again.Ranges()); diff != "" {
			t.Fatalf("opened again (-before +after):\n%s", diff)
		}
	})
}

// FuzzState gives the decoder of the state file bytes whose sum is right.
func FuzzState(f *testing.F) {
	s := state{machine: testMachine, epoch: 3, marks: []mark{{1, 9, 9}, {3, 2, 0}}}
	f.Add(s.encode())
	f.Add((&state{machine: "", epoch: 1}).encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		b = slices.Clone(b)
		if len(b) >= 8 {
			binary.LittleEndian.PutUint32(b[4:], checksum(b[8:]))
		}
		s, err := decodeState(b)
		if err == nil && !bytes.Equal(s.encode(), b) {
			t.Fatalf("%x was read as %+v, which is %x", b, s, s.encode())
		}
	})
}
