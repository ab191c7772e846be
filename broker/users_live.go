package broker

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/farebeat/farebeat/topics"
)

// Users are the clients that may connect. Those of OpenUsers change with their file: all of it or nothing. They are safe
// for concurrent use.
type Users struct {
	table atomic.Pointer[userTable]

	mu      sync.Mutex // of what follows, and of a look at the file
	file    string
	status  UsersStatus
	taken   stamp // of the file when it was read last, right or wrong
	seen    stamp // at the last look
	bad     error // what was wrong with it when it was read
	said    error // the last error that a look returned
	brokers map[*Broker]bool
}

// UsersStatus says where the users in force come from.
type UsersStatus struct {
	File     string    // empty: no file, they never change
	LoadedAt time.Time // when those in force were taken
	Loads    uint64    // how often users were taken, the first time counted
	Failures uint64    // how often the file became wrong, or was otherwise wrong than before
	Err      error     // why the file as it is now is not in force; nil where it is
}

// stamp tells one content of a file from another without reading it.
type stamp struct {
	modified time.Time
	size     int64
}

// NewUsers makes users of a list, which never change; a name may stand once.
func NewUsers(list []User) (*Users, error) {
	t, err := newUserTable(list)
	if err != nil {
		return nil, err
	}
	return newUsers(t, UsersStatus{Loads: 1}), nil
}

// LoadUsers reads a users file once. It must be readable by its owner only.
func LoadUsers(path string) (*Users, error) {
	t, err := readUsers(path)
	if err != nil {
		return nil, err
	}
	return newUsers(t, UsersStatus{Loads: 1}), nil
}

// OpenUsers reads a users file, for Watch to look at later. Unlike then, a file that is wrong or missing is an error.
func OpenUsers(path string, now time.Time) (*Users, error) {
	at, err := stampOf(path)
	if err != nil {
		return nil, fmt.Errorf("users file: %w", err)
	}
	t, err := readUsers(path)
	if err != nil {
		return nil, err
	}
	u := newUsers(t, UsersStatus{File: path, LoadedAt: now, Loads: 1})
	u.file, u.taken, u.seen = path, at, at
	return u, nil
}

func newUsers(t *userTable, s UsersStatus) *Users {
	u := &Users{status: s, brokers: map[*Broker]bool{}}
	u.table.Store(t)
	return u
}

// Check returns the identity of a user who knows the password, else ErrBadPassword. It takes as long for an unknown user.
func (u *Users) Check(name string, password []byte) (topics.Identity, error) {
	user, err := u.table.Load().check(name, password)
	if err != nil {
		return topics.Identity{}, err
	}
	return user.identity(), nil
}

// Role is a user's role as the users in force say; false: there is no such user.
func (u *Users) Role(name string) (topics.Role, bool) {
	user, ok := u.table.Load().byName[name]
	return user.Role, ok
}

// List returns the users in force by name, without their hashes. The caller owns it.
func (u *Users) List() []User {
	list := slices.Collect(maps.Values(u.table.Load().byName))
	slices.SortFunc(list, func(a, b User) int { return strings.Compare(a.Name, b.Name) })
	for i := range list {
		list[i].Hash, list[i].Grants = "", slices.Clone(list[i].Grants)
	}
	return list
}

// Status says what is in force, and what is wrong with the file.
func (u *Users) Status() UsersStatus {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.status
}

// Poll looks at the file once, and takes a changed one that was the same at the look before: a file that is being written
// is left alone. changed says that others are in force now; the sessions of those who are gone or changed have been ended. The
// error is that of a file that is wrong or missing, once each; the users stay as they were, and Status keeps the error.
func (u *Users) Poll(now time.Time) (changed bool, err error) { return u.look(now, false) }

// Reload is a Poll that does not wait for a second look, and reads the file even if it seems to be as it was.
func (u *Users) Reload(now time.Time) (changed bool, err error) { return u.look(now, true) }

func (u *Users) look(now time.Time, atOnce bool) (bool, error) {
	u.mu.Lock()
	if u.file == "" {
		u.mu.Unlock()
		return false, nil
	}
	old := u.table.Load()
	changed, err := u.take(now, atOnce)
	brokers := slices.Collect(maps.Keys(u.brokers))
	u.mu.Unlock()
	if changed {
		for _, b := range brokers {
			b.usersChanged(old)
		}
	}
	return changed, err
}

// take reads the file if it is time to. The lock is held.
func (u *Users) take(now time.Time, atOnce bool) (changed bool, err error) {
	at, err := stampOf(u.file)
	if err != nil {
		u.seen = stamp{}
		return false, u.wrong(fmt.Errorf("users file: %w", err))
	}
	before := u.seen
	u.seen = at
	switch {
	case atOnce:
	case !at.equal(before):
		return false, nil // it is new, or back: look again before reading
	case at.equal(u.taken):
		return false, u.wrong(u.bad) // it was read, or it was away and is as it was
	}
	t, err := readUsers(u.file)
	if !at.still(u.file) {
		return false, nil // it changed while it was read: the next look sees it
	}
	if err == nil && at.size == 0 { // right at a start, and hardly meant here: it would lock everybody out
		err = fmt.Errorf("users file %s: is empty; for no users at all write a line that begins with #", u.file)
	}
	u.taken, u.bad = at, err
	if err != nil {
		return false, u.wrong(err)
	}
	u.status.Err, u.said = nil, nil
	if maps.EqualFunc(t.byName, u.table.Load().byName, User.same) {
		return false, nil
	}
	u.table.Store(t)
	u.status.LoadedAt = now
	u.status.Loads++
	return true, nil
}

// wrong keeps what is wrong with the file as it is now, nil for nothing, and returns it if it was not said before.
func (u *Users) wrong(err error) error {
	u.status.Err = err
	before := u.said
	u.said = err
	if err == nil || before != nil && before.Error() == err.Error() {
		return nil
	}
	u.status.Failures++
	return fmt.Errorf("%w; the users stay as they were", err)
}

// Watch polls every interval, and reloads at each value of hangup, which may be nil, until ctx ends. It logs what happens.
// now gives the time of a load.
func (u *Users) Watch(ctx context.Context, every time.Duration, hangup <-chan os.Signal, now func() time.Time, logger *slog.Logger) {
	if u.file == "" {
		<-ctx.Done()
		return
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		look := u.Poll
		select {
		case <-ctx.Done():
			return
		case <-hangup:
			look = u.Reload
		case <-ticker.C:
		}
		changed, err := look(now())
		switch {
		case err != nil:
			logger.Error("the users were not loaded", "error", err)
		case changed:
			logger.Info("new users are in force", "file", u.file, "users", len(u.table.Load().byName))
		}
	}
}

// join lets a broker know of changes until leave.
func (u *Users) join(b *Broker) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.brokers[b] = true
}

func (u *Users) leave(b *Broker) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.brokers, b)
}

func (s stamp) equal(o stamp) bool { return s.size == o.size && s.modified.Equal(o.modified) }

// still reports whether a file is as it was.
func (s stamp) still(file string) bool {
	now, err := stampOf(file)
	return err == nil && s.equal(now)
}

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
