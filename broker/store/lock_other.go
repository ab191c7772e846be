//go:build !unix

package store

import "os"

// fileLock stands for the right to a store. Where there is no flock, a file that cannot
// be removed while it is open (Windows) serves.
type fileLock struct{ f *os.File }

func acquire(path string) (*fileLock, error) {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, ErrInUse
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	return &fileLock{f}, nil
}

func (l *fileLock) release() error { return l.f.Close() }

// syncFolder does nothing where a folder cannot be synced.
func syncFolder(string) error { return nil }
