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

// PrivateTLS is Private for the key of a TLS certificate, but for this: where the file belongs to root, its group may read it. So
// distributions give such keys to services (root:ssl-cert 0640), and PostgreSQL has the same rule.
func PrivateTLS(path string, info fs.FileInfo) error {
	if readByGroupOfRoot(info) {
		return nil
	}
	if err := Private(path, info); err != nil {
		return fmt.Errorf("%w, or give it to root and the service's group: chown root %s; chmod 640 %s", err, path, path)
	}
	return nil
}

// readByGroupOfRoot reports whether root and its file's group alone may read a file, and nobody but root write it.
func readByGroupOfRoot(info fs.FileInfo) bool {
	return info.Mode().Perm()&0o037 == 0 && ownedByRoot(info)
}

// ReadSecret reads a file of up to longest bytes with a secret, which must be Private.
func ReadSecret(path string, longest int) ([]byte, error) {
	return ReadFile(path, longest, Private)
}

// ReadFile reads a file of up to longest bytes that check, such as Private, lets pass. What is checked is what is read, whatever happens to the
// name meanwhile.
func ReadFile(path string, longest int, check func(path string, info fs.FileInfo) error) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was read only
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if err := check(path, info); err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(f, int64(longest)+1))
	if err == nil && len(text) > longest {
		err = fmt.Errorf("%s: it is longer than %d bytes", path, longest)
	}
	return text, err
}
