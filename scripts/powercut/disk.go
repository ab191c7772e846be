package powercut

import (
	"crypto/sha256"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// sector is what a disk writes whole or not at all, in bytes.
const sector = 512

// Kind is what goes wrong.
type Kind int

// The kinds of fault.
const (
	None Kind = iota
	Cut       // the power fails: this operation may be done in part, and every later one fails
	Fail      // this operation fails, in part done; what a failed fsync was to make lasting may never be
	Full      // from here on, for Length operations, no file grows
)

// Fault is what goes wrong at one operation of a disk. Operations count from 1.
type Fault struct {
	Kind   Kind
	At     int
	Length int    // of Full, in operations
	Seed   uint64 // of what is done in part
}

// verdict is what becomes of an operation.
type verdict int

const (
	done    verdict = iota
	cut             // done in part at most, and the power is gone
	failed          // done in part at most
	full            // done in part at most, for want of space
	refused         // the power was gone before
)

// change is one write to a file, or its truncation where data is nil, that no sync has made lasting yet.
type change struct {
	off  int64
	data []byte
}

// inode is the content of a file: what is lasting, and what was done since in its order.
type inode struct {
	synced []byte
	dirty  []change
	size   int64 // as the program sees it
}

// naming is a name given to a file, or taken away where file is nil.
type naming struct {
	name string
	file *inode
}

// Disk is one folder as a disk has it. It is safe for concurrent use.
type Disk struct {
	mu      sync.Mutex
	dir     string
	names   map[string]*inode // as the program sees them
	lasting map[string]*inode // as they are after a loss of power
	renamed []naming          // from lasting to names, in order
	fault   Fault
	ops     int
	grew    []int // the operations that needed space
	dead    bool
}

// newDisk is a disk on which everything that is in dir now is lasting.
func newDisk(dir string, fault Fault) (*Disk, error) {
	d := &Disk{dir: dir, names: map[string]*inode{}, lasting: map[string]*inode{}, fault: fault}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		f := &inode{synced: b, size: int64(len(b))}
		d.names[path], d.lasting[path] = f, f
		return nil
	})
	return d, err
}

// Ops is how many operations there were.
func (d *Disk) Ops() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ops
}

// Struck reports whether the fault has come.
func (d *Disk) Struck() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.fault.Kind != None && d.ops >= d.fault.At
}

// next counts an operation and says what becomes of it. grows tells of one that needs space.
func (d *Disk) next(grows bool) verdict {
	if d.dead {
		return refused
	}
	d.ops++
	if grows {
		d.grew = append(d.grew, d.ops)
	}
	switch d.fault.Kind {
	case Cut:
		if d.ops == d.fault.At {
			d.dead = true
			return cut
		}
	case Fail:
		if d.ops == d.fault.At {
			return failed
		}
	case Full:
		if grows && d.ops >= d.fault.At && d.ops < d.fault.At+d.fault.Length {
			return full
		}
	}
	return done
}

// rng is the same for the same operation and seed.
func (d *Disk) rng() *rand.Rand { return rand.New(rand.NewPCG(uint64(d.ops), d.fault.Seed)) }

// write takes a write down and says how many bytes of it the program's view of the file is to have.
func (d *Disk) write(f *inode, off int64, b []byte) (int, verdict) {
	v := d.next(off+int64(len(b)) > f.size)
	n := len(b)
	switch v {
	case refused:
		return 0, v
	case failed, full:
		n = d.rng().IntN(len(b) + 1)
	}
	if n > 0 {
		f.dirty = append(f.dirty, change{off, slices.Clone(b[:n])})
		f.size = max(f.size, off+int64(n))
	}
	return n, v
}

func (d *Disk) truncate(f *inode, size int64) verdict {
	v := d.next(false)
	if v == done || v == cut {
		f.dirty = append(f.dirty, change{off: size})
		f.size = size
	}
	return v
}

// sync makes a file lasting, and with folder the names in all folders too. Of what a failed sync was
// to write, a part is lasting and nothing will ever write the rest: the system takes it for written.
func (d *Disk) sync(f *inode, folder bool) verdict {
	v := d.next(false)
	switch v {
	case done:
		f.synced, f.dirty = settle(f.synced, f.dirty, everything), nil
		if folder {
			d.syncNames()
		}
	case failed:
		f.synced, f.dirty = settle(f.synced, f.dirty, anyPart(d.rng())), nil
	}
	return v
}

