package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/farebeat/farebeat/fleet/keys"
)

// readKey reads a machine's key: 64 hexadecimal digits in a file of which only its owner may know.
func readKey(path string) ([]byte, error) {
	const longest = 2*keys.Size + 64 // white space around it
	text, err := keys.ReadSecret(path, longest)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: `farebeat machine key ID --out FILE` makes one", err)
	}
	if err != nil {
		return nil, usageError(fmt.Errorf("machine.key_file: %w", err))
	}
	key, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(key) != keys.Size {
		return nil, usageError(fmt.Errorf("machine.key_file %s: want %d bytes as hex, as `farebeat machine key ID --out FILE` writes", path, keys.Size))
	}
	return key, nil
}

// writeSecret makes a file with mode 0600 that appears whole or not at all and is durable before it returns. A file that
// is there is never overwritten: fs.ErrExist.
func writeSecret(path, text string) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".secret-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
	if _, err := f.WriteString(text); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil { // fails where path is
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
