//go:build !race

package outbox_test

// underRace says that the race detector slows the tests down.
const underRace = false
