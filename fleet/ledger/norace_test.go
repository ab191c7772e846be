//go:build !race

package ledger_test

// underRace says that the race detector slows the tests down.
const underRace = false
