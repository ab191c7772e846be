package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/farebeat/farebeat/configs"
	"github.com/farebeat/farebeat/fleet/orders"
	"github.com/farebeat/farebeat/fleet/store"
)

// givingFlags are those of every command that orders something of the fleet.
type givingFlags struct {
	store   storeFlags
	by      string
	timeout time.Duration
}

func (f *givingFlags) register(cmd *cobra.Command) {
	f.store.registerData(cmd)
	cmd.Flags().StringVar(&f.by, "by", "", "who orders it; the user of the configuration, else of the system, without it")
	cmd.Flags().DurationVar(&f.timeout, "timeout", time.Minute, "how long to wait for a farebeat serve that runs")
}

// who gives the order, and when: to the millisecond, as it is kept.
func (f *givingFlags) who(c configs.Client) (by string, at time.Time) {
	if by = f.by; by == "" {
		by = whoAmI(c)
	}
	return by, milli(time.Now())
}

// storeIsThere refuses a data folder in which no service ever was.
func storeIsThere(c configs.Config) error {
	if _, err := os.Stat(storePath(c.Data)); err != nil {
		return usageError(fmt.Errorf("%w (--data names the data folder)", err))
	}
	return nil
}

// giveOrder gives an order to the store with do, or to the service that writes that, by its folder, and tells which. Where another command has the
// store for a moment it waits for that.
func giveOrder(ctx context.Context, c configs.Config, dir string, o orders.Order, timeout time.Duration, do func(*store.Store) error) (running bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	left := ""
	for {
		s, err := store.Open(ctx, storePath(c.Data), store.Options{})
		if err == nil {
			err = errors.Join(do(s), s.Close())
			if err == nil && left != "" {
				if err = os.Remove(left); errors.Is(err, fs.ErrNotExist) {
					err = nil
				}
			}
			return false, err
		}
		if !errors.Is(err, store.ErrInUse) {
			return false, err
		}
		if left == "" {
			if left, err = orders.Leave(dir, o); err != nil {
				return true, err
			}
		}
		if done, err := awaitOrder(ctx, left, timeout, storeAgain); done || err != nil {
			return true, err
		}
	}
}

// storeAgain is between two attempts to open a store that another process has.
const storeAgain = 250 * time.Millisecond

// leaveOrder has the service that runs take an order, and waits until it did.
func leaveOrder(ctx context.Context, dir string, o orders.Order, timeout time.Duration) error {
	path, err := orders.Leave(dir, o)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	_, err = awaitOrder(ctx, path, timeout, timeout)
	return err
}

// awaitOrder waits until the service took an order, or for as long as patience allows, and reports whether it did. The end of ctx is an error.
func awaitOrder(ctx context.Context, path string, timeout, patience time.Duration) (bool, error) {
	poll := time.NewTicker(50 * time.Millisecond)
	defer poll.Stop()
	enough := time.NewTimer(patience)
	defer enough.Stop()
	for {
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			if _, err := os.Stat(orders.Refused(path)); err == nil {
				return true, fmt.Errorf("the service refused the order, see its log: %s", orders.Refused(path))
			}
			return true, nil
		}
		select {
		case <-ctx.Done():
			return false, fmt.Errorf("another process writes the store, and did not take the order within %s; it will when it can, or when farebeat serve "+
				"starts next (the order is in %s)", timeout, path)
		case <-enough.C:
			if patience < timeout {
				return false, nil
			}
		case <-poll.C:
		}
	}
}
