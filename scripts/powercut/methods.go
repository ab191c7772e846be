package powercut

import (
	"modernc.org/libc"
	lib "modernc.org/sqlite/lib"
)

// The methods of an open file, as SQLite calls them.
type (
	fileFunc    = func(tls *libc.TLS, file uintptr) int32
	voidFunc    = func(tls *libc.TLS, file uintptr)
	intFunc     = func(tls *libc.TLS, file uintptr, n int32) int32
	moveFunc    = func(tls *libc.TLS, file, buf uintptr, n int32, off int64) int32
	sizeFunc    = func(tls *libc.TLS, file uintptr, size int64) int32
	askFunc     = func(tls *libc.TLS, file, answer uintptr) int32
	controlFunc = func(tls *libc.TLS, file uintptr, op int32, arg uintptr) int32
	shmMapFunc  = func(tls *libc.TLS, file uintptr, region, size, extend int32, out uintptr) int32
	shmLockFunc = func(tls *libc.TLS, file uintptr, offset, n, flags int32) int32
)

// under is the file object of the file system below, with its methods.
func under(file uintptr) (uintptr, *lib.Tsqlite3_io_methods) {
	p := file + fileHead
	return p, at[lib.Tsqlite3_io_methods](*at[uintptr](p))
}

// fillMethods makes the table of what SQLite may do with a file. It is version 2: without memory mapped
// files, all that SQLite reads and writes goes through here.
func (l *Layer) fillMethods(m *lib.Tsqlite3_io_methods) {
	m.FiVersion = 2
	m.FxClose = keep[fileFunc](l, l.closeFile)
	m.FxRead = keep[moveFunc](l, l.read)
	m.FxWrite = keep[moveFunc](l, l.write)
	m.FxTruncate = keep[sizeFunc](l, l.truncate)
	m.FxSync = keep[intFunc](l, l.sync)
	passOn(l, m)
}

// passOn fills in what does not change a file: locks, sizes, shared memory (which no restart needs).
func passOn(l *Layer, m *lib.Tsqlite3_io_methods) {
	m.FxFileSize = keep[askFunc](l, func(tls *libc.TLS, file, answer uintptr) int32 {
		p, f := under(file)
		return function[askFunc](f.FxFileSize)(tls, p, answer)
	})
	m.FxLock = keep[intFunc](l, func(tls *libc.TLS, file uintptr, n int32) int32 {
		p, f := under(file)
		return function[intFunc](f.FxLock)(tls, p, n)
	})
	m.FxUnlock = keep[intFunc](l, func(tls *libc.TLS, file uintptr, n int32) int32 {
		p, f := under(file)
		return function[intFunc](f.FxUnlock)(tls, p, n)
	})
	m.FxCheckReservedLock = keep[askFunc](l, func(tls *libc.TLS, file, answer uintptr) int32 {
		p, f := under(file)
		return function[askFunc](f.FxCheckReservedLock)(tls, p, answer)
	})
	m.FxFileControl = keep[controlFunc](l, func(tls *libc.TLS, file uintptr, op int32, arg uintptr) int32 {
		p, f := under(file)
		return function[controlFunc](f.FxFileControl)(tls, p, op, arg)
	})
	m.FxSectorSize = keep[fileFunc](l, func(tls *libc.TLS, file uintptr) int32 {
		p, f := under(file)
		return function[fileFunc](f.FxSectorSize)(tls, p)
	})
	m.FxDeviceCharacteristics = keep[fileFunc](l, func(tls *libc.TLS, file uintptr) int32 {
		p, f := under(file)
		return function[fileFunc](f.FxDeviceCharacteristics)(tls, p)
	})
	m.FxShmMap = keep[shmMapFunc](l, func(tls *libc.TLS, file uintptr, region, size, extend int32, out uintptr) int32 {
		p, f := under(file)
		return function[shmMapFunc](f.FxShmMap)(tls, p, region, size, extend, out)
	})
	m.FxShmLock = keep[shmLockFunc](l, func(tls *libc.TLS, file uintptr, offset, n, flags int32) int32 {
		p, f := under(file)
		return function[shmLockFunc](f.FxShmLock)(tls, p, offset, n, flags)
	})
	m.FxShmBarrier = keep[voidFunc](l, func(tls *libc.TLS, file uintptr) {
		p, f := under(file)
		function[voidFunc](f.FxShmBarrier)(tls, p)
	})
	m.FxShmUnmap = keep[intFunc](l, func(tls *libc.TLS, file uintptr, n int32) int32 {
		p, f := under(file)
		return function[intFunc](f.FxShmUnmap)(tls, p, n)
	})
}

func (l *Layer) closeFile(tls *libc.TLS, file uintptr) int32 {
	l.mu.Lock()
	delete(l.files, file)
	l.mu.Unlock()
	p, f := under(file)
	return function[fileFunc](f.FxClose)(tls, p)
}

func (l *Layer) read(tls *libc.TLS, file, buf uintptr, n int32, off int64) int32 {
	h, unlock := l.handle(file)
	defer unlock()
	if h.disk.dead {
		return lib.SQLITE_IOERR_READ
	}
	p, f := under(file)
	return function[moveFunc](f.FxRead)(tls, p, buf, n, off)
}

func (l *Layer) write(tls *libc.TLS, file, buf uintptr, n int32, off int64) int32 {
	h, unlock := l.handle(file)
	defer unlock()
	part, v := h.disk.write(h.file, off, bytesAt(buf, n))
	p, f := under(file)
	if part > 0 {
		if rc := function[moveFunc](f.FxWrite)(tls, p, buf, int32(part), off); rc != lib.SQLITE_OK {
			return rc
		}
	}
	return code(v, lib.SQLITE_IOERR_WRITE)
}

func (l *Layer) truncate(tls *libc.TLS, file uintptr, size int64) int32 {
	h, unlock := l.handle(file)
	defer unlock()
	if rc := code(h.disk.truncate(h.file, size), lib.SQLITE_IOERR_TRUNCATE); rc != lib.SQLITE_OK {
		return rc
	}
	p, f := under(file)
	return function[sizeFunc](f.FxTruncate)(tls, p, size)
}

// sync does not ask the file system below: what is lasting is what the disk of the test says.
func (l *Layer) sync(_ *libc.TLS, file uintptr, _ int32) int32 {
	h, unlock := l.handle(file)
	defer unlock()
	v := h.disk.sync(h.file, *h.folder)
	if v == done {
		*h.folder = false
	}
	return code(v, lib.SQLITE_IOERR_FSYNC)
}
