package powercut

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func freshDisk(t *testing.T, fault Fault) (*Disk, *inode) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "old"), []byte("lasting"), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := newDisk(dir, fault)
	if err != nil {
		t.Fatal(err)
	}
	return d, d.names[filepath.Join(dir, "old")]
}

func reboot(t *testing.T, d *Disk, seed uint64) Image {
	t.Helper()
	image, err := d.Reboot(seed)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

func TestOnlyWhatWasSyncedIsLasting(t *testing.T) {
	d, old := freshDisk(t, Fault{})
	d.write(old, 0, []byte("LAST"))
	if got := reboot(t, d, 0)["old"]; string(got) != "lasting" {
		t.Errorf("before the sync: %q", got)
	}
	if got := reboot(t, d, 1)["old"]; string(got) != "LASTing" {
		t.Errorf("with luck: %q", got)
	}
	d.sync(old, false)
	d.truncate(old, 2)
	if got := reboot(t, d, 0)["old"]; string(got) != "LASTing" {
		t.Errorf("after the sync: %q", got)
	}
}

func TestWritesAreTornBetweenSectors(t *testing.T) {
	d, old := freshDisk(t, Fault{})
	b := bytes.Repeat([]byte{1}, 4*sector)
	d.write(old, 100, b)
	torn, seen := 0, map[string]bool{}
	for seed := uint64(2); seed < 200; seed++ {
		got := reboot(t, d, seed)["old"]
		seen[string(got)] = true
		if n := bytes.Count(got, []byte{1}); n != 0 && n != len(b) {
			torn++
		}
		for from := 100; from < len(got); from = (from/sector + 1) * sector {
			piece := got[from:min((from/sector+1)*sector, len(got))]
			if n := bytes.Count(piece, []byte{1}); n != 0 && n != len(piece) {
				t.Fatalf("seed %d: a sector was torn: %d of %d bytes from %d", seed, n, len(piece), from)
			}
		}
	}
	if torn < 20 || len(seen) < 10 {
		t.Errorf("%d of 198 torn, %d different", torn, len(seen))
	}
}

func TestWhatAFailedSyncGaveUpIsNeverWritten(t *testing.T) {
	lost := 0
	for at := 2; at < 40; at++ {
		d, old := freshDisk(t, Fault{Kind: Fail, At: at})
		for range at - 2 {
			d.sync(old, false)
		}
		d.write(old, 0, []byte("new"))
		if v := d.sync(old, false); v != failed {
			t.Fatalf("sync: %v", v)
		}
		if v := d.sync(old, false); v != done {
			t.Fatalf("the next sync: %v", v)
		}
		if string(reboot(t, d, 1)["old"]) == "lasting" {
			lost++
		}
	}
	if lost == 0 {
		t.Error("a failed sync never lost anything")
	}
}

func TestNamesNeedTheFolderSynced(t *testing.T) {
	d, _ := freshDisk(t, Fault{})
	path := func(name string) string { return filepath.Join(d.dir, name) }
	d.create(path("new"))
	d.sync(d.names[path("new")], false)
	d.remove(path("old"), false)
	names := map[string]bool{}
	for seed := range uint64(50) {
		var have []string
		for name := range reboot(t, d, seed) {
			have = append(have, name)
		}
		slices.Sort(have)
		names[strings.Join(have, " ")] = true
	}
	for _, want := range []string{"old", "new", "new old", ""} {
		if !names[want] {
			t.Errorf("never just %q after a loss of power: %v", want, names)
		}
	}
	d.sync(d.names[path("new")], true)
	if image := reboot(t, d, 0); len(image) != 1 || !slices.Contains(slices.Collect(maps.Keys(image)), "new") {
		t.Errorf("after the folder was synced: %v", image)
	}
}

func TestFaultsComeAtTheirOperation(t *testing.T) {
	d, old := freshDisk(t, Fault{Kind: Cut, At: 2})
	for i, want := range []verdict{done, cut, refused, refused} {
		if _, v := d.write(old, 0, []byte("x")); v != want {
			t.Errorf("power: operation %d: %v, want %v", i+1, v, want)
		}
	}
	d, old = freshDisk(t, Fault{Kind: Fail, At: 2})
	for i, want := range []verdict{done, failed, done} {
		if v := d.sync(old, false); v != want {
			t.Errorf("failure: operation %d: %v, want %v", i+1, v, want)
		}
	}
	d, old = freshDisk(t, Fault{Kind: Full, At: 2, Length: 2})
	for i, want := range []verdict{done, full, full, done} {
		if _, v := d.write(old, 1000*int64(i+1), make([]byte, 900)); v != want {
			t.Errorf("full: operation %d: %v, want %v", i+1, v, want)
		}
	}
	if d.Ops() != 4 || !d.Struck() {
		t.Errorf("%d operations", d.Ops())
	}
}