func (d *Disk) syncNames() {
	d.lasting, d.renamed = maps.Clone(d.names), nil
}

// create takes down that a file is made. A full disk has room for the name of an empty one.
func (d *Disk) create(name string) verdict {
	v := d.next(false)
	if v == done || v == cut {
		d.name(name, &inode{})
	}
	return v
}

// found takes down a file that was made, and perhaps filled, past the layer. It is not lasting.
func (d *Disk) found(name string, content []byte) *inode {
	f := &inode{size: int64(len(content))}
	if len(content) > 0 {
		f.dirty = []change{{0, slices.Clone(content)}}
	}
	d.name(name, f)
	return f
}

func (d *Disk) remove(name string, folder bool) verdict {
	v := d.next(false)
	if v == done || v == cut {
		d.name(name, nil)
	}
	if v == done && folder {
		d.syncNames()
	}
	return v
}

func (d *Disk) name(name string, f *inode) {
	if f == nil {
		delete(d.names, name)
	} else {
		d.names[name] = f
	}
	d.renamed = append(d.renamed, naming{name, f})
}

// Image is what a disk holds, content by path below its folder.
type Image map[string][]byte

// Sum is the same for the same image.
func (m Image) Sum() [sha256.Size]byte {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(m)) {
		sum := sha256.Sum256(m[name])
		h.Write([]byte(name))
		h.Write([]byte{0})
		h.Write(sum[:])
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// Write writes an image below dir.
func (m Image) Write(dir string) error {
	for name, b := range m {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// Reboot gives what the disk may hold once the power is back: with seed 0 what was synced and no
// more, with seed 1 all that was written, with any other seed any part of what was not synced.
func (d *Disk) Reboot(seed uint64) (Image, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	rng := rand.New(rand.NewPCG(seed, 7))
	names := maps.Clone(d.lasting)
	for name, turns := range d.turns() {
		n := rng.IntN(len(turns) + 1)
		switch seed {
		case 0:
			continue
		case 1:
			n = len(turns)
		}
		if n > 0 {
			names[name] = turns[n-1]
		}
	}
	out := Image{}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		f := names[name]
		if f == nil {
			continue
		}
		rel, err := filepath.Rel(d.dir, name)
		if err != nil {
			return nil, err
		}
		keep := anyPart(rng)
		switch seed {
		case 0:
			keep = nothing
		case 1:
			keep = everything
		}
		out[rel] = settle(slices.Clone(f.synced), f.dirty, keep)
	}
	return out, nil
}

// turns lists by name, in ascending order, what it stood for since it was lasting.
func (d *Disk) turns() func(yield func(string, []*inode) bool) {
	byName := map[string][]*inode{}
	for _, r := range d.renamed {
		byName[r.name] = append(byName[r.name], r.file)
	}
	return func(yield func(string, []*inode) bool) {
		for _, name := range slices.Sorted(maps.Keys(byName)) {
			if !yield(name, byName[name]) {
				return
			}
		}
	}
}

// fate says what of a change reaches the disk: whether it does at all, and whether a piece of its data does.
type fate func() (reached bool, piece func() bool)

func always() bool { return true }

func everything() (bool, func() bool) { return true, always }
func nothing() (bool, func() bool)    { return false, nil }

// anyPart lets a third of the changes reach the disk whole, a third not, and of the others every second sector.
func anyPart(rng *rand.Rand) fate {
	return func() (bool, func() bool) {
		switch rng.IntN(3) {
		case 0:
			return true, always
		case 1:
			return false, nil
		}
		return true, func() bool { return rng.IntN(2) == 0 }
	}
}

// settle applies changes to out as their fate has it. Where a later part of a write reached the disk and
// an earlier did not, there are zeros.
func settle(out []byte, changes []change, keep fate) []byte {
	for _, c := range changes {
		reached, piece := keep()
		if !reached {
			continue
		}
		if c.data == nil {
			out = resize(out, c.off)
			continue
		}
		for at := int64(0); at < int64(len(c.data)); {
			end := min(at+sector-(c.off+at)%sector, int64(len(c.data)))
			if piece() {
				if c.off+end > int64(len(out)) {
					out = resize(out, c.off+end)
				}
				copy(out[c.off+at:], c.data[at:end])
			}
			at = end
		}
	}
	return out
}

func resize(b []byte, size int64) []byte {
	if size <= int64(len(b)) {
		return b[:size]
	}
	return append(b, make([]byte, size-int64(len(b)))...)
}
