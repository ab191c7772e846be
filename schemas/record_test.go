package schemas_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/farebeat/farebeat/schemas"
)

func key() []byte { return []byte("a machine's key of 32 bytes, ok!") }

// goldenKey made the records and receipts of testdata.
func goldenKey() []byte { return []byte("golden key of machine V-0042, 32") }

func sample(seq uint32) schemas.Transaction {
	return schemas.Transaction{
		Machine: "V-0042", Epoch: 3, Seq: seq, EventTime: time.Date(2026, 11, 22, 23, 1, 11, 250_999_999, time.FixedZone("", 3600)),
		TZ: "Europe/Paris", ServiceDate: "2026-11-22", AmountMinor: 210, Currency: "EUR", FareAction: "Enter", Media: "Carte <é> & \u2028 \"x\" \\",
		TokenID: `","mac":"`, Vehicle: "01216", Route: "Línea 5/N", Offline: true, Evidence: "nyYIAQIDBAUGBwg=",
	}
}

// chain mints records 1 to n.
func chain(t testing.TB, n int) [][]byte {
	t.Helper()
	var records [][]byte
	prev := schemas.Genesis("V-0042", 3)
	for seq := range n {
		tx := sample(uint32(seq + 1))
		record, hash, err := schemas.MintTransaction(key(), prev, &tx)
		if err != nil {
			t.Fatal(err)
		}
		if hash != schemas.HashRecord(record) {
			t.Fatal("the hash is not that of the record")
		}
		records, prev = append(records, record), hash
	}
	return records
}

func TestMintAndVerify(t *testing.T) {
	tx := sample(1)
	record, _, err := schemas.MintTransaction(key(), schemas.Genesis("V-0042", 3), &tx)
	if err != nil {
		t.Fatal(err)
	}
	got, err := schemas.VerifyTransaction(key(), record)
	if err != nil {
		t.Fatalf("%v\n%s", err, record)
	}
	if got != tx {
		t.Errorf("got  %+v\nwant %+v", got, tx)
	}
	if want := time.Date(2026, 11, 22, 22, 1, 11, 250e6, time.UTC); !got.EventTime.Equal(want) {
		t.Errorf("event time %v, want %v", got.EventTime, want)
	}
	if _, err := schemas.VerifyTransaction([]byte("another key"), record); !errors.Is(err, schemas.ErrMAC) || !strings.Contains(err.Error(), `transaction 1 of machine "V-0042", epoch 3`) {
		t.Errorf("with another key: %v", err)
	}
	if _, err := schemas.ParseTransaction(record); err != nil {
		t.Errorf("parse: %v", err)
	}
	if !json.Valid(record) {
		t.Errorf("no JSON: %s", record)
	}
}

func TestChain(t *testing.T) {
	prev := schemas.Genesis("V-0042", 3)
	for i, record := range chain(t, 5) {
		tx, err := schemas.VerifyTransaction(key(), record)
		if err != nil {
			t.Fatal(err)
		}
		bare := tx
		if again, _, err := schemas.MintTransaction(key(), prev, &bare); err != nil || !bytes.Equal(again, record) {
			t.Errorf("record %d does not follow from the one before it: %v", i+1, err)
		}
		prev = schemas.HashRecord(record)
	}
	seen := map[[32]byte]bool{}
	for _, g := range [][32]byte{schemas.Genesis("V-0042", 3), schemas.Genesis("V-0042", 4), schemas.Genesis("V-004", 3), schemas.Genesis("", 3)} {
		if seen[g] {
			t.Error("two epochs begin alike")
		}
		seen[g] = true
	}
}

