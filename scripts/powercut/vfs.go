package powercut

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
	"unsafe"

	"modernc.org/libc"
	_ "modernc.org/sqlite" // configures the library before its first use
	lib "modernc.org/sqlite/lib"
)

// Layer is the file system that SQLite sees.
type Layer struct {
	tls     *libc.TLS
	below   uintptr // *lib.Tsqlite3_vfs of the operating system
	own     uintptr // *lib.Tsqlite3_vfs registered in its place
	methods uintptr // *lib.Tsqlite3_io_methods of every file on a disk
	name    uintptr
	keep    []any // the functions that SQLite points to, out of the garbage collector's sight

	mu    sync.Mutex
	disks map[string]*Disk   // by folder
	files map[uintptr]handle // by SQLite's file object
}

// handle is an open file.
type handle struct {
	disk   *Disk
	file   *inode
	folder *bool // the next sync makes the folder lasting, too
}

// fileHead is how much the layer puts before the file object of the file system below.
const fileHead = 16

// Install makes the layer SQLite's default file system until tb ends. All files must be closed by then.
func Install(tb testing.TB) *Layer {
	tb.Helper()
	l := &Layer{tls: libc.NewTLS(), disks: map[string]*Disk{}, files: map[uintptr]handle{}}
	l.below = lib.Xsqlite3_vfs_find(l.tls, 0)
	l.own, l.methods = l.alloc(tb, unsafe.Sizeof(lib.Tsqlite3_vfs{})), l.alloc(tb, unsafe.Sizeof(lib.Tsqlite3_io_methods{}))
	var err error
	if l.name, err = libc.CString("powercut"); err != nil {
		tb.Fatal(err)
	}
	// What is copied asks for the application data of the file system below, which is copied as well.
	own := at[lib.Tsqlite3_vfs](l.own)
	*own = *at[lib.Tsqlite3_vfs](l.below)
	own.FpNext, own.FzName, own.FszOsFile = 0, l.name, own.FszOsFile+fileHead
	own.FxOpen, own.FxDelete = keep[openFunc](l, l.open), keep[deleteFunc](l, l.remove)
	l.fillMethods(at[lib.Tsqlite3_io_methods](l.methods))
	if rc := lib.Xsqlite3_vfs_register(l.tls, l.own, 1); rc != lib.SQLITE_OK {
		tb.Fatalf("register the file system: SQLite code %d", rc)
	}
	tb.Cleanup(func() { l.uninstall(tb) })
	return l
}

func (l *Layer) alloc(tb testing.TB, size uintptr) uintptr {
	tb.Helper()
	p := libc.Xcalloc(l.tls, 1, libc.Tsize_t(size))
	if p == 0 {
		tb.Fatal("no memory")
	}
	return p
}

func (l *Layer) uninstall(tb testing.TB) {
	lib.Xsqlite3_vfs_unregister(l.tls, l.own)
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.files) > 0 { // they still point to what would be freed
		tb.Errorf("%d files are still open", len(l.files))
		return
	}
	libc.Xfree(l.tls, l.own)
	libc.Xfree(l.tls, l.methods)
	libc.Xfree(l.tls, l.name)
	l.tls.Close()
}

// Disk takes the folder dir under its control, as a disk on which everything that is there now is lasting.
func (l *Layer) Disk(dir string, fault Fault) (*Disk, error) {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, err
	}
	d, err := newDisk(dir, fault)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.disks[dir] = d
	return d, nil
}

// Forget gives the folder of a disk back.
func (l *Layer) Forget(d *Disk) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.disks, d.dir)
}

// disk finds the disk that holds a path; nil if there is none.
func (l *Layer) disk(path string) *Disk {
	l.mu.Lock()
	defer l.mu.Unlock()
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		if d := l.disks[dir]; d != nil || dir == filepath.Dir(dir) {
			return d
		}
	}
}

// at is the C structure at an address.
func at[T any](p uintptr) *T { return *(**T)(unsafe.Pointer(&p)) }

