package journal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/gofrs/flock"
)

// filesystem is the disk as the journal uses it. Tests put one in its place that
// loses power at any operation.
type filesystem interface {
	MkdirAll(dir string) error
	ReadDir(dir string) ([]string, error) // names of files, sorted; fs.ErrNotExist where there is no dir
	ReadFile(name string) ([]byte, error)
	Open(name string, create bool) (file, error) // for reading and writing
	Rename(from, to string) error
	Remove(name string) error
	SyncDir(dir string) error
	Lock(name string) (io.Closer, error) // held until closed or the process ends
}

type file interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Truncate(size int64) error
	Sync() error
}

// disk is the operating system's file system. With noSync it trades safety
// against a loss of power for speed; a killed process still loses nothing.
type disk struct{ noSync bool }

// MkdirAll makes dir and its parents, each on the disk before the next.
func (d disk) MkdirAll(dir string) error {
	if info, err := os.Stat(dir); err == nil && info.IsDir() {
		return nil
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := d.MkdirAll(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return d.SyncDir(parent)
}

func (disk) ReadDir(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.Type().IsRegular() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

func (disk) ReadFile(name string) ([]byte, error) { return os.ReadFile(name) }

func (d disk) Open(name string, create bool) (file, error) {
	flag := os.O_RDWR
	if create {
		flag |= os.O_CREATE
	}
	f, err := os.OpenFile(name, flag, 0o600)
	if err != nil {
		return nil, err
	}
	return diskFile{File: f, noSync: d.noSync}, nil
}

func (disk) Rename(from, to string) error { return os.Rename(from, to) }
func (disk) Remove(name string) error     { return os.Remove(name) }

func (d disk) SyncDir(dir string) error {
	if d.noSync {
		return nil
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func (disk) Lock(name string) (io.Closer, error) { return lockFile(name) }

type diskFile struct {
	*os.File
	noSync bool
}

func (f diskFile) Sync() error {
	if f.noSync {
		return nil
	}
	return f.File.Sync()
}

// replace writes a file so that after a loss of power either the old or the new
// content is there, whole.
func replace(fsys filesystem, name string, content []byte) error {
	tmp := name + ".tmp"
	if err := writeNew(fsys, tmp, content); err != nil {
		return err
	}
	if err := fsys.Rename(tmp, name); err != nil {
		return err
	}
	return fsys.SyncDir(filepath.Dir(name))
}

// writeNew writes a file and has it on the disk, but for its name.
func writeNew(fsys filesystem, name string, content []byte) error {
	f, err := fsys.Open(name, true)
	if err != nil {
		return err
	}
	err = writeAll(f, content)
	return errors.Join(err, f.Close())
}

func writeAll(f file, content []byte) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	if _, err := f.WriteAt(content, 0); err != nil {
		return err
	}
	return f.Sync()
}

func exists(fsys filesystem, name string) (bool, error) {
	_, err := fsys.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at %s: %w", name, err)
	}
	return true, nil
}

// lockFile takes the lock at name or fails at once with errInUse. The operating system takes it back when the process ends.
func lockFile(name string) (io.Closer, error) {
	lock := flock.New(name, flock.SetPermissions(0o600))
	free, err := lock.TryLock()
	if err == nil && !free {
		err = errInUse
	}
	if err != nil {
		return nil, err
	}
	return lock, nil
}

// LockDir keeps other processes out of all journals below dir, which it makes
// where it is not there. With it, Options.NoLock is safe.
func LockDir(dir string) (io.Closer, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return lockFile(filepath.Join(dir, "lock"))
}
