package main

import (
	"context"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/farebeat/farebeat/broker"
	"github.com/farebeat/farebeat/fleet"
	"github.com/farebeat/farebeat/fleet/console/access"
	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/topics"
)

// usersEvery is how often a users file is looked at. One that changed is read after two looks.
const usersEvery = 2 * time.Second

// userFiles are who may connect to the broker and who may sign in to the console. They may be of one file.
type userFiles struct {
	broker  *broker.Users // nil: nobody
	console *broker.Users // likewise
}

// openUsers reads the users files of a configuration.
func openUsers(o serverOptions) (u userFiles, err error) {
	c := o.config
	if c.Broker.UsersFile != "" {
		if u.broker, err = broker.OpenUsers(c.Broker.UsersFile, o.now()); err != nil {
			return u, usageError(err)
		}
	}
	if u.console = u.broker; c.Console.UsersFile != "" && c.Console.UsersFile != c.Broker.UsersFile {
		if u.console, err = broker.OpenUsers(c.Console.UsersFile, o.now()); err != nil {
			return u, usageError(err)
		}
	}
	return u, nil
}

// each calls f for each file once.
func (u userFiles) each(f func(name string, users *broker.Users)) {
	if u.broker != nil {
		f("users", u.broker)
	}
	if u.console != nil && u.console != u.broker {
		f("console users", u.console)
	}
}

// watch takes changed files until ctx ends. A hangup, of which nil is never, is for all of them.
func (u userFiles) watch(ctx context.Context, hangup <-chan os.Signal, now func() time.Time, logger *slog.Logger) {
	var group sync.WaitGroup
	var again []chan os.Signal
	u.each(func(_ string, users *broker.Users) {
		mine := make(chan os.Signal, 1)
		again = append(again, mine)
		group.Go(func() { users.Watch(ctx, usersEvery, mine, now, logger) })
	})
	defer group.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case s := <-hangup:
			for _, c := range again {
				select {
				case c <- s:
				default: // it is about to read the file
				}
			}
		}
	}
}

// parts are what is wrong with the files.
func (u userFiles) parts() []fleet.Part {
	var parts []fleet.Part
	u.each(func(name string, users *broker.Users) {
		parts = append(parts, fleet.Part{Name: name, Kind: faults.UsersFile, Failure: func() error { return users.Status().Err }})
	})
	return parts
}

// people are the users who may sign in to the console: viewers, operators and admins. Machines and others have no business there.
type people struct{ users *broker.Users }

// Check implements access.Users.
func (p people) Check(name string, password []byte) (access.Role, error) {
	_, err := p.users.Check(name, password) // first, so that it takes as long for everybody
	role, ok := p.Role(name)
	if err != nil || !ok {
		return "", access.ErrBadPassword
	}
	return role, nil
}

// Role implements access.Users.
func (p people) Role(name string) (access.Role, bool) {
	role, ok := p.users.Role(name)
	if !ok {
		return "", false
	}
	switch role {
	case topics.RoleViewer:
		return access.Viewer, true
	case topics.RoleOperator:
		return access.Operator, true
	case topics.RoleAdmin:
		return access.Admin, true
	}
	return "", false
}
