package rules

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Live holds the set that is in force, and takes a new one when its file changes: all of it or
// nothing. It is safe for concurrent use.
type Live struct {
	set atomic.Pointer[Set]

	mu     sync.Mutex // of what follows, and of a Poll
	file   string
	status Status
	taken  stamp // of the file when it was read last, right or wrong
	seen   stamp // at the last poll, where it differs from taken
	bad    error // what was wrong with it then
	said   error // the last error that Poll returned
}

// Status says where the set in force comes from.
type Status struct {
	File     string    // empty: no file, the set never changes
	LoadedAt time.Time // when the set in force was taken
	Loads    int       // how often a set was taken, the first one counted
	Err      error     // why the file as it is now is not in force; nil where it is
}

// stamp tells one content of a file from another without reading it.
type stamp struct {
	modified time.Time
	size     int64
}

// NewLive holds a set that never changes.
func NewLive(s *Set) *Live {
	l := &Live{status: Status{Loads: 1}}
	l.set.Store(s)
	return l
}

// OpenLive reads a rules file, for Poll to look at later. Unlike then, a file that is wrong or missing is an
// error.
func OpenLive(file string, location *time.Location, now time.Time) (*Live, error) {
	at, err := stampOf(file)
	if err != nil {
		return nil, fmt.Errorf("rules file: %w", err)
	}
	s, err := readSet(file, location)
	if err != nil {
		return nil, err
	}
	l := &Live{file: file, taken: at, seen: at, status: Status{File: file, LoadedAt: now, Loads: 1}}
	l.set.Store(s)
	return l, nil
}

// Set is the set in force. Take it once per evaluation round.
func (l *Live) Set() *Set { return l.set.Load() }

// Status says what is in force, and what is wrong with the file.
func (l *Live) Status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.status
}

// Poll looks at the file once, and takes a changed one that was the same at the poll before: a file
// that is being written is left alone. changed says that another set is in force now. The error is that of a file that
// is wrong or missing, once each; the set stays as it was, and Status keeps the error.
func (l *Live) Poll(now time.Time) (changed bool, err error) {
	if l.file == "" {
		return false, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	at, err := stampOf(l.file)
	if err != nil {
		l.seen = stamp{}
		return false, l.wrong(fmt.Errorf("rules file: %w", err))
	}
	before := l.seen
	l.seen = at
	if !at.equal(before) {
		return false, nil // it is new, or back: look again before reading
	}
	if at.equal(l.taken) {
		return false, l.wrong(l.bad) // it was read, or it was away and is as it was
	}
	if at.size == 0 { // to take it for the default rules would be right at a start, and hardly meant here
		l.taken, l.bad = at, fmt.Errorf("rules file %s: is empty; for the default rules write overrides: []", l.file)
		return false, l.wrong(l.bad)
	}
	s, err := readSet(l.file, l.Set().location)
	if after, errAfter := stampOf(l.file); errAfter != nil || !after.equal(at) {
		return false, nil // it changed while it was read: the next poll sees it
	}
	l.taken, l.bad = at, err
	if err != nil {
		return false, l.wrong(err)
	}
	l.status.Err, l.said = nil, nil
	if s.Equal(l.Set()) {
		return false, nil
	}
	l.set.Store(s)
	l.status.LoadedAt = now
	l.status.Loads++
	return true, nil
}

// wrong keeps what is wrong with the file as it is now, nil for nothing, and returns it if it was not said before.
func (l *Live) wrong(err error) error {
	l.status.Err = err
	before := l.said
	l.said = err
	if err == nil || before != nil && before.Error() == err.Error() {
		return nil
	}
	return fmt.Errorf("%w; the rules stay as they were", err)
}

// Watch polls every interval until ctx ends, and logs what happens. now gives the time of a load.
func (l *Live) Watch(ctx context.Context, every time.Duration, now func() time.Time, logger *slog.Logger) {
	if l.file == "" {
		<-ctx.Done()
		return
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		changed, err := l.Poll(now())
		switch {
		case err != nil:
			logger.Error("the rules were not loaded", "error", err)
		case changed:
			logger.Info("new rules are in force", "file", l.file, "overrides", l.Set().Overrides(), "routes", len(l.Set().Named()))
		}
	}
}

func (s stamp) equal(o stamp) bool { return s.size == o.size && s.modified.Equal(o.modified) }

func stampOf(file string) (stamp, error) {
	info, err := os.Stat(file)
	if err != nil {
		return stamp{}, err
	}
	if info.IsDir() {
		return stamp{}, fmt.Errorf("%s: %w: it is a folder", file, fs.ErrInvalid)
	}
	return stamp{info.ModTime(), info.Size()}, nil
}

func readSet(file string, location *time.Location) (*Set, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("rules file: %w", err)
	}
	return Parse(file, b, location)
}
