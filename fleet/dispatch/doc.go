// Package dispatch says who is told what: which retained topics should stand for the
// faults that have not ended, on which vehicle's gateway, and which events leave.
//
// The retained topic is desired state, not a message: as long as a machine's fault
// stands on a vehicle's topic its gateway collects, and one that was off for two days
// acts on what stands there when it comes back. So Want works out all that should
// stand, Want.Diff compares it with what does stand, and publishing the difference again is
// harmless. Everything here is pure.
package dispatch
