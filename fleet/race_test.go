//go:build race

package fleet

// underRace says that the race detector slows the tests down.
const underRace = true
