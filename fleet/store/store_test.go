package store_test

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/farebeat/farebeat/fleet/store"
)

// open opens the store in dir and closes it with the test.
func open(tb testing.TB, dir string) *store.Store {
	tb.Helper()
	s, err := store.Open(context.Background(), filepath.Join(dir, "fleet.db"), store.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
	})
	return s
}