// bytesAt are n bytes of C memory.
func bytesAt(p uintptr, n int32) []byte { return unsafe.Slice(at[byte](p), n) }

// function is the Go function at an address, as modernc.org/libc keeps C's function pointers.
func function[F any](p uintptr) F { return *(*F)(unsafe.Pointer(&p)) }

// keep gives the address of a function, which lives as long as the layer.
func keep[F any](l *Layer, f F) uintptr {
	l.keep = append(l.keep, f)
	return *(*uintptr)(unsafe.Pointer(&f))
}

// The functions of a file system.
type (
	openFunc   = func(tls *libc.TLS, vfs, name, file uintptr, flags int32, outFlags uintptr) int32
	deleteFunc = func(tls *libc.TLS, vfs, name uintptr, syncFolder int32) int32
)

// lastingNames are the kinds of file whose first sync makes their folder lasting as well, as SQLite's
// file system for Unix does.
const lastingNames = lib.SQLITE_OPEN_MAIN_JOURNAL | lib.SQLITE_OPEN_SUPER_JOURNAL | lib.SQLITE_OPEN_WAL

func (l *Layer) open(tls *libc.TLS, _, name, file uintptr, flags int32, outFlags uintptr) int32 {
	below := function[openFunc](at[lib.Tsqlite3_vfs](l.below).FxOpen)
	*at[uintptr](file) = 0
	var path string
	var d *Disk
	if name != 0 && flags&lib.SQLITE_OPEN_DELETEONCLOSE == 0 {
		path = libc.GoString(name)
		d = l.disk(path)
	}
	if d == nil {
		// The methods of the file system below find its file object at its own address only.
		return below(tls, l.below, name, file, flags, outFlags)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if rc := d.open(path, flags&lib.SQLITE_OPEN_CREATE != 0); rc != lib.SQLITE_OK {
		return rc
	}
	rc := below(tls, l.below, name, file+fileHead, flags, outFlags)
	if *at[uintptr](file + fileHead) == 0 {
		return rc
	}
	*at[uintptr](file) = l.methods
	folder := flags&lib.SQLITE_OPEN_CREATE != 0 && flags&lastingNames != 0
	l.mu.Lock()
	defer l.mu.Unlock()
	l.files[file] = handle{d, d.names[path], &folder}
	return rc
}

// open prepares the opening of a file: one that is not there is made where the caller may make it.
func (d *Disk) open(path string, create bool) int32 {
	if d.dead {
		return lib.SQLITE_IOERR
	}
	content, err := os.ReadFile(path)
	switch {
	case err == nil && d.names[path] == nil:
		d.found(path, content)
	case err != nil && create:
		return code(d.create(path), lib.SQLITE_CANTOPEN)
	}
	return lib.SQLITE_OK
}

func (l *Layer) remove(tls *libc.TLS, _, name uintptr, syncFolder int32) int32 {
	below := function[deleteFunc](at[lib.Tsqlite3_vfs](l.below).FxDelete)
	path := libc.GoString(name)
	d := l.disk(path)
	if d == nil {
		return below(tls, l.below, name, syncFolder)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.names[path] != nil || d.dead {
		if rc := code(d.remove(path, syncFolder&1 != 0), lib.SQLITE_IOERR_DELETE); rc != lib.SQLITE_OK {
			return rc
		}
	}
	return below(tls, l.below, name, syncFolder)
}

// code is what SQLite is told.
func code(v verdict, failure int32) int32 {
	switch v {
	case done:
		return lib.SQLITE_OK
	case full:
		return lib.SQLITE_FULL
	default:
		return failure
	}
}

// handle finds an open file and locks its disk.
func (l *Layer) handle(file uintptr) (handle, func()) {
	l.mu.Lock()
	h := l.files[file]
	l.mu.Unlock()
	h.disk.mu.Lock()
	return h, h.disk.mu.Unlock
}
