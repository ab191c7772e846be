package outbox_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/farebeat/farebeat/edge/outbox"
)

// Whatever page of the file is spoilt: it opens, says so if anything was lost, keeps the damaged file, and gives no record with
// other bytes than it was given.
func TestDamagedFileIsSalvaged(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "outbox.db")
	o := open(t, path)
	given := map[outbox.BatchID][]outbox.Record{}
	for m := range 3 {
		id := fmt.Sprintf("m-%d", m)
		appendAll(t, o, id, records(id, 1, 1, 300))
		if _, err := o.Seal(t.Context(), id, outbox.Everything); err != nil {
			t.Fatal(err)
		}
		given[outbox.BatchID{Machine: id}] = records(id, 1, 1, 300)
	}
	before, err := o.NextSession(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const page = 4096
	salvages, kept, step := 0, 0, page
	if underRace {
		step = 6 * page
	}
	for at := 0; at < len(whole); at += step {
		rng := rand.New(rand.NewPCG(uint64(at), 1))
		spoilt := bytes.Clone(whole)
		for i := range page {
			spoilt[at+i] = byte(rng.Uint32())
		}
		one := filepath.Join(dir, fmt.Sprint("at-", at), "outbox.db")
		write(t, one, spoilt)
		o := open(t, one)
		n := sound(t, o, given)
		if n == 900 && o.Damage() == nil {
			continue // the page was free
		}
		d := o.Damage()
		if d == nil {
			t.Fatalf("page at %d: %d of 900 records are here, and nothing was said", at, n)
		}
		salvages++
		kept += n
		if aside, err := os.ReadFile(d.Aside); err != nil || !bytes.Equal(aside, spoilt) || d.Records < n {
			t.Errorf("page at %d: the damaged file is not kept (%v), or %d records for %d", at, err, d.Records, n)
		}
		if session, err := o.NextSession(t.Context()); err != nil || session <= before {
			t.Errorf("page at %d: session %d after %d: %v", at, session, before, err)
		}
		// The machine gives again what it still has.
		for id, list := range given {
			appendAll(t, o, id.Machine, list)
		}
		if n := sound(t, o, given); n != 900 {
			t.Errorf("page at %d: %d of 900 records after the machines were read again", at, n)
		}
		if err := o.Close(); err != nil {
			t.Error(err)
		}
		if again := open(t, one); again.Damage() != nil {
			t.Errorf("page at %d: damaged again: %v", at, again.Damage().Cause)
		}
	}
	t.Logf("%d of %d pages led to a salvage, which kept %d of 900 records on average", salvages, (len(whole)+step-1)/step, kept/max(1, salvages))
	if salvages < 10 || kept == 0 {
		t.Errorf("%d salvages kept %d records", salvages, kept)
	}
}

// sound counts the records that are here, and compares those of batches with what was given.
func sound(t *testing.T, o *outbox.Outbox, given map[outbox.BatchID][]outbox.Record) int {
	t.Helper()
	n := 0
	for machine, list := range given {
		held, err := o.Held(t.Context(), machine.Machine)
		if err != nil {
			t.Fatal(err)
		}
		n += int(held[1].Count())
		if _, err := o.Seal(t.Context(), machine.Machine, outbox.Everything); err != nil {
			t.Fatal(err)
		}
		open, err := o.OpenBatches(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range open {
			b, err := o.Load(t.Context(), id)
			if id.Machine != machine.Machine || err != nil {
				continue // of another machine, or records of it are to be read again
			}
			for i, body := range b.Records {
				if !bytes.Equal(body, list[int(id.First)-1+i].Body) {
					t.Fatalf("record %d of %v has other bytes", i, id)
				}
			}
		}
	}
	return n
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestFileThatIsNoDatabase(t *testing.T) {
	path := filepath.Join(t.TempDir(), "outbox.db")
	text := []byte(strings.Repeat("not a database\n", 500))
	write(t, path, text)
	o := open(t, path)
	d := o.Damage()
	if d == nil || d.Records != 0 || d.Cause == nil {
		t.Fatalf("damage %+v", d)
	}
	if aside, err := os.ReadFile(d.Aside); err != nil || !bytes.Equal(aside, text) {
		t.Errorf("the file was changed: %v", err)
	}
}

// A crash while the files change places is ended by the next Open.
func TestInterruptedSalvage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "outbox.db")
	o := open(t, path)
	appendAll(t, o, "m-1", records("m-1", 1, 1, 3))
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path, path+".salvaged"); err != nil { // the damaged file was set aside, this one has not its place yet
		t.Fatal(err)
	}
	o = open(t, path)
	held, err := o.Held(t.Context(), "m-1")
	if err != nil || held[1].Count() != 3 || o.Damage() == nil || o.Damage().Records != 3 {
		t.Errorf("%v, %+v, %v", held, o.Damage(), err)
	}
}

// testdata/v1.db was written by the first version: one batch of records 1 to 3, 4 and 5 not in a batch, session 1772344800.
func TestFileOfTheFirstVersion(t *testing.T) {
	content, err := os.ReadFile("testdata/v1.db")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "outbox.db")
	write(t, path, content)
	o := open(t, path)
	held, err := o.Held(t.Context(), "m-1")
	if err != nil || held[1].Count() != 5 || o.Damage() != nil {
		t.Errorf("%v, %v", held, err)
	}
	b, err := o.Load(t.Context(), outbox.BatchID{Machine: "m-1", Epoch: 1, First: 1, Last: 3})
	if err != nil || len(b.Records) != 3 || !bytes.Equal(b.Records[2], records("m-1", 1, 3, 3)[0].Body) {
		t.Errorf("%+v, %v", b, err)
	}
	if n, err := o.NextSession(t.Context()); err != nil || n != 1772344801 { // one more than in the file
		t.Errorf("session %d, %v", n, err)
	}
}
