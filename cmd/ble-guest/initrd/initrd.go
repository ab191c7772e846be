// Package initrd writes the file system that a Linux guest starts from, and picks the kernel modules that belong into it.
// Nothing but Go is needed for it: neither cpio nor depmod nor root.
package initrd

import (
	"compress/gzip"
	"fmt"
	"io"
	"path"
	"strings"
)

// Archive writes a cpio archive in the newc format, compressed by gzip. Folders of a file are made as they are needed.
type Archive struct {
	z     *gzip.Writer
	inode int
	dirs  map[string]bool
}

// NewArchive begins an archive. It is compressed lightly: whoever reads it is slower than the disk.
func NewArchive(w io.Writer) *Archive {
	z, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		panic(err) // the level is a constant
	}
	return &Archive{z: z, dirs: map[string]bool{".": true}}
}

// File types, as in cpio(5).
const (
	typeDir     = 0o040000
	typeFile    = 0o100000
	typeCharDev = 0o020000
)

// Dir adds a folder and those above it.
func (a *Archive) Dir(name string) error {
	name = clean(name)
	if a.dirs[name] {
		return nil
	}
	if err := a.Dir(path.Dir(name)); err != nil {
		return err
	}
	a.dirs[name] = true
	return a.entry(name, typeDir|0o755, 0, 0, nil)
}

// File adds a file of the owner root. mode is 0 to 0o7777.
func (a *Archive) File(name string, mode uint32, content []byte) error {
	name = clean(name)
	if err := a.Dir(path.Dir(name)); err != nil {
		return err
	}
	return a.entry(name, typeFile|mode&0o7777, 0, 0, content)
}

// Device adds a character device.
func (a *Archive) Device(name string, major, minor uint32) error {
	name = clean(name)
	if err := a.Dir(path.Dir(name)); err != nil {
		return err
	}
	return a.entry(name, typeCharDev|0o600, major, minor, nil)
}

// Close ends the archive.
func (a *Archive) Close() error {
	if err := a.entry("TRAILER!!!", 0, 0, 0, nil); err != nil {
		return err
	}
	if err := a.z.Close(); err != nil {
		return fmt.Errorf("end the archive: %w", err)
	}
	return nil
}

func clean(name string) string { return path.Clean(strings.TrimLeft(name, "/")) }

// entry writes a header of 110 bytes, the name and the content, each filled up to a multiple of four.
func (a *Archive) entry(name string, mode, major, minor uint32, content []byte) error {
	a.inode++
	head := "070701"
	for _, v := range []uint32{uint32(a.inode), mode, 0, 0, 1, 0, uint32(len(content)), 0, 0, major, minor, uint32(len(name) + 1), 0} {
		head += fmt.Sprintf("%08X", v)
	}
	head += name + "\x00"
	head += strings.Repeat("\x00", -len(head)&3)
	for _, part := range [][]byte{[]byte(head), content, make([]byte, -len(content)&3)} {
		if _, err := a.z.Write(part); err != nil {
			return fmt.Errorf("write %s into the archive: %w", name, err)
		}
	}
	return nil
}
