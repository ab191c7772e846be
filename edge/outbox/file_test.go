package outbox_test

import (
	"bytes"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/farebeat/farebeat/edge/outbox"
)

func TestOpenRefuses(t *testing.T) {
	t.Run("a file in use", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "outbox.db")
		open(t, path)
		_, err := outbox.Open(t.Context(), path, outbox.Options{})
		if !errors.Is(err, outbox.ErrInUse) || !strings.Contains(err.Error(), "stop the other agent") {
			t.Fatalf("error %v", err)
		}
	})
	t.Run("another program's database", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "outbox.db")
		statement(t, path, `CREATE TABLE songs (name TEXT)`)
		_, err := outbox.Open(t.Context(), path, outbox.Options{})
		if err == nil || !strings.Contains(err.Error(), "not a Farebeat outbox") {
			t.Fatalf("error %v", err)
		}
	})
	t.Run("a later layout", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "outbox.db")
		if err := open(t, path).Close(); err != nil {
			t.Fatal(err)
		}
		statement(t, path, `PRAGMA user_version = 2`)
		_, err := outbox.Open(t.Context(), path, outbox.Options{})
		if err == nil || !strings.Contains(err.Error(), "layout version 2") {
			t.Fatalf("error %v", err)
		}
	})
	t.Run("a folder that cannot be", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := outbox.Open(t.Context(), filepath.Join(file, "outbox.db"), outbox.Options{}); err == nil || !strings.Contains(err.Error(), file) {
			t.Fatalf("error %v", err)
		}
	})
}

func TestTheFileIsPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a folder?#", "outbox.db")
	appendAll(t, open(t, path), "m-1", records("m-1", 3, 1, 1))
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) == 0 {
		t.Fatalf("%v, %v", entries, err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", e.Name(), info.Mode())
		}
	}
}

// statement runs one statement on a file that no outbox has open.
func statement(t *testing.T, path, text string, args ...any) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(text, args...); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// A record that the disk changed is set aside, wanted again from the machine,
// and the slot is whole again after that.
func TestADamagedRecordIsReadAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "outbox.db")
	o, err := outbox.Open(t.Context(), path, outbox.Options{})
	if err != nil {
		t.Fatal(err)
	}
	appendAll(t, o, "m-1", records("m-1", 3, 1, 9))
	seal(t, o, "m-1", outbox.Everything)
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
	statement(t, path, `UPDATE record SET body = ? WHERE seq = 4`, []byte("{}"))
	o = open(t, path)
	slot := id("m-1", 3, 1, 9)
	for range 2 {
		if _, err := o.Load(t.Context(), slot); !errors.Is(err, outbox.ErrDamaged) || !strings.Contains(err.Error(), "1 of 9 records") {
			t.Fatalf("error %v", err)
		}
	}
	wantHeld(t, o, "m-1", map[uint32]outbox.Intervals{3: {{First: 1, Last: 3}, {First: 5, Last: 9}}})
	q, err := o.Quarantine(t.Context(), "m-1")
	if err != nil || len(q) != 1 || q[0].Seq != 4 || string(q[0].Body) != "{}" {
		t.Fatalf("quarantine %v, %v", q, err)
	}
	appendAll(t, o, "m-1", records("m-1", 3, 4, 4))
	if ids := seal(t, o, "m-1", outbox.Everything); ids != nil {
		t.Fatalf("a second slot for the same record: %v", ids)
	}
	b, err := o.Load(t.Context(), slot)
	if err != nil || len(b.Records) != 9 || !bytes.Equal(b.Records[3], body("m-1", 3, 4)) {
		t.Fatalf("batch %v, %v", b, err)
	}
}
