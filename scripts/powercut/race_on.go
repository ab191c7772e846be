//go:build race

package powercut

// race says that the race detector watches.
const race = true
