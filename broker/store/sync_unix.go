//go:build unix

package store

import (
	"errors"
	"os"
	"path/filepath"
)

// syncFolder makes the names in the folder of path lasting.
func syncFolder(path string) error {
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
