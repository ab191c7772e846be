//go:build unix

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// mountDisk puts a small disk of its own under a folder. It takes root on Linux.
func mountDisk(dir string, mebibytes int) error {
	out, err := exec.Command("mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%dm,mode=700", mebibytes), "farebeat-crash", dir).CombinedOutput() //nolint:noctx // local
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

func unmountDisk(dir string) error {
	out, err := exec.Command("umount", "-l", dir).CombinedOutput() //nolint:noctx // local
	if err != nil {
		return fmt.Errorf("unmount %s: %w: %s", dir, err, out)
	}
	return nil
}

// ballastName is a file that only takes room.
const ballastName = "ballast"

// fillDisk takes all room of a disk but for the last bytes.
func fillDisk(dir string, room int64) error {
	f, err := os.OpenFile(filepath.Join(dir, ballastName), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	n, err := io.CopyBuffer(f, zeros{}, make([]byte, 1<<20))
	if errors.Is(err, syscall.ENOSPC) {
		err = nil
	}
	return errors.Join(err, f.Truncate(max(0, n-room)), f.Close())
}

func freeDisk(dir string) error {
	err := os.Remove(filepath.Join(dir, ballastName))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// emptyDisk removes all that is in a folder.
func emptyDisk(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return err
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
