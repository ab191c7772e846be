//go:build !unix

package durable

// giveAway has nothing to do where a file's owner is not a number.
func giveAway(string, string) error { return nil }
