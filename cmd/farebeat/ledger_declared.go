package main

import (
	"context"

	"github.com/farebeat/farebeat/fleet"
	"github.com/farebeat/farebeat/fleet/ledger"
	"github.com/farebeat/farebeat/fleet/store"
)

// declarations are what machines said last of their journals, as the store has it.
func declarations(ctx context.Context, s *store.Store) (ledger.Declarations, error) {
	roster, err := s.Roster(ctx)
	if err != nil {
		return nil, err
	}
	open, err := s.Faults().Open(ctx)
	if err != nil {
		return nil, err
	}
	return fleet.Declared(roster, open), nil
}