// TestGoldenChain holds the formulas of Genesis, prev and mac against records that were not made by
// this code.
func TestGoldenChain(t *testing.T) {
	prev := schemas.Genesis("V-0042", 3)
	for seq, name := range []string{"first-of-epoch", "unicode", "refund-minimal", "escapes"} {
		record := golden(t, "transaction", name)
		tx, err := schemas.VerifyTransaction(goldenKey(), record)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		next := tx
		if _, _, err := schemas.MintTransaction(goldenKey(), prev, &next); err != nil || next.Prev != tx.Prev || tx.Seq != uint32(seq+1) {
			t.Errorf("%s: seq %d, prev %s, want %d, %s (%v)", name, tx.Seq, tx.Prev, seq+1, next.Prev, err)
		}
		prev = schemas.HashRecord(record)
	}
}

func golden(t testing.TB, message, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "good", message, name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestTamper changes, drops and doubles every byte of a record: none is taken for a record of
// the machine.
func TestTamper(t *testing.T) {
	record := chain(t, 1)[0]
	refused := func(forged []byte, what string, at int) {
		if _, err := schemas.VerifyTransaction(key(), forged); err == nil {
			t.Errorf("byte %d %s: accepted\n%s", at, what, forged)
		}
	}
	for i := range record {
		for _, x := range []byte{0x01, 0x02, 0x04, 0x20, 0x80, 0xff} {
			forged := bytes.Clone(record)
			forged[i] ^= x
			refused(forged, "changed", i)
		}
		refused(append(bytes.Clone(record[:i]), record[i+1:]...), "dropped", i)
		refused(append(bytes.Clone(record[:i+1]), record[i:]...), "doubled", i)
		refused(append(append(bytes.Clone(record[:i]), ' '), record[i:]...), "after a space", i)
		refused(record[:i], "and later cut", i)
	}
	refused(append(bytes.Clone(record), '\n'), "and a line end", len(record))
}

func TestMintRefuses(t *testing.T) {
	for want, change := range map[string]func(*schemas.Transaction){
		`field "machine": is required`:        func(tx *schemas.Transaction) { tx.Machine = "" },
		`field "seq": is 0`:                   func(tx *schemas.Transaction) { tx.Seq = 0 },
		`field "epoch": is 0`:                 func(tx *schemas.Transaction) { tx.Epoch = 0 },
		`field "event_time": is required`:     func(tx *schemas.Transaction) { tx.EventTime = time.Time{} },
		`field "currency": "€": want three`:   func(tx *schemas.Transaction) { tx.Currency = "€" },
		`field "evidence": is not base64`:     func(tx *schemas.Transaction) { tx.Evidence = "a" },
		`bytes, at most 4096`:                 func(tx *schemas.Transaction) { tx.Evidence = strings.Repeat("AAAA", 1100) },
		`field "media": has a character that`: func(tx *schemas.Transaction) { tx.Media = "\xff" },
	} {
		tx := sample(7)
		change(&tx)
		if _, _, err := schemas.MintTransaction(key(), [32]byte{}, &tx); err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "mint transaction ") {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestBatchKeepsBytes(t *testing.T) {
	b := &schemas.Batch{Machine: "V-0042", Vehicle: "0<12>16&", Epoch: 3, First: 1, Last: 4, AsOf: time.Date(2026, 11, 22, 23, 41, 9, 120e6, time.UTC)}
	for _, name := range []string{"first-of-epoch", "unicode", "refund-minimal", "escapes"} { // with <, >, &, U+2028 and escapes of them
		b.Records = append(b.Records, golden(t, "transaction", name))
	}
	payload, err := schemas.EncodeBatch(b)
	if err != nil {
		t.Fatal(err)
	}
	got, err := schemas.DecodeBatch(payload)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Records) != len(b.Records) {
		t.Fatalf("%d records, want %d", len(got.Records), len(b.Records))
	}
	for i, r := range got.Records {
		if !bytes.Equal(r, b.Records[i]) {
			t.Errorf("record %d:\n%s\nwant\n%s", i+1, r, b.Records[i])
		}
		if _, err := schemas.VerifyTransaction(goldenKey(), r); err != nil {
			t.Error(err)
		}
	}
	if again, err := schemas.EncodeBatch(got); err != nil || !bytes.Equal(again, payload) {
		t.Errorf("encodes to other bytes: %v\n%s\n%s", err, again, payload)
	}
	clear(payload) // the records must not live in the caller's buffer
	if _, err := schemas.VerifyTransaction(goldenKey(), got.Records[1]); err != nil {
		t.Errorf("after the payload was reused: %v", err)
	}
}

func TestFullBatchFitsItsTopic(t *testing.T) {
	b := &schemas.Batch{Machine: "V-0042", Vehicle: "01216", Epoch: 3, First: 1, Last: schemas.MaxBatch, AsOf: time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)}
	for _, r := range chain(t, schemas.MaxBatch) {
		b.Records = append(b.Records, r)
	}
	payload, err := schemas.EncodeBatch(b)
	if err != nil {
		t.Fatal(err)
	}
	if most := len(payload) + schemas.MaxBatch*(schemas.MaxRecordBytes-len(b.Records[0])); most > 1<<20 {
		t.Errorf("a batch may have %d bytes", most)
	}
	b.Last, b.Records = b.Last+1, append(b.Records, b.Records[0])
	if _, err := schemas.EncodeBatch(b); err == nil || !strings.Contains(err.Error(), "at most 200") {
		t.Errorf("201 records: %v", err)
	}
}

func TestReceiptMAC(t *testing.T) {
	var r schemas.Receipt
	if err := schemas.Decode(golden(t, "receipt", "gaps"), schemas.NameReceipt, &r); err != nil {
		t.Fatal(err)
	}
	for _, e := range r.Epochs {
		if err := schemas.VerifyReceipt(goldenKey(), r.Machine, e); err != nil {
			t.Error(err)
		}
	}
	e := r.Epochs[0]
	for what, forged := range map[string]schemas.EpochReceipt{
		"epoch":       {Epoch: e.Epoch + 1, CompleteTo: e.CompleteTo, Highest: e.Highest, Gaps: e.Gaps, MAC: e.MAC},
		"complete_to": {Epoch: e.Epoch, CompleteTo: e.CompleteTo + 1, Highest: e.Highest, Gaps: e.Gaps, MAC: e.MAC},
		"highest":     {Epoch: e.Epoch, CompleteTo: e.CompleteTo, Highest: e.Highest + 1, Gaps: e.Gaps, MAC: e.MAC},
		"no gaps":     {Epoch: e.Epoch, CompleteTo: e.CompleteTo, Highest: e.Highest, MAC: e.MAC},
		"a gap":       {Epoch: e.Epoch, CompleteTo: e.CompleteTo, Highest: e.Highest, Gaps: [][2]uint32{{48191, 48193}, {48200, 48200}}, MAC: e.MAC},
		"mac":         {Epoch: e.Epoch, CompleteTo: e.CompleteTo, Highest: e.Highest, Gaps: e.Gaps, MAC: "A" + e.MAC[1:]},
		"no mac":      {Epoch: e.Epoch, CompleteTo: e.CompleteTo, Highest: e.Highest, Gaps: e.Gaps},
	} {
		if err := schemas.VerifyReceipt(goldenKey(), r.Machine, forged); !errors.Is(err, schemas.ErrMAC) {
			t.Errorf("forged %s: %v", what, err)
		}
	}
	if err := schemas.VerifyReceipt(goldenKey(), "V-0043", e); !errors.Is(err, schemas.ErrMAC) {
		t.Errorf("of another machine: %v", err)
	}
	if err := schemas.VerifyReceipt(key(), r.Machine, e); !errors.Is(err, schemas.ErrMAC) {
		t.Errorf("with another key: %v", err)
	}
}

func TestReceiptGapsTellOneStory(t *testing.T) {
	mac := strings.Repeat("A", 43)
	for want, e := range map[string]schemas.EpochReceipt{
		"":                                {Epoch: 1, CompleteTo: 4, Highest: 12, Gaps: [][2]uint32{{5, 6}, {8, 8}, {10, 11}}, MAC: mac},
		"are not apart and in order":      {Epoch: 1, CompleteTo: 4, Highest: 12, Gaps: [][2]uint32{{5, 6}, {7, 8}}, MAC: mac}, // one gap told as two
		"are missing":                     {Epoch: 1, CompleteTo: 4, Highest: 12, MAC: mac},
		"do not begin right after":        {Epoch: 1, CompleteTo: 4, Highest: 12, Gaps: [][2]uint32{{6, 6}}, MAC: mac},
		"complete_to\": is greater than":  {Epoch: 1, CompleteTo: 5, Highest: 4, MAC: mac},
		"apart and in order between comp": {Epoch: 1, CompleteTo: 4, Highest: 12, Gaps: [][2]uint32{{5, 12}}, MAC: mac},
	} {
		r := schemas.Receipt{Machine: "m", AsOf: time.Unix(1e9, 0), Epochs: []schemas.EpochReceipt{e}}
		if err := r.Validate(); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", e, err, want)
		}
	}
}

