// Package durable puts files in place whole: whoever reads meanwhile, and whoever comes back after a loss of power, sees the file of before or
// the new one, and nothing between. What root puts in the place of somebody else's file, or newly into their folder, is theirs: so the commands of an
// administrator serve a service that is another user.
package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// Replace puts body in the place of the file at path, with a mode. What is at path, if anything, stays until all of the new is on disk; the
// new name is on disk when Replace returns. with, which may be nil, is given the new file before, such as to change its owner. After an error
// what was there is there, unless only the folder could not be synced.
func Replace(path string, body []byte, mode fs.FileMode, with func(*os.File) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*.new")
	if err != nil {
		return err
	}
	_, err = f.Write(body)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = giveAway(f.Name(), path)
	}
	if err == nil && with != nil {
		err = with(f)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return SyncDir(filepath.Dir(path))
}

// SyncDir makes the names in a folder durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Create puts a new file at path, whole or not at all, durable before it returns. One that is there is never overwritten: fs.ErrExist.
func Create(path string, body []byte, mode fs.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*.new") // mode 0600
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
	_, err = f.Write(body)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = giveAway(f.Name(), path)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil { // fails where path is
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// MkdirAll makes a folder and those above it that are missing, with a mode.
func MkdirAll(dir string, mode fs.FileMode) error {
	err := os.Mkdir(dir, mode)
	if errors.Is(err, fs.ErrNotExist) && filepath.Dir(dir) != dir {
		if err = MkdirAll(filepath.Dir(dir), mode); err != nil {
			return err
		}
		err = os.Mkdir(dir, mode)
	}
	if errors.Is(err, fs.ErrExist) {
		if info, statErr := os.Stat(dir); statErr == nil && info.IsDir() {
			return nil
		}
		return err
	}
	if err != nil {
		return err
	}
	return giveAway(dir, dir)
}
