// Package rulestest runs tests that are written beside a rules file: series of numbers in,
// faults out, at a minute. They are evaluated on a clock of their own by the same rules.Set and
// faults.Book as a live fleet, every Tick; a series' values hold in between.
//
// Parsing and running are pure: whoever calls reads the files.
package rulestest
