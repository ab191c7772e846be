package journal

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
)

var (
	errPower = errors.New("no power")
	errDisk  = errors.New("input/output error")
	errSpace = errors.New("no space left on device")
)

// powerDisk is a file system in memory that knows what is on the disk and what
// only in the cache. It loses power, fails once, or is full for a while, at any given operation.
type powerDisk struct {
	names   map[string]*inode // as the program sees them
	durable map[string]*inode // as they are on the disk
	pending []func(map[string]*inode)
	ops     int // changing operations so far
	failAt  int // this one fails; 0: none
	once    bool
	full    int // from failAt on, for so many operations, no file grows
	dead    bool
	rng     *rand.Rand
}

type inode struct {
	data, synced []byte
	lost         []bool // bytes of data that a failed sync gave up: no later one writes them
}

// drop is what a failed sync may do: what was to be written counts as written.
func (f *inode) drop() {
	for len(f.lost) < len(f.data) {
		f.lost = append(f.lost, false)
	}
	for i, b := range f.data {
		f.lost[i] = f.lost[i] || i >= len(f.synced) || f.synced[i] != b
	}
}

func (f *inode) sync() {
	old := f.synced
	f.synced = slices.Clone(f.data)
	for i := range min(len(f.lost), len(f.data)) {
		if f.lost[i] {
			f.synced[i] = 0
			if i < len(old) {
				f.synced[i] = old[i]
			}
		}
	}
}

func newPowerDisk() *powerDisk {
	return &powerDisk{names: map[string]*inode{}, durable: map[string]*inode{}, rng: rand.New(rand.NewPCG(1, 2))}
}

// step counts an operation and says whether it fails.
func (d *powerDisk) step() error {
	if d.dead {
		return errPower
	}
	d.ops++
	if d.ops != d.failAt || d.full > 0 {
		return nil
	}
	if d.once {
		return errDisk
	}
	d.dead = true
	return errPower
}

// reboot is the disk after the power came back: of what was not synced any part
// may be there, names in the order in which they were changed.
func (d *powerDisk) reboot(seed uint64) *powerDisk {
	rng := rand.New(rand.NewPCG(seed, 7))
	names := maps.Clone(d.durable)
	for _, change := range d.pending[:rng.IntN(len(d.pending)+1)] {
		change(names)
	}
	out := newPowerDisk()
	out.rng = rng
	for _, name := range slices.Sorted(maps.Keys(names)) {
		f := names[name]
		b := slices.Clone(f.synced)
		if len(f.data) > len(b) && rng.IntN(3) > 0 {
			rest := slices.Clone(f.data[len(b):][:rng.IntN(len(f.data)-len(b)+1)])
			if rng.IntN(4) == 0 {
				clear(rest[rng.IntN(len(rest)+1):])
			}
			b = append(b, rest...)
		} else if len(f.data) < len(b) && rng.IntN(2) == 0 {
			b = b[:len(f.data)]
		}
		n := &inode{data: b, synced: slices.Clone(b)}
		out.names[name], out.durable[name] = n, n
	}
	return out
}

func (d *powerDisk) change(f func(map[string]*inode)) {
	f(d.names)
	d.pending = append(d.pending, f)
}

func (d *powerDisk) MkdirAll(string) error { return d.step() }

func (d *powerDisk) ReadDir(dir string) ([]string, error) {
	var out []string
	for name := range d.names {
		if rest, ok := strings.CutPrefix(name, dir+"/"); ok && !strings.Contains(rest, "/") {
			out = append(out, rest)
		}
	}
	if out == nil {
		return nil, fs.ErrNotExist
	}
	slices.Sort(out)
	return out, nil
}

func (d *powerDisk) ReadFile(name string) ([]byte, error) {
	if d.dead {
		return nil, errPower
	}
	f, ok := d.names[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return slices.Clone(f.data), nil
}

func (d *powerDisk) Open(name string, create bool) (file, error) {
	f, ok := d.names[name]
	if !ok && !create {
		return nil, fs.ErrNotExist
	}
	if !ok {
		if err := d.step(); err != nil {
			return nil, err
		}
		f = &inode{}
		d.change(func(m map[string]*inode) { m[name] = f })
	}
	return &powerFile{d, f}, nil
}

func (d *powerDisk) Rename(from, to string) error {
	if err := d.step(); err != nil {
		return err
	}
	d.change(func(m map[string]*inode) { m[to] = m[from]; delete(m, from) })
	return nil
}

func (d *powerDisk) Remove(name string) error {
	if err := d.step(); err != nil {
		return err
	}
	if _, ok := d.names[name]; !ok {
		return fs.ErrNotExist
	}
	d.change(func(m map[string]*inode) { delete(m, name) })
	return nil
}

// SyncDir makes all names durable: more than one directory only makes the test
// of the one that holds the segments stricter elsewhere.
func (d *powerDisk) SyncDir(string) error {
	if err := d.step(); err != nil {
		return err
	}
	for _, change := range d.pending {
		change(d.durable)
	}
	d.pending = nil
	return nil
}

func (d *powerDisk) Lock(string) (io.Closer, error) { return io.NopCloser(nil), nil }

// put writes a file as if it had always been there.
func (d *powerDisk) put(name string, b []byte) {
	n := &inode{data: slices.Clone(b), synced: slices.Clone(b)}
	d.names[name], d.durable[name] = n, n
}

func (d *powerDisk) files(dir, suffix string) []string {
	var out []string
	for name := range d.names {
		if filepath.Dir(name) == dir && strings.HasSuffix(name, suffix) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

func (d *powerDisk) clone() *powerDisk {
	out := newPowerDisk()
	for name, f := range d.names {
		out.put(name, f.data)
	}
	return out
}

type powerFile struct {
	d *powerDisk
	f *inode
}

func (p *powerFile) ReadAt(b []byte, off int64) (int, error) {
	if off >= int64(len(p.f.data)) {
		return 0, io.EOF
	}
	n := copy(b, p.f.data[off:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (p *powerFile) WriteAt(b []byte, off int64) (int, error) {
	err := p.d.step()
	if d := p.d; err == nil && d.full > 0 && d.ops >= d.failAt && d.ops < d.failAt+d.full && int(off)+len(b) > len(p.f.data) {
		err = errSpace
	}
	if err != nil {
		b = b[:p.d.rng.IntN(len(b)+1)]
	}
	for i := int(off); i < min(int(off)+len(b), len(p.f.lost)); i++ {
		p.f.lost[i] = false
	}
	if need := int(off) + len(b); need > len(p.f.data) {
		p.f.data = append(p.f.data, make([]byte, need-len(p.f.data))...)
	}
	copy(p.f.data[off:], b)
	return len(b), err
}

func (p *powerFile) Truncate(size int64) error {
	if err := p.d.step(); err != nil {
		return err
	}
	p.f.data = p.f.data[:size:size]
	p.f.lost = p.f.lost[:min(int(size), len(p.f.lost))]
	return nil
}

func (p *powerFile) Sync() error {
	if err := p.d.step(); err != nil {
		if errors.Is(err, errDisk) {
			p.f.drop()
		}
		return err
	}
	p.f.sync()
	return nil
}

func (p *powerFile) Close() error { return nil }
