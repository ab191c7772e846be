package store

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/farebeat/farebeat/fleet/ledger"
	"github.com/farebeat/farebeat/fleet/ledger/ledgertest"
)

// FuzzCarve: what a damaged store's pages and log hold is looked through whatever it is, and comes to an end.
func FuzzCarve(f *testing.F) {
	path := filepath.Join(f.TempDir(), "farebeat.db")
	s, err := Open(context.Background(), path, Options{})
	if err != nil {
		f.Fatal(err)
	}
	slot, payload := ledgertest.New(f, "m1", "v1", 1).Mint(40).Batch(1, 40)
	if _, err := ledger.New(s.Ledger(), ledgertest.Keys(f), time.Now).Ingest(context.Background(), slot, payload); err != nil {
		f.Fatal(err)
	}
	if err := s.Close(); err != nil {
		f.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	for at := 0; at+pageSize <= len(whole); at += pageSize {
		if whole[at] == leafOfTable {
			f.Add(whole[at:at+pageSize], []byte{})
		}
	}
	f.Add([]byte{leafOfTable, 0, 0, 0xff, 0xff}, []byte{1})
	f.Fuzz(func(t *testing.T, file, log []byte) {
		const most = 16 * pageSize
		dir := t.TempDir()
		path := filepath.Join(dir, "f")
		if os.WriteFile(path, file[:min(len(file), most)], 0o600) != nil || os.WriteFile(path+"-wal", log[:min(len(log), most)], 0o600) != nil {
			t.Fatal("the files cannot be written")
		}
		p, err := openPages(path)
		if err != nil {
			t.Fatal(err)
		}
		err = p.each(func(row carved) error {
			if len(row.record) > 1<<20 {
				t.Errorf("a record of %d bytes", len(row.record))
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		if err := p.close(); err != nil {
			t.Error(err)
		}
	})
}
