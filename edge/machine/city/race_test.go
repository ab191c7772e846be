//go:build race

package city_test

// crowd is how many machines the scale test runs: fewer under the race detector.
const crowd = 10_000
