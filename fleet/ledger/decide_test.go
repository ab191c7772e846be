package ledger

import (
	"bytes"
	"context"
	"testing"

	"github.com/farebeat/farebeat/fleet/keys"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
)

// FuzzBatch: whatever bytes come on the transactions topic, each of the slot's records is judged once,
// only what the key signed is good, and the decision adds up.
func FuzzBatch(f *testing.F) {
	master, err := keys.NewMaster(make([]byte, keys.Size))
	if err != nil {
		f.Fatal(err)
	}
	key, err := master.Machine(context.Background(), "m")
	if err != nil {
		f.Fatal(err)
	}
	slot := topics.Address{Kind: topics.Transactions, Machine: "m", Vehicle: "v", Batch: topics.BatchID{Epoch: 1, First: 1, Last: 3}}
	var minted [][]byte
	prev := schemas.Genesis("m", 1)
	for seq := uint32(1); seq <= 3; seq++ {
		tx := schemas.Transaction{
			Machine: "m", Epoch: 1, Seq: seq, EventTime: at(), TZ: "UTC", ServiceDate: "2018-06-12", AmountMinor: 225,
			Currency: "USD", FareAction: "Enter", Media: "Bank card",
		}
		record, hash, err := schemas.MintTransaction(key[:], prev, &tx)
		if err != nil {
			f.Fatal(err)
		}
		minted, prev = append(minted, record), hash
	}
	payload := append([]byte(`{"machine":"m","vehicle":"v","epoch":1,"first":1,"last":3,"as_of":"2018-06-12T05:00:00Z","records":[`), bytes.Join(minted, []byte(","))...)
	payload = append(payload, "]}"...)
	f.Add(payload)
	f.Add(bytes.Replace(payload, []byte("225"), []byte("226"), 1))
	f.Add(bytes.Replace(payload, []byte(`"seq":2`), []byte(`"seq":3`), 1))
	f.Add(bytes.Replace(payload, minted[1], []byte("null"), 1))
	f.Add(bytes.Replace(payload, minted[1], minted[0], 1))
	f.Add([]byte(`{"records":`))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := open(slot, b)
		if err != nil {
			return
		}
		in := judge(e, "v", key[:], at())
		if len(in.good)+len(in.bad) != 3 {
			t.Fatalf("%d good and %d bad of 3", len(in.good), len(in.bad))
		}
		for _, a := range in.good {
			if !bytes.Equal(a.record, minted[a.tx.Seq-1]) {
				t.Fatalf("record %d was not minted and is good: %s", a.tx.Seq, a.record)
			}
		}
		held := map[uint32][]byte{2: minted[1]}
		p := decide(in, held)
		if len(p.rows)+p.duplicates != len(in.good) || p.added.Len() != uint64(len(p.rows)) || len(p.conflicts)+len(p.broken) != 0 {
			t.Fatalf("plan %+v", p)
		}
	})
}
