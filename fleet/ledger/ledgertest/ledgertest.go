// Package ledgertest mints machines and their records for tests of the ledger, and holds the
// test that every ledger.Store has to pass.
package ledgertest

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/farebeat/farebeat/fleet/keys"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
)

// Keys are keys of a master that is not secret.
func Keys(tb testing.TB) keys.Keys {
	tb.Helper()
	k, err := keys.NewMaster([]byte("a master key that is not secret."))
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

// Start is the event time of the first record of every machine.
func Start() time.Time { return time.Date(2018, 6, 12, 5, 0, 0, 0, time.UTC) }

// Machine writes one epoch of a machine's journal.
type Machine struct {
	ID      string
	Vehicle string
	Epoch   uint32
	Key     [keys.Size]byte
	Records [][]byte // seq 1 first
	Change  func(tx *schemas.Transaction)

	tb   testing.TB
	prev [32]byte
}

// New makes a machine on a vehicle with an empty journal.
func New(tb testing.TB, id, vehicle string, epoch uint32) *Machine {
	tb.Helper()
	key, err := Keys(tb).Machine(context.Background(), id)
	if err != nil {
		tb.Fatal(err)
	}
	return &Machine{ID: id, Vehicle: vehicle, Epoch: epoch, Key: key, tb: tb, prev: schemas.Genesis(id, epoch)}
}

// Mint writes n records more: a tap every 30 s of 225 US cents, unless Change changes them.
func (m *Machine) Mint(n int) *Machine {
	m.tb.Helper()
	for range n {
		seq := uint32(len(m.Records)) + 1
		tx := schemas.Transaction{
			Machine: m.ID, Epoch: m.Epoch, Seq: seq, EventTime: Start().Add(time.Duration(seq) * 30 * time.Second),
			TZ: "America/New_York", ServiceDate: "2018-06-12", AmountMinor: 225, Currency: "USD",
			FareAction: "Enter", Media: "Bank card", Vehicle: m.Vehicle, Route: "36", Offline: true,
		}
		if m.Change != nil {
			m.Change(&tx)
		}
		record, hash, err := schemas.MintTransaction(m.Key[:], m.prev, &tx)
		if err != nil {
			m.tb.Fatal(err)
		}
		m.Records, m.prev = append(m.Records, record), hash
	}
	return m
}

// Batch is the slot of the records first to last: its topic and its payload.
func (m *Machine) Batch(first, last uint32) (topics.Address, []byte) {
	m.tb.Helper()
	b := schemas.Batch{Machine: m.ID, Vehicle: m.Vehicle, Epoch: m.Epoch, First: first, Last: last, AsOf: Start()}
	for _, r := range m.Records[first-1 : last] {
		b.Records = append(b.Records, r)
	}
	return Slot(b), Payload(m.tb, b)
}

// Slot is the address of a batch.
func Slot(b schemas.Batch) topics.Address {
	return topics.Address{
		Kind: topics.Transactions, Machine: b.Machine, Vehicle: b.Vehicle,
		Batch: topics.BatchID{Epoch: b.Epoch, First: b.First, Last: b.Last},
	}
}

// Payload encodes a batch with its records as they are, good or not.
func Payload(tb testing.TB, b schemas.Batch) []byte {
	tb.Helper()
	records := b.Records
	b.Records = []json.RawMessage{}
	head, err := json.Marshal(b)
	if err != nil {
		tb.Fatal(err)
	}
	out := append(head[:len(head)-len("[]}")], '[')
	for i, r := range records {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, r...)
	}
	return append(out, "]}"...)
}

// Name is a machine identifier for loops.
func Name(i int) string { return fmt.Sprintf("%05d-1", i) }

// TB is what the machine was made with.
func (m *Machine) TB() testing.TB { return m.tb }
