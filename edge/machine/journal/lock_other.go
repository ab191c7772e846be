//go:build !unix

package journal

import (
	"io"
	"os"
)

// lockFile keeps the file open. Where the system has no advisory lock the
// operator must not start two machines on one directory.
func lockFile(name string) (io.Closer, error) {
	return os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
}
