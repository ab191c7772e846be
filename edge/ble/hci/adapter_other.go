//go:build !linux

package hci

import (
	"context"
	"fmt"
)

// Open is for Linux only: other systems give programs no HCI.
func Open(_ context.Context, adapter string) (*Host, error) {
	return nil, fmt.Errorf("open Bluetooth adapter %s: %w: use --radio socket:DIR here", adapter, ErrUnsupported)
}
