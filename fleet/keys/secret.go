package keys

import (
	"fmt"
	"io"
	"io/fs"
	"os"
)

// Private refuses a file with a secret that its group or others may read or write: ErrUnsafe.
func Private(path string, info fs.FileInfo) error {
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return fmt.Errorf("%s: %w (mode %04o); run: chmod 600 %s", path, ErrUnsafe, perm, path)
	}
	return nil
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
