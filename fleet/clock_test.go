package fleet

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/farebeat/farebeat/fleet/counts"
)

// Our clock was a day ahead for a minute: counts are stored again once it is right, not a day later.
func TestCountsGoOnAfterTheClockWasAhead(t *testing.T) {
	db := openStore(t, filepath.Join(t.TempDir(), "farebeat.db"))
	defer db.Close()
	a := newAlone(t, db)
	a.pass(5*time.Minute, "m1", "m2")
	a.now = a.now.Add(24 * time.Hour)
	a.pass(time.Minute, "m1", "m2")
	a.now = a.now.Add(-24 * time.Hour)
	begin := a.now
	a.pass(2*time.Hour, "m1", "m2")
	minutes := 0
	err := db.Counts().Frames(t.Context(), begin, a.now.Add(time.Minute), func(counts.Frame) error { minutes++; return nil })
	if err != nil {
		t.Fatal(err)
	}
	if minutes < 119 {
		t.Errorf("%d minutes of 120 are stored", minutes)
	}
	rows, err := db.Counts().Hours(t.Context(), begin, a.now, "")
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) == 0 {
		t.Error("no hour is stored")
	}
}