// envelope is a batch whose records are judged later, one by one, as the ledger does.
type envelope schemas.Batch

func (*envelope) Validate() error { return nil }

// TestBadRecordLeavesItsNeighbors: what is wrong inside one record does not hide the others.
func TestBadRecordLeavesItsNeighbors(t *testing.T) {
	good := golden(t, "transaction", "unicode")
	for name, bad := range map[string]string{
		"not UTF-8":       "{\"machine\":\"\xff\"}",
		"nested deeply":   strings.Repeat("[", 4000) + strings.Repeat("]", 4000),
		"not an object":   "null",
		"a key not UTF-8": "{\"\xfe\":1}",
	} {
		payload := `{"machine":"m","vehicle":"v","epoch":3,"first":1,"last":2,"as_of":"2026-11-22T23:41:09.120Z","records":[` + bad + "," + string(good) + "]}"
		var e envelope
		if err := schemas.Decode([]byte(payload), schemas.NameTransactions, &e); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if len(e.Records) != 2 || string(e.Records[0]) != bad || !bytes.Equal(e.Records[1], good) {
			t.Errorf("%s: %d records: %s", name, len(e.Records), e.Records)
		}
		if _, err := schemas.DecodeBatch([]byte(payload)); err == nil || !strings.Contains(err.Error(), "records[0]") {
			t.Errorf("%s: the whole batch: %v", name, err)
		}
	}
	// Outside the records it stays strict.
	if err := schemas.Decode([]byte("{\"x\":\"\xff\"}"), schemas.NameTransactions, &envelope{}); err == nil || !strings.Contains(err.Error(), "not UTF-8") {
		t.Errorf("a member that is not UTF-8: %v", err)
	}
}

