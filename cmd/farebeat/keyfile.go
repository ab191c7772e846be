package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
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
