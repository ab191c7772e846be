//go:build unix

package outbox

import (
	"errors"
	"os"
)

// syncFolder makes the names in a folder lasting.
func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