func TestHolds(t *testing.T) {
	e := schemas.EpochReceipt{CompleteTo: 4, Highest: 10, Gaps: [][2]uint32{{5, 6}, {9, 9}}}
	for seq, want := range []bool{false, true, true, true, true, false, false, true, true, false, true, false} {
		if e.Holds(uint32(seq)) != want {
			t.Errorf("holds %d: %t, want %t", seq, !want, want)
		}
	}
	const most = 1<<32 - 1
	if all := (schemas.EpochReceipt{CompleteTo: most, Highest: most}); !all.Holds(most) || all.Holds(0) {
		t.Error("wrong at the ends of the range")
	}
	if (schemas.EpochReceipt{}).Holds(1) {
		t.Error("an empty receipt holds nothing")
	}
}

func FuzzVerifyTransaction(f *testing.F) {
	for _, r := range chain(f, 3) {
		f.Add(r)
	}
	for _, name := range []string{"first-of-epoch", "escapes"} {
		b, err := os.ReadFile(filepath.Join("testdata", "good", "transaction", name+".json"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	genuine := map[string]bool{}
	for _, r := range chain(f, 3) {
		genuine[string(r)] = true
	}
	f.Fuzz(func(t *testing.T, record []byte) {
		if _, err := schemas.VerifyTransaction(key(), record); (err == nil) != genuine[string(record)] {
			t.Errorf("%v\n%s", err, record)
		}
	})
}
