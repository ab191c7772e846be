package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/farebeat/farebeat/fleet/ledger"
	"github.com/farebeat/farebeat/fleet/ledger/ledgertest"
	"github.com/farebeat/farebeat/fleet/presence"
	"github.com/farebeat/farebeat/fleet/store"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
)

// bookCommands are commands of scripts that bring records into a data folder, as a running service would. Every machine
// writes 10 records of 2.25 USD on 2018-06-12 and the following ones on 2018-06-13.
//
//	arrive DATA MACHINE EPOCH FIRST LAST     records come home
//	contradict DATA MACHINE EPOCH SEQ        the machine signs another record under a key: 9.99 USD
//	forge DATA MACHINE EPOCH SEQ             somebody else's record comes in its place
//	declare DATA MACHINE EPOCH LAST PENDING  a heartbeat
func bookCommands(t *testing.T) map[string]func(ts *testscript.TestScript, neg bool, args []string) {
	with := func(args int, do func(b *booksOf, machine string, n []uint32)) func(*testscript.TestScript, bool, []string) {
		return func(ts *testscript.TestScript, _ bool, words []string) {
			if len(words) != args {
				ts.Fatalf("%d arguments, want %d", len(words), args)
			}
			var numbers []uint32
			for _, word := range words[2:] {
				n, err := strconv.ParseUint(word, 10, 32)
				ts.Check(err)
				numbers = append(numbers, uint32(n))
			}
			b := openBooks(scriptTB{t, ts}, ts.MkAbs(words[0]))
			do(b, words[1], numbers)
			ts.Check(b.store.Close())
		}
	}
	return map[string]func(*testscript.TestScript, bool, []string){
		"arrive": with(5, func(b *booksOf, machine string, n []uint32) {
			m := b.machine(machine, n[0]).Mint(int(n[2]))
			b.ingest(m.Batch(n[1], n[2]))
		}),
		"contradict": with(4, func(b *booksOf, machine string, n []uint32) {
			m := b.machine(machine, n[0]).Mint(int(n[1]) - 1)
			m.Change = func(tx *schemas.Transaction) { tx.AmountMinor = 999 }
			b.ingest(m.Mint(1).Batch(n[1], n[1]))
		}),
		"forge": with(4, func(b *booksOf, machine string, n []uint32) {
			m := b.machine(machine, n[0])
			m.Key[0] ^= 1
			b.ingest(m.Mint(int(n[1])).Batch(n[1], n[1]))
		}),
		"declare": with(5, func(b *booksOf, machine string, n []uint32) { b.declare(machine, n[0], n[1], n[2]) }),
	}
}

// scriptTB fails the script that runs, which outlives the test that started it.
type scriptTB struct {
	testing.TB
	ts *testscript.TestScript
}

func (s scriptTB) Helper()           {}
func (s scriptTB) Fatal(args ...any) { s.ts.Fatalf("%s", fmt.Sprint(args...)) }

// booksOf is a data folder that is written to.
type booksOf struct {
	t      testing.TB
	store  *store.Store
	ledger *ledger.Ledger
}

func openBooks(t testing.TB, dir string) *booksOf {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(dir, "master.key")
	if _, err := os.Stat(key); errors.Is(err, fs.ErrNotExist) {
		if err := os.WriteFile(key, []byte(hex.EncodeToString([]byte("a master key that is not secret."))), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, err := store.Open(context.Background(), storePath(dir), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	now := func() time.Time { return time.Date(2018, 6, 15, 12, 0, 0, 0, time.UTC) }
	return &booksOf{t, s, ledger.New(s.Ledger(), ledgertest.Keys(t), now)}
}

func (b *booksOf) machine(id string, epoch uint32) *ledgertest.Machine {
	m := ledgertest.New(b.t, id, "bus-7", epoch)
	m.Change = func(tx *schemas.Transaction) {
		if tx.Seq > 10 {
			tx.ServiceDate, tx.EventTime = "2018-06-13", tx.EventTime.AddDate(0, 0, 1)
		}
	}
	return m
}

func (b *booksOf) declare(machine string, epoch, last, pending uint32) {
	roster, err := b.store.Roster(context.Background())
	if err != nil {
		b.t.Fatal(err)
	}
	at := time.Date(2018, 6, 15, 11, 0, 0, 0, time.UTC)
	saved := presence.Saved{Machine: machine, State: schemas.Up, Since: at, LastHeartbeat: at, Epoch: epoch, LastSeq: last, Pending: pending}
	others := roster[:0]
	for _, m := range roster {
		if m.Machine != machine {
			others = append(others, m)
		}
	}
	if err := b.store.SaveRoster(context.Background(), append(others, saved), nil); err != nil {
		b.t.Fatal(err)
	}
}

func (b *booksOf) ingest(slot topics.Address, payload []byte) {
	if _, err := b.ledger.Ingest(context.Background(), slot, payload); err != nil {
		b.t.Fatal(err)
	}
}
