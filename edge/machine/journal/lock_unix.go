//go:build unix

package journal

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// lockFile takes an advisory lock that the system gives back when the process
// ends, however it ends.
func lockFile(name string) (io.Closer, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, errInUse
	}
	return f, nil
}
