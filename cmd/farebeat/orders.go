package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/farebeat/farebeat/fleet/orders"
)

// leaveOrder has the service that runs take an order, and waits until it did.
func leaveOrder(ctx context.Context, dir string, o orders.Order, timeout time.Duration) error {
	path, err := orders.Leave(dir, o)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	poll := time.NewTicker(50 * time.Millisecond)
	defer poll.Stop()
	for {
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			if _, err := os.Stat(orders.Refused(path)); err == nil {
				return fmt.Errorf("the service refused the order, see its log: %s", orders.Refused(path))
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("another process writes the store, and did not take the order within %s; it will when it can, or when farebeat serve "+
				"starts next (the order is in %s)", timeout, path)
		case <-poll.C:
		}
	}
}
