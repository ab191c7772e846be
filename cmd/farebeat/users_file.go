package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"github.com/farebeat/farebeat/broker"
	"github.com/farebeat/farebeat/fleet/durable"
	"github.com/farebeat/farebeat/fleet/keys"
)

// nobody stands in a users file without users: a service that runs takes an empty file for one that was cut off.
const nobody = "# no users"

// editUsers changes the lines of a users file, one command at a time. What comes out is checked as a whole, is on disk when it returns, and
// takes the place of the old file at once, with its owner: a service that reads it meanwhile sees one or the other.
func editUsers(ctx context.Context, path string, create bool, edit func(lines []string) ([]string, error)) error {
	if _, err := os.Stat(path); err != nil && !(create && errors.Is(err, fs.ErrNotExist)) {
		return usageError(fmt.Errorf("users file: %w", err))
	}
	lock := flock.New(path+".lock", flock.SetPermissions(0o600))
	patience, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if ok, err := lock.TryLockContext(patience, 10*time.Millisecond); !ok {
		return usageError(fmt.Errorf("users file %s: another command changes it, or its folder cannot be written: %w", path, err))
	}
	defer func() { _ = lock.Close() }() // the system lets go of it anyhow
	const longest = 256 << 20
	old, err := keys.ReadSecret(path, longest)
	if err != nil && !(create && errors.Is(err, fs.ErrNotExist)) {
		return usageError(fmt.Errorf("users file: %w", err))
	}
	text, err := editedUsers(string(old), edit)
	if err != nil {
		return usageError(fmt.Errorf("users file %s: %w", path, err))
	}
	// It is its owner's alone, and stays its owner's.
	err = durable.Replace(path, []byte(text), 0o600, func(f *os.File) error { return keepOwner(f, path) })
	if err != nil {
		return usageError(fmt.Errorf("users file: %w", err))
	}
	return nil
}

// editedUsers is a users file's text after a change of its lines. It is checked before, too: what was wrong already is told with its line.
func editedUsers(text string, edit func(lines []string) ([]string, error)) (string, error) {
	if err := checkUsers(text); err != nil {
		return "", err
	}
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.TrimRight(line, "\r\n"); line != nobody {
			lines = append(lines, line)
		}
	}
	lines, err := edit(lines)
	if err != nil {
		return "", err
	}
	if len(lines) == 0 {
		lines = []string{nobody}
	}
	text = strings.Join(lines, "\n") + "\n"
	return text, checkUsers(text)
}

func checkUsers(text string) error {
	list, err := broker.ParseUsers(strings.NewReader(text))
	if err == nil {
		_, err = broker.NewUsers(list)
	}
	return err
}

// findUser is the index of a user's line.
func findUser(lines []string, name string) (int, error) {
	for i, line := range lines {
		if before, _, ok := strings.Cut(strings.TrimSpace(line), ":"); ok && before == name {
			return i, nil
		}
	}
	return 0, fmt.Errorf("there is no user %q; see: farebeat users list", name)
}
