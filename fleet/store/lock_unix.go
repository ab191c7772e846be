//go:build unix

package store

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// fileLock is the right to write a store. The operating system takes it back when the process
// ends, however it ends.
type fileLock struct{ f *os.File }

// acquire takes the lock at path or fails at once with ErrInUse. The file stays: removing it
// would let two processes hold locks on two files of one name.
func acquire(path string) (*fileLock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = fmt.Errorf("%w; stop it first, or open the store for reading only", ErrInUse)
		}
		return nil, errors.Join(err, f.Close())
	}
	return &fileLock{f}, nil
}

// release gives the lock back at once. Closing the file alone would leave it with a child process that is just being
// started and still has a copy.
func (l *fileLock) release() error {
	return errors.Join(syscall.Flock(int(l.f.Fd()), syscall.LOCK_UN), l.f.Close())
}
