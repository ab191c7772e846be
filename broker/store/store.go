// Package store is the broker's memory on disk: retained messages, the sessions that outlive a
// connection with their subscriptions and what waits for them, and last wills, in one SQLite file.
//
// Commit writes a group of changes in one transaction with one fsync (WAL, synchronous=FULL): it
// returns when they are on disk, or with an error and nothing written. What the file held is read
// once, by Open. A file that is damaged or not ours is set aside under another name and what can be
// read of it is taken over; Damage tells. One process has a file at a time.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/gofrs/flock"
	_ "modernc.org/sqlite" // registers the driver "sqlite"
)

// Errors to branch on.
var (
	ErrInUse = errors.New("another process has this store")
	ErrNewer = errors.New("the store was written by a newer version of this program")
)

// Message is a message as it was published.
type Message struct {
	Topic   string
	Payload []byte
	QoS     byte
	Props   []byte // MQTT 5 properties as a PUBLISH carries them, nil for none
}

// Session is a client's that outlives its connection.
type Session struct {
	Number  int64 // never given twice
	Client  string
	Version byte   // of MQTT
	Expiry  uint32 // seconds that it is kept after Left
	Left    int64  // when its connection ended, Unix seconds; 0: it did not
}

// Subscription is one of a session's.
type Subscription struct {
	Session           int64
	Filter            string
	QoS               byte
	RetainHandling    byte
	NoLocal           bool
	RetainAsPublished bool
	Identifier        int
	Replay            bool // the retained messages under it were not all acknowledged yet
}

// Queued is a message that a session did not acknowledge yet.
type Queued struct {
	Session int64
	ID      int64 // ascends in the order of delivery
	Retain  bool
	Message
}

// Will is the last will of a connection that has not ended.
type Will struct {
	Number int64 // never given twice
	Retain bool
	Message
}

// Contents are what a file held when it was opened.
type Contents struct {
	Retained      []Message
	Sessions      []Session
	Subscriptions []Subscription
	Queued        []Queued // by session, in order
	Wills         []Will   // in order
}

// Options of Open. The zero value is good.
type Options struct {
	Now func() time.Time // for the stamps of migrations and of files set aside; time.Now
}

// Store is one open file.
type Store struct {
	path     string
	opts     Options
	lock     *flock.Flock
	contents Contents
	damage   *Damage

	mu    sync.Mutex // held by Commit and Close
	file  *file
	close func() error
}

// Open opens the store at path and reads it. It makes the file and its folder where they are missing
// (modes 0600 and 0700), brings an older file up to date, and holds the file until Close. ctx bounds
// the opening only.
func Open(ctx context.Context, path string, opts Options) (*Store, error) {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	s := &Store{path: path, opts: opts}
	s.close = sync.OnceValue(s.shut)
	if err := s.open(ctx); err != nil {
		return nil, fmt.Errorf("open the broker's store %s: %w", path, err)
	}
	return s, nil
}

func (s *Store) open(ctx context.Context) (err error) {
	if err := os.MkdirAll(filepath.Dir(s.path), 0o700); err != nil {
		return err
	}
	if s.lock, err = acquire(s.path + ".lock"); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.shut())
		}
	}()
	if err := s.finishExchange(); err != nil {
		return err
	}
	if s.file, err = openFile(ctx, s.path, s.opts); err == nil {
		s.contents, err = s.file.load(ctx)
	}
	if damaged(err) {
		return s.salvage(ctx, err)
	}
	return explain(err)
}

// Take hands over what the file held when it was opened. A second call returns nothing.
func (s *Store) Take() Contents {
	c := s.contents
	s.contents = Contents{}
	return c
}

// Damage tells of a file that Open set aside; nil if it did not.
func (s *Store) Damage() *Damage { return s.damage }

// Path is the path that Open was given.
func (s *Store) Path() string { return s.path }

// Commit writes changes in their order, all or none. It may be called again with the same changes
// after an error, even after one that came once they were on disk. An empty group costs nothing.
func (s *Store) Commit(changes []Change) error {
	if len(changes) == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil {
		return fmt.Errorf("write the broker's store %s: it is closed", s.path)
	}
	if err := s.file.commit(changes); err != nil {
		return fmt.Errorf("write the broker's store %s: %w", s.path, explain(err))
	}
	return nil
}

// Limit bounds the file, in pages of 4,096 bytes, as a disk does that is full then. A higher bound is as space made free.
func (s *Store) Limit(pages int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil {
		return fmt.Errorf("limit the broker's store %s: it is closed", s.path)
	}
	return s.file.limit(pages)
}

// Close folds the log into the file and gives the file up. A second Close does nothing.
func (s *Store) Close() error {
	if err := s.close(); err != nil {
		return fmt.Errorf("close the broker's store %s: %w", s.path, err)
	}
	return nil
}

func (s *Store) shut() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	if s.file != nil {
		errs = append(errs, s.file.close())
		s.file = nil
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Unlock())
	}
	return errors.Join(errs...)
}

// connect makes a pool of one connection to a file, open as mode says.
func connect(path, mode string) (*sql.DB, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	// The order matters: who waits for a lock must know for how long before it takes one, and how a file gives back
	// its pages must be said before it has any. fullfsync matters on macOS only, where fsync alone does not reach the disk.
	pragmas := []string{"busy_timeout(10000)", "trusted_schema(0)", "cell_size_check(1)", "cache_size(-16384)"}
	if mode == create {
		mode, pragmas = readWrite, append(pragmas, "auto_vacuum(2)")
	}
	if mode == readWrite {
		pragmas = append(pragmas, "journal_mode(WAL)", "synchronous(FULL)", "fullfsync(1)", "checkpoint_fullfsync(1)",
			"wal_autocheckpoint(4000)", "journal_size_limit(67108864)")
	}
	query := url.Values{"_dqs": {"0"}, "_txlock": {"immediate"}, "mode": {mode}, "_pragma": pragmas}
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: filepath.ToSlash(abs)}).EscapedPath()+"?"+query.Encode())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	return db, nil
}

// How a file is opened.
const (
	create    = "create" // a file that is empty
	readWrite = "rw"
	readOnly  = "ro"
)

// makeFile makes the file before SQLite does, for its mode, and its name lasting. It returns how to open the file.
func makeFile(path string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return "", err
	}
	info, err := f.Stat()
	if err := errors.Join(err, f.Close(), syncFolder(path)); err != nil {
		return "", err
	}
	if info.Size() == 0 {
		return create, nil
	}
	return readWrite, nil
}
