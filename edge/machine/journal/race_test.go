//go:build race

package journal

// race says whether the race detector, which makes all ten times as slow, watches.
const race = true
