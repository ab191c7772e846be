// Package store keeps what the fleet must not forget in one SQLite file: the ledger of
// transactions, faults and their history, online counts, the roster of machines, and who did
// what at the console. It implements the interfaces that fleet/ledger, fleet/faults,
// fleet/counts, fleet/enrol, fleet/console/audit and fleet/console/access declare.
//
// All writing goes through one goroutine, which joins the requests that wait into
// one transaction. A write returns after its transaction is on disk (WAL with
// synchronous=FULL), or with an error and nothing written. Readers have connections of
// their own, see a consistent snapshot and never wait for the writer. Of a file, one
// process writes at a time; any number of others may read it with Options.ReadOnly.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/gofrs/flock"
	_ "modernc.org/sqlite" // registers the driver "sqlite"
)

// Errors to branch on.
var (
	ErrClosed   = errors.New("the store is closed")
	ErrReadOnly = errors.New("the store was opened for reading only")
	ErrInUse    = errors.New("another process writes this store")
	ErrNewer    = errors.New("the store was written by a newer version of this program")
	ErrForeign  = errors.New("not a Farebeat store")
	ErrDamaged  = errors.New("the file is damaged")
)

// Options of Open. The zero value is good.
type Options struct {
	ReadOnly bool             // never write, not even a migration; allowed while another process writes
	MaxGroup int              // requests joined into one transaction at most; 2000
	Readers  int              // connections for reading at most; 4, or the number of processors if that is more
	Now      func() time.Time // for the time a commit takes and the stamp of migrations; time.Now
}

func (o Options) withDefaults() Options {
	if o.MaxGroup <= 0 {
		o.MaxGroup = 2000
	}
	if o.Readers <= 0 {
		o.Readers = max(4, runtime.GOMAXPROCS(0))
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

// Store is one open file. It is safe for concurrent use.
type Store struct {
	path string
	opts Options

	read    *sql.DB
	readers chan *reader // those that are free

	write    *sql.DB // nil when opened for reading only
	writer   *writer // used by run, and after it by Close
	lock     *flock.Flock
	requests chan *request
	quit     chan struct{} // closed by Close
	stopped  chan struct{} // closed when the writer has returned
	close    func() error
	stats    stats

	routesMu sync.Mutex
	routes   map[string]uint32 // numbers that are known to be committed
}

// Open opens the store at path, a file. Unless Options.ReadOnly it makes the file and its
// folder where they are missing (modes 0600 and 0700: the records are personal
// data), brings an older file up to date, and holds the right to write until Close. ctx
// bounds the opening only.
func Open(ctx context.Context, path string, opts Options) (*Store, error) {
	opts = opts.withDefaults()
	s := &Store{
		path: path, opts: opts, readers: make(chan *reader, opts.Readers),
		requests: make(chan *request), quit: make(chan struct{}), stopped: make(chan struct{}),
		routes: map[string]uint32{},
	}
	s.close = sync.OnceValue(s.shut)
	open := s.openWriter
	if opts.ReadOnly {
		open = s.openReader
	}
	if err := open(ctx); err != nil {
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	return s, nil
}

func (s *Store) openReader(ctx context.Context) error {
	if repairPending(s.path) {
		return ErrRepairPending
	}
	if info, err := os.Stat(s.path); err != nil {
		return explainMissing(err)
	} else if info.IsDir() {
		return fmt.Errorf("%w: it is a folder; name the file in it", ErrForeign)
	}
	var err error
	if s.read, err = connect(s.path, forReading, s.opts.Readers); err != nil {
		return err
	}
	if err := checkVersion(ctx, s.read); err != nil {
		return errors.Join(err, s.read.Close())
	}
	s.fillReaders()
	close(s.stopped)
	return nil
}

func (s *Store) fillReaders() {
	for range s.opts.Readers {
		s.readers <- &reader{}
	}
}

func explainMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w; check the path, or start the fleet service once to make it", fs.ErrNotExist)
	}
	return err
}

func (s *Store) openWriter(ctx context.Context) (err error) {
	if repairPending(s.path) {
		return ErrRepairPending
	}
	if err := makeFile(s.path); err != nil {
		return err
	}
	if s.lock, err = acquire(s.path + ".lock"); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.shutFiles())
		}
	}()
	unclean := leftLog(s.path)
	if unclean {
		if err = checkLog(s.path); err != nil {
			return err
		}
	}
	if s.write, err = connect(s.path, forWriting, 1); err != nil {
		return err
	}
	if unclean {
		if err = checkAfterCrash(ctx, s.path, s.write); err != nil {
			return err
		}
	}
	if err = migrate(ctx, s.write, s.opts.Now()); err != nil {
		return err
	}
	if s.read, err = connect(s.path, forReading, s.opts.Readers); err != nil {
		return err
	}
	s.fillReaders()
	if s.writer, err = newWriter(context.WithoutCancel(ctx), s.write); err != nil {
		return err
	}
	go s.run()
	return nil
}

// makeFile makes the file before SQLite does, for its mode.
func makeFile(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// How a file is opened.
const (
	forWriting = iota
	forReading
	forCopying // a reader that may write, though not to this file
)

// connect makes a pool of at most n connections. None of them is open yet.
func connect(path string, how, n int) (*sql.DB, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	// The order matters: who waits for a lock must know for how long before it takes one.
	pragmas := []string{"busy_timeout(10000)", "trusted_schema(0)", "cache_size(-8192)"}
	query := url.Values{"_dqs": {"0"}}
	switch how {
	case forWriting:
		query.Set("_txlock", "immediate")
		// fullfsync matters on macOS only, where fsync alone does not reach the disk.
		pragmas = append(pragmas, "journal_mode(WAL)", "synchronous(FULL)", "fullfsync(1)",
			"checkpoint_fullfsync(1)", "wal_autocheckpoint(4000)", "journal_size_limit(67108864)")
	case forReading:
		query.Set("mode", "ro")
		pragmas = append(pragmas, "query_only(1)")
	case forCopying:
		query.Set("mode", "ro")
		pragmas = append(pragmas, "synchronous(FULL)")
	}
	query["_pragma"] = pragmas
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: filepath.ToSlash(abs)}).EscapedPath()+"?"+query.Encode())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(n)
	db.SetMaxIdleConns(n)
	return db, nil
}

// Path is the path that Open was given.
func (s *Store) Path() string { return s.path }

// Close waits for the reads and writes in progress, folds the log into the file and gives up the right
// to write. Requests after it get ErrClosed. A second Close does nothing.
func (s *Store) Close() error { return s.close() }

func (s *Store) shut() error {
	close(s.quit)
	<-s.stopped
	if err := s.shutFiles(); err != nil {
		return fmt.Errorf("close store %s: %w", s.path, err)
	}
	return nil
}

func (s *Store) shutFiles() error {
	var errs []error
	if s.read != nil {
		for range cap(s.readers) {
			(<-s.readers).drop()
		}
		errs = append(errs, s.read.Close())
	}
	if s.writer != nil { // after the readers, which would keep the log in use
		errs = append(errs, s.writer.fold())
		s.writer.stop()
	}
	if s.write != nil {
		errs = append(errs, s.write.Close())
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Unlock())
	}
	return errors.Join(errs...)
}

// closed reports whether Close was called.
func (s *Store) closed() bool {
	select {
	case <-s.quit:
		return true
	default:
		return false
	}
}
