package keys

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// credentials is where systemd lays out what a unit loads with LoadCredential=. Only root can make anything there.
const credentials = "/run/credentials/"

// Private refuses a file with a secret that its group or others may read or write: ErrUnsafe. A credential that systemd laid out
// may show the group's read bit, which stands for an access list with the service's user in it.
func Private(path string, info fs.FileInfo) error {
	if strings.HasPrefix(filepath.Clean(path), credentials) && readByGroupOfRoot(info) {
		return nil
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return fmt.Errorf("%s: %w (mode %04o); run: chmod 600 %s", path, ErrUnsafe, perm, path)
	}
	return nil
}

// readByGroupOfRoot reports whether root and its file's group alone may read a file, and nobody but root write it.
func readByGroupOfRoot(info fs.FileInfo) bool {
	return info.Mode().Perm()&0o037 == 0 && ownedByRoot(info)
}

// ReadSecret reads a file of up to longest bytes with a secret, which must be Private. What is checked is what is read, whatever happens to the
// name meanwhile.
func ReadSecret(path string, longest int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was read only
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if err := Private(path, info); err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(f, int64(longest)+1))
	if err == nil && len(text) > longest {
		err = fmt.Errorf("%s: it is longer than %d bytes", path, longest)
	}
	return text, err
}
