//go:build unix

package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// giveAway gives what root made, to be put at path, the owner of what is there, else of the folder: a service that is somebody else must read, replace
// and remove it.
func giveAway(made, path string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || made == path {
		info, err = os.Stat(filepath.Dir(path))
	}
	if err != nil {
		return err
	}
	if of, ok := info.Sys().(*syscall.Stat_t); ok && of.Uid != 0 {
		return os.Lchown(made, int(of.Uid), int(of.Gid))
	}
	return nil
}
