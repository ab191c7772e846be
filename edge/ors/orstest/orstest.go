// Package orstest issues tickets for tests, in the place of the fleet.
package orstest

import (
	"crypto/rand"
	"testing"
	"time"

	"github.com/farebeat/farebeat/edge/ors"
	"github.com/farebeat/farebeat/schemas"
)

// Credentials are for a machine that has a key. counter is the ticket's; it is valid for a day from now.
func Credentials(t testing.TB, key []byte, machine string, counter uint64) ors.Credentials {
	t.Helper()
	now := time.Now()
	return Issue(t, key, schemas.TicketGrant{Machine: machine, Vehicle: "bus-1", Reason: "test", Counter: counter, IssuedAt: now, ExpiresAt: now.Add(24 * time.Hour)})
}

// Issue makes credentials of a grant, with a secret of its own.
func Issue(t testing.TB, key []byte, g schemas.TicketGrant) ors.Credentials {
	t.Helper()
	if _, err := rand.Read(g.Secret[:]); err != nil {
		t.Fatal(err)
	}
	sealed, err := schemas.SealTicket(key, rand.Reader, g)
	if err != nil {
		t.Fatal(err)
	}
	return ors.Credentials{Machine: g.Machine, Sealed: sealed, Secret: g.Secret}
}
