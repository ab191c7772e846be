//go:build !race

package broker_test

// underRace says that the race detector slows the tests down.
const underRace = false
