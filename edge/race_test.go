//go:build race

package edge

// underRace says that the race detector slows the tests down.
const underRace = true
