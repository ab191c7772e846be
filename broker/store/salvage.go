package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// Damage is what Open did about a file that is damaged, or not a broker's.
type Damage struct {
	Cause  error
	Aside  string // where the file is now
	Copied int    // rows that were read and taken over
}

// Names of a file that is being put in the place of a damaged one. The second is whole.
const (
	salvaging = ".salvaging"
	salvaged  = ".salvaged"
)

// salvage writes what can be read of a damaged file into a new one and gives it the place of the old.
// What cannot be read comes back from those who published it: they keep it until the ledger has it.
func (s *Store) salvage(ctx context.Context, cause error) error {
	if s.file != nil {
		_ = s.file.close() // it is damaged, and read once more below
		s.file = nil
	}
	forward, backward := readAround(ctx, s.path)
	remove(s.path + salvaging)
	fresh, err := openFile(ctx, s.path+salvaging, s.opts)
	if err != nil {
		return fmt.Errorf("make a new file in the place of a damaged one: %w", err)
	}
	// What stands before the damage wins over what stands behind it: writing a row twice is no harm.
	err = errors.Join(writeAll(fresh, backward), writeAll(fresh, forward), fresh.close())
	if err == nil {
		err = os.Rename(s.path+salvaging, s.path+salvaged)
	}
	if err != nil {
		return fmt.Errorf("copy a damaged file: %w", err)
	}
	if s.damage, err = s.exchange(cause); err != nil {
		return err
	}
	if s.file, err = openFile(ctx, s.path, s.opts); err != nil {
		return err
	}
	s.contents, err = s.file.load(ctx)
	s.damage.Copied = s.contents.rows()
	return err
}

// exchange sets the file aside and puts the salvaged one in its place. The log goes first: it must never
// meet another file. A crash in between is finished by the next Open.
func (s *Store) exchange(cause error) (*Damage, error) {
	aside := s.path + ".damaged-" + s.opts.Now().UTC().Format("20060102T150405.000")
	for _, suffix := range []string{"-wal", "-shm", ""} {
		if err := os.Rename(s.path+suffix, aside+suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("set a damaged file aside: %w", err)
		}
	}
	if err := os.Rename(s.path+salvaged, s.path); err != nil {
		return nil, fmt.Errorf("set a damaged file aside: %w", err)
	}
	return &Damage{Cause: cause, Aside: aside}, syncFolder(s.path)
}

// finishExchange ends what a crash interrupted.
func (s *Store) finishExchange() (err error) {
	if _, err := os.Stat(s.path + salvaged); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	s.damage, err = s.exchange(errors.New("found by an earlier start, which was interrupted"))
	return err
}

// readAround reads a file from both ends up to what is damaged. Nothing is written to it.
func readAround(ctx context.Context, path string) (forward, backward Contents) {
	db, err := connect(path, readOnly)
	if err != nil {
		return
	}
	defer db.Close()
	conn, err := db.Conn(ctx)
	if err != nil {
		return
	}
	defer conn.Close()
	var id int
	if err := conn.QueryRowContext(ctx, "PRAGMA application_id").Scan(&id); err != nil || id != applicationID {
		return
	}
	goOn := func(error) error { return nil }
	_ = forward.read(ctx, conn, "", goOn)
	_ = backward.read(ctx, conn, " DESC", goOn)
	return forward, backward
}

func (c *Contents) rows() int {
	return len(c.Retained) + len(c.Sessions) + len(c.Subscriptions) + len(c.Queued) + len(c.Wills)
}

// writeAll writes contents to a file, some thousand rows a transaction.
func writeAll(f *file, c Contents) error {
	const group = 5_000
	var changes []Change
	var err error
	add := func(c Change) {
		changes = append(changes, c)
		if len(changes) == group && err == nil {
			err, changes = f.commit(changes), changes[:0]
		}
	}
	for _, r := range c.Sessions {
		add(AddSession(r))
	}
	for _, r := range c.Subscriptions {
		add(Subscribe(r))
	}
	for _, r := range c.Wills {
		add(SaveWill(r))
	}
	for _, r := range c.Queued {
		add(Enqueue(r))
	}
	for _, r := range c.Retained {
		add(Retain(r))
	}
	return errors.Join(err, f.commit(changes))
}

// remove deletes a file of SQLite with its log.
func remove(path string) {
	for _, suffix := range []string{"-wal", "-shm", ""} {
		_ = os.Remove(path + suffix)
	}
}
