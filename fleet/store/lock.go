package store

import (
	"fmt"

	"github.com/gofrs/flock"
)

// acquire takes the right to a store at path or fails at once with ErrInUse. The operating system takes it back when the
// process ends, however it ends. The file stays: removing it would let two processes hold locks on two files of one name.
func acquire(path string) (*flock.Flock, error) {
	lock := flock.New(path, flock.SetPermissions(0o600))
	free, err := lock.TryLock()
	if err == nil && !free {
		err = fmt.Errorf("%w; stop it first, or open the store for reading only", ErrInUse)
	}
	if err != nil {
		return nil, err
	}
	return lock, nil
}
